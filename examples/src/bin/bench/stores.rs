//! What the benchmarks of large stores have in common: their keys, and what their nodes wait for.

use std::time::Duration;

use anyhow::Result;
use polity::{Kv, Node};

pub(crate) const KEY_BYTES: usize = 12;
pub(crate) const VALUE_BYTES: usize = 100;

/// How many keys are written in one call.
const WRITTEN_AT_ONCE: usize = 10_000;

pub(crate) fn key(at: u64) -> String {
    format!("key:{at:08}")
}

/// Keys and values take so many bytes.
pub(crate) fn payload(keys: u64) -> u64 {
    keys * (KEY_BYTES + VALUE_BYTES) as u64
}

/// Writes the keys of these numbers, with values that a stamp tells apart.
pub(crate) async fn write(kv: &Kv, numbers: impl IntoIterator<Item = u64>, stamp: u8) -> Result<()> {
    let mut numbers = numbers.into_iter().peekable();
    while numbers.peek().is_some() {
        let some = numbers.by_ref().take(WRITTEN_AT_ONCE);
        for result in kv.put_many(some.map(|at| (key(at), vec![stamp; VALUE_BYTES]))).await {
            result?;
        }
    }
    Ok(())
}

/// Waits until the node sees so many members.
pub(crate) async fn up(node: &Node, members: usize) {
    while node.members().snapshot().up().count() != members {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until the node sees so many members, and all is where it belongs.
pub(crate) async fn settled(node: &Node, members: usize) {
    up(node, members).await;
    node.kv().settled().await;
}
