//! Libraries of membership as members of the lean network: each sees the same latency, losses and pauses.

#[cfg(feature = "compare")]
pub(crate) mod chitchat;
#[cfg(feature = "compare")]
pub(crate) mod kinship;
pub(crate) mod ours;
pub(crate) mod swim;

use std::net::SocketAddr;

use polity_sim::lean::{Host, Member, addr};

/// How many hosts, from the first on, everyone greets.
const SEEDS: usize = 3;

/// What a member has come to believe of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// The member on this host is up.
    Up(Host),
    /// It is suspected, and still up.
    Suspect(Host),
    /// It is down.
    Down(Host),
    /// The observer itself was declared down, and came back under another identity.
    Rejoined,
}

/// How a member starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    /// Where.
    pub(crate) host: Host,
    /// How many members start.
    pub(crate) hosts: usize,
    /// Where its randomness comes from.
    pub(crate) seed: u64,
    /// It knows all the others from the beginning, where the library can be told.
    pub(crate) knowing: bool,
}

impl Start {
    /// Whom the member greets.
    fn seeds(&self) -> impl Iterator<Item = SocketAddr> {
        let own = self.host;
        (0..SEEDS.min(self.hosts)).filter(move |host| *host != own).map(addr)
    }

    /// All the others.
    fn others(&self) -> impl Iterator<Item = Host> {
        let own = self.host;
        (0..self.hosts).filter(move |host| *host != own)
    }
}

/// A library with its settings.
pub(crate) trait Library: Copy {
    /// One member.
    type Member: Member<Note = Sight>;
    /// Starts one.
    fn start(self, start: Start) -> Self::Member;
}
