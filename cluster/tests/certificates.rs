//! Certificates of the operator's: that they work, and that each way in which they do not is said.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use polity_cluster::rpc::Refusal;
use polity_cluster::{BoxFuture, Builder, Certificates, CertificatesError, Env, Error, Ground, Node, NodeName, Preset};
use polity_cluster::{KeyringError, Secret};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType, date_time_ymd};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key")
}

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, key()).expect("an authority")
}

/// A certificate for these names, under which a node is to run.
fn certificates(under: &Authority, trusts: &Authority, change: impl FnOnce(&mut CertificateParams)) -> Certificates {
    let (mut params, key) = (CertificateParams::default(), key());
    change(&mut params);
    let leaf = params.signed_by(&key, under).expect("a certificate");
    Certificates::new([trusts.der().to_vec()], [leaf.der().to_vec()], key.serialize_der())
}

fn dns(name: &str) -> impl FnOnce(&mut CertificateParams) + use<> {
    let san = SanType::DnsName(name.try_into().expect("a DNS name"));
    |params| params.subject_alt_names.push(san)
}

fn uri(name: &str) -> impl FnOnce(&mut CertificateParams) + use<> {
    let hex: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    let san = SanType::URI(format!("polity:{hex}").try_into().expect("a URI"));
    |params| params.subject_alt_names.push(san)
}

fn builder(name: &str, certificates: Certificates) -> Builder {
    let builder = Node::builder(name).cluster("certified").preset(Preset::Local).no_discovery().secret([7; 32]);
    builder.listen("127.0.0.1:0").certificates(certificates)
}

async fn refused(builder: Builder) -> CertificatesError {
    match builder.start().await {
        Err(Error::Certificates(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn nodes_with_certificates_of_one_authority_form_a_cluster_and_rotate_their_secret() {
    let ca = authority("ca");
    let a = builder("a", certificates(&ca, &ca, dns("a"))).start().await.expect("starts");
    let b = builder("Grüße", certificates(&ca, &ca, uri("Grüße"))).seeds([a.addr()]).start().await.expect("starts");
    assert_eq!(b.members().snapshot().up().count(), 2);
    let old = b.keyring().status().own().expect("its own").primary;
    let new = b.keyring().install(Secret::new([8; 32]).expect("long enough")).await.expect("installed");
    b.keyring().use_key(new).await.expect("both hold it");
    b.keyring().remove(old).await.expect("nobody needs it");
    // The certificate is good, and the secret is another one.
    let behind = builder("c", certificates(&ca, &ca, dns("c"))).seeds([a.addr()]).start().await;
    let Err(Error::Refused { refusal, .. }) = behind else { panic!("{behind:?}") };
    assert_eq!(refusal, Refusal::NoCommonKey);
    assert!(refusal.to_string().contains("restart this node with the cluster's present secret"), "{refusal}");
    let c = builder("c", certificates(&ca, &ca, dns("c"))).secret([8; 32]).seeds([a.addr()]).start().await;
    assert_eq!(c.expect("starts").members().snapshot().up().count(), 3);
    assert_eq!(b.keyring().use_key(old).await, Err(KeyringError::Removed { key: old }));
}

#[tokio::test]
async fn what_cannot_work_is_said_before_anything_runs() {
    let (ca, other) = (authority("ca"), authority("other"));
    let name = NodeName::new("a").expect("valid");
    assert_eq!(refused(builder("a", certificates(&ca, &ca, dns("b")))).await, CertificatesError::NotNamed { name });
    assert!(matches!(
        refused(builder("a", certificates(&ca, &ca, dns("*.a")))).await,
        CertificatesError::NotNamed { .. }
    ));
    let expired = certificates(&ca, &ca, |params| {
        dns("a")(params);
        params.not_after = date_time_ymd(2020, 1, 1);
    });
    assert!(matches!(refused(builder("a", expired)).await, CertificatesError::Expired(_)));
    let early = certificates(&ca, &ca, |params| {
        dns("a")(params);
        params.not_before = date_time_ymd(3000, 1, 1);
    });
    assert!(matches!(refused(builder("a", early)).await, CertificatesError::NotValidYet(_)));
    let foreign = certificates(&other, &ca, dns("a"));
    assert!(matches!(refused(builder("a", foreign)).await, CertificatesError::Untrusted(_)));
    let servers_only = certificates(&ca, &ca, |params| {
        dns("a")(params);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    });
    assert!(matches!(refused(builder("a", servers_only)).await, CertificatesError::Untrusted(_)));
    let leaf = CertificateParams::new(["a".to_owned()]).expect("a name").signed_by(&key(), &ca).expect("a certificate");
    let other_key = Certificates::new([ca.der().to_vec()], [leaf.der().to_vec()], key().serialize_der());
    assert_eq!(refused(builder("a", other_key)).await, CertificatesError::OtherKey);
    for (roots, chain, key) in [
        (vec![vec![1, 2, 3]], vec![leaf.der().to_vec()], key().serialize_der()),
        (vec![ca.der().to_vec()], vec![], key().serialize_der()),
        (vec![ca.der().to_vec()], vec![leaf.der().to_vec()], vec![1, 2, 3]),
    ] {
        let error = refused(builder("a", Certificates::new(roots, chain, key))).await;
        assert!(matches!(error, CertificatesError::Unusable { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_not_trusted() {
    let (ca, other) = (authority("ca"), authority("other"));
    let a = builder("a", certificates(&ca, &ca, dns("a"))).start().await.expect("starts");
    let stranger = builder("b", certificates(&other, &other, dns("b"))).seeds([a.addr()]).start().await;
    assert!(matches!(stranger, Err(Error::Untrusted { .. })), "{stranger:?}");
    let generated = Node::builder("b").cluster("certified").preset(Preset::Local).no_discovery().secret([7; 32]);
    let generated = generated.listen("127.0.0.1:0").seeds([a.addr()]).start().await;
    assert!(matches!(generated, Err(Error::Untrusted { .. })), "{generated:?}");
}

/// Real ground with a clock that is wrong by some time.
#[derive(Debug)]
struct Shifted(Env, Duration);

impl Ground for Shifted {
    fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn quinn::AsyncUdpSocket>> {
        self.0.ground().bind(addr)
    }
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        self.0.ground().resolve(host)
    }
    fn wall_clock(&self) -> SystemTime {
        self.0.ground().wall_clock() + self.1
    }
    fn seed(&self) -> [u8; 32] {
        self.0.ground().seed()
    }
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        self.0.ground().read(path)
    }
    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.0.ground().write(path, content)
    }
    fn own_thread(&self) -> bool {
        true
    }
}

const YEARS: Duration = Duration::from_secs(1_000 * 366 * 86_400);

#[tokio::test]
async fn a_clock_far_in_the_future_is_said_at_the_start_and_by_peers() {
    let ca = authority("ca");
    let until_3000 = |params: &mut CertificateParams| params.not_after = date_time_ymd(3000, 1, 1);
    let fast = || Env::new(Shifted(Env::real(), YEARS));
    let short = |name: &str| {
        certificates(&ca, &ca, |params| {
            dns(name)(params);
            until_3000(params);
        })
    };
    assert!(matches!(refused(builder("a", short("a")).env(fast())).await, CertificatesError::Expired(_)));
    // One whose own certificate is valid for longer judges others by its clock.
    let a = builder("a", certificates(&ca, &ca, dns("a"))).env(fast()).start().await.expect("starts");
    let judged = builder("b", short("b")).seeds([a.addr()]).start().await;
    assert!(matches!(judged, Err(Error::Outdated { .. })), "{judged:?}");
    let b = builder("b", short("b")).start().await.expect("starts");
    let judges = builder("c", certificates(&ca, &ca, dns("c"))).env(fast()).seeds([b.addr()]).start().await;
    let Err(error @ Error::Outdated { .. }) = judges else { panic!("{judges:?}") };
    assert!(error.to_string().contains("expired or not valid yet, by the clock of one of the two"), "{error}");
    // Certificates that follow from the secret know no time.
    let plain = |name: &str| Node::builder(name).cluster("x").preset(Preset::Local).no_discovery().secret([7; 32]);
    let a = plain("a").listen("127.0.0.1:0").env(fast()).start().await.expect("starts");
    plain("b").listen("127.0.0.1:0").seeds([a.addr()]).start().await.expect("starts");
}

#[test]
fn the_private_key_is_not_printed() {
    let printed = format!("{:?}", builder("a", Certificates::new([[1_u8; 9]], [[2_u8; 9]], [77_u8; 9])));
    assert!(printed.contains("Certificates") && !printed.contains("77, 77"), "{printed}");
}
