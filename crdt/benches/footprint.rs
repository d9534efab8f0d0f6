//! What a replica weighs: `cargo bench -p polity-crdt --bench footprint`, a hundredth of it with `-- --quick`.
//!
//! A bench of its own, because counting every allocation takes time. Heap is what was asked of the allocator; resident memory
//! is what the system says (Linux only), which has the allocator's own cost in it. Nothing is asserted.

mod bed;

use std::hint::black_box;

use allocation_counter::measure;
use bed::{Network, Ours, head, is_quick, row, theirs};

fn main() {
    let keys = if is_quick() { 1_000 } else { 100_000 };
    head();
    let lone = weigh(|| {
        let mut network = Network::<Ours>::new(1);
        network.put(0, 0..keys);
        network
    });
    // Later rows reuse what earlier ones have given back: resident memory is honest in the first one only, and heap in all.
    let settled = weigh(|| {
        let mut network = Network::<Ours>::new(3);
        network.put(0, 0..keys);
        network.settle(|a, b| a.len() == b.len());
        network
    });
    let alone = weigh(|| {
        let mut replica = polity_crdt::Replica::<Ours>::new(polity_crdt::ReplicaId(1));
        for number in 0..keys {
            let put = replica
                .update(|map, w| map.update(w, bed::key(number), |register, w| register.set(w, bed::value(number))));
            put.expect("counters do not run out");
        }
        replica
    });
    let behind = weigh(|| {
        let mut network = Network::<Ours>::new(3);
        network.put(0, 0..keys);
        network
    });
    let crdts = weigh(|| theirs(1, 0..keys));
    let per_key = |bytes: f64, replicas: f64| bytes / keys as f64 / replicas;
    let name = format!("heap per key, {keys} keys");
    let figure = format!("{:.0} B", per_key(lone.heap, 1.0));
    let beside = format!(
        "resident {:.0}; crdts heap {:.0}, resident {:.0}; payload 28; ours/theirs {:.2}",
        per_key(lone.resident, 1.0),
        per_key(crdts.heap, 1.0),
        per_key(crdts.resident, 1.0),
        lone.heap / crdts.heap
    );
    row(&name, &figure, "300 B", "200 B", &beside);
    row("  each of three, after they have settled", &format!("{:.0} B", per_key(settled.heap, 3.0)), "", "", "");
    row("  a replica without anti-entropy", &format!("{:.0} B", per_key(alone.heap, 1.0)), "", "", "");
    row("  one that has told two peers nothing yet", &format!("{:.0} B", per_key(behind.heap, 1.0)), "", "", "");
}

struct Weight {
    heap: f64,
    resident: f64,
}

/// What is kept of what `make` returns.
fn weigh<T>(make: impl FnOnce() -> T) -> Weight {
    let before = resident();
    let mut kept = None;
    let heap = measure(|| kept = Some(make())).bytes_current as f64;
    let after = resident();
    black_box(kept);
    Weight { heap, resident: after - before }
}

/// Resident memory of this process, or not a number where the system does not say.
fn resident() -> f64 {
    // In pages, whose size is 4 KiB on what this is run on.
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<f64>().ok());
    pages.map_or(f64::NAN, |pages| pages * 4096.0)
}
