//! The engine in a folder, when its process is killed and when its files are damaged.
#![cfg(feature = "durable")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use polity_cluster::NodeName;
use polity_kv::engine::durable::Owner;
use polity_kv::engine::{Change, DurableEngine};
use polity_kv::{Commit, Engine, EngineError};
use polity_shard::{ShardCount, ShardId};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Names the folder in which this program, started again by the test below, writes until it is killed.
const CHILD: &str = "POLITY_KV_KILLED_FOLDER";
const KILLS: u64 = 6;
/// How many acknowledgements a child gives before it is killed, at most.
const MAX_ACKS: u64 = 3_000;
/// Writes under way at once in the child.
const AT_ONCE: usize = 16;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("polity-killed-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn shards() -> ShardCount {
    ShardCount::new(4).expect("valid")
}

fn owner() -> Owner {
    Owner { cluster: "test".to_owned(), node: NodeName::new("n1").expect("valid"), shards: shards() }
}

fn open(folder: &Path) -> Result<DurableEngine, EngineError> {
    DurableEngine::open(folder, &owner())
}

/// The pair of keys and the record that belong to a number. Both are written at once.
fn pair(number: u64) -> (ShardId, [u8; 9], [u8; 9], Vec<u8>) {
    let key = |half: u8| -> [u8; 9] { [&number.to_be_bytes()[..], &[half]].concat().try_into().expect("9 bytes") };
    let record = number.to_le_bytes().repeat(1 + number as usize % 40);
    (ShardId((number % u64::from(shards().get())) as u32), key(0), key(1), record)
}

fn write(engine: &DurableEngine, number: u64) -> Result<Commit, EngineError> {
    let (shard, first, second, record) = pair(number);
    engine.write(shard, &[Change::Put { key: &first, record: &record }, Change::Put { key: &second, record: &record }])
}

/// The numbers that are there. Panics on anything that was never written.
fn numbers(engine: &DurableEngine) -> Result<BTreeSet<u64>, EngineError> {
    let found = halves(engine)?;
    assert!(found.values().all(|halves| *halves == 2), "half of a batch");
    Ok(found.into_keys().collect())
}

/// How many of its two records each number has that is there.
fn halves(engine: &DurableEngine) -> Result<BTreeMap<u64, u8>, EngineError> {
    let mut found = BTreeMap::<u64, u8>::new();
    for shard in (0..shards().get()).map(ShardId) {
        engine.scan(shard, None, &mut |key, record| {
            let number = u64::from_be_bytes(key[..8].try_into().expect("8 bytes"));
            let (at, first, second, expected) = pair(number);
            assert!(at == shard && (key == first || key == second), "a key that was never written: {key:?}");
            assert_eq!(record, expected, "a record that was never written, of {number}");
            *found.entry(number).or_default() += 1;
            ControlFlow::Continue(())
        })?;
    }
    Ok(found)
}

/// Does nothing, unless it is a child of a test below: then it writes, says what is durable, and ends only if that fails.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    let engine = open(Path::new(&folder)).expect("opens");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("starts");
    let error = runtime.block_on(async {
        let first = numbers(&engine).expect("reads").last().map_or(0, |last| last + 1);
        let mut waiting = FuturesUnordered::new();
        for number in first.. {
            let commit = match write(&engine, number) {
                Ok(commit) => commit,
                Err(error) => return error,
            };
            println!("written {number}");
            let engine = &engine;
            waiting.push(async move { engine.durable(commit).await.map(|()| number) });
            if waiting.len() >= AT_ONCE {
                match waiting.next().await.expect("there are some") {
                    Ok(number) => println!("durable {number}"),
                    Err(error) => return error,
                }
                std::io::stdout().flush().expect("somebody listens");
            }
        }
        unreachable!("numbers do not end");
    });
    assert!(engine.store(ShardId(0), b"more", b"1").is_err(), "it takes nothing more");
    println!("failed {error:?}");
}

/// What children have said.
#[derive(Default)]
struct Heard {
    written: BTreeSet<u64>,
    durable: BTreeSet<u64>,
    failed: Option<String>,
}

impl Heard {
    /// Listens to a child to its end, and kills it after so many acknowledgements.
    fn listen(&mut self, mut child: Child, acks: u64) {
        let mut left = acks;
        for line in BufReader::new(child.stdout.take().expect("piped")).lines() {
            let line = line.expect("text");
            let said = |what: &str| line.split_once(what).map(|(_, rest)| rest.to_owned());
            let number = |what: &str| said(what).and_then(|number| number.parse::<u64>().ok());
            if let Some(number) = number("written ") {
                self.written.insert(number);
            } else if let Some(number) = number("durable ") {
                self.durable.insert(number);
                // It goes on until it is gone, and what it has said until then counts.
                if left == 1 {
                    child.kill().expect("it is ours");
                }
                left = left.saturating_sub(1);
            } else if let Some(error) = said("failed ") {
                self.failed = Some(error);
            }
        }
        child.wait().expect("it is ours");
    }

    /// Everything that was acknowledged is there, and nothing that was never written.
    fn check(&mut self, folder: &Path) {
        let found = numbers(&open(folder).expect("it is no damage")).expect("reads");
        let lost: Vec<_> = self.durable.difference(&found).collect();
        assert!(lost.is_empty(), "acknowledged, and lost: {lost:?}");
        // What a child wrote last it may not have said any more.
        let newest = self.written.last().map_or(0, |last| last + 2 * AT_ONCE as u64);
        assert!(found.last().is_none_or(|last| *last <= newest), "{:?} was never written", found.last());
        self.written.extend(found);
    }
}

const ARGUMENTS: [&str; 5] = ["child", "--exact", "--nocapture", "--test-threads", "1"];

fn spawn(mut command: Command, folder: &Path) -> Child {
    command.args(ARGUMENTS).env(CHILD, folder).stdout(Stdio::piped()).spawn().expect("starts")
}

#[test]
fn a_killed_process_keeps_what_it_acknowledged() {
    let folder = Folder::new("kill");
    let mut rng = StdRng::seed_from_u64(0x6b69_6c6c);
    let mut heard = Heard::default();
    for _ in 0..KILLS {
        let child = Command::new(std::env::current_exe().expect("this program"));
        heard.listen(spawn(child, &folder.0), rng.random_range(1..=MAX_ACKS));
        assert_eq!(heard.failed, None);
        heard.check(&folder.0);
    }
    assert!(heard.durable.len() > KILLS as usize);
}

/// The system refuses to let the journal grow, in the midst of a batch: what was acknowledged before is there.
#[cfg(unix)]
#[test]
fn a_disk_that_is_full_loses_nothing() {
    let folder = Folder::new("full");
    drop(open(&folder.0).expect("opens"));
    let mut heard = Heard::default();
    for megabytes in [1, 2] {
        // A shell sets the limit, and has its signal ignored, for the program that takes its place.
        let mut child = Command::new("sh");
        let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", megabytes * 2048);
        child.arg("-c").arg(script).arg(std::env::current_exe().expect("this program"));
        heard.listen(spawn(child, &folder.0), u64::MAX);
        let error = heard.failed.take().expect("there is a limit");
        assert!(error.starts_with("Full"), "{error}");
        heard.check(&folder.0);
    }
    assert!(heard.durable.len() > 500);
}

fn files(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("reads") {
        let path = entry.expect("reads").path();
        if path.is_dir() { files(&path, all) } else { all.push(path) }
    }
    all.sort();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("works");
    for entry in fs::read_dir(from).expect("reads") {
        let path = entry.expect("reads").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target)
        } else {
            let _ = fs::copy(&path, target).expect("works");
        }
    }
}

/// One file is cut, changed somewhere or deleted. Either that is reported, or what is found was written; and if the damage is in the
/// journal, whatever was durable before the damaged batch is found.
#[test]
fn damage_is_survived_or_reported() {
    const DAMAGES: u64 = 200;
    let (folder, damaged) = (Folder::new("whole"), Folder::new("damaged"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("starts");
    let engine = open(&folder.0).expect("opens");
    // In batches of one, so that a place in the journal belongs to a number.
    for number in 0..300 {
        let commit = write(&engine, number).expect("writes");
        runtime.block_on(engine.durable(commit)).expect("syncs");
    }
    drop(engine);
    let mut all = Vec::new();
    files(&folder.0, &mut all);
    let journal = all.iter().find(|path| path.extension().is_some_and(|e| e == "jnl")).expect("a journal").clone();
    let bytes = fs::read(&journal).expect("reads");
    let end = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
    let mut rng = StdRng::seed_from_u64(0xda3a9e);
    let (mut reported, mut survived) = (0, 0);
    for turn in 0..DAMAGES {
        let _ = fs::remove_dir_all(&damaged.0);
        copy(&folder.0, &damaged.0);
        // The journal every other time: it is where most bytes are.
        let file = if turn % 2 == 0 { &journal } else { &all[rng.random_range(0..all.len())] };
        let length = if *file == journal { end } else { fs::metadata(file).expect("reads").len() as usize };
        let target = damaged.0.join(file.strip_prefix(&folder.0).expect("in it"));
        let (delete, cut) = (turn % 4 == 3, rng.random_bool(0.3));
        if length == 0 && !delete {
            continue;
        }
        let at = if delete { 0 } else { rng.random_range(0..length) };
        let mut bytes = fs::read(&target).expect("reads");
        if delete {
            fs::remove_file(&target).expect("removes");
        } else if cut {
            bytes.truncate(at);
            fs::write(&target, &bytes).expect("writes");
        } else {
            bytes[at] ^= 1 << rng.random_range(0..8u8);
            fs::write(&target, &bytes).expect("writes");
        }
        let how = if delete {
            "deletion"
        } else if cut {
            "cut"
        } else {
            "flip"
        };
        let what = format!("turn {turn}: {how} of {} at {at}", target.display());
        // A panic of the engine would fail this test; so would a record that was never written.
        let found = open(&damaged.0).and_then(|engine| numbers(&engine));
        match found {
            Err(error) => {
                // The file is named, and of data the place; but what says whose it is, for what and in which format speaks for its
                // folder, and the hash of a manifest, which is beside it, for that.
                let is_hash = target.file_name().is_some_and(|name| name == "current");
                let is_named = match &error {
                    EngineError::Damaged { file, offset: None, .. } => {
                        *file == target && target.parent() == Some(&damaged.0)
                    }
                    EngineError::Damaged { file, .. } => {
                        *file == target || (is_hash && file.parent() == target.parent())
                    }
                    EngineError::NotOurs { folder, .. }
                    | EngineError::OtherShards { folder, .. }
                    | EngineError::Version { folder, .. } => target.parent() == Some(folder),
                    _ => false,
                };
                assert!(is_named, "{what}: {error:?}");
                reported += 1;
            }
            Ok(found) => {
                survived += 1;
                let all_before = |last: u64| (0..last).all(|number| found.contains(&number));
                assert!(all_before(found.last().map_or(0, |last| last + 1)), "{what}: a hole");
                if *file == journal {
                    // Each batch has 2 items; none is larger than this.
                    let before = (at / MAX_BATCH_BYTES) as u64;
                    assert!(all_before(before), "{what}: durable before the damage, and lost");
                    assert!(cut || found.len() >= 299, "{what}: a flip cost {} batches", 300 - found.len());
                } else {
                    assert_eq!(found.len(), 300, "{what}: lost without a word");
                }
            }
        }
    }
    assert!(reported > 20 && survived > 10, "{reported} reported, {survived} survived");
}

/// The power goes while a record is written that looks like the end of a batch and another one: it is cut off, and is no damage.
#[test]
fn a_client_cannot_make_a_torn_batch_look_damaged() {
    let folder = Folder::new("forged");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("starts");
    let engine = open(&folder.0).expect("opens");
    for number in 0..10 {
        let commit = write(&engine, number).expect("writes");
        runtime.block_on(engine.durable(commit)).expect("syncs");
    }
    // The mark of an end; a start, no entries, and an end with the hash of nothing; and then more of the record.
    let hash = 0x2d06_8005_38d3_94c2_u64.to_le_bytes();
    let forged = [b"FJL\x03\x01\0\0\0\0", &100_u64.to_le_bytes()[..], b"\x03", &hash, b"FJL\x03", &[7; 1_000]].concat();
    let commit = engine.store(ShardId(0), b"forged", &forged).expect("writes");
    runtime.block_on(engine.durable(commit)).expect("syncs");
    drop(engine);
    let mut all = Vec::new();
    files(&folder.0, &mut all);
    let journal = all.into_iter().find(|path| path.extension().is_some_and(|e| e == "jnl")).expect("a journal");
    let mut bytes = fs::read(&journal).expect("reads");
    let at = bytes.windows(forged.len()).position(|part| part == forged).expect("it is there");
    bytes.truncate(at + 500);
    fs::write(&journal, bytes).expect("writes");
    let found = numbers(&open(&folder.0).expect("it is no damage")).expect("reads");
    assert!(found.into_iter().eq(0..10));
}

/// Each file that is deleted is named, or nothing depends on it. The other replicas have what is put aside.
#[test]
fn a_file_that_is_gone_is_reported_or_not_needed() {
    let (folder, damaged) = (Folder::new("gone"), Folder::new("damaged-gone"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("starts");
    let engine = open(&folder.0).expect("opens");
    for number in 0..300 {
        write(&engine, number).expect("writes");
    }
    // A keyspace that is made later.
    engine.write(ShardId(2 << 16), &[Change::Put { key: b"k", record: b"r" }]).expect("writes");
    let last = engine.put_meta("m", b"v").expect("writes");
    runtime.block_on(engine.durable(last)).expect("syncs");
    drop(engine);
    let mut all = Vec::new();
    files(&folder.0, &mut all);
    let mut reported = BTreeSet::new();
    for file in &all {
        let _ = fs::remove_dir_all(&damaged.0);
        copy(&folder.0, &damaged.0);
        let name = file.strip_prefix(&folder.0).expect("in it");
        let target = damaged.0.join(name);
        fs::remove_file(&target).expect("removes");
        match open(&damaged.0) {
            Ok(engine) => {
                assert_eq!(numbers(&engine).expect("reads").len(), 300, "{name:?}: lost without a word");
                assert_eq!(engine.load(ShardId(2 << 16), b"k").expect("reads").as_deref(), Some(&b"r"[..]), "{name:?}");
                assert_eq!(engine.meta("m").expect("reads").as_deref(), Some(&b"v"[..]), "{name:?}");
            }
            Err(EngineError::NotOurs { .. }) if name == Path::new("identity") => {}
            Err(EngineError::Damaged { file, offset: Some(_), .. }) if file == target => {
                let engine = DurableEngine::open_or_set_aside(&damaged.0, &owner()).expect("opens");
                assert!(engine.damage().is_some(), "{name:?}");
                reported.insert(name.to_owned());
            }
            Err(error) => panic!("{name:?}: {error}"),
        }
    }
    for file in
        ["0.jnl", "version", "keyspaces/0/current", "keyspaces/1/current", "keyspaces/2/current", "keyspaces/3/current"]
    {
        assert!(reported.contains(&Path::new("data").join(file)), "{file}: {reported:?}");
    }
}

/// Damage of the journal may matter to everything, so nothing of what is put aside comes along; and it is put aside once.
#[test]
fn a_damaged_journal_is_put_aside_once() {
    let folder = Folder::new("aside");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("starts");
    let fill = |engine: &DurableEngine| {
        for number in 0..100 {
            let commit = write(engine, number).expect("writes");
            runtime.block_on(engine.durable(commit)).expect("syncs");
        }
    };
    let damage = || {
        let mut all = Vec::new();
        files(&folder.0.join("data"), &mut all);
        let journal = all.into_iter().find(|path| path.extension().is_some_and(|e| e == "jnl")).expect("a journal");
        let mut bytes = fs::read(&journal).expect("reads");
        bytes[5_000] ^= 1;
        fs::write(&journal, bytes).expect("writes");
    };
    fill(&open(&folder.0).expect("opens"));
    damage();
    let refused = open(&folder.0).expect_err("it is damaged");
    assert!(matches!(refused, EngineError::Damaged { offset: Some(..=5_000), .. }), "{refused}");
    let engine = DurableEngine::open_or_set_aside(&folder.0, &owner()).expect("opens");
    assert!(engine.damage().is_some() && halves(&engine).expect("reads").is_empty());
    fill(&engine);
    drop(engine);
    damage();
    let refused = DurableEngine::open_or_set_aside(&folder.0, &owner()).expect_err("it was so before");
    assert!(matches!(&refused, EngineError::Damaged { file, .. } if file.ends_with("data.damaged")), "{refused}");
    fs::remove_dir_all(folder.0.join("data.damaged")).expect("removes");
    assert!(DurableEngine::open_or_set_aside(&folder.0, &owner()).expect("opens").damage().is_some());
}

/// What a batch of the test takes in the journal at most: two records of 320 bytes, their keys, and what surrounds them.
const MAX_BATCH_BYTES: usize = 800;

/// The same of the tables that are made of the journal once it is long. What can be read of them is there afterwards, if they are
/// put aside.
#[test]
fn damaged_tables_are_reported_with_their_place_and_put_aside() {
    const RECORDS: u64 = 260_000;
    const DAMAGES: u64 = 12;
    const ASIDE: u64 = 3;
    let (folder, damaged) = (Folder::new("tables"), Folder::new("damaged-tables"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("starts");
    let engine = open(&folder.0).expect("opens");
    for number in 0..RECORDS {
        let commit = write(&engine, number).expect("writes");
        if number % 10_000 == 0 || number + 1 == RECORDS {
            runtime.block_on(engine.durable(commit)).expect("syncs");
        }
    }
    drop(engine);
    let tables = || {
        let mut all = Vec::new();
        files(&folder.0, &mut all);
        all.retain(|path| {
            path.parent().is_some_and(|folder| folder.ends_with("tables"))
                && path.metadata().is_ok_and(|m| m.len() > 1 << 20)
        });
        all
    };
    assert!(!tables().is_empty(), "enough was written for a table");
    let mut rng = StdRng::seed_from_u64(0x7ab1e);
    let mut reported = 0;
    for turn in 0..DAMAGES {
        let _ = fs::remove_dir_all(&damaged.0);
        copy(&folder.0, &damaged.0);
        let tables = tables();
        let table = &tables[rng.random_range(0..tables.len())];
        let target = damaged.0.join(table.strip_prefix(&folder.0).expect("in it"));
        let mut bytes = fs::read(&target).expect("reads");
        let at = rng.random_range(0..bytes.len());
        if turn == 0 {
            fs::remove_file(&target).expect("removes");
        } else {
            if rng.random_bool(0.2) {
                bytes.truncate(at);
            } else {
                bytes[at] ^= 1 << rng.random_range(0..8u8);
            }
            fs::write(&target, &bytes).expect("writes");
        }
        match open(&damaged.0).and_then(|engine| numbers(&engine)) {
            Err(EngineError::Damaged { file, offset: Some(offset), .. }) => {
                assert!(file == target && offset <= at as u64, "turn {turn}, byte {at}: byte {offset} of {file:?}");
                reported += 1;
                if reported > ASIDE {
                    continue;
                }
                let engine = DurableEngine::open_or_set_aside(&damaged.0, &owner()).expect("opens");
                let damage = engine.damage().expect("it says so");
                assert!(damage.contains("data.damaged") && damage.contains(&format!("at byte {offset}")), "{damage}");
                let left = halves(&engine).expect("reads");
                let lost = 2 * RECORDS as usize - left.values().map(|halves| usize::from(*halves)).sum::<usize>();
                // A block, if the table can be opened.
                assert!(lost == 2 * RECORDS as usize || lost < 1_000, "turn {turn}, byte {at}: {lost} are lost");
                drop(engine);
                let engine = DurableEngine::open_or_set_aside(&damaged.0, &owner()).expect("it is whole now");
                assert!(engine.damage().is_none() && halves(&engine).expect("reads") == left);
            }
            Err(error) => panic!("turn {turn}, byte {at}: {error}"),
            Ok(found) => assert_eq!(found.len() as u64, RECORDS, "turn {turn}, byte {at}: lost without a word"),
        }
    }
    assert!(reported > DAMAGES / 2, "only {reported} of {DAMAGES}");
}
