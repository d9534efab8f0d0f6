//! What the clients that read, change and write keep under a key: a map of numbers, merged by the greater.

use std::collections::BTreeMap;

use bytes::Bytes;

/// See the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MaxMap(pub(super) BTreeMap<u64, u64>);

impl MaxMap {
    /// Takes the greater value of each entry.
    pub(super) fn merge(&mut self, other: Self) {
        for (key, value) in other.0 {
            let entry = self.0.entry(key).or_insert(value);
            *entry = (*entry).max(value);
        }
    }

    /// The entries, then a hash of them, so that damage is seen.
    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(self.0.len() * 16 + 8);
        for (key, value) in &self.0 {
            bytes.extend(key.to_be_bytes());
            bytes.extend(value.to_be_bytes());
        }
        bytes.extend(xxhash_rust::xxh3::xxh3_64(&bytes).to_be_bytes());
        bytes.into()
    }

    /// `None` for what no client wrote.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (entries, hash) = bytes.split_last_chunk::<8>()?;
        if u64::from_be_bytes(*hash) != xxhash_rust::xxh3::xxh3_64(entries) {
            return None;
        }
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_be_bytes).ok();
        let (entries, rest) = entries.as_chunks::<16>();
        let map: BTreeMap<u64, u64> =
            entries.iter().map(|entry| Some((number(&entry[..8])?, number(&entry[8..])?))).collect::<Option<_>>()?;
        (rest.is_empty() && map.len() == entries.len()).then_some(Self(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_read_as_it_was_written_and_damage_is_seen() {
        let map = MaxMap([(1, 5), (u64::MAX, 7)].into());
        let bytes = map.encode();
        assert_eq!(MaxMap::decode(&bytes), Some(map));
        assert_eq!(MaxMap::decode(&MaxMap::default().encode()), Some(MaxMap::default()));
        assert_eq!(MaxMap::decode(&bytes[1..]), None);
        assert_eq!(MaxMap::decode(&[]), None);
        let mut damaged = bytes.to_vec();
        damaged[3] ^= 1;
        assert_eq!(MaxMap::decode(&damaged), None);
    }

    #[test]
    fn the_greater_value_stays() {
        let mut map = MaxMap([(1, 5), (2, 1)].into());
        map.merge(MaxMap([(1, 4), (2, 3), (3, 1)].into()));
        assert_eq!(map.0, [(1, 5), (2, 3), (3, 1)].into());
    }
}
