//! Watches: shared registers, `w<i>`, are written and deleted, while every node watches one of them and all of them, and
//! clients watch some for a while.

use std::time::Duration;

use polity::kv::{Entry, Watch, WatchEvent};
use rand::RngExt as _;

use super::{Client, Pace, Workload, one_of, seed_of, shared, writer_of};
use crate::history::{Event, OpId, Stage};

pub(crate) const WORKLOAD: Workload = Workload {
    name: "watches",
    about: "shared registers are written and deleted, and watched from every node, one by one and all together",
    keys: |_| shared(PREFIX),
    clients: |client, paces| {
        vec![Box::pin(write(client.clone(), paces.next())), Box::pin(visit(client.clone(), paces.next()))]
    },
    observers: |client| {
        let all = Watched { number: 0, key: PREFIX.to_string(), prefix: true };
        let one = Watched { number: 1, key: format!("{PREFIX}0"), prefix: false };
        [all, one].map(|what| Box::pin(follow(client.clone(), what)) as _).into()
    },
    read: |client, key| Box::pin(async move { client.get(key).await.is_some() }),
};

const PREFIX: char = 'w';
/// How many events a visitor takes.
const EVENTS: std::ops::Range<u32> = 1..30;

async fn write(client: Client, mut pace: Pace) {
    while pace.next().await {
        let key = one_of(PREFIX, &mut pace.rng);
        if pace.rng.random_bool(0.5) {
            client.write(&key, pace.rng.random_bool(0.2), None).await;
            continue;
        }
        let Some((read, context)) = client.get(&key).await else { continue };
        client.write(&key, pace.rng.random_bool(0.2), Some((read, &context))).await;
    }
}

/// What is watched.
struct Watched {
    /// Which of the watches of its process it is.
    number: u64,
    key: String,
    prefix: bool,
}

/// A watch whose events are recorded.
struct Recorded {
    client: Client,
    id: u64,
    what: Watched,
    watch: Watch<Entry>,
}

impl Recorded {
    /// `None`: the node has stopped.
    fn begin(client: &Client, what: Watched) -> Option<Self> {
        let kv = client.node.kv();
        let watch = if what.prefix { kv.watch_prefix(&what.key) } else { kv.watch(&what.key) }.ok()?;
        let this = Self { id: seed_of(client.process, "watch", what.number), client: client.clone(), what, watch };
        this.say(Stage::Begun);
        Some(this)
    }

    fn say(&self, stage: Stage) {
        let (host, key) = (self.client.host, self.what.key.clone());
        let event = Event::Watching { host, watch: self.id, key, prefix: self.what.prefix, stage };
        self.client.recorder.event(event);
    }

    /// Waits for an event, and records it. `None`: the node has stopped.
    async fn next(&mut self) -> Option<()> {
        match self.watch.next().await.ok()? {
            WatchEvent::Key { key, value } => {
                let key = String::from_utf8_lossy(&key).into_owned();
                let values = value.as_ref().map(Entry::values).unwrap_or_default();
                let mut found: Vec<OpId> = values.iter().filter_map(|value| writer_of(value)).collect();
                if found.len() < values.len() {
                    self.client.garbage(&key);
                }
                found.sort_unstable();
                let (host, watch) = (self.client.host, self.id);
                self.client.recorder.event(Event::Told { host, watch, key, found });
            }
            WatchEvent::Current => self.say(Stage::Established),
            _ => {}
        }
        Some(())
    }
}

/// Watches as long as the process lives.
async fn follow(client: Client, what: Watched) {
    let Some(mut watch) = Recorded::begin(&client, what) else { return };
    while watch.next().await.is_some() {}
}

/// Watches for a while, again and again.
async fn visit(client: Client, mut pace: Pace) {
    let mut number = 1;
    while pace.next().await {
        number += 1;
        let prefix = pace.rng.random();
        let key = if prefix { PREFIX.to_string() } else { one_of(PREFIX, &mut pace.rng) };
        let Some(mut watch) = Recorded::begin(&client, Watched { number, key, prefix }) else { return };
        let mut left = pace.rng.random_range(EVENTS);
        // When there is no more work the last of them goes on, to hear of what is on its way.
        while left > 0 || !*pace.work.borrow() {
            if watch.next().await.is_none() {
                return;
            }
            left = left.saturating_sub(1);
            if pace.rng.random_bool(0.1) {
                tokio::time::sleep(Duration::from_millis(pace.rng.random_range(0..500))).await;
            }
        }
        watch.say(Stage::Over);
    }
}
