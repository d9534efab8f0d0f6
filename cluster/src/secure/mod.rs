//! What keeps strangers out: a ring of secrets, and all keys derived from them.

mod certificates;
pub(crate) mod cookie;
pub(crate) mod envelope;
#[cfg(test)]
mod hostile;
pub(crate) mod names;
mod replay;
pub(crate) mod ring;
mod secret;
#[cfg(feature = "turmoil")]
pub(crate) mod simulated;
pub(crate) mod tls;
mod verify;

pub use certificates::{Certificates, CertificatesError};
pub use ring::{KeyId, MAX_KEYS_OF_RING};
pub use secret::{MAX_SECRET_BYTES, MIN_SECRET_BYTES, Secret, SecretError};
