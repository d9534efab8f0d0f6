//! What is kept under a key: all values that no write has replaced, with their causal history.

pub(crate) use polity_cluster::rpc::Blob;
use polity_crdt::DvvSet;

/// The values of one key with their causal history; without values, it is the trace of a delete.
pub(crate) type Record = DvvSet<Blob>;

/// The version that each stored or sent record begins with.
const VERSION: u8 = 1;

/// Bytes that are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a record: {0}")]
pub(crate) struct NotARecord(String);

/// A record's bytes. Equal records have equal bytes.
pub(crate) fn encode(record: &Record) -> Vec<u8> {
    postcard::to_extend(record, vec![VERSION]).expect("a record encodes into a growing buffer")
}

/// The record of these bytes, all of them.
pub(crate) fn decode(bytes: &[u8]) -> Result<Record, NotARecord> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => match postcard::take_from_bytes(rest) {
            Ok((record, [])) => Ok(record),
            Ok(_) => Err(NotARecord("trailing bytes".to_owned())),
            Err(error) => Err(NotARecord(error.to_string())),
        },
        Some((version, _)) => Err(NotARecord(format!("version {version}, and this build reads version {VERSION}"))),
        None => Err(NotARecord("no bytes".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use polity_crdt::{ReplicaId, VersionVector};
    use proptest::prelude::*;

    fn record() -> Record {
        let mut record = Record::default();
        record.put(ReplicaId(5), &VersionVector::new(), Blob::from(b"v".to_vec())).expect("room");
        record
    }

    #[test]
    fn golden_bytes() {
        let bytes = encode(&record());
        assert_eq!(decode(&bytes), Ok(record()));
        assert_eq!(bytes, [1, 1, 0, 5, 1, 1, b'v'], "the format of records: docs/WIRE.md");
    }

    #[test]
    fn other_versions_and_trailing_bytes_are_refused() {
        let mut bytes = encode(&record());
        bytes.push(0);
        assert!(decode(&bytes).is_err());
        bytes.pop();
        bytes[0] = 2;
        assert!(decode(&bytes).is_err());
        assert!(decode(&[]).is_err());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
