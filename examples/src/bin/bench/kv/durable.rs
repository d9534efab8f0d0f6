//! The same promise on disk: a put is acknowledged when a quorum has synced it.
//!
//! The floor is one file on the same disk and one thread that does nothing but append a batch and sync it. A batch is a record
//! of each caller: no more can wait, for each waits for its own. The three nodes share the disk, and each syncs its own log.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::cluster::Cluster;
use super::workload::{CALLERS, VALUE_BYTES, Work};
use crate::Options;
use crate::folder::Folder;
use crate::load::{self, Sample};

/// The peer, as it was recorded and is not run here: etcd in three nodes on one machine, puts of 100 bytes by 50 clients, which
/// it acknowledges when a majority has synced them.
pub(super) const ETCD: Sample = Sample { per_second: 8_500.0, p50_us: 5_500.0, p99_us: 15_000.0 };
/// How many records a second a bare log appended and synced, one by one, when and where that was recorded.
const SYNCS_THEN: f64 = 7_300.0;
/// How many times etcd's puts ours are to be.
pub(super) const TARGET: f64 = 3.0;
/// What a log's file has room for from the start, as the journals of the store have: then a sync moves bytes, and no end.
const LOG_BYTES: u64 = 64 << 20;

pub(super) struct Measured {
    pub(super) put: Sample,
    pub(super) syncs: Sample,
}

impl Measured {
    /// What etcd would do on a disk that syncs as this one does now: nearly all of its time goes into syncs.
    pub(super) fn etcd_now(&self) -> Sample {
        let slower = SYNCS_THEN / self.syncs.per_second;
        let Sample { per_second, p50_us, p99_us } = ETCD;
        Sample { per_second: per_second / slower, p50_us: p50_us * slower, p99_us: p99_us * slower }
    }
}

pub(super) fn measure(options: Options) -> Result<Measured> {
    // Before the nodes, and so removed after they have ended.
    let folder = Folder::new("durable")?;
    let mut cluster = Cluster::start(Some(folder.path()))?;
    cluster.fill("fill")?;
    cluster.measure(Work::Put, options.seconds)?;
    let (mut puts, mut syncs) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        syncs.push(sync(&folder.path().join("log"), Duration::from_secs_f64(options.seconds))?);
        puts.push(cluster.measure(Work::Put, options.seconds)?);
    }
    Ok(Measured { put: load::median(&puts), syncs: load::median(&syncs) })
}

/// Appends and syncs batches to a new file for some time.
fn sync(path: &Path, duration: Duration) -> Result<Sample> {
    let mut file = File::create(path)?;
    file.set_len(LOG_BYTES)?;
    file.sync_all()?;
    let (began, mut nanos) = (Instant::now(), Vec::new());
    while began.elapsed() < duration {
        let before = Instant::now();
        file.write_all(&[1; CALLERS * VALUE_BYTES])?;
        file.sync_data()?;
        nanos.push(u32::try_from(before.elapsed().as_nanos()).unwrap_or(u32::MAX));
    }
    let elapsed = began.elapsed();
    nanos.sort_unstable();
    Ok(Sample::of(&nanos, elapsed))
}
