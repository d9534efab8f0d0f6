//! The task that carries out what the [core](super::core) asks for: it asks others, tells the node's charter, and
//! remembers the id in the data folder.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::core::{Answer, Formation, Output, Request};
use super::{Charter, ClusterId};
use crate::discovery::write;
use crate::driver::Command;
use crate::ground::Env;
use crate::identity::NodeId;
use crate::membership::view::Members;
use crate::rpc::{Lane, Method, Peer, Reply, Rpc, RpcError};

/// Asks an acceptor, or tells which id was chosen.
const FORM: Method<Request, Answer> = Method::new(5, "cluster.form", Lane::Control);
/// How many questions of others may wait: one of each node that proposes and some that tell.
const QUEUE: usize = 64;
/// The name of the file that remembers the id.
const FILE: &str = "cluster";
/// How long to wait before a file that could not be written is written again.
const WRITE_AGAIN: Duration = Duration::from_secs(10);

/// The id that a data folder remembers for a cluster of this name.
pub(crate) fn remembered(env: &Env, folder: Option<&PathBuf>, cluster: &str) -> std::io::Result<Option<ClusterId>> {
    let Some(path) = folder.map(|folder| folder.join(FILE)) else { return Ok(None) };
    let Some(content) = env.ground().read(&path)? else { return Ok(None) };
    let text = String::from_utf8_lossy(&content);
    let mut lines = text.lines();
    let id = lines.next().and_then(|line| line.trim().parse::<ClusterId>().ok());
    match (id, lines.next()) {
        (Some(id), Some(name)) if name == cluster => Ok(Some(id)),
        // A disk that tore it is one that was replaced: members tell the id.
        _ => {
            tracing::warn!(path = %path.display(), "the file is damaged, or of a cluster of another name: not used");
            Ok(None)
        }
    }
}

async fn remember(env: Env, folder: PathBuf, cluster: String, id: ClusterId, tell: mpsc::Sender<Command>) {
    let path = folder.join(FILE);
    while let Err(error) = write(&env, path.clone(), format!("{id}\n{cluster}\n").into_bytes()).await {
        tracing::warn!(path = %path.display(), %error, "the id of the cluster cannot be written");
        sleep(WRITE_AGAIN).await;
    }
    // An error means that the node has stopped.
    let _ = tell.send(Command::Kept).await;
}

/// What the task is made of.
pub(crate) struct Former {
    pub(crate) own: NodeId,
    pub(crate) cluster: String,
    pub(crate) expected: Option<u32>,
    /// How long an attempt may take.
    pub(crate) patience: Duration,
    pub(crate) charter: Charter,
    pub(crate) members: Members,
    pub(crate) rpc: Rpc,
    pub(crate) env: Env,
    pub(crate) folder: Option<PathBuf>,
    /// The id that the folder holds already.
    pub(crate) remembered: Option<ClusterId>,
    /// The driver, who is told when the folder holds the id.
    pub(crate) tell: mpsc::Sender<Command>,
    pub(crate) rng: StdRng,
}

type Asked = mpsc::Receiver<(Request, Reply<Answer>)>;

impl Former {
    /// Lets peers reach the task that is to run. A full queue drops the request, and its sender is told so.
    pub(crate) fn serve(&self) -> Asked {
        let (queue, asked) = mpsc::channel(QUEUE);
        self.rpc.serve(FORM, move |_, request, reply| {
            let _ = queue.try_send((request, reply));
        });
        asked
    }

    /// Runs for as long as the node does.
    pub(crate) async fn run(mut self, mut asked: Asked) {
        let started = Instant::now();
        let rng = StdRng::from_rng(&mut self.rng);
        let mut core = Formation::new(self.own.clone(), self.expected, self.patience, rng);
        let (mut view, mut chartered) = (self.members.subscribe(), self.charter.subscribe());
        let (mut asking, mut writing) = (JoinSet::new(), JoinSet::new());
        if let Some(id) = self.charter.get() {
            // It is no news to those who told us.
            core.adopt(id);
        }
        loop {
            self.carry_out(&mut core, &mut asking, &mut writing);
            let due = core.poll_timeout().map(|due| started + due);
            tokio::select! {
                biased;
                Ok(()) = chartered.changed() => {
                    // Others must hear of it: datagrams that are sealed with it are opaque to who does not know it.
                    core.handle_view(started.elapsed(), self.up().into_keys().collect());
                    if let Some(id) = self.charter.get() {
                        core.adopt(id);
                    }
                }
                Some((request, reply)) = asked.recv() => {
                    if !core.has_id() {
                        core.handle_view(started.elapsed(), self.up().into_keys().collect());
                    }
                    reply.send(&core.handle_request(request));
                }
                Some(done) = asking.join_next(), if !asking.is_empty() => {
                    if let Ok((from, request, Ok(answer))) = done {
                        core.handle_answer(started.elapsed(), &from, &request, answer);
                    }
                }
                Some(_) = writing.join_next(), if !writing.is_empty() => {}
                _ = view.next(), if core.is_forming() => {
                    while view.try_next().is_some() {}
                    core.handle_view(started.elapsed(), self.up().into_keys().collect());
                }
                () = sleep_until(due.unwrap_or(started)), if due.is_some() => {
                    core.handle_timeout(started.elapsed());
                }
            }
        }
    }

    /// Who is up, and where.
    fn up(&self) -> BTreeMap<NodeId, SocketAddr> {
        self.members.snapshot().up().map(|member| (member.id.clone(), member.addr)).collect()
    }

    fn carry_out(
        &self,
        core: &mut Formation,
        asking: &mut JoinSet<(NodeId, Request, Result<Answer, RpcError>)>,
        writing: &mut JoinSet<()>,
    ) {
        let mut up = None;
        while let Some(output) = core.poll_output() {
            match output {
                Output::Ask(node, request) => {
                    let up = up.get_or_insert_with(|| self.up());
                    let Some(addr) = up.get(&node).copied() else { continue };
                    let peer = Peer { node: node.clone(), addr };
                    let call = self.rpc.call(&peer, &FORM, &request, self.patience);
                    asking.spawn(async move { (node, request, call.await) });
                }
                Output::Formed(id) => {
                    let holds = self.charter.adopt(id);
                    if self.remembered == Some(holds) {
                        continue;
                    }
                    tracing::info!(id = %holds, cluster = %self.cluster, "the cluster has an id");
                    if let Some(folder) = self.folder.clone() {
                        writing.spawn(remember(
                            self.env.clone(),
                            folder,
                            self.cluster.clone(),
                            holds,
                            self.tell.clone(),
                        ));
                    }
                }
            }
        }
    }
}
