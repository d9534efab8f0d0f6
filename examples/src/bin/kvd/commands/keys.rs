//! What can be done with a key of whatever kind.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use polity::kv::Kind;

use super::{answer, each, number};
use crate::failure;
use crate::keyspace::Keyspace;
use crate::reply::Reply;

pub(super) const SECOND_MS: i64 = 1000;
/// A thousand years: what lies further ahead is taken for a mistake. Added to the time of today it fits everywhere.
const MAX_AFTER_MS: i64 = 1000 * 366 * 24 * 3600 * 1000;

pub(super) async fn del(keyspace: &Keyspace, arguments: &[Bytes]) -> Reply {
    // A key that is named twice is deleted once.
    let keys: BTreeSet<&Bytes> = arguments[1..].iter().collect();
    let deleted = each(keys.into_iter().map(|key| keyspace.delete(key)));
    failure::all(deleted.await).map_or_else(|error| error, |deleted| counted(&deleted))
}

pub(super) async fn exists(keyspace: &Keyspace, arguments: &[Bytes]) -> Reply {
    let kinds = each(arguments[1..].iter().map(|key| async move { Ok(keyspace.kind(key).await?.is_some()) }));
    failure::all(kinds.await).map_or_else(|error| error, |exist| counted(&exist))
}

fn counted(all: &[bool]) -> Reply {
    Reply::count(all.iter().filter(|is_so| **is_so).count())
}

/// `TYPE`. A counter is a string to a client, as in Redis.
pub(super) async fn kind(keyspace: &Keyspace, arguments: &[Bytes]) -> Reply {
    let name = |kind| match kind {
        None => "none",
        Some(Kind::Set) => "set",
        Some(Kind::Map) => "hash",
        Some(_) => "string",
    };
    keyspace.kind(&arguments[1]).await.map_or_else(Reply::from, |kind| Reply::Simple(name(kind)))
}

pub(super) async fn expire(keyspace: &Keyspace, arguments: &[Bytes]) -> Reply {
    answer(expire_in(keyspace, arguments, "expire", SECOND_MS).await)
}

pub(super) async fn pexpire(keyspace: &Keyspace, arguments: &[Bytes]) -> Reply {
    answer(expire_in(keyspace, arguments, "pexpire", 1).await)
}

async fn expire_in(keyspace: &Keyspace, arguments: &[Bytes], name: &str, in_ms: i64) -> Result<Reply, Reply> {
    let count = number(&arguments[2])?;
    if arguments.len() > 3 {
        return Err(Reply::error(format!("{name} with NX, XX, GT or LT is not supported")));
    }
    let key = &arguments[1];
    // As in Redis: what should have expired already is deleted.
    let done = match after(count, in_ms).ok_or_else(|| invalid_expire(name))? {
        Duration::ZERO => keyspace.delete(key).await?,
        after => keyspace.expire(key, Some(after)).await?,
    };
    Ok(Reply::yes(done))
}

/// The time from now that a client names; zero if it is over. `None` if there is no such time.
pub(super) fn after(count: i64, in_ms: i64) -> Option<Duration> {
    let after_ms = count.checked_mul(in_ms).filter(|after_ms| *after_ms <= MAX_AFTER_MS)?;
    Some(Duration::from_millis(u64::try_from(after_ms).unwrap_or(0)))
}

pub(super) fn invalid_expire(name: &str) -> Reply {
    Reply::error(format!("invalid expire time in '{name}' command"))
}

pub(super) async fn persist(keyspace: &Keyspace, arguments: &[Bytes]) -> Reply {
    answer(persisted(keyspace, &arguments[1]).await)
}

async fn persisted(keyspace: &Keyspace, key: &Bytes) -> Result<Reply, Reply> {
    let expires = keyspace.expires(key).await?.flatten().is_some();
    Ok(Reply::yes(expires && keyspace.expire(key, None).await?))
}

pub(super) async fn ttl(keyspace: &Keyspace, arguments: &[Bytes]) -> Reply {
    left(keyspace, &arguments[1], |left_ms| left_ms.saturating_add(SECOND_MS / 2) / SECOND_MS).await
}

pub(super) async fn pttl(keyspace: &Keyspace, arguments: &[Bytes]) -> Reply {
    left(keyspace, &arguments[1], |left_ms| left_ms).await
}

/// What is left of a key's time: -1 if it never ends, -2 if nothing is there.
async fn left(keyspace: &Keyspace, key: &Bytes, told: fn(i64) -> i64) -> Reply {
    match keyspace.expires(key).await {
        Ok(None) => Reply::Integer(-2),
        Ok(Some(None)) => Reply::Integer(-1),
        Ok(Some(Some(expires))) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let left_ms = expires.saturating_sub(now).as_millis();
            Reply::Integer(told(i64::try_from(left_ms).unwrap_or(i64::MAX)))
        }
        Err(error) => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_taken_if_there_is_such_a_time() {
        assert_eq!(after(5, SECOND_MS), Some(Duration::from_secs(5)));
        assert_eq!(after(0, SECOND_MS), Some(Duration::ZERO));
        assert_eq!(after(-5, 1), Some(Duration::ZERO));
        assert_eq!(after(MAX_AFTER_MS, 1), Some(Duration::from_millis(MAX_AFTER_MS as u64)));
        for (count, in_ms) in [(MAX_AFTER_MS + 1, 1), (i64::MAX, 1), (i64::MAX, SECOND_MS), (i64::MIN, SECOND_MS)] {
            assert_eq!(after(count, in_ms), None, "{count}");
        }
    }
}
