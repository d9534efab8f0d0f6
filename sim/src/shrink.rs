//! Makes a case that fails smaller, as long as it still breaks the same promise: fewer acts, faults, clients and nodes,
//! shorter times, plainer settings.
//!
//! A smaller case is another run: its datagrams meet other moments. So each is tried with some seeds before it is given
//! up. What is found may be another way to break the promise; it is a failure all the same, and smaller.

use std::time::Duration;

use crate::case::{Act, Case, Timed};
use crate::fault::Fault;
use crate::history::Host;
use crate::run::run;
use crate::settings::{Settings, Store};

/// With how many seeds a smaller case is tried.
const SEEDS: u64 = 4;
/// Shorter than this, times are not cut.
const SHORTEST: Duration = Duration::from_millis(100);

/// What came of shrinking.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The smallest case that was found to break the promise.
    pub case: Case,
    /// The promise.
    pub promise: String,
    /// How many runs it took.
    pub runs: u32,
}

/// Shrinks a case that fails with at most so many runs; `None` if it does not fail. `seen` is told of each smaller case.
pub fn shrink(case: &Case, runs: u32, mut seen: impl FnMut(&Case)) -> Option<Shrunk> {
    let promise = (*run(case).broken().first()?).to_owned();
    let mut found = Shrunk { case: case.clone(), promise, runs: 1 };
    'again: loop {
        for smaller in smaller(&found.case) {
            for more in 0..SEEDS {
                if found.runs >= runs {
                    return Some(found);
                }
                found.runs += 1;
                let seed = smaller.seed.wrapping_add(more);
                let tried = Case { seed, ..smaller.clone() };
                if run(&tried).broken().contains(found.promise.as_str()) {
                    seen(&tried);
                    found.case = tried;
                    continue 'again;
                }
            }
        }
        return Some(found);
    }
}

/// Cases a step smaller than this, those first that leave out the most.
fn smaller(case: &Case) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut with_acts = |acts: Vec<Act>| cases.push(Case { acts, ..case.clone() });
    for i in 0..case.acts.len() {
        with_acts(without(&case.acts, i));
    }
    for (i, act) in case.acts.iter().enumerate() {
        let mut with_act = |act: Act| {
            let mut acts = case.acts.clone();
            acts[i] = act;
            with_acts(acts);
        };
        for j in 0..act.faults.len() {
            with_act(Act { faults: without(&act.faults, j), lasts: act.lasts });
        }
        let needed = Act::new(act.faults.clone()).lasts;
        if act.lasts > needed {
            with_act(Act { lasts: needed, ..act.clone() });
        }
        for (j, timed) in act.faults.iter().enumerate() {
            for halved in halved(timed) {
                let mut faults = act.faults.clone();
                faults[j] = halved;
                with_act(Act::new(faults).and_then(act.lasts - needed));
            }
        }
    }
    let mut with_settings = |settings: Settings| {
        if settings != case.settings && settings.problem().is_none() {
            cases.push(Case { settings, ..case.clone() });
        }
    };
    let settings = &case.settings;
    for i in 0..settings.workloads.len() {
        with_settings(Settings { workloads: without(&settings.workloads, i), ..settings.clone() });
    }
    with_settings(Settings { strangers: Vec::new(), ..settings.clone() });
    if !case.faults().any(|timed| matches!(timed.fault, Fault::Outage(_))) {
        with_settings(Settings { durable: false, ..settings.clone() });
        with_settings(Settings { disk: false, durable: false, ..settings.clone() });
    }
    with_settings(Settings { moving: false, ..settings.clone() });
    with_settings(Settings { zones: 1, ..settings.clone() });
    with_settings(Settings { pace: 100, ..settings.clone() }.bounded());
    let mut store = settings.store.clone();
    store.shards = (store.shards / 2).max(1);
    with_settings(Settings { store, ..settings.clone() });
    let store = Store { other_replicas: None, ..settings.store.clone() };
    with_settings(Settings { store, ..settings.clone() });
    cases.extend(with_fewer_hosts(case));
    cases
}

fn without<T: Clone>(all: &[T], i: usize) -> Vec<T> {
    [&all[..i], &all[i + 1..]].concat()
}

/// The fault sooner, or shorter.
fn halved(timed: &Timed) -> Vec<Timed> {
    let half = |time: Duration| Duration::from_millis(time.as_millis() as u64 / 2);
    let mut halved = Vec::new();
    if timed.lasts > SHORTEST {
        halved.push(Timed { lasts: half(timed.lasts), ..timed.clone() });
    }
    if timed.from > SHORTEST {
        halved.push(Timed { from: half(timed.from), ..timed.clone() });
    }
    halved
}

/// The case without the last host that is not late.
fn with_fewer_hosts(case: &Case) -> Option<Case> {
    let settings = &case.settings;
    let last = settings.early().last().filter(|last| last.0 > 0)?;
    // Late hosts come last: they move up by one.
    let moved = |host: Host| host.0 > last.0;
    if case.faults().any(|timed| timed.fault.hosts().into_iter().any(moved)) {
        return None;
    }
    let acts = case.acts.iter().map(|act| {
        let kept = act.faults.iter().filter_map(|timed| {
            let fault = timed.fault.without(&|host| host == last)?;
            Some(Timed { fault, ..timed.clone() })
        });
        Act { faults: kept.collect(), lasts: act.lasts }
    });
    let hosts = settings.hosts - 1;
    let settings = Settings { hosts, seeds: settings.seeds.min(hosts), ..settings.clone() };
    let smaller = Case { acts: acts.collect(), settings, ..case.clone() };
    smaller.settings.problem().is_none().then_some(smaller)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario;

    #[test]
    fn what_is_tried_is_smaller_and_can_be_built() {
        for seed in 0..30 {
            let case = scenario::find("mix").expect("it is there").case(seed);
            let all = smaller(&case);
            assert!(!all.is_empty());
            for smaller in all {
                assert_ne!(smaller, case);
                assert_eq!(Case::from_json(&smaller.to_json()).expect("it is one"), smaller);
            }
        }
    }

    #[test]
    fn shrinking_ends() {
        let mut case = scenario::find("mix").expect("it is there").case(1);
        let mut steps = 0;
        while let Some(next) = smaller(&case).into_iter().next() {
            case = next;
            steps += 1;
            assert!(steps < 1000, "{case:?}");
        }
    }
}
