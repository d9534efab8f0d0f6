//! Key exchange for the simulator: a function of the seed, and cheap.
//!
//! The bytes of a connection follow from the keys that its ends draw. With keys of the operating system's randomness, a
//! run would not be a function of its seed: what a peer makes of a packet that it cannot decrypt depends on its bits. So
//! under the simulator all randomness of TLS comes from here, and the exchange is Diffie and Hellman's over a prime of
//! 61 bits, which keeps no secret. Its group has a private number that no real node offers or accepts, so the two cannot
//! connect to each other. Certificates are the same as everywhere.

use std::cell::RefCell;

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret, SupportedKxGroup,
};
use rustls::{Error, NamedGroup};

thread_local! {
    /// A simulation runs on one thread, and so does all that draws from this.
    static RANDOM: RefCell<StdRng> = RefCell::new(StdRng::seed_from_u64(0));
}

/// Begins the randomness of TLS anew, for all simulated nodes of this thread: a run that is to be repeated does so first.
pub fn seed_keys(seed: u64) {
    RANDOM.set(StdRng::seed_from_u64(seed));
}

/// The usual algorithms, with keys that follow from the seed.
pub(crate) fn provider() -> CryptoProvider {
    CryptoProvider { kx_groups: vec![&Exchange], secure_random: &Seeded, ..rustls::crypto::ring::default_provider() }
}

#[derive(Debug)]
struct Seeded;

impl SecureRandom for Seeded {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        RANDOM.with_borrow_mut(|random| random.fill_bytes(bytes));
        Ok(())
    }
}

/// A Mersenne prime.
const PRIME: u64 = (1 << 61) - 1;
const GENERATOR: u64 = 37;
/// Of those that RFC 8446 leaves to private use.
const GROUP: NamedGroup = NamedGroup::Unknown(0xfe37);

#[derive(Debug)]
struct Exchange;

impl SupportedKxGroup for Exchange {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let secret = RANDOM.with_borrow_mut(|random| random.random_range(2..PRIME - 1));
        Ok(Box::new(Half { secret, public: power(GENERATOR, secret).to_be_bytes() }))
    }

    fn name(&self) -> NamedGroup {
        GROUP
    }
}

struct Half {
    secret: u64,
    public: [u8; 8],
}

impl ActiveKeyExchange for Half {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let peer = peer.try_into().map(u64::from_be_bytes).ok().filter(|peer| (2..PRIME).contains(peer));
        let peer = peer.ok_or_else(|| Error::General("not a key of the simulator".to_owned()))?;
        Ok(SharedSecret::from(&power(peer, self.secret).to_be_bytes()[..]))
    }

    fn pub_key(&self) -> &[u8] {
        &self.public
    }

    fn group(&self) -> NamedGroup {
        GROUP
    }
}

/// `base` to the `exponent`, modulo [`PRIME`].
fn power(base: u64, mut exponent: u64) -> u64 {
    let times = |a: u64, b: u64| (u128::from(a) * u128::from(b) % u128::from(PRIME)) as u64;
    let (mut square, mut result) = (base, 1);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = times(result, square);
        }
        square = times(square, square);
        exponent >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_find_the_same_secret_and_a_seed_repeats_it() {
        let exchange = || {
            seed_keys(7);
            let (here, there) = (Exchange.start().expect("a key"), Exchange.start().expect("a key"));
            let (to_there, to_here) = (here.pub_key().to_vec(), there.pub_key().to_vec());
            let ours = here.complete(&to_here).expect("a secret").secret_bytes().to_vec();
            let theirs = there.complete(&to_there).expect("a secret").secret_bytes().to_vec();
            assert_eq!(ours, theirs);
            ours
        };
        assert_eq!(exchange(), exchange());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for bad in [&[][..], &[0; 8], &[1; 7], &[0xff; 8]] {
            assert!(Exchange.start().expect("a key").complete(bad).is_err(), "{bad:?}");
        }
    }
}
