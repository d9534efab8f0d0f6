//! What was sent to addresses that nobody has proved to be their own: three times what came from there at most.
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

/// The accounts of all addresses that are watched: at most one for each unvalidated handshake.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Books>);

#[derive(Default)]
struct Books {
    /// How many accounts there are: in most moments none, and then a packet costs this look.
    open: AtomicUsize,
    accounts: Mutex<BTreeMap<SocketAddr, Account>>,
}

#[derive(Default)]
struct Account {
    watches: usize,
    received: u64,
    sent: u64,
}

/// Has an address watched until it is dropped.
pub(crate) struct Watch {
    ledger: Ledger,
    addr: SocketAddr,
}

impl Ledger {
    /// Watches an address from which a first packet has come.
    pub(crate) fn watch(&self, addr: SocketAddr) -> Watch {
        let mut accounts = lock(&self.0.accounts);
        let account = accounts.entry(addr).or_default();
        account.watches += 1;
        account.received += FIRST_BYTES;
        self.0.open.store(accounts.len(), Ordering::Release);
        Watch { ledger: self.clone(), addr }
    }

    /// Something has come from an address.
    pub(crate) fn received(&self, addr: SocketAddr, bytes: usize) {
        if self.0.open.load(Ordering::Acquire) > 0
            && let Some(account) = lock(&self.0.accounts).get_mut(&addr)
        {
            account.received += bytes as u64;
        }
    }

    /// Whether so many bytes may be sent to an address, and if so, that they are.
    pub(crate) fn may_send(&self, addr: SocketAddr, bytes: usize) -> bool {
        if self.0.open.load(Ordering::Acquire) == 0 {
            return true;
        }
        let mut accounts = lock(&self.0.accounts);
        let Some(account) = accounts.get_mut(&addr) else { return true };
        let sent = account.sent + bytes as u64;
        let is_allowed = sent <= account.received * FACTOR;
        if is_allowed {
            account.sent = sent;
        }
        is_allowed
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
        assert!(ledger.may_send(addr, 7_200) && !ledger.may_send(addr, 1) && ledger.may_send(other, 1 << 20));
        ledger.received(addr, 10);
        assert!(!ledger.may_send(addr, 31) && ledger.may_send(addr, 30) && !ledger.may_send(addr, 1));
        drop(first);
        assert!(!ledger.may_send(addr, 1));
        drop(second);
        assert!(ledger.may_send(addr, 1 << 20) && lock(&ledger.0.accounts).is_empty());
    }
}
