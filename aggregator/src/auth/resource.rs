//! The right to read what pods or nodes use, which users of Kubernetes have by RBAC on `metrics.k8s.io`, and the proof of
//! having it.

use super::front_proxy::FrontProxy;
use super::{Auth, Question, User};
use http::HeaderMap;
use rustls_pki_types::{CertificateDer, UnixTime};
use skpr_proto::{ErrorKind, Failure, Label};

/// What somebody would read: all objects of a kind, or one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resources {
    Nodes {
        name: Option<String>,
    },
    /// Of all namespaces where there is none.
    Pods {
        namespace: Option<Label>,
        name: Option<String>,
    },
}

/// Proof that a user may read these.
#[derive(Debug)]
pub struct ResourceGrant(Resources);

impl ResourceGrant {
    pub fn resources(&self) -> &Resources {
        &self.0
    }
}

impl Auth {
    /// The user whose request the API server passes on, by the certificates of the connection and the headers of the
    /// request.
    pub fn passed_on(
        &self,
        certificates: &[CertificateDer<'_>],
        headers: &HeaderMap,
    ) -> Result<User, Failure> {
        let proxy = match self {
            Auth::Kubernetes(reviews) => reviews.front_proxy(),
            Auth::Tokens(_) => None,
        };
        let user = |proxy: &FrontProxy| proxy.user(certificates, headers, UnixTime::now());
        proxy.as_deref().and_then(user).ok_or_else(|| {
            Failure::new(ErrorKind::NotLoggedIn, "only the API server's front proxy is answered here")
        })
    }

    /// A grant to read these objects.
    pub async fn grant_resources(&self, user: &User, resources: Resources) -> Result<ResourceGrant, Failure> {
        if self.allows(user, Question::Resources(&resources)).await? {
            return Ok(ResourceGrant(resources));
        }
        Err(Failure::new(ErrorKind::NotAllowed, refusal(user, &resources)))
    }
}

/// In the words of Kubernetes.
fn refusal(user: &User, resources: &Resources) -> String {
    let (name, kind, place) = match resources {
        Resources::Nodes { name } => (name, "nodes", "at the cluster scope".to_owned()),
        Resources::Pods { namespace: Some(namespace), name } => {
            (name, "pods", format!("in the namespace \"{namespace}\""))
        }
        Resources::Pods { namespace: None, name } => (name, "pods", "at the cluster scope".to_owned()),
    };
    let (what, verb) = match name {
        Some(name) => (format!("{kind}.metrics.k8s.io \"{name}\""), "get"),
        None => (format!("{kind}.metrics.k8s.io"), "list"),
    };
    format!(
        "{what} is forbidden: User \"{}\" cannot {verb} resource \"{kind}\" in API group \"metrics.k8s.io\" {place}",
        user.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_in_the_words_of_kubernetes() {
        let user = User { name: "ann".into(), ..User::default() };
        let namespace = Label::parse("namespace", "sites").ok();
        let pods = Resources::Pods { namespace, name: None };
        assert_eq!(
            refusal(&user, &pods),
            "pods.metrics.k8s.io is forbidden: User \"ann\" cannot list resource \"pods\" in API group \
             \"metrics.k8s.io\" in the namespace \"sites\""
        );
        let node = Resources::Nodes { name: Some("n1".into()) };
        assert!(refusal(&user, &node).starts_with("nodes.metrics.k8s.io \"n1\" is forbidden"));
    }
}
