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
