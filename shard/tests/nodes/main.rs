//! Ownership on real nodes on loopback.
//!
//! | file | idea |
//! |---|---|
//! | this one | shards move as nodes come and go |
//! | `conflicts` | two owned a shard at once |
//! | `handoffs` | a handoff is held up, and cancelled |
//! | `hosts` | nodes, and what there is to own |

mod conflicts;
mod handoffs;
mod hosts;

use polity_shard::ShardId;

use hosts::{LONG, SHARDS, all_explained, host, owned_by, owners};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_move_with_their_state_when_nodes_join_leave_die_and_change_their_weight() {
    let n0 = host("n0", &[]).await;
    let all = owners(&[&n0]).await;
    assert!(all.values().all(|owner| owner == n0.node.id()));
    let first: Vec<_> = (0..SHARDS).map(|shard| n0.ownership.owns(ShardId(shard)).expect("it owns all")).collect();

    let n1 = host("n1", &[&n0]).await;
    let n2 = host("n2", &[&n0]).await;
    let hosts = [&n0, &n1, &n2];
    let all = owners(&hosts).await;
    for host in hosts {
        let own = all.iter().filter(|(_, owner)| *owner == host.node.id()).map(|(shard, _)| *shard);
        let own: Vec<_> = own.collect();
        assert!(!own.is_empty(), "{} has a share", host.node.id());
        for shard in own {
            let before = &first[shard.0 as usize];
            assert!(host.marks.all(shard).contains(&before.to_string()), "what the first owner had has come along");
            let epoch = host.ownership.owns(shard).expect("it owns it");
            assert_eq!(host.ownership.admit(shard, &epoch), Ok(()));
            if host.node.id() != n0.node.id() {
                assert!(epoch > *before);
                assert!(host.marks.all(shard).contains("the end"));
                let refused = n0.ownership.admit(shard, before).expect_err("over");
                assert_eq!(refused.by.owner(), host.node.id());
            }
        }
        assert!(host.ownership.journal(|journal| journal.is_empty()), "a join is no conflict");
        assert!(host.ownership.stuck().is_empty());
    }
    assert!(n0.ownership.explain(ShardId(0)).to_string().ends_with("waits for nothing"));

    // One dies, and what it owned is owned by others.
    let held = n2.ownership.owned();
    n2.node.stop().await;
    let rest = owners(&[&n0, &n1]).await;
    assert!(rest.iter().all(|(shard, owner)| all[shard] == *owner || all[shard] == *n2.node.id()));

    // It comes back without its memory, under another boot, and gets the same shards back, under greater epochs.
    let n2 = host("n2", &[&n0]).await;
    let back = owners(&[&n0, &n1, &n2]).await;
    for (shard, owner) in &all {
        assert_eq!(back[shard].name, owner.name);
    }
    assert!(!held.is_empty());
    for (shard, before) in &held {
        let epoch = n2.ownership.owns(*shard).expect("it has it back");
        assert!(epoch.counter > before.counter && epoch.owner.boot > before.owner.boot, "{epoch} after {before}");
    }

    // The share of one becomes small while it runs: what it owned goes to the others, with its state.
    n0.node.set_weight(1).expect("in range");
    let is_light = || n0.ownership.owned().len() <= 1;
    let moved = tokio::time::timeout(LONG, async {
        loop {
            match owned_by(&[&n0, &n1, &n2]) {
                Some(owners) if is_light() => return owners,
                _ => tokio::task::yield_now().await,
            }
        }
    });
    let light = moved.await.unwrap_or_else(|_| panic!("{}", all_explained(&n0)));
    for (shard, owner) in &light {
        let owner = [&n0, &n1, &n2].into_iter().find(|host| host.node.id() == owner).expect("one of the three");
        assert!(owner.marks.all(*shard).is_superset(&n0.marks.all(*shard)) || back[shard] != *n0.node.id());
    }

    // One leaves on purpose: first it hands over. It lets a shard go a moment before the next owner has it.
    n1.node.drain();
    let handed_over = tokio::time::timeout(LONG, async {
        loop {
            match owned_by(&[&n0, &n2]) {
                Some(owners) if n1.ownership.owned().is_empty() => return owners,
                _ => tokio::task::yield_now().await,
            }
        }
    });
    let owners = handed_over.await.unwrap_or_else(|_| panic!("{}", all_explained(&n1)));
    for (shard, owner) in owners {
        let owner = [&n0, &n2].into_iter().find(|host| *host.node.id() == owner).expect("one of the two");
        assert!(owner.marks.all(shard).is_superset(&n1.marks.all(shard)) || light[&shard].name.as_str() != "n1");
    }
    let journals = [&n0, &n1, &n2].map(|host| host.ownership.journal(|journal| journal.len()));
    assert_eq!(journals, [0; 3]);
}
