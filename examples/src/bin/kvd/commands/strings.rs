//! Strings, of which the last write wins, and counters, which clients read as strings.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use polity::KvError;

use super::{answer, bounded, each, keys, number, wrong_arity};
use crate::failure;
use crate::keyspace::{Keyspace, Text};
use crate::reply::Reply;

/// How many keys `MGET` reads before it looks at how much that was: no more than 8 MiB, as values are limited.
const KEYS_A_PAGE: usize = 8;

pub(super) async fn get(keyspace: &Keyspace, arguments: &[Bytes]) -> Reply {
    keyspace.get(&arguments[1]).await.map_or_else(Reply::from, text)
}

fn text(value: Option<Text>) -> Reply {
    Reply::of(value.map(|value| match value {
        Text::Bytes(bytes) => bytes,
        Text::Number(number) => number.to_string().into(),
    }))
}

pub(super) async fn set(keyspace: &Keyspace, arguments: &[Bytes]) -> Reply {
    let ttl = match options(&arguments[3..]) {
        Ok(ttl) => ttl,
        Err(refused) => return refused,
    };
    keyspace.set(&arguments[1], arguments[2].clone(), ttl).await.map_or_else(Reply::from, |()| Reply::OK)
}

/// How long what `SET` writes is to stay.
fn options(mut options: &[Bytes]) -> Result<Option<Duration>, Reply> {
    let mut ttl = None;
    while let [option, rest @ ..] = options {
        options = rest;
        match &option.to_ascii_uppercase()[..] {
            unit @ (b"EX" | b"PX") if ttl.is_none() => {
                let Some((count, rest)) = options.split_first() else { return Err(Reply::error("syntax error")) };
                options = rest;
                let in_ms = if unit == b"EX" { keys::SECOND_MS } else { 1 };
                let after = keys::after(number(count)?, in_ms).filter(|after| !after.is_zero());
                ttl = Some(after.ok_or_else(|| keys::invalid_expire("set"))?);
            }
            b"NX" | b"XX" => {
                return Err(Reply::error(
                    "SET with NX or XX is not supported: without consensus two clients could both be told that they were first",
                ));
            }
            b"GET" | b"KEEPTTL" | b"EXAT" | b"PXAT" => {
                return Err(Reply::error("SET with GET, KEEPTTL, EXAT or PXAT is not supported"));
            }
            _ => return Err(Reply::error("syntax error")),
        }
    }
    Ok(ttl)
}

pub(super) async fn mget(keyspace: &Keyspace, arguments: &[Bytes]) -> Reply {
    let mut values = Vec::with_capacity(arguments.len() - 1);
    for page in arguments[1..].chunks(KEYS_A_PAGE) {
        let found = each(page.iter().map(|key| async move {
            match keyspace.get(key).await {
                // As in Redis: of what is no string there is no value.
                Err(KvError::WrongKind { .. }) => Ok(None),
                value => value,
            }
        }));
        match failure::all(found.await) {
            Ok(found) => values.extend(found.into_iter().map(text)),
            Err(error) => return error,
        }
        if let Err(refused) = bounded(&values) {
            return refused;
        }
    }
    Reply::Array(values)
}

pub(super) async fn mset(keyspace: &Keyspace, arguments: &[Bytes]) -> Reply {
    let (pairs, []) = arguments[1..].as_chunks::<2>() else { return wrong_arity("mset") };
    // Of a key that is named twice the last value counts, whichever is written first.
    let values: BTreeMap<&Bytes, &Bytes> = pairs.iter().map(|[key, value]| (key, value)).collect();
    let set = each(values.into_iter().map(|(key, value)| keyspace.set(key, value.clone(), None)));
    failure::all(set.await).map_or_else(|error| error, |_| Reply::OK)
}

pub(super) async fn incr(keyspace: &Keyspace, arguments: &[Bytes]) -> Reply {
    add(keyspace, &arguments[1], 1).await
}

pub(super) async fn decr(keyspace: &Keyspace, arguments: &[Bytes]) -> Reply {
    add(keyspace, &arguments[1], -1).await
}

pub(super) async fn incrby(keyspace: &Keyspace, arguments: &[Bytes]) -> Reply {
    match number(&arguments[2]) {
        Ok(by) => add(keyspace, &arguments[1], by).await,
        Err(refused) => refused,
    }
}

pub(super) async fn decrby(keyspace: &Keyspace, arguments: &[Bytes]) -> Reply {
    let by = number(&arguments[2]);
    match by.and_then(|by| by.checked_neg().ok_or_else(|| Reply::error("decrement would overflow"))) {
        Ok(by) => add(keyspace, &arguments[1], by).await,
        Err(refused) => refused,
    }
}

/// A larger step than this may leave the range of an answer from half of it.
const LARGE_STEP: u64 = 1 << 62;

async fn add(keyspace: &Keyspace, key: &Bytes, by: i64) -> Reply {
    answer(added(keyspace, key, by).await)
}

/// What a counter stands at after this step. It is refused without effect if that is no 64-bit number, as in Redis, but the
/// usual step costs no read. A large one is preceded by a read. A small one leaves the range at its edge only: then it is
/// taken back, and a quorum has both halves before the client is told.
async fn added(keyspace: &Keyspace, key: &Bytes, by: i64) -> Result<Reply, Reply> {
    let is_large = by.unsigned_abs() > LARGE_STEP;
    if is_large && is_beyond(keyspace.total(key).await? + i128::from(by), by) {
        return Err(overflow());
    }
    let total = keyspace.add(key, by).await?;
    if let Ok(total) = i64::try_from(total) {
        return Ok(Reply::Integer(total));
    }
    if is_large || !is_beyond(total, by) {
        // Others have added at the same time, or it had been beyond and comes back. `GET` tells it.
        let told = format!("it was added, and the counter stands at {total}, which is no 64-bit number");
        return Err(Reply::error(told));
    }
    keyspace.add(key, -by).await.map_err(failure::not_taken_back)?;
    Err(overflow())
}

/// Whether a step has led out of the range, or further away from it.
fn is_beyond(total: i128, by: i64) -> bool {
    if by < 0 { total < i128::from(i64::MIN) } else { total > i128::from(i64::MAX) }
}

/// In the words of Redis.
fn overflow() -> Reply {
    Reply::error("increment or decrement would overflow")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Option<Duration>, String> {
        let words: Vec<_> = line.split_whitespace().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        options(&words).map_err(|error| format!("{error:?}"))
    }

    #[test]
    fn a_step_is_beyond_only_in_its_own_direction() {
        let (least, most) = (i128::from(i64::MIN), i128::from(i64::MAX));
        for (total, by, wanted) in [
            (most, 1, false),
            (most + 1, 1, true),
            (most + 1, -1, false),
            (least, -1, false),
            (least - 1, -1, true),
            (least - 1, 1, false),
            (most + 1, 0, true),
        ] {
            assert_eq!(is_beyond(total, by), wanted, "{total} by {by}");
        }
        // What is not read first can be taken back.
        for by in [LARGE_STEP as i64, -(LARGE_STEP as i64)] {
            assert!(by.unsigned_abs() <= LARGE_STEP && by.checked_neg().is_some());
        }
    }

    #[test]
    fn the_options_of_set_are_taken_or_refused_with_a_reason() {
        assert_eq!(of(""), Ok(None));
        assert_eq!(of("EX 5"), Ok(Some(Duration::from_secs(5))));
        assert_eq!(of("px 5"), Ok(Some(Duration::from_millis(5))));
        for (line, why) in [
            ("NX", "without consensus"),
            ("EX 5 xx", "without consensus"),
            ("GET", "not supported"),
            ("KEEPTTL", "not supported"),
            ("EX", "syntax error"),
            ("EX 5 PX 5", "syntax error"),
            ("FOR 5", "syntax error"),
            ("EX x", "not an integer"),
            ("EX 0", "invalid expire time in 'set' command"),
            ("EX -1", "invalid expire time"),
            ("EX 9223372036854775807", "invalid expire time"),
            ("PX 9223372036854775807", "invalid expire time"),
        ] {
            let refused = of(line).expect_err(line);
            assert!(refused.contains(why), "{line}: {refused}");
        }
    }
}
