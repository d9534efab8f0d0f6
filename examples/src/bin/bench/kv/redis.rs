//! The peer: a Redis cluster of three masters with a replica each, where `redis-server` is installed.
//!
//! `SET` and then `WAIT 1` on one connection is the promise that comes nearest to a quorum of three: two nodes have the
//! value in memory when the caller is told.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::workload::{CALLERS, Keys, VALUE_BYTES};
use crate::load::{self, Caller, Sample};

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
}

/// Starts a cluster and measures it; nothing, if Redis is not installed.
pub(super) fn measure(duration: Duration, rounds: usize) -> Result<Option<Measured>> {
    let is_there = |program| Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !is_there("redis-server") || !is_there("redis-cli") {
        return Ok(None);
    }
    let servers = Servers::start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut samples = [const { Vec::new() }; 3];
        let clients = Clients::connect(&servers).await?;
        for round in 0..=rounds {
            for (samples, order) in samples.iter_mut().zip([Order::SetWait, Order::Set, Order::Get]) {
                let sample = load::run(CALLERS, duration, &clients.with(order)).await;
                // The first round fills the store and warms the paths.
                if round > 0 {
                    samples.push(sample);
                }
            }
        }
        let [set_wait, set, get] = samples.map(|samples| load::median(&samples));
        Ok(Some(Measured { set_wait, set, get }))
    })
}

struct Servers {
    children: Vec<Child>,
    ports: Vec<u16>,
    folder: PathBuf,
}

impl Servers {
    fn start() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("polity-bench-redis-{}", std::process::id()));
        let mut servers = Self { children: Vec::new(), ports: free_ports(NODES)?, folder };
        for port in &servers.ports {
            let folder = servers.folder.join(port.to_string());
            std::fs::create_dir_all(&folder)?;
            let port = port.to_string();
            let child = Command::new("redis-server")
                .args(["--port", &port, "--bind", "127.0.0.1", "--cluster-enabled", "yes", "--save", ""])
                .args(["--appendonly", "no", "--dir"])
                .arg(&folder)
                .stdout(Stdio::null())
                .spawn()?;
            servers.children.push(child);
        }
        let addrs: Vec<String> = servers.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let create = || {
            let mut command = Command::new("redis-cli");
            command.args(["--cluster", "create"]).args(&addrs);
            command.args(["--cluster-replicas", "1", "--cluster-yes"]).stdout(Stdio::null()).stderr(Stdio::null());
            command.status()
        };
        until("the Redis cluster does not form", || Ok(create()?.success()))?;
        until("the Redis cluster is not well", || {
            let port = servers.ports[0].to_string();
            let info = Command::new("redis-cli").args(["-p", &port, "cluster", "info"]).output()?;
            let port = servers.ports[0].to_string();
            let replicas = Command::new("redis-cli").args(["-p", &port, "info", "replication"]).output()?;
            Ok(String::from_utf8_lossy(&info.stdout).contains("cluster_state:ok")
                && String::from_utf8_lossy(&replicas.stdout).contains("state=online"))
        })?;
        Ok(servers)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
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

#[derive(Debug, Clone, Copy)]
enum Order {
    SetWait,
    Set,
    Get,
}

/// One client's connections, one to each master.
type Client = Vec<TcpStream>;

/// Clients that nobody uses: a caller takes one for the time of its call.
#[derive(Clone)]
struct Clients {
    idle: Arc<Mutex<Vec<Client>>>,
    keys: Keys,
    order: Order,
}

impl Clients {
    async fn connect(servers: &Servers) -> Result<Self> {
        let mut clients = Vec::new();
        for _ in 0..CALLERS {
            let mut connections = Vec::new();
            for port in &servers.ports[..MASTERS] {
                let stream = TcpStream::connect(("127.0.0.1", *port)).await.context("connecting to Redis")?;
                stream.set_nodelay(true)?;
                connections.push(stream);
            }
            clients.push(connections);
        }
        Ok(Self { idle: Arc::new(Mutex::new(clients)), keys: Keys::new(), order: Order::Get })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Client>> {
        self.idle.lock().expect("nobody panics")
    }

    fn with(&self, order: Order) -> Self {
        Self { order, ..self.clone() }
    }
}

impl Caller for Clients {
    async fn call(&self) {
        let key = self.keys.next();
        let (request, answers) = match self.order {
            Order::Get => (command(&[b"GET", key.as_bytes()]), 1),
            Order::Set => (command(&[b"SET", key.as_bytes(), &[b'x'; VALUE_BYTES]]), 1),
            Order::SetWait => {
                let mut both = command(&[b"SET", key.as_bytes(), &[b'x'; VALUE_BYTES]]);
                both.extend(command(&[b"WAIT", b"1", b"2000"]));
                (both, 2)
            }
        };
        let slot = slot(key.as_bytes());
        let master = FIRST_SLOTS.iter().filter(|first| slot >= **first).count() - 1;
        let mut client = self.lock().pop().expect("as many as callers");
        let stream = &mut client[master];
        stream.write_all(&request).await.expect("Redis is there");
        let mut buffer = Vec::with_capacity(256);
        let mut seen = 0;
        while seen < answers {
            assert!(stream.read_buf(&mut buffer).await.expect("Redis is there") > 0, "Redis has closed a connection");
            seen = count_answers(&buffer);
        }
        assert!(!buffer.starts_with(b"-"), "Redis refuses: {}", String::from_utf8_lossy(&buffer));
        assert!(answers == 1 || buffer.ends_with(b":1\r\n"), "no replica has it: {buffer:?}");
        self.lock().push(client);
    }
}

fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).into_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// How many whole answers there are: lines, and for a value that is there a line of its bytes.
fn count_answers(bytes: &[u8]) -> usize {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\r\n"));
    let (mut count, mut in_value) = (0, false);
    for line in lines {
        in_value = !in_value && line.starts_with(b"$") && !line.starts_with(b"$-");
        count += usize::from(!in_value);
    }
    count
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

    #[test]
    fn answers_are_counted_when_they_are_whole() {
        assert_eq!(count_answers(b"+OK\r\n:1\r\n"), 2);
        assert_eq!(count_answers(b"$3\r\nabc"), 0);
        assert_eq!(count_answers(b"$3\r\nabc\r\n"), 1);
        assert_eq!(count_answers(b"$-1\r\n"), 1);
    }
}
