//! The score of a node for a shard, and the ranking that follows from it.
//!
//! **Idea.** Each pair of node and shard has a hash, as random as any and known to all. Read it as u, uniform in
//! (0, 1]; the score is -log₂(u) / weight. A shard goes to the nodes with the least scores. Since a score knows of no
//! other node, a node that comes or goes moves only the shards that it takes or leaves. And since -ln(u) / w is an
//! exponential variable of rate w, the least of them is that of a given node with probability w / Σw: shares follow
//! weights. (The base of the logarithm scales all scores alike.)
//!
//! **Sources.** Thaler and Ravishankar, "Using name-based mappings to increase hit rates" (IEEE/ACM Transactions on
//! Networking 6(1), 1998), for rendezvous hashing; Schindelhauer and Schomaker, "Weighted distributed hash tables"
//! (SPAA 2005), section 3, for the logarithmic method.
//!
//! **Deviation.** They calculate with real numbers. All nodes of a cluster must get the same ranking, and `f64::ln`
//! differs between platforms, so here everything is integer arithmetic: the logarithm is interpolated in a table that
//! the compiler calculates. It is off by less than 2⁻¹¹ of its value, in the same way for all nodes, so equal weights
//! rank exactly as their hashes do (but for ties) and unequal ones get their share to within 0.05 %.
//!
//! **Golden.** The functions below are part of the protocol: nodes that calculate other scores place data elsewhere.
//! `tests/golden.rs` pins them.

use polity_cluster::NodeName;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{ShardId, Weight};

/// The seed of the hash of names: the bytes "polity/n", read as a little-endian number.
const NAME_SEED: u64 = u64::from_le_bytes(*b"polity/n");

/// Bits after the binary point of a logarithm. The greatest one is 64, which 64 bits then just hold.
const FRACTION_BITS: u32 = 57;

/// The table has an interval for each value of this many bits after a number's leading one: 8 KiB, a quarter of the
/// first-level cache, for a relative error of 2⁻¹¹.
const TABLE_BITS: u32 = 10;

/// The bits that are left to interpolate with.
const REST_BITS: u32 = u64::BITS - 1 - TABLE_BITS;

const _: () = assert!(64 << FRACTION_BITS == 1_u128 << 63, "the greatest cost fits");

/// 1 - log₂(1 + i / 2¹⁰) for i from 0 to 2¹⁰.
static COMPLEMENT_OF_LOG2: [u64; (1 << TABLE_BITS) + 1] = complement_of_log2();

const fn complement_of_log2() -> [u64; (1 << TABLE_BITS) + 1] {
    let mut table = [0; (1 << TABLE_BITS) + 1];
    let mut i = 0;
    while i < 1 << TABLE_BITS {
        // Squaring a number doubles its logarithm: each time the square reaches 2 there is one more bit to write down.
        let mut x = ((1 << TABLE_BITS) + i as u64) << REST_BITS;
        let (mut log, mut bit) = (0, 0);
        while bit < FRACTION_BITS {
            let square = x as u128 * x as u128;
            let reaches_two = square >> 127 == 1;
            x = (square >> (63 + reaches_two as u32)) as u64;
            log = log << 1 | reaches_two as u64;
            bit += 1;
        }
        table[i] = (1 << FRACTION_BITS) - log;
        i += 1;
    }
    table
}

/// -log₂(hash / 2⁶⁴), with [`FRACTION_BITS`] after the point. A hash of 0 counts as 1. Never grows with the hash.
#[inline]
fn cost(hash: u64) -> u64 {
    let hash = hash.max(1);
    let zeros = hash.leading_zeros();
    let mantissa = hash << zeros << 1;
    let index = (mantissa >> (REST_BITS + 1)) as usize;
    let rest = mantissa << TABLE_BITS;
    let (here, next) = (COMPLEMENT_OF_LOG2[index], COMPLEMENT_OF_LOG2[index + 1]);
    let step = (u128::from(here - next) * u128::from(rest)) >> u64::BITS;
    (u64::from(zeros) << FRACTION_BITS) + here - step as u64
}

/// What a score needs of a node: the hash of its name, and 2⁶⁴ / weight, because multiplying is faster than dividing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scorer {
    name_hash: u64,
    per_weight: u64,
}

impl Scorer {
    pub(crate) fn new(name: &NodeName, weight: Weight) -> Self {
        Self {
            name_hash: xxh3_64_with_seed(name.as_str().as_bytes(), NAME_SEED),
            per_weight: u64::MAX / u64::from(weight.get()),
        }
    }

    /// The same node with other scores: a deliberate fault.
    pub(crate) const fn salted(self, salt: usize) -> Self {
        Self { name_hash: self.name_hash ^ salt as u64, ..self }
    }

    /// The score of the node for a shard: the less, the better.
    #[inline]
    pub(crate) fn score(self, shard: ShardId) -> u64 {
        let hash = xxh3_64_with_seed(&shard.0.to_le_bytes(), self.name_hash);
        ((u128::from(cost(hash)) * u128::from(self.per_weight)) >> u64::BITS) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE: u64 = 1 << FRACTION_BITS;

    #[test]
    fn powers_of_two_cost_their_exponent() {
        for zeros in 0..64 {
            assert_eq!(cost(1 << (63 - zeros)), (zeros + 1) * ONE);
        }
        assert_eq!(cost(0), cost(1));
        assert!(cost(u64::MAX) < 1 << 8, "the best hash costs next to nothing");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn costs_are_logarithms(hash in 1..u64::MAX) {
            let exact = 64.0 - (hash as f64).log2();
            let ours = cost(hash) as f64 / ONE as f64;
            prop_assert!((ours - exact).abs() <= exact / 2048.0 + 1e-12, "{ours} for {exact}");
        }

        #[test]
        fn costs_never_grow_with_the_hash(hash in 0..u64::MAX, step in prop_oneof![1..4u64, any::<u64>()]) {
            prop_assert!(cost(hash) >= cost(hash.saturating_add(step)));
        }

        #[test]
        fn twice_the_weight_is_half_the_score(name in "[a-z]{1,8}", shard in 0..65_536u32, weight in 1..=500u16) {
            let name = NodeName::new(&name).expect("valid");
            let [one, two] = [weight, 2 * weight].map(|weight| {
                Scorer::new(&name, Weight::new(weight).expect("in range")).score(ShardId(shard))
            });
            prop_assert!(one.abs_diff(2 * two) <= 128);
        }
    }
}
