//! What strangers may cost: how many handshakes are under way, and what each of them holds.
//!
//! Whoever has no certificate gets as far as the middle of a TLS handshake. What it can have this node keep there is counted
//! in [`STRANGER_BYTES`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::CONNECTION_WINDOW;
use super::tasks::lock;
use crate::hello::MAX_HELLO_BYTES;
use crate::sync::Mutex;

/// How many handshakes may be under way from addresses that nobody has proved to be their own. Whoever comes beyond that
/// is sent a retry first (RFC 9000, 8.1.2), which costs it a round trip and this node nothing that it keeps. QUIC sends
/// at most three times what such an address has sent (RFC 9000, 8.1), and quinn sees to it.
pub(crate) const UNVALIDATED: usize = 32;
/// How many handshakes may be under way in all. A handshake takes some milliseconds, so that is thousands in a second.
pub(crate) const MOST: usize = 52;
/// How many of them may come from one address, of those who have shown that it is theirs: one stranger cannot take the
/// places of all others. Of IPv6 the first half counts, because whoever has one address has all that begin like it.
pub(crate) const OF_ONE_ADDRESS: usize = 16;

/// How long QUIC keeps a connection after its handshake has failed: three times what it takes for lost until it has
/// measured a round trip (RFC 9000, 10.2). The place is taken until then, or failing often would cost more than waiting.
pub(crate) const DRAINS: Duration = Duration::from_millis(300);

/// How many first packets may wait until they are looked at, which happens as soon as the transport's task runs.
pub(crate) const MAX_INCOMING: usize = 64;
/// What may come after a first packet before it was looked at, per attempt and in all: our first flights are one packet, and
/// what is dropped is sent again.
pub(crate) const INCOMING_BYTES: u64 = 4 << 10;
pub(crate) const INCOMING_BYTES_TOTAL: u64 = 128 << 10;
/// What a first packet may hold: QUIC is told that we take datagrams of up to so many bytes (quinn's default is 1,472).
const DATAGRAM_BYTES: usize = 1472;

/// How far ahead of what TLS has read the bytes of a handshake may arrive: our own flights have some 2 KiB.
const CRYPTO_BYTES: usize = 8 << 10;
/// What quinn may keep of packets beyond the bytes of the handshake that were in them (`Assembler::insert`). The socket
/// gives each of them a buffer of its own.
const CRYPTO_SLACK_BYTES: usize = 32 << 10;
/// The longest message of a handshake, which rustls collects before it looks at it (`MAX_HANDSHAKE_SIZE`).
const TLS_MESSAGE_BYTES: usize = 64 << 10;
/// What a connection is otherwise, keys, timers, packets to be sent again, and the task that serves it: measured as 45 KiB
/// with three lanes open, none of which a stranger gets.
const CONNECTION_BYTES: usize = 45 << 10;
const HANDSHAKE_BYTES: usize = CRYPTO_BYTES + CRYPTO_SLACK_BYTES + TLS_MESSAGE_BYTES + CONNECTION_BYTES;

/// What all strangers together can have this node keep at most.
pub(crate) const STRANGER_BYTES: usize =
    MOST * HANDSHAKE_BYTES + MAX_INCOMING * DATAGRAM_BYTES + INCOMING_BYTES_TOTAL as usize;
const _: () = assert!(STRANGER_BYTES <= 8 << 20 && UNVALIDATED + OF_ONE_ADDRESS < MOST);

/// What a connection may send before its hello was taken, all its streams together: the hello, the byte in front of it and
/// its length. Who gets there holds the secret, and may yet belong elsewhere.
const HELLO_WINDOW: u32 = MAX_HELLO_BYTES as u32 + 1 + 4;

/// Limits what a connection may send until [`trust`].
pub(crate) fn limit_strangers(quic: &mut quinn::TransportConfig) {
    quic.crypto_buffer_size(CRYPTO_BYTES).receive_window(HELLO_WINDOW.into());
}

/// Gives a connection that was welcomed what members may send.
pub(crate) fn trust(connection: &quinn::Connection) {
    connection.set_receive_window(CONNECTION_WINDOW.into());
}

/// Who an address belongs to.
fn holder(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V6(addr) => IpAddr::V6((u128::from(addr) >> 64 << 64).into()),
        v4 => v4,
    }
}

/// Who has come to shake hands, and may.
#[derive(Clone)]
pub(crate) struct Places(Arc<Mutex<Taken>>);

struct Taken {
    all: usize,
    unvalidated: usize,
    most: usize,
    by_address: BTreeMap<IpAddr, usize>,
}

/// What becomes of a dialler.
pub(crate) enum Answer {
    /// It has a place until this is dropped.
    Place(Place),
    /// It is to show that its address is its own.
    Retry,
    /// There is no room.
    Full,
}

/// A place for one handshake.
pub(crate) struct Place {
    places: Places,
    /// The address, if it was shown to be the dialler's.
    of: Option<IpAddr>,
}

impl Places {
    pub(crate) fn new(most: usize) -> Self {
        Self(Arc::new(Mutex::new(Taken { all: 0, unvalidated: 0, most, by_address: BTreeMap::new() })))
    }

    /// Asks for a place for a dialler, who has shown or not that the address is its own.
    pub(crate) fn ask(&self, from: SocketAddr, is_validated: bool) -> Answer {
        let mut taken = lock(&self.0);
        if !is_validated && taken.unvalidated >= UNVALIDATED {
            return Answer::Retry;
        }
        // An address that was not shown may be another's, who must not be kept out for it.
        let of = is_validated.then(|| holder(from.ip()));
        let of_address = of.and_then(|of| taken.by_address.get(&of).copied()).unwrap_or(0);
        if taken.all >= taken.most || of_address >= OF_ONE_ADDRESS {
            return Answer::Full;
        }
        taken.all += 1;
        match of {
            Some(of) => drop(taken.by_address.insert(of, of_address + 1)),
            None => taken.unvalidated += 1,
        }
        Answer::Place(Place { places: self.clone(), of })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.places.0);
        taken.all -= 1;
        let Some(of) = self.of else {
            taken.unvalidated -= 1;
            return;
        };
        match taken.by_address.get_mut(&of) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.by_address.remove(&of)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(address: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, (address / 256) as u8, address as u8], 9))
    }

    #[test]
    fn those_who_show_their_address_get_in_whatever_the_others_do() {
        let places = Places::new(MOST);
        let mut inside = Vec::new();
        for stranger in 0..1_000 {
            match places.ask(from(stranger), false) {
                Answer::Place(place) => inside.push(place),
                Answer::Retry => {}
                Answer::Full => panic!("strangers took every place"),
            }
        }
        assert_eq!(inside.len(), UNVALIDATED);
        // One stranger shows an address, and takes what that gives.
        let own: Vec<_> = (0..100).filter_map(|_| place(places.ask(from(2_000), true))).collect();
        assert_eq!(own.len(), OF_ONE_ADDRESS);
        let other = place(places.ask(from(3_000), true)).expect("there is room for others");
        drop((own, other, inside));
        assert!(lock(&places.0).by_address.is_empty() && lock(&places.0).all == 0);
    }

    #[test]
    fn a_network_of_one_holder_is_one() {
        let (places, mut inside) = (Places::new(MOST), Vec::new());
        let of = |network: u16, host: u16| SocketAddr::from(([0xfd00, 0, 0, network, 0, 0, 0, host], 9));
        inside.extend((0..100).filter_map(|host| place(places.ask(of(1, host), true))));
        assert_eq!(inside.len(), OF_ONE_ADDRESS);
        assert!(place(places.ask(of(2, 1), true)).is_some());
    }

    fn place(answer: Answer) -> Option<Place> {
        match answer {
            Answer::Place(place) => Some(place),
            Answer::Retry | Answer::Full => None,
        }
    }
}
