//! What was sent to addresses that nobody has proved to be their own: three times what came from there at most. Of whom
//! there is a connection, the address is proved: a stranger that writes it on its packets costs that connection nothing.
//!
//! QUIC demands that (RFC 9000, 8.1). quinn sends one packet more if any allowance is left, so it is counted here, where
//! the packets leave; what would be too much is dropped as if it were lost.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::tasks::lock;
use crate::sync::Mutex;

/// How many times what came from an address may be sent to it.
const FACTOR: u64 = 3;
/// What has come at least from whoever begins a handshake: QUIC ignores shorter first packets.
const FIRST_BYTES: u64 = 1200;

/// The accounts of all addresses that are watched: at most one for each unvalidated handshake. An address counts in its
/// canonical form, whatever kind of socket it is used on.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Books>);

#[derive(Default)]
struct Books {
    /// How many accounts there are: in most moments none, and then a packet costs this look.
    open: AtomicUsize,
    accounts: Mutex<BTreeMap<SocketAddr, Account>>,
    /// How many connections there are to an address.
    proved: Mutex<BTreeMap<SocketAddr, usize>>,
}

#[derive(Default)]
struct Account {
    watches: usize,
    received: u64,
    sent: u64,
}

/// Says that there is a connection to an address, until it is dropped.
pub(crate) struct Proof {
    ledger: Ledger,
    addr: SocketAddr,
}

/// Has an address watched until it is dropped.
pub(crate) struct Watch {
    ledger: Ledger,
    addr: SocketAddr,
}

impl Ledger {
    /// Watches an address from which a first packet has come.
    pub(crate) fn watch(&self, addr: SocketAddr) -> Watch {
        let addr = canonical(addr);
        let mut accounts = lock(&self.0.accounts);
        // What came later was counted as it came.
        let account = accounts.entry(addr).or_insert(Account { watches: 0, received: FIRST_BYTES, sent: 0 });
        account.watches += 1;
        self.0.open.store(accounts.len(), Ordering::Release);
        Watch { ledger: self.clone(), addr }
    }

    /// There is a connection to this address: whoever is there has answered.
    pub(crate) fn prove(&self, addr: SocketAddr) -> Proof {
        let addr = canonical(addr);
        *lock(&self.0.proved).entry(addr).or_default() += 1;
        Proof { ledger: self.clone(), addr }
    }

    /// Something has come from an address.
    pub(crate) fn received(&self, addr: SocketAddr, bytes: usize) {
        if self.0.open.load(Ordering::Acquire) > 0
            && let Some(account) = lock(&self.0.accounts).get_mut(&canonical(addr))
        {
            account.received += bytes as u64;
        }
    }

    /// Whether so many bytes may be sent to an address, and if so, that they are.
    pub(crate) fn may_send(&self, addr: SocketAddr, bytes: usize) -> bool {
        if self.0.open.load(Ordering::Acquire) == 0 {
            return true;
        }
        let addr = canonical(addr);
        let mut accounts = lock(&self.0.accounts);
        let Some(account) = accounts.get_mut(&addr) else { return true };
        if lock(&self.0.proved).contains_key(&addr) {
            return true;
        }
        let sent = account.sent + bytes as u64;
        let is_allowed = sent <= account.received * FACTOR;
        if is_allowed {
            account.sent = sent;
        }
        is_allowed
    }
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

impl Drop for Proof {
    fn drop(&mut self) {
        let mut proved = lock(&self.ledger.0.proved);
        match proved.get_mut(&self.addr) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(proved.remove(&self.addr)),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut accounts = lock(&self.ledger.0.accounts);
        if let Some(account) = accounts.get_mut(&self.addr) {
            account.watches -= 1;
            if account.watches == 0 {
                accounts.remove(&self.addr);
            }
        }
        self.ledger.0.open.store(accounts.len(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_times_what_came_may_go_while_it_is_watched() {
        let (ledger, addr) = (Ledger::default(), SocketAddr::from(([127, 0, 0, 1], 9)));
        let other = SocketAddr::from(([127, 0, 0, 1], 10));
        let (first, second) = (ledger.watch(addr), ledger.watch(addr));
        assert!(ledger.may_send(addr, 3_600) && !ledger.may_send(addr, 1) && ledger.may_send(other, 1 << 20));
        ledger.received(addr, 10);
        assert!(!ledger.may_send(addr, 31) && ledger.may_send(addr, 30) && !ledger.may_send(addr, 1));
        drop(first);
        assert!(!ledger.may_send(addr, 1));
        drop(second);
        assert!(ledger.may_send(addr, 1 << 20) && lock(&ledger.0.accounts).is_empty());
    }

    #[test]
    fn a_connection_is_not_limited_by_who_pretends_to_be_its_peer() {
        let (ledger, addr) = (Ledger::default(), SocketAddr::from(([127, 0, 0, 1], 9)));
        let mapped = SocketAddr::new("::ffff:127.0.0.1".parse().expect("an address"), 9);
        let (one, other) = (ledger.prove(addr), ledger.prove(mapped));
        let _forged = ledger.watch(mapped);
        drop(one);
        assert!(ledger.may_send(addr, 1 << 20) && ledger.may_send(mapped, 1 << 20));
        drop(other);
        assert!(!ledger.may_send(addr, 1 << 20) && lock(&ledger.0.proved).is_empty());
    }
}
