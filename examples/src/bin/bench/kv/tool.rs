//! `redis-benchmark`, as it is, on whatever speaks the protocol of Redis.
//!
//! Fifty clients in all, values of 100 bytes, without and with pipelines. It asks one server, or a cluster that tells it of slots;
//! nodes of `kvd`, any of which serves any key, get one of it each, with a share of the clients.
//!
//! It cannot ask for `WAIT`: it sends one command again and again, and a script may not call that (Redis 7: "not allowed from
//! script"). So what it says of Redis is without that promise, and the row to compare with is `SET and WAIT 1` of
//! [`redis`](super::redis), which our own clients measure.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::workload::{CALLERS, VALUE_BYTES};
use crate::load::{self, Sample};

const PROGRAM: &str = "redis-benchmark";
/// How many requests a client sends before it waits for their answers.
pub(super) const PIPELINES: [usize; 2] = [1, 16];
/// So few that all are there soon.
const KEYS: &str = "10000";
/// With each of these, how many requests there are for each second that is to be measured: what takes some seconds at most.
const REQUESTS_A_SECOND: [f64; PIPELINES.len()] = [30_000.0, 120_000.0];

/// Whom it asks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Servers<'a> {
    /// Each of these, which serve all keys.
    Each(&'a [String]),
    /// A cluster that one of its nodes tells of.
    Cluster(&'a str),
}

/// `SET` and `GET`, for each of the [`PIPELINES`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    pub(super) set: [Sample; PIPELINES.len()],
    pub(super) get: [Sample; PIPELINES.len()],
}

pub(super) fn is_there() -> bool {
    Command::new(PROGRAM).arg("--version").stdout(Stdio::null()).status().is_ok()
}

/// Medians of so many rounds, after one that warms the paths and writes the keys; nothing, if it is not installed.
pub(super) fn measure(servers: Servers<'_>, duration: Duration, rounds: usize) -> Result<Option<Measured>> {
    if !is_there() {
        return Ok(None);
    }
    let (mut set, mut get) = (PIPELINES.map(|_| Vec::new()), PIPELINES.map(|_| Vec::new()));
    for round in 0..=rounds {
        for (at, pipeline) in PIPELINES.into_iter().enumerate() {
            let requests = (REQUESTS_A_SECOND[at] * duration.as_secs_f64()) as usize;
            let [one, other] = run(servers, pipeline, requests)?;
            if round > 0 {
                set[at].push(one);
                get[at].push(other);
            }
        }
    }
    Ok(Some(Measured {
        set: set.map(|samples| load::median(&samples)),
        get: get.map(|samples| load::median(&samples)),
    }))
}

fn run(servers: Servers<'_>, pipeline: usize, requests: usize) -> Result<[Sample; 2]> {
    let begun = match servers {
        Servers::Cluster(addr) => vec![begin(addr, CALLERS, requests, pipeline, true)?],
        Servers::Each(addrs) => {
            let count = addrs.len();
            let clients = |at| CALLERS / count + usize::from(at < CALLERS % count);
            let each = addrs.iter().enumerate();
            each.map(|(at, addr)| begin(addr, clients(at), requests / count, pipeline, false)).collect::<Result<_>>()?
        }
    };
    let mut all = Vec::new();
    for child in begun {
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{PROGRAM} has failed: {text}");
        all.push([figures(&text, "SET")?, figures(&text, "GET")?]);
    }
    Ok([0, 1].map(|what| together(&all.iter().map(|of| of[what]).collect::<Vec<_>>())))
}

fn begin(addr: &str, clients: usize, requests: usize, pipeline: usize, is_cluster: bool) -> Result<Child> {
    let (host, port) = addr.rsplit_once(':').with_context(|| format!("no address: {addr}"))?;
    let mut command = Command::new(PROGRAM);
    command.args(["-h", host, "-p", port, "-t", "set,get", "-r", KEYS, "--csv", "-d", &VALUE_BYTES.to_string()]);
    command.args(["-c", &clients.to_string(), "-n", &requests.to_string(), "-P", &pipeline.to_string()]);
    if is_cluster {
        command.arg("--cluster");
    }
    Ok(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?)
}

/// What a table of the tool says of one command: `"SET","rps","avg","min","p50","p95","p99","max"`, in milliseconds.
fn figures(text: &str, name: &str) -> Result<Sample> {
    let row = text.lines().map(|line| line.split(',').map(|cell| cell.trim_matches('"')).collect::<Vec<_>>());
    let row = row.into_iter().find(|row| row.first() == Some(&name));
    let row = row.with_context(|| format!("{PROGRAM} says nothing of {name}: {text}"))?;
    let number = |at: usize| -> Result<f64> {
        let cell = row.get(at).with_context(|| format!("{PROGRAM} says too little: {row:?}"))?;
        cell.parse().with_context(|| format!("no number: {cell:?}"))
    };
    Ok(Sample { per_second: number(1)?, p50_us: number(4)? * 1e3, p99_us: number(6)? * 1e3 })
}

/// What several of it measured beside each other: all calls, the mean p50, and the worst p99.
fn together(samples: &[Sample]) -> Sample {
    let count = samples.len() as f64;
    Sample {
        per_second: samples.iter().map(|sample| sample.per_second).sum(),
        p50_us: samples.iter().map(|sample| sample.p50_us).sum::<f64>() / count,
        p99_us: samples.iter().map(|sample| sample.p99_us).fold(f64::NAN, f64::max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_tool_is_understood() {
        let text = "Cluster has 3 master nodes:\n\n\
            \"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\"p99_latency_ms\",\"max_latency_ms\"\n\
            \"SET\",\"100800.00\",\"4.109\",\"0.464\",\"4.359\",\"4.943\",\"5.015\",\"5.015\"\n";
        let set = figures(text, "SET").expect("figures");
        assert_eq!((set.per_second, set.p50_us.round(), set.p99_us.round()), (100_800.0, 4_359.0, 5_015.0));
        assert!(figures(text, "GET").is_err());
        let both = together(&[set, Sample { per_second: 200.0, p50_us: 1.0, p99_us: 2.0 }]);
        assert_eq!((both.per_second, both.p50_us.round(), both.p99_us.round()), (101_000.0, 2_180.0, 5_015.0));
    }
}
