//! The claims as one replicated document.
//!
//! **Which type.** A map from shards to registers that keep concurrent values ([`OrMap`] over [`MvRegister`]), and of these
//! the greatest epoch counts. It becomes a *max-register* by one rule: a claim is written only above all that its writer
//! sees ([`write_claim`] keeps it). A write replaces what its writer has seen, which is less; so what is replaced is always
//! below something that is live, and the greatest claim ever made is live for ever. The last-writer-wins register would
//! choose by clock. A type of our own is not needed, and could not be one: types are dot stores, whose parts are
//! told apart by the dots of their writes, and that is what makes a sync cost what differs.
//!
//! **What concurrency shows.** Claims that were made without knowing of each other stand side by side until the next one.
//! The state machine does not need that: an owner that sees a greater epoch without having let go is a conflict,
//! also where the other knew its claim and took it for dead.
//!
//! **Size.** One live dot for each shard and no more actors than have claims; the claims of departed actors stay, because
//! nothing of an `OrMap` goes with its writer.
//!
//! **A replica that begins anew** (it was forgotten by an operator) is empty at first. [`Claims`] is not: it only joins.

use polity_crdt::{Change, Crdt, MvRegister, OrMap, Writer};

use super::table::{Claim, Claims};
use crate::{Epoch, ShardCount, ShardId};

/// The type of the document of claims.
pub type ClaimBook = OrMap<ShardId, MvRegister<Epoch>>;

/// The claims of a book, of `shards`; what else it may hold is none. The table of an empty book is empty.
#[must_use]
pub fn claims_of(book: &ClaimBook, shards: ShardCount) -> Claims {
    let known = book.range(..ShardId(shards.get()));
    known
        .flat_map(|(shard, epochs)| epochs.values().map(|epoch| Claim { shard: *shard, epoch: epoch.clone() }))
        .collect()
}

/// Writes a claim. Changes nothing if it is not above all others of its shard here: then somebody was faster, and the book
/// says who.
///
/// # Errors
/// [`polity_crdt::Error::Exhausted`].
pub fn write_claim(book: &ClaimBook, w: &mut Writer<'_>, claim: Claim) -> Change<ClaimBook> {
    let Claim { shard, epoch } = claim;
    if book.get(&shard).is_some_and(|epochs| epochs.values().any(|known| *known >= epoch)) {
        return Ok(None);
    }
    book.update(w, shard, |epochs, w| epochs.set(w, epoch))
}

// The book is what a document can be made of.
const _: fn() = || {
    fn is_crdt<T: Crdt>() {}
    is_crdt::<ClaimBook>();
};

#[cfg(test)]
mod tests {
    use polity_crdt::{Replica, ReplicaId};
    use proptest::prelude::*;

    use super::super::table::tests::claims;
    use super::*;
    use crate::epoch::tests::epoch;

    fn four() -> ShardCount {
        ShardCount::new(4).expect("valid")
    }

    fn table(replica: &Replica<ClaimBook>) -> Claims {
        claims_of(replica, four())
    }

    #[test]
    fn a_claim_that_is_not_above_all_is_not_written() {
        let mut replica = Replica::<ClaimBook>::new(ReplicaId(1));
        let mut write = |text| {
            let claim = Claim { shard: ShardId(1), epoch: epoch(text) };
            replica.update(|book, w| write_claim(book, w, claim)).expect("room").is_some()
        };
        assert!(write("2b1"));
        assert!(!write("2b1") && !write("2a1") && !write("1c1"));
        assert!(write("2c1"));
        assert_eq!(table(&replica).epoch(ShardId(1)), Some(&epoch("2c1")));
    }

    #[test]
    fn shards_that_do_not_exist_are_left_out() {
        let mut replica = Replica::<ClaimBook>::new(ReplicaId(1));
        let claim = Claim { shard: ShardId(4), epoch: epoch("1a1") };
        replica.update(|book, w| write_claim(book, w, claim)).expect("room");
        assert!(table(&replica).is_empty());
    }

    proptest! {
        /// What becomes of writes and merges in any order is what the table says; nothing greater was ever replaced.
        #[test]
        fn a_book_is_a_table(steps in prop::collection::vec((0..3usize, prop::option::of(0..3usize)), 0..24), written in claims()) {
            let mut replicas = [1, 2, 3].map(|id| Replica::<ClaimBook>::new(ReplicaId(id)));
            let mut tables = [0; 3].map(|_| Claims::new());
            let mut written = written.into_iter();
            for (at, from) in steps {
                if let Some(from) = from {
                    let full = replicas[from].full();
                    replicas[at].merge(full);
                    let other = tables[from].clone();
                    tables[at].join(&other);
                } else if let Some(claim) = written.next() {
                    tables[at].learn(claim.clone());
                    replicas[at].update(|book, w| write_claim(book, w, claim)).expect("room");
                }
                prop_assert_eq!(&table(&replicas[at]), &tables[at]);
            }
            // One live dot a shard once somebody has written over what was concurrent.
            let all: Vec<_> = replicas.iter().map(Replica::full).collect();
            for full in all {
                replicas[0].merge(full);
            }
            let above = Claim { shard: ShardId(0), epoch: epoch("9a1") };
            replicas[0].update(|book, w| write_claim(book, w, above)).expect("room");
            prop_assert_eq!(replicas[0].get(&ShardId(0)).map(|epochs| epochs.values().len()), Some(1));
        }
    }
}
