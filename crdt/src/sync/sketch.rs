//! Which dots are live on one side only, told at a size that follows how many those are.
//!
//! A set has an endless sequence of coded symbols; element x is in symbol 0 and in symbol i with probability 1/(1 + i/2), at
//! places that follow from x alone. The symbols of two sets, subtracted, are those of their symmetric difference, and about
//! 1.35 to 1.7 symbols per difference suffice to find its elements by peeling.
//!
//! Source: Yang, Gilad and Alizadeh, "Practical rateless set reconciliation" (SIGCOMM 2024), sections 4 and 5, with α = 0.5.
//! The next place after i follows from the product of (1 - 2/(k+2)) for k from i+1 to j, which is (i+1)(i+2)/((j+1)(j+2)):
//! j ≈ (i + 1.5)/√u - 1.5 for a uniform u. Deviation: the elements are salted 64-bit hashes of dots, with a check of 32
//! bits, half of what dots would cost; each side knows its own dots by their hashes, and names those of the other by
//! them. A collision of two hashes hides a difference until the next round, which has another salt.

use std::collections::BTreeMap;

use super::mix;
use crate::Dot;

/// One coded symbol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Symbol {
    pub(super) sum: u64,
    pub(super) check: u32,
    pub(super) count: i64,
}

/// The hash of a dot in a sketch.
pub(super) fn hash(dot: Dot, salt: u64) -> u64 {
    mix(mix(dot.replica.0 ^ salt).wrapping_add(dot.counter))
}

fn check(hash: u64) -> u32 {
    (mix(hash ^ 0x5ca1_ab1e_0dd5_eed5) >> 32) as u32
}

impl Symbol {
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
        let step = ((self.at as f64 + 1.5) * (1.0 / uniform.sqrt() - 1.0)).ceil();
        // A cast of a float saturates.
        self.at = self.at.saturating_add((step as u64).max(1));
    }
}

/// Symbols of a set, from one place on.
#[derive(Debug)]
pub(super) struct Sketch {
    from: u64,
    symbols: Vec<Symbol>,
}

impl Sketch {
    pub(super) fn new(from: u64, count: usize) -> Self {
        Self { from, symbols: vec![Symbol::default(); count] }
    }

    /// Adds (1) or takes away (-1) an element.
    pub(super) fn change(&mut self, hash: u64, by: i64) {
        let end = self.from.saturating_add(self.symbols.len() as u64);
        let mut places = Places::new(hash);
        while places.at < end {
            if places.at >= self.from {
                self.symbols[(places.at - self.from) as usize].change(hash, by);
            }
            places.next();
        }
    }

    pub(super) fn symbols(self) -> Vec<Symbol> {
        self.symbols
    }
}

/// About how many elements differ, to judge by symbols that do not suffice.
///
/// Of m differences, symbol i holds each with probability p = 1/(1 + i/2). With h of them here and t there, the counts of
/// the two sides differ by (h - t)·p on average, with a variance of m·p·(1 - p); and symbol 0 gives h - t.
pub(super) fn estimate(here: &[Symbol], there: &[Symbol]) -> usize {
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
pub(super) struct Difference {
    /// Hashes of elements on this side only.
    pub(super) here: Vec<u64>,
    /// Hashes of elements on the other side only.
    pub(super) there: Vec<u64>,
}

/// Finds the difference from the symbols of both sides from the first one on; `None` if they do not suffice.
///
/// Work is bounded whatever the symbols are: at most one element is taken out for each of them.
pub(super) fn peel(here: &[Symbol], there: &[Symbol]) -> Option<Difference> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ReplicaId;

    fn symbols(dots: impl Iterator<Item = u64>, count: usize) -> Vec<Symbol> {
        let mut sketch = Sketch::new(0, count);
        dots.for_each(|counter| sketch.change(hash(Dot { replica: ReplicaId(3), counter }, 9), 1));
        sketch.symbols()
    }

    #[test]
    fn a_sketch_can_be_made_in_pieces() {
        let whole = symbols(1..500, 64);
        let mut pieces = Vec::new();
        for from in [0, 16, 32, 48] {
            let mut piece = Sketch::new(from, 16);
            (1..500).for_each(|counter| piece.change(hash(Dot { replica: ReplicaId(3), counter }, 9), 1));
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
}
