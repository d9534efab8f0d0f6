//! The bytes of every type with postcard: what they are, that they come back, and that others do no harm.

mod histories;
mod outside;

use histories::{CASES, History, steps};
use outside::{decode, encode};
use polity_crdt::{Dot, DvvSet, ReplicaId, VersionVector};
use proptest::prelude::*;
use proptest::sample::Index;
use serde::Serialize;
use serde::de::DeserializeOwned;

const A: ReplicaId = ReplicaId(1);
const B: ReplicaId = ReplicaId(300);

fn assert_golden<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T, bytes: &[u8]) {
    assert_eq!(encode(value), bytes);
    assert_eq!(decode::<T>(bytes).as_ref(), Some(value));
}

fn vector(prefixes: &[(ReplicaId, u64)], dots: &[(ReplicaId, u64)]) -> VersionVector {
    let mut vector: VersionVector = dots.iter().map(|&(replica, counter)| Dot { replica, counter }).collect();
    for (replica, counter) in prefixes {
        vector.insert_up_to(*replica, *counter);
    }
    vector
}

#[test]
fn golden_ids_and_dots() {
    assert_golden(&B, &[0xac, 0x02]);
    assert_golden(&Dot { replica: B, counter: 7 }, &[0xac, 0x02, 7]);
    assert_eq!(decode::<Dot>(&[0xac, 0x02, 0]), None, "counters begin at 1");
}

#[test]
fn golden_version_vectors() {
    assert_golden(&VersionVector::new(), &[0]);
    assert_golden(&vector(&[(A, 5)], &[]), &[1, 1, 5, 0]);
    // A: 1 to 5, then 6 missing, 7 and 8 there, 9 to 11 missing, 12 there. B: 1 missing, 2 there.
    let gaps = vector(&[(A, 5)], &[(A, 7), (A, 8), (A, 12), (B, 2)]);
    assert_golden(&gaps, &[2, 1, 5, 2, 1, 2, 3, 1, 0xac, 0x02, 0, 1, 1, 1]);
    let last = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    assert_golden(&vector(&[(A, u64::MAX)], &[]), &[&[1, 1], &last[..], &[0]].concat());
}

#[test]
fn golden_sets() {
    let mut set = DvvSet::<u8>::new();
    assert_golden(&set, &[0]);
    set.put(A, &VersionVector::new(), 0xee).expect("room");
    assert_golden(&set, &[1, 0, 1, 1, 0xee]);
    // A second write that has read nothing: dots 1 and 2 are both live.
    set.put(A, &VersionVector::new(), 0xdd).expect("room");
    assert_golden(&set, &[1, 2, 1, 2, 0, 2, 1, 0xee, 1, 0xdd]);
    // B replaces the second, of which alone it has read.
    set.put(B, &vector(&[], &[(A, 2)]), 0xcc).expect("room");
    assert_golden(&set, &[2, 2, 1, 2, 0, 1, 1, 0xee, 0, 0xac, 0x02, 1, 0xcc]);
    let read = set.context().clone();
    set.delete(&read);
    assert_golden(&set, &[2, 1, 1, 2, 1, 0xac, 0x02, 1]);
    // A history with a gap: dot 4 of A is known and gone, dot 3 is not known.
    set.delete(&vector(&[], &[(A, 4)]));
    assert_golden(&set, &[2, 2, 1, 2, 1, 1, 1, 0, 1, 0xac, 0x02, 1]);
}

#[test]
fn one_value_of_one_replica_costs_13_bytes() {
    let mut set = DvvSet::new();
    let mut read = VersionVector::new();
    for _ in 0..100 {
        set.put(ReplicaId(0xfeed_face_cafe_beef), &read, "value").expect("room");
        read = set.context().clone();
    }
    assert_eq!(encode(&set).len() - encode(&"value").len(), 13);
}

/// Decodes hostile bytes as each type.
fn survive(bytes: &[u8]) -> [bool; 3] {
    [outside::dot(bytes), outside::vector(bytes), outside::dvv_set(bytes)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn what_histories_lead_to_comes_back(steps in steps()) {
        let mut history = History::new();
        for step in &steps {
            history.take(step);
        }
        for set in &history.sets {
            let context = set.context();
            prop_assert_eq!(decode(&encode(set)), Some(set.clone()));
            prop_assert_eq!(decode(&encode(context)), Some(context.clone()));
        }
    }

    #[test]
    fn random_bytes_do_no_harm(bytes in prop::collection::vec(prop_oneof![0..4u8, any::<u8>()], 0..64)) {
        survive(&bytes);
    }

    #[test]
    fn damaged_encodings_do_no_harm(
        steps in steps(),
        damage in prop::collection::vec((any::<Index>(), 0..3u8, prop_oneof![0..4u8, any::<u8>()]), 1..4),
    ) {
        let mut history = History::new();
        for step in &steps {
            history.take(step);
        }
        for set in &history.sets {
            for mut bytes in [encode(set), encode(set.context())] {
                for (at, kind, byte) in &damage {
                    let at = at.index(bytes.len() + 1);
                    match kind {
                        0 => bytes.insert(at, *byte),
                        1 if at < bytes.len() => drop(bytes.remove(at)),
                        _ if at < bytes.len() => bytes[at] = *byte,
                        _ => bytes.truncate(at / 2),
                    }
                }
                survive(&bytes);
            }
        }
    }
}

/// All strings of up to 8 of these bytes: each value that is accepted has no other form among them.
#[test]
fn short_strings_are_accepted_only_in_the_form_that_encoding_gives() {
    const BYTES: [u8; 4] = [0, 1, 2, 3];
    let mut accepted = [0; 3];
    for length in 0..=8u32 {
        for number in 0..BYTES.len().pow(length) {
            let bytes: Vec<u8> = (0..length).map(|digit| BYTES[number >> (2 * digit) & 3]).collect();
            for (count, ok) in accepted.iter_mut().zip(survive(&bytes)) {
                *count += usize::from(ok);
            }
            if let Some(vector) = decode::<VersionVector>(&bytes) {
                assert_eq!(encode(&vector), bytes);
            }
            if let Some(set) = decode::<DvvSet<u8>>(&bytes) {
                assert_eq!(encode(&set), bytes);
            }
        }
    }
    assert_eq!(accepted, ACCEPTED_OF_87_381);
}

/// Of the 4⁰ + … + 4⁸ strings above: how many are dots, vectors, and sets.
const ACCEPTED_OF_87_381: [usize; 3] = [12, 1_507, 739];
