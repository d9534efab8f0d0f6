//! What a shard tells of its records to a replica that compares itself with it, and what it takes from one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use polity_crdt::sketch::Symbol;
use polity_shard::ShardId;

use super::pages::Filling;
use super::{Store, WriteError};
use crate::digest::{element, key_id, tag, tag_of};
use crate::engine::EngineError;
use crate::reconcile::{
    MAX_SYMBOLS, MAX_TAGS, MAX_VISITS, Offered, Pull, PullOf, Pulled, Sketch, SketchOf, Sketched, Wanted,
};
use crate::record::{self, Blob};

/// What came of taking a record in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// What is here now is exactly what came.
    Same,
    /// What is here now holds more, and is this.
    More(Vec<u8>),
}

/// What has been looked at to answer one message.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    any: bool,
    visits: u64,
    symbols: usize,
}

/// Some elements, and the key after which there are more.
type Elements = (Vec<u64>, Option<Blob>);

impl Store {
    /// The elements of all keys, in any order.
    pub(crate) fn all_elements(&self, shard: ShardId, salt: u64) -> Result<Vec<u64>, EngineError> {
        let mut elements = Vec::new();
        self.engine.visit(shard, &mut |key, record| {
            elements.push(element(key, record, salt));
            ControlFlow::Continue(())
        })?;
        Ok(elements)
    }

    /// The elements of all keys greater than `after`, about `at_most` of them; and where to go on.
    pub(crate) fn elements(
        &self,
        shard: ShardId,
        salt: u64,
        after: Option<&[u8]>,
        at_most: usize,
    ) -> Result<Elements, EngineError> {
        let (mut elements, mut last, mut more) = (Vec::new(), None, false);
        self.engine.scan(shard, after, &mut |key, record| {
            if elements.len() >= at_most {
                more = true;
                return ControlFlow::Break(());
            }
            elements.push(element(key, record, salt));
            last = (elements.len() == at_most).then(|| Blob::from(key.to_vec()));
            ControlFlow::Continue(())
        })?;
        Ok((elements, last.filter(|_| more)))
    }

    /// The keys of these tags.
    pub(crate) fn keys_of(
        &self,
        shard: ShardId,
        salt: u64,
        tags: &BTreeSet<u32>,
    ) -> Result<BTreeMap<u32, Vec<Blob>>, EngineError> {
        let mut keys: BTreeMap<u32, Vec<Blob>> = BTreeMap::new();
        self.engine.visit(shard, &mut |key, _| {
            let tag = tag(key, salt);
            if tags.contains(&tag) {
                keys.entry(tag).or_default().push(key.to_vec().into());
            }
            ControlFlow::Continue(())
        })?;
        Ok(keys)
    }

    /// A record as it is.
    pub(crate) fn load(&self, shard: ShardId, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.engine.load(shard, key)
    }

    /// Answers for as many of the shards as can be looked at without taking long, and for one at least.
    pub(crate) fn sketch(&self, asked: &Sketch) -> Result<Vec<Sketched>, String> {
        let mut looked = Looked::default();
        asked.shards.iter().map_while(|of| self.sketch_next(asked.salt, of, &mut looked).transpose()).collect()
    }

    /// Answers for the next shard of a message; nothing if enough has been looked at.
    pub(crate) fn sketch_next(
        &self,
        salt: u64,
        of: &SketchOf,
        looked: &mut Looked,
    ) -> Result<Option<Sketched>, String> {
        let shard = self.shard_named(of.shard)?;
        let digest = self.digest(shard);
        let is_first = std::mem::replace(&mut looked.any, true);
        if digest.total() == of.total {
            return Ok(Some(Sketched::Equal));
        }
        looked.symbols += match &of.wanted {
            Wanted::Symbols { count, .. } if *count as usize > MAX_SYMBOLS => {
                return Err(format!("at most {MAX_SYMBOLS} symbols a message"));
            }
            Wanted::Symbols { count, .. } => *count as usize,
            Wanted::Elements { .. } => 0,
        };
        let is_kept = match &of.wanted {
            Wanted::Symbols { from, count } => self.keeps(shard, salt, *from as usize + *count as usize),
            Wanted::Elements { .. } => false,
        };
        looked.visits += if is_kept { 0 } else { digest.count() };
        if !is_first && (looked.visits > MAX_VISITS || looked.symbols > MAX_SYMBOLS) {
            return Ok(None);
        }
        self.sketch_of(shard, salt, &of.wanted).map(Some).map_err(|error| error.to_string())
    }

    fn sketch_of(&self, shard: ShardId, salt: u64, wanted: &Wanted) -> Result<Sketched, EngineError> {
        match wanted {
            Wanted::Symbols { from, count } => {
                let (as_of, symbols) = self.symbols(shard, salt, *from as usize, *count as usize)?;
                Ok(Sketched::Symbols { as_of, symbols: Symbol::encode_all(&symbols).into() })
            }
            Wanted::Elements { after } => {
                let after = after.as_ref().map(|key| &key.0[..]);
                let (elements, next) = self.elements(shard, salt, after, MAX_VISITS as usize)?;
                let elements: Vec<u8> = elements.into_iter().flat_map(u64::to_le_bytes).collect();
                Ok(Sketched::Elements { elements: elements.into(), next })
            }
        }
    }

    /// Answers with the records that are asked for, until they fill `bytes`.
    pub(crate) fn pull(&self, asked: &Pull, bytes: usize) -> Result<Pulled, String> {
        let tags: usize = asked.shards.iter().map(|of| of.tags.0.len() / 4).sum();
        if tags > MAX_TAGS {
            return Err(format!("at most {MAX_TAGS} keys a message"));
        }
        let (mut filling, mut lesser, mut visits, mut done) = (Filling::new(bytes), Vec::new(), 0, 0);
        for of in &asked.shards {
            let shard = self.shard_named(of.shard)?;
            visits += self.digest(shard).count();
            if done > 0 && visits > MAX_VISITS {
                break;
            }
            filling.last.clone_from(&of.after);
            self.pull_of(shard, asked.salt, of, &mut filling, &mut lesser).map_err(|error| error.to_string())?;
            if filling.more {
                break;
            }
            done += 1;
        }
        let after = filling.last.filter(|_| filling.more);
        Ok(Pulled { records: filling.records, lesser, done, after })
    }

    fn pull_of(
        &self,
        shard: ShardId,
        salt: u64,
        of: &PullOf,
        filling: &mut Filling,
        lesser: &mut Vec<u64>,
    ) -> Result<(), EngineError> {
        let tags = of.tags();
        let lacking = tags.len().saturating_sub(of.ranks.len());
        let ranks: BTreeMap<u32, u64> = tags[lacking..].iter().copied().zip(of.ranks.iter().copied()).collect();
        let tags: BTreeSet<u32> = tags.into_iter().collect();
        let mut keys: Vec<(Blob, u32)> = Vec::new();
        self.engine.visit(shard, &mut |key, _| {
            let tag = tag(key, salt);
            if tags.contains(&tag) && of.after.as_ref().is_none_or(|after| key > &after.0[..]) {
                keys.push((key.to_vec().into(), tag));
            }
            ControlFlow::Continue(())
        })?;
        keys.sort_unstable();
        for (key, tag) in keys {
            let Some(record) = self.engine.load(shard, &key.0)? else { continue };
            match ranks.get(&tag) {
                Some(asked) if rank(&record) <= *asked => {
                    lesser.push(key_id(&key.0));
                    filling.last = Some(key);
                }
                _ if filling.take(&key.0, &record).is_break() => break,
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes in what a peer brings, and gives back what is more here, until that fills `bytes`.
    pub(crate) fn take_offer(
        &self,
        records: &[(Blob, Blob)],
        give_back: bool,
        bytes: usize,
    ) -> Result<Offered, WriteError> {
        let (mut filling, mut all) = (Filling::new(bytes), true);
        for (key, record) in records {
            if let Taken::More(more) = self.take(&key.0, &record.0)?
                && give_back
            {
                all &= filling.take(&key.0, &more).is_continue();
            }
        }
        Ok(Offered { back: filling.records, all })
    }

    /// Merges a record into this node's, and says whether that holds more now than what came.
    pub(crate) fn take(&self, key: &[u8], bytes: &[u8]) -> Result<Taken, WriteError> {
        let shard = self.shard_of(key);
        let mut guard = self.shard(shard);
        let old = self.engine.load(shard, key)?;
        let more = self.merge_into(&mut guard, shard, key, old.as_deref(), bytes)?;
        Ok(more.map_or(Taken::Same, |more| Taken::More(more.into_owned())))
    }

    fn shard_named(&self, shard: u32) -> Result<ShardId, String> {
        let shard = ShardId(shard);
        if self.has_shard(shard) { Ok(shard) } else { Err(format!("there is no shard {shard}")) }
    }
}

/// The rank of a record: of two of one key, that of the one that knows more is greater, or they are equal. It decides what
/// is sent first, and nothing else.
pub(crate) fn rank(record: &[u8]) -> u64 {
    record::decode(record).map_or(0, |record| record.rank())
}

impl PullOf {
    pub(crate) fn tags(&self) -> Vec<u32> {
        let tags = self.tags.0.chunks_exact(4);
        tags.map(|bytes| u32::from_le_bytes(bytes.try_into().expect("4 bytes each"))).collect()
    }
}

/// The elements in an answer.
pub(crate) fn decode_elements(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("8 bytes each"))).collect()
}

/// The tags of some elements.
pub(crate) fn tags_of(elements: &[u64]) -> BTreeSet<u32> {
    elements.iter().copied().map(tag_of).collect()
}
