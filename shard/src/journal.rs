//! The journal of conflicts (promise H4): every time that two boots owned a shard at once is written down, with the state
//! that each of them had, and who went on.
//!
//! An operator, or the application, reads it to see what a split has done. It is bounded, in entries and in bytes, and
//! drops the oldest first; how many it has dropped, and how many snapshots it had no room for, it counts. Nothing is
//! decided here: the greater epoch has won already.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, SystemTime};

use polity_cluster::rpc::Blob;
use serde::{Deserialize, Serialize};

use crate::claims::Claim;

/// What is known of the state of a shard at one of the two.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Snapshot {
    /// It, in the application's bytes.
    State(Blob),
    /// It had so many bytes, and there was no room for them.
    TooLarge(u64),
    /// It could not be had: its node did not answer, or had nothing.
    Missing,
}

impl Snapshot {
    /// A state of any size: of more than `limit` bytes only the number is kept.
    #[must_use]
    pub fn within(state: Blob, limit: usize) -> Self {
        if state.0.len() <= limit { Self::State(state) } else { Self::TooLarge(state.0.len() as u64) }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::State(state) => state.0.len(),
            Self::TooLarge(_) | Self::Missing => 0,
        }
    }
}

/// What became of a conflict.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Resolution {
    /// The greater epoch goes on, and what the other had was merged into its state, or will be by the store's repair.
    GreaterEpochMerges,
    /// The greater epoch goes on, and what the other had is in this journal only.
    GreaterEpochAlone,
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

    /// Writes a conflict down. Once only: the same two claims again, told by the other side perhaps, complete the entry
    /// with a state that it lacks. Returns whether it is new.
    pub fn record(&mut self, mut conflict: Conflict) -> bool {
        for state in [&mut conflict.lost_state, &mut conflict.won_state] {
            if let Snapshot::State(bytes) = state {
                *state = Snapshot::within(std::mem::take(bytes), self.config.snapshot_bytes);
            }
        }
        let same = |(_, known): &&mut (u64, Conflict)| known.lost == conflict.lost && known.won == conflict.won;
        let is_new = match self.entries.iter_mut().rev().find(same) {
            Some((_, known)) => {
                self.bytes -= known.lost_state.bytes() + known.won_state.bytes();
                complete(&mut known.lost_state, conflict.lost_state);
                complete(&mut known.won_state, conflict.won_state);
                self.bytes += known.lost_state.bytes() + known.won_state.bytes();
                false
            }
            None => {
                let states = [&conflict.lost_state, &conflict.won_state];
                self.too_large += states.iter().filter(|state| matches!(state, Snapshot::TooLarge(_))).count() as u64;
                self.bytes += states.map(Snapshot::bytes).iter().sum::<usize>();
                self.entries.push_back((self.next, conflict));
                self.next += 1;
                true
            }
        };
        while self.entries.len() > self.config.entries || self.bytes > self.config.bytes {
            let Some((_, oldest)) = self.entries.pop_front() else {
                break;
            };
            self.bytes -= oldest.lost_state.bytes() + oldest.won_state.bytes();
        }
        is_new
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

fn complete(known: &mut Snapshot, other: Snapshot) {
    if *known == Snapshot::Missing {
        *known = other;
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
            assert!(journal.record(conflict(shard, Snapshot::Missing)));
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

    #[test]
    fn both_sides_make_one_entry() {
        let mut journal = Journal::new(JournalConfig::default());
        assert!(journal.record(conflict(1, state(3))));
        let other = Conflict { lost_state: Snapshot::Missing, won_state: state(4), ..conflict(1, state(3)) };
        assert!(!journal.record(other));
        let (_, entry) = journal.iter().next().expect("one");
        assert_eq!((&entry.lost_state, &entry.won_state), (&state(3), &state(4)));
        assert_eq!((journal.len(), journal.bytes(), journal.dropped()), (1, 7, 0));
        assert!(entry.to_string().contains("which goes on"));
        assert_eq!(entry.time(), SystemTime::UNIX_EPOCH + Duration::from_secs(5));
    }

    #[test]
    fn golden_bytes() {
        let bytes = postcard::to_allocvec(&conflict(1, state(2))).expect("encodes");
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "0101016101070002070701020162010702000500");
    }
}
