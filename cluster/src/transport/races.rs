//! Models of what a whole transport shares: its tables, and that nothing stays in them once it has stopped.

use std::sync::Weak;
use std::sync::atomic::Ordering;

use shuttle::future::{block_on, spawn};

use super::*;
use crate::races::{LONG, Lone, check, peer};
use crate::rpc::{Lane, Method};

const ADD: Method<u32, u32> = Method::new(900, "races.add", Lane::Call);
const LATE: Method<u32, u32> = Method::new(901, "races.late", Lane::Call);

/// The application calls, registers a method and drops its handles while a connection comes in and the node stops: every
/// call ends, nothing is served or kept afterwards, and the whole transport is freed.
#[test]
fn whatever_comes_while_it_stops_nothing_is_kept() {
    check(|| {
        let lone = Lone::start(TransportConfig::default());
        lone.rpc.serve(ADD, |_, number, reply| reply.send(&(number + 1)));
        let (rpc, me) = (lone.rpc.clone(), lone.me.clone());
        let caller = spawn(async move {
            for number in 1..=2_u32 {
                match rpc.call::<u32, u32>(&me, &ADD, &number, LONG).await {
                    Ok(sum) => assert_eq!(sum, number + 1),
                    Err(_) => assert!(rpc.is_stopped(), "it fails for no other reason"),
                }
            }
        });
        let shared = Arc::clone(lone.transport.shared());
        let came = spawn(async move {
            let caller = Caller { node: peer("other").node, addr: peer("other").addr };
            let inbound = Inbound::open(Arc::clone(&shared), caller, None);
            if shared.register_inbound(&inbound).is_none() {
                assert!(shared.is_stopping());
            }
        });
        let rpc = lone.rpc.clone();
        let server = spawn(async move {
            let own = rpc.clone();
            rpc.serve(LATE, move |_, _, reply| {
                let _ = own.is_stopped();
                reply.send(&0);
            });
        });
        let weak: Weak<Shared> = Arc::downgrade(lone.transport.shared());
        block_on(async {
            lone.transport.shutdown().await;
            for task in [caller, came, server] {
                task.await.expect("it ends");
            }
            assert!(lock(&lone.transport.shared().links).is_empty());
            assert!(lock(&lone.transport.shared().inbounds).1.is_empty());
            assert!(lone.transport.shared().handlers().is_empty());
            drop(lone);
        });
        assert_eq!(weak.strong_count(), 0, "the transport keeps itself alive");
    });
}

/// Two threads ask for the same link while a third needs the only place for another: there is one open link to a peer at
/// any time, and one that was given up says so.
#[test]
fn a_peer_has_one_open_link() {
    check(|| {
        let lone = Lone::start(TransportConfig { max_links: 1, ..TransportConfig::default() });
        let tasks = ["a", "a", "b"].map(|name| {
            let shared = Arc::clone(lone.transport.shared());
            spawn(async move {
                let first = shared.link(&peer(name)).ok();
                let second = shared.link(&peer(name)).ok();
                [first, second]
            })
        });
        block_on(async {
            let mut links = Vec::new();
            for task in tasks {
                links.extend(task.await.expect("it ends").into_iter().flatten());
            }
            let table = lock(&lone.transport.shared().links);
            assert!(table.len() <= 1);
            for link in links.iter().filter(|link| !link.is_closed()) {
                let known = table.get(&link.peer.node).expect("an open link is in the table");
                assert!(Arc::ptr_eq(known, link), "two links to one peer");
            }
            drop(table);
            lone.transport.shutdown().await;
            assert!(links.iter().all(|link| link.is_closed()), "a link that outlives its transport");
        });
        assert_eq!(lone.transport.shared().inbound_open.load(Ordering::Relaxed), 0);
    });
}
