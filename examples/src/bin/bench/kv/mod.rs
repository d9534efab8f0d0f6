//! `bench kv`: the store in three processes, against a bare quorum over the same transport and against Redis.
//!
//! Fifty callers, spread over the three nodes, each of which calls again as soon as it has its answer; values of 100 bytes;
//! three replicas, two of which must have done their part. The bare quorum is what the same calls cost without a store: the
//! same processes, transport and callers, values in a hash map, no versions, no rosters, no digests.

mod bare;
pub(crate) mod node;
mod redis;
mod workload;

use std::time::Duration;

use anyhow::{Result, ensure};

use self::workload::{CALLERS, Work};
use crate::Options;
use crate::figures::Figures;
use crate::load::{self, Sample};
use crate::process::Process;

/// How many nodes there are.
const NODES: usize = 3;

/// Runs one kind of work on all nodes at once.
fn measure(nodes: &mut [Process], work: Work, seconds: f64) -> Result<Sample> {
    for (at, node) in nodes.iter_mut().enumerate() {
        let callers = CALLERS / NODES + usize::from(at < CALLERS % NODES);
        node.tell(&format!("{} {callers} {seconds}", work.word()))?;
    }
    let figures = nodes.iter_mut().map(|node| node.line()?.parse()).collect::<Result<Vec<Figures>>>()?;
    Ok(Figures::sample(&figures))
}

pub(crate) fn run(options: Options) -> Result<()> {
    let (first, seed) = Process::start("kv-node", 0, "-")?;
    let mut nodes = vec![first];
    for at in 1..NODES {
        nodes.push(Process::start("kv-node", at, &seed)?.0);
    }
    for node in &mut nodes {
        ensure!(node.line()? == "settled", "a node is not ready");
    }
    let mut rows: Vec<(Work, Vec<Sample>)> = Work::ALL.iter().map(|work| (*work, Vec::new())).collect();
    // Everything is written once before it is read, and every path is warm.
    for work in Work::ALL {
        measure(&mut nodes, work, options.seconds)?;
    }
    for _ in 0..options.rounds {
        for (work, samples) in &mut rows {
            samples.push(measure(&mut nodes, *work, options.seconds)?);
        }
    }
    drop(nodes);
    let rows: Vec<_> = rows.into_iter().map(|(work, samples)| (work, load::median(&samples))).collect();
    let redis = redis::measure(Duration::from_secs_f64(options.seconds), options.rounds)?;
    report(&rows, redis.as_ref(), options);
    Ok(())
}

fn report(rows: &[(Work, Sample)], redis: Option<&redis::Measured>, options: Options) {
    if !options.json {
        println!(
            "{NODES} processes, {NODES} replicas, values of {} bytes, {CALLERS} callers, medians of {} rounds",
            workload::VALUE_BYTES,
            options.rounds
        );
        println!("{:<26} {:>10} {:>9} {:>9}", "what", "calls/s", "p50 us", "p99 us");
    }
    let show = |what: &str, sample: &Sample| {
        let Sample { per_second, p50_us, p99_us } = sample;
        if options.json {
            println!(
                r#"{{"bench":"kv","what":"{what}","per_second":{per_second:.0},"p50_us":{p50_us:.1},"p99_us":{p99_us:.1}}}"#
            );
        } else {
            println!("{what:<26} {per_second:>10.0} {p50_us:>9.1} {p99_us:>9.1}");
        }
    };
    for (work, sample) in rows {
        show(work.title(), sample);
    }
    match redis {
        Some(redis) => {
            show("redis 3+3, SET and WAIT 1", &redis.set_wait);
            show("redis 3+3, SET", &redis.set);
            show("redis 3+3, GET", &redis.get);
        }
        None if !options.json => println!("redis-server is not installed: no comparison with it"),
        None => {}
    }
    if options.json {
        return;
    }
    let of = |work: Work| &rows.iter().find(|(other, _)| *other == work).expect("all works are measured").1;
    let ratio = |what: &str, ours: &Sample, theirs: &Sample| {
        let (rate, p99) = (ours.per_second / theirs.per_second, ours.p99_us / theirs.p99_us);
        println!("{what:<52} calls/s {rate:.2}, p99 {p99:.2}");
    };
    ratio("quorum put, of the bare quorum", of(Work::Put), of(Work::BarePut));
    ratio("quorum get, of the bare quorum", of(Work::Get), of(Work::BareGet));
    if let Some(redis) = redis {
        ratio("quorum put, of Redis with WAIT 1", of(Work::Put), &redis.set_wait);
        ratio("quorum get, of Redis' GET (which asks one node)", of(Work::Get), &redis.get);
        ratio("get of one replica, of Redis' GET", of(Work::GetOne), &redis.get);
    }
}
