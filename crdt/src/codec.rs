//! The bytes of deltas and messages.
//!
//! One pass, no schema, little overhead: numbers are LEB128; a replica id is written once in a message, 8 bytes at its
//! first use, and is a small number afterwards; the counter of a dot is written as its distance from the last one of
//! that replica. Keys and values are `postcard`. `docs/WIRE.md` draws it, and golden bytes hold it.
//!
//! # Hostile input
//! Decoding takes time and memory in proportion to the length of its input, whatever numbers that claims: lists are
//! never given room for more elements than there are bytes left, and sets of dots are intervals that are only compared.
//! Each value has one encoding; everything else is refused with a [`DecodeError`].

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::DecodeError;
use crate::version_vector::Run;
use crate::{Dot, ReplicaId, VersionVector};

/// Every encoding begins with this. It grows when the bytes change.
pub const FORMAT: u8 = 1;

/// Collects bytes.
#[derive(Debug)]
pub struct Encoder {
    out: Vec<u8>,
    /// The number of each replica that was used, and the last counter that was written of it.
    replicas: BTreeMap<ReplicaId, (usize, u64)>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// Begins an encoding.
    #[must_use]
    pub fn new() -> Self {
        Self { out: vec![FORMAT], replicas: BTreeMap::new() }
    }

    /// The bytes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Never: an encoding has at least its format.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Ends it.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.out
    }

    pub(crate) fn byte(&mut self, byte: u8) {
        self.out.push(byte);
    }

    pub(crate) fn fixed(&mut self, number: u64) {
        self.out.extend_from_slice(&number.to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub(crate) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.out.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.out.push(number as u8);
    }

    pub(crate) fn replica(&mut self, replica: ReplicaId) {
        let next = self.replicas.len();
        match self.replicas.get(&replica) {
            Some((known, _)) => {
                let known = *known as u64;
                self.number(known);
            }
            None => {
                self.replicas.insert(replica, (next, 0));
                self.number(next as u64);
                self.fixed(replica.0);
            }
        }
    }

    pub(crate) fn dot(&mut self, dot: Dot) {
        self.replica(dot.replica);
        let (_, last) = self.replicas.get_mut(&dot.replica).expect("the replica was just written");
        let step = dot.counter.wrapping_sub(std::mem::replace(last, dot.counter)) as i64;
        self.number((step << 1 ^ step >> 63) as u64);
    }

    pub(crate) fn dots(&mut self, dots: &VersionVector) {
        self.number(dots.replica_count() as u64);
        for runs in dots.by_replica() {
            self.replica(runs[0].replica);
            self.number(runs.len() as u64);
            let mut below = 0;
            for (at, run) in runs.iter().enumerate() {
                // Counters begin at 1, and a run after another leaves at least one out.
                let least = if at == 0 { 1 } else { below + 2 };
                self.number(run.first - least);
                self.number(run.last - run.first);
                below = run.last;
            }
        }
    }

    pub(crate) fn content<V: Serialize>(&mut self, value: &V) {
        let out = std::mem::take(&mut self.out);
        self.out = postcard::to_extend(value, out).expect("keys and values encode into a growing buffer");
    }
}

/// Reads what an [`Encoder`] wrote.
#[derive(Debug)]
pub struct Decoder<'a> {
    rest: &'a [u8],
    /// The replicas in the order of their numbers, and the last counter that was read of each.
    replicas: Vec<(ReplicaId, u64)>,
    /// The same replicas, to find one that is introduced again.
    introduced: BTreeSet<ReplicaId>,
}

impl<'a> Decoder<'a> {
    /// Begins to read.
    ///
    /// # Errors
    /// The bytes are empty or of another format.
    pub fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        match bytes {
            [FORMAT, rest @ ..] => Ok(Self { rest, replicas: Vec::new(), introduced: BTreeSet::new() }),
            [other, ..] => Err(DecodeError::Format(*other)),
            [] => Err(DecodeError::Truncated),
        }
    }

    /// Ends: all bytes must have been used.
    ///
    /// # Errors
    /// They have not.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.rest.len())) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn byte(&mut self) -> Result<u8, DecodeError> {
        let (byte, rest) = self.rest.split_first().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*byte)
    }

    pub(crate) fn fixed(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.bytes(8)?.try_into().expect("8 bytes were asked for")))
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(crate) fn number(&mut self) -> Result<u64, DecodeError> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 || shift > 0 && byte == 0 {
                return Err(DecodeError::Number);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(DecodeError::Number)
    }

    /// The length of a list whose elements take at least one byte each.
    pub(crate) fn length(&mut self) -> Result<usize, DecodeError> {
        let length = self.number()?;
        self.fits(length)
    }

    /// `length` elements of at least one byte each, if that many can follow.
    pub(crate) fn fits(&self, length: u64) -> Result<usize, DecodeError> {
        match usize::try_from(length) {
            Ok(length) if length <= self.rest.len() => Ok(length),
            _ => Err(DecodeError::Truncated),
        }
    }

    fn known(&mut self) -> Result<usize, DecodeError> {
        let at = usize::try_from(self.number()?).map_err(|_| DecodeError::UnknownReplica)?;
        if at > self.replicas.len() {
            return Err(DecodeError::UnknownReplica);
        }
        if at == self.replicas.len() {
            let replica = ReplicaId(self.fixed()?);
            if !self.introduced.insert(replica) {
                return Err(DecodeError::KnownReplica);
            }
            self.replicas.push((replica, 0));
        }
        Ok(at)
    }

    pub(crate) fn replica(&mut self) -> Result<ReplicaId, DecodeError> {
        let at = self.known()?;
        Ok(self.replicas[at].0)
    }

    pub(crate) fn dot(&mut self) -> Result<Dot, DecodeError> {
        let at = self.known()?;
        let step = self.number()?;
        let step = (step >> 1) as i64 ^ -((step & 1) as i64);
        let (replica, last) = &mut self.replicas[at];
        *last = last.wrapping_add(step as u64);
        if *last == 0 { Err(DecodeError::Number) } else { Ok(Dot { replica: *replica, counter: *last }) }
    }

    pub(crate) fn dots(&mut self) -> Result<VersionVector, DecodeError> {
        let mut runs: Vec<Run> = Vec::new();
        for _ in 0..self.length()? {
            let replica = self.replica()?;
            if runs.last().is_some_and(|run| run.replica >= replica) {
                return Err(DecodeError::Order);
            }
            let count = self.length()?;
            if count == 0 {
                return Err(DecodeError::Order);
            }
            let mut least = Some(1_u64);
            for _ in 0..count {
                let (skipped, more) = (self.number()?, self.number()?);
                let first = least.and_then(|least| least.checked_add(skipped)).ok_or(DecodeError::Number)?;
                let last = first.checked_add(more).ok_or(DecodeError::Number)?;
                runs.push(Run { replica, first, last });
                least = last.checked_add(2);
            }
        }
        Ok(VersionVector::from_runs(runs))
    }

    pub(crate) fn content<V: Serialize + DeserializeOwned>(&mut self) -> Result<V, DecodeError> {
        let (value, rest) = postcard::take_from_bytes(self.rest).map_err(|error| match error {
            postcard::Error::DeserializeUnexpectedEnd => DecodeError::Truncated,
            _ => DecodeError::Content,
        })?;
        // `postcard` also reads numbers with leading zeros and maps out of order.
        let read = &self.rest[..self.rest.len() - rest.len()];
        postcard::serialize_with_flavor(&value, Expected(read)).map_err(|_| DecodeError::Content)?;
        self.rest = rest;
        Ok(value)
    }
}

/// Takes the bytes that it holds, in their order, and no others.
struct Expected<'a>(&'a [u8]);

impl postcard::ser_flavors::Flavor for Expected<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0 = self.0.strip_prefix(bytes).ok_or(postcard::Error::SerializeBufferFull)?;
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(postcard::Error::SerializeBufferFull) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(bytes: &[u8]) -> Result<u64, DecodeError> {
        let mut decoder = Decoder::new(bytes)?;
        let number = decoder.number()?;
        decoder.finish()?;
        Ok(number)
    }

    #[test]
    fn numbers_have_one_form() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut encoder = Encoder::new();
            encoder.number(number);
            assert_eq!(numbers(&encoder.finish()), Ok(number));
        }
        assert_eq!(numbers(&[1, 0x80, 0]), Err(DecodeError::Number), "a longer form of 0");
        assert_eq!(numbers(&[1, 0x80]), Err(DecodeError::Truncated));
        assert_eq!(numbers(&[1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2]), Err(DecodeError::Number));
        assert_eq!(numbers(&[1, 5, 6]), Err(DecodeError::Trailing(1)));
        assert_eq!(numbers(&[2, 5]), Err(DecodeError::Format(2)));
    }

    #[test]
    fn dots_far_apart_come_back() {
        let (a, b) = (ReplicaId(7), ReplicaId(u64::MAX));
        let dots = [(a, 5), (a, u64::MAX), (a, 1), (b, 3), (a, 2), (b, u64::MAX)];
        let dots = dots.map(|(replica, counter)| Dot { replica, counter });
        let mut encoder = Encoder::new();
        dots.iter().for_each(|dot| encoder.dot(*dot));
        let bytes = encoder.finish();
        let mut decoder = Decoder::new(&bytes).expect("the format");
        assert!(dots.iter().all(|dot| decoder.dot() == Ok(*dot)));
        decoder.finish().expect("nothing is left");
    }

    #[test]
    fn sets_of_dots_have_one_form() {
        let decode = |bytes: &[u8]| Decoder::new(bytes).and_then(|mut decoder| decoder.dots());
        let id = [9, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(decode(&[&[1, 1, 0], &id[..], &[0]].concat()), Err(DecodeError::Order), "no run");
        assert_eq!(decode(&[&[1, 2, 0], &id[..], &[1, 0, 0, 0, 1, 0, 0]].concat()), Err(DecodeError::Order), "twice");
        assert_eq!(decode(&[1, 1, 1]), Err(DecodeError::UnknownReplica));
        assert_eq!(decode(&[1, 255, 255, 255, 255, 15]), Err(DecodeError::Truncated), "more than there is room for");
        let again = [&[1, 2, 0], &id[..], &[1, 0, 0, 1], &id[..], &[1, 0, 0]].concat();
        assert_eq!(decode(&again), Err(DecodeError::KnownReplica), "a second number for the same replica");
        let most = [255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        assert_eq!(decode(&[&[1, 1, 0], &id[..], &[1], &most[..], &[0]].concat()), Err(DecodeError::Number));
    }
}
