//! The locks of the state that the threads of a node share: those of `std`, or, in this crate's own tests with the feature
//! `shuttle`, a model checker's, which decides at each of them who runs next.

#[cfg(not(all(test, feature = "shuttle")))]
pub(crate) use std::sync::{Mutex, MutexGuard, RwLock, atomic::AtomicU64};

#[cfg(all(test, feature = "shuttle"))]
pub(crate) use shuttle::sync::{Mutex, MutexGuard, RwLock, atomic::AtomicU64};
