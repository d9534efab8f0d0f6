//! Shared sets, `s<i>`, to which every client adds the numbers of its own operations.

use rand::RngExt as _;

use super::map::MaxMap;
use super::{Client, Pace, Workload, one_of, shared};
use crate::history::{Action, OpId, Outcome};

pub(super) const WORKLOAD: Workload = Workload {
    name: "sets",
    about: "every client adds elements to shared sets, and reads them",
    keys: |_| shared('s'),
    clients: |client, paces| vec![Box::pin(add(client.clone(), paces.next()))],
    observers: |_| Vec::new(),
    read: |client, key| Box::pin(client.look(key, Action::Elements, numbers)),
};

/// The keys of a map: elements, or commands.
pub(super) fn numbers(map: &MaxMap) -> Outcome {
    Outcome::Done(map.0.keys().copied().map(OpId).collect())
}

async fn add(client: Client, mut pace: Pace) {
    while pace.next().await {
        let key = one_of('s', &mut pace.rng);
        if pace.rng.random_bool(0.3) {
            client.look(&key, Action::Elements, numbers).await;
            continue;
        }
        let add = |op: OpId, map: &mut MaxMap| {
            map.0.insert(op.0, 1);
            Ok(())
        };
        client.change(&key, |_| Action::Add, add).await;
    }
}
