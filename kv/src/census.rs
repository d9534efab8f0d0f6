//! How many keys of each bucket hold something, in one shard. Pure.

use std::collections::BTreeMap;

use crate::place;

/// Counts that follow the records. A bucket without live keys takes no memory.
#[derive(Debug, Default)]
pub(crate) struct Census(BTreeMap<Box<[u8]>, u64>);

impl Census {
    /// The record at a place has changed: whether anything was there, and whether anything is.
    pub(crate) fn change(&mut self, place: &[u8], was_live: bool, is_live: bool) {
        if was_live == is_live {
            return;
        }
        let bucket = place::bucket_of(place);
        if is_live {
            match self.0.get_mut(bucket) {
                Some(count) => *count += 1,
                None => drop(self.0.insert(bucket.into(), 1)),
            }
        } else if let Some(count) = self.0.get_mut(bucket) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(bucket);
            }
        }
    }

    /// How many keys of a bucket hold something. The bucket is named as its places begin.
    pub(crate) fn of(&self, bucket: &[u8]) -> u64 {
        self.0.get(bucket).copied().unwrap_or_default()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_counted_by_bucket() {
        let mut census = Census::default();
        let place = |bucket, key: &str| place::key_of(bucket, key.as_bytes()).0;
        let count = |census: &Census, bucket| census.of(&place(bucket, ""));
        for (bucket, key) in [("a", "x"), ("a", "y"), ("ab", "x"), ("", "x")] {
            census.change(&place(bucket, key), false, true);
        }
        census.change(&place("a", "x"), true, true);
        census.change(&place("a", "z"), false, false);
        assert_eq!(["a", "ab", "", "b"].map(|bucket| count(&census, bucket)), [2, 1, 1, 0]);
        census.change(&place("a", "x"), true, false);
        census.change(&place("ab", "x"), true, false);
        assert_eq!((count(&census, "a"), count(&census, "ab"), census.0.len()), (1, 0, 2));
        census.clear();
        assert_eq!(count(&census, "a"), 0);
    }
}
