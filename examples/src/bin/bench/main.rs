//! Benchmarks against floors and peers that are measured in the same run.
//!
//! `cargo run --release --bin bench -- rpc|kv|move|away|membership|documents [--json] [--seconds N] [--rounds N] [--keys N]`
//!
//! `bench kv` measures `kvd` too, if it was built into the same folder: `cargo build --release -p polity-examples --bins`.

mod away;
mod documents;
mod figures;
mod floor;
mod folder;
mod kv;
mod load;
mod membership;
mod moving;
mod process;
mod rpc;
mod stores;
#[cfg(feature = "peers")]
mod tonic_peer;

use anyhow::{Result, bail};

/// How a benchmark is to run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    json: bool,
    seconds: f64,
    rounds: usize,
    keys: u64,
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    if command == "membership-node" {
        return membership::node(args);
    }
    if command == "kv-node" {
        return kv::node::run(args);
    }
    if command == "move-node" {
        return moving::node::run(args);
    }
    if command == "away-node" {
        return away::node::run(args);
    }
    let (seconds, rounds) = match command.as_str() {
        "move" => (10.0, 1),
        "away" => (0.0, 1),
        _ => (1.0, 7),
    };
    let mut options = Options { json: false, seconds, rounds, keys: 1_000_000 };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--json" => options.json = true,
            "--seconds" => options.seconds = args.next().unwrap_or_default().parse()?,
            "--rounds" => options.rounds = args.next().unwrap_or_default().parse()?,
            "--keys" => options.keys = args.next().unwrap_or_default().parse()?,
            other => bail!("unknown option {other}"),
        }
    }
    match command.as_str() {
        "rpc" => rpc::client(options),
        "documents" => documents::run(options),
        "kv" => kv::run(options),
        "move" => moving::run(options),
        "away" => away::run(options),
        "membership" => membership::run(options),
        "rpc-server" => rpc::server(),
        _ => bail!("usage: bench rpc|kv|move|away|membership|documents [--json] [--seconds N] [--rounds N] [--keys N]"),
    }
}
