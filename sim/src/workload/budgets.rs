//! Budgets, `b<i>`, in which each host may spend an allowance: what it has spent stands in the store, and survives it.

use super::counters::total;
use super::map::MaxMap;
use super::{Client, Pace, Workload, one_of, shared};
use crate::history::{ALLOWANCE, Action, Outcome};

pub(super) const WORKLOAD: Workload = Workload {
    name: "budgets",
    about: "each host spends an allowance one by one, and is refused when it has spent it",
    keys: |_| shared('b'),
    clients: |client, paces| vec![Box::pin(spend(client.clone(), paces.next()))],
    observers: |_| Vec::new(),
    read: |client, key| Box::pin(client.look(key, Action::Total, total)),
};

async fn spend(client: Client, mut pace: Pace) {
    let host = u64::from(client.host.0);
    while pace.next().await {
        let key = one_of('b', &mut pace.rng);
        let take = |_, map: &mut MaxMap| {
            let spent = map.0.entry(host).or_default();
            if *spent >= ALLOWANCE {
                return Err(Outcome::Exhausted);
            }
            *spent += 1;
            Ok(())
        };
        client.change(&key, |_| Action::Spend, take).await;
    }
}
