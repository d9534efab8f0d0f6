//! A program of your own in the simulator: five nodes that keep a guest book, a partition, and a check of yours.
//!
//!     cargo run --release -p polity-sim --example your_program -- 7
//!
//! The number is the seed: the same one gives the same run, to the byte. Try others.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use polity_sim::history::{Event, History, Host};
use polity_sim::process::Process;
use polity_sim::settings::Settings;
use polity_sim::world::World;

/// What every node runs: your code, unchanged but for the node's builder, which comes from the simulator. It signs the
/// guest book of its host again and again, and when the book is closed, it reads those of all.
async fn guest_book(mut process: Process, closed: Arc<AtomicBool>) -> anyhow::Result<()> {
    let node = process.start(process.builder()).await?;
    node.ready().await?;
    let own = format!("book of {}", process.host());
    let mut guest = 0;
    while !closed.load(Ordering::Relaxed) {
        guest += 1;
        // Only this node signs here, so the last guest is all there is to remember.
        match node.kv().put(&own, format!("guest {guest}")).await {
            Ok(_) => process.note(format!("signed guest {guest}")),
            Err(error) => process.note(format!("refused guest {guest}: {error}")),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for host in 0..process.settings().hosts {
        let entry = node.kv().get(format!("book of {}", Host(host))).await?;
        let last = entry.value().map(|value| String::from_utf8_lossy(value).into_owned()).unwrap_or_default();
        process.note(format!("in the book of {}: {last}", Host(host)));
    }
    node.stopped().await;
    Ok(())
}

/// The promise that is yours: the last guest who was told that they have signed is in the book, whoever reads it, or a
/// later one is.
fn check(history: &History) -> Vec<String> {
    let mut problems = Vec::new();
    let notes: Vec<(Host, &str)> = history
        .entries
        .iter()
        .filter_map(|entry| match &entry.event {
            Event::Note { host, text } => Some((*host, text.as_str())),
            _ => None,
        })
        .collect();
    let number = |text: &str| text.rsplit(' ').next().and_then(|number| number.parse::<u32>().ok());
    for owner in (0..history.hosts).map(Host) {
        let signed = notes.iter().filter(|(host, text)| *host == owner && text.starts_with("signed"));
        let signed = signed.filter_map(|(_, text)| number(text)).max();
        let mut readers = BTreeSet::new();
        for (reader, text) in &notes {
            if let Some(found) = text.strip_prefix(&format!("in the book of {owner}: ")) {
                readers.insert(*reader);
                if number(found) < signed {
                    problems
                        .push(format!("{reader} finds {found:?} in the book of {owner}, and {signed:?} has signed"));
                }
            }
        }
        if readers.len() < usize::from(history.hosts) {
            problems.push(format!("only {readers:?} have read the book of {owner}"));
        }
    }
    problems
}

fn main() -> anyhow::Result<()> {
    let seed = std::env::args().nth(1).map_or(Ok(7), |seed| seed.parse())?;
    let closed = Arc::new(AtomicBool::new(false));
    let program = {
        let closed = closed.clone();
        move |process: Process| guest_book(process, closed.clone())
    };
    let mut world = World::new(seed, Settings::quiet(), program);
    let seconds = Duration::from_secs;

    world.run_for(seconds(5));
    let split = world.partition(&[Host(0), Host(1)], &[Host(2), Host(3), Host(4)]);
    world.run_for(seconds(10));
    world.end_fault(split);
    world.run_for(seconds(15));
    closed.store(true, Ordering::Relaxed);
    world.run_for(seconds(5));

    let (history, trace, datagrams) = world.end();
    let count = |what: &str| {
        history
            .entries
            .iter()
            .filter(|e| matches!(&e.event, Event::Note { text, .. } if text.starts_with(what)))
            .count()
    };
    println!("signed: {}, refused: {}, datagrams: {datagrams}", count("signed"), count("refused"));
    let problems = check(&history);
    problems.iter().for_each(|problem| println!("  {problem}"));
    println!("seed {seed}, trace {trace:016x}: {}", if problems.is_empty() { "all is well" } else { "broken" });
    anyhow::ensure!(problems.is_empty(), "{} problems", problems.len());
    Ok(())
}
