//! The peer: a Redis cluster of three masters with a replica each, where `redis-server` is installed.
//!
//! `SET` and then `WAIT 1` on one connection is the promise that comes nearest to a quorum of three: two nodes have the
//! value in memory when the caller is told.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::resp::{Clients, Order};
use super::tool;
use crate::folder::Folder;
use crate::load::Sample;

const MASTERS: usize = 3;
const NODES: usize = 2 * MASTERS;
const SLOTS: usize = 16_384;
/// The first slot of each master, in the order in which the cluster is made of them.
const FIRST_SLOTS: [usize; MASTERS] = [0, 5_461, 10_923];
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Measured {
    pub(super) set_wait: Sample,
    pub(super) set: Sample,
    pub(super) get: Sample,
    /// What `redis-benchmark` says of the cluster, and of a server alone.
    pub(super) tool: Option<(tool::Measured, tool::Measured)>,
}

/// Starts a cluster and measures it; nothing, if Redis is not installed.
pub(super) fn measure(duration: Duration, rounds: usize) -> Result<Option<Measured>> {
    let is_there = |program| Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !is_there("redis-server") || !is_there("redis-cli") {
        return Ok(None);
    }
    let servers = Servers::start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let [set_wait, set, get] = runtime.block_on(async {
        let clients = Clients::connect(&servers.addrs[..MASTERS], |_, key| master(key)).await?;
        anyhow::Ok(clients.measure([Order::SetWait, Order::Set, Order::Get], duration, rounds).await)
    })?;
    let of_cluster = tool::measure(tool::Servers::Cluster(&servers.addrs[0]), duration, rounds)?;
    drop(servers);
    let single = Servers::single()?;
    let of_single = tool::measure(tool::Servers::Each(&single.addrs), duration, rounds)?;
    Ok(Some(Measured { set_wait, set, get, tool: of_cluster.zip(of_single) }))
}

struct Servers {
    children: Vec<Child>,
    addrs: Vec<String>,
    // After the servers, which are ended first.
    folder: Folder,
}

impl Servers {
    /// A cluster.
    fn start() -> Result<Self> {
        let servers = Self::spawn(NODES, &["--cluster-enabled", "yes"])?;
        let create = || {
            let mut command = Command::new("redis-cli");
            command.args(["--cluster", "create"]).args(&servers.addrs);
            command.args(["--cluster-replicas", "1", "--cluster-yes"]).stdout(Stdio::null()).stderr(Stdio::null());
            command.status()
        };
        until("the Redis cluster does not form", || Ok(create()?.success()))?;
        let port = servers.first_port();
        until("the Redis cluster is not well", || {
            let info = Command::new("redis-cli").args(["-p", port, "cluster", "info"]).output()?;
            let replicas = Command::new("redis-cli").args(["-p", port, "info", "replication"]).output()?;
            Ok(String::from_utf8_lossy(&info.stdout).contains("cluster_state:ok")
                && String::from_utf8_lossy(&replicas.stdout).contains("state=online"))
        })?;
        Ok(servers)
    }

    /// One server, without replicas.
    fn single() -> Result<Self> {
        let servers = Self::spawn(1, &[])?;
        let port = servers.first_port();
        until("Redis does not serve", || {
            let ping = Command::new("redis-cli").args(["-p", port, "ping"]).stderr(Stdio::null()).output()?;
            Ok(ping.stdout.starts_with(b"PONG"))
        })?;
        Ok(servers)
    }

    fn spawn(count: usize, args: &[&str]) -> Result<Self> {
        let ports = free_ports(count)?;
        let addrs = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let mut servers = Self { children: Vec::new(), addrs, folder: Folder::new("redis")? };
        for port in ports.iter().map(u16::to_string) {
            let folder = servers.folder.path().join(&port);
            std::fs::create_dir_all(&folder)?;
            let child = Command::new("redis-server")
                .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
                .args(args)
                .arg("--dir")
                .arg(&folder)
                .stdout(Stdio::null())
                .spawn()?;
            servers.children.push(child);
        }
        Ok(servers)
    }

    fn first_port(&self) -> &str {
        self.addrs[0].rsplit_once(':').map_or("", |(_, port)| port)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits until something is so.
fn until(what: &'static str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !is_so()? {
        ensure!(Instant::now() < end, what);
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Ports that nobody uses now, nor those of the cluster's bus, 10,000 above.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let mut held = Vec::new();
    for _ in 0..1000 {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        if let Some(bus) = port.checked_add(10_000)
            && let Ok(bus) = std::net::TcpListener::bind(("127.0.0.1", bus))
        {
            held.push((port, listener, bus));
        }
        if held.len() == count {
            return Ok(held.into_iter().map(|(port, ..)| port).collect());
        }
    }
    bail!("there are no free ports")
}

/// The master that has a key.
fn master(key: &[u8]) -> usize {
    let slot = slot(key);
    FIRST_SLOTS.iter().filter(|first| slot >= **first).count() - 1
}

/// The slot of a key: CRC-16 with the polynomial 0x1021, as the cluster's specification says.
fn slot(key: &[u8]) -> usize {
    let crc = key.iter().fold(0_u16, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
            },
        )
    });
    usize::from(crc) % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(slot(b"123456789"), 0x31C3);
    }
}
