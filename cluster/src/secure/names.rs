//! The node names that a certificate carries.
//!
//! A certificate carries a name if one of its subject alternative names is the URI `polity:` and the name in hexadecimal,
//! or the DNS name that is the node's name, letter by letter. A wildcard stands for no node.

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

use crate::identity::NodeName;

/// The URI that stands for a name: in hexadecimal, because a name may hold any letter and a DNS name not.
pub(super) fn uri_of(name: &NodeName) -> String {
    name.as_str().bytes().fold(String::from("polity:"), |mut uri, byte| {
        uri.extend([byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).expect("less than 16")));
        uri
    })
}

/// Whether a certificate, which has been verified, carries this name.
pub(crate) fn carries(certificate: &CertificateDer<'_>, name: &NodeName) -> bool {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else { return false };
    let uri = uri_of(name);
    let is_wildcard = name.as_str().starts_with('*');
    certificate.valid_uri_names().any(|found| found == uri)
        || (!is_wildcard && certificate.valid_dns_names().any(|found| found == name.as_str()))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn certificate(names: &[SanType]) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        params.self_signed(&key).expect("a certificate").der().clone()
    }

    fn dns(name: &str) -> SanType {
        SanType::DnsName(name.try_into().expect("a DNS name"))
    }

    #[test]
    fn a_name_is_carried_as_a_uri_or_letter_by_letter() {
        let name = |text| NodeName::new(text).expect("valid");
        let uri = SanType::URI(uri_of(&name("ä b")).try_into().expect("a URI"));
        let both = certificate(&[dns("n1.shop"), uri]);
        assert!(carries(&both, &name("n1.shop")) && carries(&both, &name("ä b")));
        for other in ["n1", "N1.shop", "n1.shop.", "polity:c3a42062"] {
            assert!(!carries(&both, &name(other)), "{other}");
        }
        let wild = certificate(&[dns("*.shop")]);
        assert!(!carries(&wild, &name("n1.shop")) && !carries(&wild, &name("*.shop")));
        assert!(!carries(&certificate(&[]), &name("n1")));
        assert!(!carries(&CertificateDer::from(vec![1, 2, 3]), &name("n1")));
    }
}
