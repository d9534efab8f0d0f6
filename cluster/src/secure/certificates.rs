//! Certificates of the operator's, instead of those that follow from the secret.

use std::fmt;
use std::sync::Arc;

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, RootCertStore};
use zeroize::Zeroizing;

use super::names::carries;
use super::tls::{TlsError, TlsIdentity};
use super::verify::Leaf;
use crate::ground::Env;
use crate::identity::NodeName;

/// The certificates of one node: whom it trusts, and what it shows. Give them to
/// [`Builder::certificates`](crate::Builder::certificates).
///
/// A node's certificate must carry its name, as the URI `polity:` and the name's bytes in lower-case hexadecimal, or as a
/// DNS name that is the same letter by letter, among its subject alternative names; and it must be good for servers and for
/// clients, if it says for what it is good. Others refuse a node that calls itself otherwise. The private key is never
/// printed, and what is held here is wiped from memory when dropped; TLS keeps a copy of its own.
#[derive(Clone)]
pub struct Certificates {
    roots: Vec<CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    key: Zeroizing<Vec<u8>>,
}

/// Why a node cannot be started with its certificates. Nothing is left running.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificatesError {
    /// Something is not what it should be.
    #[error("{what} cannot be used: {cause}")]
    Unusable {
        /// What.
        what: &'static str,
        /// What is wrong with it.
        cause: String,
    },
    /// The private key is another certificate's.
    #[error("the private key does not belong to the first certificate of the chain")]
    OtherKey,
    /// The certificate does not carry the node's name.
    #[error(
        "the certificate does not carry the name of the node, {name}: give it one with the URI `polity:` and the name in \
         hexadecimal, or with the name as a DNS name"
    )]
    NotNamed {
        /// The node's name.
        name: NodeName,
    },
    /// A certificate of the chain is expired, or the clock is fast.
    #[error("the certificate is expired, or this machine's clock is fast: {0}")]
    Expired(String),
    /// A certificate of the chain is not valid yet, or the clock is slow.
    #[error("the certificate is not valid yet, or this machine's clock is slow: {0}")]
    NotValidYet(String),
    /// The node's own chain does not lead to the roots that it trusts: others that trust the same would refuse it.
    #[error("the certificate does not verify under the node's own roots: {0}")]
    Untrusted(String),
}

impl Certificates {
    /// The authorities that are trusted, the node's certificate followed by those between it and an authority, and the
    /// certificate's private key (PKCS #8, PKCS #1 or SEC 1): all in DER. They are checked when the node starts.
    pub fn new<R, C>(roots: R, chain: C, key: impl Into<Vec<u8>>) -> Self
    where
        R: IntoIterator<Item: Into<Vec<u8>>>,
        C: IntoIterator<Item: Into<Vec<u8>>>,
    {
        Self {
            roots: roots.into_iter().map(|der| CertificateDer::from(der.into())).collect(),
            chain: chain.into_iter().map(|der| CertificateDer::from(der.into())).collect(),
            key: Zeroizing::new(key.into()),
        }
    }

    /// The TLS configurations of the node `name`, whose clock judges what is valid.
    ///
    /// # Errors
    /// [`CertificatesError`].
    pub(crate) fn identity(&self, env: &Env, name: &NodeName) -> Result<TlsIdentity, CertificatesError> {
        let unusable = |what, cause: &dyn fmt::Display| CertificatesError::Unusable { what, cause: cause.to_string() };
        let provider = env.ground().crypto();
        let mut roots = RootCertStore::empty();
        for root in &self.roots {
            roots.add(root.clone()).map_err(|error| unusable("a root certificate", &error))?;
        }
        let Some(leaf) = self.chain.first() else { return Err(unusable("the chain", &"it is empty")) };
        if !carries(leaf, name) {
            return Err(CertificatesError::NotNamed { name: name.clone() });
        }
        let key = PrivateKeyDer::try_from(self.key.as_slice()).map_err(|cause| unusable("the private key", &cause))?;
        let certified =
            CertifiedKey::from_der(self.chain.clone(), key.clone_key(), &provider).map_err(|e| match e {
                rustls::Error::InconsistentKeys(_) => CertificatesError::OtherKey,
                other => unusable("the private key", &other),
            })?;
        let time = Arc::new(Clock(env.clone()));
        let now = time.current_time().ok_or_else(|| unusable("the clock", &"it stands before 1970"))?;
        self.verify(&roots, &provider, now).map_err(judge)?;
        let leaf = Leaf { authority: None, certified: Arc::new(certified) };
        TlsIdentity::new(provider, roots, vec![leaf], time).map_err(|error| unusable("the certificate", &error))
    }

    /// Judges the node's own chain as its peers will, in both directions.
    fn verify(&self, roots: &RootCertStore, provider: &CryptoProvider, now: UnixTime) -> Result<(), TlsError> {
        let (leaf, between) = self.chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        let algorithms = provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(leaf)?,
            roots,
            between,
            now,
            algorithms,
        )?;
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), Arc::new(provider.clone()))
            .build()?
            .verify_client_cert(leaf, between, now)?;
        Ok(())
    }
}

fn judge(error: TlsError) -> CertificatesError {
    let TlsError::Tls(rustls::Error::InvalidCertificate(cause)) = &error else {
        return CertificatesError::Unusable { what: "the certificate", cause: error.to_string() };
    };
    match cause {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            CertificatesError::Expired(cause.to_string())
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            CertificatesError::NotValidYet(cause.to_string())
        }
        _ => CertificatesError::Untrusted(error.to_string()),
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (roots, chain) = (self.roots.len(), self.chain.len());
        f.debug_struct("Certificates").field("roots", &roots).field("chain", &chain).finish_non_exhaustive()
    }
}

/// The wall clock of the ground.
#[derive(Debug)]
struct Clock(Env);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let since = self.0.ground().wall_clock().duration_since(std::time::SystemTime::UNIX_EPOCH).ok()?;
        Some(UnixTime::since_unix_epoch(since))
    }
}
