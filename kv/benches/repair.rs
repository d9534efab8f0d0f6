//! What it takes to make two replicas equal: `cargo bench -p polity-kv --bench repair`, with a fiftieth of the keys with
//! `-- --quick`.
//!
//! A million keys of 12 bytes with values of 100 bytes, in the default number of shards, on two nodes; then so many of them
//! differ, in each of the ways in which they can. All messages are encoded and decoded, and counted with their frames; the
//! network between the two takes no time. Nothing is asserted: the bytes are, in a test (`kv/src/reconcile/tests.rs`).

use std::time::Instant;

use polity_kv::measure::{DIFFERING, Differing, Pair};

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let (keys, counts): (u64, &[u64]) =
        if quick { (20_000, &[10, 100, 1_000]) } else { (1_000_000, &[10, 100, 1_000, 10_000, 100_000]) };
    let mut pair = Pair::new(keys);
    println!("{keys} keys");
    println!("| differing | how | payload | bytes | ratio | less 64 KiB | round trips | ms |");
    println!("|---|---|---|---|---|---|---|---|");
    for count in counts {
        for how in DIFFERING {
            pair.differ(*count, how);
            let written = if how == Differing::Concurrent { 2 * count } else { *count };
            let began = Instant::now();
            let report = pair.reconcile(written);
            let ms = began.elapsed().as_secs_f64() * 1e3;
            assert!(report.equal, "a reconciliation ends with equal replicas");
            let ratio = |bytes: usize| bytes as f64 / report.payload as f64;
            println!(
                "| {count} | {how:?} | {} | {} | {:.2} | {:.2} | {} | {ms:.1} |",
                report.payload,
                report.bytes,
                ratio(report.bytes),
                ratio(report.bytes.saturating_sub(64 << 10)),
                report.trips
            );
        }
    }
}
