//! The replicated key-value store of `polity`.
//!
//! Keys are divided into shards, shards are placed on nodes, and every key is on N of them. A call is answered when a
//! quorum has done its part. Concurrent writes are kept side by side until a writer that has seen them replaces them.
//! Quorums stay true while nodes join, leave, die and come back, with their memory or without; how is told in
//! [`mod@standing`].
//!
//! | module | idea | kind |
//! |---|---|---|
//! | [`mod@layout`] | which shards there are, and in which of them a key is | pure |
//! | [`mod@roster`] | the boots that hold a shard at one time | pure |
//! | [`mod@standing`] | what a node still owes an account of before it may vouch for a shard | pure |
//! | [`mod@lineage`] | which boots a boot continues | pure |
//! | [`mod@kept`] | what a node keeps of itself beside its records | pure |
//! | [`mod@tally`] | when enough have answered | pure |
//! | [`mod@digest`] | what a shard holds, in a few numbers | pure |
//! | [`mod@account`] | what a replica says of all that it has | synchronous |
//! | [`mod@reconcile`] | how two replicas become equal | sans IO |
//! | [`mod@record`] | what is kept under a key, and which writes under idempotency keys are in it | pure |
//! | [`mod@agenda`] | which keys something is to be done about, and when | pure |
//! | [`mod@tombstones`] | collects the traces of deletes | one task, conversations |
//! | [`mod@census`] | how many keys a bucket has in a shard | pure |
//! | [`mod@engine`] | where records are kept | trait |
//! | [`mod@store`] | one node's shards: standing, digest and records under one lock each | synchronous |
//! | [`mod@acks`] | answers that wait until what they say is durable | task |
//! | [`mod@serve`] | what a node does for its peers | handlers |
//! | [`mod@coordinator`] | one operation from its call to its answer | asynchronous |
//! | [`mod@gate`] | the calls that are under way, when a node leaves | asynchronous |
//! | [`mod@scan`] | going through a bucket | asynchronous |
//! | [`mod@count`] | how many keys a bucket has | asynchronous |
//! | [`mod@watch`] | telling who watches what has changed | both |
//! | [`mod@upkeep`] | the task that keeps shards where they belong | driver |
//! | [`mod@hints`] | who has missed what | pure |
//! | [`mod@mend`] | what reads and writes leave to be mended | both |
//! | [`mod@underway`] | which shards an errand is bringing up to date | asynchronous |
//! | [`mod@newcomers`] | who is left to fetch what it lacks | synchronous |
//! | [`mod@throttle`] | how fast repair may be | both |
//! | [`mod@errands`] | what it is sent out for | asynchronous |
//! | [`mod@settled`] | when all of that is done | asynchronous |
//! | [`mod@status`] | how a node stands to a shard, to be looked at | synchronous |
#![allow(rustdoc::private_intra_doc_links, reason = "the table is for those who read the source")]

mod account;
mod acks;
mod agenda;
mod bucket;
mod call;
mod census;
mod config;
mod coordinator;
mod count;
mod digest;
pub mod engine;
mod errands;
mod error;
mod gate;
mod hints;
mod kept;
mod kv;
mod layout;
mod lineage;
mod map;
mod mend;
#[cfg(all(test, not(feature = "shuttle")))]
mod model;
mod newcomers;
mod pace;
mod place;
mod reconcile;
mod record;
mod roster;
mod scan;
mod serve;
mod settled;
mod standing;
mod stats;
mod status;
mod store;
mod sync;
mod tally;
mod throttle;
mod tombstones;
mod underway;
mod upkeep;
mod watch;
mod wire;

#[doc(hidden)]
pub use reconcile::measure;

pub use bucket::{
    Any, Bucket, BucketConfig, BucketKind, Causal, Counter, LastWriterWins, Map, MapUpdate, Set, SetUpdate, Value,
};
pub use call::{Get, GetMany, Put, PutMany};
pub use config::{ConfigError, Consistency, KvConfig};
pub use engine::{Change, Commit, Engine, EngineError, MemoryEngine, Visit};
pub use error::{KvError, Outcome, StartError};
pub use kv::{Context, Entry, Kv, NotAContext};
pub use polity_shard::ReplicaCount;
pub use polity_shard::handoff::BudgetConfig;
pub use record::{IdempotencyKey, Kind};
pub use scan::Scan;
pub use stats::KvStats;
pub use status::{ShardStatus, Shards};
pub use watch::{Watch, WatchEvent};
