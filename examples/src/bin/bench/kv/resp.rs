//! Clients of whatever speaks the protocol of Redis: each with a connection to every node that serves it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::stream::{self, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::workload::{self, CALLERS, Keys, VALUE_BYTES};
use crate::load::{self, Caller, Sample};

#[derive(Debug, Clone, Copy)]
pub(super) enum Order {
    SetWait,
    Set,
    Get,
}

/// Which of its nodes a client asks: by how many calls it has made, and by the key.
pub(super) type Route = fn(calls: usize, key: &[u8]) -> usize;

struct Client {
    connections: Vec<TcpStream>,
    calls: usize,
}

/// Clients that nobody uses: a caller takes one for the time of its call.
#[derive(Clone)]
pub(super) struct Clients {
    idle: Arc<Mutex<Vec<Client>>>,
    route: Route,
    keys: Keys,
    order: Order,
}

impl Clients {
    pub(super) async fn connect(addrs: &[String], route: Route) -> Result<Self> {
        let mut clients = Vec::new();
        for _ in 0..CALLERS {
            let mut connections = Vec::new();
            for addr in addrs {
                let stream = TcpStream::connect(addr).await.with_context(|| format!("connecting to {addr}"))?;
                stream.set_nodelay(true)?;
                connections.push(stream);
            }
            clients.push(Client { connections, calls: 0 });
        }
        Ok(Self { idle: Arc::new(Mutex::new(clients)), route, keys: Keys::there(0, 1), order: Order::Get })
    }

    /// Writes every key once, and then measures these orders, one after the other in each round.
    pub(super) async fn measure<const N: usize>(
        &self,
        orders: [Order; N],
        duration: Duration,
        rounds: usize,
    ) -> [Sample; N] {
        stream::iter(workload::share(0, 1)).for_each_concurrent(CALLERS, |key| self.ask(Order::Set, key)).await;
        let mut samples = [const { Vec::new() }; N];
        for round in 0..=rounds {
            for (samples, order) in samples.iter_mut().zip(orders) {
                let sample = load::run(CALLERS, duration, &Self { order, ..self.clone() }).await;
                // The first round warms the paths.
                if round > 0 {
                    samples.push(sample);
                }
            }
        }
        samples.map(|samples| load::median(&samples))
    }

    async fn ask(&self, order: Order, key: String) {
        let (request, answers) = match order {
            Order::Get => (command(&[b"GET", key.as_bytes()]), 1),
            Order::Set => (command(&[b"SET", key.as_bytes(), &[b'x'; VALUE_BYTES]]), 1),
            Order::SetWait => {
                let mut both = command(&[b"SET", key.as_bytes(), &[b'x'; VALUE_BYTES]]);
                both.extend(command(&[b"WAIT", b"1", b"2000"]));
                (both, 2)
            }
        };
        let mut client = self.lock().pop().expect("as many as callers");
        client.calls += 1;
        let stream = &mut client.connections[(self.route)(client.calls, key.as_bytes())];
        stream.write_all(&request).await.expect("the server is there");
        let mut buffer = Vec::with_capacity(256);
        let mut seen = 0;
        while seen < answers {
            let read = stream.read_buf(&mut buffer).await.expect("the server is there");
            assert!(read > 0, "the server has closed a connection");
            seen = count_answers(&buffer);
        }
        assert!(!buffer.starts_with(b"-"), "the server refuses: {}", String::from_utf8_lossy(&buffer));
        match order {
            Order::Get => assert!(!buffer.starts_with(b"$-"), "every key was written, and {key} is not there"),
            Order::Set => {}
            Order::SetWait => assert!(buffer.ends_with(b":1\r\n"), "no replica has it: {buffer:?}"),
        }
        self.lock().push(client);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Client>> {
        self.idle.lock().expect("nobody panics")
    }
}

impl Caller for Clients {
    async fn call(&self) {
        self.ask(self.order, self.keys.next()).await;
    }
}

fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).into_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// How many whole answers there are: lines, and for a value that is there a line of its bytes.
fn count_answers(bytes: &[u8]) -> usize {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\r\n"));
    let (mut count, mut in_value) = (0, false);
    for line in lines {
        in_value = !in_value && line.starts_with(b"$") && !line.starts_with(b"$-");
        count += usize::from(!in_value);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_when_they_are_whole() {
        assert_eq!(count_answers(b"+OK\r\n:1\r\n"), 2);
        assert_eq!(count_answers(b"$3\r\nabc"), 0);
        assert_eq!(count_answers(b"$3\r\nabc\r\n"), 1);
        assert_eq!(count_answers(b"$-1\r\n"), 1);
    }
}
