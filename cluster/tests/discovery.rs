//! Whole nodes that find each other: by names that change, and by what they remember; and that leave nothing behind when
//! they cannot start.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use polity_cluster::discovery::DnsName;
use polity_cluster::{BoxFuture, Builder, Env, Error, Ground, Node, Preset, View};

fn builder(name: &str) -> Builder {
    Node::builder(name).cluster("found").preset(Preset::Local).no_discovery().secret([7; 32]).listen("127.0.0.1:0")
}

async fn until(node: &Node, mut seen: impl FnMut(&View) -> bool) {
    let mut changes = node.members().subscribe();
    while !seen(&node.members().snapshot()) {
        changes.next().await;
    }
}

/// Real ground, but for names and files.
#[derive(Debug, Clone)]
struct Made {
    real: Env,
    names: Arc<Mutex<BTreeMap<String, SocketAddr>>>,
    files: tokio::sync::watch::Sender<BTreeMap<std::path::PathBuf, Vec<u8>>>,
    binds_left: Arc<AtomicUsize>,
}

impl Made {
    fn new() -> Self {
        Self {
            real: Env::real(),
            names: Arc::default(),
            files: tokio::sync::watch::Sender::default(),
            binds_left: Arc::new(AtomicUsize::new(usize::MAX)),
        }
    }

    fn name(&self, name: &str, addr: SocketAddr) {
        self.names.lock().expect("not poisoned").insert(name.to_owned(), addr);
    }
}

impl Ground for Made {
    fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn quinn::AsyncUdpSocket>> {
        let left = self.binds_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.map_err(|_| io::Error::other("there is no port left"))?;
        self.real.ground().bind(addr)
    }
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        let found = match host.parse() {
            Ok(addr) => Some(addr),
            Err(_) => self.names.lock().expect("not poisoned").get(host).copied(),
        };
        Box::pin(async move { found.map(|addr| vec![addr]).ok_or_else(|| io::Error::other("no such name")) })
    }
    fn wall_clock(&self) -> SystemTime {
        self.real.ground().wall_clock()
    }
    fn seed(&self) -> [u8; 32] {
        self.real.ground().seed()
    }
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        Ok(self.files.borrow().get(path).cloned())
    }
    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.files.send_modify(|files| drop(files.insert(path.to_owned(), content.to_owned())));
        Ok(())
    }
    fn own_thread(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_node_that_has_lost_everyone_finds_who_has_taken_over_their_name() {
    let made = Made::new();
    let old = builder("old").start().await.expect("starts");
    made.name("shop.test:7946", old.addr());
    let name = DnsName::new("shop.test", 7946).expect("valid");
    let node = builder("node").discover(name).env(Env::new(made.clone())).start().await.expect("starts");
    until(&node, |view| view.up().count() == 2).await;
    old.stop().await;
    until(&node, |view| view.up().count() == 1).await;

    // All addresses are others now, and nobody there knows of this node.
    let new = builder("new").start().await.expect("starts");
    made.name("shop.test:7946", new.addr());
    until(&node, |view| view.members.get("new").is_some_and(|member| member.status.is_up())).await;
    until(&new, |view| view.up().count() == 2).await;
}

#[tokio::test]
async fn a_node_that_starts_again_without_seeds_finds_those_whom_it_remembers() {
    let made = Made::new();
    let start = || builder("b").data_dir("/b").env(Env::new(made.clone()));
    let first = builder("a").start().await.expect("starts");
    let second = start().seeds([first.addr()]).start().await.expect("starts");
    until(&second, |view| view.up().count() == 2).await;
    let generation = second.id().boot.generation;
    let written = |files: &BTreeMap<_, _>| files.contains_key(Path::new("/b/members"));
    made.files.subscribe().wait_for(written).await.expect("the ground is there");
    second.stop().await;
    drop(second);
    let again = start().start().await.expect("starts at once");
    assert!(again.id().boot.generation > generation);
    until(&again, |view| view.up().count() == 2).await;
    until(&first, |view| view.members["b"].id == *again.id() && view.up().count() == 2).await;
}

/// A port that the system gives to nobody by itself, and that differs from process to process as far as it can.
fn free_port() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 20_000 + (std::process::id() % 300) as u16 * 40;
    SocketAddr::from(([127, 0, 0, 1], base + NEXT.fetch_add(1, Ordering::Relaxed)))
}

#[tokio::test]
async fn whoever_cannot_start_leaves_nothing_behind() {
    let member = builder("member").must_match("shards", 8).start().await.expect("starts");
    let seed = member.addr();
    let good = |listen| builder("x").must_match("shards", 8).seeds([seed]).listen(listen);
    type Case = (&'static str, fn(Builder) -> Builder, fn(&Error) -> bool, bool);
    let cases: [Case; 9] = [
        ("zone too long", |b| b.zone("z".repeat(65)), |e| matches!(e, Error::Name(_)), false),
        ("too many roles", |b| (0..9).fold(b, |b, i| b.role(format!("r{i}"))), |e| config(e, "role"), false),
        ("role too long", |b| b.role("r".repeat(65)), |e| config(e, "role"), false),
        ("setting too long", |b| b.must_match("k", "v".repeat(257)), |e| config(e, "must_match"), false),
        ("too many seeds", |b| b.seeds((1..=65).map(|i| format!("127.0.0.1:{i}"))), |e| config(e, "seeds"), false),
        ("seed without a port", |b| b.seeds(["nowhere"]), |e| config(e, "seeds"), false),
        ("unresolvable", |b| b.seeds(["nowhere.invalid:1"]), |e| matches!(e, Error::Discovery(_)), true),
        ("other settings", |b| b.must_match("shards", 9), |e| matches!(e, Error::Refused { .. }), false),
        ("other secret", |b| b.secret([9; 32]), |e| matches!(e, Error::Untrusted { .. }), false),
    ];
    for (what, spoil, is_right, retryable) in cases {
        let listen = free_port();
        let error = spoil(good(listen)).start().await.expect_err(what);
        assert!(is_right(&error), "{what}: {error:?}");
        assert_eq!(error.is_retryable(), retryable, "{what}: {error}");
        let node = good(listen).start().await.unwrap_or_else(|error| panic!("{what}, and then: {error}"));
        node.leave(std::time::Duration::from_secs(1)).await.expect("leaves");
    }
    let listen = free_port();
    let long = Node::builder("n".repeat(65)).preset(Preset::Local).no_discovery().listen(listen).start().await;
    assert!(matches!(long.expect_err("too long"), Error::Name(_)));
    let node = good(listen).start().await.expect("starts");
    let too_large = node.set_state("load", vec![0; polity_cluster::MAX_VALUE_BYTES + 1]);
    assert!(matches!(too_large, Err(polity_cluster::StateError::ValueTooLarge(_))));
}

fn config(error: &Error, which: &str) -> bool {
    matches!(error, Error::Config { setting, .. } if *setting == which)
}

#[tokio::test]
async fn a_seed_that_does_not_resolve_is_named_and_does_no_harm_beside_one_that_does() {
    let member = builder("member").start().await.expect("starts");
    let made = Made::new();
    let error = builder("x").seeds(["gone.test:7946"]).env(Env::new(made.clone())).start().await.expect_err("unknown");
    assert!(error.is_retryable() && error.to_string().contains("gone.test:7946"), "{error}");
    let seeds = ["gone.test:7946".to_owned(), member.addr().to_string()];
    let node = builder("x").seeds(seeds).env(Env::new(made.clone())).start().await.expect("starts");
    // It goes on being resolved.
    let late = builder("late").start().await.expect("starts");
    made.name("gone.test:7946", late.addr());
    until(&node, |view| view.up().count() == 3).await;
    assert!(node.discovery_stats().failed > 0);
}

/// How a start ends.
type Starting = tokio::task::JoinHandle<Result<Node, Error>>;

/// A node that is still starting.
async fn starting(builder: Builder) -> (Node, Starting) {
    let (tell, told) = tokio::sync::oneshot::channel();
    let mut tell = Some(tell);
    let start = async move {
        let started = builder.start_with(|node| drop(tell.take().map(|tell| tell.send(node.clone())))).await;
        started.map(|(node, ())| node)
    };
    let task = tokio::spawn(start);
    (told.await.expect("it starts"), task)
}

/// A node "c" on this ground that has lost its folder, is let in by one that has never heard of it, and is about to hear of the
/// boot 1001 that it had before. Returns the others, of which the last knows all, and how the start ends: none does before five
/// are there.
async fn lets_itself_be_outpaced(made: &Made, listen: SocketAddr, on_callers_runtime: bool) -> ([Node; 3], Starting) {
    let builder = |name: &str| builder(name).expect(5);
    let c = |made: &Made, seed: &Node| {
        let builder = builder("c").data_dir("/c").env(Env::new(made.clone())).seeds([seed.addr()]);
        if on_callers_runtime { builder.on_callers_runtime() } else { builder }
    };
    let ((a, _), (b, _)) = (starting(builder("a")).await, starting(builder("b")).await);
    let before = Made::new();
    before.write(Path::new(GENERATION), b"1000").expect("writable");
    let (gone, start) = starting(c(&before, &b)).await;
    until(&b, |view| generation(view) == Some(1001)).await;
    start.abort();
    gone.stop().await;
    drop(gone);

    let start = tokio::spawn(c(made, &a).listen(listen).start());
    until(&a, |view| generation(view) == Some(1)).await;
    let (d, _) = starting(builder("d").seeds([a.addr(), b.addr()])).await;
    ([a, b, d], start)
}

const GENERATION: &str = "/c/generation";

fn generation(view: &View) -> Option<u64> {
    view.members.get("c").map(|member| member.id.boot.generation)
}

#[tokio::test]
async fn a_start_that_hears_of_a_newer_boot_takes_a_newer_one_on_the_same_port() {
    for on_callers_runtime in [false, true] {
        let (made, listen) = (Made::new(), free_port());
        let ([_a, _b, d], mut start) = lets_itself_be_outpaced(&made, listen, on_callers_runtime).await;
        tokio::select! {
            biased;
            early = &mut start => panic!("it has ended: {early:?}"),
            () = until(&d, |view| generation(view) == Some(1002) && view.up().count() == 4) => {}
        }
        let last = builder("e").expect(5).seeds([d.addr()]).start().await.expect("starts");
        let node = start.await.expect("no panic").expect("it starts");
        assert_eq!((node.id().boot.generation, node.addr(), node.cluster_id()), (1002, listen, last.cluster_id()));
    }
}

#[tokio::test]
async fn a_start_that_fails_after_it_has_heard_of_a_newer_boot_leaves_that_to_the_next() {
    let made = Made::new();
    made.binds_left.store(1, Ordering::Relaxed);
    let (_others, start) = lets_itself_be_outpaced(&made, free_port(), false).await;
    let error = start.await.expect("no panic").expect_err("there is no second port");
    assert!(matches!(error, Error::Listen { .. }) && error.is_retryable(), "{error}");
    assert_eq!(made.read(Path::new(GENERATION)).expect("readable").as_deref(), Some(&b"1001"[..]));
}
