//! Three `kvd` processes on loopback, spoken to in the bytes of the protocol.

mod client;
mod cluster;

use client::{Answer, Client};
use cluster::Cluster;

fn error_of(answer: &Answer) -> &str {
    match answer {
        Answer::Error(text) => text,
        other => panic!("no error: {other:?}"),
    }
}

fn text(text: &str) -> Answer {
    Answer::Bulk(text.as_bytes().to_vec())
}

const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";

/// One cluster serves all that changes no members; each part has keys of its own.
#[test]
fn any_node_serves_what_any_other_was_told() {
    let cluster = Cluster::start_with(3, &["--connections", "500"]);
    let mut clients: Vec<Client> = (0..3).map(|node| cluster.client(node)).collect();

    strings(&mut clients);
    counters(&mut clients);
    sets(&mut clients);
    hashes(&mut clients);
    kinds(&mut clients);
    times(&mut clients);
    pipelines(&mut clients);
    connections(&mut clients);
    protocol_versions(&mut clients[0]);
    malformed(&cluster);
    limits(&mut clients);
}

fn strings(clients: &mut [Client]) {
    let [a, b, c] = clients else { panic!("three") };
    assert_eq!(a.ask("GET s:1"), Answer::Nil);
    assert_eq!(a.ask("SET s:1 one"), Answer::Simple("OK".into()));
    assert_eq!(b.ask("GET s:1"), text("one"));
    assert_eq!(c.ask("set s:1 two"), Answer::Simple("OK".into()));
    assert_eq!(a.ask("get s:1"), text("two"));
    let binary = [0_u8, b'\r', b'\n', 255, b'$'];
    assert_eq!(a.call(&[b"SET", b"s:bin", &binary]), Answer::Simple("OK".into()));
    assert_eq!(b.ask("GET s:bin"), Answer::Bulk(binary.to_vec()));
    assert_eq!(b.ask("MSET s:2 x s:3 y s:2 z"), Answer::Simple("OK".into()));
    assert_eq!(c.ask("MGET s:2 s:none s:3"), Answer::Array(vec![text("z"), Answer::Nil, text("y")]));
    assert!(error_of(&a.ask("MSET s:2 x s:3")).contains("wrong number of arguments for 'mset' command"));
    assert_eq!(a.ask("EXISTS s:2 s:none s:2"), Answer::Integer(2));
    assert_eq!(a.ask("DEL s:2 s:none s:3 s:3"), Answer::Integer(2));
    assert_eq!(b.ask("EXISTS s:2 s:3"), Answer::Integer(0));
    assert!(error_of(&a.ask("SET s:1 x NX")).contains("without consensus"));
    assert_eq!(b.ask("GET s:1"), text("two"));
}

fn counters(clients: &mut [Client]) {
    let [a, b, c] = clients else { panic!("three") };
    assert_eq!(a.ask("INCR c:1"), Answer::Integer(1));
    assert_eq!(b.ask("INCRBY c:1 41"), Answer::Integer(42));
    assert_eq!(c.ask("DECR c:1"), Answer::Integer(41));
    assert_eq!(a.ask("DECRBY c:1 50"), Answer::Integer(-9));
    assert_eq!(b.ask("GET c:1"), text("-9"));
    assert_eq!(b.ask("MGET c:1 c:none"), Answer::Array(vec![text("-9"), Answer::Nil]));
    assert_eq!(error_of(&a.ask("INCRBY c:1 x")), "ERR value is not an integer or out of range");
    assert_eq!(error_of(&a.ask("DECRBY c:1 -9223372036854775808")), "ERR decrement would overflow");
    assert_eq!(a.ask("INCRBY c:2 9223372036854775807"), Answer::Integer(i64::MAX));
    overflows(a, b);
}

/// What would lead beyond 64 bits is refused, and the counter stays where it was, whichever node is asked.
fn overflows(a: &mut Client, b: &mut Client) {
    const OVERFLOW: &str = "ERR increment or decrement would overflow";
    let (least, most) = (text("-9223372036854775808"), text("9223372036854775807"));
    for step in [
        "INCR c:2",
        "INCRBY c:2 4611686018427387904",
        "INCRBY c:2 4611686018427387905",
        "INCRBY c:2 9223372036854775807",
    ] {
        assert_eq!(error_of(&b.ask(step)), OVERFLOW, "{step}");
        assert_eq!([a.ask("GET c:2"), b.ask("GET c:2")], [most.clone(), most.clone()], "{step}");
    }
    assert_eq!(b.ask("DECR c:2"), Answer::Integer(i64::MAX - 1));
    assert_eq!(a.ask("INCR c:2"), Answer::Integer(i64::MAX));
    assert_eq!(b.ask("INCRBY c:2 -9223372036854775808"), Answer::Integer(-1));
    assert_eq!(error_of(&a.ask("INCRBY c:2 -9223372036854775808")), OVERFLOW);
    assert_eq!(b.ask("DECRBY c:2 9223372036854775807"), Answer::Integer(i64::MIN));
    assert_eq!(error_of(&a.ask("DECR c:2")), OVERFLOW);
    assert_eq!([a.ask("GET c:2"), b.ask("GET c:2")], [least.clone(), least]);
    // The steps of a pipeline, each for itself.
    let asked = ["INCRBY c:3 9223372036854775807", "INCR c:3", "DECRBY c:3 2", "INCR c:3"].map(str::to_owned);
    let wanted = [
        Answer::Integer(i64::MAX),
        Answer::Error(OVERFLOW.into()),
        Answer::Integer(i64::MAX - 2),
        Answer::Integer(i64::MAX - 1),
    ];
    assert_eq!(a.ask_all(&asked), wanted);
    assert_eq!(error_of(&a.ask("INCRBY s:1 9223372036854775807")), WRONG_TYPE);
}

fn sets(clients: &mut [Client]) {
    let [a, b, c] = clients else { panic!("three") };
    assert_eq!(a.ask("SADD t:1 x y x"), Answer::Integer(2));
    assert_eq!(b.ask("SADD t:1 y z"), Answer::Integer(1));
    assert_eq!(c.ask("SMEMBERS t:1"), Answer::Array(vec![text("x"), text("y"), text("z")]));
    assert_eq!(c.ask("SISMEMBER t:1 z"), Answer::Integer(1));
    assert_eq!(c.ask("SISMEMBER t:1 q"), Answer::Integer(0));
    assert_eq!(a.ask("SREM t:1 x q"), Answer::Integer(1));
    assert_eq!(b.ask("SCARD t:1"), Answer::Integer(2));
    assert_eq!(b.ask("SREM t:1 y z"), Answer::Integer(2));
    assert_eq!(c.ask("EXISTS t:1"), Answer::Integer(0));
    assert_eq!(c.ask("SMEMBERS t:1"), Answer::Array(Vec::new()));
}

fn hashes(clients: &mut [Client]) {
    let [a, b, c] = clients else { panic!("three") };
    assert_eq!(a.ask("HSET h:1 f 1 g 2"), Answer::Integer(2));
    assert_eq!(b.ask("HSET h:1 g 3 h 4"), Answer::Integer(1));
    assert_eq!(c.ask("HGET h:1 g"), text("3"));
    assert_eq!(c.ask("HGET h:1 q"), Answer::Nil);
    assert_eq!(c.ask("HMGET h:1 f q h"), Answer::Array(vec![text("1"), Answer::Nil, text("4")]));
    assert_eq!(a.ask("HGETALL h:1"), Answer::Array(["f", "1", "g", "3", "h", "4"].map(text).into()));
    assert_eq!(a.ask("HLEN h:1"), Answer::Integer(3));
    assert_eq!(a.ask("HDEL h:1 f q"), Answer::Integer(1));
    assert_eq!(b.ask("HEXISTS h:1 f"), Answer::Integer(0));
    assert_eq!(b.ask("HEXISTS h:1 g"), Answer::Integer(1));
    assert!(error_of(&a.ask("HSET h:1 f 1 g")).contains("wrong number of arguments for 'hset' command"));
}

/// What the first write made of a key it stays until it is deleted, on whichever node.
fn kinds(clients: &mut [Client]) {
    let [a, b, c] = clients else { panic!("three") };
    let makes = [("SET k:0 v", "string"), ("INCR k:1", "string"), ("SADD k:2 e", "set"), ("HSET k:3 f v", "hash")];
    let reads = ["GET", "INCR", "SMEMBERS", "HGETALL"];
    for (key, (make, kind)) in makes.iter().enumerate() {
        a.ask(make);
        assert_eq!(b.ask(&format!("TYPE k:{key}")), Answer::Simple((*kind).into()));
        for (other, read) in reads.iter().enumerate() {
            // A counter is read as a string.
            let is_right = other == key || (key == 1 && other == 0);
            let answer = c.ask(&format!("{read} k:{key}"));
            assert_eq!(matches!(&answer, Answer::Error(text) if text == WRONG_TYPE), !is_right, "{make}, {read}");
        }
    }
    for write in ["SET k:2 v", "INCR k:2", "HSET k:2 f v", "SADD k:3 e", "SET k:1 v"] {
        assert_eq!(error_of(&b.ask(write)), WRONG_TYPE, "{write}");
    }
    assert_eq!(b.ask("MGET k:0 k:2"), Answer::Array(vec![text("v"), Answer::Nil]));
    let told = b.ask("MSET k:0 w k:2 w k:9 w");
    assert_eq!(error_of(&told), format!("{WRONG_TYPE} (1 of 3 keys failed)"));
    assert_eq!(c.ask("MGET k:0 k:9"), Answer::Array(vec![text("w"), text("w")]));
    assert_eq!(c.ask("DEL k:0 k:1 k:2 k:3"), Answer::Integer(4));
    assert_eq!(a.ask("TYPE k:2"), Answer::Simple("none".into()));
    assert_eq!(a.ask("SET k:2 v"), Answer::Simple("OK".into()));
}

fn times(clients: &mut [Client]) {
    let [a, b, c] = clients else { panic!("three") };
    assert_eq!(a.ask("TTL x:none"), Answer::Integer(-2));
    for make in ["SET x:1 v", "INCR x:1", "SADD x:1 e", "HSET x:1 f v"] {
        a.ask(make);
        assert_eq!(b.ask("TTL x:1"), Answer::Integer(-1), "{make}");
        assert_eq!(b.ask("PERSIST x:1"), Answer::Integer(0));
        assert_eq!(b.ask("EXPIRE x:1 5000"), Answer::Integer(1));
        let Answer::Integer(left) = c.ask("TTL x:1") else { panic!("a number") };
        assert!((1..=5000).contains(&left), "{left}");
        assert_eq!(c.ask("PERSIST x:1"), Answer::Integer(1));
        assert_eq!(a.ask("PTTL x:1"), Answer::Integer(-1));
        assert_eq!(a.ask("EXPIRE x:1 -1"), Answer::Integer(1));
        assert_eq!(b.ask("EXISTS x:1"), Answer::Integer(0), "what should have expired is deleted");
    }
    assert_eq!(a.ask("EXPIRE x:1 5"), Answer::Integer(0));
    assert_eq!(error_of(&a.ask("EXPIRE x:1 9223372036854775807")), "ERR invalid expire time in 'expire' command");
    // A write that says nothing of time takes the time away, as in Redis.
    a.ask("SET x:2 v EX 5000");
    assert!(matches!(b.ask("TTL x:2"), Answer::Integer(1..=5000)));
    a.ask("SET x:2 w");
    assert_eq!(b.ask("TTL x:2"), Answer::Integer(-1));
    // It goes by itself. How soon is not judged, only that it does.
    a.ask("SET x:3 v PX 50");
    while b.ask("EXISTS x:3") != Answer::Integer(0) {}
    assert_eq!(c.ask("GET x:3"), Answer::Nil);
}

/// Requests that are sent at once are answered in order, and those for one key take effect in order.
fn pipelines(clients: &mut [Client]) {
    let a = &mut clients[0];
    let mut asked = Vec::new();
    let mut wanted = Vec::new();
    for round in 0..100 {
        let key = round % 5;
        asked.push(format!("SET p:{key} {round}"));
        wanted.push(Answer::Simple("OK".into()));
        asked.push(format!("GET p:{key}"));
        wanted.push(text(&round.to_string()));
        asked.push("INCR p:count".to_owned());
        wanted.push(Answer::Integer(round + 1));
        asked.push(format!("PING {round}"));
        wanted.push(text(&round.to_string()));
    }
    asked.push("NONSENSE".to_owned());
    wanted.push(Answer::Error("ERR unknown command 'NONSENSE', with args beginning with: ".into()));
    asked.push("MGET p:0 p:4 p:count".to_owned());
    wanted.push(Answer::Array(vec![text("95"), text("99"), text("100")]));
    assert_eq!(a.ask_all(&asked), wanted);

    // Answers that are together larger than what is gathered before it is written.
    let large = "x".repeat(1 << 19);
    assert_eq!(a.ask(&format!("SET p:large {large}")), Answer::Simple("OK".into()));
    let answers = a.ask_all(&vec!["GET p:large".to_owned(); 40]);
    assert!(answers.iter().all(|answer| *answer == text(&large)) && answers.len() == 40);

    // What was sent after the end is not done.
    let mut last = a.another();
    assert_eq!(
        last.ask_all(&["SET p:end 1".into(), "QUIT".into()]),
        [Answer::Simple("OK".into()), Answer::Simple("OK".into())]
    );
    assert!(last.is_closed());
    let mut over = a.another();
    over.send(&["QUIT".into(), "SET p:end 2".into()]);
    assert_eq!(over.answer(), Answer::Simple("OK".into()));
    assert!(over.is_closed());
    assert_eq!(a.ask("GET p:end"), text("1"));
}

fn connections(clients: &mut [Client]) {
    let a = &mut clients[1];
    assert_eq!(a.ask("PING"), Answer::Simple("PONG".into()));
    assert_eq!(a.ask("ECHO hi"), text("hi"));
    a.send_bytes(b"PING\r\nECHO  hi \n\r\n");
    assert_eq!([a.answer(), a.answer()], [Answer::Simple("PONG".into()), text("hi")]);
    assert_eq!(a.ask("SELECT 0"), Answer::Simple("OK".into()));
    assert_eq!(error_of(&a.ask("SELECT 1")), "ERR DB index is out of range");
    assert_eq!(a.ask("CLIENT GETNAME"), Answer::Nil);
    assert_eq!(a.ask("CLIENT SETNAME me"), Answer::Simple("OK".into()));
    assert_eq!(a.ask("CLIENT GETNAME"), text("me"));
    assert_eq!(a.ask("CLIENT SETINFO LIB-NAME test"), Answer::Simple("OK".into()));
    assert!(matches!(a.ask("CLIENT ID"), Answer::Integer(1..)));
    assert!(error_of(&a.ask("CLIENT KILL")).starts_with("ERR unknown subcommand 'KILL'"));
    assert_eq!(a.ask("CONFIG GET save"), Answer::Array(vec![text("save"), text("")]));
    assert_eq!(a.ask("CONFIG GET appendonly"), Answer::Array(vec![text("appendonly"), text("no")]));
    let most = Answer::Array(["maxclients", "500", "maxmemory", "0", "save", ""].map(text).to_vec());
    assert_eq!(a.ask("CONFIG GET max* S*E"), most);
    assert_eq!(a.ask("CONFIG GET max"), Answer::Array(Vec::new()));
    let Answer::Bulk(info) = a.ask("INFO") else { panic!("a text") };
    let info = String::from_utf8(info).expect("a text");
    assert!(info.contains("\r\nmembers_up:3\r\n") && info.contains("\r\nnode:n2\r\n"), "{info}");
    let Answer::Array(rows) = a.ask("COMMAND") else { panic!("rows") };
    assert!(rows.iter().all(|row| matches!(row, Answer::Array(parts) if parts.len() == 10)), "{rows:?}");
    assert_eq!(a.ask("COMMAND COUNT"), Answer::Integer(rows.len() as i64));
    let Answer::Array(docs) = a.ask("COMMAND DOCS get") else { panic!("docs") };
    assert_eq!(docs.first(), Some(&text("get")));
}

fn protocol_versions(old: &mut Client) {
    let mut new = old.another();
    assert_eq!(error_of(&new.ask("HELLO 4")), "NOPROTO unsupported protocol version");
    assert!(error_of(&new.ask("HELLO 3 AUTH user secret")).contains("no passwords"));
    assert_eq!(new.ask("GET v:none"), Answer::Nil, "a refused greeting changes nothing");
    let Answer::Map(hello) = new.ask("HELLO 3 SETNAME me") else { panic!("a map") };
    assert!(hello.contains(&(text("proto"), Answer::Integer(3))));
    assert_eq!(new.ask("CLIENT GETNAME"), text("me"));
    new.ask("HSET v:1 f v");
    assert_eq!(new.ask("HGETALL v:1"), Answer::Map(vec![(text("f"), text("v"))]));
    new.ask("SADD v:2 b a");
    assert_eq!(new.ask("SMEMBERS v:2"), Answer::Set(vec![text("a"), text("b")]));
    assert_eq!(new.ask("GET v:none"), Answer::Null);
    assert_eq!(old.ask("GET v:none"), Answer::Nil);
}

/// What is no request gets an error and ends the connection. What came before it is answered.
fn malformed(cluster: &Cluster) {
    for (bytes, why) in [
        (&b"*1\r\n:1\r\n"[..], "expected '$', got ':'"),
        (b"*1000000000\r\n", "invalid multibulk length"),
        (b"*2\r\n$3\r\nGET\r\n$9999999999\r\n", "invalid bulk length"),
        (b"*2\r\n$3\r\nGET\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n*1\r\n*1\r\n", "expected '$', got '*'"),
        (b"*1\r\n$4\r\nPINGPONG", "longer than announced"),
        (b"SET k \"a b\"\r\n", "quotes"),
        (&[b'*'; 100], "invalid multibulk length"),
        (&[b'x'; 1 << 17], "too big inline request"),
    ] {
        let mut client = cluster.client(0);
        client.send_bytes(b"PING\r\n");
        client.send_bytes(bytes);
        assert_eq!(client.answer(), Answer::Simple("PONG".into()));
        let answer = client.answer();
        assert!(error_of(&answer).starts_with("ERR Protocol error: ") && error_of(&answer).contains(why), "{answer:?}");
        assert!(client.is_closed());
    }
    // What a page has a browser send, requests in its body.
    for head in ["POST / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: 127.0.0.1:6401\r\n", "hOST: x\r\n"] {
        let mut client = cluster.client(0);
        client.send_bytes(format!("{head}\r\nSET http:1 v\r\nPING\r\n").as_bytes());
        while let Some(answer) = client.try_answer() {
            assert!(error_of(&answer).starts_with("ERR "), "{answer:?}");
        }
        assert_eq!(cluster.client(0).ask("EXISTS http:1"), Answer::Integer(0), "{head}");
    }
    // Garbage of every byte, and a request that never ends: others are served.
    let garbage: Vec<u8> = (0..4096_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut client = cluster.client(0);
    client.send_bytes(&garbage);
    let mut waits = cluster.client(0);
    waits.send_bytes(b"*2\r\n$3\r\nGET\r\n$100\r\nhalf");
    assert_eq!(cluster.client(0).ask("PING"), Answer::Simple("PONG".into()));
}

fn limits(clients: &mut [Client]) {
    let a = &mut clients[2];
    let mut values = |bytes: usize| a.ask(&format!("SET l:1 {}", "x".repeat(bytes)));
    assert_eq!(values(1 << 20), Answer::Simple("OK".into()));
    assert!(error_of(&values((1 << 20) + 1)).contains("a value has at most 1048576 bytes"));
    assert!(error_of(&a.ask(&format!("GET {}", "k".repeat(5000)))).contains("a key has 1 to 4096 bytes"));
    assert!(error_of(&a.call(&[b"GET", b""])).contains("a key has 1 to 4096 bytes"));
    let many = format!("MGET{}", " l:1".repeat(40));
    assert!(error_of(&a.ask(&many)).contains("ask for fewer"));
    a.ask(&format!("HSET l:2 f {}", "x".repeat(1 << 19)));
    assert!(error_of(&a.ask(&format!("HMGET l:2{}", " f".repeat(8000)))).contains("ask for fewer"));
    assert_eq!(a.ask("PING"), Answer::Simple("PONG".into()), "the connection stands");
    let of_all = vec![Answer::Simple("OK".into()); 2];
    let keys: String = (0..4000).map(|key| format!(" l:{key} v")).collect();
    assert_eq!(a.ask_all(&["DEL l:1 l:2".into(), format!("MSET{keys}")])[1..], of_all[1..]);
}

/// While one of three is killed, the others go on reading and writing, and nothing that was acknowledged is missing.
#[test]
fn reads_go_on_when_a_node_is_killed() {
    let mut cluster = Cluster::start(3);
    let (mut a, mut b) = (cluster.client(0), cluster.client(1));
    let mut victim = cluster.client(2);
    for key in 0..50 {
        assert_eq!(victim.ask(&format!("SET r:{key} {key}")), Answer::Simple("OK".into()));
    }
    cluster.kill(2);
    for round in 0..3 {
        for key in 0..50 {
            assert_eq!(a.ask(&format!("GET r:{key}")), text(&key.to_string()), "round {round}");
        }
    }
    for key in 0..50 {
        // While the victim is still taken for up a write may be refused or unknown, and says so; then it is repeated.
        loop {
            match a.ask(&format!("SET r:{key} again")) {
                Answer::Simple(_) => break,
                Answer::Error(text) => {
                    assert!(text.starts_with("UNKNOWN ") || text.starts_with("CLUSTERDOWN "), "{text}");
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(b.ask(&format!("GET r:{key}")), text("again"));
    }
}

/// A node alone of three refuses, and says that nothing was written.
#[test]
fn a_minority_refuses_and_says_that_nothing_was_written() {
    let mut cluster = Cluster::start(3);
    let mut a = cluster.client(0);
    a.ask("SET m:1 v");
    cluster.kill(1);
    cluster.kill(2);
    // Until both are known to be down, a write that reached nobody else is unknown.
    let refused = loop {
        match a.ask("SET m:1 w") {
            Answer::Error(text) if text.starts_with("UNKNOWN ") => {}
            Answer::Error(text) => break text,
            other => panic!("a minority has acknowledged: {other:?}"),
        }
    };
    assert!(refused.starts_with("CLUSTERDOWN the command was not applied: "), "{refused}");
    assert!(error_of(&a.ask("GET m:1")).starts_with("CLUSTERDOWN "));
    assert_eq!(a.ask("PING"), Answer::Simple("PONG".into()));
}

/// With `--data`, what was acknowledged is there after all nodes have been killed.
#[test]
fn data_on_disk_outlives_all_processes() {
    let mut cluster = Cluster::start_durable(3);
    let mut a = cluster.client(0);
    assert_eq!(
        a.ask_all(&["SET d:1 v".into(), "INCRBY d:2 7".into(), "SADD d:3 e".into()])[0],
        Answer::Simple("OK".into())
    );
    assert_eq!(a.ask("CONFIG GET appendonly"), Answer::Array(vec![text("appendonly"), text("yes")]));
    for node in 0..3 {
        cluster.kill(node);
    }
    cluster.restart_all();
    let mut b = cluster.client(1);
    let answers = b.ask_all(&["GET d:1".into(), "GET d:2".into(), "SISMEMBER d:3 e".into()]);
    assert_eq!(answers, [text("v"), text("7"), Answer::Integer(1)]);
}

/// A client that asks for much at once and does not read costs what its values take, however long the answers are.
#[cfg(target_os = "linux")]
#[test]
fn a_client_that_does_not_read_costs_little() {
    const REQUESTS: usize = 16;
    const MEBIBYTE: usize = 1 << 20;
    let cluster = Cluster::start(1);
    let mut client = cluster.client(0);
    let value = "x".repeat(MEBIBYTE - 1024);
    for field in ["f", "g"] {
        assert_eq!(client.ask(&format!("HSET w:1 {field} {value}")), Answer::Integer(1));
    }
    let before = cluster.peak_memory(0);
    client.send(&vec![format!("HMGET w:1{}", " f".repeat(16)); REQUESTS]);
    for _ in 0..REQUESTS {
        let Answer::Array(values) = client.answer() else { panic!("values") };
        assert!(values.len() == 16 && values.iter().all(|of| *of == text(&value)));
    }
    // The most that it was at any time: also when it had begun to answer, and nobody had read.
    let more = cluster.peak_memory(0) - before;
    assert!(more < 100 * MEBIBYTE, "{} MiB for a client that does not read", more / MEBIBYTE);
    assert_eq!(client.ask("PING"), Answer::Simple("PONG".into()));
}

/// A client whose machine is gone does not keep its place: the node asks it, after 300 seconds, whether it is there.
#[cfg(target_os = "linux")]
#[test]
fn a_silent_client_is_asked_whether_it_is_there() {
    let cluster = Cluster::start(1);
    let mut client = cluster.client(0);
    assert_eq!(client.ask("PING"), Answer::Simple("PONG".into()));
    let (node, own) = client.ports();
    let sockets = std::fs::read_to_string("/proc/net/tcp").expect("a table");
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
    let timer = sockets.lines().find_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let is_it = port(columns.get(1)?) == Some(node) && port(columns.get(2)?) == Some(own);
        is_it.then(|| columns[5].to_owned())
    });
    // The timer of that kind, and hundredths of seconds.
    let left = timer.as_deref().and_then(|timer| timer.strip_prefix("02:")).expect("it is under way");
    assert!((20_000..=30_100).contains(&u64::from_str_radix(left, 16).expect("a number")), "{left}");
}

/// A node that is asked to end says that it has done so.
#[cfg(unix)]
#[test]
fn a_node_that_is_asked_to_end_succeeds() {
    for (mut cluster, what) in [(Cluster::start_durable(3), "durable"), (Cluster::start(3), "in memory")] {
        assert_eq!(cluster.client(0).ask("SET e:1 v"), Answer::Simple("OK".into()));
        assert_eq!(cluster.signal(2, "-TERM").code(), Some(0), "{what}");
        assert_eq!(cluster.client(0).ask("GET e:1"), text("v"), "{what}");
        assert_eq!(cluster.signal(1, "-INT").code(), Some(0), "{what}");
    }
}

#[test]
fn arguments_that_make_no_sense_are_refused_in_one_line() {
    for args in [&["--fast"][..], &["--redis", "0.0.0.0:0"], &["--connections", "0"]] {
        let output = cluster::kvd(args).output().expect("it starts");
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1, "{args:?}");
    }
}

/// There is a file for each client that may come, or it is said that there is none.
#[cfg(target_os = "linux")]
#[test]
fn clients_do_not_take_the_files_of_the_node() {
    let limited = |arguments: &str| {
        let script = format!("ulimit -n 300; exec \"$0\" --listen 127.0.0.1:0 --redis 127.0.0.1:0 {arguments}");
        let mut command = std::process::Command::new("sh");
        command.arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_kvd"));
        command
    };
    let refused = limited("--connections 200").output().expect("it starts");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && said.contains("--connections 172"), "{said}");
    let mut cluster = Cluster::of(limited(""));
    assert_eq!(cluster.client(0).ask("CONFIG GET maxclients"), Answer::Array(vec![text("maxclients"), text("172")]));
    cluster.kill(0);
}

#[test]
fn there_are_only_as_many_clients_as_there_may_be() {
    let cluster = Cluster::start_with(1, &["--connections", "2"]);
    let (mut a, b) = (cluster.client(0), cluster.client(0));
    assert_eq!(a.ask("PING"), Answer::Simple("PONG".into()));
    let mut c = cluster.client(0);
    assert_eq!(c.answer(), Answer::Error("ERR max number of clients reached".into()));
    assert!(c.is_closed());
    drop(b);
    // Its place is free as soon as the node has noticed.
    loop {
        let mut next = cluster.client(0);
        next.send(&["PING".into()]);
        match next.try_answer() {
            Some(Answer::Simple(_)) => break,
            Some(Answer::Error(_)) | None => {}
            Some(other) => panic!("{other:?}"),
        }
    }
}
