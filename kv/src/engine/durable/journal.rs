//! Looks at the library's journal before the library does.
//!
//! The library takes the first thing in its journal that it does not understand for the end: it cuts the journal there, and
//! what was synced behind it is gone without a word. Or, if only a hash is wrong, it refuses to open, though nothing but the
//! batch that a power cut tore may be affected. But here each batch is synced before the next is begun ([`super::committer`]).
//! So a batch that is not whole, with a whole one behind it, was synced and is damaged since: that is reported, with file and
//! offset, and nothing is changed. One with nothing whole behind it is what was being written: it is cut off.
//!
//! Between the records of a batch that is not whole there may be bytes that look like a whole one: a client can have sent them. So
//! each batch begins with an item that no record can be, with a [`Stamp`] that no client knows, and only what has it counts as a
//! batch behind one that is not whole.
//!
//! What this cannot tell: damage to the very last batch looks like a torn one.
//!
//! The format is that of fjall 3 (`src/journal/entry.rs` there): a start (tag 1, number of entries, sequence number), the
//! entries (an item: tag 2; a clearing: tag 4), and an end (tag 3, a hash of the entries' bytes, four bytes that mark it).
//! Numbers are little-endian. The file is longer than what is written, by zeros.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::engine::EngineError;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
/// Sequence numbers rise by one a batch, and by a few more when a table is made.
const MAX_STEP: u64 = 1 << 32;
/// The last bytes of each batch.
const MARK: &[u8] = b"FJL\x03";

/// Of which item of a batch its stamp is the record: the first, in the keyspace of what follows it. All keys of records are longer,
/// and none of `meta` is like it.
pub(super) const STAMP_KEY: &[u8] = &[0];

/// By what the batches of a folder are known. It leaves the process for the folder only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp(pub(super) [u8; 16]);

impl Stamp {
    /// A new one: what the standard library seeds its hashers with comes from the system, and does not follow from what they give.
    pub(super) fn draw() -> Self {
        let half = |at: u8| u128::from(RandomState::new().hash_one(at));
        Self((half(0) << 64 | half(1)).to_le_bytes())
    }
}

/// Cuts off what was being written when the power went. `stamp` is that of the folder; builds before it had one have left none.
/// Returns the numbers of the keyspaces that are written to.
pub(super) fn mend(data: &Path, stamp: Option<Stamp>) -> Result<BTreeSet<u64>, EngineError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| EngineError::of_io("read its journal", &path, &error)
    };
    let mut journals: Vec<(u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(data).map_err(failed(data))? {
        let path = entry.map_err(failed(data))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(number) = name.strip_suffix(".jnl").and_then(|number| number.parse().ok()) {
            journals.push((number, path));
        }
    }
    journals.sort();
    // The library deletes the oldest only, and always writes to one.
    let missing = match &journals[..] {
        [] => Some(0),
        journals => journals.windows(2).find(|pair| pair[0].0 + 1 != pair[1].0).map(|pair| pair[0].0 + 1),
    };
    if let Some(number) = missing {
        let cause = "it is a journal, and is not there".to_owned();
        return Err(EngineError::Damaged { file: data.join(format!("{number}.jnl")), offset: Some(0), cause });
    }
    // Behind the one that was being written there may be some that nothing was written to: a disk that is full tears a batch, and
    // the library may have begun another journal by then.
    let mut last = journals.len();
    while let Some((_, path)) = last.checked_sub(1).map(|at| &journals[at])
        && is_empty(path).map_err(failed(path))?
    {
        last -= 1;
    }
    let mut before = Before::new(stamp);
    for (at, (_, path)) in journals.iter().enumerate() {
        let bytes = fs::read(path).map_err(failed(path))?;
        match inspect(&bytes, &mut before) {
            State::Whole => {}
            State::Torn(end) if at + 1 >= last => {
                tracing::warn!(path = %path.display(), end, "the journal ends in an incomplete batch, which is dropped");
                cut(path, end).map_err(failed(path))?;
            }
            State::Torn(at) | State::Damaged(at) => {
                let cause = "a batch is not what was written".to_owned();
                return Err(EngineError::Damaged { file: path.clone(), offset: Some(at as u64), cause });
            }
        }
    }
    Ok(before.keyspaces)
}

/// Whether there is nothing but zeros. Of a journal that was written to, the first bytes say so.
fn is_empty(path: &Path) -> io::Result<bool> {
    let (mut file, mut buffer) = (File::open(path)?, vec![0; 64 << 10]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(true),
            length if buffer[..length].iter().any(|byte| *byte != 0) => return Ok(false),
            _ => {}
        }
    }
}

fn cut(path: &Path, end: usize) -> io::Result<()> {
    let file: File = OpenOptions::new().write(true).open(path)?;
    file.set_len(end as u64)?;
    file.sync_all()
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Whole batches, and zeros.
    Whole,
    /// From here on there is no whole batch.
    Torn(usize),
    /// Here is none, but later.
    Damaged(usize),
}

/// What is known of the batches so far, of all journals.
struct Before {
    newest: Option<u64>,
    /// The folder's.
    own: Option<Stamp>,
    /// That of the newest batch that has one. Not the folder's, if that was lost and drawn again.
    last: Option<Stamp>,
    keyspaces: BTreeSet<u64>,
}

impl Before {
    fn new(own: Option<Stamp>) -> Self {
        Self { newest: None, own, last: None, keyspaces: BTreeSet::new() }
    }

    /// Whether these bytes, behind what is no whole batch, begin with one that was written as such.
    fn is_followed_by(&self, bytes: &[u8]) -> bool {
        let stamp = stamp(bytes);
        if stamp.is_some() && (stamp == self.own || stamp == self.last) {
            return batch(bytes, 0).is_some();
        }
        // Builds before wrote none: then all that follows must be batches that continue those before.
        self.own.is_none() && self.are_next(bytes)
    }

    fn are_next(&self, bytes: &[u8]) -> bool {
        let (mut at, mut newest) = (0, self.newest);
        while let Some(Batch { end, sequence, .. }) = batch(bytes, at)
            && may_follow(newest, sequence)
        {
            (at, newest) = (end, Some(sequence));
        }
        at > 0 && is_zero(&bytes[at..])
    }
}

/// Whether a batch with this sequence number may be the next. The hash does not cover it, and the library takes the greater one
/// for the newer batch.
fn may_follow(newest: Option<u64>, sequence: u64) -> bool {
    newest.is_none_or(|newest| sequence > newest && sequence - newest <= MAX_STEP)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Reads a journal behind others.
fn inspect(bytes: &[u8], before: &mut Before) -> State {
    let mut at = 0;
    while let Some(Batch { end, sequence, keyspaces }) = batch(bytes, at) {
        if !may_follow(before.newest, sequence) {
            return State::Damaged(at);
        }
        before.newest = Some(sequence);
        before.last = stamp(&bytes[at..]).or(before.last);
        before.keyspaces.extend(keyspaces);
        at = end;
    }
    let rest = &bytes[at..];
    if is_zero(rest) {
        return State::Whole;
    }
    // A batch begins where another has ended.
    let ends = rest.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK);
    let mut behind = ends.map(|(end, _)| &rest[end + MARK.len()..]);
    if behind.any(|behind| before.is_followed_by(behind)) { State::Damaged(at) } else { State::Torn(at) }
}

/// A whole batch.
struct Batch {
    end: usize,
    sequence: u64,
    /// Those that it writes to.
    keyspaces: BTreeSet<u64>,
}

/// The whole batch that begins here.
fn batch(bytes: &[u8], at: usize) -> Option<Batch> {
    let mut reader = Reader { bytes, at };
    let (count, sequence) = reader.start()?;
    let begin = reader.at;
    let mut keyspaces = BTreeSet::new();
    for _ in 0..count {
        match reader.byte()? {
            ITEM => drop(keyspaces.insert(reader.item()?.keyspace)),
            CLEAR => drop(keyspaces.insert(reader.u64()?)),
            _ => return None,
        }
    }
    let entries = &bytes[begin..reader.at];
    let is_whole = reader.byte()? == END && reader.u64()? == xxh3_64(entries) && reader.take(MARK.len())? == MARK;
    (is_whole && count > 0).then_some(Batch { end: reader.at, sequence, keyspaces })
}

/// The stamp of the batch that begins with these bytes, if it has one.
fn stamp(bytes: &[u8]) -> Option<Stamp> {
    let mut reader = Reader { bytes, at: 0 };
    reader.start()?;
    let item = (reader.byte()? == ITEM).then(|| reader.item())??;
    if item.key == STAMP_KEY { item.stored.try_into().ok().map(Stamp) } else { None }
}

struct Item<'a> {
    keyspace: u64,
    key: &'a [u8],
    stored: &'a [u8],
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    /// How many entries a batch has, and its sequence number.
    fn start(&mut self) -> Option<(u32, u64)> {
        (self.byte()? == START).then(|| Some((self.u32()?, self.u64()?)))?
    }

    /// What follows the tag of an item.
    fn item(&mut self) -> Option<Item<'a>> {
        // The kind of the value, and how it is compressed.
        self.take(2)?;
        let keyspace = self.u64()?;
        let (key, _, stored) = (self.u16()?, self.u32()?, self.u32()?);
        Some(Item { keyspace, key: self.take(usize::from(key))?, stored: self.take(stored as usize)? })
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use fjall::{Database, KeyspaceCreateOptions, PersistMode};

    use super::*;

    const OWN: Stamp = Stamp(*b"a stamp of tests");

    /// The journal of `batches` batches, as the library writes it, without the zeros behind it.
    fn journal(name: &str, stamp: Option<Stamp>, batches: u32) -> Vec<u8> {
        journal_of(name, stamp, &(0..batches).map(|number| vec![number as u8; 40]).collect::<Vec<_>>())
    }

    /// The same of a batch for each of these records.
    fn journal_of(name: &str, stamp: Option<Stamp>, written: &[Vec<u8>]) -> Vec<u8> {
        let name = format!("polity-journal-{name}-{}-{}", stamp.is_some(), std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&folder);
        let database = Database::builder(&folder).manual_journal_persist(true).open().expect("opens");
        let records = database.keyspace("records", KeyspaceCreateOptions::default).expect("opens");
        for (number, record) in written.iter().enumerate() {
            let mut batch = database.batch().durability(Some(PersistMode::SyncData));
            if let Some(Stamp(stamp)) = stamp {
                batch.insert(&records, STAMP_KEY, &stamp[..]);
            }
            for item in 0..=number {
                batch.insert(&records, [number as u8, item as u8], &record[..]);
            }
            batch.remove(&records, "gone");
            batch.commit().expect("writes");
        }
        let mut bytes = fs::read(folder.join("0.jnl")).expect("the library's first journal");
        drop((records, database));
        fs::remove_dir_all(&folder).expect("it was ours");
        let end = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
        bytes.truncate(end);
        bytes
    }

    fn inspect(bytes: &[u8], stamp: Option<Stamp>) -> State {
        super::inspect(bytes, &mut Before::new(stamp))
    }

    fn ends(bytes: &[u8]) -> Vec<usize> {
        let mut ends = vec![0];
        while let Some(Batch { end, .. }) = batch(bytes, ends[ends.len() - 1]) {
            ends.push(end);
        }
        ends
    }

    #[test]
    fn the_format_is_the_librarys() {
        let bytes = journal("format", Some(OWN), 5);
        let ends = ends(&bytes);
        assert_eq!((ends.len(), ends[ends.len() - 1]), (6, bytes.len()), "five batches, and nothing else");
        assert!(ends[..5].iter().all(|begin| stamp(&bytes[*begin..]) == Some(OWN)), "each begins with its stamp");
        let mut before = Before::new(None);
        assert_eq!(super::inspect(&bytes, &mut before), State::Whole);
        assert_eq!((before.last, before.keyspaces), (Some(OWN), BTreeSet::from([1])));
        assert_eq!(inspect(&[&bytes[..], &[0; 100]].concat(), None), State::Whole);
    }

    #[test]
    fn a_tail_that_is_not_whole_is_cut_where_it_begins() {
        for stamp in [None, Some(OWN)] {
            let bytes = journal("tail", stamp, 4);
            let ends = ends(&bytes);
            for length in 0..bytes.len() {
                let begin = ends[ends.partition_point(|end| *end <= length) - 1];
                let zeros = [&bytes[..length], &[0; 50]].concat();
                let whole = bytes[begin..length].iter().all(|byte| *byte == 0);
                let expected = if whole { State::Whole } else { State::Torn(begin) };
                assert_eq!(inspect(&zeros, stamp), expected, "{length} bytes");
                // Pages of a batch may reach the disk in any order.
                let mut torn = bytes.clone();
                torn[begin..length].fill(0);
                let last = ends[ends.len() - 2];
                if begin == last && length > begin {
                    assert_eq!(inspect(&torn, stamp), State::Torn(last), "{length} bytes");
                }
            }
        }
    }

    /// Whatever a client sends that looks like batches: what is not whole around it is cut off.
    #[test]
    fn no_record_is_taken_for_a_batch() {
        let of = |sequence: u64, count: u32, entries: &[u8]| {
            let start = [&[START][..], &count.to_le_bytes(), &sequence.to_le_bytes()].concat();
            [&start, entries, &[END], &xxh3_64(entries).to_le_bytes(), MARK].concat()
        };
        let guessed = journal("guessed", Some(Stamp([7; 16])), 1);
        let old = journal("old", None, 1);
        for (what, forged) in [
            ("no entries", of(5, 0, &[])),
            ("a clearing", of(5, 1, &[&[CLEAR][..], &1_u64.to_le_bytes()].concat())),
            ("a batch of older builds", old),
            ("another stamp", guessed),
        ] {
            let record = [MARK, &forged, &[0; 100]].concat();
            let bytes = journal_of("forged", Some(OWN), &[vec![1], vec![2], record]);
            let last = ends(&bytes)[2];
            let begin =
                last + bytes[last..].windows(forged.len()).position(|part| part == forged).expect("it is there");
            for length in begin + forged.len()..begin + forged.len() + 100 {
                assert_eq!(inspect(&bytes[..length], Some(OWN)), State::Torn(last), "{what}, {length} bytes");
            }
            // The same if it is the first of its journal.
            assert_eq!(inspect(&bytes[last..bytes.len() - 1], Some(OWN)), State::Torn(0), "{what}");
        }
    }

    /// A stamp that was lost and drawn again: the batches before have another than those behind.
    #[test]
    fn damage_is_found_whichever_of_its_stamps_is_behind_it() {
        let (older, newer) = (Stamp([1; 16]), Stamp([2; 16]));
        let bytes = [journal("older", Some(older), 3), journal("newer", Some(newer), 3)].concat();
        let mut whole = bytes.clone();
        let ends = ends(&bytes);
        for (number, begin) in ends[..6].iter().enumerate() {
            whole[begin + 5..begin + 13].copy_from_slice(&(10 + number as u64).to_le_bytes());
        }
        assert_eq!(inspect(&whole, Some(newer)), State::Whole);
        for begin in &ends[..5] {
            let mut damaged = whole.clone();
            damaged[begin + 60] ^= 1;
            assert_eq!(inspect(&damaged, Some(newer)), State::Damaged(*begin));
        }
    }

    #[test]
    fn a_torn_batch_is_cut_if_nothing_was_written_behind_it() {
        let bytes = journal("behind", Some(OWN), 3);
        let ends = ends(&bytes);
        let folder = std::env::temp_dir().join(format!("polity-journals-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("makes");
        let torn = &bytes[..ends[2] + 5];
        for (behind, is_cut) in [(&[0; 100][..], true), (&bytes[ends[2]..], false)] {
            fs::write(folder.join("0.jnl"), torn).expect("writes");
            fs::write(folder.join("1.jnl"), behind).expect("writes");
            let mended = mend(&folder, Some(OWN));
            let left = fs::read(folder.join("0.jnl")).expect("reads");
            match is_cut {
                true => assert!(mended.is_ok() && left == bytes[..ends[2]], "{mended:?}"),
                false => assert!(matches!(mended, Err(EngineError::Damaged { .. })) && left == torn, "{mended:?}"),
            }
        }
        fs::remove_dir_all(&folder).expect("it was ours");
    }

    #[test]
    fn a_journal_that_is_not_there_is_damage() {
        let bytes = journal("missing", Some(OWN), 1);
        let folder = std::env::temp_dir().join(format!("polity-journals-missing-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("makes");
        for (there, missing) in [(&[][..], 0), (&[7, 9], 8), (&[8, 12], 10)] {
            for number in there {
                fs::write(folder.join(format!("{number}.jnl")), &bytes).expect("writes");
            }
            let found = mend(&folder, Some(OWN));
            let file = folder.join(format!("{missing}.jnl"));
            assert!(
                matches!(&found, Err(EngineError::Damaged { file: named, offset: Some(0), .. }) if *named == file),
                "{found:?}"
            );
        }
        fs::remove_dir_all(&folder).expect("it was ours");
    }

    #[test]
    fn damage_before_the_last_batch_is_found_where_it_is() {
        for stamp in [None, Some(OWN)] {
            let bytes = journal("damage", stamp, 4);
            let ends = ends(&bytes);
            let last = ends[ends.len() - 2];
            for at in 0..last {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << (at % 8);
                let begin = ends[ends.partition_point(|end| *end <= at) - 1];
                let state = inspect(&damaged, stamp);
                if (begin + 5..begin + 13).contains(&at) {
                    // A sequence number: found unless all are still in their order, in which case nothing is wrong.
                    let next = ends[ends.partition_point(|end| *end <= begin)];
                    let expected = [State::Whole, State::Damaged(begin), State::Damaged(next)];
                    assert!(expected.contains(&state), "byte {at}: {state:?}");
                } else {
                    // The mark at the end of the last but one is where the last begins.
                    let unseen = state == State::Torn(begin) && at + MARK.len() >= last;
                    assert!(state == State::Damaged(begin) || unseen, "byte {at}: {state:?}");
                }
            }
        }
    }
}
