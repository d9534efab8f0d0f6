//! What can go wrong when a node starts or runs.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::discovery::DiscoveryError;
use crate::doorman::NOT_TRUSTED;
use crate::hello::Refusal;
use crate::identity::{Boot, NameError};
use crate::keyring::KeyringError;
use crate::secure::{CertificatesError, SecretError};
use crate::state::{StateError, WeightError};

/// Why a node did not start, or what it could not do.
///
/// A node that did not start has left nothing behind: its socket is closed and no peer counts it as a member.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // Reject: the configuration must change.
    /// The node's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The cluster's secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The node's certificates.
    #[error(transparent)]
    Certificates(#[from] CertificatesError),
    /// The ring of keys that the node was to start with.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The node's weight.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// An entry of node state.
    #[error(transparent)]
    State(#[from] StateError),
    /// A setting is missing or out of its range.
    #[error("{setting}: {problem}")]
    Config {
        /// Which.
        setting: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// The cluster would not have us. Nothing was changed there.
    #[error("the seed {seed} refused this node: {refusal}")]
    Refused {
        /// Who said so.
        seed: SocketAddr,
        /// Why.
        refusal: Refusal,
    },
    /// A certificate did not verify: the cluster has another secret, or other certificates, than this node. Start it with
    /// the present one.
    #[error("{NOT_TRUSTED} (the certificate of this node or of the seed {seed} did not verify: {cause})")]
    Untrusted {
        /// Where the seed listens.
        seed: SocketAddr,
        /// What TLS says.
        cause: String,
    },

    /// A certificate is expired or not valid yet, by the clock of the node that judged it.
    #[error(
        "the certificate of this node or of the seed {seed} is expired or not valid yet, by the clock of one of the two: {cause}"
    )]
    Outdated {
        /// Where the seed listens.
        seed: SocketAddr,
        /// What TLS says.
        cause: String,
    },

    // Retry: the machine's state must change.
    /// No discovery has found another node, and at least one has failed: whether there is a cluster already is unknown.
    /// Nothing is left running; start again when the name resolves or the file is there.
    #[error("nobody to join was found: {0}")]
    Discovery(#[from] DiscoveryError),
    /// The socket could not be opened.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// Why.
        source: Arc<std::io::Error>,
    },
    /// The ground failed: a thread, a file, a random source.
    #[error("{action}: {source}")]
    Ground {
        /// What was tried.
        action: String,
        /// Why it failed.
        source: Arc<std::io::Error>,
    },

    /// The cluster knew a newer boot of this node's name with every boot that was tried: another process starts under the
    /// same name again and again. Nothing is left running.
    #[error("the cluster has a newer boot of this node's name ({by}) each time: does another process use the name?")]
    Outpaced {
        /// The newer boot.
        by: Boot,
    },

    // Give up: this process is done.
    /// A newer boot of this node's name is running. This process has stopped taking part.
    #[error("a newer process has this node's name (boot {by}): this one has stopped")]
    NameTaken {
        /// The newer boot.
        by: Boot,
    },
    /// The node has left or was stopped.
    #[error("the node has stopped")]
    Stopped,
}

impl Error {
    /// Whether the same call may succeed later without a change of configuration.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Listen { .. } | Self::Ground { .. } | Self::Outpaced { .. } | Self::Discovery(_) => true,
            Self::Refused { refusal, .. } => refusal.is_retryable(),
            _ => false,
        }
    }

    pub(crate) fn config(setting: &'static str, problem: impl Into<String>) -> Self {
        Self::Config { setting, problem: problem.into() }
    }
}
