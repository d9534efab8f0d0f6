//! Secrets that change while a cluster runs, on real sockets.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use polity_cluster::keyring::KeyringStatus;
use polity_cluster::rpc::{Lane, Method, Peer};
use polity_cluster::{Builder, DropReason, Error, KeyId, KeyringError, Node, Preset, Secret};

const ECHO: Method<u64, u64> = Method::new(2000, "echo", Lane::Call);

fn builder(name: &str, secret: u8) -> Builder {
    let builder = Node::builder(name).cluster("keys").preset(Preset::Local).no_discovery().listen("127.0.0.1:0");
    builder.secret([secret; 32])
}

fn secret(byte: u8) -> Secret {
    Secret::new([byte; 32]).expect("long enough")
}

async fn until_up(node: &Node, count: usize) {
    let mut changes = node.members().subscribe();
    while node.members().snapshot().up().count() != count {
        changes.next().await;
    }
}

/// Waits until a node sees what it should. Bounded by the test runner alone.
async fn until(node: &Node, seen: impl Fn(&KeyringStatus) -> bool) {
    while !seen(&node.keyring().status()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn all_have(status: &KeyringStatus, primary: KeyId, held: &[KeyId]) -> bool {
    let mut held = held.to_vec();
    held.sort();
    status.members.values().all(|keys| keys.as_ref().is_some_and(|keys| keys.primary == primary && keys.held == held))
}

async fn three() -> Vec<Node> {
    let mut nodes = vec![builder("n0", 1).start().await.expect("starts")];
    for name in ["n1", "n2"] {
        nodes.push(builder(name, 1).seeds([nodes[0].addr()]).start().await.expect("starts"));
    }
    for node in &nodes {
        until_up(node, 3).await;
    }
    nodes
}

/// The node that the operator asks may be a moment behind the one that the last step was asked of.
async fn accepted<F: Future<Output = Result<(), KeyringError>>>(step: impl Fn() -> F) {
    loop {
        match step().await {
            Ok(()) => return,
            Err(KeyringError::NotHeld { .. } | KeyringError::InUse { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// From the first secret to the second, each step asked of another node.
async fn rotate(nodes: &[Node]) -> (KeyId, KeyId) {
    let (old, new) = (secret(1).id(), secret(2).id());
    assert_eq!(nodes[0].keyring().install(secret(2)).await, Ok(new));
    accepted(|| nodes[1].keyring().use_key(new)).await;
    accepted(|| nodes[2].keyring().remove(old)).await;
    (old, new)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_under_load_loses_no_call_and_no_datagram() {
    let nodes = three().await;
    for node in &nodes {
        node.rpc().serve(ECHO, |_, number, reply| reply.send(&number));
    }
    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..3)
        .map(|at| {
            let (rpc, next) = (nodes[at].rpc().clone(), &nodes[(at + 1) % 3]);
            let peer = Peer { node: next.id().clone(), addr: next.addr() };
            let (stop, calls) = (stop.clone(), calls.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    rpc.call(&peer, &ECHO, &7, Duration::from_secs(5)).await.expect("no call fails");
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut changes: Vec<_> = nodes.iter().map(|node| node.members().subscribe()).collect();
    for changes in &mut changes {
        while changes.try_next().is_some() {}
    }
    let (_, new) = rotate(&nodes).await;
    for node in &nodes {
        until(node, |status| all_have(status, new, &[new])).await;
    }
    // Gossip goes on under the new key alone.
    let received = nodes[0].membership_stats().received;
    while nodes[0].membership_stats().received < received + 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.expect("no call fails");
    }
    assert!(calls.load(Ordering::Relaxed) > 100);
    for (node, changes) in nodes.iter().zip(&mut changes) {
        let drops = node.dropped_datagrams();
        assert_eq!((drops[&DropReason::UnknownKey], drops[&DropReason::Unauthentic]), (0, 0), "{}", node.id());
        assert_eq!(node.membership_stats().declared_down, 0, "{}", node.id());
        while let Some(event) = changes.try_next() {
            let polity_cluster::MemberEvent::Changed { member, .. } = event else { panic!("{event:?}") };
            assert!(member.status.is_up() && member.rejoin == 0, "{member:?}");
        }
    }
}

#[tokio::test]
async fn a_step_that_would_cut_somebody_off_is_refused() {
    let nodes = three().await;
    let (old, new) = (secret(1).id(), secret(2).id());
    let keyring = nodes[0].keyring();
    assert_eq!(keyring.use_key(new).await, Err(KeyringError::Unknown { key: new }));
    assert_eq!(keyring.remove(old).await, Err(KeyringError::IsPrimary { key: old }));
    let joiner = builder("n3", 1).also_trust([2; 32]).seeds([nodes[0].addr()]).start().await.expect("starts");
    until(&joiner, |status| status.members.len() == 4 && status.members.values().all(Option::is_some)).await;
    let Err(KeyringError::NotHeld { key, members }) = joiner.keyring().use_key(new).await else { panic!("refused") };
    assert_eq!((key, members.iter().map(|name| name.as_str()).collect::<Vec<_>>()), (new, vec!["n0", "n1", "n2"]));
    joiner.keyring().install(secret(2)).await.expect("installed");
    joiner.keyring().use_key(new).await.expect("all have it");
    assert!(all_have(&joiner.keyring().status(), new, &[old, new]));
    joiner.keyring().remove(old).await.expect("nobody needs it");
    assert_eq!(joiner.keyring().install(secret(1)).await, Err(KeyringError::Removed { key: old }));
}

#[tokio::test]
async fn who_joins_between_the_steps_is_brought_up() {
    let nodes = three().await;
    let (old, new) = (secret(1).id(), secret(2).id());
    nodes[0].keyring().install(secret(2)).await.expect("installed");
    let only_old = builder("n3", 1).seeds([nodes[1].addr()]).start().await.expect("starts");
    let only_new = builder("n4", 2).seeds([nodes[2].addr()]).start().await.expect("starts");
    for node in [&only_old, &only_new] {
        until(node, |status| {
            let held = |keys: &polity_cluster::keyring::MemberKeys| keys.held.len() == 2;
            status.members.len() == 5 && status.members.values().all(|keys| keys.as_ref().is_some_and(held))
        })
        .await;
    }
    accepted(|| only_old.keyring().use_key(new)).await;
    let late = builder("n5", 1).seeds([nodes[1].addr()]).start().await.expect("starts");
    until(&late, |status| status.members.len() == 6 && all_have(status, new, &[old, new])).await;
    accepted(|| only_new.keyring().remove(old)).await;
    for node in [&nodes[0], &only_old, &only_new, &late] {
        until(node, |status| status.members.len() == 6 && all_have(status, new, &[new])).await;
    }
}

/// Where a subscriber of logs writes to.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no panic")).into_owned()
    }
}

#[tokio::test]
async fn who_missed_the_rotation_is_told_and_comes_back_with_the_new_secret() {
    let nodes = three().await;
    let away = builder("n3", 1).seeds([nodes[0].addr()]).start().await.expect("starts");
    until_up(&nodes[0], 4).await;
    away.leave(Duration::from_secs(1)).await.expect("leaves");
    for node in &nodes {
        until_up(node, 3).await;
    }
    rotate(&nodes).await;

    let refused = builder("n3", 1).seeds([nodes[0].addr()]).start().await.expect_err("no key in common");
    assert!(matches!(refused, Error::Untrusted { .. }) && !refused.is_retryable(), "{refused}");
    assert!(refused.to_string().contains("rotated while this node was away; restart this node with"), "{refused}");
    let back = builder("n3", 2).seeds([nodes[0].addr()]).start().await.expect("starts");
    until_up(&nodes[1], 4).await;
    assert!(back.id().boot > away.id().boot);
}

#[test]
fn a_node_that_runs_and_shares_no_key_says_so_in_its_log() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tracing::subscriber::with_default(subscriber, || {
        runtime.block_on(async {
            let other = builder("a", 2).on_callers_runtime().start().await.expect("starts");
            // It is the first of its cluster, as far as it knows; then it hears of the other.
            let (seeds, file) =
                (other.addr(), std::env::temp_dir().join(format!("polity-keys-{}", std::process::id())));
            std::fs::write(&file, "").expect("a file");
            let found = polity_cluster::discovery::WatchedFile::new(&file);
            let behind = builder("b", 1).on_callers_runtime().discover(found).start().await.expect("starts");
            std::fs::write(&file, format!("{seeds}\n")).expect("a file");
            while !log.text().contains("the cluster does not trust this node's key") {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            std::fs::remove_file(&file).expect("a file");
            drop(behind);
        });
    });
    let text = log.text();
    let line = text.lines().find(|line| line.contains("does not trust this node's key")).expect("the line");
    assert!(line.contains("ERROR") && line.contains("restart this node with the cluster's present secret"), "{line}");
}

#[tokio::test]
async fn no_secret_is_ever_printed() {
    let bytes = b"a secret that nobody may ever see".to_vec();
    let builder = Node::builder("n1").preset(Preset::Local).no_discovery().secret(bytes.clone()).also_trust([77; 32]);
    let printed = format!("{builder:?} {builder:#?}");
    let node = builder.start().await.expect("starts");
    let keyring = node.keyring();
    let shown = format!("{printed} {node:?} {node:#?} {keyring:?} {keyring:#?} {:?}", keyring.status());
    let secret = Secret::new(bytes.clone()).expect("long enough");
    let short = Secret::new(&b"secret but short"[..]).expect_err("too short");
    let shown = format!("{shown} {secret:?} {secret:#?} {short:?} {short}");
    for (text, listed) in [("nobody may", format!("{:?}", &bytes[..8])), ("but short", "77, 77".to_owned())] {
        let list = listed.trim_matches(['[', ']']);
        assert!(!shown.contains(text) && !shown.contains(list), "{shown}");
    }
}

/// A rotation by restarts that is ended while the cluster runs: one node was not told of the new secret.
#[tokio::test]
async fn who_lacks_a_key_that_is_to_be_used_is_sent_it() {
    let first = builder("n0", 1).also_trust([2; 32]).start().await.expect("starts");
    let second = builder("n1", 1).seeds([first.addr()]).start().await.expect("starts");
    until_up(&first, 2).await;
    let error = first.keyring().use_key(secret(2).id()).await.expect_err("the other cannot open it");
    assert!(matches!(error, KeyringError::NotHeld { .. }) && error.is_retryable(), "{error}");
    accepted(|| first.keyring().use_key(secret(2).id())).await;
    until(&second, |status| status.own().is_some_and(|keys| keys.primary == secret(2).id())).await;
}
