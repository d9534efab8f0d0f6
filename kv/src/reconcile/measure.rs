//! How many bytes two replicas need to become equal: for the benchmark, and for the test that holds it.

use std::sync::Arc;
use std::time::Duration;

use polity_cluster::{Boot, NodeId, NodeName};
use polity_crdt::VersionVector;
use polity_shard::{ReplicaCount, ShardCount, ShardId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Ask, Purpose, Reconciliation, next_group};
use crate::account::{self, Account};
use crate::config::KvConfig;
use crate::engine::MemoryEngine;
use crate::place;
use crate::record::{Blob, Kind, Update};
use crate::roster::{Roster, RosterId};
use crate::store::{Store, Write};
use crate::wire::{Page, REPAIR_BACK_BYTES, REPAIR_PAGE_BYTES};

/// The length of a key and of a value.
const KEY_BYTES: usize = 12;
const VALUE_BYTES: usize = 100;

const SALT: u64 = 0x5a17;

/// What a request and an answer cost beside their bodies: their frames.
const FRAMES: usize = 15 + 10;

/// How two replicas differ. *Here* is the one that begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Differing {
    /// Keys are lacking here.
    LackingHere,
    /// Keys are lacking there.
    LackingThere,
    /// Values are older here.
    OlderHere,
    /// Values are older there.
    OlderThere,
    /// Something was written to the same keys on both sides.
    Concurrent,
    /// A fourth of each of the first four.
    Mixed,
}

/// All of them.
pub const DIFFERING: [Differing; 6] = [
    Differing::LackingHere,
    Differing::LackingThere,
    Differing::OlderHere,
    Differing::OlderThere,
    Differing::Concurrent,
    Differing::Mixed,
];

/// What it cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// The bytes of the keys and values that differed.
    pub payload: usize,
    /// The bytes of all messages.
    pub bytes: usize,
    /// How many round trips there were.
    pub trips: usize,
    /// Whether both hold the same now.
    pub equal: bool,
}

/// Two replicas of all shards that hold the same.
#[derive(Debug)]
pub struct Pair {
    here: Store,
    there: Store,
    keys: u64,
    version: u64,
    spent: usize,
    trips: usize,
}

impl Pair {
    /// Both hold so many keys.
    #[must_use]
    pub fn new(keys: u64) -> Self {
        Self::with_shards(keys, KvConfig::default().shards)
    }

    /// Both hold so many keys, in so many shards.
    pub(super) fn with_shards(keys: u64, shards: ShardCount) -> Self {
        let roster = Roster::new(["a", "b"].map(boot));
        let config = KvConfig { shards, replicas: ReplicaCount::new(2).expect("two"), ..KvConfig::default() };
        let [here, there] = ["a", "b"].map(|name| {
            let engine = Arc::new(MemoryEngine::new(config.shards));
            let store = Store::new(boot(name), &config, engine).expect("memory works");
            for shard in store.shard_ids() {
                store.place(shard, roster.clone());
                store.introduce(shard, Vec::new());
            }
            store
        });
        let mut pair = Self { here, there, keys: 0, version: 0, spent: 0, trips: 0 };
        for key in 0..keys {
            pair.write(key, true, true);
        }
        pair.keys = keys;
        pair
    }

    /// Lets `count` keys differ.
    pub fn differ(&mut self, count: u64, how: Differing) {
        self.version += 1;
        for at in 0..count {
            let fourths =
                [Differing::LackingHere, Differing::LackingThere, Differing::OlderHere, Differing::OlderThere];
            let how = if how == Differing::Mixed { fourths[(at % 4) as usize] } else { how };
            // Old keys, spread over all of them, or new ones.
            let old = at.wrapping_mul(0x9e37_79b9_7f4a_7c15) % self.keys.max(1);
            let old = if count < self.keys { at * (self.keys / count) } else { old };
            match how {
                Differing::LackingHere => self.write(self.keys + self.version * 10_000_000 + at, false, true),
                Differing::LackingThere => self.write(self.keys + self.version * 10_000_000 + at, true, false),
                Differing::OlderHere => self.write(old, false, true),
                Differing::OlderThere => self.write(old, true, false),
                Differing::Concurrent | Differing::Mixed => {
                    self.write(old, true, false);
                    self.write(old, false, true);
                }
            }
        }
    }

    /// Writes a value that replaces what is there.
    fn write(&mut self, key: u64, here: bool, there: bool) {
        let digits = format!("{:0KEY_BYTES$x}", key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16);
        let key = place::key_of("", digits.as_bytes());
        let value = format!("{digits}{}{here}{there}", self.version).repeat(VALUE_BYTES)[..VALUE_BYTES].to_owned();
        let update = Update::put(Kind::Causal, Some(Blob::from(value.into_bytes())));
        let writer = if here { &self.here } else { &self.there };
        let known = writer.local(&key.0).expect("memory works");
        let context = known.map(|known| known.context().clone()).unwrap_or_default();
        let wall = Duration::from_secs(1);
        let write = Write { update: &update, context: Some::<&VersionVector>(&context), known: None, wall };
        let shard = writer.shard_of(&key.0);
        let written = writer.write(shard, &key.0, write, nobody()).expect("there is room");
        if here && there {
            self.there.merge(shard, &key.0, &written.record, nobody()).expect("memory works");
        }
    }

    /// Makes both equal: here asks.
    pub fn reconcile(&mut self, payload_keys: u64) -> Report {
        (self.spent, self.trips) = (0, 0);
        let shards: Vec<ShardId> = self.here.shard_ids().collect();
        let under: Vec<_> = shards.iter().map(|shard| vec![self.here.placed(*shard)]).collect();
        let (request, ours) = account::ask(&self.here, &shards, &under);
        let request = self.carry(&request);
        let answer = account::answer(&self.there, &request).expect("a request of ours");
        let account = Account::new(self.carry_back(&answer));
        let differing = shards.iter().zip(&ours).enumerate();
        let mut differing: Vec<_> =
            differing.filter_map(|(at, (shard, ours))| Some((*shard, account.differs(at, ours)?))).collect();
        let mut complete = true;
        while !differing.is_empty() {
            let group = next_group(&self.here, &mut differing, |_| true);
            let mut left = group.len();
            let mut reconciliation = Reconciliation::new(&self.here, Purpose::Equalise, SALT, REPAIR_PAGE_BYTES, group);
            while let Some(ask) = reconciliation.next(&self.here).expect("memory works") {
                self.answer(&mut reconciliation, ask);
                left -= reconciliation.take_done().len();
            }
            complete &= left == reconciliation.take_done().len();
        }
        let equal = complete && shards.iter().all(|shard| self.here.digest(*shard) == self.there.digest(*shard));
        let payload = payload_keys as usize * (KEY_BYTES + VALUE_BYTES);
        Report { payload, bytes: self.spent, trips: self.trips, equal }
    }

    fn answer(&mut self, reconciliation: &mut Reconciliation, ask: Ask) {
        match ask {
            Ask::Sketch(ask) => {
                let ask = self.carry(&ask);
                let answer = self.there.sketch(&ask).expect("a request of ours");
                let answer = self.carry_back(&answer);
                reconciliation.handle_sketched(answer);
            }
            Ask::Pull(ask) => {
                let ask = self.carry(&ask);
                let answer = self.there.pull(&ask, REPAIR_PAGE_BYTES).expect("a request of ours");
                let answer = self.carry_back(&answer);
                reconciliation.handle_pulled(&self.here, answer);
            }
            Ask::Fetch(ask) => {
                let ask = self.carry(&ask);
                let after = ask.after.as_ref().map(|key| &key.0[..]);
                let (records, more) =
                    self.there.page(ShardId(ask.shard), after, REPAIR_PAGE_BYTES).expect("memory works");
                let answer = self.carry_back(&Page { records, more });
                reconciliation.handle_page(&self.here, &answer);
            }
            Ask::Offer(offer) => {
                let offer = self.carry(&offer);
                let answer =
                    self.there.take_offer(&offer.records, offer.back, REPAIR_BACK_BYTES).expect("memory works");
                let answer = self.carry_back(&answer);
                reconciliation.handle_offered(&self.here, &answer);
            }
        }
    }

    /// Sends a request: what arrives of it.
    fn carry<T: Serialize + DeserializeOwned>(&mut self, message: &T) -> T {
        self.trips += 1;
        self.spent += FRAMES;
        self.carry_back(message)
    }

    fn carry_back<T: Serialize + DeserializeOwned>(&mut self, message: &T) -> T {
        let bytes = postcard::to_allocvec(message).expect("a message encodes");
        self.spent += bytes.len();
        postcard::from_bytes(&bytes).expect("a message of ours")
    }
}

fn boot(name: &str) -> NodeId {
    let nonce = 0x0123_4567_89ab_cd00 + u128::from(name.as_bytes()[0]);
    NodeId { name: NodeName::new(name).expect("a name"), boot: Boot { generation: 1, nonce } }
}

fn nobody() -> RosterId {
    Roster::new([]).id()
}
