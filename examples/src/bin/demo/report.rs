//! What came of it.

use std::time::Duration;

use crate::data::CREDIT;
use crate::load::ReadBack;
use crate::stats::{Phase, Stats};
use crate::table::Table;

/// A kill must be known everywhere within this time.
const DETECTION_BOUND: Duration = Duration::from_secs(5);
/// Fewer requests than this, in percent, may fail.
const FAILED_PERCENT_BOUND: f64 = 1.0;

#[derive(Debug, Clone, Default)]
pub(crate) struct Times {
    /// From the start of the first process until all know all.
    pub(crate) formation: Duration,
    /// From the kill until it is Down at every other node.
    pub(crate) detection: Duration,
    /// From the kill until every key has all its replicas again.
    pub(crate) repair: Duration,
    /// From the second start until the node has caught up.
    pub(crate) return_: Duration,
    /// From the start of the sixth until it has its share.
    pub(crate) join: Duration,
    pub(crate) read_back: Duration,
}

#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) rows: usize,
    pub(crate) seed: u64,
    pub(crate) times: Times,
    pub(crate) stats: Stats,
    pub(crate) read_back: ReadBack,
    pub(crate) acknowledged: usize,
    /// Writes reported as not applied that were read.
    pub(crate) ghosts: usize,
    pub(crate) wrongly_down: usize,
}

impl Report {
    fn failed(&self) -> usize {
        self.stats.sum(|phase| phase.failed)
    }

    fn failed_percent(&self) -> f64 {
        100.0 * self.failed() as f64 / self.stats.sum(Phase::requests).max(1) as f64
    }

    fn damaged(&self) -> usize {
        self.stats.sum(|phase| phase.damaged) + self.read_back.finding.damaged
    }

    /// What was promised and did not hold.
    fn broken(&self) -> Vec<&'static str> {
        let found = [
            (self.read_back.finding.missing > 0, "an acknowledged write was lost"),
            (self.read_back.unreadable > 0, "a key could not be read in the end"),
            (self.damaged() > 0, "a value was read that nobody wrote"),
            (self.ghosts > 0, "a write was reported as not applied, and was"),
            (self.failed_percent() >= FAILED_PERCENT_BOUND, "too many requests failed"),
            (self.times.detection >= DETECTION_BOUND, "the kill was noticed too late"),
        ];
        found.into_iter().filter_map(|(broken, what)| broken.then_some(what)).collect()
    }

    pub(crate) fn holds(&self) -> bool {
        self.broken().is_empty()
    }

    pub(crate) fn print(&self) {
        println!("\n{}", self.phases().text());
        println!("{}", self.summary().text());
        for (reason, count) in self.stats.reasons() {
            println!("{count} of the failed requests: {reason}");
        }
        println!("{CREDIT}");
        let broken = self.broken();
        match &broken[..] {
            [] => println!("demo: ok {}", self.figures()),
            _ => println!("demo: FAILED {} broken={:?}", self.figures(), broken.join("; ")),
        }
    }

    fn phases(&self) -> Table {
        let mut table = Table::default();
        table.row(["", "seconds", "requests", "per second", "p50 ms", "p99 ms", "max ms", "sent again", "failed"]);
        for phase in self.stats.phases() {
            table.row([
                phase.name.to_owned(),
                format!("{:.1}", phase.lasted().as_secs_f64()),
                phase.requests().to_string(),
                format!("{:.0}", phase.per_second()),
                ms(phase.quantile(0.5)),
                ms(phase.quantile(0.99)),
                ms(phase.quantile(1.0)),
                phase.retried.to_string(),
                phase.failed.to_string(),
            ]);
        }
        table
    }

    fn summary(&self) -> Table {
        let (times, found, stats) = (&self.times, &self.read_back, &self.stats);
        let mut table = Table::default();
        table.row(["five processes know each other after", &seconds(times.formation)]);
        table.row(["requests per second", &format!("{:.0}", stats.per_second())]);
        table.row(["p50 of a request", &format!("{} ms", ms(stats.quantile(0.5)))]);
        table.row(["p99 of a request", &format!("{} ms", ms(stats.quantile(0.99)))]);
        table.row(["the kill is known everywhere after", &seconds(times.detection)]);
        table.row(["all replicas are complete again after", &seconds(times.repair)]);
        table.row(["the killed node is back and has caught up after", &seconds(times.return_)]);
        table.row(["the sixth node has its share after", &seconds(times.join)]);
        table.row(["requests that failed", &format!("{} ({:.3} %)", self.failed(), self.failed_percent())]);
        table.row(["of them writes with an unknown outcome", &stats.sum(|phase| phase.unknown).to_string()]);
        table.row(["reads that missed an acknowledged write for a while", &stats.sum(|phase| phase.stale).to_string()]);
        table.row(["living nodes taken for dead", &self.wrongly_down.to_string()]);
        table.row(["keys read back", &format!("{} in {}", found.keys, seconds(times.read_back))]);
        table.row(["of them with concurrent values side by side", &found.with_siblings.to_string()]);
        table.row(["writes acknowledged", &self.acknowledged.to_string()]);
        if found.finding.unclear > 0 {
            table.row(["of them beside a write of unknown outcome: unclear", &found.finding.unclear.to_string()]);
        }
        table.row(["acknowledged writes lost", &found.finding.missing.to_string()]);
        table
    }

    fn figures(&self) -> String {
        let (times, stats) = (&self.times, &self.stats);
        let figures = [
            ("rows", self.rows.to_string()),
            ("seed", self.seed.to_string()),
            ("formation_ms", times.formation.as_millis().to_string()),
            ("requests", stats.sum(Phase::requests).to_string()),
            ("ops_per_s", format!("{:.0}", stats.per_second())),
            ("p50_us", stats.quantile(0.5).as_micros().to_string()),
            ("p99_us", stats.quantile(0.99).as_micros().to_string()),
            ("detect_ms", times.detection.as_millis().to_string()),
            ("repair_ms", times.repair.as_millis().to_string()),
            ("failed", self.failed().to_string()),
            ("failed_pct", format!("{:.3}", self.failed_percent())),
            ("unknown", stats.sum(|phase| phase.unknown).to_string()),
            ("stale", stats.sum(|phase| phase.stale).to_string()),
            ("wrongly_down", self.wrongly_down.to_string()),
            ("keys", self.read_back.keys.to_string()),
            ("acked", self.acknowledged.to_string()),
            ("unclear", self.read_back.finding.unclear.to_string()),
            ("lost", self.read_back.finding.missing.to_string()),
        ];
        figures.map(|(key, value)| format!("{key}={value}")).join(" ")
    }
}

fn ms(duration: Duration) -> String {
    format!("{:.2}", duration.as_secs_f64() * 1e3)
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}
