//! Clusters that are formed while the network is split.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use polity::ClusterId;
use polity_sim::history::Host;
use polity_sim::process::Process;
use polity_sim::settings::Settings;
use polity_sim::world::World;

/// What a host says once its node is ready: the id of its cluster, and how many members are up.
type Board = Arc<Mutex<BTreeMap<Host, (Option<ClusterId>, usize)>>>;

async fn program(mut process: Process, expected: usize, board: Board) -> anyhow::Result<()> {
    let node = process.start(process.builder().expect(expected)).await?;
    loop {
        let said = (node.cluster_id(), node.members().snapshot().up().count());
        board.lock().expect("no test panicked").insert(process.host(), said);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn world(seed: u64, hosts: u8, expected: usize, disk: bool) -> (World, Board) {
    let (board, settings) = (Board::default(), Settings { hosts, seeds: hosts, disk, ..Settings::quiet() });
    let shared = board.clone();
    (World::new(seed, settings, move |process: Process| program(process, expected, shared.clone())), board)
}

fn said(board: &Board) -> BTreeMap<Host, (Option<ClusterId>, usize)> {
    board.lock().expect("no test panicked").clone()
}

fn hosts<const N: usize>(numbers: [u8; N]) -> [Host; N] {
    numbers.map(Host)
}

#[test]
fn three_of_five_form_and_the_two_that_were_cut_off_wait_and_take_the_id() {
    for seed in 0..10 {
        let (mut world, board) = world(seed, 5, 3, false);
        let split = world.partition(&hosts([0, 2, 4]), &hosts([1, 3]));
        world.run_for(Duration::from_secs(20));
        let ready = said(&board);
        assert_eq!(ready.keys().copied().collect::<Vec<_>>(), hosts([0, 2, 4]), "seed {seed}: {ready:?}");
        let id = ready[&Host(0)].0.expect("it has formed");
        world.end_fault(split);
        world.run_for(Duration::from_secs(20));
        let all = said(&board);
        assert_eq!(all.len(), 5, "seed {seed}: {all:?}");
        assert!(all.values().all(|said| *said == (Some(id), 5)), "seed {seed}: {all:?}");
    }
}

#[test]
fn a_cluster_that_starts_again_as_a_whole_keeps_its_id() {
    let (mut world, board) = world(7, 3, 2, true);
    world.run_for(Duration::from_secs(10));
    let id = said(&board)[&Host(0)].0.expect("it has formed");
    for host in hosts([0, 1, 2]) {
        world.crash(host, false);
    }
    board.lock().expect("no test panicked").clear();
    world.start_missing();
    world.run_for(Duration::from_secs(15));
    let all = said(&board);
    assert!(all.len() == 3 && all.values().all(|said| *said == (Some(id), 3)), "{all:?}");
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn halves_that_expect_too_few_form_two_clusters_that_refuse_each_other_for_ever_and_say_so() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let (mut world, board) = world(1, 4, 2, false);
    let split = world.partition(&hosts([0, 1]), &hosts([2, 3]));
    world.run_for(Duration::from_secs(20));
    let apart = said(&board);
    let ids = [0, 1, 2, 3].map(|host| apart[&Host(host)].0.expect("it has formed"));
    assert!(ids[0] == ids[1] && ids[2] == ids[3] && ids[0] != ids[2], "{apart:?}");
    world.end_fault(split);
    world.run_for(Duration::from_secs(120));
    assert_eq!(said(&board), apart, "each keeps its id, and sees two members");
    let text = String::from_utf8(log.0.lock().expect("not poisoned").clone()).expect("text");
    let lines = text.lines().filter(|line| line.contains("formed apart")).count();
    assert!((8..=16).contains(&lines), "once for each that refuses and is refused, not for each try: {lines}");
}

#[test]
fn a_split_in_which_no_side_is_large_enough_forms_nothing_until_it_heals() {
    let (mut world, board) = world(3, 4, 3, false);
    let split = world.partition(&hosts([0, 1]), &hosts([2, 3]));
    world.run_for(Duration::from_secs(10));
    assert!(said(&board).is_empty(), "two are too few");
    world.end_fault(split);
    world.run_for(Duration::from_secs(15));
    let all = said(&board);
    assert!(all.len() == 4 && all.values().all(|said| said.0 == all[&Host(0)].0 && said.1 == 4), "{all:?}");
}
