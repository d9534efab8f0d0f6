//! Registers of one host each, `d<host>-<i>`, that are written, deleted half a turn later, and lie deleted for the other half: for so
//! long that most of their tombstones are collected meanwhile. Others read them.

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

/// How many keys each host has, and how many reads there are from one to the next: a turn takes about 28 s.
const KEYS: u8 = 12;
const READS: usize = 16;

fn key(host: u8, at: u8) -> String {
    format!("d{host}-{at}")
}

async fn write_and_delete(client: Client, mut pace: Pace) {
    let mut written = [const { None }; KEYS as usize];
    for at in (0..KEYS).cycle() {
        if !pace.next().await {
            return;
        }
        written[usize::from(at)] = client.write(&key(client.host.0, at), false, None).await;
        let old = (at + KEYS / 2) % KEYS;
        let basis = written[usize::from(old)].take().filter(|_| pace.rng.random_bool(0.5));
        client.write(&key(client.host.0, old), true, basis.as_ref().map(|(op, context)| (*op, context))).await;
        for _ in 0..READS {
            if !pace.next().await {
                return;
            }
            let (host, at) = (pace.rng.random_range(0..client.hosts), pace.rng.random_range(0..KEYS));
            client.get(&key(host, at)).await;
        }
    }
}
