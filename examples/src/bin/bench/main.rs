//! Benchmarks against floors and peers that are measured in the same run.
//!
//! `cargo run --release --bin bench -- rpc|kv|membership|documents [--json] [--seconds N] [--rounds N]`

mod documents;
mod floor;
mod kv;
mod load;
mod membership;
mod rpc;
#[cfg(feature = "peers")]
mod tonic_peer;

use anyhow::{Result, bail};

/// How a benchmark is to run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    json: bool,
    seconds: f64,
    rounds: usize,
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
    let mut options = Options { json: false, seconds: 1.0, rounds: 7 };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--json" => options.json = true,
            "--seconds" => options.seconds = args.next().unwrap_or_default().parse()?,
            "--rounds" => options.rounds = args.next().unwrap_or_default().parse()?,
            other => bail!("unknown option {other}"),
        }
    }
    match command.as_str() {
        "rpc" => rpc::client(options),
        "documents" => documents::run(options),
        "kv" => kv::run(options),
        "membership" => membership::run(options),
        "rpc-server" => rpc::server(),
        _ => bail!("usage: bench rpc|kv|membership|documents [--json] [--seconds N] [--rounds N]"),
    }
}
