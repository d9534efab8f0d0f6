//! How two replicas of some shards become equal, at a cost that follows what differs between them. Knows no network and no
//! time: it says what to ask for, and is handed the answers.
//!
//! # One round, of each shard
//! 1. **Sketch.** The other is asked for coded symbols of its records ([`polity_crdt::sketch`]): few at first, then about as
//!    many as the difference seems to need, until it can be peeled; or, where that would cost more, for all its elements. An
//!    element stands for a record under its key ([`crate::digest::element`]): one half names the key, so it is known which
//!    records the other has of keys that this side lacks, which it lacks, and which are other ones of the same key.
//! 2. **Pull.** The records that this side lacks are asked for, by the tags of their keys, in pages. For a key that both have,
//!    the *rank* of this side's record goes along: how much it knows. The other sends its own if that is greater, and
//!    otherwise says so. Ranks decide what is sent first, and nothing else.
//! 3. **Offer.** This side sends its records of keys that the other lacks, and of those both have unless what came has
//!    turned out to hold all of it. The other merges them, and sends back what holds more than what was sent.
//!
//! A key is named by its tag and not by its record, so one that changes meanwhile is sent as it is then; nothing has to
//! be asked for again because of writes.
//!
//! # When a shard is done
//! All that the other had when the reconciliation began was merged here; with [`Purpose::Give`] the other way round. Where
//! totals are equal after a round, that is certain, as far as 64 bits are. Otherwise there is a second round, with another salt,
//! which finds what collisions of half an element have hidden in the first (2⁻³² for each record that differs), and what was written
//! meanwhile. A shard of which one side holds next to nothing at the beginning is sent as a whole instead.
//!
//! # Bounds
//! Nothing the other sends makes this go on for ever: every answer must bring something on, symbols end at
//! [`MAX_SYMBOLS`], elements at [`part::MAX_ELEMENTS`], and a shard whose answers make no sense is given up, as not done.

#[doc(hidden)]
pub mod measure;
mod message;
mod part;
#[cfg(all(test, not(feature = "shuttle")))]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use polity_shard::ShardId;

pub(crate) use self::message::{
    MAX_SYMBOLS, MAX_TAGS, MAX_VISITS, Offer, Offered, Pull, PullOf, Pulled, Sketch, SketchOf, Sketched, Wanted,
    bytes_of,
};
use self::part::{Part, Stage};
use crate::digest::{Digest, next_salt, tag};
use crate::engine::EngineError;
use crate::record::Blob;
use crate::store::{Store, Taken};
use crate::wire::{Fetch, Page};

/// After how many rounds a shard is done, unless it is before.
const ROUNDS: u32 = 2;

/// And with those that do not count, because not all that the other wanted to send back had room in a page.
const MAX_ROUNDS: u32 = 16;

/// What a reconciliation is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// To have what the other has. What only this side has, the other asks for itself.
    Learn,
    /// That both have the same.
    Equalise,
    /// That the other has what this side has.
    Give,
}

/// What to ask the other next.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    Sketch(Sketch),
    Pull(Pull),
    Fetch(Fetch),
    Offer(Offer),
}

/// Two replicas of some shards become equal.
#[derive(Debug)]
pub(crate) struct Reconciliation {
    purpose: Purpose,
    page_bytes: usize,
    salt: u64,
    round: u32,
    parts: BTreeMap<ShardId, Part>,
    done: Vec<ShardId>,
    /// The shards that the question under way is about, in its order.
    asked: Vec<ShardId>,
    /// The answers that have come, and were not looked at.
    sketched: VecDeque<(ShardId, Sketched)>,
    /// What is being offered.
    offered: BTreeMap<Blob, ShardId>,
}

impl Reconciliation {
    /// Of shards that differ, and what the other holds of them. They are sent in pages of so many bytes. Nodes that take the
    /// same salt can tell each other from the same look at their records.
    pub(crate) fn new(
        store: &Store,
        purpose: Purpose,
        salt: u64,
        page_bytes: usize,
        shards: impl IntoIterator<Item = (ShardId, Digest)>,
    ) -> Self {
        let part = |(shard, theirs)| (shard, Part::new(purpose, &store.digest(shard), &theirs));
        let parts = shards.into_iter().map(part).collect();
        let (done, asked, sketched, offered) = (Vec::new(), Vec::new(), VecDeque::new(), BTreeMap::new());
        Self { purpose, page_bytes, salt, round: 1, parts, done, asked, sketched, offered }
    }

    /// The shards that are done, for each of which this says so once.
    pub(crate) fn take_done(&mut self) -> Vec<ShardId> {
        std::mem::take(&mut self.done)
    }

    /// Does a piece of what is to be done before the next question: a look at the records of one shard, at most. Returns
    /// whether there was one.
    pub(crate) fn work(&mut self, store: &Store) -> Result<bool, EngineError> {
        if let Some((shard, answer)) = self.sketched.pop_front() {
            if let Some(part) = self.parts.get_mut(&shard)
                && let Err(problem) = part.sketched(store, shard, self.salt, answer)
            {
                self.give_up(shard, problem);
            }
            return Ok(true);
        }
        for (shard, part) in &mut self.parts {
            if part.sort(store, *shard, self.purpose, self.salt)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What to ask next, after all that is to be done before; nothing if it is over.
    pub(crate) fn next(&mut self, store: &Store) -> Result<Option<Ask>, EngineError> {
        while self.work(store)? {}
        loop {
            for (shard, part) in &mut self.parts {
                if part.prepare(store, *shard, self.round) {
                    self.done.push(*shard);
                }
            }
            self.parts.retain(|_, part| !matches!(part.stage, Stage::Over));
            if self.parts.is_empty() {
                return Ok(None);
            }
            for build in [Self::ask_sketch, Self::ask_pull, Self::ask_whole, Self::ask_offer] {
                if let Some(ask) = build(self, store)? {
                    return Ok(Some(ask));
                }
            }
            // All that are left wait for the next round.
            self.round += 1;
            self.salt = next_salt(self.salt);
            for part in self.parts.values_mut() {
                part.begin_round();
            }
        }
    }

    // ---- questions --------------------------------------------------------------------------------------------------

    fn ask_sketch(&mut self, store: &Store) -> Result<Option<Ask>, EngineError> {
        self.asked.clear();
        let (mut shards, mut symbols) = (Vec::new(), 0);
        for (shard, part) in &self.parts {
            let Some(wanted) = part.wanted() else { continue };
            if let Wanted::Symbols { count, .. } = wanted {
                symbols += count as usize;
            }
            if symbols > MAX_SYMBOLS && !shards.is_empty() {
                break;
            }
            shards.push(SketchOf { shard: shard.0, total: store.digest(*shard).total(), wanted });
            self.asked.push(*shard);
        }
        Ok((!shards.is_empty()).then_some(Ask::Sketch(Sketch { salt: self.salt, shards })))
    }

    fn ask_pull(&mut self, store: &Store) -> Result<Option<Ask>, EngineError> {
        self.asked.clear();
        let (mut shards, mut room) = (Vec::new(), MAX_TAGS);
        for (shard, part) in &mut self.parts {
            if room == 0 {
                break;
            }
            if let Some(of) = part.pull(store, *shard, &mut room)? {
                shards.push(of);
                self.asked.push(*shard);
            }
        }
        Ok((!shards.is_empty()).then_some(Ask::Pull(Pull { salt: self.salt, shards })))
    }

    fn ask_whole(&mut self, _: &Store) -> Result<Option<Ask>, EngineError> {
        let mut wholes = self.parts.iter().filter_map(|(shard, part)| match &part.stage {
            Stage::Fetching { after } => Some((*shard, after.clone())),
            _ => None,
        });
        let Some((shard, after)) = wholes.next() else { return Ok(None) };
        drop(wholes);
        self.asked = vec![shard];
        Ok(Some(Ask::Fetch(Fetch { shard: shard.0, after })))
    }

    fn ask_offer(&mut self, store: &Store) -> Result<Option<Ask>, EngineError> {
        self.offered.clear();
        let (mut records, mut room) = (Vec::new(), self.page_bytes);
        'parts: for (shard, part) in &mut self.parts {
            if let Some(page) = part.give(store, *shard, room)? {
                room = room.saturating_sub(page.iter().map(|(key, record)| key.0.len() + record.0.len()).sum());
                self.offered.extend(page.iter().map(|(key, _)| (key.clone(), *shard)));
                records.extend(page);
                if room == 0 {
                    break;
                }
            }
            for key in part.to_offer() {
                let Some(record) = store.load(*shard, &key.0)? else {
                    self.offered.insert(key.clone(), *shard);
                    continue;
                };
                let bytes = key.0.len() + record.len();
                if bytes > room && !records.is_empty() {
                    break 'parts;
                }
                room = room.saturating_sub(bytes);
                self.offered.insert(key.clone(), *shard);
                records.push((key.clone(), record.into()));
            }
        }
        let offers = !records.is_empty() || !self.offered.is_empty();
        Ok(offers.then_some(Ask::Offer(Offer { records, back: self.purpose != Purpose::Give })))
    }

    // ---- answers ----------------------------------------------------------------------------------------------------

    /// The answer to a sketch.
    pub(crate) fn handle_sketched(&mut self, answers: Vec<Sketched>) {
        let asked = std::mem::take(&mut self.asked);
        if answers.is_empty() {
            asked.iter().for_each(|shard| self.give_up(*shard, "it sketches nothing"));
        }
        self.sketched.extend(asked.into_iter().zip(answers));
    }

    /// The records that were asked for by their tags.
    pub(crate) fn handle_pulled(&mut self, store: &Store, answer: Pulled) {
        let asked = std::mem::take(&mut self.asked);
        let Pulled { records, lesser, done, after } = answer;
        for (key, record) in &records {
            let shard = store.shard_of(&key.0);
            let tag = tag(&key.0, self.salt);
            if !self.parts.get(&shard).is_some_and(|part| asked.contains(&shard) && part.has_asked(tag)) {
                asked.iter().for_each(|shard| self.give_up(*shard, "it sends what was not asked for"));
                return;
            }
            match store.take(&key.0, &record.0) {
                Ok(taken) => {
                    let part = self.parts.get_mut(&shard).expect("it was just there");
                    part.settle_key(tag, key, taken != Taken::Same);
                }
                Err(error) => {
                    tracing::error!(?error, %shard, "a fetched record was not merged");
                    self.give_up(shard, "what it sends cannot be merged");
                }
            }
        }
        let mut unknown = false;
        for id in lesser {
            let parts = &mut self.parts;
            unknown |= !asked.iter().any(|shard| parts.get_mut(shard).is_some_and(|part| part.settle_lesser(id)));
        }
        for (at, shard) in asked.iter().enumerate() {
            let Some(part) = self.parts.get_mut(shard) else { continue };
            // Two keys of one tag, one here and one there: the other's is asked for as one that is lacking.
            let is_asked_anew = unknown && part.dispute_nothing();
            if at < done as usize {
                part.pulled(self.purpose);
            } else if at == done as usize && !is_asked_anew {
                // The page may have been full before its turn came.
                let has_begun = after.as_ref().is_some_and(|after| !part.is_at(after));
                if (has_begun || done == 0) && !part.goes_on(after.as_ref()) {
                    self.give_up(*shard, "it does not go on");
                }
            }
        }
    }

    /// A page of a whole shard.
    pub(crate) fn handle_page(&mut self, store: &Store, page: &Page) {
        let Some(shard) = self.asked.first().copied() else { return };
        for (key, record) in &page.records {
            if store.shard_of(&key.0) != shard {
                return self.give_up(shard, "it sends keys of another shard");
            }
            if let Err(error) = store.take(&key.0, &record.0) {
                tracing::error!(?error, %shard, "a fetched record was not merged");
                return self.give_up(shard, "what it sends cannot be merged");
            }
        }
        let last = page.records.last().map(|(key, _)| key.clone());
        let Some(part) = self.parts.get_mut(&shard) else { return };
        let Stage::Fetching { after } = &mut part.stage else { return };
        match last.filter(|_| page.more) {
            Some(last) if after.as_ref().is_some_and(|after| last.0 <= after.0) => {
                self.give_up(shard, "it does not go on");
            }
            Some(last) => *after = Some(last),
            None => part.sent(),
        }
    }

    /// What became of an offer.
    pub(crate) fn handle_offered(&mut self, store: &Store, answer: &Offered) {
        let Offered { back, all } = answer;
        let offered = std::mem::take(&mut self.offered);
        for (key, shard) in &offered {
            if let Some(part) = self.parts.get_mut(shard) {
                part.offered(key, *all);
            }
        }
        for (key, record) in back {
            let shard = store.shard_of(&key.0);
            let is_ours = self.purpose != Purpose::Give && offered.contains_key(key);
            if !is_ours {
                self.give_up(shard, "it sends back what was not offered");
            } else if let Err(error) = store.take(&key.0, &record.0) {
                tracing::error!(?error, %shard, "a record that was sent back was not merged");
                self.give_up(shard, "what it sends cannot be merged");
            }
        }
    }

    /// The shards whose records may have changed here.
    pub(crate) fn shards(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.parts.keys().copied()
    }

    fn give_up(&mut self, shard: ShardId, problem: &'static str) {
        if let Some(part) = self.parts.get_mut(&shard) {
            tracing::warn!(%shard, problem, "a comparison with a replica is given up");
            part.stage = Stage::Over;
        }
    }
}

/// Takes out of shards that differ, and are `free`, the next group to reconcile in one go: few enough records that looking at
/// all of them takes little time and memory, one shard at least. Empty if none is free.
pub(crate) fn next_group(
    store: &Store,
    differing: &mut Vec<(ShardId, Digest)>,
    free: impl Fn(ShardId) -> bool,
) -> Vec<(ShardId, Digest)> {
    let (mut group, mut visits) = (Vec::new(), 0_u64);
    differing.retain(|(shard, theirs)| {
        if visits > MAX_VISITS || !free(*shard) {
            return true;
        }
        visits = visits.saturating_add(theirs.count().max(store.digest(*shard).count()));
        let takes = visits <= MAX_VISITS || group.is_empty();
        if takes {
            group.push((*shard, *theirs));
        }
        !takes
    });
    group
}
