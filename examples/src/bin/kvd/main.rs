//! A node that clients of Redis can talk to: `kvd --name n1 --redis 127.0.0.1:6401 --seed 127.0.0.1:7402`.
//!
//! Start three, each with the addresses of the others as seeds, and any client of Redis can use any of them:
//!
//! ```sh
//! kvd --name n1 --listen 127.0.0.1:7401 --redis 127.0.0.1:6401 --seed 127.0.0.1:7402 --seed 127.0.0.1:7403
//! kvd --name n2 --listen 127.0.0.1:7402 --redis 127.0.0.1:6402 --seed 127.0.0.1:7401 --seed 127.0.0.1:7403
//! kvd --name n3 --listen 127.0.0.1:7403 --redis 127.0.0.1:6403 --seed 127.0.0.1:7401 --seed 127.0.0.1:7402
//! ```
//!
//! Every key is on three nodes, and every command is done by a quorum of them. What is acknowledged survives the loss of any
//! node (promise K1 of `docs/SEMANTICS.md`), with `--data` the loss of power on all of them, and a read sees every write that was
//! acknowledged before it began (K3). `kvd --help` lists the commands, and what is other than in Redis; [`failure`] says what the
//! errors mean. Strings are values of which the last write wins; counters, sets and hashes merge (K2).
//!
//! | module | idea | kind |
//! |---|---|---|
//! | [`args`] | the command line | pure |
//! | [`files`] | how many clients the limit of open files leaves room for | pure, but for reading it |
//! | [`request`] | requests in bytes, within limits | pure |
//! | [`reply`] | answers in bytes | pure |
//! | [`commands`] | the table of commands, and what does them | table |
//! | [`keyspace`] | the only place that asks the store | asynchronous |
//! | [`failure`] | what a client is told when the store did not do it | pure |
//! | [`batch`] | the requests of a pipeline: which go together | asynchronous |
//! | [`session`] | what is known of a client | data |
//! | [`server`] | connections | driver |

mod args;
mod batch;
mod commands;
mod failure;
mod files;
mod keyspace;
mod reply;
mod request;
mod server;
mod session;

use std::io::{self, Write as _};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use polity::{Node, Preset};
use tokio::net::TcpListener;

use args::{Options, Start};
use keyspace::Keyspace;
use session::Shared;

/// How long a node that leaves may take to hand over what it has.
const LEAVE_WITHIN: Duration = Duration::from_secs(10);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = match Start::parse(std::env::args().skip(1)) {
        Ok(Start::Node(options)) => options,
        Ok(Start::Help) => {
            println!("{}", args::USAGE);
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("kvd: {problem}");
            return ExitCode::from(2);
        }
    };
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    }
    match run(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kvd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<()> {
    let is_durable = options.data.is_some();
    let connections =
        files::connections(options.connections, files::limit(), is_durable).map_err(anyhow::Error::msg)?;
    if options.connections.is_none()
        && let Some(notice) = files::notice(connections)
    {
        eprintln!("kvd: {notice}");
    }
    // Before the node is a member: a port that is taken must not cost the cluster anything.
    let listener = TcpListener::bind(options.redis).await.with_context(|| format!("cannot serve {}", options.redis))?;
    let redis = listener.local_addr()?;
    let node = start(&options, redis).await.context("the node does not start")?;
    let keyspace = Keyspace::new(node.kv())?;
    println!("kvd: {} is a member at {}", node.id().name, node.addr());
    node.ready().await?;
    let shared = Arc::new(Shared::new(node.clone(), keyspace, is_durable, connections));
    let asked_to_end = asked_to_end()?;
    println!("kvd: {} serves {redis}", node.id().name);
    io::stdout().flush()?;

    let mut serve = pin!(server::serve(listener, shared));
    tokio::select! {
        biased;
        asked = asked_to_end => asked?,
        reason = node.stopped() => bail!("the node has stopped: {reason:?}"),
        () = &mut serve => return Ok(()),
    }
    // From here on it stops because it was asked to.
    tokio::select! {
        biased;
        ended = end(&node, is_durable) => ended,
        () = serve => Ok(()),
    }
}

async fn start(options: &Options, redis: std::net::SocketAddr) -> Result<Node> {
    let preset = if options.listen.ip().is_loopback() { Preset::Local } else { Preset::Lan };
    let mut builder = Node::builder(&options.name).cluster("kvd").preset(preset).no_discovery();
    builder = builder.listen(options.listen).seeds(&options.seeds).address("redis", redis).kv(keyspace::config());
    if let Some(file) = &options.secret {
        let secret = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        builder = builder.secret(secret.trim_ascii());
    }
    if let Some(folder) = &options.data {
        builder = builder.durable(folder);
    }
    Ok(builder.start().await?)
}

/// A node that has its data on disk only stops: it will be back with it. Any other hands it over, and serves until that is done.
async fn end(node: &Node, is_durable: bool) -> Result<()> {
    if is_durable {
        node.stop().await;
        return Ok(());
    }
    Ok(node.leave(LEAVE_WITHIN).await?)
}

/// Waits until the program is to end. What asks for that is heard from now on, and ends nothing by itself.
#[cfg(unix)]
fn asked_to_end() -> io::Result<impl Future<Output = io::Result<()>>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            biased;
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        }
    })
}

#[cfg(not(unix))]
fn asked_to_end() -> io::Result<impl Future<Output = io::Result<()>>> {
    Ok(tokio::signal::ctrl_c())
}
