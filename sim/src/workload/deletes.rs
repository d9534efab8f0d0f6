//! Registers of one host each, `d<host>-<i>`, that are written and deleted in turn, and lie deleted until it is their turn again:
//! for so long that most of their tombstones are collected meanwhile. Others read them.

use rand::RngExt as _;

use super::{Client, Pace, Workload};

pub(crate) const WORKLOAD: Workload = Workload {
    name: "deletes",
    about: "registers are written and deleted, and lie deleted until nobody has the trace of it",
    keys: |hosts| (0..hosts).flat_map(|host| (0..KEYS).map(move |at| key(host, at))).collect(),
    clients: |client, paces| vec![Box::pin(write_and_delete(client.clone(), paces.next()))],
    observers: |_| Vec::new(),
    read: |client, key| Box::pin(async move { client.get(key).await.is_some() }),
};

/// How many keys each host has, and how many reads there are from one to the next: about 15 s pass until it is a key's turn
/// again.
const KEYS: u8 = 8;
const READS: usize = 10;

fn key(host: u8, at: u8) -> String {
    format!("d{host}-{at}")
}

async fn write_and_delete(client: Client, mut pace: Pace) {
    for at in (0..KEYS).cycle() {
        let key = key(client.host.0, at);
        if !pace.next().await {
            return;
        }
        let Some((op, context)) = client.write(&key, false, None).await else { continue };
        if !pace.next().await {
            return;
        }
        let basis = pace.rng.random_bool(0.5).then_some((op, &context));
        client.write(&key, true, basis).await;
        for _ in 0..READS {
            if !pace.next().await {
                return;
            }
            let (host, at) = (pace.rng.random_range(0..client.hosts), pace.rng.random_range(0..KEYS));
            client.get(&self::key(host, at)).await;
        }
    }
}
