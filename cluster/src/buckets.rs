//! Rows by name, in a fixed number of buckets, each with a digest, shared until they change. Pure.
//!
//! Two members that exchange everything they know mostly know the same. With a digest for each bucket they find what
//! differs without looking at the rest, and a copy to send costs a pointer for each bucket. The digest of a bucket is
//! the wrapping sum of its rows' 64-bit hashes, so it does not depend on the order in which they came; that two
//! different buckets have one digest is as likely as that, and then the next exchange with another member brings the row.

use std::fmt;
use std::sync::Arc;

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

    fn bucket(self) -> usize {
        (self.0 >> (u64::BITS - BUCKET_BITS)) as usize
    }
}

/// One row: what is known of one name.
pub(crate) trait Row: Clone + PartialEq + Serialize {
    /// Whom it is about.
    fn key(&self) -> NameKey;
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

/// A map from names to rows. A clone is cheap and does not change with the original.
#[derive(Clone)]
pub(crate) struct Buckets<R> {
    buckets: Vec<Arc<Bucket<R>>>,
    len: usize,
    bytes: usize,
}

impl<R> Default for Buckets<R> {
    fn default() -> Self {
        let empty = Arc::new(Bucket { digest: 0, rows: Vec::new() });
        Self { buckets: vec![empty; BUCKETS], len: 0, bytes: 0 }
    }
}

impl<R: Row> Buckets<R> {
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How long the rows are on the wire.
    #[cfg(feature = "lean")]
    pub(crate) fn encoded_bytes(&self) -> usize {
        self.bytes
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
        let (hash, bytes) = measure(&row);
        let bucket = Arc::make_mut(&mut self.buckets[row.key().bucket()]);
        bucket.digest = bucket.digest.wrapping_add(hash);
        self.bytes += bytes;
        let before = match bucket.find(row.key()) {
            Ok(at) => std::mem::replace(&mut bucket.rows[at], row),
            Err(at) => {
                bucket.rows.insert(at, row);
                self.len += 1;
                return None;
            }
        };
        let (hash, bytes) = measure(&before);
        bucket.digest = bucket.digest.wrapping_sub(hash);
        self.bytes -= bytes;
        Some(before)
    }

    /// Forgets the row of a name.
    pub(crate) fn remove(&mut self, key: NameKey) -> Option<R> {
        let shared = &mut self.buckets[key.bucket()];
        let at = shared.find(key).ok()?;
        let bucket = Arc::make_mut(shared);
        let row = bucket.rows.remove(at);
        let (hash, bytes) = measure(&row);
        bucket.digest = bucket.digest.wrapping_sub(hash);
        self.bytes -= bytes;
        self.len -= 1;
        Some(row)
    }

    /// Our rows that `theirs` does not have just so.
    pub(crate) fn differing<'a>(&'a self, theirs: &'a Self) -> impl Iterator<Item = &'a R> {
        let pairs = self.buckets.iter().zip(&theirs.buckets);
        let unequal = pairs.filter(|(own, other)| !Arc::ptr_eq(own, other) && own.digest != other.digest);
        unequal.flat_map(|(own, other)| {
            own.rows.iter().filter(|row| !other.find(row.key()).is_ok_and(|at| other.rows[at] == **row))
        })
    }

    /// Takes over the memory of those of `theirs` buckets that say the same as ours. Changes nothing else: it is for
    /// many nodes in one process. All take over from the lower address, and so one copy soon serves all.
    #[cfg(feature = "lean")]
    pub(crate) fn share(&mut self, theirs: &Self) {
        for (own, other) in self.buckets.iter_mut().zip(&theirs.buckets) {
            if own.digest == other.digest && Arc::as_ptr(other) < Arc::as_ptr(own) {
                *own = Arc::clone(other);
            }
        }
    }
}

fn measure(row: &impl Serialize) -> (u64, usize) {
    let mut scratch = [0; MAX_ROW_BYTES];
    let bytes = postcard::to_slice(row, &mut scratch).expect("a row has a bounded name and some numbers");
    (xxh3_64(bytes), bytes.len())
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

/// On the wire it is a list of its rows.
impl<R: Row> Serialize for Buckets<R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeSeq as _;
        let mut list = serializer.serialize_seq(Some(self.len))?;
        self.iter().try_for_each(|row| list.serialize_element(row))?;
        list.end()
    }
}

impl<'de, R: Row + Deserialize<'de>> Deserialize<'de> for Buckets<R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::from_iter)
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
                let snapshot = tested.clone();
                let before: Vec<Number> = snapshot.iter().cloned().collect();
                let old = match number {
                    Some(number) => (model.insert(at, number), tested.set(Number(name(at), number))),
                    None => (model.remove(&at), tested.remove(NameKey::of(name(at).as_str()))),
                };
                prop_assert_eq!(old.0, old.1.map(|row| row.1));
                prop_assert!(snapshot.iter().eq(&before), "a clone stays as it was");
            }
            let made = buckets(&model);
            prop_assert_eq!((tested.len(), tested.bytes), (model.len(), made.bytes));
            prop_assert!(tested.buckets.iter().zip(&made.buckets).all(|(a, b)| a.digest == b.digest && a.rows == b.rows));
            let wire = postcard::to_allocvec(&tested).expect("encodes");
            let back: Buckets<Number> = postcard::from_bytes(&wire).expect("decodes");
            prop_assert!(back.iter().eq(tested.iter()));

            let theirs = buckets(&other);
            let mut differing: Vec<u8> = tested.differing(&theirs).map(|row| row.1).collect();
            let mut expected: Vec<u8> =
                model.iter().filter(|(at, number)| other.get(at) != Some(number)).map(|(_, number)| *number).collect();
            differing.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(differing, expected);
        }
    }

    #[test]
    fn of_two_rows_of_one_name_the_last_counts() {
        let rows: Buckets<Number> = [Number(name(1), 1), Number(name(1), 2)].into_iter().collect();
        assert_eq!(rows.iter().map(|row| row.1).collect::<Vec<_>>(), [2]);
    }
}
