//! `bench kv`: the store in three processes, against a bare quorum over the same transport and against Redis.
//!
//! Fifty callers, spread over the three nodes, each of which calls again as soon as it has its answer; values of 100 bytes;
//! three replicas, two of which must have done their part. The bare quorum is what the same calls cost without a store: the
//! same processes, transport and callers, values in a hash map, no versions, no rosters, no digests.
//!
//! Every key is written before anything is measured, so that puts are over keys that are there, and gets find them. What a new
//! key costs has a row of its own.
//!
//! `kvd` is measured if it is beside this program: `cargo build --release -p polity-examples --bins` makes both, and then
//! `target/release/bench kv` runs this. Redis is, if `redis-server` and `redis-cli` are installed; `redis-benchmark` is let loose on
//! both.
//!
//! | module | idea |
//! |---|---|
//! | [`workload`] | what the callers do, and over which keys |
//! | [`node`] | one node, in a process of its own |
//! | [`cluster`] | three of them |
//! | [`bare`] | the floor: a quorum and nothing else |
//! | [`durable`] | the store on disk, beside a bare log |
//! | [`resp`] | clients in the protocol of Redis |
//! | [`redis`] | the peer |
//! | [`kvd`] | the store behind that protocol |
//! | [`tool`] | `redis-benchmark` on both |
//! | [`report`] | how all of it is shown |

mod bare;
mod cluster;
mod durable;
mod kvd;
pub(crate) mod node;
mod redis;
mod report;
mod resp;
mod tool;
mod workload;

use std::time::Duration;

use anyhow::Result;

use self::cluster::Cluster;
use self::report::Report;
use self::workload::{CALLERS, Work};
use crate::Options;
use crate::load::{self, Sample};

/// How many nodes there are.
const NODES: usize = 3;

/// All that was measured. Of what is not there nothing was.
struct Measured {
    works: Vec<(Work, Sample)>,
    durable: durable::Measured,
    redis: Option<redis::Measured>,
    kvd: Option<kvd::Measured>,
}

pub(crate) fn run(options: Options) -> Result<()> {
    let duration = Duration::from_secs_f64(options.seconds);
    // One after the other: they would share the machine.
    let works = in_memory(options)?;
    let redis = redis::measure(duration, options.rounds)?;
    let kvd = kvd::measure(duration, options.rounds)?;
    let durable = durable::measure(options)?;
    let measured = Measured { works, durable, redis, kvd };
    let report = Report::begin(options);
    measured.rows(report);
    measured.ratios(report);
    Ok(())
}

fn in_memory(options: Options) -> Result<Vec<(Work, Sample)>> {
    let mut cluster = Cluster::start(None)?;
    cluster.fill("fill-bare")?;
    cluster.fill("fill")?;
    // Every path is warm.
    for work in Work::ALL {
        cluster.measure(work, options.seconds)?;
    }
    let mut rows = Work::ALL.map(|work| (work, Vec::new()));
    for _ in 0..options.rounds {
        for (work, samples) in &mut rows {
            samples.push(cluster.measure(*work, options.seconds)?);
        }
    }
    Ok(rows.into_iter().map(|(work, samples)| (work, load::median(&samples))).collect())
}

impl Measured {
    fn rows(&self, report: Report) {
        for (work, sample) in &self.works {
            report.row(work.title(), sample);
        }
        report.row("polity, quorum put, durable", &self.durable.put);
        report.row("etcd put, fsync (as recorded, not run here)", &durable::ETCD);
        report.row(&format!("bare log, {CALLERS} records and one fdatasync"), &self.durable.syncs);
        match &self.redis {
            Some(redis) => {
                report.row("redis 3+3, SET and WAIT 1", &redis.set_wait);
                report.row("redis 3+3, SET", &redis.set);
                report.row("redis 3+3, GET", &redis.get);
            }
            None => report.absent("redis", "redis-server and redis-cli are not installed"),
        }
        match &self.kvd {
            Some(kvd) => {
                report.row("kvd, SET", &kvd.set);
                report.row("kvd, GET", &kvd.get);
            }
            None => {
                let why = format!("there is no such program beside this one (build it: {})", kvd::BUILT_BY);
                report.absent("kvd", &why);
            }
        }
        self.rows_of_tool(report);
    }

    fn rows_of_tool(&self, report: Report) {
        if !tool::is_there() {
            return report.absent("redis-benchmark", "it is not installed");
        }
        let redis = self.redis.as_ref().and_then(|redis| redis.tool);
        let kvd = self.kvd.as_ref().and_then(|kvd| kvd.tool);
        for (at, pipeline) in tool::PIPELINES.into_iter().enumerate() {
            let row = |who: &str, of: &tool::Measured| {
                report.row(&format!("redis-benchmark SET, -P {pipeline}, {who}"), &of.set[at]);
                report.row(&format!("redis-benchmark GET, -P {pipeline}, {who}"), &of.get[at]);
            };
            if let Some((cluster, single)) = &redis {
                row("redis 3+3", cluster);
                row("one redis", single);
            }
            if let Some(kvd) = &kvd {
                row("kvd", kvd);
            }
        }
    }

    fn ratios(&self, report: Report) {
        let of = |work: Work| &self.works.iter().find(|(other, _)| *other == work).expect("all works are measured").1;
        report.ratio("quorum put, of the bare quorum", of(Work::Put), of(Work::BarePut));
        report.ratio("quorum put of new keys, of the bare quorum", of(Work::PutNew), of(Work::BarePut));
        report.ratio("quorum get, of the bare quorum", of(Work::Get), of(Work::BareGet));
        report.ratio("quorum put, durable, of etcd as recorded", &self.durable.put, &durable::ETCD);
        let of_etcd = format!("the same, had its disk synced as this one does (target: {})", durable::TARGET);
        report.ratio(&of_etcd, &self.durable.put, &self.durable.etcd_now());
        let of_syncs = format!("quorum put, durable, of bare syncs of {CALLERS} records");
        report.ratio(&of_syncs, &self.durable.put, &self.durable.syncs);
        let Some(redis) = &self.redis else { return };
        report.ratio("quorum put, of Redis with WAIT 1", of(Work::Put), &redis.set_wait);
        report.ratio("quorum get, of Redis' GET (which asks one node)", of(Work::Get), &redis.get);
        report.ratio("get of one replica, of Redis' GET", of(Work::GetOne), &redis.get);
        let Some(kvd) = &self.kvd else { return };
        report.ratio("kvd SET, of Redis with WAIT 1", &kvd.set, &redis.set_wait);
        report.ratio("kvd GET, of Redis' GET (which asks one node)", &kvd.get, &redis.get);
        let (Some((cluster, single)), Some(kvd)) = (&redis.tool, &kvd.tool) else { return };
        for (at, pipeline) in tool::PIPELINES.into_iter().enumerate() {
            for (who, of) in [("a Redis cluster without WAIT", cluster), ("one Redis", single)] {
                let what = |name: &str| format!("kvd {name}, redis-benchmark -P {pipeline}, of {who}");
                report.ratio(&what("SET"), &kvd.set[at], &of.set[at]);
                report.ratio(&what("GET"), &kvd.get[at], &of.get[at]);
            }
        }
    }
}
