//! The course of the demonstration.
//!
//! One fault at a time, and the next only when the store has settled after the one before: that is the condition under
//! which nothing acknowledged is ever lost. The load never pauses.

use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use rand::rngs::{StdRng, SysRng};
use rand::{RngExt as _, SeedableRng as _, TryRng as _};
use tokio::time::Instant;

use crate::args::Options;
use crate::client::{self, Client};
use crate::data::{self, Jobs};
use crate::link::NodeProcess;
use crate::load::{self, CLIENTS, Load};
use crate::progress::Progress;
use crate::protocol::{Seen, Start};
use crate::report::{Report, Times};
use crate::views::{self, Views};

/// How many nodes there are at first.
const NODES: usize = 5;
/// How long any one step may take before the demonstration gives up: several times what it takes on a busy machine.
const STEP_WITHIN: Duration = Duration::from_secs(60);
/// How often it is looked whether enough rows were replayed.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The shares of the rows, in percent, after which a node is killed, is started again, and another one is added.
const KILL_AT: usize = 40;
const START_AGAIN_AT: usize = 60;
const ADD_AT: usize = 80;

struct Scenario {
    rows: usize,
    secret: [u8; 32],
    victim: usize,
    nodes: Vec<NodeProcess>,
    views: Arc<Views>,
    client: Arc<Client>,
    load: Arc<Load>,
    progress: Progress,
    times: Times,
}

/// Runs all of it. All processes have ended when this returns.
pub(crate) fn run(options: &Options) -> Result<Report> {
    let rows = data::rows(options.rows)?;
    println!("Five nodes as five processes on loopback, {CLIENTS} requests under way at a time.");
    println!("Keys, value sizes and order: the first {} rows of a recorded cache trace.", options.rows);
    println!(
        "Operations: synthetic, drawn from the mix published for it (get .91, add .04, gets .02, cas .02; seed {});",
        options.seed
    );
    println!("a read that finds nothing is followed by an add of that key, as a cache's client does.");
    let mut secret = [0; 32];
    SysRng.try_fill_bytes(&mut secret).map_err(|error| anyhow!("no random bytes for a secret: {error}"))?;
    let client = Arc::new(Client::default());
    let mut scenario = Scenario {
        rows: options.rows,
        secret,
        victim: StdRng::seed_from_u64(options.seed).random_range(0..NODES),
        nodes: Vec::new(),
        views: Arc::default(),
        load: Arc::new(Load::new(client.clone(), Jobs::new(rows, options.seed))),
        client,
        progress: Progress::new(),
        times: Times::default(),
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async move {
        let report = scenario.play(options).await;
        scenario.progress.finish();
        for node in scenario.nodes {
            node.end().await;
        }
        report
    })
}

impl Scenario {
    async fn play(&mut self, options: &Options) -> Result<Report> {
        self.form().await?;
        self.progress.bar("replaying", self.rows);
        let running = tokio::spawn(self.load.clone().run());
        let (progress, load, rows) = (self.progress.clone(), self.load.clone(), self.rows);
        tokio::select! {
            done = self.disturb() => done?,
            () = progress.follow(&load, rows) => {}
        }
        self.load.stop();
        running.await??;
        self.load.stats().end();

        self.settle().await?;
        self.progress.say("reading every key back");
        self.progress.bar("reading", self.client.ledger().keys().len());
        let began = Instant::now();
        let read_back = load::read_back(&self.client, |done| self.progress.set(done)).await?;
        self.times.read_back = began.elapsed();
        for node in &self.nodes {
            ensure!(node.link.is_open(), "the process of {} has ended by itself", node.link.name);
        }
        let (ledger, stats) = (self.client.ledger(), std::mem::take(&mut *self.load.stats()));
        Ok(Report {
            rows: options.rows,
            seed: options.seed,
            times: self.times.clone(),
            acknowledged: ledger.acknowledged(),
            ghosts: ledger.ghosts(),
            wrongly_down: self.views.wrongly_down(),
            stats,
            read_back,
        })
    }

    /// Starts the first nodes, and waits until all know each other.
    async fn form(&mut self) -> Result<()> {
        let began = Instant::now();
        let first = self.start(1).await?;
        self.nodes.push(first);
        let others = (2..=NODES).map(|number| self.start(number));
        let others: Result<Vec<_>> = join_all(others).await.into_iter().collect();
        self.nodes.extend(others?);
        within("the nodes do not all know each other", self.views.until(NODES, |view| views::up(view) == NODES))
            .await?;
        self.times.formation = began.elapsed();
        self.progress
            .say(format!("five processes started, all five know each other after {:.2?}", self.times.formation));
        self.settle().await?;
        self.ask_all();
        Ok(())
    }

    fn start(&self, number: usize) -> impl Future<Output = Result<NodeProcess>> + Send + use<> {
        let seeds = self.nodes.iter().filter(|node| node.link.is_open()).map(|node| node.addr).collect();
        let start = Start { name: format!("n{number}"), secret: self.secret, seeds };
        NodeProcess::start(start, self.views.clone())
    }

    /// Lets the clients ask all nodes that there are now.
    fn ask_all(&self) {
        self.client.set_links(self.nodes.iter().map(|node| node.link.clone()).collect());
    }

    /// What happens while the load runs.
    async fn disturb(&mut self) -> Result<()> {
        self.begin("five nodes");
        self.rows_begun(KILL_AT).await;
        self.settle().await?;
        self.begin("one killed");
        self.kill().await?;
        self.rows_begun(START_AGAIN_AT).await;
        self.begin("started again");
        self.start_again().await?;
        self.rows_begun(ADD_AT).await;
        self.begin("a sixth added");
        self.add().await?;
        self.rows_begun(100).await;
        Ok(())
    }

    fn begin(&self, phase: &'static str) {
        self.load.stats().begin(phase);
    }

    async fn rows_begun(&self, percent: usize) {
        while self.load.begun() < self.rows * percent / 100 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn kill(&mut self) -> Result<()> {
        let victim = &mut self.nodes[self.victim];
        let (name, generation) = (victim.link.name.clone(), victim.generation);
        self.views.will_kill(&name, generation);
        let began = Instant::now();
        victim.kill().await?;
        self.progress.say(format!("{name} killed with SIGKILL"));
        let down = self.views.until(NODES - 1, |view| view.get(&name) == Some(&(generation, Seen::Down)));
        within("the others do not notice the kill", down).await?;
        self.times.detection = began.elapsed();
        self.progress.say(format!("{name} is Down at every other node after {:.2?}", self.times.detection));
        self.settle().await?;
        self.times.repair = began.elapsed();
        self.progress.say(format!("its replicas are complete again on the others after {:.2?}", self.times.repair));
        Ok(())
    }

    async fn start_again(&mut self) -> Result<()> {
        let began = Instant::now();
        let node = self.start(self.victim + 1).await?;
        let (name, generation) = (node.link.name.clone(), node.generation);
        self.nodes[self.victim] = node;
        self.ask_all();
        let known = |view: &views::View| views::up(view) == NODES && view.get(&name) == Some(&(generation, Seen::Up));
        within("the node does not come back", self.views.until(NODES, known)).await?;
        self.progress.say(format!("{name} started again, empty; known to all after {:.2?}", began.elapsed()));
        self.settle().await?;
        self.times.return_ = began.elapsed();
        self.progress.say(format!("{name} has caught up after {:.2?}", self.times.return_));
        Ok(())
    }

    async fn add(&mut self) -> Result<()> {
        let began = Instant::now();
        let node = self.start(NODES + 1).await?;
        let name = node.link.name.clone();
        self.nodes.push(node);
        self.ask_all();
        let count = NODES + 1;
        within("the sixth node does not join", self.views.until(count, |view| views::up(view) == count)).await?;
        self.progress.say(format!("{name} added; known to all after {:.2?}", began.elapsed()));
        self.settle().await?;
        self.times.join = began.elapsed();
        self.progress.say(format!("{name} has its share of the data after {:.2?}", self.times.join));
        Ok(())
    }

    /// Waits until every node says that all replicas are where they belong.
    async fn settle(&self) -> Result<()> {
        let open: Vec<_> = self.nodes.iter().filter(|node| node.link.is_open()).map(|node| node.link.clone()).collect();
        let settling =
            open.into_iter().map(|link| async move { client::settle(&link).await.map_err(|_| link.name.clone()) });
        for settled in within("the store does not settle", join_all(settling)).await? {
            settled.map_err(|name| anyhow!("{name} ended while it settled"))?;
        }
        Ok(())
    }
}

async fn within<T>(otherwise: impl Display + Send + Sync + 'static, step: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(STEP_WITHIN, step).await.map_err(|_| anyhow!("{otherwise} within {STEP_WITHIN:?}"))
}

/// Runs all at the same time, and returns their results in the order in which they were given.
async fn join_all<T, F>(tasks: impl IntoIterator<Item = F>) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let running: Vec<_> = tasks.into_iter().map(tokio::spawn).collect();
    let mut results = Vec::new();
    for task in running {
        results.push(task.await.expect("a task of the demonstration neither panics nor is aborted"));
    }
    results
}
