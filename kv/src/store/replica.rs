//! A replica of one key, for tests: what is written at one and brought to others.

use std::time::Duration;

use polity_shard::ShardId;

use super::blind::{Amended, Blind, Said};
use super::{Known, Store, Write, WriteError, Written};
use crate::config::KvConfig;
use crate::engine::MemoryEngine;
use crate::record::{self, Record, Update};
use crate::roster::RosterId;
use crate::roster::tests::{boot, roster};

pub(super) const KEY: &[u8] = b"key";

pub(super) struct Replica {
    pub(super) store: Store,
    pub(super) shard: ShardId,
    pub(super) named: RosterId,
}

impl Replica {
    pub(super) fn new(name: &str) -> Self {
        let config = KvConfig::default();
        let engine = std::sync::Arc::new(MemoryEngine::new(config.shards));
        let store = Store::new(boot(name), &config, engine).expect("an empty engine");
        let shard = store.shard_of(KEY);
        Self { store, shard, named: roster("a1 b2 c3").id() }
    }

    pub(super) fn write(&self, update: &Update) -> Written {
        self.write_at(update, None, Duration::ZERO)
    }

    /// Writes at a time, over what a quorum is known to have.
    pub(super) fn write_at(&self, update: &Update, known: Option<Record>, wall: Duration) -> Written {
        let known = known.map(|record| Known { record, asked: wall });
        let write = Write { update, context: None, known, wall };
        self.store.write(self.shard, KEY, write, self.named).expect("there is room")
    }

    pub(super) fn write_blindly(&self, update: &Update) -> (Written, Blind) {
        self.try_blindly(update, Duration::ZERO).expect("the key is there")
    }

    /// The same at a time, if that needs no quorum.
    pub(super) fn try_blindly(&self, update: &Update, wall: Duration) -> Option<(Written, Blind)> {
        self.store.write_blindly(self.shard, KEY, update, wall, self.named).expect("there is room")
    }

    /// Merges what was written elsewhere. Returns what was here before, if that was something else than the writer had.
    pub(super) fn hear(&self, written: &Written, blind: &Blind) -> Option<Said> {
        let told = self.store.merge_and_tell(self.shard, KEY, &written.record, self.named, Some(blind.before()));
        told.expect("a record").1.map(|had| had.try_into().expect("a record"))
    }

    /// Merges what was written elsewhere.
    pub(super) fn learn(&self, written: &Written) {
        self.store.merge(self.shard, KEY, &written.record, self.named).expect("a record");
    }

    pub(super) fn take(&self, record: &Record) {
        self.store.merge(self.shard, KEY, &record::encode(record), self.named).expect("a record");
    }

    pub(super) fn amend(
        &self,
        update: &Update,
        written: (Written, &Blind),
        said: impl IntoIterator<Item = Said>,
    ) -> Result<Amended, WriteError> {
        self.amend_at((update, Duration::ZERO), written, said)
    }

    pub(super) fn amend_at(
        &self,
        update: (&Update, Duration),
        written: (Written, &Blind),
        said: impl IntoIterator<Item = Said>,
    ) -> Result<Amended, WriteError> {
        self.store.amend((self.shard, KEY), update, written, (said.into_iter().collect(), false), self.named)
    }

    /// A write is over.
    pub(super) fn land(&self, written: &Written) {
        drop(self.store.flight(self.shard, KEY, written));
    }

    pub(super) fn record(&self) -> Record {
        self.store.local(KEY).expect("works").unwrap_or_default()
    }
}
