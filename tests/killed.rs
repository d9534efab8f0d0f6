//! Five processes with folders that are killed all at once, again and again: what they have acknowledged is found by the
//! first read that is answered (K1, K3).

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use polity::kv::{Any, Bucket, BucketConfig, KvConfig, Value};
use polity::{Kv, KvError, Node, Preset};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;

const NODES: usize = 5;
/// How often all of them are killed.
const KILLS: u64 = 6;
/// Writes under way at once in each process, and reads.
const CLIENTS: usize = 4;
/// How many acknowledgements the processes give together before they are killed, at most.
const MAX_ACKS: u32 = 300;
/// The numbers that the writes of one life may have: those of the next are greater.
const NUMBERS: u64 = 1 << 32;
/// Between two attempts of a client that was refused.
const AGAIN: Duration = Duration::from_millis(10);
/// Longer than anything takes that comes at all.
const PATIENCE: Duration = Duration::from_secs(60);

/// Holds values of all kinds.
const BUCKET: &str = "anything";

/// Names the folder of the test, the node and its life, for this program when it is started again as a node.
const CHILD: &str = "POLITY_KILLED_NODE";
/// Begins each line that a node says.
const SAYS: &str = "@ ";

/// The files that tell all nodes where they are, and what they must find.
const ADDRESSES: &str = "addresses";
const EXPECTED: &str = "expected";

/// What is done under one number: `None` deletes, `Some` puts the number.
fn operation(node: usize, client: usize, number: u64) -> (String, Option<u64>) {
    match number % 4 {
        3 => (format!("{node}-{client}-{}", number - 3), None),
        2 => (format!("{node}-{client}"), Some(number)),
        _ => (format!("{node}-{client}-{number}"), Some(number)),
    }
}

/// Puts a number under a key. Each client has keys of a kind of its own.
async fn put(bucket: &Bucket<Any>, client: usize, key: &str, number: u64) -> Result<(), KvError> {
    let text = number.to_string();
    match client % CLIENTS {
        0 => bucket.causal().put(key, text).await.map(drop),
        1 => bucket.last_writer_wins().put(key, text).await,
        2 => bucket.sets().update(key, |set| set.add(text)).await.map(drop),
        _ => bucket.maps().update(key, |map| map.set("number", text)).await.map(drop),
    }
}

/// The greatest number that was put under a key; 0 if nothing is there.
async fn greatest(bucket: &Bucket<Any>, key: &str) -> Result<u64, KvError> {
    let values = match bucket.get(key).await? {
        None => Vec::new(),
        Some(Value::Causal(entry)) => entry.values().to_vec(),
        Some(Value::LastWriterWins(value)) => vec![value],
        Some(Value::Set(elements)) => elements.into_iter().collect(),
        Some(Value::Map(fields)) => fields.into_values().collect(),
        Some(other) => panic!("nobody wrote {other:?}"),
    };
    let number = |value: &bytes::Bytes| std::str::from_utf8(value).ok()?.parse::<u64>().ok();
    Ok(values.iter().map(|value| number(value).expect("what was written")).max().unwrap_or(0))
}

// ---- a node -----------------------------------------------------------------------------------------------------------

/// Does nothing, unless it is started by the test below: then it is a node, which works until it is killed.
#[test]
fn child() {
    let Some(given) = std::env::var_os(CHILD) else { return };
    let given = given.into_string().expect("text");
    let mut words = given.splitn(3, ' ');
    let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).expect("a number");
    let (node, life) = (number() as usize, number());
    let folder = PathBuf::from(words.next().expect("a folder"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("starts");
    runtime.block_on(live(node, life, &folder));
}

async fn live(at: usize, life: u64, folder: &Path) {
    let read = |name| fs::read_to_string(folder.join(name)).expect("it is there");
    let addresses: Vec<SocketAddr> = read(ADDRESSES).lines().map(|line| line.parse().expect("an address")).collect();
    let builder = || {
        let builder = Node::builder(format!("n{at}")).cluster("test").preset(Preset::Local).no_discovery();
        let config = KvConfig::default().bucket(BUCKET, BucketConfig::any());
        builder.secret([7; 32]).seeds(&addresses).kv(config).durable(folder.join(format!("n{at}")))
    };
    let node = match builder().listen(addresses[at]).start().await {
        Ok(node) => node,
        // Somebody else has the port now. The others are found all the same, and are told.
        Err(polity::Error::Cluster(_)) => builder().start().await.expect("starts"),
        Err(error) => panic!("{error}"),
    };
    let mut tasks = JoinSet::new();
    let expected: Vec<Expected> = read(EXPECTED).lines().map(Expected::parse).collect();
    for client in 0..CLIENTS {
        // Every node begins elsewhere.
        let mut mine: Vec<_> = expected.iter().skip(client).step_by(CLIENTS).cloned().collect();
        mine.shuffle(&mut StdRng::seed_from_u64(life << 8 | at as u64));
        let kv = node.kv().clone();
        tasks.spawn(async move {
            for expected in mine {
                expected.check(&kv).await;
            }
        });
    }
    if life == 0 {
        // What is written while a node is alone is in its folder alone.
        node.kv().settled().await;
        while node.members().snapshot().members.len() < NODES {
            tokio::time::sleep(AGAIN).await;
        }
        node.kv().settled().await;
    }
    let mut writers = JoinSet::new();
    for client in 0..CLIENTS {
        writers.spawn(write(node.kv().clone(), at, client, life * NUMBERS));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("no read panics");
    }
    println!("{SAYS}checked");
    writers.join_next().await;
    unreachable!("writers do not end");
}

async fn write(kv: Kv, node: usize, client: usize, first: u64) {
    let bucket = kv.bucket(BUCKET).expect("it is declared");
    for number in first.. {
        let (key, value) = operation(node, client, number);
        println!("{SAYS}tried {client} {number}");
        let written = match value {
            Some(value) => put(&bucket, client, &key, value).await,
            None => bucket.delete(&key).await.map(drop),
        };
        match written {
            Ok(_) => println!("{SAYS}acknowledged {client} {number}"),
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

/// What a read of a key must find: a number that is neither less nor more; 0 stands for nothing.
#[derive(Clone, Debug)]
struct Expected {
    key: String,
    least: u64,
    most: u64,
}

impl Expected {
    fn line(&self) -> String {
        format!("{} {} {}\n", self.key, self.least, self.most)
    }

    fn parse(line: &str) -> Self {
        let mut words = line.split(' ');
        let mut word = || words.next().expect("three words");
        let (key, least, most) = (word().to_owned(), word(), word());
        Self { key, least: least.parse().expect("a number"), most: most.parse().expect("a number") }
    }

    /// Reads until a quorum answers, and judges the first answer.
    async fn check(&self, kv: &Kv) {
        let bucket = kv.bucket(BUCKET).expect("it is declared");
        let found = loop {
            match greatest(&bucket, &self.key).await {
                Ok(found) => break found,
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        };
        if found < self.least || found > self.most {
            println!("{SAYS}wrong {self:?}, and not {found}");
        }
    }
}

// ---- the test ---------------------------------------------------------------------------------------------------------

/// What became of the writes under one number.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Fate {
    #[default]
    Tried,
    Acknowledged,
}

/// All that was written, by node, client and number.
#[derive(Default)]
struct Written(BTreeMap<(usize, usize, u64), Fate>);

impl Written {
    fn expected(&self) -> Vec<Expected> {
        let mut keys: BTreeMap<String, Expected> = BTreeMap::new();
        // Ascending, so in the order in which a client did it.
        for ((node, client, number), fate) in &self.0 {
            let (key, value) = operation(*node, *client, *number);
            let nothing = Expected { key: key.clone(), least: 0, most: 0 };
            let expected = keys.entry(key).or_insert(nothing);
            match (value, fate) {
                // Others follow under the same key when the nodes live again.
                (Some(value), fate) if number % 4 == 2 => {
                    expected.most = u64::MAX;
                    if *fate == Fate::Acknowledged {
                        expected.least = value;
                    }
                }
                (Some(value), Fate::Tried) => expected.most = value,
                (Some(value), Fate::Acknowledged) => (expected.least, expected.most) = (value, value),
                // A put of unknown outcome may come after the delete.
                (None, Fate::Acknowledged) if expected.least > 0 => (expected.least, expected.most) = (0, 0),
                (None, _) => expected.least = 0,
            }
        }
        keys.into_values().collect()
    }

    fn acknowledged(&self) -> usize {
        self.0.values().filter(|fate| **fate == Fate::Acknowledged).count()
    }
}

/// A process that is a node. Killed when it is dropped.
struct Running {
    process: Child,
    listener: Option<JoinHandle<()>>,
}

impl Running {
    fn start(folder: &Path, node: usize, life: u64, heard: Sender<(usize, String)>) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["child", "--exact", "--nocapture", "--test-threads", "1"]);
        command.env(CHILD, format!("{node} {life} {}", folder.display())).stdout(Stdio::piped());
        let mut process = command.spawn().expect("starts");
        let lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        let listen = move || {
            // The last line may be cut off.
            for line in lines.map_while(Result::ok) {
                if let Some((_, said)) = line.split_once(SAYS) {
                    let _ = heard.send((node, said.to_owned()));
                }
            }
        };
        Self { process, listener: Some(std::thread::spawn(listen)) }
    }

    /// Waits until it is gone, and all that it has said was heard.
    fn wait(&mut self) {
        self.process.wait().expect("it is ours");
        if let Some(listener) = self.listener.take() {
            listener.join().expect("it listens to the end");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One life of all nodes.
struct Life<'w> {
    written: &'w mut Written,
    heard: Receiver<(usize, String)>,
    checked: usize,
    acks: u32,
}

impl Life<'_> {
    fn take(&mut self, (node, said): (usize, String)) {
        let mut words = said.split(' ');
        let what = words.next().expect("a word");
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        match (what, number(), number()) {
            ("tried", Some(client), Some(number)) => {
                self.written.0.insert((node, client as usize, number), Fate::Tried);
            }
            ("acknowledged", Some(client), Some(number)) => {
                self.written.0.insert((node, client as usize, number), Fate::Acknowledged);
                self.acks += 1;
            }
            ("checked", ..) => self.checked += 1,
            _ => panic!("n{node} says {said}"),
        }
    }

    fn listen_until(&mut self, so: impl Fn(&Self) -> bool) {
        while !so(self) {
            let heard = self.heard.recv_timeout(PATIENCE).expect("they go on");
            self.take(heard);
        }
    }
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Says which life failed.
struct Says(u64);

impl Drop for Says {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in life {0}, whose seed is {0}", self.0);
        }
    }
}

#[test]
fn what_was_acknowledged_is_read_as_soon_as_five_killed_processes_are_back() {
    let folder = Folder(std::env::temp_dir().join(format!("polity-killed-five-{}", std::process::id())));
    let _ = fs::remove_dir_all(&folder.0);
    fs::create_dir_all(&folder.0).expect("it can be made");
    let sockets: Vec<_> = (0..NODES).map(|_| UdpSocket::bind("127.0.0.1:0").expect("a port")).collect();
    let addresses = sockets.iter().map(|socket| format!("{}\n", socket.local_addr().expect("bound")));
    fs::write(folder.0.join(ADDRESSES), addresses.collect::<String>()).expect("it can be written");
    drop(sockets);
    let mut written = Written::default();
    for life in 0..=KILLS {
        let _says = Says(life);
        let mut rng = StdRng::seed_from_u64(life);
        let expected: String = written.expected().iter().map(Expected::line).collect();
        fs::write(folder.0.join(EXPECTED), expected).expect("it can be written");
        let mut order: Vec<usize> = (0..NODES).collect();
        order.shuffle(&mut rng);
        let (hear, heard) = channel();
        let mut running: Vec<Running> = Vec::new();
        for node in order {
            running.push(Running::start(&folder.0, node, life, hear.clone()));
            std::thread::sleep(Duration::from_millis(rng.random_range(0..200)));
        }
        drop(hear);
        let mut now = Life { written: &mut written, heard, checked: 0, acks: 0 };
        // Sometimes they are killed again before all has been read.
        if life == KILLS || rng.random() {
            now.listen_until(|now| now.checked == NODES);
        }
        let until = now.acks + rng.random_range(1..=MAX_ACKS);
        now.listen_until(|now| now.acks >= until);
        running.shuffle(&mut rng);
        for running in &mut running {
            running.process.kill().expect("it is ours");
        }
        running.iter_mut().for_each(Running::wait);
        // They went on until they were gone, and what they said until then counts.
        while let Ok(heard) = now.heard.try_recv() {
            now.take(heard);
        }
    }
    assert!(written.acknowledged() > KILLS as usize * NODES);
}
