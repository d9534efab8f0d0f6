//! The replicated types: each is a dot store with mutators and reads.
//!
//! | type | concurrent writes | store |
//! |---|---|---|
//! | [`EwFlag`], [`DwFlag`] | enable wins; disable wins | dots |
//! | [`LwwRegister`] | the later by hybrid logical clock; the greater dot if those are equal | values |
//! | [`MvRegister`] | both stay, until a write has seen them | values |
//! | [`GCounter`], [`PnCounter`] | all count | a total for each replica |
//! | [`BoundedCounter`] | all count, and the bound holds | rights for each replica |
//! | [`GSet`] | all stay | dots under elements |
//! | [`AwSet`], [`RwSet`] | add wins; remove wins | dots under elements |
//! | [`OrMap`] | an update wins over a remove that has not seen it; values join | stores under keys |
//! | [`OwnerMap`] | there are none: each entry has one writer, and goes with it | values under keys |
//!
//! # How a mutator works
//! It looks at the state, changes nothing, and returns a delta, or `None` if there is nothing to change. The replica joins
//! the delta like any other. So what a write does here is what it does everywhere.
//!
//! Source: Almeida, Shoker and Baquero, "Delta state replicated data types" (JPDC 2018); Shapiro, Preguiça, Baquero and
//! Zawirski, "A comprehensive study of convergent and commutative replicated data types" (INRIA 7506, 2011). Where a type
//! has a source of its own, it says so.

mod counters;
mod flags;
mod maps;
mod registers;
mod sets;

pub use self::counters::{BoundedCounter, GCounter, Nestable, PnCounter, Rights, Total};
pub use self::flags::{DwFlag, EwFlag};
pub use self::maps::{OrMap, OwnerMap};
pub use self::registers::{LwwRegister, MvRegister};
pub use self::sets::{AwSet, GSet, RwSet};

/// Makes a type that wraps a store a [`Crdt`](crate::Crdt): everything is the store's.
macro_rules! is_store {
    ([$($generics:tt)*] $type:ty = $store:ty $(; $($marks:item)*)?) => {
        impl<$($generics)*> $crate::store::sealed::Sealed for $type {}

        impl<$($generics)*> $crate::store::Crdt for $type {
            type Key = <$store as $crate::store::Crdt>::Key;
            type Delta = <$store as $crate::store::Crdt>::Delta;
            $($($marks)*)?

            fn is_bottom(&self) -> bool {
                self.0.is_bottom()
            }

            fn apply(
                &mut self,
                delta: Self::Delta,
                seen: &$crate::VersionVector,
                observe: $crate::store::Observer<'_, Self::Key>,
            ) {
                self.0.apply(delta, seen, observe);
            }

            fn strike(&mut self, dots: &$crate::VersionVector, observe: $crate::store::Observer<'_, Self::Key>) {
                self.0.strike(dots, observe);
            }

            fn visit(
                &self,
                from: ::std::ops::Bound<&Self::Key>,
                visit: $crate::store::Visitor<'_, Self::Key>,
            ) {
                self.0.visit(from, visit);
            }

            fn pick(&self, wanted: ::std::vec::Vec<(Self::Key, $crate::VersionVector)>) -> Self::Delta {
                self.0.pick(wanted)
            }

            fn restrict(&self, dots: &$crate::VersionVector) -> Self::Delta {
                self.0.restrict(dots)
            }

            fn everything(&self) -> Self::Delta {
                self.0.everything()
            }
        }
    };
}
pub(crate) use is_store;
