//! `bench rpc`: this library's calls against the floor, one client and one server process, in turns.

use std::fmt;
use std::io::{BufRead, BufReader, Read as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use polity::cluster::rpc::{Lane, Method, Peer, Rpc, Solo};
use polity::{Boot, NodeId, NodeName};
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::load::{self, Caller, Sample};
use crate::{Options, floor};

pub(crate) const PAYLOAD_BYTES: usize = 100;
const CONCURRENCIES: [usize; 3] = [1, 64, 512];
const ECHO: Method<Payload, Payload> = Method::new(1, "echo", Lane::Call);
const SECRET: [u8; 32] = [7; 32];
const SERVER_NONCE: u128 = 2;
const TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes that the codec copies at once.
pub(crate) struct Payload(Vec<u8>);

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Payload;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Payload, E> {
                Ok(Payload(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn solo(name: &str, nonce: u128) -> Result<Solo> {
    Solo::start("127.0.0.1:0".parse()?, SECRET, &NodeName::new(name)?, nonce).map_err(|error| anyhow!(error))
}

/// The server process: serves until its standard input closes.
pub(crate) fn server() -> Result<()> {
    runtime()?.block_on(async {
        let ours = solo("server", SERVER_NONCE)?;
        ours.rpc().serve(ECHO, |_, payload, reply| reply.send(&payload));
        let (floor, cert) = floor::serve()?;
        let cert: String = cert.iter().map(|byte| format!("{byte:02x}")).collect();
        #[cfg(feature = "peers")]
        let tonic = crate::tonic_peer::serve().await?.to_string();
        #[cfg(not(feature = "peers"))]
        let tonic = "-";
        println!("{} {floor} {cert} {tonic}", ours.peer().addr);
        let (closed, until_closed) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            let _ = closed.send(());
        });
        let _ = until_closed.await;
        ours.shutdown().await;
        Ok(())
    })
}

/// The client process: starts the server and measures.
pub(crate) fn client(options: Options) -> Result<()> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("rpc-server")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the server process")?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("the server's output")?).read_line(&mut line)?;
    let measured = runtime()?.block_on(measure(&line, options));
    drop(child.stdin.take());
    child.wait()?;
    report(&measured?, options);
    Ok(())
}

struct Measured {
    concurrency: usize,
    ours: Sample,
    floor: Sample,
    tonic: Option<Sample>,
}

async fn measure(line: &str, options: Options) -> Result<Vec<Measured>> {
    let [ours, floor, cert, tonic] = line.split_whitespace().collect::<Vec<_>>()[..] else {
        bail!("the server said {line:?}");
    };
    let cert: Vec<u8> =
        (0..cert.len()).step_by(2).map(|i| u8::from_str_radix(&cert[i..i + 2], 16)).collect::<Result<_, _>>()?;
    let floor = floor::Client::connect(floor.parse()?, cert.into()).await?;
    let node = NodeId { name: NodeName::new("server")?, boot: Boot { generation: 1, nonce: SERVER_NONCE } };
    let peer = Peer { node, addr: ours.parse()? };
    let solo = solo("client", 1)?;
    let ours = Ours { rpc: solo.rpc(), peer };
    #[cfg(feature = "peers")]
    let tonic = Some(crate::tonic_peer::Client::connect(tonic.parse()?).await?);
    #[cfg(not(feature = "peers"))]
    let tonic: Option<floor::Client> = if tonic == "-" { None } else { bail!("the server was built with peers") };

    let duration = Duration::from_secs_f64(options.seconds);
    let mut measured = Vec::new();
    for concurrency in CONCURRENCIES {
        load::run(concurrency, duration / 4, &ours).await;
        load::run(concurrency, duration / 4, &floor).await;
        let (mut a, mut b, mut c) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..options.rounds {
            a.push(load::run(concurrency, duration, &ours).await);
            b.push(load::run(concurrency, duration, &floor).await);
            if let Some(tonic) = &tonic {
                c.push(load::run(concurrency, duration, tonic).await);
            }
        }
        let tonic = (!c.is_empty()).then(|| load::median(&c));
        measured.push(Measured { concurrency, ours: load::median(&a), floor: load::median(&b), tonic });
    }
    solo.shutdown().await;
    Ok(measured)
}

#[derive(Clone)]
struct Ours {
    rpc: Rpc,
    peer: Peer,
}

impl Caller for Ours {
    async fn call(&self) {
        let request = Payload(vec![1; PAYLOAD_BYTES]);
        let answer = self.rpc.call(&self.peer, &ECHO, &request, TIMEOUT).await.expect("an answer");
        assert_eq!(answer.0.len(), PAYLOAD_BYTES);
    }
}

impl Caller for floor::Client {
    async fn call(&self) {
        let request = vec![1; PAYLOAD_BYTES];
        assert_eq!(self.request(&request).await.len(), PAYLOAD_BYTES);
    }
}

fn report(measured: &[Measured], options: Options) {
    if !options.json {
        println!("calls with {PAYLOAD_BYTES} bytes each way, two processes, medians of {} rounds", options.rounds);
        println!("{:>11}  {:<12} {:>10} {:>9} {:>9}", "concurrency", "what", "calls/s", "p50 us", "p99 us");
    }
    for Measured { concurrency, ours, floor, tonic } in measured {
        let rows = [Some(("polity", ours)), Some(("quinn frames", floor)), tonic.as_ref().map(|t| ("tonic", t))];
        for (what, sample) in rows.into_iter().flatten() {
            let Sample { per_second, p50_us, p99_us } = sample;
            if options.json {
                println!(
                    r#"{{"bench":"rpc","concurrency":{concurrency},"what":"{what}","per_second":{per_second:.0},"p50_us":{p50_us:.1},"p99_us":{p99_us:.1}}}"#
                );
            } else {
                println!("{concurrency:>11}  {what:<12} {per_second:>10.0} {p50_us:>9.1} {p99_us:>9.1}");
            }
        }
        if !options.json {
            let (rate, p50, p99) =
                (ours.per_second / floor.per_second, ours.p50_us / floor.p50_us, ours.p99_us / floor.p99_us);
            println!("{:>11}  of the floor: calls/s {rate:.2}, p50 {p50:.2}, p99 {p99:.2}", "");
            if let Some(tonic) = tonic {
                println!("{:>11}  of tonic: calls/s {:.1}", "", ours.per_second / tonic.per_second);
            }
        }
    }
}
