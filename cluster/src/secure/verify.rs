//! What TLS asks during a handshake: whether the peer's certificate is good, and which of ours to show.

use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, RootCertStore, SignatureScheme};

/// Judges the certificate of a node that was dialled: it must come from a trusted authority. Which node it is, is judged
/// with the hello, because the dialler knows an address and not always a name.
#[derive(Debug)]
pub(super) struct Verifier {
    roots: Arc<RootCertStore>,
    subjects: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(super) fn new(roots: Arc<RootCertStore>, provider: &CryptoProvider) -> Self {
        let (subjects, algorithms) = (roots.subjects(), provider.signature_verification_algorithms);
        Self { roots, subjects, algorithms }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // QUIC has no older TLS.
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        Some(&self.subjects)
    }
}

/// A certificate of this node's, with its key, and the name of the authority if a choice must be made by it.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) authority: Option<DistinguishedName>,
    pub(super) certified: Arc<CertifiedKey>,
}

/// The certificates of this node, the usual one first.
#[derive(Debug)]
pub(super) struct Leaves(pub(super) Vec<Leaf>);

impl Leaves {
    /// The first one whose authority the peer says it trusts. A peer that trusts none, or does not say, gets the usual one
    /// and judges for itself.
    fn choose(&self, trusted: impl Fn(&[u8]) -> bool) -> Option<Arc<CertifiedKey>> {
        let is_trusted = |leaf: &&Leaf| leaf.authority.as_ref().is_some_and(|authority| trusted(authority.as_ref()));
        self.0.iter().find(is_trusted).or(self.0.first()).map(|leaf| leaf.certified.clone())
    }
}

impl ResolvesClientCert for Leaves {
    fn resolve(&self, root_hint_subjects: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.choose(|authority| root_hint_subjects.contains(&authority))
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}

impl ResolvesServerCert for Leaves {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let trusted = hello.certificate_authorities().unwrap_or_default();
        self.choose(|authority| trusted.iter().any(|name| name.as_ref() == authority))
    }
}
