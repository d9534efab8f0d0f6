//! Members of `chitchat` 0.13: heartbeats by gossip of everything that is known, and a phi-accrual failure detector.
//!
//! The library spawns its server on a runtime of `tokio`. So each member has a runtime of its own whose clock is paused: it
//! is moved to the time of the network before anything else, and the server runs until it has nothing left to do. Its
//! randomness cannot be seeded, so its figures differ a little from run to run.

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chitchat::transport::{ChannelTransport, RecvOutcome, SendOutcome, Socket, Transport};
use chitchat::{
    ChitchatConfig, ChitchatEnvelope, ChitchatHandle, ChitchatId, FailureDetectorConfig, ProtocolVersion,
    spawn_chitchat,
};
use polity_sim::lean::net::{Member, Output};
use polity_sim::lean::{Host, addr, host_of};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::{Library, Sight, Start};

/// How often everybody gossips, as its largest user has it.
const GOSSIP: Duration = Duration::from_secs(1);
/// How often a server is given the chance to run: each step of an exchange needs one.
const TURNS: usize = 6;

/// `chitchat` with the failure detector that it has by default.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chitchat;

/// What is in a datagram: the library does not let others encode and decode it. Whoever comes first takes it.
pub(crate) type Parcel = Arc<Mutex<Option<RecvOutcome>>>;

/// Whom to, how many bytes, and what.
type Sent = Arc<Mutex<VecDeque<(SocketAddr, usize, Parcel)>>>;
type Pinned<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Both ends of what a member sends and is sent.
struct Wire {
    addr: SocketAddr,
    sent: Sent,
    arrived: Mutex<Option<mpsc::UnboundedReceiver<RecvOutcome>>>,
}

struct WireSocket {
    addr: SocketAddr,
    sent: Sent,
    arrived: mpsc::UnboundedReceiver<RecvOutcome>,
    /// Encodes and decodes what is sent on it: a socket of the library's own, to itself.
    codec: Box<dyn Socket>,
}

impl Transport for Wire {
    fn open<'a, 'b>(&'a self, _: SocketAddr) -> Pinned<'b, anyhow::Result<Box<dyn Socket>>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner).take();
            let arrived = arrived.ok_or_else(|| anyhow::anyhow!("it is open already"))?;
            let codec = ChannelTransport::default().open(self.addr).await?;
            let socket: Box<dyn Socket> =
                Box::new(WireSocket { addr: self.addr, sent: self.sent.clone(), arrived, codec });
            Ok(socket)
        })
    }
}

impl Socket for WireSocket {
    fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.addr)
    }

    fn send<'a, 'b>(&'a mut self, to: SocketAddr, envelope: ChitchatEnvelope) -> Pinned<'b, anyhow::Result<SendOutcome>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let outcome = self.codec.send(self.addr, envelope).await?;
            let parcel = Arc::new(Mutex::new(Some(self.codec.recv().await?)));
            let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
            sent.push_back((to, outcome.num_bytes_sent, parcel));
            Ok(outcome)
        })
    }

    fn recv<'a, 'b>(&'a mut self) -> Pinned<'b, anyhow::Result<RecvOutcome>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move { self.arrived.recv().await.ok_or_else(|| anyhow::anyhow!("the member has ended")) })
    }
}

/// One member.
pub(crate) struct Chatter {
    runtime: Runtime,
    handle: ChitchatHandle,
    sent: Sent,
    arrived: mpsc::UnboundedSender<RecvOutcome>,
    /// The time that the runtime's clock shows.
    clock: Duration,
    next_gossip: Duration,
    up: BTreeSet<Host>,
    outputs: VecDeque<Output<Self>>,
}

impl Library for Chitchat {
    type Member = Chatter;

    fn start(self, start: Start) -> Chatter {
        let own = addr(start.host);
        let config = ChitchatConfig {
            chitchat_id: ChitchatId::new(format!("n{}", start.host), 1, own),
            cluster_id: "compared".to_owned(),
            gossip_interval: GOSSIP,
            listen_addr: own,
            seed_nodes: start.seeds().map(|seed| seed.to_string()).collect(),
            failure_detector_config: FailureDetectorConfig::default(),
            marked_for_deletion_grace_period: Duration::from_secs(3600),
            catchup_callback: None,
            extra_liveness_predicate: None,
            protocol_version: ProtocolVersion::V1,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime without sockets");
        let (sent, (arrived, receiver)) = (Sent::default(), mpsc::unbounded_channel());
        let wire = Wire { addr: own, sent: sent.clone(), arrived: Mutex::new(Some(receiver)) };
        let handle = runtime.block_on(spawn_chitchat(config, Vec::new(), &wire)).expect("the socket opens");
        let (clock, next_gossip) = (Duration::ZERO, Duration::ZERO);
        let (up, outputs) = (BTreeSet::new(), VecDeque::new());
        let mut member = Chatter { runtime, handle, sent, arrived, clock, next_gossip, up, outputs };
        member.pass(Duration::ZERO);
        member
    }
}

impl Chatter {
    /// Lets time pass until now, and everything happen that is due.
    fn pass(&mut self, now: Duration) {
        let by = now.saturating_sub(self.clock);
        self.clock = now;
        while self.next_gossip <= now {
            self.next_gossip += GOSSIP;
        }
        let chitchat = self.handle.chitchat();
        let live: BTreeSet<Host> = self.runtime.block_on(async {
            if !by.is_zero() {
                tokio::time::advance(by).await;
            }
            for _ in 0..TURNS {
                tokio::task::yield_now().await;
            }
            chitchat.lock().await.live_nodes().filter_map(|id| host_of(id.gossip_advertise_addr)).collect()
        });
        let gone = self.up.difference(&live).map(|host| Sight::Down(*host));
        let come = live.difference(&self.up).map(|host| Sight::Up(*host));
        self.outputs.extend(gone.chain(come).map(Output::Note));
        self.up = live;
        for (to, bytes, datagram) in self.sent.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            self.outputs.push_back(Output::Datagram { to, bytes, datagram });
        }
    }
}

impl Member for Chatter {
    type Datagram = Parcel;
    type Request = ();
    type Answer = ();
    type Note = Sight;

    fn handle_datagram(&mut self, now: Duration, parcel: Parcel) {
        if let Some(outcome) = parcel.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drop(self.arrived.send(outcome));
            self.pass(now);
        }
    }

    fn handle_request(&mut self, _: Duration, (): ()) -> Option<((), usize)> {
        None
    }

    fn handle_answer(&mut self, _: Duration, _: u64, _: Option<()>) {}

    fn poll_timeout(&self) -> Option<Duration> {
        Some(self.next_gossip)
    }

    fn handle_timeout(&mut self, now: Duration) {
        self.pass(now);
    }

    fn poll_output(&mut self) -> Option<Output<Self>> {
        self.outputs.pop_front()
    }
}
