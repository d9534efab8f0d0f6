//! C4 of the store: what is deleted leaves nothing behind, once everybody who may bring it back has the trace of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use polity::kv::{Any, Bucket, BucketConfig, KvConfig};
use polity::{KvError, Node};
use polity_sim::history::Host;
use polity_sim::process::Process;
use polity_sim::settings::Settings;
use polity_sim::world::World;

const NODES: u8 = 5;
const REPLICAS: usize = 3;
const KEYS: usize = 10;

/// What each node says: how many tombstones and records it has, and who keeps it from collecting.
type Told = Arc<Mutex<BTreeMap<Host, (usize, u64, Option<String>)>>>;

fn config(process: &Process) -> KvConfig {
    let mut config = process.settings().kv().bucket("any", BucketConfig::any());
    // What has expired is looked for as often.
    config.patrol_interval = Duration::from_secs(1);
    config
}

/// Puts as many keys of three kinds, lets some expire and deletes the others, and one more key, which stays.
async fn put_and_delete(node: &Node) -> Result<(), KvError> {
    let kv = node.kv();
    let any: Bucket<Any> = kv.bucket("any")?;
    let (sets, counters) = (any.sets(), any.counters());
    for at in 0..KEYS {
        let [causal, set, counter] = ["causal", "set", "counter"].map(|kind| format!("{kind}-{at}"));
        kv.put(&causal, "value").await?;
        kv.delete(&causal).await?;
        sets.update(&set, |set| set.add("element")).await?;
        any.delete(&set).await?;
        counters.add(&counter, 1).ttl(Duration::from_millis(100)).await?;
    }
    kv.put("stays", "value").await?;
    Ok(())
}

fn tell(node: &Node) -> (usize, u64, Option<String>) {
    let stats = node.kv().stats();
    let records = node.kv().local_records().expect("memory works");
    (stats.tombstones, records, stats.tombstones_blocked_by.map(|by| by.to_string()))
}

/// How many tombstones, records, and nodes that `n4` keeps from collecting, there are.
fn count(told: &Told) -> (usize, u64, usize) {
    let told = told.lock().expect("one thread");
    let blocked = told.values().filter(|(_, _, by)| by.as_deref() == Some("n4")).count();
    (told.values().map(|told| told.0).sum(), told.values().map(|told| told.1).sum(), blocked)
}

#[test]
fn what_is_deleted_leaves_nothing_behind_unless_somebody_is_down() {
    let told = Told::default();
    let tells = told.clone();
    let settings = Settings { workloads: Vec::new(), hosts: NODES, ..Settings::quiet() };
    let mut world = World::new(11, settings, move |mut process: Process| {
        let tells = tells.clone();
        async move {
            let builder = process.builder().kv(config(&process));
            let node = process.start(builder).await?;
            node.ready().await?;
            if process.host() == Host(0) {
                node.kv().settled().await;
                put_and_delete(&node).await?;
            }
            loop {
                tells.lock().expect("one thread").insert(process.host(), tell(&node));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    });
    world.run_for(Duration::from_secs(8));
    let all = 3 * KEYS * REPLICAS;
    assert_eq!(count(&told), (all, (all + REPLICAS) as u64, 0), "all have the trace of everything");
    let last = Host(NODES - 1);
    world.crash(last, false);
    told.lock().expect("one thread").remove(&last);
    world.run_for(Duration::from_secs(60));
    let (tombstones, _, blocked) = count(&told);
    assert_eq!((tombstones, blocked), (all, usize::from(NODES) - 1), "others have taken the place of one that is down");
    world.start(last);
    world.run_for(Duration::from_secs(40));
    assert_eq!(count(&told), (0, REPLICAS as u64, 0));
}
