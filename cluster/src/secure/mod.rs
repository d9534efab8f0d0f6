//! What keeps strangers out: one secret, and all keys derived from it.

pub(crate) mod cookie;
pub(crate) mod envelope;
#[cfg(test)]
mod hostile;
mod replay;
mod secret;
#[cfg(feature = "turmoil")]
pub(crate) mod simulated;
pub(crate) mod tls;

pub use secret::{MIN_SECRET_BYTES, Secret, SecretError};
