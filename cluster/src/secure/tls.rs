//! The certificates of a node: QUIC is mutual TLS 1.3 under certificate authorities that the cluster's secrets make, or
//! under authorities of the operator's.
//!
//! Every node that has a secret derives the same Ed25519 authority, byte for byte, and mints a leaf of its own with
//! it. A peer without the secret cannot mint a leaf that verifies, so it cannot connect, in either direction. Nothing
//! here reads a clock: the certificates are valid from 1975 to 4096, and verification happens at one fixed instant.
//! There are no session tickets and no early data, so nothing that was sent to one connection is valid in another.
//!
//! A node trusts the authorities of all keys of its ring, and tells a peer so; it shows a leaf of the primary's, or, to a
//! peer that does not trust that one, a leaf of another that both hold. So two nodes can connect if their rings have one
//! key in common, whatever is primary where.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::RootCertStore;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use zeroize::Zeroizing;

use super::names::uri_of;
use super::ring::Ring;
use super::verify::{Leaf, Leaves, Verifier};
use crate::identity::NodeName;

/// The name that every client asks for: a node is found by its address, never by DNS, and proves its name in the hello.
pub(crate) const SERVER_NAME: &str = "polity";

/// The application protocol of the connections, version included.
pub(crate) const ALPN: &[u8] = b"polity/1";

/// The instant at which certificates are verified: 2020-01-01, inside of what they are valid for.
const VERIFIED_AT: Duration = Duration::from_secs(1_577_836_800);

/// What stands before the 32 bytes of an Ed25519 key in PKCS #8 version 1 (RFC 8410, section 7).
const ED25519_PKCS8: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// The TLS configurations of a node, for both directions.
#[derive(Debug, Clone)]
pub(crate) struct TlsIdentity {
    pub(crate) client: Arc<rustls::ClientConfig>,
    pub(crate) server: Arc<rustls::ServerConfig>,
}

/// Why a node's certificates could not be made. None of it depends on what a peer sends.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum TlsError {
    /// A certificate could not be minted.
    #[error("a certificate could not be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The TLS library refused the configuration.
    #[error("the TLS configuration was refused: {0}")]
    Tls(#[from] rustls::Error),
    /// The TLS library refused the verifier.
    #[error("the verifier of certificates was refused: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

impl TlsIdentity {
    /// The authority of `seed`, and a leaf of it for the node `name` whose key is `leaf_key_seed`.
    ///
    /// # Errors
    /// [`TlsError`] if the libraries refuse their input, which no seed and no name makes them do.
    pub(crate) fn from_ca_seed(seed: &[u8; 32], name: &NodeName, leaf_key_seed: &[u8; 32]) -> Result<Self, TlsError> {
        let provider = rustls::crypto::ring::default_provider();
        let authority = ("alone".to_owned(), Zeroizing::new(*seed));
        Self::of_authorities(provider, [authority], name, leaf_key_seed)
    }

    /// The authorities of all keys of a ring, and a leaf of each for the node `name`, with algorithms and randomness of
    /// the caller's.
    ///
    /// # Errors
    /// As above.
    pub(crate) fn of_ring(
        provider: CryptoProvider,
        ring: &Ring,
        name: &NodeName,
        leaf_key_seed: &[u8; 32],
    ) -> Result<Self, TlsError> {
        let (primary, _) = ring.primary();
        let mut keys: Vec<_> = ring.secrets().collect();
        keys.sort_by_key(|(id, _)| *id != primary);
        let authorities = keys.into_iter().map(|(id, secret)| (id.to_string(), secret.ca_seed()));
        Self::of_authorities(provider, authorities, name, leaf_key_seed)
    }

    /// The first authority is the one that is shown unless the peer does not trust it.
    fn of_authorities(
        provider: CryptoProvider,
        authorities: impl IntoIterator<Item = (String, Zeroizing<[u8; 32]>)>,
        name: &NodeName,
        leaf_key_seed: &[u8; 32],
    ) -> Result<Self, TlsError> {
        let leaf_key = key_pair(leaf_key_seed)?;
        let (mut roots, mut leaves) = (RootCertStore::empty(), Vec::new());
        for (label, seed) in authorities {
            let authority_key = key_pair(&seed)?;
            roots.add(authority_of(&label, &authority_key)?)?;
            let params = authority_params(&label);
            let issuer = Issuer::from_params(&params, &*authority_key);
            let leaf = leaf_params(name)?.signed_by(&*leaf_key, &issuer)?.der().clone();
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialized_der().to_vec()));
            let certified = Arc::new(CertifiedKey::from_der(vec![leaf], key, &provider)?);
            leaves.push(Leaf { authority: roots.subjects().pop(), certified });
        }
        Self::new(provider, roots, leaves, Arc::new(FixedTime))
    }

    /// The configurations that trust these roots at this time, and show one of these leaves.
    pub(super) fn new(
        provider: CryptoProvider,
        roots: RootCertStore,
        leaves: Vec<Leaf>,
        time: Arc<dyn TimeProvider>,
    ) -> Result<Self, TlsError> {
        let (provider, roots, leaves) = (Arc::new(provider), Arc::new(roots), Arc::new(Leaves(leaves)));
        let verifier = Verifier::new(roots.clone(), &provider);
        let mut client = rustls::ClientConfig::builder_with_details(provider.clone(), time.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(leaves.clone());
        client.resumption = Resumption::disabled();
        client.enable_early_data = false;
        client.alpn_protocols = vec![ALPN.to_vec()];

        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build()?;
        let mut server = rustls::ServerConfig::builder_with_details(provider, time)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(leaves);
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.max_early_data_size = 0;
        server.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }
}

/// The certificate of the authority: the same bytes on every node of one secret.
fn authority_of(label: &str, key: &KeyPair) -> Result<CertificateDer<'static>, rcgen::Error> {
    Ok(authority_params(label).self_signed(key)?.der().clone())
}

/// The name of an authority says of which key it is, so that peers can tell which they trust.
fn authority_params(label: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("polity authority {label}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// A leaf for a node. Its name stands in a URI, in hexadecimal, because a name may hold any letter and a DNS name not.
fn leaf_params(name: &NodeName) -> Result<CertificateParams, TlsError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "polity node");
    params.subject_alt_names.push(SanType::URI(uri_of(name).try_into()?));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

fn key_pair(seed: &[u8; 32]) -> Result<Zeroizing<KeyPair>, rcgen::Error> {
    let mut der = Zeroizing::new(Vec::with_capacity(ED25519_PKCS8.len() + seed.len()));
    der.extend_from_slice(&ED25519_PKCS8);
    der.extend_from_slice(seed);
    let pair = KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(der.as_slice()), &rcgen::PKCS_ED25519)?;
    Ok(Zeroizing::new(pair))
}

#[derive(Debug)]
struct FixedTime;

impl TimeProvider for FixedTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(VERIFIED_AT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_secret_makes_one_authority() {
        let authority = |seed: u8| {
            let key = key_pair(&[seed; 32]).expect("any seed is a key");
            authority_of("x", &key).expect("a certificate")
        };
        assert_eq!(authority(1), authority(1));
        assert_ne!(authority(1), authority(2));
    }

    #[test]
    fn any_name_gets_a_leaf() {
        for name in ["ü".repeat(32), "a b/c:d".to_owned()] {
            let name = NodeName::new(&name).expect("a valid name");
            assert!(TlsIdentity::from_ca_seed(&[1; 32], &name, &[9; 32]).is_ok(), "{name}");
        }
    }
}
