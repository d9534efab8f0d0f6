//! Forged and replayed datagrams in great numbers. `POLITY_FORGED=1000000` says how many of each.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

use super::Secret;
use super::cookie::{Reception, Taken};
use super::envelope::{DropReason, KEY_AT, Opener, Sealer};
use super::ring::Ring;
use crate::formation::ClusterId;
use crate::identity::Boot;

/// A second or two without optimisation.
const FORGED: u64 = 50_000;

const NOW: Duration = Duration::from_secs(1);

fn count() -> u64 {
    std::env::var("POLITY_FORGED").ok().and_then(|text| text.parse().ok()).unwrap_or(FORGED)
}

fn boot(nonce: u128) -> Boot {
    Boot { generation: 1, nonce }
}

fn ring(byte: u8) -> Ring {
    Ring::new(Secret::new([byte; 32]).expect("long enough"), []).expect("one key")
}

fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Two nodes that know each other, and what was sent between them and taken.
struct Victim {
    reception: Reception,
    sealer: Sealer,
    member: Sealer,
    taken: Vec<Vec<u8>>,
}

impl Victim {
    fn new(messages: usize) -> Self {
        let mut reception = Reception::new(Opener::new(&ring(1), "shop", boot(2)), StdRng::seed_from_u64(2));
        let mut theirs = Reception::new(Opener::new(&ring(1), "shop", boot(1)), StdRng::seed_from_u64(1));
        let (sealer, member) = (Sealer::new(&ring(1), "shop", boot(2)), Sealer::new(&ring(1), "shop", boot(1)));
        let mut taken = vec![member.seal_gossip(boot(2), b"ping")];
        let Ok(Taken::Met(challenge)) = reception.take(NOW, addr(1), &mut taken[0].clone(), &sealer) else {
            panic!("a challenge")
        };
        let mut challenge = challenge.reply.expect("a challenge");
        let Ok(Taken::Met(echo)) = theirs.take(NOW, addr(2), &mut challenge, &member) else { panic!("an echo") };
        taken.push(echo.reply.expect("an echo"));
        let Ok(Taken::Met(met)) = reception.take(NOW, addr(1), &mut taken[1].clone(), &sealer) else { panic!("known") };
        assert_eq!(met.released.len(), 1);
        for at in 0..messages {
            let datagram = member.seal_gossip(boot(2), &vec![at as u8; 30 + at % 900]);
            assert!(matches!(reception.take(NOW, addr(1), &mut datagram.clone(), &sealer), Ok(Taken::Gossip(..))));
            taken.push(datagram);
        }
        Self { reception, sealer, member, taken }
    }

    /// Why a datagram was dropped.
    ///
    /// # Panics
    /// If it was not.
    fn drops(&mut self, mut datagram: Vec<u8>) -> DropReason {
        match self.reception.take(NOW, addr(9), &mut datagram, &self.sealer) {
            // There is no answer beside an error.
            Err(reason) => reason,
            Ok(taken) => panic!("{taken:?}"),
        }
    }

    fn still_hears(&mut self) {
        let mut next = self.member.seal_gossip(boot(2), b"next");
        assert!(matches!(self.reception.take(NOW, addr(1), &mut next, &self.sealer), Ok(Taken::Gossip(..))));
    }
}

#[test]
fn no_forged_datagram_is_taken_or_answered() {
    let mut victim = Victim::new(2_000);
    let mut rng = StdRng::seed_from_u64(3);
    let mut chartered = Sealer::new(&ring(1), "shop", boot(3));
    chartered.charter(ClusterId::new(9));
    let strangers = [
        (Sealer::new(&ring(2), "shop", boot(3)), boot(2)),
        (Sealer::new(&ring(2), "shop", boot(1)), boot(2)),
        (Sealer::new(&ring(1), "shop", boot(3)), boot(4)),
        (Sealer::new(&ring(1), "shoq", boot(3)), boot(2)),
        (Sealer::new(&ring(1), "shoq", boot(1)), boot(2)),
        (chartered, boot(2)),
    ];
    let mut why = BTreeMap::<DropReason, u64>::new();
    for _ in 0..count() {
        let datagram = match rng.random_range(0..5) {
            0 => {
                let mut bytes = vec![0; rng.random_range(0..1_400)];
                rng.fill_bytes(&mut bytes);
                bytes
            }
            1 => {
                // As random as it may be behind a header that is in order.
                let mut bytes = vec![0; rng.random_range(60..1_200)];
                rng.fill_bytes(&mut bytes);
                let header = if rng.random() { KEY_AT.end + 24 } else { KEY_AT.end };
                bytes[..header].copy_from_slice(&victim.taken[0][..header]);
                bytes
            }
            2 => {
                // A new one, with a bit changed.
                let mut bytes = victim.member.seal_gossip(boot(2), b"never sent");
                let bit = rng.random_range(0..bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
                bytes
            }
            3 => {
                let mut bytes = victim.member.seal_gossip(boot(2), &[5; 200]);
                bytes.truncate(rng.random_range(0..bytes.len()));
                bytes
            }
            _ => {
                let (sealer, to) = &strangers[rng.random_range(0..strangers.len())];
                let mut bytes = sealer.seal_gossip(*to, b"let me in");
                if rng.random() {
                    // Whatever it was sealed under, it says the key of the cluster.
                    bytes[KEY_AT].copy_from_slice(&victim.taken[0][KEY_AT]);
                }
                bytes
            }
        };
        *why.entry(victim.drops(datagram)).or_default() += 1;
    }
    println!("{} forged: {why:?}", count());
    assert!(why[&DropReason::Unauthentic] > count() / 2, "{why:?}");
    assert!(!why.contains_key(&DropReason::Malformed) && !why.contains_key(&DropReason::Unproven), "{why:?}");
    victim.still_hears();
}

#[test]
fn no_replayed_datagram_is_taken_or_answered() {
    let mut victim = Victim::new(5_000);
    let mut rng = StdRng::seed_from_u64(4);
    for _ in 0..count() {
        let replay = victim.taken[rng.random_range(0..victim.taken.len())].clone();
        assert_eq!(victim.drops(replay), DropReason::Replayed);
    }
    victim.still_hears();
}
