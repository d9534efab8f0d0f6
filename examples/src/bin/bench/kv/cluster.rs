//! Three nodes, each in a process of its own.

use std::path::Path;

use anyhow::{Result, ensure};

use super::NODES;
use super::workload::{CALLERS, Work};
use crate::figures::Figures;
use crate::load::Sample;
use crate::process::{self, Process};

pub(super) struct Cluster(Vec<Process>);

impl Cluster {
    /// Starts them, in memory or each with a folder of its own in this one, and waits until they are settled.
    pub(super) fn start(folder: Option<&Path>) -> Result<Self> {
        let mut nodes: Vec<Process> = Vec::new();
        let mut seed = "-".to_owned();
        for at in 0..NODES {
            let mut command = process::node("kv-node", at, &seed)?;
            command.args(folder.map(|folder| folder.join(format!("n{at}"))));
            let mut node = Process::start(command)?;
            let addr = node.line()?;
            if at == 0 {
                seed = addr;
            }
            nodes.push(node);
        }
        for node in &mut nodes {
            ensure!(node.line()? == "settled", "a node is not ready");
        }
        Ok(Self(nodes))
    }

    /// Writes every key once, all nodes at once a share of them: to the store, or to the bare quorum.
    pub(super) fn fill(&mut self, order: &'static str) -> Result<()> {
        self.0.iter_mut().try_for_each(|node| node.tell(order))?;
        for node in &mut self.0 {
            ensure!(node.line()? == "filled", "a node is not filled");
        }
        Ok(())
    }

    /// Runs one kind of work on all nodes at once.
    pub(super) fn measure(&mut self, work: Work, seconds: f64) -> Result<Sample> {
        for (at, node) in self.0.iter_mut().enumerate() {
            let callers = CALLERS / NODES + usize::from(at < CALLERS % NODES);
            node.tell(&format!("{} {callers} {seconds}", work.word()))?;
        }
        let figures = self.0.iter_mut().map(|node| node.line()?.parse()).collect::<Result<Vec<Figures>>>()?;
        Ok(Figures::sample(&figures))
    }
}
