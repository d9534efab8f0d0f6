//! What the links do to datagrams: cuts in one direction, and losses drawn from the seed.
//!
//! Links are ruled here, where datagrams leave a node, and not by turmoil's own partitions: one place then sees, traces
//! and drops every datagram. What was under way when a link is cut still arrives, as on a network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use polity::Tap;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::history::Host;
use crate::recorder::Recorder;

/// The state of all links.
#[derive(Debug)]
pub struct Links {
    rng: StdRng,
    loss: f64,
    cut: BTreeSet<(Host, Host)>,
    hosts: BTreeMap<IpAddr, Host>,
}

/// Shared by all hosts' sockets. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Network(Arc<Mutex<Links>>);

impl Network {
    /// Links that lose this share of all datagrams.
    #[must_use]
    pub fn new(seed: u64, loss: f64) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Self(Arc::new(Mutex::new(Links { rng, loss, cut: BTreeSet::new(), hosts: BTreeMap::new() })))
    }

    /// Looks at the links, or changes them.
    pub fn lock(&self) -> MutexGuard<'_, Links> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What sees every datagram of a node and says whether it passes.
    #[must_use]
    pub fn tap(&self, recorder: &Recorder) -> Tap {
        let (network, recorder) = (self.clone(), recorder.clone());
        Arc::new(move |from, to, bytes| {
            let passes = network.lock().passes(from.ip(), to.ip());
            recorder.lock().datagram(from, to, bytes, passes);
            passes
        })
    }
}

impl Links {
    /// Says where a host is.
    pub fn place(&mut self, host: Host, ip: IpAddr) {
        self.hosts.insert(ip, host);
    }

    /// Cuts a link in one direction. Returns whether it was whole.
    pub fn cut(&mut self, from: Host, to: Host) -> bool {
        self.cut.insert((from, to))
    }

    /// Makes all links whole and lossless. Returns those that were cut.
    pub fn mend(&mut self) -> BTreeSet<(Host, Host)> {
        self.loss = 0.0;
        std::mem::take(&mut self.cut)
    }

    fn passes(&mut self, from: IpAddr, to: IpAddr) -> bool {
        let cut = match (self.hosts.get(&from), self.hosts.get(&to)) {
            (Some(from), Some(to)) => self.cut.contains(&(*from, *to)),
            _ => false,
        };
        !cut && (self.loss == 0.0 || !self.rng.random_bool(self.loss))
    }
}
