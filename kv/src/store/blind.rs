//! What a write ends with that asks nobody first, and learns afterwards what others had.

use std::time::Duration;

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
        self.store.amend(self.shard, KEY, update, (written, blind), known)
    }

    fn record(&self) -> Record {
        self.store.local(KEY).expect("works").unwrap_or_default()
    }
}

fn insert(text: &str) -> Update {
    Update::of(Kind::Set, vec![Step::Insert(Blob::from(text.as_bytes().to_vec()))])
}

/// Two that have the same, and then one that has more.
fn one_that_lags() -> (Replica, Replica) {
    let (a, b) = (Replica::new("a1"), Replica::new("b2"));
    a.write(&insert("old"));
    b.take(&a.record());
    b.write(&insert("unseen"));
    (a, b)
}

#[test]
fn one_that_knows_all_is_told_nothing() {
    let (a, b) = (Replica::new("a1"), Replica::new("b2"));
    a.write(&insert("old"));
    b.take(&a.record());
    let (written, blind) = a.write_blindly(&insert("new"));
    assert!(b.hear(&written, &blind).is_none());
    assert_eq!((a.record(), a.record().elements().count()), (b.record(), 2));
}

#[test]
fn one_that_lags_learns_what_its_write_has_come_to() {
    let (a, b) = one_that_lags();
    let (written, blind) = a.write_blindly(&insert("unseen"));
    assert_eq!(written.changed, 1, "as far as it knows");
    let known = b.hear(&written, &blind).expect("it had something else");
    let Ok(Amended::Enough(written)) = a.amend(&insert("unseen"), (written, &blind), known) else { panic!("a set") };
    assert_eq!((written.changed, a.record().elements().count()), (0, 2));
    assert!(written.context.covers(b.record().context()));
}

#[test]
fn a_key_that_was_begun_anew_is_written_again() {
    let (a, b) = one_that_lags();
    b.write(&Update { clears: true, ..Update::of(Kind::Set, Vec::new()) });
    b.write(&Update::of(Kind::Counter, vec![Step::Add(1)]));
    let (written, blind) = a.write_blindly(&insert("new"));
    let known = b.hear(&written, &blind).expect("it had something else");
    let Ok(Amended::Lost(known)) = a.amend(&insert("new"), (written, &blind), known) else { panic!("a counter") };
    let write = Write { update: &insert("new"), context: None, known: Some(known), wall: Duration::ZERO };
    let again = a.store.write(a.shard, KEY, write, a.named);
    assert!(matches!(again, Err(WriteError::WrongKind(Kind::Counter))));
}

#[test]
fn what_may_replace_something_and_the_first_write_of_a_key_ask_first() {
    let (a, _) = one_that_lags();
    let remove = Update::of(Kind::Set, vec![Step::Remove(Blob::from(b"old".to_vec()))]);
    let clear = Update { clears: true, ..Update::of(Kind::Set, Vec::new()) };
    for update in [remove, clear] {
        assert!(a.store.write_blindly(a.shard, KEY, &update, Duration::ZERO, a.named).expect("works").is_none());
    }
    let empty = Replica::new("c3");
    let written = empty.store.write_blindly(empty.shard, KEY, &insert("x"), Duration::ZERO, empty.named);
    assert!(written.expect("works").is_none() && empty.record() == Record::default());
}
