//! One node of the cluster: a process that embeds `polity` and serves what arrives by its standard input.

use std::io::{self, BufReader, BufWriter, Write as _};
use std::thread;

use anyhow::{Context as _, Result, bail};
use polity::{Entry, Kv, KvError, MemberEvent, Node, Outcome, Preset, Status};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::protocol::{self, Answer, Order, Report, Request, Seen, Start};
use crate::value::{Stamp, Stored};

/// How many orders, and how many reports, may wait: more than the clients have under way.
const QUEUE: usize = 1024;

/// Runs until the standard input ends.
pub(crate) fn run() -> Result<()> {
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    }
    let (orders, orders_in) = mpsc::channel(QUEUE);
    let (reports, reports_out) = mpsc::channel(QUEUE);
    thread::Builder::new().name("orders".to_owned()).spawn(move || read_orders(&orders))?;
    thread::Builder::new().name("reports".to_owned()).spawn(move || write_reports(reports_out))?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(orders_in, reports))
}

/// A node must never outlive the demonstration: when the pipe closes, for whatever reason, the process ends.
fn read_orders(orders: &mpsc::Sender<Order>) {
    let mut input = BufReader::with_capacity(1 << 16, io::stdin());
    while let Ok(Some(order)) = protocol::read(&mut input) {
        if orders.blocking_send(order).is_err() {
            // The service has failed, and the process is about to say why.
            return;
        }
    }
    std::process::exit(0);
}

fn write_reports(mut reports: mpsc::Receiver<Report>) {
    let mut output = BufWriter::with_capacity(1 << 16, io::stdout());
    let mut write = || -> io::Result<()> {
        while let Some(report) = reports.blocking_recv() {
            protocol::write(&mut output, &report)?;
            while let Ok(report) = reports.try_recv() {
                protocol::write(&mut output, &report)?;
            }
            output.flush()?;
        }
        Ok(())
    };
    if write().is_err() {
        std::process::exit(0);
    }
}

async fn serve(mut orders: mpsc::Receiver<Order>, reports: mpsc::Sender<Report>) -> Result<()> {
    let Some(Order::Start(Start { name, secret, seeds })) = orders.recv().await else {
        bail!("the first order is not how to start");
    };
    let builder = Node::builder(name).cluster("demo").preset(Preset::Local).no_discovery().secret(secret).seeds(seeds);
    let node = builder.start().await.context("the node does not start")?;
    let generation = node.id().boot.generation;
    reports.send(Report::Started { addr: node.addr(), generation }).await?;

    let mut changes = node.members().subscribe();
    let mut answering = JoinSet::new();
    loop {
        tokio::select! {
            reason = node.stopped() => bail!("the node has stopped: {reason:?}"),
            event = changes.next() => {
                for report in seen(event) {
                    reports.send(report).await?;
                }
            }
            order = orders.recv() => match order {
                Some(Order::Ask { id, request }) => {
                    let (kv, reports) = (node.kv().clone(), reports.clone());
                    answering.spawn(async move {
                        let answer = answer(&kv, request).await;
                        // Fails only when the process is about to end.
                        let _ = reports.send(Report::Answer { id, answer }).await;
                    });
                }
                Some(Order::Start(_)) => bail!("the node has started already"),
                None => return Ok(()),
            },
            Some(done) = answering.join_next(), if !answering.is_empty() => done?,
        }
    }
}

fn seen(event: MemberEvent) -> Vec<Report> {
    let members: Vec<_> = match event {
        MemberEvent::Snapshot(view) => view.members.values().cloned().collect(),
        MemberEvent::Changed { member, .. } => vec![member],
        _ => Vec::new(),
    };
    let report = |member: polity::Member| {
        let status = match member.status {
            Status::Alive => Seen::Up,
            Status::Suspect => Seen::Suspect,
            Status::Down => Seen::Down,
            Status::Left => Seen::Left,
        };
        Report::Sees { name: member.id.name.to_string(), generation: member.id.boot.generation, status }
    };
    members.into_iter().map(report).collect()
}

async fn answer(kv: &Kv, request: Request) -> Answer {
    let answer = match request {
        Request::Get { key } => get(kv, key).await,
        Request::Add { key, body } => write(kv, key, &body, Write::IfAbsent).await,
        Request::CompareAndSet { key, body } => write(kv, key, &body, Write::IfPresent).await,
        Request::Settle => {
            kv.settled().await;
            Ok(Answer::Settled)
        }
    };
    answer.unwrap_or_else(|error| Answer::Failed {
        unknown: error.outcome() == Outcome::Unknown,
        reason: error.to_string(),
    })
}

fn name(key: u32) -> String {
    format!("object:{key}")
}

async fn get(kv: &Kv, key: u32) -> Result<Answer, KvError> {
    Ok(Answer::Values(values(&kv.get(name(key)).await?)))
}

fn values(entry: &Entry) -> Vec<Stored> {
    // A value that does not decode is handed on as it is: the client finds that nobody wrote it.
    let stored =
        |value: &[u8]| Stored::decode(value).unwrap_or_else(|| Stored { replaced: Vec::new(), body: value.to_vec() });
    entry.values().iter().map(|value| stored(value)).collect()
}

enum Write {
    IfAbsent,
    IfPresent,
}

/// Reads, decides, and writes with the context of the read: exactly what was read is replaced.
async fn write(kv: &Kv, key: u32, body: &[u8], when: Write) -> Result<Answer, KvError> {
    let entry = kv.get(name(key)).await?;
    match when {
        Write::IfAbsent if !entry.is_empty() => return Ok(Answer::Exists),
        Write::IfPresent if entry.is_empty() => return Ok(Answer::Missing),
        _ => {}
    }
    let replaced: Vec<Stamp> = values(&entry).iter().filter_map(Stored::stamp).collect();
    kv.put(name(key), Stored::encode(&replaced, body)).context(entry.context()).await?;
    Ok(Answer::Written { replaced })
}
