//! The recorded requests, and the operations that are drawn for them.
//!
//! Keys, value sizes and order are real. The operations were not recorded in this copy: they are drawn from the mix that
//! was published for this cache, so they are synthetic.

use std::io::{BufRead as _, BufReader};

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use ruzstd::decoding::StreamingDecoder;

const TRACE: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/data/twitter_cluster52_1m.csv.zst"));

pub(crate) const CREDIT: &str = "Data: Twitter cache trace, cluster 52 (keys renumbered, columns dropped), CC BY 4.0; \
                                 Yang, Yue, Rashmi, OSDI 2020.";

/// One request of the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) key: u32,
    /// Bytes of the value.
    pub(crate) size: u32,
}

/// The first `count` requests in the order of the file.
pub(crate) fn rows(count: usize) -> Result<Vec<Row>> {
    let decoder = StreamingDecoder::new(TRACE).context("the trace is no zstd file")?;
    let mut rows = Vec::with_capacity(count);
    for line in BufReader::new(decoder).lines().skip(1).take(count) {
        let line = line.context("the trace cannot be read")?;
        let mut fields = line.split(',').skip(1).map(str::parse);
        let (Some(Ok(key)), Some(Ok(size)), None) = (fields.next(), fields.next(), fields.next()) else {
            anyhow::bail!("a row of the trace reads {line:?}");
        };
        rows.push(Row { key, size });
    }
    ensure!(rows.len() == count, "the trace has {} rows", rows.len());
    Ok(rows)
}

/// What a client does with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Read; what is not there is fetched from elsewhere and added, as a cache does.
    Get,
    /// Write if nothing is there.
    Add,
    /// Read, then replace exactly what was read.
    CompareAndSet,
}

/// One operation to be done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    pub(crate) row: Row,
    pub(crate) operation: Operation,
    /// Chooses the node that the client asks first.
    pub(crate) lot: u32,
}

/// The jobs in order: a function of the rows and the seed. Begins again when the rows are used up.
#[derive(Debug)]
pub(crate) struct Jobs {
    rows: Vec<Row>,
    drawn: usize,
    rng: StdRng,
}

impl Jobs {
    pub(crate) fn new(rows: Vec<Row>, seed: u64) -> Self {
        Self { rows, drawn: 0, rng: StdRng::seed_from_u64(seed) }
    }

    /// How many jobs were drawn.
    pub(crate) fn drawn(&self) -> usize {
        self.drawn
    }

    pub(crate) fn draw(&mut self) -> Job {
        let row = self.rows[self.drawn % self.rows.len()];
        self.drawn += 1;
        let operation = match self.rng.random_range(0..100) {
            91..95 => Operation::Add,
            // `gets` (95 and 96) is a `get` that also asks for the version, which our reads always return.
            97..99 => Operation::CompareAndSet,
            _ => Operation::Get,
        };
        Job { row, operation, lot: self.rng.random() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_is_what_its_description_says() {
        let rows = rows(1_000_000).expect("reads");
        assert_eq!(rows[..2], [Row { key: 0, size: 737 }, Row { key: 1, size: 248 }]);
        assert_eq!(rows.iter().map(|row| row.key).max(), Some(143_541));
        assert_eq!(rows.iter().map(|row| row.size).max(), Some(4985));
    }

    #[test]
    fn the_mix_is_the_published_one_and_the_seed_decides_it() {
        let draw = |seed| {
            let mut jobs = Jobs::new(vec![Row { key: 1, size: 54 }], seed);
            (0..100_000).map(|_| jobs.draw().operation).collect::<Vec<_>>()
        };
        let operations = draw(7);
        let share = |wanted| operations.iter().filter(|operation| **operation == wanted).count() / 100;
        assert!((900..=980).contains(&share(Operation::Get)));
        assert!((35..=45).contains(&share(Operation::Add)));
        assert!((15..=25).contains(&share(Operation::CompareAndSet)));
        assert_eq!(operations, draw(7));
        assert_ne!(operations, draw(8));
    }
}
