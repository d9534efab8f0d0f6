//! The certificates of a node: QUIC is mutual TLS 1.3 under a certificate authority that the cluster's secret makes.
//!
//! Every node that has the secret derives the same Ed25519 authority, byte for byte, and mints a leaf of its own with
//! it. A peer without the secret cannot mint a leaf that verifies, so it cannot connect, in either direction. Nothing
//! here reads a clock: the certificates are valid from 1975 to 4096, and verification happens at one fixed instant.
//! There are no session tickets and no early data, so nothing that was sent to one connection is valid in another.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::RootCertStore;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use zeroize::Zeroizing;

use crate::identity::NodeName;

/// The name that every leaf carries and every client asks for: a node is found by its address, never by DNS.
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
        Self::with_provider(rustls::crypto::ring::default_provider(), seed, name, leaf_key_seed)
    }

    /// The same with algorithms and randomness of the caller's.
    pub(crate) fn with_provider(
        provider: CryptoProvider,
        seed: &[u8; 32],
        name: &NodeName,
        leaf_key_seed: &[u8; 32],
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(provider);
        let authority_params = authority_params();
        let authority_key = key_pair(seed)?;
        let authority = authority_of(&authority_key)?;
        let leaf_key = key_pair(leaf_key_seed)?;
        let issuer = Issuer::from_params(&authority_params, &authority_key);
        let leaf = leaf_params(name)?.signed_by(&leaf_key, &issuer)?.der().clone();

        let mut roots = RootCertStore::empty();
        roots.add(authority)?;
        let roots = Arc::new(roots);
        let key = || PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialized_der().to_vec()));
        Ok(Self {
            client: Arc::new(client_config(&provider, &roots, leaf.clone(), key())?),
            server: Arc::new(server_config(&provider, &roots, leaf, key())?),
        })
    }
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    leaf: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<rustls::ClientConfig, TlsError> {
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider)).build()?;
    let mut config = rustls::ClientConfig::builder_with_details(Arc::clone(provider), Arc::new(FixedTime))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(vec![leaf], key)?;
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    leaf: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<rustls::ServerConfig, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider)).build()?;
    let mut config = rustls::ServerConfig::builder_with_details(Arc::clone(provider), Arc::new(FixedTime))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![leaf], key)?;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// The certificate of the authority: the same bytes on every node of one secret.
fn authority_of(key: &KeyPair) -> Result<CertificateDer<'static>, rcgen::Error> {
    Ok(authority_params().self_signed(key)?.der().clone())
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "polity authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// A leaf for a node. Its name stands in a URI, in hexadecimal, because a name may hold any letter and a DNS name not.
fn leaf_params(name: &NodeName) -> Result<CertificateParams, TlsError> {
    let mut params = CertificateParams::new([SERVER_NAME.to_owned()])?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "polity node");
    let hex = name.as_str().bytes().fold(String::from("polity:"), |mut hex, byte| {
        hex.extend([byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).expect("less than 16")));
        hex
    });
    params.subject_alt_names.push(SanType::URI(hex.try_into()?));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

fn key_pair(seed: &[u8; 32]) -> Result<KeyPair, rcgen::Error> {
    let mut der = Zeroizing::new(Vec::with_capacity(ED25519_PKCS8.len() + seed.len()));
    der.extend_from_slice(&ED25519_PKCS8);
    der.extend_from_slice(seed);
    KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(der.as_slice()), &rcgen::PKCS_ED25519)
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
            authority_of(&key).expect("a certificate")
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
