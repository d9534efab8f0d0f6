//! What a write ends with that asks nobody first, and learns afterwards what others had.

use std::time::Duration;

use polity_crdt::VersionVector;
use polity_shard::ShardId;

use super::{Amended, Blind, Store, Write, WriteError, Written};
use crate::config::KvConfig;
use crate::engine::MemoryEngine;
use crate::record::{self, Blob, Kind, Record, Step, Update};
use crate::roster::RosterId;
use crate::roster::tests::{boot, roster};

const KEY: &[u8] = b"key";

struct Replica {
    store: Store,
    shard: ShardId,
    named: RosterId,
}

impl Replica {
    fn new(name: &str) -> Self {
        let config = KvConfig::default();
        let engine = std::sync::Arc::new(MemoryEngine::new(config.shards));
        let store = Store::new(boot(name), &config, engine).expect("an empty engine");
        let shard = store.shard_of(KEY);
        Self { store, shard, named: roster("a1 b2 c3").id() }
    }

    fn write(&self, update: &Update) -> Written {
        let write = Write { update, context: None, known: None, wall: Duration::ZERO };
        self.store.write(self.shard, KEY, write, self.named).expect("there is room")
    }

    fn write_blindly(&self, update: &Update) -> (Written, Blind) {
        let written = self.store.write_blindly(self.shard, KEY, update, Duration::ZERO, self.named);
        written.expect("there is room").expect("the key is there")
    }

    /// Merges what was written elsewhere. Returns what was here before, if that was something else than the writer had.
    fn hear(&self, written: &Written, blind: &Blind) -> Option<Record> {
        let told = self.store.merge_and_tell(self.shard, KEY, &written.record, self.named, Some(blind.before()));
        told.expect("a record").1.map(|bytes| record::decode(&bytes).expect("a record"))
    }

    fn take(&self, record: &Record) {
        self.store.merge(self.shard, KEY, &record::encode(record), self.named).expect("a record");
    }

    fn amend(
        &self,
        update: &Update,
        (written, blind): (Written, &Blind),
        known: Record,
    ) -> Result<Amended, WriteError> {
        self.store.amend(self.shard, KEY, update, (written, blind), vec![known], self.named)
    }

    fn record(&self) -> Record {
        self.store.local(KEY).expect("works").unwrap_or_default()
    }
}

fn put(kind: Kind, text: &str) -> Update {
    Update::put(kind, Some(Blob::from(text.as_bytes().to_vec())))
}

fn texts(record: &Record) -> Vec<String> {
    record.values().into_iter().map(|value| String::from_utf8_lossy(&value.0).into_owned()).collect()
}

/// Two that have the same, and then one that has more.
fn one_that_lags(kind: Kind) -> (Replica, Replica) {
    let (a, b) = (Replica::new("a1"), Replica::new("b2"));
    a.write(&put(kind, "old"));
    b.take(&a.record());
    b.write(&put(kind, "unseen"));
    (a, b)
}

#[test]
fn one_that_knows_all_is_told_nothing() {
    let (a, b) = (Replica::new("a1"), Replica::new("b2"));
    a.write(&put(Kind::Causal, "old"));
    b.take(&a.record());
    let (written, blind) = a.write_blindly(&put(Kind::Causal, "new"));
    assert!(b.hear(&written, &blind).is_none());
    assert_eq!((texts(&a.record()), texts(&b.record())), (vec!["new".to_owned()], vec!["new".to_owned()]));
}

#[test]
fn one_that_lags_replaces_what_the_other_had() {
    for kind in [Kind::Causal, Kind::LastWriterWins] {
        let (a, b) = one_that_lags(kind);
        let update = put(kind, "new");
        let (written, blind) = a.write_blindly(&update);
        let known = b.hear(&written, &blind).expect("it had something else");
        let amended = a.amend(&update, (written, &blind), known);
        let Ok(Amended::Further(written)) = amended else { panic!("{kind}: b has more, and not {amended:?}") };
        b.store.merge(b.shard, KEY, &written.record, b.named).expect("a record");
        assert_eq!((texts(&a.record()), texts(&b.record())), (vec!["new".to_owned()], vec!["new".to_owned()]));
        // Its context covers all of that.
        assert!(written.context.covers(b.record().context()));
    }
}

#[test]
fn what_was_written_over_it_meanwhile_stays() {
    let (a, b) = one_that_lags(Kind::Causal);
    let update = put(Kind::Causal, "new");
    let (written, blind) = a.write_blindly(&update);
    let known = b.hear(&written, &blind).expect("it had something else");
    // Somebody reads both, and replaces both, before the writer hears of what there was.
    let both = b.record().context().clone();
    let over = put(Kind::Causal, "over");
    let write = Write { update: &over, context: Some(&both), known: None, wall: Duration::ZERO };
    b.store.write(b.shard, KEY, write, b.named).expect("there is room");
    a.take(&b.record());
    assert!(a.amend(&update, (written, &blind), known).is_ok());
    assert_eq!(texts(&a.record()), ["over"]);
}

#[test]
fn one_that_had_the_write_already_may_hold_what_was_written_over_it() {
    for (kind, is_sure) in [(Kind::Causal, true), (Kind::LastWriterWins, false)] {
        let (a, b) = one_that_lags(kind);
        let update = put(kind, "new");
        let (written, blind) = a.write_blindly(&update);
        // Replicas compare what they hold before the writer's message is there.
        b.take(&a.record());
        b.write(&put(kind, "over"));
        let known = b.hear(&written, &blind).expect("it had something else");
        let amended = a.amend(&update, (written, &blind), known);
        assert_eq!(is_sure, amended.is_ok(), "{amended:?}");
        assert!(is_sure || matches!(amended, Err(WriteError::Overtaken)));
        assert_eq!(texts(&b.record()), ["over"]);
    }
}

#[test]
fn a_key_that_was_begun_anew_is_written_again() {
    let (a, b) = one_that_lags(Kind::LastWriterWins);
    b.write(&Update { clears: true, ..Update::of(Kind::LastWriterWins, Vec::new()) });
    b.write(&Update::of(Kind::Set, vec![Step::Insert(Blob::from(b"x".to_vec()))]));
    let update = put(Kind::LastWriterWins, "new");
    let (written, blind) = a.write_blindly(&update);
    let known = b.hear(&written, &blind).expect("it had something else");
    let Ok(Amended::Lost(known)) = a.amend(&update, (written, &blind), known) else { panic!("a set is there") };
    let write = Write { update: &update, context: None, known: Some(known), wall: Duration::ZERO };
    let again = a.store.write(a.shard, KEY, write, a.named);
    assert!(matches!(again, Err(WriteError::WrongKind(Kind::Set))));
}

#[test]
fn the_first_write_of_a_key_asks_first() {
    let (a, update) = (Replica::new("a1"), put(Kind::Causal, "first"));
    let written = a.store.write_blindly(a.shard, KEY, &update, Duration::ZERO, a.named);
    assert!(written.expect("works").is_none() && a.record().context() == &VersionVector::new());
}
