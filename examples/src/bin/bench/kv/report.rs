//! What was measured, in a table for people or in lines of JSON.

use super::NODES;
use super::workload::{CALLERS, VALUE_BYTES};
use crate::Options;
use crate::load::Sample;

#[derive(Debug, Clone, Copy)]
pub(super) struct Report {
    json: bool,
}

impl Report {
    pub(super) fn begin(options: Options) -> Self {
        if !options.json {
            let rounds = options.rounds;
            println!(
                "{NODES} processes, {NODES} replicas, values of {VALUE_BYTES} bytes, {CALLERS} callers, medians of {rounds} rounds"
            );
            println!("{:<44} {:>10} {:>9} {:>9}", "what", "calls/s", "p50 us", "p99 us");
        }
        Self { json: options.json }
    }

    pub(super) fn row(self, what: &str, sample: &Sample) {
        let Sample { per_second, p50_us, p99_us } = sample;
        if self.json {
            println!(
                r#"{{"bench":"kv","what":"{what}","per_second":{per_second:.0},"p50_us":{p50_us:.1},"p99_us":{p99_us:.1}}}"#
            );
        } else {
            println!("{what:<44} {per_second:>10.0} {p50_us:>9.1} {p99_us:>9.1}");
        }
    }

    /// Something that would be measured if it were there.
    pub(super) fn absent(self, what: &str, why: &str) {
        if self.json {
            println!(r#"{{"bench":"kv","absent":"{what}","why":"{why}"}}"#);
        } else {
            println!("{what}: not measured, because {why}");
        }
    }

    pub(super) fn ratio(self, what: &str, ours: &Sample, theirs: &Sample) {
        let (calls, p99) = (ours.per_second / theirs.per_second, ours.p99_us / theirs.p99_us);
        if self.json {
            println!(r#"{{"bench":"kv","ratio":"{what}","calls":{calls:.3},"p99":{p99:.3}}}"#);
        } else {
            println!("{what:<60} calls/s {calls:.2}, p99 {p99:.2}");
        }
    }
}
