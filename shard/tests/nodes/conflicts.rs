//! Two nodes that know nothing of each other own all shards, each of them, and meet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use polity_cluster::discovery::from_fn;
use polity_shard::ShardId;
use polity_shard::claims::Claim;
use polity_shard::handoff::HandoffConfig;
use polity_shard::journal::{Conflict, Resolution, Snapshot};

use super::hosts::{Host, Marks, SHARDS, builder, owners, started, until};

/// The entries of a journal by their shards, when there is one for each and none waits for an answer.
fn entries(host: &Host) -> Option<BTreeMap<ShardId, Conflict>> {
    host.ownership.journal(|journal| {
        let is_whole = |conflict: &Conflict| ![&conflict.lost_state, &conflict.won_state].contains(&&Snapshot::Missing);
        let all = journal.iter().map(|(_, conflict)| (conflict.lost.shard, conflict.clone()));
        let all: BTreeMap<_, _> = all.filter(|(_, conflict)| is_whole(conflict)).collect();
        (all.len() == SHARDS as usize && journal.len() == all.len()).then_some(all)
    })
}

fn has_mark(state: &Snapshot, claim: &Claim) -> bool {
    let Snapshot::State(bytes) = state else {
        return false;
    };
    String::from_utf8_lossy(&bytes.0).contains(&claim.epoch.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_journals_have_both_states_and_what_became_of_them() {
    // Neither finds anybody before this is known.
    let meeting: Arc<OnceLock<SocketAddr>> = Arc::default();
    let n0 = started(builder("n0"), Marks::default(), HandoffConfig::default()).await;
    let at = meeting.clone();
    let find = from_fn(move || Ok(at.get().copied().into_iter().collect::<BTreeSet<_>>()));
    let n1 = started(builder("n1").discover(find), Marks::default(), HandoffConfig::default()).await;
    let mut held = Vec::new();
    for host in [&n0, &n1] {
        let all = owners(&[host]).await;
        assert!(all.values().all(|owner| owner == host.node.id()), "each owns everything");
        held.push(host.ownership.owned());
    }

    meeting.set(n0.node.addr()).expect("once");
    owners(&[&n0, &n1]).await;
    let [at_loser, at_winner] = [until(|| entries(&n0)).await, until(|| entries(&n1)).await];
    for shard in (0..SHARDS).map(ShardId) {
        // Of two first epochs that of the greater name goes on.
        let (lost, won) = (&at_loser[&shard].lost, &at_loser[&shard].won);
        assert_eq!((&lost.epoch, &won.epoch), (&held[0][&shard], &held[1][&shard]));
        for entry in [&at_loser[&shard], &at_winner[&shard]] {
            assert_eq!((&entry.lost, &entry.won, entry.resolution), (lost, won, Resolution::GreaterEpochAlone));
            assert!(has_mark(&entry.lost_state, lost) && has_mark(&entry.won_state, won), "{entry:?}");
            assert!(!has_mark(&entry.won_state, lost), "nobody has told the winner: {entry:?}");
        }
        assert_eq!(at_loser[&shard].won_state, at_winner[&shard].won_state);
        assert_eq!(at_loser[&shard].lost_state, at_winner[&shard].lost_state);
    }
}
