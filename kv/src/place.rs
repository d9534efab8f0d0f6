//! Where a key of a bucket is kept: the key under which the whole store knows it.
//!
//! The length of the bucket's name in one byte, the name, the key. So no two buckets share a key, and the keys of one stand
//! together in the order of a shard.

use std::borrow::Cow;

use crate::record::Blob;

/// The longest name of a bucket.
pub(crate) const MAX_BUCKET_BYTES: usize = 64;

/// The place of a key. The name is at most [`MAX_BUCKET_BYTES`] long.
pub(crate) fn key_of(bucket: &str, key: &[u8]) -> Blob {
    let mut place = Vec::with_capacity(1 + bucket.len() + key.len());
    place.push(bucket.len() as u8);
    place.extend_from_slice(bucket.as_bytes());
    place.extend_from_slice(key);
    place.into()
}

/// The key at a place; nothing if it is none.
pub(crate) fn key_in(place: &Blob) -> &[u8] {
    let name = place.0.first().map_or(0, |bytes| usize::from(*bytes));
    place.0.get(1 + name..).unwrap_or_default()
}

/// How the places of a bucket begin, by one of them.
pub(crate) fn bucket_of(place: &[u8]) -> &[u8] {
    let name = place.first().map_or(0, |bytes| usize::from(*bytes));
    place.get(..1 + name).unwrap_or(place)
}

/// The name of the bucket that a place is in.
pub(crate) fn name_of(place: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bucket_of(place).get(1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_different_buckets_differ_and_lead_back() {
        let places = [key_of("", b"ab"), key_of("a", b"b"), key_of("ab", b"")];
        assert!(places.iter().enumerate().all(|(at, place)| !places[..at].contains(place)));
        assert_eq!(places.each_ref().map(key_in), [&b"ab"[..], b"b", b""]);
        assert_eq!(key_in(&Blob::from(vec![9, 1])), b"");
        assert_eq!(key_in(&Blob::default()), b"");
        assert_eq!(places.each_ref().map(|place| bucket_of(&place.0)), [&b"\0"[..], b"\x01a", b"\x02ab"]);
        assert_eq!(places.each_ref().map(|place| name_of(&place.0)), ["", "a", "ab"]);
        assert_eq!((bucket_of(&[9, 1]), bucket_of(&[])), (&[9, 1][..], &[][..]));
    }
}
