//! Sets: an element that is added while it is removed stays.
//!
//! The store keeps a set as one value, so a question about one element reads it whole.

use bytes::Bytes;

use crate::keyspace::Keyspace;
use crate::reply::Reply;

pub(super) async fn sadd(keyspace: &Keyspace, arguments: &[Bytes]) -> Reply {
    let added = keyspace.add_members(&arguments[1], &arguments[2..]).await;
    added.map_or_else(Reply::from, |added| Reply::Integer(added.into()))
}

pub(super) async fn srem(keyspace: &Keyspace, arguments: &[Bytes]) -> Reply {
    let removed = keyspace.remove_members(&arguments[1], &arguments[2..]).await;
    removed.map_or_else(Reply::from, |removed| Reply::Integer(removed.into()))
}

pub(super) async fn smembers(keyspace: &Keyspace, arguments: &[Bytes]) -> Reply {
    let members = keyspace.members(&arguments[1]).await;
    members.map_or_else(Reply::from, |members| Reply::Set(members.into_iter().collect()))
}

pub(super) async fn sismember(keyspace: &Keyspace, arguments: &[Bytes]) -> Reply {
    let members = keyspace.members(&arguments[1]).await;
    members.map_or_else(Reply::from, |members| Reply::yes(members.contains(&arguments[2])))
}

pub(super) async fn scard(keyspace: &Keyspace, arguments: &[Bytes]) -> Reply {
    let members = keyspace.members(&arguments[1]).await;
    members.map_or_else(Reply::from, |members| Reply::count(members.len()))
}
