//! Documents in a simulated cluster: what becomes of those that are gone, and of those that come back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use polity::crdt::AwSet;
use polity::crdt::sync::SyncConfig;
use polity::{Document, NodeId};
use polity_sim::history::Host;
use polity_sim::process::Process;
use polity_sim::settings::Settings;
use polity_sim::world::World;

/// What a process is to do with its document.
#[derive(Debug, Clone, Copy)]
enum Order {
    Add(u64),
    Remove(u64),
    Forget(Host),
}

/// What a process has last said of its document.
#[derive(Debug, Clone, Default, PartialEq)]
struct Said {
    holds: Vec<u64>,
    exported: Vec<u64>,
    intervals: usize,
    retired: u64,
    blocked_by: usize,
}

#[derive(Default)]
struct Board {
    orders: BTreeMap<Host, VecDeque<Order>>,
    boots: BTreeMap<Host, NodeId>,
    said: BTreeMap<Host, Said>,
}

type Shared = Arc<Mutex<Board>>;

fn carry_out(document: &Document<AwSet<u64>>, order: Order, board: &Shared) -> anyhow::Result<()> {
    match order {
        Order::Add(number) => drop(document.update(|set, w| set.add(w, number))?),
        Order::Remove(number) => drop(document.update(|set, _| Ok(set.remove(&number)))?),
        Order::Forget(host) => {
            let boot = board.lock().expect("no test panicked").boots[&host].clone();
            document.forget(&boot)?;
        }
    }
    Ok(())
}

async fn program(mut process: Process, board: Shared) -> anyhow::Result<()> {
    let (node, host) = (process.start(process.builder()).await?, process.host());
    // Ten minutes suffice for the messages of this network, which does not hold newcomers back for a day.
    let config = SyncConfig { retire_grace: Duration::from_secs(600), ..SyncConfig::default() };
    let document = node.document_with::<AwSet<u64>>("numbers", config)?;
    board.lock().expect("no test panicked").boots.insert(host, node.id().clone());
    let mut exported = Vec::new();
    loop {
        let order = board.lock().expect("no test panicked").orders.entry(host).or_default().pop_front();
        if let Some(order) = order {
            carry_out(&document, order, &board)?;
        }
        for export in document.take_exports() {
            let mut alone = polity::crdt::Replica::<AwSet<u64>>::new(polity::crdt::ReplicaId(1));
            alone.merge(export);
            exported.extend(alone.iter());
        }
        let stats = document.stats();
        let said = Said {
            holds: document.read(|set| set.iter().copied().collect()),
            exported: exported.clone(),
            intervals: stats.context_intervals,
            retired: stats.sync.retired,
            blocked_by: stats.blocked_by.len(),
        };
        board.lock().expect("no test panicked").said.insert(host, said);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn world(hosts: u8) -> (World, Shared) {
    let board = Shared::default();
    let shared = board.clone();
    let settings = Settings { hosts, ..Settings::quiet() };
    (World::new(3, settings, move |process: Process| program(process, shared.clone())), board)
}

fn order(board: &Shared, host: u8, order: Order) {
    board.lock().expect("no test panicked").orders.entry(Host(host)).or_default().push_back(order);
}

fn said(board: &Shared, host: u8) -> Said {
    board.lock().expect("no test panicked").said[&Host(host)].clone()
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn a_node_that_was_forgotten_and_comes_back_exports_and_begins_anew() {
    let (mut world, board) = world(4);
    world.run_for(seconds(5));
    order(&board, 0, Order::Add(1));
    world.run_for(seconds(2));
    assert!((0..4).all(|host| said(&board, host).holds == [1]));

    let split = world.partition(&[Host(0)], &[Host(1), Host(2), Host(3)]);
    order(&board, 0, Order::Add(2));
    world.run_for(seconds(10));
    order(&board, 1, Order::Remove(1));
    order(&board, 1, Order::Forget(Host(0)));
    world.run_for(seconds(10));
    world.end_fault(split);
    world.run_for(seconds(30));
    for host in 0..4 {
        assert_eq!(said(&board, host).holds, [0; 0], "n{host}: what was removed stays removed");
    }
    assert_eq!(said(&board, 0).exported, [2], "what nobody had merged is handed out");

    order(&board, 0, Order::Add(3));
    world.run_for(seconds(5));
    assert!((0..4).all(|host| said(&board, host).holds == [3]), "it takes part again");
}

#[test]
fn superseded_boots_are_retired_and_one_that_is_down_holds_that_up() {
    let (mut world, board) = world(3);
    world.run_for(seconds(5));
    for host in 0..3 {
        order(&board, host, Order::Add(host.into()));
    }
    world.run_for(seconds(3));
    world.crash(Host(2), false);
    world.start(Host(2));
    world.run_for(seconds(10));
    assert_eq!(said(&board, 2).holds, [0, 1, 2], "the new boot has heard of all");
    // While n1 is down, n2's first boot cannot be retired.
    world.crash(Host(1), false);
    order(&board, 0, Order::Remove(2));
    world.run_for(seconds(30));
    assert_eq!((said(&board, 0).retired, said(&board, 0).blocked_by), (0, 1));
    world.start(Host(1));
    // Now it and n1's first boot, whose number still stands, have departed; the former leaves after the grace time.
    world.run_for(seconds(700));
    for host in 0..3 {
        let said = said(&board, host);
        assert_eq!((said.holds, said.blocked_by), (vec![0, 1], 0), "n{host}");
        assert_eq!(said.intervals, 2, "n{host}: n0's boot, and n1's first");
        // The new boot of n1 may not have heard of n2's first at all.
        assert!(said.retired == 1 || host == 1, "n{host}");
    }
}
