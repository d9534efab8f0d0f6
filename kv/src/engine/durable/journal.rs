//! Looks at the library's journal before the library does.
//!
//! The library takes the first thing in its journal that it does not understand for the end: it cuts the journal there, and
//! what was synced behind it is gone without a word. Or, if only a hash is wrong, it refuses to open, though nothing but the
//! batch that a power cut tore may be affected. But here each batch is synced before the next is begun ([`super::committer`]).
//! So a batch that is not whole, with a whole one behind it, was synced and is damaged since: that is reported, with file and
//! offset, and nothing is changed. One with nothing whole behind it is what was being written: it is cut off.
//!
//! What this cannot tell: damage to the very last batch looks like a torn one.
//!
//! The format is that of fjall 3 (`src/journal/entry.rs` there): a start (tag 1, number of entries, sequence number), the
//! entries (an item: tag 2; a clearing: tag 4), and an end (tag 3, a hash of the entries' bytes, four bytes that mark it).
//! Numbers are little-endian. The file is longer than what is written, by zeros.

use std::fs::{self, File, OpenOptions};
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

/// Cuts off what was being written when the power went.
pub(super) fn mend(data: &Path) -> Result<(), EngineError> {
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
    // Behind the one that was being written there may be some that nothing was written to: a disk that is full tears a batch, and
    // the library may have begun another journal by then.
    let mut last = journals.len();
    while let Some((_, path)) = last.checked_sub(1).map(|at| &journals[at])
        && is_empty(path).map_err(failed(path))?
    {
        last -= 1;
    }
    let mut newest = None;
    for (at, (_, path)) in journals.iter().enumerate() {
        let bytes = fs::read(path).map_err(failed(path))?;
        match inspect(&bytes, &mut newest) {
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
    Ok(())
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

/// Reads a journal. `newest` is the sequence number of the last batch before it, and then of its own last one.
fn inspect(bytes: &[u8], newest: &mut Option<u64>) -> State {
    let mut at = 0;
    while let Some((next, sequence)) = batch(bytes, at) {
        // The hash does not cover it, and the library takes the greater one for the newer batch.
        if newest.is_some_and(|newest| sequence <= newest || sequence - newest > MAX_STEP) {
            return State::Damaged(at);
        }
        *newest = Some(sequence);
        at = next;
    }
    let rest = &bytes[at..];
    if rest.iter().all(|byte| *byte == 0) {
        return State::Whole;
    }
    // A batch begins where another has ended.
    let ends = rest.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK);
    let mut begins = ends.map(|(end, _)| at + end + MARK.len());
    if begins.any(|begin| batch(bytes, begin).is_some()) { State::Damaged(at) } else { State::Torn(at) }
}

/// Where the whole batch ends that begins here, and its sequence number.
fn batch(bytes: &[u8], at: usize) -> Option<(usize, u64)> {
    let mut reader = Reader { bytes, at };
    if reader.byte()? != START {
        return None;
    }
    let count = reader.u32()?;
    let sequence = reader.u64()?;
    let begin = reader.at;
    for _ in 0..count {
        match reader.byte()? {
            ITEM => {
                // The kind of the value, how it is compressed, and its keyspace.
                reader.take(2 + size_of::<u64>())?;
                let (key, _, stored) = (reader.u16()?, reader.u32()?, reader.u32()?);
                reader.take(usize::from(key))?;
                reader.take(stored as usize)?;
            }
            CLEAR => drop(reader.take(size_of::<u64>())?),
            _ => return None,
        }
    }
    let entries = &bytes[begin..reader.at];
    let is_whole = reader.byte()? == END && reader.u64()? == xxh3_64(entries) && reader.take(MARK.len())? == MARK;
    is_whole.then_some((reader.at, sequence))
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

    /// The journal of `batches` batches, as the library writes it, without the zeros behind it.
    fn journal(name: &str, batches: u32) -> Vec<u8> {
        let folder = std::env::temp_dir().join(format!("polity-journal-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let database = Database::builder(&folder).manual_journal_persist(true).open().expect("opens");
        let records = database.keyspace("records", KeyspaceCreateOptions::default).expect("opens");
        for number in 0..batches {
            let mut batch = database.batch().durability(Some(PersistMode::SyncData));
            for item in 0..=number {
                batch.insert(&records, [number as u8, item as u8], vec![number as u8; 40]);
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

    fn inspect(bytes: &[u8]) -> State {
        super::inspect(bytes, &mut None)
    }

    fn ends(bytes: &[u8]) -> Vec<usize> {
        let mut ends = vec![0];
        while let Some((next, _)) = batch(bytes, ends[ends.len() - 1]) {
            ends.push(next);
        }
        ends
    }

    #[test]
    fn the_format_is_the_librarys() {
        let bytes = journal("format", 5);
        let ends = ends(&bytes);
        assert_eq!((ends.len(), ends[ends.len() - 1]), (6, bytes.len()), "five batches, and nothing else");
        assert_eq!(inspect(&bytes), State::Whole);
        assert_eq!(inspect(&[&bytes[..], &[0; 100]].concat()), State::Whole);
    }

    #[test]
    fn a_tail_that_is_not_whole_is_cut_where_it_begins() {
        let bytes = journal("tail", 4);
        let ends = ends(&bytes);
        for length in 0..bytes.len() {
            let begin = ends[ends.partition_point(|end| *end <= length) - 1];
            let zeros = [&bytes[..length], &[0; 50]].concat();
            let whole = bytes[begin..length].iter().all(|byte| *byte == 0);
            let expected = if whole { State::Whole } else { State::Torn(begin) };
            assert_eq!(inspect(&zeros), expected, "{length} bytes");
            // Pages of a batch may reach the disk in any order.
            let mut torn = bytes.clone();
            torn[begin..length].fill(0);
            let last = ends[ends.len() - 2];
            if begin == last && length > begin {
                assert_eq!(inspect(&torn), State::Torn(last), "{length} bytes");
            }
        }
    }

    #[test]
    fn a_torn_batch_is_cut_if_nothing_was_written_behind_it() {
        let bytes = journal("behind", 3);
        let ends = ends(&bytes);
        let folder = std::env::temp_dir().join(format!("polity-journals-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("makes");
        let torn = &bytes[..ends[2] + 5];
        for (behind, is_cut) in [(&[0; 100][..], true), (&bytes[ends[2]..], false)] {
            fs::write(folder.join("0.jnl"), torn).expect("writes");
            fs::write(folder.join("1.jnl"), behind).expect("writes");
            let mended = mend(&folder);
            let left = fs::read(folder.join("0.jnl")).expect("reads");
            match is_cut {
                true => assert!(mended.is_ok() && left == bytes[..ends[2]], "{mended:?}"),
                false => assert!(matches!(mended, Err(EngineError::Damaged { .. })) && left == torn, "{mended:?}"),
            }
        }
        fs::remove_dir_all(&folder).expect("it was ours");
    }

    #[test]
    fn damage_before_the_last_batch_is_found_where_it_is() {
        let bytes = journal("damage", 4);
        let ends = ends(&bytes);
        let last = ends[ends.len() - 2];
        for at in 0..last {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            let begin = ends[ends.partition_point(|end| *end <= at) - 1];
            let state = inspect(&damaged);
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
