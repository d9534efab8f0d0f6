//! K4: a replica that was away without ending gets what it has missed once, though all others compare with it what they have.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use polity::{KvError, Node};
use polity_sim::fault::{Pause, Step};
use polity_sim::history::Host;
use polity_sim::process::Process;
use polity_sim::settings::Settings;
use polity_sim::world::World;

const NODES: u8 = 3;
const AWAY: Host = Host(NODES - 1);
const KEYS: usize = 2_000;
const MISSED: usize = 1_500;
const VALUE: usize = 100;
const ROUNDS: u8 = 2;

/// What all nodes have in common with the test.
#[derive(Default)]
struct Board {
    nodes: Vec<Node>,
    /// What is to be written to how many keys, and what was.
    asked: (u8, usize),
    done: u8,
}

fn key(at: usize) -> String {
    format!("key-{at:06}")
}

async fn write(node: &Node, what: u8, keys: usize) -> Result<(), KvError> {
    let written = node.kv().put_many((0..keys).map(|at| (key(at), vec![what; VALUE]))).await;
    written.into_iter().collect::<Result<Vec<_>, _>>().map(drop)
}

fn moved(board: &Mutex<Board>) -> usize {
    let board = board.lock().expect("one thread");
    board.nodes.iter().map(|node| node.kv().stats().repair_bytes).sum::<u64>() as usize
}

/// Has the first node write, and returns when it has, and some more time has passed.
fn have_written(world: &mut World, board: &Mutex<Board>, what: u8, keys: usize) {
    board.lock().expect("one thread").asked = (what, keys);
    let is_done = world.run_until(Duration::from_secs(60), |_| board.lock().expect("one thread").done == what);
    assert!(is_done, "{what} is not written");
    world.run_for(Duration::from_secs(10));
}

#[test]
fn what_a_replica_has_missed_that_was_taken_for_down_moves_once() {
    let board = Arc::new(Mutex::new(Board::default()));
    let shared = board.clone();
    let settings =
        Settings { workloads: Vec::new(), hosts: NODES, latency: Duration::from_millis(1), ..Settings::quiet() };
    let mut world = World::new(13, settings, move |mut process: Process| {
        let board = shared.clone();
        async move {
            let builder = process.builder();
            let node = process.start(builder).await?;
            node.ready().await?;
            node.kv().settled().await;
            board.lock().expect("one thread").nodes.push(node.clone());
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let (asked, done) = {
                    let board = board.lock().expect("one thread");
                    (board.asked, board.done)
                };
                if process.host() == Host(0) && asked.0 != done {
                    write(&node, asked.0, asked.1).await?;
                    board.lock().expect("one thread").done = asked.0;
                }
            }
        }
    });
    world.run_for(Duration::from_secs(10));
    have_written(&mut world, &board, 1, KEYS);
    for round in 0..ROUNDS {
        let what = 2 + round;
        let pause = world.begin(&Pause::of(AWAY));
        world.take(pause, &Step::Pause(AWAY));
        world.run_for(Duration::from_secs(10));
        have_written(&mut world, &board, what, MISSED);
        let before = moved(&board);
        world.take(pause, &Step::Resume(AWAY));
        world.end_fault(pause);
        world.run_for(Duration::from_secs(30));
        let (moved, payload) = (moved(&board) - before, MISSED * (VALUE + key(0).len()));
        assert!(moved < (64 << 10) + payload * 22 / 10, "{moved} bytes for {payload}");
        for node in &board.lock().expect("one thread").nodes {
            let held = |at: &usize| node.kv().local(key(*at)).expect("memory works");
            let is_last =
                |at: &usize| held(at).and_then(|entry| entry.value().map(|value| value[0] == what)) == Some(true);
            assert!((0..MISSED).all(|at| is_last(&at)), "a node has not got all");
        }
    }
}
