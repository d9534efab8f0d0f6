//! The store behind the protocol of Redis: three nodes of `kvd`, where that program is beside this one.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::NODES;
use super::resp::{Clients, Order};
use super::tool;
use crate::load::Sample;
use crate::process::Process;

pub(super) struct Measured {
    pub(super) set: Sample,
    pub(super) get: Sample,
    /// What `redis-benchmark` says.
    pub(super) tool: Option<tool::Measured>,
}

/// What makes the program, beside this one.
pub(super) const BUILT_BY: &str = "cargo build --release -p polity-examples --bins";

/// Starts a cluster and measures it, by clients that go round its nodes; nothing, if `kvd` is not there.
pub(super) fn measure(duration: Duration, rounds: usize) -> Result<Option<Measured>> {
    let program = std::env::current_exe()?.with_file_name(format!("kvd{}", std::env::consts::EXE_SUFFIX));
    if !program.is_file() {
        return Ok(None);
    }
    let (mut nodes, mut addrs) = (Vec::new(), Vec::new());
    let mut seed: Option<String> = None;
    for at in 0..NODES {
        // The system chooses ports, and each node says which.
        let mut command = Command::new(&program);
        command.args(["--name", &format!("n{at}"), "--listen", "127.0.0.1:0", "--redis", "127.0.0.1:0"]);
        if let Some(seed) = &seed {
            command.args(["--seed", seed]);
        }
        let mut node = Process::start(command)?;
        let member = said(&mut node, " is a member at ")?;
        seed.get_or_insert(member);
        addrs.push(said(&mut node, " serves ")?);
        nodes.push(node);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let [set, get] = runtime.block_on(async {
        let clients = Clients::connect(&addrs, |calls, _| calls % NODES).await?;
        anyhow::Ok(clients.measure([Order::Set, Order::Get], duration, rounds).await)
    })?;
    let tool = tool::measure(tool::Servers::Each(&addrs), duration, rounds)?;
    Ok(Some(Measured { set, get, tool }))
}

/// What stands behind some words in a node's next line.
fn said(node: &mut Process, words: &str) -> Result<String> {
    let line = node.line()?;
    let (_, said) = line.split_once(words).with_context(|| format!("kvd says something else: {line:?}"))?;
    Ok(said.to_owned())
}
