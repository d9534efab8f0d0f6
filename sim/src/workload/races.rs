//! Shared registers, `c<i>`, that are written, read and deleted without a context, at the same time as others do.

use rand::RngExt as _;

use super::{Client, Pace, Workload, one_of, shared};

pub(super) const WORKLOAD: Workload = Workload {
    name: "races",
    about: "shared registers are written and deleted blindly, at the same time as others do",
    keys: |_| shared('c'),
    clients: |client, paces| vec![Box::pin(race(client.clone(), paces.next()))],
    observers: |_| Vec::new(),
    read: |client, key| Box::pin(async move { client.get(key).await.is_some() }),
};

async fn race(client: Client, mut pace: Pace) {
    while pace.next().await {
        let key = one_of('c', &mut pace.rng);
        match pace.rng.random_range(0..10) {
            0 => drop(client.write(&key, true, None).await),
            1..4 => drop(client.get(&key).await),
            _ => drop(client.write(&key, false, None).await),
        }
    }
}
