//! The journal of conflicts (promise H4): every time that two boots owned a shard at once is written down, with the state
//! that each of them had, and who went on.
//!
//! An operator, or the application, reads it to see what a split has done. It is bounded, in entries and in bytes, and
//! drops the oldest first; how many it has dropped, and how many snapshots it had no room for, it counts. Nothing is
//! decided here: the greater epoch has won already.
//!
//! The loser knows first. It writes the conflict down and tells the winner ([`Journal::report`]), which writes it down as well
//! and answers with what it has ([`Journal::hear`]), and that completes the loser's entry ([`Journal::complete`]).

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, SystemTime};

use polity_cluster::rpc::Blob;
use serde::{Deserialize, Serialize};

use crate::claims::Claim;
use crate::mutation::{Mutation, mutated};

/// What a node's store held of a shard at one moment. Two nodes had the same if both numbers are equal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StoreMark {
    /// How many records.
    pub records: u64,
    /// A digest of them all.
    pub digest: u64,
}

/// What is known of the state of a shard at one of the two.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Snapshot {
    /// It, in the application's bytes.
    State(Blob),
    /// It had so many bytes, and there was no room for them.
    TooLarge(u64),
    /// It could not be had: its node did not answer.
    Missing,
    /// It is in the node's store, where it is merged with the other's, and not here. What the store held of the shard when the
    /// entry was written, if that is known: each node knows it of its own.
    Stored(Option<StoreMark>),
}

impl Snapshot {
    /// The same, but of a state of more than `limit` bytes only their number.
    #[must_use]
    pub fn within(self, limit: usize) -> Self {
        match self {
            Self::State(state) if state.0.len() > limit => Self::TooLarge(state.0.len() as u64),
            other => other,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::State(state) => state.0.len(),
            Self::TooLarge(_) | Self::Missing | Self::Stored(_) => 0,
        }
    }

    /// As a peer is told of it: of what is in a store, the bytes that are sent beside it, which are none.
    fn told(&self) -> Self {
        match self {
            Self::Stored(_) => Self::State(Blob::default()),
            other => other.clone(),
        }
    }

    /// What a peer has told of its state, by one who has `ours`. Both keep theirs in a store, or neither does.
    fn heard(self, ours: &Self) -> Self {
        match (self, ours) {
            (Self::State(state), Self::Stored(_)) if state.0.is_empty() => Self::Stored(None),
            (other, _) => other,
        }
    }
}

/// What became of a conflict.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Resolution {
    /// The greater epoch goes on, and what the other had is merged into its state, now or later
    /// ([`Estate::merges`](crate::Estate::merges)).
    GreaterEpochMerges,
    /// The greater epoch goes on without what the other had, of which this journal has the copy.
    GreaterEpochAlone,
}

impl Resolution {
    /// That of states which merge, or do not.
    #[must_use]
    pub const fn of(merges: bool) -> Self {
        if merges { Self::GreaterEpochMerges } else { Self::GreaterEpochAlone }
    }
}

/// One conflict.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Conflict {
    /// The claim of the lesser epoch, whose owner had not let go.
    pub lost: Claim,
    /// What its owner had.
    pub lost_state: Snapshot,
    /// The claim of the greater epoch, of the same shard.
    pub won: Claim,
    /// What its owner had.
    pub won_state: Snapshot,
    /// What became of it.
    pub resolution: Resolution,
    /// When this node wrote it down, after 1970, by its wall clock, which may be wrong.
    pub at: Duration,
}

impl Conflict {
    /// When this node wrote it down, as a wall clock tells it.
    #[must_use]
    pub fn time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH.checked_add(self.at).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "shard {} was owned under {} and under {}, which goes on",
            self.lost.shard, self.lost.epoch, self.won.epoch
        )
    }
}

/// The bounds of a journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JournalConfig {
    /// At most so many entries. Default: 1,024, a node's shards in a split of a large cluster, or all shards of a small one.
    pub entries: usize,
    /// At most so many bytes of snapshots, all together. Default: 16 MiB.
    pub bytes: usize,
    /// A larger snapshot is not kept. Default: 256 KiB.
    pub snapshot_bytes: usize,
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self { entries: 1_024, bytes: 16 << 20, snapshot_bytes: 256 << 10 }
    }
}

/// The conflicts that this node has had a part in, the newest last.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    config: JournalConfig,
    entries: VecDeque<(u64, Conflict)>,
    bytes: usize,
    /// The number of the next entry: as many as there ever were.
    next: u64,
    too_large: u64,
}

impl Journal {
    /// An empty journal.
    #[must_use]
    pub fn new(config: JournalConfig) -> Self {
        Self { config, ..Self::default() }
    }

    /// This node has lost a shard: writes that down, and returns what the winner is to be told.
    pub fn report(&mut self, conflict: Conflict) -> Conflict {
        let told =
            Conflict { lost_state: conflict.lost_state.told().within(self.config.snapshot_bytes), ..conflict.clone() };
        self.record(conflict);
        told
    }

    /// This node has won a shard, as the loser tells it, and has `ours`: writes that down, and returns the answer.
    pub fn hear(&mut self, told: Conflict, ours: Snapshot) -> Snapshot {
        let answer = ours.told().within(self.config.snapshot_bytes);
        let (mut lost_state, mut won_state) = (told.lost_state.heard(&ours), ours);
        if mutated(Mutation::SwapsStates) {
            std::mem::swap(&mut lost_state, &mut won_state);
        }
        self.record(Conflict { lost_state, won_state, ..told });
        answer
    }

    /// The winner has answered what this node has reported.
    pub fn complete(&mut self, lost: &Claim, won: &Claim, answer: Snapshot) {
        // The entry may have gone for room.
        if let Some(at) = self.position(lost, won).filter(|_| !mutated(Mutation::ForgetsTheWinner)) {
            let won_state = answer.heard(&self.entries[at].1.lost_state);
            self.fill(at, Snapshot::Missing, won_state);
        }
    }

    /// Writes a conflict down, once: the same two claims again complete the entry with a state that it lacks.
    fn record(&mut self, conflict: Conflict) {
        let Conflict { lost, lost_state, won, won_state, resolution, at } = conflict;
        let place = self.position(&lost, &won).unwrap_or_else(|| {
            let (lost_state, won_state) = (Snapshot::Missing, Snapshot::Missing);
            self.entries.push_back((self.next, Conflict { lost, lost_state, won, won_state, resolution, at }));
            self.next += 1;
            self.entries.len() - 1
        });
        self.fill(place, lost_state, won_state);
    }

    fn position(&self, lost: &Claim, won: &Claim) -> Option<usize> {
        self.entries.iter().rposition(|(_, known)| known.lost == *lost && known.won == *won)
    }

    /// Puts states into an entry where it has none, and makes room.
    fn fill(&mut self, at: usize, lost_state: Snapshot, won_state: Snapshot) {
        let (_, known) = &mut self.entries[at];
        for (known, state) in [(&mut known.lost_state, lost_state), (&mut known.won_state, won_state)] {
            if *known == Snapshot::Missing {
                *known = state.within(self.config.snapshot_bytes);
                self.bytes += known.bytes();
                self.too_large += u64::from(matches!(known, Snapshot::TooLarge(_)));
            }
        }
        while self.entries.len() > self.config.entries || self.bytes > self.config.bytes {
            let Some((_, oldest)) = self.entries.pop_front() else {
                break;
            };
            self.bytes -= oldest.lost_state.bytes() + oldest.won_state.bytes();
        }
    }

    /// The entries with their numbers, which grow by one, the oldest first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u64, &Conflict)> {
        self.entries.iter().map(|(number, conflict)| (*number, conflict))
    }

    /// The entries from this number on: what is new since a reader last looked, if none of it was dropped
    /// meanwhile, in which case the first has a greater number.
    pub fn since(&self, number: u64) -> impl Iterator<Item = (u64, &Conflict)> {
        self.iter().skip_while(move |(at, _)| *at < number)
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many entries were dropped for room.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.next - self.entries.len() as u64
    }

    /// How many snapshots were too large to be kept.
    #[must_use]
    pub fn too_large(&self) -> u64 {
        self.too_large
    }

    /// How many bytes of snapshots it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ShardId;
    use crate::epoch::tests::epoch;

    fn conflict(shard: u32, lost: Snapshot) -> Conflict {
        Conflict {
            lost: Claim { shard: ShardId(shard), epoch: epoch("1a1") },
            lost_state: lost,
            won: Claim { shard: ShardId(shard), epoch: epoch("2b1") },
            won_state: Snapshot::Missing,
            resolution: Resolution::GreaterEpochMerges,
            at: Duration::from_secs(5),
        }
    }

    fn state(bytes: usize) -> Snapshot {
        Snapshot::State(Blob(vec![7; bytes].into()))
    }

    #[test]
    fn the_oldest_go_and_are_counted() {
        let mut journal = Journal::new(JournalConfig { entries: 3, bytes: 25, snapshot_bytes: 10 });
        for shard in 0..5 {
            journal.record(conflict(shard, Snapshot::Missing));
        }
        assert_eq!((journal.len(), journal.dropped()), (3, 2));
        assert_eq!(
            journal.since(3).map(|(number, entry)| (number, entry.lost.shard.0)).collect::<Vec<_>>(),
            [(3, 3), (4, 4)]
        );
        for shard in 5..8 {
            journal.record(conflict(shard, state(10)));
        }
        assert_eq!((journal.len(), journal.bytes(), journal.dropped()), (2, 20, 6));
        journal.record(conflict(8, state(11)));
        assert_eq!((journal.too_large(), journal.bytes(), journal.len()), (1, 20, 3));
        assert_eq!(journal.iter().last().expect("it").1.lost_state, Snapshot::TooLarge(11));
    }

    fn only(journal: &Journal) -> &Conflict {
        assert_eq!((journal.len(), journal.dropped()), (1, 0));
        journal.iter().next().expect("one").1
    }

    /// What two journals have of a conflict that was reported, heard of and answered.
    fn told(lost: Snapshot, won: Snapshot, config: JournalConfig) -> [Journal; 2] {
        let [mut loser, mut winner] = [(); 2].map(|()| Journal::new(config));
        let report = loser.report(conflict(1, lost));
        assert_eq!(only(&loser).won_state, Snapshot::Missing, "nobody has answered");
        let answer = winner.hear(report.clone(), won.clone());
        // Twice is once.
        assert_eq!(winner.hear(report.clone(), won), answer);
        loser.complete(&report.lost, &report.won, answer.clone());
        loser.complete(&report.lost, &report.won, answer);
        [loser, winner]
    }

    #[test]
    fn both_sides_have_both_states_once() {
        for journal in told(state(3), state(4), JournalConfig::default()) {
            let entry = only(&journal);
            assert_eq!((&entry.lost_state, &entry.won_state), (&state(3), &state(4)));
            assert_eq!(journal.bytes(), 7);
            assert!(entry.to_string().contains("which goes on"));
            assert_eq!(entry.time(), SystemTime::UNIX_EPOCH + Duration::from_secs(5));
        }
        for journal in told(state(3), state(4), JournalConfig { snapshot_bytes: 3, ..JournalConfig::default() }) {
            assert_eq!((&only(&journal).won_state, journal.bytes()), (&Snapshot::TooLarge(4), 3));
            assert_eq!(journal.too_large(), 1);
        }
    }

    #[test]
    fn of_what_is_in_stores_each_side_knows_its_own() {
        let [mine, theirs] = [3, 4].map(|records| Snapshot::Stored(Some(StoreMark { records, digest: records * 7 })));
        let [loser, winner] = told(mine.clone(), theirs.clone(), JournalConfig::default());
        assert_eq!((&only(&loser).lost_state, &only(&loser).won_state), (&mine, &Snapshot::Stored(None)));
        assert_eq!((&only(&winner).lost_state, &only(&winner).won_state), (&Snapshot::Stored(None), &theirs));
        // A state of no bytes that is not in a store is one.
        for journal in told(state(0), state(0), JournalConfig::default()) {
            assert_eq!((&only(&journal).lost_state, &only(&journal).won_state), (&state(0), &state(0)));
        }
    }

    #[test]
    fn an_answer_to_what_has_gone_for_room_writes_nothing() {
        let mut journal = Journal::new(JournalConfig { entries: 1, ..JournalConfig::default() });
        let first = journal.report(conflict(1, state(1)));
        journal.report(conflict(2, state(1)));
        journal.complete(&first.lost, &first.won, state(9));
        assert_eq!((journal.len(), journal.dropped(), journal.bytes()), (1, 1, 1));
        assert_eq!(journal.iter().next().expect("one").1.lost.shard, ShardId(2));
    }

    fn hex(value: &impl Serialize) -> String {
        postcard::to_allocvec(value).expect("encodes").iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(hex(&conflict(1, state(2))), "0101016101070002070701020162010702000500");
        let stored = Snapshot::Stored(Some(StoreMark { records: 3, digest: 300 }));
        assert_eq!([hex(&stored), hex(&stored.told())], ["030103ac02", "0000"]);
    }
}
