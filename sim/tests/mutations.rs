//! Promise D2: every checker catches a deliberate fault of the system, and says nothing of the system without it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use polity::cluster::mutation::{self, Mutation};
use polity::shard::mutation::{self as owners, Mutation as Owners};
use polity_sim::case::Case;
use polity_sim::checker::{self, Facts};
use polity_sim::history::History;
use polity_sim::run::{Report, run};
use polity_sim::scenario;

/// A deliberate fault of one of the floors.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Wrong {
    /// Of the cluster, its documents or the store.
    Cluster(Mutation),
    /// Of ownership.
    Shard(Owners),
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster(mutation) => fmt::Display::fmt(mutation, f),
            Self::Shard(mutation) => fmt::Debug::fmt(mutation, f),
        }
    }
}

/// Runs a case on a system with this fault: all of a run is on one thread.
fn run_mutated(case: &Case, wrong: Wrong) -> Report {
    match wrong {
        Wrong::Cluster(mutation) => mutation::set(Some(mutation)),
        Wrong::Shard(mutation) => owners::set(Some(mutation)),
    }
    let report = run(case);
    mutation::set(None);
    owners::set(None);
    report
}

/// A fault, the checker that must catch it, and the promise that this one must name; in one of these cases, which are
/// run until it does.
struct Row {
    mutation: Wrong,
    checker: &'static str,
    promise: &'static str,
    cases: &'static [(&'static str, u64)],
}

const fn row(
    mutation: Mutation,
    checker: &'static str,
    promise: &'static str,
    cases: &'static [(&'static str, u64)],
) -> Row {
    Row { mutation: Wrong::Cluster(mutation), checker, promise, cases }
}

/// The same for a fault of ownership.
const fn owners(
    mutation: Owners,
    checker: &'static str,
    promise: &'static str,
    cases: &'static [(&'static str, u64)],
) -> Row {
    Row { mutation: Wrong::Shard(mutation), checker, promise, cases }
}

/// All faults.
fn all() -> Vec<Wrong> {
    let cluster = mutation::ALL.iter().copied().map(Wrong::Cluster);
    cluster.chain(owners::ALL.iter().copied().map(Wrong::Shard)).collect()
}

/// The case that catches it first comes first; the others are there because what a seed draws changes with the system.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    row(Mutation::SuspectsStay, "m1_complete", "M1", &[("kill", 1), ("kill", 0), ("kill", 2)]),
    row(Mutation::DownForGood, "m3_convergent", "M3", &[("pairs", 0), ("alone", 0), ("kill", 1)]),
    row(Mutation::BootUsedAgain, "m4_identity", "M4", &[("restart", 0), ("pairs", 0), ("kill", 1)]),
    row(Mutation::AdmitsOtherClusters, "m5_admission", "M5", &[("pairs", 0), ("restart", 19), ("restart", 27)]),
    row(Mutation::SkipsChanges, "m6_views", "M6", &[("alone", 0), ("pairs", 0), ("partition", 0)]),
    row(Mutation::ForgetsZones, "h1_one_map", "H1", &[("restart", 4), ("pairs", 9), ("restart", 10)]),
    row(Mutation::KeepsWhatItGave, "bounds", "K1", &[("alone", 0), ("pairs", 0), ("partition", 0)]),
    row(Mutation::AckAlone, "k1_durable", "K1", &[("restart", 1), ("restart", 4), ("rolling", 4)]),
    row(Mutation::AckAlone, "set_full", "K3", &[("restart", 1), ("rolling", 1), ("mix", 1)]),
    row(Mutation::AcksBeforeDurable, "k3_read_your_writes", "K3", &[("outage", 0), ("outage", 1)]),
    row(Mutation::ForgetsIdempotencyKeys, "counter", "K6", &[("kill", 0), ("partition", 2), ("restart", 1)]),
    row(Mutation::CountsTwice, "counter", "K6", &[("kill", 0), ("restart", 1), ("rolling", 0)]),
    row(Mutation::ReplacesUnseen, "k2_no_silent_loss", "K2", &[("restart", 0), ("alone", 0), ("partition", 0)]),
    row(Mutation::KnowsTooMuch, "k2_no_silent_loss", "K2", &[("alone", 0), ("partition", 0), ("kill", 0)]),
    row(Mutation::ReadsOne, "k3_read_your_writes", "K3", &[("partition", 0), ("pairs", 0), ("restart", 1)]),
    row(Mutation::ReadyAtOnce, "k3_read_your_writes", "K3", &[("alone", 0), ("pairs", 0), ("pairs", 1)]),
    row(Mutation::FetchesNothing, "k4_repair", "K4", &[("restart", 4), ("restart", 7), ("restart", 11)]),
    row(Mutation::NeverPatrols, "k4_repair", "K4", &[("away", 2), ("alone", 32), ("away", 4)]),
    row(Mutation::NeverCompares, "c1_convergent", "C1", &[("partition", 0), ("pairs", 0), ("alone", 0)]),
    row(Mutation::ForgetsContext, "c2_nothing_lost", "C2", &[("partition", 0), ("pairs", 0), ("alone", 0)]),
    row(Mutation::QuietGaps, "p1_topics", "P1", &[("partition", 8), ("pairs", 6), ("pairs", 7)]),
    row(Mutation::DeliversTwice, "p1_topics", "P1", &[("partition", 1), ("partition", 4), ("partition", 21)]),
    row(Mutation::GhostsStay, "p2_presence", "P2", &[("kill", 0), ("kill", 5), ("restart", 2)]),
    row(Mutation::ComesBackUnseen, "p2_presence", "P2", &[("partition", 1), ("partition", 2), ("partition", 5)]),
    row(Mutation::ForgetsDeletes, "k5_deletes_stay", "K5", &[("restart", 0), ("partition", 0), ("kill", 0)]),
    row(Mutation::CollectsUnasked, "k5_deletes_stay", "K5", &[("away", 8), ("away", 10), ("away", 0)]),
    row(Mutation::ShowsExpired, "k5_expiry", "K5", &[("kill", 1), ("partition", 2), ("partition", 5)]),
    row(Mutation::ForgetsRenewals, "k5_expiry", "K5", &[("kill", 1), ("partition", 2)]),
    row(Mutation::IgnoresTime, "kinds", "K2", &[("kinds", 7), ("kinds", 17)]),
    row(Mutation::ShowsTheLeast, "kinds", "K3", &[("kinds", 0), ("kinds", 2)]),
    row(Mutation::TakesAnyKind, "kinds", "K2", &[("kinds", 0), ("kinds", 1)]),
    row(Mutation::RemovesUnseen, "add_wins", "K3", &[("kinds", 4), ("kinds", 6)]),
    row(Mutation::ForgetsIdempotencyKeys, "add_wins", "K6", &[("kinds", 0), ("kinds", 1)]),
    row(Mutation::TellsTheStepOnly, "fading", "K5", &[("kinds", 18), ("kinds", 45)]),
    row(Mutation::ExpiresUnseen, "fading", "K3", &[("kinds", 20)]),
    row(Mutation::NeverLooksAgain, "w1_watches", "W1", &[("alone", 0), ("mix", 2), ("mix", 8), ("partition", 46)]),
    row(Mutation::DeniesWrites, "k6_honest_outcomes", "K6", &[("rotation", 1), ("pairs", 5), ("alone", 6), ("kill", 12)]),
    row(Mutation::DeniesWrites, "commands", "K6", &[("partition", 148), ("mix", 101), ("rotation", 203)]),
    row(Mutation::HidesSiblings, "set_full", "K1", &[("restart", 1), ("kill", 1), ("rolling", 1)]),
    row(Mutation::HidesSiblings, "counter", "K1", &[("partition", 0), ("kill", 1), ("pairs", 1)]),
    row(Mutation::HidesSiblings, "commands", "K1", &[("restart", 0), ("partition", 0), ("pairs", 1)]),
    row(Mutation::HidesSiblings, "budget", "K1", &[("pairs", 0), ("pairs", 1), ("partition", 1)]),
    owners(Owners::OpenFence, "h3_one_owner", "H3", &[("partition", 0), ("restart", 0), ("mix", 0)]),
    owners(Owners::ServesSuperseded, "h3_one_owner", "H3", &[("partition", 0), ("partition", 5), ("partition", 7)]),
    owners(Owners::ForgetsEpochs, "h3_one_owner", "H3", &[("partition", 0), ("mix", 0), ("kill", 0)]),
    owners(Owners::KeepsForGood, "h3_one_owner", "H3", &[("partition", 0), ("mix", 0), ("kill", 0)]),
    owners(Owners::QuietLoser, "h4_conflicts", "H4", &[("partition", 0), ("partition", 5), ("partition", 7)]),
    owners(Owners::LetsGoUnacknowledged, "h5_handoff", "H5", &[("partition", 0), ("mix", 0), ("kill", 0)]),
];

/// Faults that no scenario shows, and the test of the system that catches them.
const ELSEWHERE: &[(Wrong, &str)] = &[
    (Wrong::Cluster(Mutation::MintsAlone), "cluster/src/formation/tests.rs: the_model_catches_a_node_that_mints_alone"),
    (
        Wrong::Cluster(Mutation::TakesReplays),
        "cluster/src/secure/cookie/tests.rs: the_property_catches_a_node_that_takes_replays",
    ),
    (
        Wrong::Cluster(Mutation::BelievesNames),
        "cluster/src/rpc/tests.rs: the_test_of_names_catches_a_node_that_believes_them",
    ),
    (
        Wrong::Cluster(Mutation::UsesKeysUnheld),
        "cluster/src/secure/ring/tests.rs: the_model_catches_keys_that_are_used_unheld_or_dropped_at_once",
    ),
    (
        Wrong::Cluster(Mutation::DropsKeysAtOnce),
        "cluster/src/secure/ring/tests.rs: the_model_catches_keys_that_are_used_unheld_or_dropped_at_once",
    ),
    (
        Wrong::Cluster(Mutation::ForgetsFences),
        "kv/src/model/schedules/disks.rs: the_model_catches_a_fence_that_is_not_kept",
    ),
    (
        Wrong::Cluster(Mutation::ReplacesWhatIsBeingWritten),
        "kv/src/store/blind/tests.rs: the_test_of_random_puts_catches_one_that_replaces_what_is_being_written",
    ),
    (Wrong::Cluster(Mutation::StampsNothing), "kv/src/store/records/tests.rs: this_test_catches_writes_without_a_time"),
    (Wrong::Cluster(Mutation::BringsBackCounts), "kv/src/store/expiry/tests.rs: these_tests_catch_their_faults"),
    (Wrong::Cluster(Mutation::NoLocalHealth), "sim/tests/accuracy.rs: the comparison with plain SWIM"),
    (Wrong::Shard(Owners::AcksBeforeInstall), "shard/tests/mutations.rs: every_fault_is_noticed_and_nothing_else"),
    (Wrong::Shard(Owners::ClaimsUnlearned), "shard/tests/mutations.rs: every_fault_is_noticed_and_nothing_else"),
    (Wrong::Shard(Owners::ForgetsTheWinner), "shard/tests/mutations.rs: every_fault_is_noticed_and_nothing_else"),
    (Wrong::Shard(Owners::SwapsStates), "shard/tests/mutations.rs: every_fault_is_noticed_and_nothing_else"),
    (
        Wrong::Shard(Owners::QuietAlarm),
        "shard/tests/mutations.rs: a_handoff_that_does_not_go_on_is_reported_but_for_the_fault",
    ),
    (Wrong::Shard(Owners::IgnoresWeights), "shard/tests/placement.rs: every_fault_of_placement_is_noticed"),
    (Wrong::Shard(Owners::IgnoresZones), "shard/tests/placement.rs: every_fault_of_placement_is_noticed"),
    (Wrong::Shard(Owners::CountsNodes), "shard/tests/placement.rs: every_fault_of_placement_is_noticed"),
];

fn case((scenario, seed): (&str, u64)) -> Case {
    scenario::find(scenario).expect("a scenario").case(seed)
}

/// Whether the checker says that the promise was broken.
fn catches(row: &Row, history: &History) -> bool {
    let checker = checker::ALL.iter().find(|checker| checker.name == row.checker).expect("a checker");
    (checker.check)(&Facts::of(history)).iter().any(|violation| violation.promise == row.promise)
}

/// Does the work of each of them, on all cores, and returns what came of it.
fn each<T: Sync, R: Send>(all: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = work(one);
                    done.lock().expect("no worker panicked").push(result);
                }
            });
        }
    });
    done.into_inner().expect("no worker panicked")
}

#[test]
fn every_mutation_is_caught_by_its_checker_and_the_system_itself_is_not() {
    // Rows of one mutation share its runs.
    let caught = each(&all(), |mutation| {
        let mut reports = BTreeMap::new();
        let rows = ROWS.iter().filter(|row| row.mutation == *mutation);
        let judged = rows.map(|row| {
            let by = row.cases.iter().find(|name| {
                let history = reports.entry(**name).or_insert_with(|| run_mutated(&case(**name), *mutation).history);
                catches(row, history)
            });
            println!("{mutation}: {} says {} of {by:?}", row.checker, row.promise);
            (format!("{mutation} by {} as {}", row.checker, row.promise), by.copied())
        });
        judged.collect::<Vec<_>>()
    });
    let caught: Vec<_> = caught.into_iter().flatten().collect();
    let missed: Vec<_> = caught.iter().filter(|(_, by)| by.is_none()).map(|(row, _)| row).collect();
    assert!(missed.is_empty(), "nobody caught: {missed:#?}");

    let cases: BTreeSet<_> = caught.iter().filter_map(|(_, by)| *by).collect();
    let cases: Vec<_> = cases.into_iter().collect();
    let broken = each(&cases, |name| run(&case(*name)).violations);
    assert!(broken.iter().all(Vec::is_empty), "without a mutation: {broken:#?}");
}

#[test]
fn every_mutation_and_every_checker_has_a_row() {
    let mut mutations: BTreeSet<Wrong> = ROWS.iter().map(|row| row.mutation).collect();
    mutations.extend(ELSEWHERE.iter().map(|(mutation, _)| *mutation));
    assert_eq!(mutations, all().into_iter().collect());
    let checkers: BTreeSet<&str> = ROWS.iter().map(|row| row.checker).collect();
    assert_eq!(checkers, checker::ALL.iter().map(|checker| checker.name).collect());
}
