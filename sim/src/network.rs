//! What the links do to datagrams: cuts in one direction, loss, delay, duplication, reordering, damage.
//!
//! Links are ruled here, where datagrams leave a node, and not by turmoil's own partitions: one place then sees, traces
//! and harms every datagram. What was under way when a link is cut still arrives, as on a network.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use polity::{Carriage, Wire};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use crate::fault::Link;
use crate::history::Host;
use crate::recorder::Recorder;

/// What is done to the datagrams of a link.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Harm {
    /// All are lost.
    Cut,
    /// This share of them is lost.
    Loss {
        /// 0 to 1.
        share: f64,
    },
    /// Each is late by `ms`, and by up to `jitter_ms` more.
    Delay {
        /// Milliseconds, the same for all.
        ms: u64,
        /// Milliseconds, drawn for each.
        jitter_ms: u64,
    },
    /// This share of them arrives a second time, up to `ms` later.
    Duplication {
        /// 0 to 1.
        share: f64,
        /// Milliseconds.
        ms: u64,
    },
    /// This share of them is late by up to `ms`, and overtaken by others.
    Reordering {
        /// 0 to 1.
        share: f64,
        /// Milliseconds.
        ms: u64,
    },
    /// This share of them is damaged from some byte on, or cut off there.
    Corruption {
        /// 0 to 1.
        share: f64,
    },
}

impl fmt::Display for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: &f64| share * 100.0;
        match self {
            Self::Cut => f.write_str("all datagrams lost"),
            Self::Loss { share } => write!(f, "{:.1} % of datagrams lost", percent(share)),
            Self::Delay { ms, jitter_ms: 0 } => write!(f, "datagrams {ms} ms late"),
            Self::Delay { ms, jitter_ms } => write!(f, "datagrams {ms} to {} ms late", ms + jitter_ms),
            Self::Duplication { share, ms } => write!(f, "{:.1} % of datagrams twice within {ms} ms", percent(share)),
            Self::Reordering { share, ms } => write!(f, "{:.1} % of datagrams up to {ms} ms late", percent(share)),
            Self::Corruption { share } => write!(f, "{:.1} % of datagrams damaged", percent(share)),
        }
    }
}

/// Which links.
#[derive(Clone, Debug, PartialEq)]
pub enum Scope {
    /// These.
    Links(Vec<Link>),
    /// All to and from a host.
    Around(Host),
}

/// Harm done to some links.
#[derive(Clone, Debug, PartialEq)]
pub struct Effect {
    /// Where.
    pub scope: Scope,
    /// What.
    pub harm: Harm,
}

/// The state of all links.
#[derive(Debug)]
pub struct Links {
    rng: StdRng,
    hosts: BTreeMap<IpAddr, Host>,
    /// What each fault does, by its number.
    faults: BTreeMap<u32, Vec<Effect>>,
    /// The same by link: what is looked up for every datagram.
    harms: BTreeMap<Link, Vec<Harm>>,
}

/// Shared by all hosts' sockets. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Network(Arc<Mutex<Links>>);

impl Network {
    /// Links that are whole.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let (rng, hosts) = (StdRng::seed_from_u64(seed), BTreeMap::new());
        Self(Arc::new(Mutex::new(Links { rng, hosts, faults: BTreeMap::new(), harms: BTreeMap::new() })))
    }

    /// Looks at the links, or changes them.
    pub fn lock(&self) -> MutexGuard<'_, Links> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What sees every datagram of a node and says what becomes of it.
    #[must_use]
    pub fn wire(&self, recorder: &Recorder) -> Wire {
        let (network, recorder) = (self.clone(), recorder.clone());
        Arc::new(move |from, to, bytes| {
            let carriage = network.lock().carry(from.ip(), to.ip(), bytes);
            recorder.lock().datagram(from, to, bytes, &carriage);
            carriage
        })
    }
}

impl Links {
    /// Says where a host is.
    pub fn place(&mut self, host: Host, ip: IpAddr) {
        self.hosts.insert(ip, host);
    }

    /// Sets what a fault does to the links from now on.
    pub fn harm(&mut self, fault: u32, effects: Vec<Effect>) {
        if effects.is_empty() {
            self.faults.remove(&fault);
        } else {
            self.faults.insert(fault, effects);
        }
        self.harms.clear();
        let hosts: BTreeSet<Host> = self.hosts.values().copied().collect();
        for effect in self.faults.values().flatten() {
            let links: Vec<Link> = match &effect.scope {
                Scope::Links(links) => links.clone(),
                Scope::Around(host) => hosts.iter().flat_map(|other| [(*host, *other), (*other, *host)]).collect(),
            };
            for link in links {
                self.harms.entry(link).or_default().push(effect.harm);
            }
        }
    }

    fn carry(&mut self, from: IpAddr, to: IpAddr, bytes: &[u8]) -> Carriage {
        if self.harms.is_empty() {
            return Carriage::Whole;
        }
        let link = self.hosts.get(&from).zip(self.hosts.get(&to)).map(|(from, to)| (*from, *to));
        let Some(harms) = link.and_then(|link| self.harms.get(&link)) else { return Carriage::Whole };
        let rng = &mut self.rng;
        let (mut late, mut again, mut damaged) = (Duration::ZERO, None, None::<Vec<u8>>);
        for harm in harms {
            match *harm {
                Harm::Cut => return Carriage::Lost,
                Harm::Loss { share } => {
                    if rng.random_bool(share) {
                        return Carriage::Lost;
                    }
                }
                Harm::Delay { ms, jitter_ms } => late += Duration::from_millis(ms + rng.random_range(0..=jitter_ms)),
                Harm::Duplication { share, ms } => {
                    if rng.random_bool(share) {
                        again = Some(Duration::from_millis(rng.random_range(0..=ms)));
                    }
                }
                Harm::Reordering { share, ms } => {
                    if rng.random_bool(share) {
                        late += Duration::from_millis(rng.random_range(0..=ms));
                    }
                }
                Harm::Corruption { share } => {
                    if rng.random_bool(share) && !bytes.is_empty() {
                        let damaged = damaged.get_or_insert_with(|| bytes.to_vec());
                        // From somewhere to the end: what follows a damaged length would be read as another packet, and
                        // encrypted bytes are not a function of the seed.
                        let from = rng.random_range(0..damaged.len());
                        if rng.random_bool(0.25) {
                            damaged.truncate(from.max(1));
                        } else {
                            rng.fill(&mut damaged[from..]);
                        }
                    }
                }
            }
        }
        if late.is_zero() && again.is_none() && damaged.is_none() {
            return Carriage::Whole;
        }
        let first = damaged.map_or_else(|| Bytes::copy_from_slice(bytes), Bytes::from);
        let second = again.map(|again| (late + again, Bytes::copy_from_slice(bytes)));
        Carriage::Instead(std::iter::once((late, first)).chain(second).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATAGRAM: &[u8] = &[1, 2, 3, 4];

    /// What becomes of a hundred datagrams from 0 to 1, and of one back.
    fn carried(harms: &[Harm]) -> Vec<Carriage> {
        let network = Network::new(1);
        let mut links = network.lock();
        let ip = |host: u8| IpAddr::from([10, 0, 0, host]);
        for host in 0..2 {
            links.place(Host(host), ip(host));
        }
        let scope = Scope::Links(vec![(Host(0), Host(1))]);
        links.harm(7, harms.iter().map(|harm| Effect { scope: scope.clone(), harm: *harm }).collect());
        assert_eq!(links.carry(ip(1), ip(0), DATAGRAM), Carriage::Whole, "the way back is whole");
        let carried = (0..100).map(|_| links.carry(ip(0), ip(1), DATAGRAM)).collect();
        links.harm(7, Vec::new());
        assert_eq!(links.carry(ip(0), ip(1), DATAGRAM), Carriage::Whole, "the fault has ended");
        carried
    }

    #[test]
    fn cuts_and_losses() {
        assert!(carried(&[Harm::Cut]).iter().all(|one| *one == Carriage::Lost));
        let lost = carried(&[Harm::Loss { share: 0.3 }]).iter().filter(|one| **one == Carriage::Lost).count();
        assert!((15..45).contains(&lost), "{lost}");
    }

    #[test]
    fn delays_copies_and_damage() {
        fn each(harms: &[Harm], is: impl Fn(&[(Duration, Bytes)]) -> bool) -> usize {
            carried(harms).iter().filter(|one| matches!(one, Carriage::Instead(copies) if is(copies))).count()
        }
        let ms = Duration::from_millis;
        let delay = Harm::Delay { ms: 10, jitter_ms: 5 };
        assert_eq!(each(&[delay], |copies| copies.len() == 1 && (ms(10)..=ms(15)).contains(&copies[0].0)), 100);
        let twice = Harm::Duplication { share: 1.0, ms: 10 };
        assert_eq!(each(&[delay, twice], |copies| copies.len() == 2 && copies[1].0 >= copies[0].0), 100);
        let damage = Harm::Corruption { share: 1.0 };
        let damaged = each(&[damage, twice], |copies| copies[0].1 != DATAGRAM && copies[1].1 == DATAGRAM);
        assert!(damaged > 90, "{damaged}: bytes may be changed back");
        let late = each(&[Harm::Reordering { share: 0.5, ms: 10 }], |copies| copies[0].0 > Duration::ZERO);
        assert!((25..65).contains(&late), "{late}");
    }
}
