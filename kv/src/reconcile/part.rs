//! One shard in a reconciliation.

use std::collections::{BTreeMap, BTreeSet};

use polity_crdt::sketch::{self, Sketch as Symbols, Symbol};
use polity_shard::ShardId;

use super::{MAX_ROUNDS, MAX_SYMBOLS, PullOf, Purpose, ROUNDS, Sketched, Wanted};
use crate::digest::{Digest, key_id};
use crate::engine::EngineError;
use crate::record::Blob;
use crate::store::{KEPT, Store, decode_elements, rank, tags_of};

/// The fewest symbols to begin with: enough for one record that differs, or two.
const FIRST_SYMBOLS: usize = 6;

/// What a symbol takes on the wire, about, and an element.
const SYMBOL_BYTES: usize = 13;
const ELEMENT_BYTES: usize = 8;

/// A side that holds less than one part of so many of what the other holds is sent the whole of it: to find out what it
/// lacks would take longer, and save little.
const MOSTLY: u64 = 4;

/// And if all that has to be sent is what a side has, and that is less than one part of so many of what the other has, it is sent as
/// a whole, too: to list what the other has would cost more.
const FEW: u64 = 16;

/// How often symbols are asked for anew, because the other's records have changed between two answers, before its elements
/// are, which need no two answers to fit together.
const RESTARTS: u32 = 4;

/// The most pages for each key that is asked for: more keys than this have one tag only if somebody made them up.
const PAGES_A_KEY: usize = 4;

/// What becomes of a shard whose records an engine cannot read.
const UNREADABLE: &str = "records could not be read";

/// The most elements that the other is believed to have of one shard: 128 MiB of them.
pub(super) const MAX_ELEMENTS: usize = 1 << 24;

#[derive(Debug)]
pub(super) enum Stage {
    /// Waits to be prepared.
    New,
    /// The other's symbols are being asked for.
    Sketching(Sketching),
    /// All of its elements are.
    Listing {
        after: Option<Blob>,
        theirs: BTreeSet<u64>,
    },
    /// What differs is known.
    Pulling,
    Offering,
    /// The whole shard is fetched.
    Fetching {
        after: Option<Blob>,
    },
    /// The whole shard is given.
    Giving {
        after: Option<Blob>,
    },
    /// This round is over.
    Rested,
    /// All rounds are.
    Done,
    /// And it was said so, or it was given up.
    Over,
}

#[derive(Debug, Default)]
pub(super) struct Sketching {
    theirs: Vec<Symbol>,
    /// The total under which the other's first symbols were made.
    as_of: Option<u64>,
    /// How many there are to be.
    wanted: usize,
    restarts: u32,
}

#[derive(Debug)]
pub(super) struct Part {
    pub(super) stage: Stage,
    first: usize,
    /// How many records this side had when the round began.
    count: usize,
    /// Their elements. Read when more symbols are needed than are kept, which costs a look at every record.
    elements: Option<Vec<u64>>,
    /// Elements on this side only, and on the other's, once they are known and until they are sorted.
    difference: Option<(Vec<u64>, Vec<u64>)>,
    /// Tags of keys that this side lacks.
    lacking: BTreeSet<u32>,
    /// Tags of keys of which both sides have a record.
    disputed: BTreeSet<u32>,
    /// Those of either that are asked for.
    asked: BTreeSet<u32>,
    after: Option<Blob>,
    /// How many pages of that have come.
    pages: usize,
    /// The keys of this side that are disputed.
    keys: BTreeMap<u32, Vec<Blob>>,
    /// Those of them that are asked for, by what names them where tags do not suffice.
    ids: BTreeMap<u64, (u32, Blob)>,
    to_offer: BTreeSet<Blob>,
    /// Whether something that the other has found no room in its answer: this round does not count.
    unsure: bool,
    /// Whether all is done when the whole of it was sent.
    whole: bool,
    /// How many rounds have counted.
    rounds: u32,
}

impl Part {
    pub(super) fn new(purpose: Purpose, ours: &Digest, theirs: &Digest) -> Self {
        let stage = match (ours.count(), theirs.count(), purpose) {
            (0, _, Purpose::Give) | (_, 0, Purpose::Learn) => Stage::Done,
            (ours, theirs, Purpose::Give) if ours <= theirs / FEW => Stage::Giving { after: None },
            (ours, theirs, Purpose::Learn) if theirs <= ours / FEW => Stage::Fetching { after: None },
            (ours, theirs, Purpose::Learn | Purpose::Equalise) if ours <= theirs / MOSTLY => {
                Stage::Fetching { after: None }
            }
            (ours, theirs, Purpose::Give | Purpose::Equalise) if theirs <= ours / MOSTLY => {
                Stage::Giving { after: None }
            }
            _ => Stage::New,
        };
        let whole = purpose != Purpose::Equalise || ours.count() == 0 || theirs.count() == 0;
        // So many differ at least, and each takes about 1.4 symbols.
        let surplus = usize::try_from(ours.count().abs_diff(theirs.count())).unwrap_or(usize::MAX / 8);
        Self {
            stage,
            first: FIRST_SYMBOLS + surplus.min(MAX_SYMBOLS) * 7 / 5,
            count: 0,
            elements: None,
            difference: None,
            lacking: BTreeSet::new(),
            disputed: BTreeSet::new(),
            asked: BTreeSet::new(),
            after: None,
            pages: 0,
            keys: BTreeMap::new(),
            ids: BTreeMap::new(),
            to_offer: BTreeSet::new(),
            unsure: false,
            whole,
            rounds: 0,
        }
    }

    pub(super) fn begin_round(&mut self) {
        if matches!(self.stage, Stage::Rested) {
            (self.stage, self.first, self.unsure) = (Stage::New, FIRST_SYMBOLS, false);
        }
    }

    /// Does what can be done without asking. Returns whether the shard is done.
    pub(super) fn prepare(&mut self, store: &Store, shard: ShardId, round: u32) -> bool {
        if matches!(self.stage, Stage::New) {
            self.elements = None;
            self.count = usize::try_from(store.digest(shard).count()).unwrap_or(usize::MAX);
            let wanted = self.first.min(MAX_SYMBOLS);
            self.stage = self.sketch_or_list(Sketching { wanted, ..Sketching::default() }, 0);
        }
        if matches!(self.stage, Stage::Pulling) && self.lacking.is_empty() && self.disputed.is_empty() {
            self.stage = Stage::Offering;
        }
        if matches!(self.stage, Stage::Offering) && self.to_offer.is_empty() {
            self.rounds += u32::from(!self.unsure);
            self.stage = if self.rounds == ROUNDS {
                Stage::Done
            } else if round < MAX_ROUNDS {
                Stage::Rested
            } else {
                Stage::Over
            };
        }
        let is_done = matches!(self.stage, Stage::Done);
        if is_done {
            self.stage = Stage::Over;
        }
        is_done
    }

    // ---- what differs -----------------------------------------------------------------------------------------------

    pub(super) fn wanted(&self) -> Option<Wanted> {
        match &self.stage {
            Stage::Sketching(state) => {
                let from = state.theirs.len();
                Some(Wanted::Symbols { from: from as u32, count: (state.wanted - from) as u32 })
            }
            Stage::Listing { after, .. } => Some(Wanted::Elements { after: after.clone() }),
            _ => None,
        }
    }

    /// Goes on with symbols, or with elements if there are so few of them that they cost less than the symbols to come.
    fn sketch_or_list(&self, state: Sketching, theirs: usize) -> Stage {
        let all = theirs.max(self.count).min(MAX_ELEMENTS);
        let elements = all * ELEMENT_BYTES + FIRST_SYMBOLS * SYMBOL_BYTES;
        let costs_more = (state.wanted - state.theirs.len()) * SYMBOL_BYTES > elements;
        if costs_more || state.wanted > MAX_SYMBOLS || state.restarts > RESTARTS {
            Stage::Listing { after: None, theirs: BTreeSet::new() }
        } else {
            Stage::Sketching(state)
        }
    }

    pub(super) fn sketched(
        &mut self,
        store: &Store,
        shard: ShardId,
        salt: u64,
        answer: Sketched,
    ) -> Result<(), &'static str> {
        match (std::mem::replace(&mut self.stage, Stage::Over), answer) {
            (Stage::Sketching(_) | Stage::Listing { .. }, Sketched::Equal) => {
                self.stage = Stage::Done;
                Ok(())
            }
            (Stage::Sketching(state), Sketched::Symbols { as_of, symbols }) => {
                let symbols = Symbol::decode_all(&symbols.0, MAX_SYMBOLS).map_err(|_| "it sends no symbols")?;
                self.take_symbols(store, shard, salt, state, as_of, symbols)
            }
            (Stage::Listing { after, mut theirs }, Sketched::Elements { elements, next }) => {
                if next.is_some() && elements.0.len() < ELEMENT_BYTES {
                    return Err("it does not go on");
                }
                theirs.extend(decode_elements(&elements.0));
                if theirs.len() > MAX_ELEMENTS {
                    return Err("it has too many records");
                }
                match next {
                    Some(next) if after.is_some_and(|after| next.0 <= after.0) => return Err("it does not go on"),
                    Some(next) => self.stage = Stage::Listing { after: Some(next), theirs },
                    None => {
                        let ours: BTreeSet<u64> = self.read_elements(store, shard, salt)?.iter().copied().collect();
                        self.elements = None;
                        let here = ours.difference(&theirs).copied().collect();
                        self.found(here, theirs.difference(&ours).copied().collect());
                    }
                }
                Ok(())
            }
            _ => Err("it answers another question"),
        }
    }

    fn read_elements(&mut self, store: &Store, shard: ShardId, salt: u64) -> Result<&[u64], &'static str> {
        if self.elements.is_none() {
            self.elements = Some(store.all_elements(shard, salt).map_err(|_| UNREADABLE)?);
        }
        Ok(self.elements.as_deref().unwrap_or_default())
    }

    fn take_symbols(
        &mut self,
        store: &Store,
        shard: ShardId,
        salt: u64,
        mut state: Sketching,
        as_of: Option<u64>,
        symbols: Vec<Symbol>,
    ) -> Result<(), &'static str> {
        if symbols.len() != state.wanted - state.theirs.len() {
            return Err("it sends more or fewer symbols than were asked for");
        }
        if state.theirs.is_empty() {
            state.as_of = as_of;
        } else if as_of.is_none() || as_of != state.as_of {
            // Its records have changed between two answers, so these symbols do not fit together.
            state.theirs.clear();
            state.restarts += 1;
            self.stage = self.sketch_or_list(state, 0);
            return Ok(());
        }
        state.theirs.extend(symbols);
        let have = state.theirs.len();
        let ours = if have <= KEPT {
            store.symbols(shard, salt, 0, have).map_err(|_| UNREADABLE)?.1
        } else {
            let mut ours = Symbols::new(0, have);
            self.read_elements(store, shard, salt)?.iter().for_each(|element| ours.change(*element, 1));
            ours.symbols()
        };
        if let Some(difference) = sketch::peel(&ours, &state.theirs) {
            self.elements = None;
            self.found(difference.here, difference.there);
            return Ok(());
        }
        let seems = sketch::estimate(&ours, &state.theirs).saturating_mul(27) / 20;
        // Past those that are kept, each step is a look at every record on both sides.
        let at_least = if seems <= KEPT { have + have / 5 + 2 } else { 2 * have };
        state.wanted = seems.clamp(at_least, 3 * have);
        let theirs = state.theirs.first().map_or(0, |symbol| usize::try_from(symbol.count()).unwrap_or(0));
        self.stage = self.sketch_or_list(state, theirs.min(MAX_ELEMENTS));
        Ok(())
    }

    fn found(&mut self, here: Vec<u64>, there: Vec<u64>) {
        self.difference = Some((here, there));
        self.stage = Stage::Pulling;
    }

    /// Finds out what is to be done about the difference. Returns whether one was known.
    pub(super) fn sort(
        &mut self,
        store: &Store,
        shard: ShardId,
        purpose: Purpose,
        salt: u64,
    ) -> Result<bool, EngineError> {
        let Some((here, there)) = self.difference.take() else { return Ok(false) };
        if purpose == Purpose::Learn && there.is_empty() {
            return Ok(true);
        }
        let here = tags_of(&here);
        let keys = if here.is_empty() { BTreeMap::new() } else { store.keys_of(shard, salt, &here)? };
        if purpose == Purpose::Give {
            self.to_offer = keys.into_values().flatten().collect();
            return Ok(true);
        }
        (self.disputed, self.lacking) = tags_of(&there).into_iter().partition(|tag| keys.contains_key(tag));
        let (disputed, only_here) = keys.into_iter().partition(|(tag, _)| self.disputed.contains(tag));
        self.keys = disputed;
        if purpose == Purpose::Equalise {
            let only_here: BTreeMap<u32, Vec<Blob>> = only_here;
            self.to_offer = only_here.into_values().flatten().collect();
        }
        Ok(true)
    }

    // ---- pulling ----------------------------------------------------------------------------------------------------

    /// What to ask for of this shard, at most `room` keys of it.
    pub(super) fn pull(
        &mut self,
        store: &Store,
        shard: ShardId,
        room: &mut usize,
    ) -> Result<Option<PullOf>, EngineError> {
        if !matches!(self.stage, Stage::Pulling) {
            return Ok(None);
        }
        // What goes on after a key is about the same keys as before.
        let is_asked = |tag: &u32| self.after.is_none() || self.asked.contains(tag);
        let lacking: Vec<u32> = self.lacking.iter().copied().filter(is_asked).take(*room).collect();
        let left = *room - lacking.len();
        let disputed: Vec<u32> = self.disputed.iter().copied().filter(is_asked).take(left).collect();
        *room -= lacking.len() + disputed.len();
        let mut ranks = Vec::with_capacity(disputed.len());
        self.ids.clear();
        for tag in &disputed {
            // Of two keys of one tag the lesser rank: then neither is taken for the greater one by mistake.
            let mut least = u64::MAX;
            for key in self.keys.get(tag).into_iter().flatten() {
                least = least.min(store.load(shard, &key.0)?.map_or(0, |record| rank(&record)));
                self.ids.insert(key_id(&key.0), (*tag, key.clone()));
            }
            ranks.push(least);
        }
        self.asked = lacking.iter().chain(&disputed).copied().collect();
        let tags: Vec<u8> = lacking.into_iter().chain(disputed).flat_map(u32::to_le_bytes).collect();
        Ok(Some(PullOf { shard: shard.0, after: self.after.clone(), tags: tags.into(), ranks }))
    }

    pub(super) fn has_asked(&self, tag: u32) -> bool {
        self.asked.contains(&tag)
    }

    /// The other's record of a key has come and was merged; `more` if this side holds more than it.
    pub(super) fn settle_key(&mut self, tag: u32, key: &Blob, more: bool) {
        let Some(keys) = self.keys.get_mut(&tag) else { return };
        if let Some(at) = keys.iter().position(|ours| ours == key) {
            let key = keys.swap_remove(at);
            if more {
                self.to_offer.insert(key);
            }
        }
    }

    /// The other says that its record of a key is of no greater rank. Returns whether there is such a key here.
    pub(super) fn settle_lesser(&mut self, id: u64) -> bool {
        let Some((tag, key)) = self.ids.remove(&id) else { return false };
        if let Some(keys) = self.keys.get_mut(&tag) {
            keys.retain(|ours| *ours != key);
        }
        self.to_offer.insert(key);
        true
    }

    /// Asks for what is disputed as if it were lacking. Returns whether anything is: once a round, then.
    pub(super) fn dispute_nothing(&mut self) -> bool {
        if self.disputed.is_empty() {
            return false;
        }
        self.lacking.append(&mut self.disputed);
        self.asked.clear();
        (self.after, self.pages) = (None, 0);
        true
    }

    /// All that was asked for has come.
    pub(super) fn pulled(&mut self, purpose: Purpose) {
        for tag in std::mem::take(&mut self.asked) {
            self.lacking.remove(&tag);
            self.disputed.remove(&tag);
            // Keys of which the other has none any more.
            let left = self.keys.remove(&tag).unwrap_or_default();
            if purpose == Purpose::Equalise {
                self.to_offer.extend(left);
            }
        }
        (self.after, self.pages) = (None, 0);
    }

    /// Whether what was asked for has come up to this key before.
    pub(super) fn is_at(&self, after: &Blob) -> bool {
        self.after.as_ref() == Some(after)
    }

    /// A part of what was asked for has come: up to this key. Returns whether that is further than before.
    pub(super) fn goes_on(&mut self, after: Option<&Blob>) -> bool {
        let further = match (after, &self.after) {
            (Some(after), Some(before)) => after.0 > before.0,
            (after, None) => after.is_some(),
            (None, Some(_)) => false,
        };
        if further {
            self.after = after.cloned();
            self.pages += 1;
        }
        further && self.pages <= PAGES_A_KEY * self.asked.len()
    }

    // ---- offering ---------------------------------------------------------------------------------------------------

    pub(super) fn to_offer(&self) -> impl Iterator<Item = &Blob> {
        let is_its_turn = matches!(self.stage, Stage::Offering);
        self.to_offer.iter().filter(move |_| is_its_turn)
    }

    pub(super) fn offered(&mut self, key: &Blob, all: bool) {
        self.to_offer.remove(key);
        self.unsure |= !all;
    }

    /// A page of the whole shard, if that is given and it has not ended; the shard has then been given, if there is none.
    pub(super) fn give(
        &mut self,
        store: &Store,
        shard: ShardId,
        bytes: usize,
    ) -> Result<Option<Vec<(Blob, Blob)>>, EngineError> {
        let Stage::Giving { after } = &mut self.stage else { return Ok(None) };
        let (page, _) = store.page(shard, after.as_ref().map(|key| &key.0[..]), bytes)?;
        match page.last() {
            Some((key, _)) => *after = Some(key.clone()),
            None => self.sent(),
        }
        Ok(Some(page))
    }

    /// The whole of it has been sent, from one side or the other.
    pub(super) fn sent(&mut self) {
        self.stage = if self.whole && !self.unsure { Stage::Done } else { Stage::Rested };
    }
}
