//! Registers with one writer each, `r<host>-<i>`, which all hosts read. Puts without a context: the store asks a quorum.

use rand::RngExt as _;

use super::{Client, Pace, Workload};
use crate::history::Host;

/// How many registers each host writes.
const REGISTERS: u8 = 2;

pub(super) const WORKLOAD: Workload = Workload {
    name: "registers",
    about: "each host writes registers of its own, one value after the other, and reads those of all",
    keys: |hosts| (0..hosts).flat_map(|host| (0..REGISTERS).map(move |i| register(Host(host), i))).collect(),
    clients: |client, paces| {
        vec![Box::pin(write(client.clone(), paces.next())), Box::pin(read(client.clone(), paces.next()))]
    },
    observers: |_| Vec::new(),
    read: |client, key| Box::pin(async move { client.get(key).await.is_some() }),
};

fn register(host: Host, i: u8) -> String {
    format!("r{}-{i}", host.0)
}

async fn write(client: Client, mut pace: Pace) {
    while pace.next().await {
        let key = register(client.host, pace.rng.random_range(0..REGISTERS));
        client.write(&key, false, None).await;
    }
}

async fn read(client: Client, mut pace: Pace) {
    while pace.next().await {
        let (host, i) = (pace.rng.random_range(0..client.hosts), pace.rng.random_range(0..REGISTERS));
        client.get(&register(Host(host), i)).await;
    }
}
