//! What must hold of bytes from outside, whatever they are: nothing panics, what is read satisfies its invariant and has one
//! form, and taking it in does no harm. For the tests, which try some bytes, and for the fuzz targets, which look for others.

// Each user takes a part of this module, and the fuzz targets take it as a module of a library.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::collections::BTreeSet;
use std::time::Duration;

use polity_crdt::sync::{AntiEntropy, Outgoing, SyncConfig, decode_answer, decode_request};
use polity_crdt::{
    AwSet, Crdt, Delta, Dot, DvvSet, LwwRegister, MvRegister, OrMap, PnCounter, Replica, ReplicaId, RwSet,
    VersionVector,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

const A: ReplicaId = ReplicaId(1);
const B: ReplicaId = ReplicaId(9);

pub type Values = MvRegister<u8>;
pub type Set = AwSet<u8>;
pub type Registers = OrMap<u8, LwwRegister<String>>;
pub type Deep = OrMap<u8, OrMap<u8, PnCounter>>;

pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("every value has an encoding")
}

pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    postcard::take_from_bytes(bytes).ok().filter(|(_, rest)| rest.is_empty()).map(|(value, _)| value)
}

/// What must hold of a vector that came from outside.
fn check_vector(vector: &VersionVector) {
    let mut previous = None;
    for (replica, runs) in vector.iter() {
        assert!(previous < Some(replica));
        previous = Some(replica);
        let mut next_allowed = Some(1);
        for run in runs {
            assert!(next_allowed.is_some_and(|allowed| allowed <= *run.start()) && run.start() <= run.end());
            next_allowed = run.end().checked_add(2);
        }
    }
}

/// Returns whether the bytes are a dot.
pub fn dot(bytes: &[u8]) -> bool {
    let Some(dot) = decode::<Dot>(bytes) else { return false };
    assert!(dot.counter > 0);
    assert_eq!(decode(&encode(&dot)), Some(dot));
    true
}

/// Returns whether the bytes are a vector. They need not be its only form: `postcard` takes numbers with leading zeros.
pub fn vector(bytes: &[u8]) -> bool {
    let Some(vector) = decode::<VersionVector>(bytes) else { return false };
    check_vector(&vector);
    let form = encode(&vector);
    assert!(form.len() <= bytes.len());
    assert_eq!(decode(&form).as_ref(), Some(&vector));
    let mut other = VersionVector::from(Dot { replica: A, counter: 3 });
    other.merge(&vector);
    assert!(other.covers(&vector) && !other.merge(&vector));
    check_vector(&other);
    check_vector(&other.difference(&vector));
    assert_eq!(other.intersection(&vector), vector);
    true
}

/// Returns whether the bytes are a set of values under a context.
pub fn dvv_set(bytes: &[u8]) -> bool {
    let Some(set) = decode::<DvvSet<u8>>(bytes) else { return false };
    check_vector(set.context());
    let dots: Vec<Dot> = set.siblings().map(|(dot, _)| dot).collect();
    assert!(dots.is_sorted_by(|a, b| a < b));
    assert!(dots.iter().all(|dot| set.context().contains(*dot)));
    assert_eq!(decode(&encode(&set)).as_ref(), Some(&set));
    // Nothing that can be decoded makes an operation panic.
    let mut other = set.clone();
    assert!(!other.merge(&set));
    let _refused = other.put(A, set.context(), 0);
    other.delete(set.context());
    true
}

/// Returns whether the bytes are a delta, which has one form.
pub fn delta<T: Crdt>(bytes: &[u8]) -> bool {
    let Ok(delta) = T::Delta::decode(bytes) else { return false };
    let form = delta.encode();
    assert_eq!(form, bytes);
    assert!(!delta.live().intersects(&delta.dead()));
    let mut replica = Replica::<T>::new(A);
    assert_eq!(replica.merge(delta.clone()), !delta.is_empty());
    assert!(!replica.merge(delta.clone()), "twice is once");
    assert_eq!(*replica.context(), delta.context());
    let mut whole = Replica::<T>::restore(A, replica.full());
    assert!(whole == replica);
    if delta.context().dot_count() <= 64 {
        let mut parts = Replica::<T>::new(B);
        for part in delta.decompose().into_iter().rev() {
            assert!(parts.merge(part), "none can be left out");
        }
        assert!(parts == replica, "its parts say the same");
    }
    let mut all = T::Delta::default();
    all.kill(&replica.context().clone());
    whole.merge(all);
    assert!(whole.is_bottom());
    true
}

/// Reads bytes as a delta of each type.
pub fn deltas(bytes: &[u8]) -> bool {
    let read = [
        delta::<Values>(bytes),
        delta::<Set>(bytes),
        delta::<RwSet<String>>(bytes),
        delta::<Registers>(bytes),
        delta::<Deep>(bytes),
    ];
    read.contains(&true)
}

fn request_of<T: Crdt>(bytes: &[u8]) -> bool {
    let Ok(form) = decode_request::<T::Delta>(bytes) else { return false };
    assert_eq!(form, bytes);
    true
}

/// Reads bytes as a request about each type.
pub fn request(bytes: &[u8]) -> bool {
    let read = [
        request_of::<Values>(bytes),
        request_of::<Set>(bytes),
        request_of::<RwSet<String>>(bytes),
        request_of::<Registers>(bytes),
        request_of::<Deep>(bytes),
    ];
    read.contains(&true)
}

/// Returns whether the bytes are an answer, which has one form.
pub fn answer(bytes: &[u8]) -> bool {
    let form = decode_answer(bytes);
    assert!(form.is_err() || form.as_deref() == Ok(bytes));
    form.is_ok()
}

/// A replica that has written something and can reach another one, of which it has not heard yet.
pub fn live() -> AntiEntropy<Set> {
    let mut replica = AntiEntropy::<Set>::new(A, b"a".to_vec(), 1, SyncConfig::default());
    replica.handle_up(Duration::ZERO, BTreeSet::from([A, B]));
    for element in 1..=3 {
        replica.update(Duration::ZERO, |set, w| set.add(w, element)).expect("room");
    }
    replica
}

/// Takes all that a replica wants to say, and delivers none of it. It must come to an end.
pub fn drain<T: Crdt>(replica: &mut AntiEntropy<T>, now: Duration) -> Vec<Outgoing> {
    let mut said = Vec::new();
    while let Some(out) = replica.poll_request(now) {
        said.push(out);
        assert!(said.len() < 100, "what one message leads to is bounded");
    }
    said
}

/// Messages that follow each other: each begins with its length.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first()?;
        let (message, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        bytes = rest;
        Some(message)
    })
}

/// Gives a live replica some messages as requests.
pub fn requests_to_live(bytes: &[u8]) {
    let mut replica = live();
    let mut now = Duration::ZERO;
    for message in messages(bytes) {
        if let Ok(reply) = replica.handle_request(now, message) {
            assert!(answer(&reply), "what is asked is answered");
        }
        now += Duration::from_millis(50);
        replica.handle_timeout(now);
        drain(&mut replica, now).iter().for_each(|out| assert!(request(&out.bytes)));
    }
}

/// Gives a live replica some messages as answers to what it asks.
pub fn answers_to_live(bytes: &[u8]) {
    let mut replica = live();
    let mut now = Duration::ZERO;
    let mut waiting = Vec::new();
    for message in messages(bytes) {
        now += Duration::from_millis(50);
        replica.handle_timeout(now);
        waiting.extend(drain(&mut replica, now));
        let Some(out) = waiting.pop() else {
            now += Duration::from_secs(10);
            continue;
        };
        assert!(request(&out.bytes));
        replica.handle_answer(now, out.id, Some(message));
    }
}
