//! Who is believed, with certificates made here.

use super::*;
use http::{HeaderName, HeaderValue};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

/// The CA of a cluster's front proxy.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Ca {
    pub(crate) fn new() -> Ca {
        let key = KeyPair::generate().unwrap();
        let mut params = named("ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).unwrap();
        let issuer = Issuer::from_ca_cert_der(certificate.der(), key).unwrap();
        Ca { pem: certificate.pem(), issuer }
    }

    fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (CertificateDer<'static>, KeyPair) {
        let mut params = named(name);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().der().clone(), key)
    }

    /// A client's certificate and its key, in DER.
    pub(crate) fn client_with_key(&self, name: &str) -> (CertificateDer<'static>, Vec<u8>) {
        let (certificate, key) = self.issue(name, ExtendedKeyUsagePurpose::ClientAuth);
        (certificate, key.serialize_der())
    }

    fn client(&self, name: &str) -> CertificateDer<'static> {
        self.client_with_key(name).0
    }

    fn data(&self, names: &[&str]) -> BTreeMap<String, String> {
        [
            ("client-ca-file", "not ours".to_owned()),
            ("requestheader-client-ca-file", self.pem.clone()),
            ("requestheader-allowed-names", json!(names).to_string()),
            ("requestheader-username-headers", json!(["X-Remote-User"]).to_string()),
            ("requestheader-uid-headers", json!(["X-Remote-Uid"]).to_string()),
            ("requestheader-group-headers", json!(["X-Remote-Group"]).to_string()),
            ("requestheader-extra-headers-prefix", json!(["X-Remote-Extra-"]).to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }

    pub(crate) fn proxy(&self, names: &[&str]) -> FrontProxy {
        FrontProxy::parse(&self.data(names)).unwrap().unwrap()
    }
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &'static str)| {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    pairs.iter().map(pair).collect()
}

fn name(proxy: &FrontProxy, certificates: &[CertificateDer<'_>]) -> Option<String> {
    let headers = headers(&[("x-remote-user", "ann")]);
    proxy.user(certificates, &headers, UnixTime::now()).map(|user| user.name)
}

#[test]
fn the_front_proxy_s_certificate_is_believed_and_no_other() {
    let (ca, other) = (Ca::new(), Ca::new());
    let proxy = ca.proxy(&["front-proxy", "aggregator"]);
    assert_eq!(name(&proxy, &[ca.client("front-proxy")]).as_deref(), Some("ann"));
    assert_eq!(name(&proxy, &[ca.client("aggregator")]).as_deref(), Some("ann"));
    for bad in [
        vec![],
        vec![ca.client("admin")],
        vec![other.client("front-proxy")],
        // A server of the cluster that shows its own certificate.
        vec![ca.issue("front-proxy", ExtendedKeyUsagePurpose::ServerAuth).0],
        vec![CertificateDer::from(vec![1, 2, 3])],
        // What comes behind is no certificate of its own.
        vec![other.client("front-proxy"), ca.client("front-proxy")],
    ] {
        assert_eq!(name(&proxy, &bad), None, "{bad:?}");
    }
    let later = UnixTime::since_unix_epoch(Duration::from_secs(1 << 38));
    let user = headers(&[("x-remote-user", "ann")]);
    assert_eq!(proxy.user(&[ca.client("front-proxy")], &user, later), None);
    // Where no name is said, the CA issues to front proxies alone.
    assert!(name(&ca.proxy(&[]), &[ca.client("any")]).is_some());
}

#[test]
fn headers_name_the_user() {
    let ca = Ca::new();
    let proxy = ca.proxy(&["front-proxy"]);
    let certificates = [ca.client("front-proxy")];
    let user = |pairs| proxy.user(&certificates, &headers(pairs), UnixTime::now());
    let found = user(&[
        ("x-remote-user", "system:serviceaccount:a:b"),
        ("x-remote-uid", "u1"),
        ("x-remote-group", "system:serviceaccounts"),
        ("x-remote-group", "system:authenticated"),
        ("x-remote-extra-authentication.kubernetes.io%2fpod-name", "web-0"),
        ("x-remote-extra-scopes", "one"),
        ("x-remote-extra-scopes", "two"),
        ("x-other", "no"),
    ])
    .unwrap();
    assert_eq!((&*found.name, found.uid.as_deref()), ("system:serviceaccount:a:b", Some("u1")));
    assert_eq!(found.groups, ["system:serviceaccounts", "system:authenticated"]);
    assert_eq!(found.extra["authentication.kubernetes.io/pod-name"], ["web-0"]);
    assert_eq!((found.extra["scopes"].len(), found.extra.len()), (2, 2));
    assert_eq!(user(&[("x-remote-group", "system:masters")]), None);
    assert_eq!(user(&[("x-remote-user", "")]), None);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let data = Ca::new().data(&[]);
    let with = |key: &str, value: &str| {
        let mut data = data.clone();
        data.insert(format!("requestheader-{key}"), value.to_owned());
        FrontProxy::parse(&data)
    };
    assert!(with("client-ca-file", "").is_err());
    assert!(
        with("client-ca-file", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").is_err()
    );
    assert!(with("allowed-names", "front-proxy").is_err());
    assert!(with("extra-headers-prefix", "[\" \"]").is_err());
    let mut without = data.clone();
    without.remove("requestheader-client-ca-file");
    assert!(FrontProxy::parse(&without).unwrap().is_none());
    without.insert("requestheader-client-ca-file".to_owned(), data["requestheader-client-ca-file"].clone());
    without.remove("requestheader-uid-headers");
    assert!(FrontProxy::parse(&without).unwrap().is_some());
}
