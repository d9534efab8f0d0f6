//! Which elements two sets do not share, told at a size that follows how many those are.
//!
//! A set has an endless sequence of coded symbols; element x is in symbol 0 and in symbol i with probability 1/(1 + i/2), at
//! places that follow from x alone. The symbols of two sets, subtracted, are those of their symmetric difference, and about
//! 1.35 to 1.7 symbols per difference suffice to find its elements by peeling ([`peel`]). Nobody has to know beforehand how
//! many differ: who cannot peel asks for more symbols of the same sequence, and [`estimate`] says about how many.
//!
//! The elements are 64-bit hashes; what they stand for is their user's. Two elements that are equal count as one set's member
//! twice, so a set must not hold one twice; and a difference that is hidden by a collision of hashes is found with hashes under
//! another salt.
//!
//! Source: Yang, Gilad and Alizadeh, "Practical rateless set reconciliation" (SIGCOMM 2024), sections 4 and 5, with α = 0.5.
//! The next place after i follows from the product of (1 - 2/(k+2)) for k from i+1 to j, which is (i+1)(i+2)/((j+1)(j+2)):
//! j ≈ (i + 1.5)/√u - 1.5 for a uniform u. Deviation: the check of a symbol has 32 bits, half of what the paper's has.
//!
//! ```
//! use polity_crdt::sketch::{Sketch, peel};
//!
//! let symbols = |set: &[u64]| {
//!     let mut sketch = Sketch::new(0, 16);
//!     set.iter().for_each(|element| sketch.change(*element, 1));
//!     sketch.symbols()
//! };
//! let difference = peel(&symbols(&[1, 2, 3, 4]), &symbols(&[2, 3, 4, 5])).expect("16 symbols are enough for 2");
//! assert_eq!((difference.here, difference.there), (vec![1], vec![5]));
//! ```

use std::collections::BTreeMap;

use crate::codec::{Decoder, Encoder};
use crate::error::DecodeError;

/// One coded symbol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Symbol {
    sum: u64,
    check: u32,
    count: i64,
}

fn check(hash: u64) -> u32 {
    (mix(hash ^ 0x5ca1_ab1e_0dd5_eed5) >> 32) as u32
}

impl Symbol {
    /// How many elements it is the sum of: of the first symbol of a set, all.
    #[must_use]
    pub fn count(&self) -> i64 {
        self.count
    }

    /// Symbols in bytes, about 13 for each: the sum and the check, little-endian, and the count as a zigzag number.
    #[must_use]
    pub fn encode_all(symbols: &[Self]) -> Vec<u8> {
        let mut to = Encoder::new();
        symbols.iter().for_each(|symbol| symbol.encode(&mut to));
        to.finish()
    }

    /// The inverse of [`Symbol::encode_all`]. Takes no more memory than `bytes` times two.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else, and for more symbols than `at_most`.
    pub fn decode_all(bytes: &[u8], at_most: usize) -> Result<Vec<Self>, DecodeError> {
        let mut from = Decoder::new(bytes)?;
        let mut symbols = Vec::new();
        while !from.is_empty() {
            if symbols.len() == at_most {
                return Err(DecodeError::Limit);
            }
            symbols.push(Self::decode(&mut from)?);
        }
        Ok(symbols)
    }

    pub(crate) fn encode(&self, to: &mut Encoder) {
        to.fixed(self.sum);
        to.bytes(&self.check.to_le_bytes());
        to.number((self.count << 1 ^ self.count >> 63) as u64);
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let sum = from.fixed()?;
        let check = u32::from_le_bytes(from.bytes(4)?.try_into().expect("4 bytes were asked for"));
        let count = from.number()?;
        Ok(Self { sum, check, count: (count >> 1) as i64 ^ -((count & 1) as i64) })
    }

    /// Some symbol, of nothing: for tests of what becomes of nonsense.
    #[cfg(test)]
    pub(crate) fn of(sum: u64, check: u32, count: i64) -> Self {
        Self { sum, check, count }
    }

    fn change(&mut self, hash: u64, by: i64) {
        self.sum ^= hash;
        self.check ^= check(hash);
        self.count = self.count.wrapping_add(by);
    }

    fn is_pure(&self) -> bool {
        self.count.unsigned_abs() == 1 && check(self.sum) == self.check
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The symbols in which an element is, in order.
struct Places {
    state: u64,
    at: u64,
}

impl Places {
    fn new(hash: u64) -> Self {
        Self { state: hash, at: 0 }
    }

    fn next(&mut self) {
        self.state = mix(self.state);
        // Uniform in (0, 1].
        let uniform = ((self.state >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        let step = (self.at as f64 + 1.5) * (1.0 / uniform.sqrt() - 1.0);
        // A cast of a float saturates. Rounded up by hand: not all processors that this is built for have it built in.
        let whole = step as u64;
        let up = whole.saturating_add(u64::from(step > whole as f64));
        self.at = self.at.saturating_add(up.max(1));
    }
}

/// Symbols of a set, from one place on.
#[derive(Debug)]
pub struct Sketch {
    from: u64,
    symbols: Vec<Symbol>,
}

impl Sketch {
    /// `count` symbols of an empty set, from number `from` on.
    #[must_use]
    pub fn new(from: u64, count: usize) -> Self {
        Self { from, symbols: vec![Symbol::default(); count] }
    }

    /// Adds (1) or takes away (-1) an element.
    pub fn change(&mut self, hash: u64, by: i64) {
        let end = self.from.saturating_add(self.symbols.len() as u64);
        let mut places = Places::new(hash);
        while places.at < end {
            if places.at >= self.from {
                self.symbols[(places.at - self.from) as usize].change(hash, by);
            }
            places.next();
        }
    }

    /// What it has come to.
    #[must_use]
    pub fn as_slice(&self) -> &[Symbol] {
        &self.symbols
    }

    /// What it came to.
    #[must_use]
    pub fn symbols(self) -> Vec<Symbol> {
        self.symbols
    }
}

/// About how many elements differ, to judge by symbols that do not suffice.
///
/// Of m differences, symbol i holds each with probability p = 1/(1 + i/2). With h of them here and t there, the counts of
/// the two sides differ by (h - t)·p on average, with a variance of m·p·(1 - p); and symbol 0 gives h - t.
#[must_use]
pub fn estimate(here: &[Symbol], there: &[Symbol]) -> usize {
    let mut counts = here.iter().zip(there).map(|(a, b)| a.count.wrapping_sub(b.count) as f64);
    let surplus = counts.next().unwrap_or_default();
    let (mut squares, mut weights) = (0.0, 0.0);
    for (i, count) in (1..).zip(counts) {
        let p = 1.0 / (1.0 + f64::from(i) / 2.0);
        squares += (count - surplus * p).powi(2);
        weights += p * (1.0 - p);
    }
    // A cast of a float saturates, and makes 0 of what is not a number.
    ((squares / weights).max(surplus.abs()) as usize).min(usize::MAX / 8)
}

/// What has been found of a symmetric difference.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Hashes of elements on this side only.
    pub here: Vec<u64>,
    /// Hashes of elements on the other side only.
    pub there: Vec<u64>,
}

/// Finds the difference from the symbols of both sides from the first one on; `None` if they do not suffice.
///
/// Work is bounded whatever the symbols are: at most one element is taken out for each of them.
#[must_use]
pub fn peel(here: &[Symbol], there: &[Symbol]) -> Option<Difference> {
    let subtract = |(a, b): (&Symbol, &Symbol)| Symbol {
        sum: a.sum ^ b.sum,
        check: a.check ^ b.check,
        count: a.count.wrapping_sub(b.count),
    };
    let mut sketch = Sketch { from: 0, symbols: here.iter().zip(there).map(subtract).collect() };
    let mut found = BTreeMap::new();
    let mut pure: Vec<usize> = (0..sketch.symbols.len()).filter(|i| sketch.symbols[*i].is_pure()).collect();
    while let Some(at) = pure.pop() {
        let symbol = sketch.symbols[at];
        if !symbol.is_pure() {
            continue;
        }
        if found.len() > sketch.symbols.len() || found.insert(symbol.sum, symbol.count).is_some() {
            return None;
        }
        let mut places = Places::new(symbol.sum);
        while let Some(other) = usize::try_from(places.at).ok().and_then(|at| sketch.symbols.get_mut(at)) {
            other.change(symbol.sum, -symbol.count);
            if other.is_pure() {
                pure.push(places.at as usize);
            }
            places.next();
        }
    }
    let decoded = !sketch.symbols.is_empty() && sketch.symbols.iter().all(Symbol::is_empty);
    decoded.then(|| {
        let (here, there): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, count)| *count > 0);
        let hashes = |side: Vec<(u64, i64)>| side.into_iter().map(|(hash, _)| hash).collect();
        Difference { here: hashes(here), there: hashes(there) }
    })
}

/// Spreads the bits of a number (the finalizer of SplitMix64: Steele, Lea, Flood, OOPSLA 2014). Not against malice: whoever
/// chooses elements is a member.
pub(crate) const fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbols(dots: impl Iterator<Item = u64>, count: usize) -> Vec<Symbol> {
        let mut sketch = Sketch::new(0, count);
        dots.for_each(|counter| sketch.change(mix(counter), 1));
        sketch.symbols()
    }

    #[test]
    fn a_sketch_can_be_made_in_pieces() {
        let whole = symbols(1..500, 64);
        let mut pieces = Vec::new();
        for from in [0, 16, 32, 48] {
            let mut piece = Sketch::new(from, 16);
            (1..500).for_each(|counter| piece.change(mix(counter), 1));
            pieces.extend(piece.symbols());
        }
        assert_eq!(pieces, whole);
    }

    #[test]
    fn differences_of_all_sizes_are_found_with_at_most_twice_their_number_of_symbols() {
        for difference in [1_u64, 2, 5, 20, 100, 1_000] {
            let (common, half) = (10_000, difference / 2);
            let here = || 1..common + half;
            let there = || (1..common).chain(20_000..20_000 + difference - half);
            let mut count = 1;
            let found = loop {
                if let Some(found) = peel(&symbols(here(), count), &symbols(there(), count)) {
                    break found;
                }
                count += 1 + count / 50;
            };
            assert_eq!((found.here.len() as u64, found.there.len() as u64), (half, difference - half));
            assert!(count as u64 <= 2 * difference + 12, "{count} symbols for {difference}");
        }
    }

    #[test]
    fn the_size_of_a_difference_shows_in_few_symbols() {
        for (here, there) in [(500_u64, 500), (1_000, 0), (0, 1_000), (900, 100)] {
            let of = |range: std::ops::Range<u64>, more| symbols((1..5_000).chain(range), more);
            let estimates: Vec<_> = [16, 64, 256]
                .map(|count| estimate(&of(10_000..10_000 + here, count), &of(20_000..20_000 + there, count)))
                .to_vec();
            assert!(estimates.iter().all(|found| (400..2_500).contains(found)), "{here} {there}: {estimates:?}");
        }
        assert_eq!(estimate(&[], &[]), 0);
        let absurd = Symbol { count: i64::MIN, ..Symbol::default() };
        assert!(estimate(&[absurd; 3], &[Symbol { count: i64::MAX, ..absurd }; 3]) <= usize::MAX / 8);
    }

    #[test]
    fn equal_sets_need_one_symbol_and_nonsense_ends() {
        assert_eq!(peel(&symbols(1..9, 1), &symbols(1..9, 1)), Some(Difference::default()));
        assert_eq!(peel(&[], &[]), None);
        let mut state = 1;
        for _ in 0..200 {
            let mut number = || {
                state = mix(state);
                state
            };
            let nonsense: Vec<_> = (0..50)
                .map(|_| {
                    let sum = number();
                    // Half of them look pure.
                    let check = if number() % 2 == 0 { check(sum) } else { number() as u32 };
                    Symbol { sum, check, count: 1 - 2 * (number() % 2) as i64 }
                })
                .collect();
            let _ = peel(&symbols(1..9, 50), &nonsense);
        }
    }

    #[test]
    fn symbols_in_bytes_lead_back_and_nonsense_is_refused() {
        let some = symbols(1..90, 40);
        let bytes = Symbol::encode_all(&some);
        assert!(bytes.len() <= 1 + 40 * 14);
        assert_eq!(Symbol::decode_all(&bytes, 40), Ok(some));
        assert_eq!(Symbol::decode_all(&bytes, 39), Err(DecodeError::Limit));
        assert!((1..bytes.len()).filter(|end| Symbol::decode_all(&bytes[..*end], 40).is_ok()).count() == 40);
        assert!(Symbol::decode_all(&[], 40).is_err());
    }
}
