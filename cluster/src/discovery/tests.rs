//! Discoveries in a world of the test's own, and the list that a node makes of what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::conformance::{World, check};
use super::*;
use crate::driver::Command;
use crate::ground::Ground;
use crate::membership::view::Members;

/// Names and files that a test controls.
#[derive(Debug, Default)]
struct Fake(Mutex<Things>);

#[derive(Debug, Default)]
struct Things {
    names: BTreeMap<String, Vec<SocketAddr>>,
    files: BTreeMap<std::path::PathBuf, Vec<u8>>,
    fails: bool,
    stalls: bool,
}

impl Fake {
    fn things(&self) -> std::sync::MutexGuard<'_, Things> {
        self.0.lock().expect("not poisoned")
    }
}

#[derive(Debug, Clone)]
struct FakeGround(Arc<Fake>);

impl Ground for FakeGround {
    fn bind(&self, _: SocketAddr) -> io::Result<Arc<dyn quinn::AsyncUdpSocket>> {
        Err(io::Error::other("nothing is bound here"))
    }
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            // As a resolver does, it yields before it answers.
            tokio::task::yield_now().await;
            if self.0.things().stalls {
                std::future::pending::<()>().await;
            }
            let things = self.0.things();
            if things.fails {
                return Err(io::Error::other("the resolver is down"));
            }
            match host.parse() {
                Ok(addr) => Ok(vec![addr]),
                Err(_) => things.names.get(host).cloned().ok_or_else(|| io::Error::other("no such name")),
            }
        })
    }
    fn wall_clock(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }
    fn seed(&self) -> [u8; 32] {
        [1; 32]
    }
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        let things = self.0.things();
        if things.fails { Err(io::Error::other("the disk is broken")) } else { Ok(things.files.get(path).cloned()) }
    }
    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.0.things().files.insert(path.to_owned(), content.to_owned());
        Ok(())
    }
    fn own_thread(&self) -> bool {
        false
    }
}

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn addrs<const N: usize>(texts: [&str; N]) -> BTreeSet<SocketAddr> {
    texts.into_iter().map(addr).collect()
}

fn context(fake: &Arc<Fake>) -> Context {
    let secret = Secret::new([7; 32]).expect("long enough");
    Context::new(Env::new(FakeGround(fake.clone())), "shop", secret, addr("10.0.0.1:7946"))
}

/// What the members of the test's world are written into.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    List,
    Dns,
    File,
    Closure,
    AsyncClosure,
}

struct FakeWorld(Kind, Arc<Fake>);

const PATH: &str = "/etc/shop/seeds";

impl World for FakeWorld {
    fn discovery(&self) -> Arc<dyn Discovery> {
        let fake = self.1.clone();
        let ask = move || {
            let things = fake.things();
            if things.fails {
                return Err(DiscoveryError::new("cannot ask the registry", "it is down"));
            }
            Ok(things.names.get("all:7946").into_iter().flatten().copied().take(MAX_FOUND).collect())
        };
        match self.0 {
            Kind::List => Arc::new(StaticList::new(["all:7946"]).expect("valid")),
            Kind::Dns => Arc::new(DnsName::new("all", 7946).expect("valid")),
            Kind::File => Arc::new(WatchedFile::new(PATH)),
            Kind::Closure => Arc::new(from_fn(ask)),
            Kind::AsyncClosure => {
                let fake = self.1.clone();
                let ask = Arc::new(ask);
                Arc::new(from_async_fn(move || {
                    let (fake, ask) = (fake.clone(), ask.clone());
                    async move {
                        tokio::task::yield_now().await;
                        if fake.things().stalls {
                            std::future::pending::<()>().await;
                        }
                        ask()
                    }
                }))
            }
        }
    }
    fn context(&self) -> Context {
        context(&self.1)
    }
    fn place<'a>(&'a mut self, members: &'a BTreeSet<SocketAddr>) -> BoxFuture<'a, ()> {
        let mut things = self.1.things();
        things.names.insert("all:7946".to_owned(), members.iter().copied().collect());
        let lines = members.iter().map(|addr| format!("  {addr} # a member\n")).collect::<String>();
        things.files.insert(PATH.into(), format!("# all\n\n{lines}").into_bytes());
        Box::pin(async {})
    }
    fn can_be_empty(&self) -> bool {
        !matches!(self.0, Kind::List | Kind::Dns)
    }
    fn fail(&mut self, fails: bool) -> bool {
        self.1.things().fails = fails;
        true
    }
    fn stall(&mut self, stalls: bool) -> bool {
        self.1.things().stalls = stalls;
        !matches!(self.0, Kind::Closure)
    }
}

#[tokio::test]
async fn those_of_this_library_do_what_a_discovery_must() {
    for kind in [Kind::List, Kind::Dns, Kind::File, Kind::Closure, Kind::AsyncClosure] {
        let tested = check(FakeWorld(kind, Arc::default())).await;
        assert_eq!(tested, Ok(()), "{kind:?}");
    }
}

/// A world whose discovery breaks one rule.
struct BadWorld(&'static str, FakeWorld);

impl World for BadWorld {
    fn discovery(&self) -> Arc<dyn Discovery> {
        let (rule, good, fake) = (self.0, self.1.discovery(), self.1.1.clone());
        let (asked, context) = (Mutex::new(BTreeSet::new()), self.context());
        let asked = Arc::new(asked);
        Arc::new(from_async_fn(move || {
            let (good, context, asked) = (good.clone(), context.clone(), asked.clone());
            let fake = fake.clone();
            async move {
                match rule {
                    "follows" => {
                        let now = good.find(&context).await?;
                        let mut all = asked.lock().expect("not poisoned");
                        all.extend(now);
                        Ok(all.clone())
                    }
                    "fails" => Ok(good.find(&context).await.unwrap_or_default()),
                    "bounded" => Ok(fake.things().names["all:7946"].iter().copied().collect()),
                    _ => {
                        while fake.things().stalls {
                            std::thread::yield_now();
                        }
                        good.find(&context).await
                    }
                }
            }
        }))
    }
    fn context(&self) -> Context {
        self.1.context()
    }
    fn place<'a>(&'a mut self, members: &'a BTreeSet<SocketAddr>) -> BoxFuture<'a, ()> {
        self.1.place(members)
    }
    fn fail(&mut self, fails: bool) -> bool {
        self.1.fail(fails) && self.0 != "bounded"
    }
    fn stall(&mut self, stalls: bool) -> bool {
        self.1.stall(stalls)
    }
}

#[tokio::test]
async fn the_conformance_test_catches_what_it_is_for() {
    for rule in ["follows", "fails", "bounded", "block"] {
        let bad = BadWorld(rule, FakeWorld(Kind::AsyncClosure, Arc::default()));
        let breach = check(bad).await.expect_err(rule);
        assert!(breach.rule.contains(rule), "{rule}: {breach}");
    }
}

#[tokio::test]
async fn a_file_with_a_bad_line_is_an_error_that_names_it() {
    let fake = Arc::<Fake>::default();
    let (file, context) = (WatchedFile::new(PATH), context(&fake));
    for (content, problem) in [
        (&b"10.0.0.1:7946\nnowhere"[..], "line 2"),
        (b"10.0.0.1:0", "line 1"),
        (b"\xff", "utf-8"),
        (&[b'#'; 70_000], "more than 65536 bytes"),
    ] {
        fake.things().files.insert(PATH.into(), content.to_vec());
        let error = file.find(&context).await.expect_err(problem).to_string();
        assert!(error.contains(PATH) && error.contains(problem), "{error}");
    }
    fake.things().files.clear();
    assert!(file.find(&context).await.expect_err("missing").to_string().contains("no such file"));
}

fn asker(fake: &Arc<Fake>, discoveries: &[Arc<dyn Discovery>]) -> Asker {
    Asker::new(context(fake), discoveries, None, StdRng::seed_from_u64(1), Handle::current())
}

#[tokio::test(start_paused = true)]
async fn who_finds_nobody_is_first_only_if_all_have_answered() {
    let fake = Arc::<Fake>::default();
    fake.things().names.insert("self:1".to_owned(), vec![addr("10.0.0.1:7946")]);
    fake.things().names.insert("other:1".to_owned(), vec![addr("10.0.0.2:7946")]);
    let list = |names: &[&str]| Arc::new(StaticList::new(names).expect("valid")) as Arc<dyn Discovery>;

    let first = asker(&fake, &[]).first().await.expect("nobody failed");
    assert!(first.is_first && first.seeds.is_empty());
    assert!(asker(&fake, &[list(&["self:1"])]).first().await.expect("nobody failed").is_first);
    let error = asker(&fake, &[list(&["self:1", "gone:1"])]).first().await.err().expect("it cannot know");
    assert!(error.to_string().contains("gone:1"), "{error}");
    let some = asker(&fake, &[list(&["gone:1", "other:1"])]).first().await.expect("one was found");
    assert!(!some.is_first && some.seeds == addrs(["10.0.0.2:7946"]));
    let late: Arc<dyn Discovery> = Arc::new(from_async_fn(std::future::pending));
    let error = asker(&fake, &[late]).first().await.err().expect("it cannot know");
    assert!(error.to_string().contains("no answer"), "{error}");
    let bad: Arc<dyn Discovery> = Arc::new(from_fn(|| panic!("a bug of the application")));
    assert!(asker(&fake, &[bad]).first().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_was_found_counts_until_something_else_is_and_too_much_is_drawn_from() {
    let fake = Arc::<Fake>::default();
    fake.things().names.insert("all:7946".to_owned(), vec![addr("10.0.0.2:7946"), addr("0.0.0.0:1")]);
    let mut asker = asker(&fake, &[Arc::new(DnsName::new("all", 7946).expect("valid"))]);
    let counts = asker.counts();
    let First { seeds, .. } = asker.first().await.expect("it resolves");
    assert_eq!(seeds, addrs(["10.0.0.2:7946"]));

    let (tell, mut told) = mpsc::channel(8);
    let memory = Memory::of(&context(&fake).env, None);
    let mut running = tokio::task::JoinSet::new();
    running.spawn(asker.run(Duration::from_secs(1), seeds, memory, Members::new(), tell));
    fake.things().fails = true;
    assert!(timeout(Duration::from_secs(60), told.recv()).await.is_err(), "a failure changes nothing");
    assert!(counts.snapshot().failed > 30);

    fake.things().fails = false;
    fake.things().names.insert("all:7946".to_owned(), vec![addr("10.0.0.9:7946")]);
    let began = Instant::now();
    let Some(Command::Seeds(seeds)) = told.recv().await else { panic!("the seeds change") };
    assert_eq!(seeds, addrs(["10.0.0.9:7946"]));
    assert!(began.elapsed() < Duration::from_millis(1300));

    let many = (0..500u16).map(|at| SocketAddr::from(([10, 1, 0, 1], 1000 + at))).collect();
    fake.things().names.insert("all:7946".to_owned(), many);
    let mut seen = BTreeSet::new();
    for _ in 0..60 {
        let Some(Command::Seeds(seeds)) = told.recv().await else { panic!("others are drawn each time") };
        assert_eq!(seeds.len(), MAX_SEEDS);
        seen.extend(seeds);
    }
    assert!(seen.len() > 400, "all have their turn: {}", seen.len());
}

#[cfg(feature = "lean")]
#[test]
fn seeds_that_change_are_counted_and_greeted_if_nobody_is_there() {
    use crate::identity::{Boot, Identity, NodeId, NodeName};
    use crate::membership::agent::{Agent, Output};
    let identity = |name: &str, at: &str| Identity {
        node: NodeId { name: NodeName::new(name).expect("valid"), boot: Boot { generation: 1, nonce: 1 } },
        rejoin: 0,
        addr: addr(at),
    };
    let (own, timings) = (identity("a", "10.0.0.1:1"), crate::Timings::preset(crate::Preset::Lan));
    let table = Arc::new(Mutex::new(crate::state::Table::new(own.node.clone())));
    let rng = |seed| StdRng::seed_from_u64(seed);
    let core = crate::membership::core::Core::new(own, &timings, rng(1), table.clone());
    let greeted = vec![identity("b", "10.0.0.2:1")];
    let mut agent = Agent::new((core, table, timings, rng(2)), greeted, addrs(["10.0.0.3:1"]));
    agent.handle_timeout(Duration::ZERO);
    while agent.poll_output().is_some() {}
    let now = Duration::from_millis(10);
    agent.handle_seeds(now, addrs(["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1", "10.0.0.4:1"]));
    agent.validate();
    agent.handle_timeout(now);
    let greets = std::iter::from_fn(|| agent.poll_output()).filter_map(|output| match output {
        Output::Greet { addr, .. } => Some(addr),
        _ => None,
    });
    assert_eq!(greets.collect::<BTreeSet<_>>(), addrs(["10.0.0.3:1", "10.0.0.4:1"]));
    agent.handle_seeds(now, addrs(["10.0.0.2:1"]));
    agent.validate();
}
