//! Going through a bucket: shard by shard, page by page, each page as a quorum of the shard's replicas has it.
//!
//! Replicas are asked for the same page. Each answers with what fits, in the order of keys; what all of them have gone
//! through is merged, and the next page begins after that.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use bytes::Bytes;
use polity_shard::ShardId;

use crate::config::Consistency;
use crate::error::KvError;
use crate::kv::Kv;
use crate::place;
use crate::record::{self, Blob, NotARecord, Record};
use crate::wire::Page;

/// The pages of several replicas, put together.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    records: BTreeMap<Blob, Record>,
    /// How far everybody has gone, if not to the end.
    upto: Option<Blob>,
}

impl Pages {
    /// Adds what a replica has.
    pub(crate) fn add(&mut self, page: Page) -> Result<(), NotARecord> {
        let mut decoded = Vec::with_capacity(page.records.len());
        for (key, record) in page.records {
            decoded.push((key, record::decode(&record.0)?));
        }
        if page.more {
            // A page that says that there is more and brings nothing says nothing.
            let last = decoded.last().map(|(key, _)| key.clone()).unwrap_or_default();
            self.upto = Some(self.upto.take().map_or(last.clone(), |upto| upto.min(last)));
        }
        for (key, record) in decoded {
            self.records.entry(key).or_default().merge(record);
        }
        Ok(())
    }

    /// What all have gone through, and where to go on; `None` at the end.
    pub(crate) fn finish(mut self) -> (BTreeMap<Blob, Record>, Option<Blob>) {
        if let Some(upto) = &self.upto {
            self.records.retain(|key, _| key <= upto);
        }
        (self.records, self.upto)
    }
}

/// Goes through the keys of a bucket, in the order of shards, and of keys within each.
///
/// It sees everything that was acknowledged before it began and is there when it comes by; what is written meanwhile it may
/// see or not. It holds one page in memory, and keeps nothing elsewhere.
pub struct Scan<'a, T> {
    kv: &'a Kv,
    prefix: Blob,
    level: Consistency,
    /// The shard that is gone through, and after which key.
    at: Option<(ShardId, Option<Blob>)>,
    found: VecDeque<(Bytes, T)>,
    make: fn(&Record) -> Option<T>,
}

impl<T> fmt::Debug for Scan<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scan").field("level", &self.level).field("at", &self.at).finish_non_exhaustive()
    }
}

impl<'a, T> Scan<'a, T> {
    /// `make` says what is given of a record, and passes over those for which it is nothing.
    pub(crate) fn new(kv: &'a Kv, prefix: Blob, level: Consistency, make: fn(&Record) -> Option<T>) -> Self {
        let at = kv.coordinator().store.layout().shards_of_bucket(&prefix.0).next().map(|shard| (shard, None));
        Self { kv, prefix, level, at, found: VecDeque::new(), make }
    }

    /// How many replicas of each shard must answer.
    #[must_use = "a scan does nothing until it is asked for what is next"]
    pub fn consistency(mut self, level: Consistency) -> Self {
        self.level = level;
        self
    }

    /// The next key and what it holds; `None` at the end.
    ///
    /// Cancel safe. After an error it may be asked again, and goes on where it was.
    ///
    /// # Errors
    /// [`KvError::NotEnoughReplicas`]: too few replicas of a shard have answered in time. [`KvError::Stopped`].
    pub async fn next(&mut self) -> Result<Option<(Bytes, T)>, KvError> {
        loop {
            if let Some(found) = self.found.pop_front() {
                return Ok(Some(found));
            }
            let Some((shard, after)) = &self.at else { return Ok(None) };
            let here = self.kv.coordinator();
            if here.rpc.is_stopped() {
                return Err(KvError::Stopped);
            }
            let (records, next) = here.read_page(*shard, &self.prefix, after.as_ref(), self.level).await?;
            let found = records.iter().filter_map(|(place, record)| {
                Some((Bytes::copy_from_slice(place::key_in(place)), (self.make)(record)?))
            });
            self.found.extend(found);
            self.at = match next {
                Some(after) => Some((*shard, Some(after))),
                None => here.store.layout().after(*shard).map(|shard| (shard, None)),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Kind, Update, Writing};
    use polity_crdt::{ReplicaId, Timestamp};

    fn page(keys: &[&str], more: bool) -> Page {
        let of = |key: &&str| {
            let mut record = Record::default();
            let writing =
                Writing { replica: ReplicaId(1), above: 0, context: None, at: Timestamp::default(), window: 0 };
            record.apply(&Update::put(Kind::Causal, Some(Blob::default())), &writing).expect("room");
            (Blob::from(key.as_bytes().to_vec()), record::encode(&record).into())
        };
        Page { records: keys.iter().map(of).collect(), more }
    }

    fn keys(pages: Pages) -> (Vec<String>, Option<String>) {
        let text = |blob: &Blob| String::from_utf8_lossy(&blob.0).into_owned();
        let (records, next) = pages.finish();
        (records.keys().map(text).collect(), next.as_ref().map(text))
    }

    #[test]
    fn only_what_all_have_gone_through_is_complete() {
        let mut pages = Pages::default();
        pages.add(page(&["a", "c", "d"], true)).expect("records");
        pages.add(page(&["a", "b"], true)).expect("records");
        pages.add(page(&["e"], false)).expect("records");
        assert_eq!(keys(pages), (vec!["a".to_owned(), "b".to_owned()], Some("b".to_owned())));
        let mut pages = Pages::default();
        pages.add(page(&["b"], false)).expect("records");
        pages.add(page(&["a"], false)).expect("records");
        assert_eq!(keys(pages), (vec!["a".to_owned(), "b".to_owned()], None));
    }

    #[test]
    fn a_page_that_is_no_page_is_refused() {
        let bad = Page { records: vec![(Blob::default(), Blob::from(vec![9]))], more: false };
        assert!(Pages::default().add(bad).is_err());
    }
}
