//! A model of a doorman that lets callers in while the node learns of newer boots and leaves.

use std::sync::Arc;

use shuttle::future::{block_on, spawn};

use super::*;
use crate::races::{check, peer};
use crate::secure::Secret;
use crate::version::Speaks;

fn is_welcome(doorman: &Doorman, hello: &Hello) -> bool {
    matches!(doorman.admit(hello, hello.addr), HelloAnswer::Welcome(welcome) if welcome.id.node == peer("me").node)
}

/// Callers come while the membership hears of a newer boot of their name and while the node leaves: nobody is let in
/// after either was said.
#[test]
fn nobody_is_let_in_after_a_newer_boot_or_the_farewell() {
    check(|| {
        let (own, caller) = (peer("me"), peer("other"));
        let name = |node: &NodeId| node.name.clone();
        let ring = Ring::new(Secret::new([1; 32]).expect("long enough"), []).expect("one key");
        let (_keeper, rings) = watch::channel(Arc::new(ring));
        let cluster = ("c".to_owned(), BTreeMap::new());
        let doorman = Arc::new(Doorman::new(cluster, name(&own.node), own.addr, Speaks::CURRENT, rings));
        let hello = Hello {
            protocol: Speaks::CURRENT.versions,
            cluster: "c".to_owned(),
            settings: BTreeMap::new(),
            name: name(&caller.node),
            boot: Some(caller.node.boot),
            addr: caller.addr,
            expects: Some(own.node.clone()),
            cluster_id: None,
            keys: vec![Secret::new([1; 32]).expect("long enough").id()],
            capabilities: Speaks::CURRENT.capabilities,
            extensions: BTreeMap::new(),
        };
        assert!(!is_welcome(&doorman, &hello), "it has no boot yet");
        let at_the_door = {
            let (doorman, hello) = (Arc::clone(&doorman), hello.clone());
            spawn(async move { is_welcome(&doorman, &hello) })
        };
        let newer = Boot { generation: caller.node.boot.generation + 1, ..caller.node.boot };
        doorman.set_own(Identity { node: own.node.clone(), rejoin: 0, addr: own.addr });
        let superseding = {
            let (doorman, hello) = (Arc::clone(&doorman), hello.clone());
            spawn(async move {
                doorman.set_known(&hello.name, Some(newer));
                assert!(!is_welcome(&doorman, &hello), "a newer boot of its name is known");
            })
        };
        let leaving = {
            let (doorman, hello) = (Arc::clone(&doorman), hello.clone());
            spawn(async move {
                doorman.leave();
                assert!(!is_welcome(&doorman, &hello), "it has left");
            })
        };
        block_on(async {
            at_the_door.await.expect("it ends");
            superseding.await.expect("it ends");
            leaving.await.expect("it ends");
        });
    });
}
