//! That two replicas become equal, at which cost, and what becomes of answers that make no sense.

use super::measure::{DIFFERING, Differing, Pair};

/// What the messages may cost: this many times the payload that differs, in percent, and 64 KiB.
fn allowed(differing: u64, payload: usize) -> usize {
    let percent = if differing <= 100 { 150 } else { 220 };
    payload * percent / 100 + (64 << 10)
}

#[test]
fn bytes_follow_the_difference() {
    let mut pair = Pair::new(20_000);
    for how in DIFFERING {
        for count in [10, 100, 1_000, 5_000] {
            pair.differ(count, how);
            // Of what was written on both sides, both values are the payload.
            let keys = if how == Differing::Concurrent { 2 * count } else { count };
            let report = pair.reconcile(keys);
            assert!(report.equal, "{how:?} {count}: {report:?}");
            assert!(report.bytes <= allowed(keys, report.payload), "{how:?} {count}: {report:?}");
        }
    }
}

#[test]
fn equal_replicas_say_so_in_few_bytes() {
    let report = Pair::new(3_000).reconcile(0);
    assert!(report.equal && report.trips == 1 && report.bytes < 3 << 10, "{report:?}");
}
