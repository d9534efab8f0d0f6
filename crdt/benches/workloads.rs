//! What replication costs: `cargo bench -p polity-crdt --bench workloads`, a hundredth of it with `-- --quick`, and
//! one workload alone with its name, like `-- join`.
//!
//! Keys have 12 bytes and values 16. All replicas run here, on one core, and exchange encoded messages without delay; times
//! are the work of all of them together, and of waiting none is counted. Beside it stands `crdts`, which sends and merges
//! whole states, on the same content in the same run. Nothing is asserted.

mod bed;

use std::hint::black_box;
use std::time::{Duration, Instant};

use bed::{
    KEY_BYTES, Network, Ours, PAYLOAD_BYTES, full_bytes, head, is_quick, is_wanted, key, ms, row, their_merge,
    their_puts, theirs, us,
};
use crdts::{CmRDT, CvRDT, Orswot};
use polity_crdt::{AwSet, Crdt, Delta, Replica, ReplicaId};

fn main() {
    let share = if is_quick() { 100 } else { 1 };
    head();
    let shared = 10_000 / share;
    let rows: [(&str, &dyn Fn()); 8] = [
        ("bulk", &|| {
            bulk(10_000 / share, "100 ms", "30 ms");
            bulk(50_000 / share, "400 ms", "150 ms");
        }),
        ("visible", &|| visible(20_000 / share)),
        ("heal", &|| {
            heal("heal, one add", shared, (1, 0), 0, ("1 kB", "300 B"));
            heal("heal, one remove", shared, (0, 1), 0, ("1 kB", "300 B"));
            heal("heal, +100 on each side", shared, (100, 0), 100, ("3 x", "1.5 x"));
            heal("heal, +100 and -100 on each side", shared, (100, 100), 100, ("3 x", "2.2 x"));
        }),
        ("idle", &idle),
        ("join", &|| join(1_000_000 / share)),
        ("churn", &|| churn(10_000_000 / share)),
        ("add", &|| add(100_000 / share)),
        ("merge", &|| merge(10_000 / share)),
    ];
    for (name, run) in rows {
        if is_wanted(name) {
            run();
        }
    }
}

/// The least time of some rounds, each of which is prepared: what else the machine does can only add to it.
fn best<S>(rounds: usize, mut prepare: impl FnMut() -> S, mut run: impl FnMut(&mut S)) -> Duration {
    let time = |_| {
        let mut state = prepare();
        let begin = Instant::now();
        run(&mut state);
        let time = begin.elapsed();
        black_box(state);
        time
    };
    (0..rounds).map(time).min().unwrap_or_default()
}

fn is_as_large(a: &Ours, b: &Ours) -> bool {
    a.len() == b.len()
}

fn bulk(keys: u64, target: &str, star: &str) {
    let mut network = Network::<Ours>::new(3);
    let time = best(
        5,
        || Network::<Ours>::new(3),
        |network| {
            network.put(0, 0..keys);
            network.settle(is_as_large);
        },
    );
    let before = network.bytes;
    network.put(0, 0..keys);
    network.settle(is_as_large);
    let bytes = (network.bytes - before) as f64 / keys as f64;

    let state = theirs(1, 0..keys);
    let (their_bytes, _) = their_merge(&bed::Theirs::new(), &state);
    let their_time = best(
        5,
        || (state.clone(), state.clone(), bed::Theirs::new(), bed::Theirs::new()),
        |(one, two, a, b)| {
            a.merge(std::mem::take(one));
            b.merge(std::mem::take(two));
        },
    );
    let name = format!("bulk, {keys} keys to two empty replicas");
    let beside = format!(
        "crdts merges two whole states in {:.1} ms (ours/theirs {:.2}); equal: {}",
        ms(their_time),
        ms(time) / ms(their_time),
        network.are_equal()
    );
    row(&name, &format!("{:.1} ms", ms(time)), target, star, &beside);
    let minimum = 2.0 * PAYLOAD_BYTES as f64;
    let theirs = 2.0 * their_bytes as f64 / keys as f64;
    let beside = format!("payload {minimum}; crdts {theirs:.1}; ours/theirs {:.2}", bytes / theirs);
    row(
        "  its bytes per key, all messages",
        &format!("{bytes:.1} = {:.2} x", bytes / minimum),
        "2.0 x",
        "1.4 x",
        &beside,
    );
}

fn visible(updates: u64) {
    let mut network = Network::<Ours>::new(3);
    network.put(0, 0..updates / 2);
    network.settle(is_as_large);
    let mut times: Vec<Duration> = (updates / 2..updates)
        .map(|number| {
            network.run(Duration::from_millis(2));
            let begin = Instant::now();
            network.put(0, number..number + 1);
            network.pump();
            let time = begin.elapsed();
            let seen = network.replicas.iter().all(|replica| replica.replica().contains_key(&key(number)));
            if seen { time } else { Duration::MAX }
        })
        .collect();
    times.sort_unstable();
    let at = |share: f64| us(times[((times.len() - 1) as f64 * share) as usize]);
    let figure = format!("{:.1} / {:.1} us", at(0.5), at(0.99));
    let beside = "work from the call to both peers, without a wire; targets are with one";
    row("one update visible at two peers, p50 / p99", &figure, "1 / 5 ms", "0.15 / 2 ms", beside);
}

/// Two replicas part, each side adds and removes, and they meet again. Counted until nothing is under way.
fn heal(name: &str, shared: u64, (adds, removes): (u64, u64), there: u64, (target, star): (&str, &str)) {
    let mut network = Network::<Ours>::new(2);
    network.put(0, 0..shared);
    network.settle(is_as_large);
    network.run(Duration::from_secs(30));
    network.part();
    let adds_there = there.min(adds);
    let removes_there = there.min(removes).min(shared / 4);
    let removes = removes.min(shared / 4);
    network.put(0, shared..shared + adds);
    network.put(1, 2 * shared..2 * shared + adds_there);
    network.remove(0, 0..removes);
    network.remove(1, shared / 2..shared / 2 + removes_there);
    network.run(Duration::from_secs(60));
    let before = network.bytes;
    network.meet();
    let begin = Instant::now();
    network.settle(|a, b| a == b);
    let time = begin.elapsed();
    let bytes = network.bytes - before;
    let payload = (adds + adds_there) * PAYLOAD_BYTES + (removes + removes_there) * KEY_BYTES;

    let common = theirs(1, 0..shared);
    let (mut a, mut b) = (common.clone(), common);
    their_puts(&mut a, 1, shared..shared + adds);
    their_puts(&mut b, 2, 2 * shared..2 * shared + adds_there);
    for (map, numbers) in [(&mut a, 0..removes), (&mut b, shared / 2..shared / 2 + removes_there)] {
        for number in numbers {
            let context = map.get(&key(number)).derive_rm_ctx();
            map.apply(map.rm(key(number), context));
        }
    }
    let (there, one) = their_merge(&a, &b);
    let (back, two) = their_merge(&b, &a);
    let beside = format!(
        "payload {payload} (key + value of an add, key of a remove); {:.2} ms; crdts {} B, {:.2} ms; equal: {}",
        ms(time),
        there + back,
        ms(one + two),
        network.are_equal()
    );
    row(name, &format!("{bytes} B = {:.2} x", bytes as f64 / payload as f64), target, star, &beside);
}

fn idle() {
    let mut network = Network::<Ours>::new(3);
    network.put(0, 0..1_000);
    network.settle(is_as_large);
    network.run(Duration::from_secs(60));
    let before = network.bytes;
    network.run(Duration::from_secs(60));
    let rate = (network.bytes - before) as f64 / 60.0 / 6.0;
    row("idle, bytes a second and directed pair", &format!("{rate:.1} B/s"), "200 B/s", "100 B/s", "");
}

fn join(keys: u64) {
    let mut network = Network::<Ours>::new(1);
    network.put(0, 0..keys);
    network.settle(is_as_large);
    network.start();
    let before = network.bytes;
    let begin = Instant::now();
    network.meet();
    network.settle(is_as_large);
    let time = begin.elapsed().as_secs_f64();
    let bytes = (network.bytes - before) as f64 / keys as f64;
    let name = format!("an empty replica joins {keys} keys");
    let ratio = bytes / PAYLOAD_BYTES as f64;
    let beside = format!(
        "both sides on one core: the old one {:.2} s, the new one {:.2} s; {bytes:.1} B per key = {ratio:.2} x payload; equal: {}",
        network.spent[0].as_secs_f64(),
        network.spent[1].as_secs_f64(),
        network.are_equal()
    );
    row(&name, &format!("{time:.2} s"), "5 s", "2 s", &beside);
}

/// Three replicas add and remove in turn. Each element that comes replaces one of a thousand.
fn churn(operations: u64) {
    let mut replicas = [1, 2, 3].map(|id| Replica::<AwSet<String>>::new(ReplicaId(id * 0x1234_5678_9abc)));
    let live = 1_000;
    let mut present: Vec<u64> = Vec::new();
    let mut random = 1_u64;
    for number in 0..operations / 2 {
        let at = (number % 3) as usize;
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut deltas = Vec::new();
        if present.len() as u64 == live {
            let victim = present.swap_remove((random >> 33) as usize % present.len());
            deltas.push(replicas[at].update(|set, _| Ok(set.remove(&key(victim)))));
        }
        present.push(number);
        deltas.push(replicas[at].update(|set, w| set.add(w, key(number))));
        for delta in deltas.into_iter().filter_map(|delta| delta.expect("counters do not run out")) {
            for other in (0..3).filter(|other| *other != at) {
                replicas[other].merge(delta.clone());
            }
        }
    }
    let mut fresh = [1, 2, 3].map(|id| Replica::<AwSet<String>>::new(ReplicaId(id * 0x1234_5678_9abc)));
    for number in present {
        let at = (number % 3) as usize;
        let delta = fresh[at].update(|set, w| set.add(w, key(number))).expect("counters do not run out");
        for other in (0..3).filter(|other| *other != at) {
            fresh[other].merge(delta.clone().expect("an add is a change"));
        }
    }
    let (old, new) = (full_bytes(&replicas[0]), full_bytes(&fresh[0]));
    let name = format!("state after {operations} adds and removes, {live} live");
    let beside = format!(
        "{old} B against {new} B; intervals of the context: {}; equal: {}",
        replicas[0].context().interval_count(),
        replicas[0] == replicas[1] && replicas[1] == replicas[2]
    );
    row(&name, &format!("{:.3} x", old as f64 / new as f64), "1.1 x", "1.02 x", &beside);
}

fn ours_of(id: u64, numbers: std::ops::Range<u64>) -> Replica<AwSet<String>> {
    let mut set = Replica::<AwSet<String>>::new(ReplicaId(id));
    numbers.for_each(|number| drop(set.update(|set, w| set.add(w, key(number)))));
    set
}

fn theirs_of(id: u64, numbers: std::ops::Range<u64>) -> Orswot<String, u64> {
    let mut set = Orswot::new();
    for number in numbers {
        let add = set.read_ctx().derive_add_ctx(id);
        set.apply(set.add(key(number), add));
    }
    set
}

fn add(elements: u64) {
    for count in [elements / 10, elements] {
        let each = |time: Duration| us(time) / count as f64;
        let keys = || (0..count).map(key).collect::<Vec<_>>();
        let ours = best(
            15,
            || (keys(), Replica::<AwSet<String>>::new(ReplicaId(1))),
            |(keys, set)| keys.drain(..).for_each(|key| drop(set.update(|set, w| set.add(w, key)))),
        );
        let theirs = best(
            15,
            || (keys(), Orswot::<String, u64>::new()),
            |(keys, set)| {
                keys.drain(..).for_each(|key| {
                    let add = set.read_ctx().derive_add_ctx(1);
                    let op = set.add(key, add);
                    // What is sent to the others, as our delta is.
                    set.apply(op.clone());
                    drop(black_box(op));
                });
            },
        );
        let beside = format!("crdts {:.3} us, {:.2} x faster", each(theirs), each(theirs) / each(ours));
        let name = format!("add-wins set: add one, {count} in all");
        row(&name, &format!("{:.3} us", each(ours)), "1 x", "5 x faster", &beside);
    }
}

fn merge(elements: u64) {
    let (a, b) = (ours_of(1, 0..elements), ours_of(2, elements..2 * elements));
    let (state, bytes) = (b.full(), b.full().encode());
    let ours = best(
        15,
        || (a.clone(), state.clone()),
        |(set, state)| {
            set.merge(std::mem::take(state));
        },
    );
    let decoded = best(
        15,
        || a.clone(),
        |set| {
            set.merge(<AwSet<String> as Crdt>::Delta::decode(&bytes).expect("these are its bytes"));
        },
    );
    let (a, b) = (theirs_of(1, 0..elements), theirs_of(2, elements..2 * elements));
    let theirs = best(15, || (a.clone(), b.clone()), |(set, other)| set.merge(std::mem::take(other)));
    let their_bytes = postcard::to_stdvec(&b).expect("a state has an encoding").len();
    let beside = format!(
        "with decoding {:.2} ms, {} B; crdts {:.2} ms, {their_bytes} B, {:.2} x faster",
        ms(decoded),
        bytes.len(),
        ms(theirs),
        ms(theirs) / ms(ours)
    );
    let name = format!("add-wins set: merge two disjoint of {elements}");
    row(&name, &format!("{:.2} ms", ms(ours)), "1 x", "5 x faster", &beside);
}
