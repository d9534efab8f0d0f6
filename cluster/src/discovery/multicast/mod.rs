//! Nodes of one cluster find each other on a LAN, or on one machine, without being told anything.
//!
//! A node that looks for others sends a question to a multicast group, and nodes of the same cluster answer it directly.
//! Questions and answers are authenticated under a key that follows from the cluster's secret ([`message`]): whoever does
//! not hold it can neither add an address nor learn one, and clusters of other names or secrets do not notice each other.
//! An answer is not larger than its question, goes only to where the question came from, and each node answers only so
//! often.
//!
//! It is meant for some dozens of nodes: every question reaches all of them, and most answer.

mod message;
#[cfg(all(test, not(feature = "shuttle")))]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket as StdUdpSocket};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use self::message::{ANSWER_BYTES, Keys, Question};
use super::{Context, Discovery, DiscoveryError, MAX_SEEDS};
use crate::ground::BoxFuture;
use crate::secure::ring::Ring;

/// The group: in the range for use within one organisation (RFC 2365), by a number of our own.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 80, 76, 84);
/// The port that all nodes of a machine share.
const PORT: u16 = 7945;
/// How long a question waits for answers. A node on the same LAN answers within some milliseconds; this allows for one
/// that is not scheduled for a while on a busy machine, and a node that starts as the first waits no longer than this.
const WAIT: Duration = Duration::from_millis(200);
/// How long it goes on to listen once somebody has answered: others were asked at the same moment.
const MORE: Duration = Duration::from_millis(50);
/// How many questions a node answers in a second, and in a burst: some dozens of nodes ask every one or two seconds.
const ANSWERS_PER_SECOND: f64 = 50.0;
const BURST: f64 = 100.0;
/// How long a socket that fails is left alone.
const AFTER_ERROR: Duration = Duration::from_secs(1);

/// Asks the LAN for nodes of this cluster, and answers those who ask. The interface is that of the address under which
/// others reach the node, loopback too; multicast does not leave the LAN (its time to live is 1). IPv4 only.
///
/// Where there is no multicast, it fails, and nothing else changes. With [`Preset::Local`](crate::Preset::Local) every
/// node has it by default.
#[derive(Debug, Clone, Copy)]
pub struct Multicast {
    port: u16,
}

impl Default for Multicast {
    fn default() -> Self {
        Self { port: PORT }
    }
}

impl Multicast {
    /// On the port that is the same for all nodes that do not say otherwise, 7945.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// On another port: the same for all nodes that are to find each other.
    #[must_use]
    pub const fn port(port: u16) -> Self {
        Self { port }
    }

    fn group(self) -> SocketAddrV4 {
        SocketAddrV4::new(GROUP, self.port)
    }
}

fn interface(context: &Context) -> io::Result<Ipv4Addr> {
    match context.addr().ip() {
        IpAddr::V4(ip) => Ok(ip),
        IpAddr::V6(_) => Err(io::Error::new(io::ErrorKind::Unsupported, "multicast is for IPv4 addresses")),
    }
}

fn no_ground() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "there is no multicast on this ground")
}

fn on_runtime(socket: Option<StdUdpSocket>) -> io::Result<UdpSocket> {
    UdpSocket::from_std(socket.ok_or_else(no_ground)?)
}

impl Discovery for Multicast {
    fn find<'a>(&'a self, context: &'a Context) -> BoxFuture<'a, Result<BTreeSet<SocketAddr>, DiscoveryError>> {
        Box::pin(async move {
            let asked = ask(*self, context).await;
            asked.map_err(|error| DiscoveryError::new(format!("cannot ask the LAN ({}:{})", GROUP, self.port), error))
        })
    }

    fn announce(&self, context: Context) -> BoxFuture<'static, ()> {
        let multicast = *self;
        Box::pin(async move {
            let mut trouble = None;
            loop {
                let error = answer(multicast, &context).await;
                if error.kind() == io::ErrorKind::Unsupported {
                    tracing::debug!(%error, "this node does not answer questions on the LAN");
                    return;
                }
                if trouble != Some(error.kind()) {
                    trouble = Some(error.kind());
                    tracing::debug!(%error, "questions on the LAN cannot be heard now");
                }
                tokio::time::sleep(AFTER_ERROR).await;
            }
        })
    }
}

async fn ask(multicast: Multicast, context: &Context) -> io::Result<BTreeSet<SocketAddr>> {
    let ground = context.env().ground();
    let socket = on_runtime(ground.multicast_sender(interface(context)?)?)?;
    let mut rng = StdRng::from_seed(ground.seed());
    // Whoever is there may hold only one of our keys.
    let mut asked = Vec::new();
    for keys in keys_of(&context.ring.borrow(), context.cluster()) {
        asked.push((keys, Question { nonce: rng.random(), from: socket.local_addr()? }));
    }
    for (keys, question) in &asked {
        socket.send_to(&question.seal(keys), SocketAddr::V4(multicast.group())).await?;
    }

    let (mut found, mut until) = (BTreeSet::new(), Instant::now() + WAIT);
    // One byte more than an answer has: what is longer is none.
    let mut buffer = [0; ANSWER_BYTES + 1];
    while found.len() < MAX_SEEDS {
        let Ok(received) = timeout_at(until, socket.recv_from(&mut buffer)).await else { break };
        let (bytes, _) = received?;
        let opened = asked.iter().find_map(|(keys, question)| {
            // Opening leaves rubbish behind where it fails.
            let mut copy = buffer;
            message::open_answer(keys, question, &mut copy[..bytes])
        });
        if let Some(addr) = opened {
            if addr != context.addr() {
                until = until.min(Instant::now() + MORE);
            }
            found.insert(addr);
        }
    }
    Ok(found)
}

/// Answers questions until the socket fails.
async fn answer(multicast: Multicast, context: &Context) -> io::Error {
    match answer_as(multicast, context, context.addr()).await {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

async fn answer_as(multicast: Multicast, context: &Context, addr: SocketAddr) -> io::Result<std::convert::Infallible> {
    let ground = context.env().ground();
    let own = interface(context)?;
    let questions = on_runtime(ground.multicast_receiver(multicast.group(), own)?)?;
    let answers = on_runtime(ground.multicast_sender(own)?)?;
    let mut ring = context.ring.clone();
    let mut keys = keys_of(&ring.borrow_and_update(), context.cluster());
    let mut rng = StdRng::from_seed(ground.seed());
    let mut allowance = Allowance { left: BURST, since: Instant::now() };
    let mut buffer = [0; message::QUESTION_BYTES + 1];
    loop {
        let (bytes, from) = questions.recv_from(&mut buffer).await?;
        if ring.has_changed().unwrap_or(false) {
            keys = keys_of(&ring.borrow_and_update(), context.cluster());
        }
        let opened = keys.iter().find_map(|keys| Some((keys, Question::open(keys, &buffer[..bytes], from)?)));
        if let Some((keys, question)) = opened
            && allowance.take(Instant::now())
        {
            let sealed = message::seal_answer(keys, &question, addr, rng.random());
            // An asker that is gone needs no answer.
            let _ = answers.send_to(&sealed, from).await;
        }
    }
}

/// What follows from each key that a node holds.
fn keys_of(ring: &Ring, cluster: &str) -> Vec<Keys> {
    ring.secrets().map(|(_, secret)| Keys::new(secret, cluster)).collect()
}

/// How many answers may be sent now: a bucket that fills at an even pace.
struct Allowance {
    left: f64,
    since: Instant,
}

impl Allowance {
    fn take(&mut self, now: Instant) -> bool {
        let gained = (now - self.since).as_secs_f64() * ANSWERS_PER_SECOND;
        (self.left, self.since) = ((self.left + gained).min(BURST), now);
        let allowed = self.left >= 1.0;
        if allowed {
            self.left -= 1.0;
        }
        allowed
    }
}
