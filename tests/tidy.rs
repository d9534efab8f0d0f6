//! What the compiler does not check about the sources: which crate may use which, and what simulated code must not touch.
//!
//! Every rule is a function over text, and has a test that it catches what it is for.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Which of our crates each may depend on.
const ARROWS: [(&str, &[&str]); 7] = [
    ("crdt", &[]),
    ("cluster", &["polity-crdt"]),
    ("shard", &["polity-cluster", "polity-crdt"]),
    ("kv", &["polity-shard", "polity-cluster", "polity-crdt"]),
    (".", &["polity-kv", "polity-shard", "polity-cluster", "polity-crdt"]),
    ("sim", &["polity", "polity-kv", "polity-shard", "polity-cluster", "polity-crdt"]),
    ("examples", &["polity"]),
];

/// The folders whose code the simulator runs.
const SIMULATED: [&str; 6] = ["crdt/src", "cluster/src", "shard/src", "kv/src", "src", "sim/src"];

/// The places where the operating system's clock, random source and threads enter. The simulator runs none of them.
const GROUND: [&str; 3] =
    ["cluster/src/ground/real.rs", "cluster/src/ground/executor.rs", "kv/src/engine/durable/committer.rs"];

/// Parts of the simulator that run outside of every simulation: they drive real processes and real time.
const OUTSIDE: [&str; 6] = [
    "sim/src/lean/measure.rs",
    "sim/src/swarm.rs",
    "sim/src/watchdog.rs",
    "sim/src/process.rs",
    "sim/src/cli.rs",
    "sim/src/main.rs",
];

/// What makes a run depend on more than its seed, or hides a task.
const FORBIDDEN: [(&str, &str); 14] = [
    ("std::time::Instant::now", "monotonic time is tokio::time"),
    ("use std::time::Instant", "monotonic time is tokio::time"),
    ("use std::time::{Instant", "monotonic time is tokio::time"),
    ("use std::time::{Duration, Instant", "monotonic time is tokio::time"),
    ("SystemTime::now", "the wall clock comes from Env"),
    ("rand::rng(", "randomness comes from a seed"),
    ("thread_rng", "randomness comes from a seed"),
    ("from_os_rng", "randomness comes from a seed"),
    ("SystemRandom", "randomness comes from Env"),
    ("HashMap", "iteration order would differ from run to run: use BTreeMap"),
    ("HashSet", "iteration order would differ from run to run: use BTreeSet"),
    ("tokio::spawn", "tasks belong to a JoinSet that stops them"),
    ("thread::spawn", "threads are the ground's"),
    ("thread::sleep", "nothing blocks"),
];

/// Cores that must know neither a runtime nor a socket.
const CORES: &[&str] = &[
    "crdt/src",
    "shard/src/candidate.rs",
    "shard/src/claims",
    "shard/src/epoch.rs",
    "shard/src/explain.rs",
    "shard/src/handoff",
    "shard/src/journal.rs",
    "shard/src/mutation.rs",
    "shard/src/placement.rs",
    "shard/src/rendezvous.rs",
    "shard/src/shard_id.rs",
    "shard/src/steward.rs",
    "cluster/src/identity.rs",
    "cluster/src/config.rs",
    "cluster/src/buckets.rs",
    "cluster/src/discovery/multicast/message.rs",
    "cluster/src/formation/core.rs",
    "cluster/src/membership/agent.rs",
    "cluster/src/membership/core.rs",
    "cluster/src/presence/roll.rs",
    "cluster/src/topic/publisher.rs",
    "cluster/src/topic/subscriber.rs",
    "cluster/src/membership/message.rs",
    "cluster/src/membership/handle.rs",
    "cluster/src/state",
    "cluster/src/secure/cookie.rs",
    "cluster/src/secure/envelope.rs",
    "cluster/src/secure/replay.rs",
    "cluster/src/secure/secret.rs",
    "kv/src/layout.rs",
    "kv/src/kept.rs",
    "kv/src/roster.rs",
    "kv/src/standing.rs",
    "kv/src/tally.rs",
    "kv/src/account.rs",
    "kv/src/digest.rs",
    "kv/src/reconcile",
    "kv/src/store/expiry.rs",
    "kv/src/store/pages.rs",
    "kv/src/store/records.rs",
    "kv/src/store/repair.rs",
    "kv/src/record/mod.rs",
    "kv/src/record/stored.rs",
    "kv/src/record/part.rs",
    "kv/src/record/update.rs",
    "kv/src/agenda.rs",
    "kv/src/hints.rs",
    "kv/src/census.rs",
    "kv/src/watch/interest.rs",
    "kv/src/watch/registry.rs",
    "kv/src/watch/view.rs",
    "kv/src/place.rs",
    "kv/src/engine/by_shard.rs",
    "kv/src/engine/memory",
    "cluster/src/secure/ring.rs",
    "cluster/src/membership/health.rs",
    "cluster/src/membership/suspicion.rs",
    "cluster/src/membership/lineup.rs",
    "cluster/src/membership/rumors.rs",
    "cluster/src/membership/deadlines.rs",
    "cluster/src/membership/member.rs",
    "cluster/src/membership/stats.rs",
];

const NOT_IN_CORES: [&str; 6] = ["tokio::", "quinn::", "UdpSocket", "async fn", "turmoil::", "Instant::now"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Rust files at or below a path, in order.
fn sources(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    let found = paths.iter().flat_map(|path| {
        if path.is_dir() || path.extension().is_some_and(|e| e == "rs") { sources(path) } else { Vec::new() }
    });
    found.collect()
}

/// The code of a file without its comments and without the tests at its end.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("#[cfg(test)]\nmod tests").or_else(|| text.find("#[cfg(test)]\npub(crate) mod tests"));
    let lines = text[..end.unwrap_or(text.len())].lines().enumerate();
    lines.filter(|(_, line)| !line.trim_start().starts_with("//")).map(|(at, line)| (at + 1, line))
}

fn is_test_file(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "tests.rs") || path.components().any(|c| c.as_os_str() == "tests")
}

fn forbidden_in(text: &str) -> Vec<(usize, &'static str)> {
    let lines: Vec<_> = code(text).collect();
    let found = lines
        .iter()
        .flat_map(|(at, line)| FORBIDDEN.iter().filter(|(word, _)| line.contains(word)).map(|(_, why)| (*at, *why)));
    found.collect()
}

fn impure_in(text: &str) -> Vec<(usize, &'static str)> {
    let lines: Vec<_> = code(text).collect();
    let found = lines
        .iter()
        .flat_map(|(at, line)| NOT_IN_CORES.iter().filter(|word| line.contains(**word)).map(|word| (*at, *word)));
    found.collect()
}

/// The names of our crates in the `[dependencies]` of a manifest.
fn ours_in(manifest: &str) -> Vec<String> {
    let mut section = "";
    let mut found = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if section == "[dependencies]" && line.starts_with("polity") {
            found.push(line.split(['.', ' ', '=']).next().unwrap_or_default().to_owned());
        }
    }
    found
}

#[test]
fn every_arrow_points_down() {
    for (folder, allowed) in ARROWS {
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("a manifest");
        for dependency in ours_in(&manifest) {
            assert!(allowed.contains(&&*dependency), "{folder} must not depend on {dependency}");
        }
    }
}

#[test]
fn simulated_code_is_a_function_of_its_seed() {
    let mut problems = BTreeMap::new();
    for folder in SIMULATED {
        for path in sources(&root().join(folder)) {
            let name = path.strip_prefix(root()).expect("below the root").display().to_string();
            if GROUND.contains(&&*name) || OUTSIDE.contains(&&*name) || is_test_file(&path) {
                continue;
            }
            let found = forbidden_in(&fs::read_to_string(&path).expect("readable"));
            if !found.is_empty() {
                problems.insert(name, found);
            }
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn cores_know_no_runtime_and_no_socket() {
    for core in CORES {
        for path in sources(&root().join(core)) {
            let found = impure_in(&fs::read_to_string(&path).expect("readable"));
            assert!(found.is_empty(), "{}: {found:?}", path.display());
        }
    }
}

#[test]
fn the_rules_catch_what_they_are_for() {
    assert_eq!(
        ours_in("[dependencies]\npolity-kv.workspace = true\n[dev-dependencies]\npolity-sim = 1"),
        ["polity-kv"]
    );
    for line in
        ["use std::time::Instant;", "let x = SystemTime::now();", "let map = HashMap::new();", "tokio::spawn(f);"]
    {
        assert_eq!(forbidden_in(line).len(), 1, "{line}");
        assert!(forbidden_in(&format!("// {line}")).is_empty());
        assert!(forbidden_in(&format!("#[cfg(test)]\nmod tests {{\n{line}")).is_empty());
    }
    assert_eq!(impure_in("use tokio::time::sleep;").len(), 1);
}
