//! Models of subscribers on the application's threads that follow what the node's own thread sees of the members.

use shuttle::future::{block_on, spawn};

use super::*;
use crate::races::{check, peer};

fn member(name: &str, status: Status) -> (NodeName, Option<Member>) {
    let peer = peer(name);
    let name = peer.node.name.clone();
    let member = Member {
        id: peer.node,
        addr: peer.addr,
        status,
        rejoin: 0,
        profile: None,
        addresses: BTreeMap::new(),
        load: None,
        speaks: crate::version::Speaks::CURRENT,
        state: BTreeMap::new(),
    };
    (name, Some(member))
}

/// Follows a subscription up to a version. It would wait for ever for a change that it was not woken for.
async fn follow(mut subscription: Subscription, until: u64) -> BTreeMap<NodeName, Member> {
    let mut view = View::default();
    while view.version < until {
        match subscription.next().await {
            MemberEvent::Snapshot(whole) => {
                assert!(whole.version >= view.version, "a step back");
                view = (*whole).clone();
            }
            MemberEvent::Changed { version, member } => {
                assert_eq!(version, view.version + 1, "a change is missing");
                view.version = version;
                view.members.insert(member.id.name.clone(), member);
            }
            MemberEvent::Forgotten { version, name } => {
                assert_eq!(version, view.version + 1, "a change is missing");
                view.version = version;
                view.members.remove(&name);
            }
        }
    }
    view.members
}

/// Members come, change and are forgotten while one subscriber follows and another begins to: both see every change in
/// order, are woken for the last one, and end with what a snapshot shows (M6).
#[test]
fn subscribers_miss_nothing_and_sleep_through_nothing() {
    check(|| {
        let members = Members::new();
        let early = spawn(follow(members.subscribe(), 4));
        let later = members.clone();
        let later = spawn(async move { follow(later.subscribe(), 4).await });
        let node = members.clone();
        let node = spawn(async move {
            node.apply(BTreeMap::from([member("a", Status::Alive), member("b", Status::Alive)]));
            node.apply(BTreeMap::from([member("a", Status::Suspect), member("b", Status::Alive)]));
            node.apply(BTreeMap::from([(peer("b").node.name, None)]));
        });
        block_on(async {
            node.await.expect("it ends");
            let [early, later] = [early.await.expect("it ends"), later.await.expect("it ends")];
            assert_eq!(early, members.snapshot().members);
            assert_eq!(later, early);
        });
    });
}
