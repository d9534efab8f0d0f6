//! Processes of `kvd` on loopback, which end with the test.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::client::Client;

pub(crate) fn kvd(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvd"));
    command.args(args).stdin(Stdio::null());
    command
}

pub(crate) struct Cluster {
    nodes: Vec<Node>,
    args: Vec<String>,
    /// Where the nodes have their folders.
    data: Option<PathBuf>,
}

struct Node {
    process: Child,
    output: BufReader<ChildStdout>,
    /// Where the others reach it.
    addr: SocketAddr,
    /// Where it serves clients.
    redis: SocketAddr,
}

impl Cluster {
    pub(crate) fn start(nodes: usize) -> Self {
        Self::start_with(nodes, &[])
    }

    /// Each node with these arguments too.
    pub(crate) fn start_with(nodes: usize, args: &[&str]) -> Self {
        Self::new(nodes, args, None)
    }

    pub(crate) fn start_durable(nodes: usize) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("kvd-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let data = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        Self::new(nodes, &[], Some(data))
    }

    fn new(nodes: usize, args: &[&str], data: Option<PathBuf>) -> Self {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut cluster = Self { nodes: Vec::new(), args, data };
        for index in 0..nodes {
            let seeds: Vec<_> = cluster.nodes.first().map(|first| first.addr).into_iter().collect();
            let node = cluster.spawn(index, "127.0.0.1:0".parse().expect("an address"), &seeds);
            cluster.nodes.push(node);
            cluster.nodes[index].wait_until_it_serves();
        }
        cluster
    }

    /// The node that this starts.
    pub(crate) fn of(mut command: Command) -> Self {
        let any = "127.0.0.1:0".parse().expect("an address");
        let mut node = Node::start(&mut command, any);
        node.wait_until_it_serves();
        Self { nodes: vec![node], args: Vec::new(), data: None }
    }

    fn spawn(&self, index: usize, listen: SocketAddr, seeds: &[SocketAddr]) -> Node {
        let name = format!("n{}", index + 1);
        let mut command = kvd(&["--name", &name, "--listen", &listen.to_string(), "--redis", "127.0.0.1:0"]);
        command.args(&self.args);
        for seed in seeds {
            command.args(["--seed", &seed.to_string()]);
        }
        if let Some(data) = &self.data {
            command.arg("--data").arg(data.join(&name));
        }
        Node::start(&mut command, listen)
    }

    pub(crate) fn client(&self, node: usize) -> Client {
        Client::connect(self.nodes[node].redis)
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, node: usize) {
        let process = &mut self.nodes[node].process;
        process.kill().expect("it runs");
        process.wait().expect("it has ended");
    }

    /// The most bytes of memory that a node has had.
    #[cfg(target_os = "linux")]
    pub(crate) fn peak_memory(&self, node: usize) -> usize {
        let status = format!("/proc/{}/status", self.nodes[node].process.id());
        let status = std::fs::read_to_string(status).expect("it runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak.and_then(|peak| peak.parse::<usize>().ok()).expect("a number") << 10
    }

    /// Asks a node to end, and waits until it has.
    #[cfg(unix)]
    pub(crate) fn signal(&mut self, node: usize, signal: &str) -> ExitStatus {
        let process = &mut self.nodes[node].process;
        let sent = Command::new("kill").args([signal, &process.id().to_string()]).status().expect("there is `kill`");
        assert!(sent.success(), "{sent}");
        process.wait().expect("it has ended")
    }

    /// Starts all again that have been killed, where they were, each with the others as seeds.
    pub(crate) fn restart_all(&mut self) {
        let addrs: Vec<SocketAddr> = self.nodes.iter().map(|node| node.addr).collect();
        let restarted = addrs.iter().enumerate().map(|(index, addr)| {
            let others: Vec<_> = addrs.iter().copied().filter(|other| other != addr).collect();
            self.spawn(index, *addr, &others)
        });
        self.nodes = restarted.collect();
        for node in &mut self.nodes {
            node.wait_until_it_serves();
        }
    }
}

impl Node {
    fn start(command: &mut Command, listen: SocketAddr) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let output = BufReader::new(process.stdout.take().expect("a pipe"));
        Self { process, output, addr: listen, redis: listen }
    }

    /// Reads what it says of itself: "kvd: NAME is a member at ADDR", then "kvd: NAME serves ADDR".
    fn wait_until_it_serves(&mut self) {
        self.addr = self.said(" is a member at ");
        self.redis = self.said(" serves ");
    }

    fn said(&mut self, what: &str) -> SocketAddr {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it says something");
        let (_, addr) = line.trim().split_once(what).unwrap_or_else(|| panic!("{what:?} is not in {line:?}"));
        addr.parse().expect("an address")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            let _ = node.process.kill();
            let _ = node.process.wait();
        }
        if let Some(data) = &self.data {
            let _ = std::fs::remove_dir_all(data);
        }
    }
}
