//! Owners: nodes own shards, and whoever owns one makes effects under its epoch, which everybody is to let take place or
//! refuse. Effects travel as messages of a topic; some are late, and some are of an owner that has not heard that it is over.

use std::collections::{BTreeMap, BTreeSet};

use polity::shard::claims::By;
use polity::shard::handoff::Stuck;
use polity::{Epoch, NodeId, Ownership, OwnershipEvent, ShardId, Topic, TopicEvent};
use rand::RngExt as _;

use super::{Client, Pace, Workload};
use crate::history::{Deed, Event, Host, Life, Named, Reign};

pub(crate) const WORKLOAD: Workload = Workload {
    name: "owners",
    about: "shards have owners, which make effects under their epochs, some of them late or over",
    keys: |_| Vec::new(),
    clients: |client, paces| {
        vec![Box::pin(act(client.clone(), paces.next())), Box::pin(take(client.clone(), paces.next()))]
    },
    observers: |client| vec![Box::pin(follow(client.clone()))],
    read: |_, _| Box::pin(async { true }),
};

const TOPIC: &str = "effects";
/// How many epochs an owner remembers, to act under them when they may be over; and how many effects are late.
const REMEMBERED: usize = 16;

/// An effect: of which shard, under which epoch.
type Effect = (u32, Epoch);

fn reign(epoch: &Epoch) -> Option<Reign> {
    let NodeId { name, boot } = &epoch.owner;
    let life = Life { generation: boot.generation, nonce: boot.nonce };
    Some(Reign { counter: epoch.counter, owner: Host::of_name(name.as_str())?, life })
}

fn record(client: &Client, shard: ShardId, epoch: &Epoch, deed: Deed) {
    if let Some(epoch) = reign(epoch) {
        client.recorder.event(Event::Ownership { host: client.host, shard: shard.0, epoch, deed });
    }
}

/// Asks whether an effect may take place on this node, and records the answer.
fn admit(client: &Client, owners: &Ownership, shard: ShardId, epoch: &Epoch) -> bool {
    let is_admitted = owners.admit(shard, epoch).is_ok();
    record(client, shard, epoch, if is_admitted { Deed::Accepted } else { Deed::Refused });
    is_admitted
}

/// Records what this node is told of itself and of others, and what it writes into its journal.
async fn follow(client: Client) {
    let Some(owners) = client.node.ownership().cloned() else { return };
    let (mut watch, mut told) = (owners.watch(), false);
    let mut conflicts = 0;
    while let Some(event) = watch.next().await {
        match event {
            OwnershipEvent::Snapshot { .. } if told => {
                let what = "the watch of the owners has lost events".to_owned();
                client.recorder.event(Event::Gap { host: client.host, what });
            }
            OwnershipEvent::Snapshot { owned, claims } => {
                told = true;
                owned.iter().for_each(|(shard, epoch)| record(&client, *shard, epoch, Deed::Claimed));
                claims.iter().for_each(|(shard, epoch)| record(&client, shard, epoch, Deed::Known));
            }
            OwnershipEvent::Gained(claim) => record(&client, claim.shard, &claim.epoch, Deed::Claimed),
            OwnershipEvent::Claimed(claim) => record(&client, claim.shard, &claim.epoch, Deed::Known),
            OwnershipEvent::Received(claim) => record(&client, claim.shard, &claim.epoch, Deed::Installed),
            OwnershipEvent::Lost { claim, by } => {
                let deed = match &by {
                    By::Claim(epoch) => reign(epoch).map(Deed::Superseded),
                    By::Handoff(to) => Host::of_name(to.name.as_str()).map(Deed::Released),
                };
                deed.into_iter().for_each(|deed| record(&client, claim.shard, &claim.epoch, deed));
            }
            OwnershipEvent::Stuck(Stuck { id, .. }) => {
                record(&client, id.claim.shard, &id.claim.epoch, Deed::Alarmed);
            }
            _ => {}
        }
        // The journal itself is what is promised, so it is looked at whatever was told.
        let news: Vec<_> = owners.journal(|journal| {
            conflicts = conflicts.max(journal.dropped());
            journal.since(conflicts).map(|(number, conflict)| (number, conflict.clone())).collect()
        });
        for (number, conflict) in news {
            conflicts = number + 1;
            if let Some(won) = reign(&conflict.won.epoch) {
                record(&client, conflict.lost.shard, &conflict.lost.epoch, Deed::Recorded(won));
            }
        }
    }
}

fn open(client: &Client) -> Option<(Ownership, Topic<Effect>)> {
    // The node may have stopped, and then its process is about to end.
    Some((client.node.ownership()?.clone(), client.node.topic::<Effect>(TOPIC).ok()?))
}

async fn act(client: Client, mut pace: Pace) {
    let Some((owners, topic)) = open(&client) else { return };
    let mut held: Vec<(ShardId, Epoch)> = Vec::new();
    let mut stuck: BTreeSet<(ShardId, Epoch)> = BTreeSet::new();
    while pace.next().await {
        for Stuck { id, .. } in owners.stuck() {
            if stuck.insert((id.claim.shard, id.claim.epoch.clone())) {
                record(&client, id.claim.shard, &id.claim.epoch, Deed::Stuck);
            }
        }
        let owned: BTreeMap<ShardId, Epoch> = owners.owned();
        let is_old = !held.is_empty() && pace.rng.random_bool(0.3);
        let (shard, epoch) = if is_old {
            held[pace.rng.random_range(0..held.len())].clone()
        } else if !owned.is_empty() && pace.rng.random_bool(0.5) {
            let (shard, epoch) = owned.iter().nth(pace.rng.random_range(0..owned.len())).expect("there are as many");
            (*shard, epoch.clone())
        } else {
            continue;
        };
        // One that was begun before is sent whatever is known by now.
        let is_begun = is_old && pace.rng.random_bool(0.5);
        if !is_begun && !admit(&client, &owners, shard, &epoch) {
            continue;
        }
        if !is_old {
            if held.len() == REMEMBERED {
                held.remove(0);
            }
            held.push((shard, epoch.clone()));
        }
        if topic.publish(&(shard.0, epoch)).await.is_err() {
            return;
        }
    }
}

async fn take(client: Client, mut pace: Pace) {
    let Some((owners, topic)) = open(&client) else { return };
    let Ok(mut events) = topic.subscribe() else { return };
    let mut late: Vec<Effect> = Vec::new();
    loop {
        let TopicEvent::Received { value, publisher, .. } = events.next().await else { continue };
        if publisher == *client.node.id() {
            continue;
        }
        if late.len() < REMEMBERED && pace.rng.random_bool(0.2) {
            late.push(value);
            continue;
        }
        admit(&client, &owners, ShardId(value.0), &value.1);
        if !late.is_empty() && pace.rng.random_bool(0.1) {
            let (shard, epoch) = late.swap_remove(pace.rng.random_range(0..late.len()));
            admit(&client, &owners, ShardId(shard), &epoch);
        }
    }
}

/// Says who owns what, as this node knows it.
pub(super) fn tell(client: &Client) {
    let Some(owners) = client.node.ownership() else { return };
    let kv = client.node.kv();
    let shards = kv.config().shards.iter().map(|shard| Named {
        shard: shard.0,
        epoch: owners.epoch(shard).as_ref().and_then(reign),
        is_here: owners.owns(shard).is_some(),
        preferred: kv
            .shard(shard)
            .and_then(|status| status.replicas.first().and_then(|node| Host::of_name(node.name.as_str()))),
    });
    client.recorder.event(Event::Owners { host: client.host, shards: shards.collect() });
}
