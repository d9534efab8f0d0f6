//! Rows by name, in a fixed number of buckets, each with a digest. Pure.
//!
//! Two members that exchange everything they know mostly know the same. With a digest for each bucket they find what
//! differs without looking at the rest, or sending it. The digest of a bucket is the wrapping sum of its rows' 64-bit hashes, so it does not depend on the order in which they came; that two
//! different buckets have one digest is as likely as that, and then the next exchange with another member brings the row.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use xxhash_rust::xxh3::xxh3_64;

/// How many buckets there are. With a thousand rows a difference of one row means looking at sixteen.
const BUCKETS: usize = 64;
const BUCKET_BITS: u32 = BUCKETS.trailing_zeros();
const _: () = assert!(BUCKETS == 1 << BUCKET_BITS, "the first bits of a key name its bucket");

/// The longest row, encoded: two of the longest names, and some numbers.
const MAX_ROW_BYTES: usize = 256;

/// A name in 8 bytes, for comparing many: its hash. Operators choose names, so only chance could give two the same: in
/// one of 10^13 clusters of a thousand.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct NameKey(u64);

impl NameKey {
    pub(crate) fn of(name: &str) -> Self {
        Self(xxh3_64(name.as_bytes()))
    }

    pub(crate) fn bucket(self) -> usize {
        (self.0 >> (u64::BITS - BUCKET_BITS)) as usize
    }
}

/// On the wire it is its 8 bytes, little-endian: a hash as a number of variable length would take ten.
impl Serialize for NameKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.to_le_bytes().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for NameKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <[u8; 8]>::deserialize(deserializer).map(|bytes| Self(u64::from_le_bytes(bytes)))
    }
}

/// One row: what is known of one name.
pub(crate) trait Row: Clone + PartialEq + Serialize {
    /// Whom it is about.
    fn key(&self) -> NameKey;
}

/// The digests of all buckets: half of each, which is enough to tell that they differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Digests(Vec<u32>);

/// Some of the buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Which(u64);

impl Which {
    pub(crate) fn is_none(self) -> bool {
        self.0 == 0
    }

    #[cfg(test)]
    fn has(self, key: NameKey) -> bool {
        self.0 & (1 << key.bucket()) != 0
    }
}

/// On the wire they are [`BUCKETS`] numbers of 4 bytes, little-endian.
impl Serialize for Digests {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = self.0.iter().flat_map(|digest| digest.to_le_bytes()).collect();
        serializer.serialize_bytes(&bytes)
    }
}

impl<'de> Deserialize<'de> for Digests {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = <&[u8]>::deserialize(deserializer)?;
        let digests: Vec<u32> = bytes.as_chunks().0.iter().map(|chunk| u32::from_le_bytes(*chunk)).collect();
        let whole = digests.len() == BUCKETS && bytes.len() == BUCKETS * 4;
        if whole { Ok(Self(digests)) } else { Err(serde::de::Error::custom("as many digests as there are buckets")) }
    }
}

/// Rows by rising key.
#[derive(Clone, Debug)]
struct Bucket<R> {
    digest: u64,
    rows: Vec<R>,
}

impl<R: Row> Bucket<R> {
    fn find(&self, key: NameKey) -> Result<usize, usize> {
        self.rows.binary_search_by_key(&key, Row::key)
    }
}

/// A map from names to rows.
#[derive(Clone)]
pub(crate) struct Buckets<R> {
    buckets: Vec<Bucket<R>>,
    len: usize,
}

impl<R> Default for Buckets<R> {
    fn default() -> Self {
        let empty = || Bucket { digest: 0, rows: Vec::new() };
        Self { buckets: std::iter::repeat_with(empty).take(BUCKETS).collect(), len: 0 }
    }
}

impl<R: Row> Buckets<R> {
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, key: NameKey) -> Option<&R> {
        let bucket = &self.buckets[key.bucket()];
        bucket.find(key).ok().map(|at| &bucket.rows[at])
    }

    /// All rows, in the order of their keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &R> {
        self.buckets.iter().flat_map(|bucket| &bucket.rows)
    }

    /// Sets the row of its name and returns the one before.
    pub(crate) fn set(&mut self, row: R) -> Option<R> {
        let hash = hash(&row);
        let bucket = &mut self.buckets[row.key().bucket()];
        bucket.digest = bucket.digest.wrapping_add(hash);
        let before = match bucket.find(row.key()) {
            Ok(at) => std::mem::replace(&mut bucket.rows[at], row),
            Err(at) => {
                bucket.rows.insert(at, row);
                self.len += 1;
                return None;
            }
        };
        bucket.digest = bucket.digest.wrapping_sub(self::hash(&before));
        Some(before)
    }

    /// Forgets the row of a name.
    pub(crate) fn remove(&mut self, key: NameKey) -> Option<R> {
        let bucket = &mut self.buckets[key.bucket()];
        let at = bucket.find(key).ok()?;
        let row = bucket.rows.remove(at);
        bucket.digest = bucket.digest.wrapping_sub(hash(&row));
        self.len -= 1;
        Some(row)
    }

    /// The digests of all buckets, to be sent.
    pub(crate) fn digests(&self) -> Digests {
        Digests(self.buckets.iter().map(|bucket| (bucket.digest >> 32) as u32).collect())
    }

    /// Which buckets differ from those with these digests.
    pub(crate) fn differing(&self, theirs: &Digests) -> Which {
        let own = self.digests();
        let unequal = own.0.iter().zip(&theirs.0).enumerate().filter(|(_, (own, other))| own != other);
        Which(unequal.fold(0, |which, (at, _)| which | 1 << at))
    }

    /// The rows of some buckets, in the order of their keys.
    pub(crate) fn rows(&self, which: Which) -> impl Iterator<Item = &R> {
        let some = self.buckets.iter().enumerate().filter(move |(at, _)| which.0 & (1 << at) != 0);
        some.flat_map(|(_, bucket)| &bucket.rows)
    }
}

fn hash(row: &impl Serialize) -> u64 {
    let mut scratch = [0; MAX_ROW_BYTES];
    let bytes = postcard::to_slice(row, &mut scratch).expect("a row has a bounded name and some numbers");
    xxh3_64(bytes)
}

impl<R: Row> FromIterator<R> for Buckets<R> {
    /// Of several rows of one name, the last counts.
    fn from_iter<I: IntoIterator<Item = R>>(rows: I) -> Self {
        let mut rows: Vec<R> = rows.into_iter().collect();
        // Sorted first, every row is added at the end of its bucket, however many a peer may send.
        rows.sort_by_key(Row::key);
        let mut buckets = Self::default();
        for row in rows {
            buckets.set(row);
        }
        buckets
    }
}

impl<R: Row + fmt::Debug> fmt::Debug for Buckets<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::NodeName;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
    struct Number(NodeName, u8);

    impl Row for Number {
        fn key(&self) -> NameKey {
            NameKey::of(self.0.as_str())
        }
    }

    fn name(at: u8) -> NodeName {
        NodeName::new(&format!("n{at}")).expect("valid")
    }

    fn buckets(model: &BTreeMap<u8, u8>) -> Buckets<Number> {
        model.iter().map(|(at, number)| Number(name(*at), *number)).collect()
    }

    proptest! {
        #[test]
        fn is_a_map_whose_digests_follow_from_its_rows(
            steps in prop::collection::vec((any::<u8>(), prop::option::of(0u8..3)), 0..300),
            other in prop::collection::btree_map(any::<u8>(), 0u8..3, 0..300),
        ) {
            let (mut model, mut tested) = (BTreeMap::new(), Buckets::<Number>::default());
            for (at, number) in steps {
                let old = match number {
                    Some(number) => (model.insert(at, number), tested.set(Number(name(at), number))),
                    None => (model.remove(&at), tested.remove(NameKey::of(name(at).as_str()))),
                };
                prop_assert_eq!(old.0, old.1.map(|row| row.1));
            }
            let made = buckets(&model);
            prop_assert_eq!(tested.len(), model.len());
            prop_assert!(tested.buckets.iter().zip(&made.buckets).all(|(a, b)| a.digest == b.digest && a.rows == b.rows));

            let theirs = buckets(&other);
            let wire = postcard::to_allocvec(&theirs.digests()).expect("encodes");
            let digests: Digests = postcard::from_bytes(&wire).expect("decodes");
            prop_assert_eq!(&digests, &theirs.digests());
            let which = tested.differing(&digests);
            let (own, others): (Vec<_>, Vec<_>) = (tested.rows(which).collect(), theirs.rows(which).collect());
            let all = model.keys().chain(other.keys());
            for at in all.filter(|at| model.get(at) != other.get(at)) {
                let rows = own.iter().chain(&others);
                prop_assert!(which.has(NameKey::of(name(*at).as_str())) && rows.into_iter().any(|row| row.0 == name(*at)));
            }
            prop_assert!(own.len() < 100 || model != other, "what is equal is not looked at");
            prop_assert!(tested.differing(&tested.digests()).is_none());
        }
    }

    #[test]
    fn of_two_rows_of_one_name_the_last_counts() {
        let rows: Buckets<Number> = [Number(name(1), 1), Number(name(1), 2)].into_iter().collect();
        assert_eq!(rows.iter().map(|row| row.1).collect::<Vec<_>>(), [2]);
    }
}
