//! Orders, `o<i>`: commands that are kept under their numbers, and tried again under the same number until they are
//! acknowledged.

use rand::RngExt as _;

use super::map::MaxMap;
use super::sets::numbers;
use super::{Client, Pace, Workload, one_of, shared};
use crate::history::{Action, OpId, Outcome};

/// How often a command is tried.
const TRIES: u32 = 5;

pub(super) const WORKLOAD: Workload = Workload {
    name: "orders",
    about: "commands are kept under their numbers, and tried again until they are acknowledged",
    keys: |_| shared('o'),
    clients: |client, paces| vec![Box::pin(order(client.clone(), paces.next()))],
    observers: |_| Vec::new(),
    read: |client, key| Box::pin(client.look(key, Action::Orders, numbers)),
};

async fn order(client: Client, mut pace: Pace) {
    while pace.next().await {
        let key = one_of('o', &mut pace.rng);
        if pace.rng.random_bool(0.3) {
            client.look(&key, Action::Orders, numbers).await;
            continue;
        }
        let mut command: Option<OpId> = None;
        for _ in 0..TRIES {
            let id = command;
            let carry_out = |op: OpId, map: &mut MaxMap| {
                map.0.insert(id.unwrap_or(op).0, 1);
                Ok(())
            };
            let (op, outcome) = client.change(&key, |op| Action::Order(id.unwrap_or(op)), carry_out).await;
            command.get_or_insert(op);
            if matches!(outcome, Outcome::Done(_)) || !pace.next().await {
                break;
            }
        }
    }
}
