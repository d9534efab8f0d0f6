//! Hashes: of each field the last write wins, and one that is set while it is removed stays.
//!
//! The store keeps a hash as one value, so a question about one field reads it whole.

use bytes::Bytes;

use super::{bounded, wrong_arity};
use crate::keyspace::Keyspace;
use crate::reply::Reply;

pub(super) async fn hset(keyspace: &Keyspace, arguments: &[Bytes]) -> Reply {
    if !arguments.len().is_multiple_of(2) {
        return wrong_arity("hset");
    }
    let new = keyspace.set_fields(&arguments[1], &arguments[2..]).await;
    new.map_or_else(Reply::from, |new| Reply::Integer(new.into()))
}

pub(super) async fn hdel(keyspace: &Keyspace, arguments: &[Bytes]) -> Reply {
    let removed = keyspace.remove_fields(&arguments[1], &arguments[2..]).await;
    removed.map_or_else(Reply::from, |removed| Reply::Integer(removed.into()))
}

pub(super) async fn hget(keyspace: &Keyspace, arguments: &[Bytes]) -> Reply {
    let fields = keyspace.fields(&arguments[1]).await;
    fields.map_or_else(Reply::from, |mut fields| Reply::of(fields.remove(&arguments[2])))
}

pub(super) async fn hmget(keyspace: &Keyspace, arguments: &[Bytes]) -> Reply {
    let fields = keyspace.fields(&arguments[1]).await;
    fields.map_or_else(Reply::from, |fields| {
        // A field may be asked for any number of times.
        let values: Vec<_> = arguments[2..].iter().map(|field| Reply::of(fields.get(field).cloned())).collect();
        bounded(&values).map_or_else(|refused| refused, |()| Reply::Array(values))
    })
}

pub(super) async fn hgetall(keyspace: &Keyspace, arguments: &[Bytes]) -> Reply {
    let fields = keyspace.fields(&arguments[1]).await;
    fields.map_or_else(Reply::from, |fields| {
        Reply::Map(fields.into_iter().map(|(field, value)| (field, Reply::Bulk(value))).collect())
    })
}

pub(super) async fn hlen(keyspace: &Keyspace, arguments: &[Bytes]) -> Reply {
    let fields = keyspace.fields(&arguments[1]).await;
    fields.map_or_else(Reply::from, |fields| Reply::count(fields.len()))
}

pub(super) async fn hexists(keyspace: &Keyspace, arguments: &[Bytes]) -> Reply {
    let fields = keyspace.fields(&arguments[1]).await;
    fields.map_or_else(Reply::from, |fields| Reply::yes(fields.contains_key(&arguments[2])))
}
