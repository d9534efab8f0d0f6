//! A node's process as its parent holds it, and the calls to it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader, BufWriter};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::protocol::{self, Answer, Order, Report, Request, Start};
use crate::views::Views;

/// How long a process may take to become a member.
const START_WITHIN: Duration = Duration::from_secs(10);
/// How long a process may take to end when its pipes are closed, before it is killed.
const END_WITHIN: Duration = Duration::from_secs(2);
/// How many calls may wait to be written: more than the clients have under way.
const QUEUE: usize = 1024;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallError {
    /// The node's pipe was closed before: it never got the request.
    NotSent,
    /// It may have got it.
    Lost,
}

/// Calls to one life of a node. Clients share it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) name: String,
    calls: mpsc::Sender<(Request, oneshot::Sender<Answer>)>,
    open: Arc<AtomicBool>,
}

impl Link {
    /// Whether the pipes are still open. They close when the process ends.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    pub(crate) async fn call(&self, request: Request) -> Result<Answer, CallError> {
        if !self.is_open() {
            return Err(CallError::NotSent);
        }
        let (answer, answered) = oneshot::channel();
        self.calls.send((request, answer)).await.map_err(|_| CallError::NotSent)?;
        answered.await.map_err(|_| CallError::Lost)
    }
}

/// A process. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct NodeProcess {
    pub(crate) link: Arc<Link>,
    pub(crate) addr: SocketAddr,
    pub(crate) generation: u64,
    child: Child,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl NodeProcess {
    /// Starts a process, and waits until its node is a member.
    pub(crate) async fn start(start: Start, views: Arc<Views>) -> Result<Self> {
        let name = start.name.clone();
        let program = std::env::current_exe().context("this program does not know its own file")?;
        let mut command = Command::new(program);
        command.arg("node").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("a process does not start")?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(anyhow!("a process has no pipes"));
        };
        let (calls, calls_out) = mpsc::channel(QUEUE);
        let open = Arc::new(AtomicBool::new(true));
        let pending = Arc::new(Mutex::new(BTreeMap::new()));
        let (started, has_started) = oneshot::channel();
        let writer = tokio::spawn(write_orders(input, start, calls_out, pending.clone()));
        let reader = Reader { name: name.clone(), pending, open: open.clone(), views, started: Some(started) };
        let tasks = [writer, tokio::spawn(reader.run(output))];
        let link = Arc::new(Link { name: name.clone(), calls, open });
        let addr = SocketAddr::from(([0; 4], 0));
        let mut process = Self { link, addr, generation: 0, child, tasks };
        (process.addr, process.generation) = tokio::time::timeout(START_WITHIN, has_started)
            .await
            .with_context(|| format!("{name} has not joined within {START_WITHIN:?}"))?
            .with_context(|| format!("the process of {name} has ended while it started"))?;
        Ok(process)
    }

    /// Closes the pipes, upon which the process ends by itself. Returns when it is gone.
    pub(crate) async fn end(mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        if tokio::time::timeout(END_WITHIN, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }

    /// SIGKILL. Returns when the process is gone.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.context("the process cannot be killed")
    }
}

type Pending = Arc<Mutex<BTreeMap<u64, oneshot::Sender<Answer>>>>;

/// Writes one order after the other, and flushes when no more are waiting.
async fn write_orders(
    input: ChildStdin,
    start: Start,
    mut calls: mpsc::Receiver<(Request, oneshot::Sender<Answer>)>,
    pending: Pending,
) {
    let mut input = BufWriter::with_capacity(1 << 16, input);
    let mut next_id = 0;
    let write = async || -> io::Result<()> {
        input.write_all(&protocol::encode(&Order::Start(start))).await?;
        input.flush().await?;
        while let Some(mut call) = calls.recv().await {
            loop {
                let (request, answer) = call;
                pending.lock().unwrap_or_else(PoisonError::into_inner).insert(next_id, answer);
                input.write_all(&protocol::encode(&Order::Ask { id: next_id, request })).await?;
                next_id += 1;
                match calls.try_recv() {
                    Ok(another) => call = another,
                    Err(_) => break,
                }
            }
            input.flush().await?;
        }
        Ok(())
    };
    // It fails when the process has ended; the reader sees that too, and tells those that wait.
    let _ = write().await;
}

struct Reader {
    name: String,
    pending: Pending,
    open: Arc<AtomicBool>,
    views: Arc<Views>,
    started: Option<oneshot::Sender<(SocketAddr, u64)>>,
}

impl Reader {
    async fn run(mut self, output: ChildStdout) {
        // Ends when the process has, or has written nonsense: either way nothing more is to be had from it.
        let _ = self.read(output).await;
        self.open.store(false, Ordering::Release);
        self.views.forget(&self.name);
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn read(&mut self, output: ChildStdout) -> io::Result<()> {
        let mut output = BufReader::with_capacity(1 << 16, output);
        let mut payload = Vec::new();
        loop {
            let mut head = [0; 4];
            output.read_exact(&mut head).await?;
            payload.resize(protocol::payload_bytes(head)?, 0);
            output.read_exact(&mut payload).await?;
            self.take(protocol::decode(&payload)?);
        }
    }

    fn take(&mut self, report: Report) {
        match report {
            Report::Started { addr, generation } => {
                if let Some(started) = self.started.take() {
                    let _ = started.send((addr, generation));
                }
            }
            Report::Sees { name, generation, status } => self.views.sees(&self.name, name, generation, status),
            Report::Answer { id, answer } => {
                let waiting = self.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                if let Some(waiting) = waiting {
                    // The client may have given up.
                    let _ = waiting.send(answer);
                }
            }
        }
    }
}
