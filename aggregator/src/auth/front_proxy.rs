//! Users as the API server names them, when it passes their requests on.
//!
//! - Headers that name a user count only beside a certificate that the front proxy's CA of this moment has issued to a
//!   client, with a name that the cluster allows. Anybody may send headers, and show certificates of other CAs.
//! - Which CA that is stands in a ConfigMap that the API server writes. It is read every minute; while it cannot be read,
//!   what it said last counts, and where it never could, nobody is believed.

use super::User;
use anyhow::Context as _;
use http::HeaderMap;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use percent_encoding::percent_decode_str;
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, UnixTime};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;
use x509_parser::prelude::{FromDer as _, X509Certificate};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";
const READ_EVERY: Duration = Duration::from_secs(60);
/// How soon it is tried again when nothing is known yet.
const RETRY_EVERY: Duration = Duration::from_secs(5);
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// How the API server's front proxy is recognised, and which headers name users.
pub struct FrontProxy {
    clients: Arc<dyn ClientCertVerifier>,
    /// Names of certificates; any where there is none.
    names: Vec<String>,
    users: Vec<String>,
    uids: Vec<String>,
    groups: Vec<String>,
    /// Before the names of further facts about a user.
    extras: Vec<String>,
}

impl fmt::Debug for FrontProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrontProxy").field("names", &self.names).finish_non_exhaustive()
    }
}

/// What is known of the front proxy now; nothing yet, or the cluster has none.
pub type FrontProxies = watch::Receiver<Option<Arc<FrontProxy>>>;

impl FrontProxy {
    /// From what the ConfigMap says; none when the cluster has no front proxy.
    fn parse(data: &BTreeMap<String, String>) -> anyhow::Result<Option<FrontProxy>> {
        let Some(pem) = data.get("requestheader-client-ca-file") else { return Ok(None) };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(certificate.context("parse the CA")?).context("take the CA")?;
        }
        let provider = Arc::new(ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .context("trust the CA")?;
        let list = |key: &str| match data.get(&format!("requestheader-{key}")) {
            Some(text) => serde_json::from_str::<Vec<String>>(text).with_context(|| format!("read {key}")),
            None => Ok(Vec::new()),
        };
        let headers = |key: &str| {
            list(key)
                .map(|names| names.iter().map(|name| name.trim().to_ascii_lowercase()).collect::<Vec<_>>())
        };
        let proxy = FrontProxy {
            clients,
            names: list("allowed-names")?,
            users: headers("username-headers")?,
            uids: headers("uid-headers")?,
            groups: headers("group-headers")?,
            extras: headers("extra-headers-prefix")?,
        };
        // An empty prefix would take every header for a fact about the user.
        let all = [&proxy.users, &proxy.uids, &proxy.groups, &proxy.extras];
        anyhow::ensure!(!all.into_iter().flatten().any(String::is_empty), "the name of a header is empty");
        Ok(Some(proxy))
    }

    /// The user that these headers name, if they come from the front proxy.
    pub(super) fn user(
        &self,
        certificates: &[CertificateDer<'_>],
        headers: &HeaderMap,
        now: UnixTime,
    ) -> Option<User> {
        let (own, between) = certificates.split_first()?;
        self.clients.verify_client_cert(own, between, now).ok()?;
        if !self.names.is_empty() && !self.names.iter().any(|name| is_called(own, name)) {
            return None;
        }
        let values = |names: &[String]| -> Vec<String> {
            let values = names.iter().flat_map(|name| headers.get_all(name.as_str()));
            let text = values.filter_map(|value| std::str::from_utf8(value.as_bytes()).ok());
            text.filter(|text| !text.is_empty()).map(str::to_owned).collect()
        };
        let mut extra = BTreeMap::<String, Vec<String>>::new();
        for (name, value) in headers {
            let key = self.extras.iter().find_map(|prefix| name.as_str().strip_prefix(prefix.as_str()));
            if let (Some(key), Ok(value)) = (key, std::str::from_utf8(value.as_bytes())) {
                let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
                extra.entry(key).or_default().push(value.to_owned());
            }
        }
        Some(User {
            name: values(&self.users).into_iter().next()?,
            groups: values(&self.groups),
            uid: values(&self.uids).into_iter().next(),
            extra,
        })
    }
}

fn is_called(certificate: &CertificateDer<'_>, name: &str) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, certificate)| {
        let mut names = certificate.subject().iter_common_name();
        names.any(|found| found.as_str().is_ok_and(|found| found == name))
    })
}

/// Keeps what is known of the front proxy current until nobody asks any more.
pub async fn keep_current(client: Client, known: watch::Sender<Option<Arc<FrontProxy>>>) {
    let api = Api::<ConfigMap>::namespaced(client, NAMESPACE);
    let mut latest = None;
    let mut troubled = false;
    loop {
        let read = timeout(READ_TIMEOUT, api.get_opt(NAME)).await;
        match read.context("wait for it").and_then(|read| read.context("ask for it")) {
            Ok(found) => {
                let data = found.and_then(|found| found.data).unwrap_or_default();
                if latest.as_ref() != Some(&data) {
                    known.send_replace(understood(&data));
                    latest = Some(data);
                }
                troubled = false;
            }
            Err(error) => {
                if !troubled {
                    let error = format!("{error:#}");
                    tracing::warn!(
                        error,
                        "how the API server passes requests on cannot be read, trying again"
                    );
                }
                troubled = true;
            }
        }
        let pause = if known.borrow().is_some() { READ_EVERY } else { RETRY_EVERY };
        tokio::select! {
            () = known.closed() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// What is there counts, and not what was there before, also when it makes no sense.
fn understood(data: &BTreeMap<String, String>) -> Option<Arc<FrontProxy>> {
    match FrontProxy::parse(data) {
        Ok(Some(proxy)) => Some(Arc::new(proxy)),
        Ok(None) => {
            tracing::warn!(
                "this cluster's API server passes no requests on: metrics.k8s.io cannot be served"
            );
            None
        }
        Err(error) => {
            let error = format!("{error:#}");
            tracing::warn!(error, "how the API server passes requests on is not understood");
            None
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
