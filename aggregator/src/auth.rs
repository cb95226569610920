//! Who calls, and what they may do.
//!
//! - A [`Grant`] is made here and nowhere else; what reads or changes an environment asks for one.
//! - Whatever is unknown, broken or unreachable means no: there is no path from an error to a grant.
//!
//! Deliberately not here: any list of users or roles of our own. In Kubernetes, RBAC is the only source of rights.

mod cache;
mod front_proxy;
mod grant;
mod kubernetes;
mod monitor;
mod resource;
mod tokens;

pub use front_proxy::{FrontProxies, FrontProxy, keep_current as keep_front_proxies};
pub use grant::{
    Candidates, Change, Cron, Delete, Exec, Files, Grant, Permission, ReadLogs, ReadMetrics, Right, See,
    Standing,
};
pub use kubernetes::{AgentAccount, Reviews};
pub use monitor::Monitor;
pub use resource::{ResourceGrant, Resources};
pub use tokens::{TokenFile, create_token};
pub(crate) use tokens::{random, random_below};

use crate::environment::EnvironmentKey;
use http::HeaderMap;
use skpr_proto::{EnvironmentName, ErrorKind, Failure, NodeName};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use tonic::metadata::MetadataMap;

/// How callers are recognised, and where their rights come from.
#[derive(Debug)]
pub enum Auth {
    /// TokenReview and SubjectAccessReview.
    Kubernetes(Box<Reviews>),
    /// A file of tokens beside the data.
    Tokens(TokenFile),
}

/// A caller whose token was accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
    uid: Option<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// An agent whose token was accepted, and the only node that it may speak for.
#[derive(Debug)]
pub struct Agent {
    pub name: String,
    pub node: NodeName,
    bearer: Bearer,
}

/// A token as it was sent. Its `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
struct Bearer(String);

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer(…)")
    }
}

/// A question about rights, put to whichever source of rights there is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Question<'a> {
    /// May the user see every environment there is?
    ListAll,
    /// May the user see every environment of the namespace?
    ListNamespace(&'a str),
    /// May the user do this to this environment?
    May(Right, &'a EnvironmentKey),
    /// May the user do this to an environment of this name wherever it may be?
    Anywhere(Right, &'a EnvironmentName),
    /// May the user make namespaces?
    CreateNamespaces,
    /// May the user read metrics?
    Monitor,
    /// May the user read what these use?
    Resources(&'a Resources),
}

impl Auth {
    /// The caller of a user's call.
    pub async fn user(&self, metadata: &MetadataMap) -> Result<Arc<User>, Failure> {
        let bearer = Bearer::from_metadata(metadata)?;
        match self {
            Auth::Kubernetes(reviews) => reviews.user(&bearer).await,
            Auth::Tokens(tokens) => tokens.user(&bearer),
        }
    }

    /// The agent that makes a call.
    pub async fn agent(&self, metadata: &MetadataMap) -> Result<Agent, Failure> {
        let bearer = Bearer::from_metadata(metadata)?;
        let (name, node) = match self {
            Auth::Kubernetes(reviews) => reviews.agent(&bearer).await?,
            Auth::Tokens(tokens) => tokens.agent(&bearer)?,
        };
        Ok(Agent { name, node, bearer })
    }

    /// Whether the token of an agent's open stream is still good for its node: streams outlive tokens.
    pub async fn recheck_agent(&self, agent: &Agent) -> Result<(), Failure> {
        let (_, node) = match self {
            Auth::Kubernetes(reviews) => reviews.agent(&agent.bearer).await?,
            Auth::Tokens(tokens) => tokens.agent(&agent.bearer)?,
        };
        if node == agent.node { Ok(()) } else { Err(not_accepted()) }
    }

    /// Those of `candidates` that the user may see.
    pub async fn visible(
        &self,
        user: &User,
        candidates: BTreeSet<EnvironmentKey>,
    ) -> Result<BTreeSet<EnvironmentKey>, Failure> {
        match self {
            Auth::Kubernetes(reviews) => reviews.visible(user, candidates).await,
            Auth::Tokens(tokens) => tokens.visible(user, candidates),
        }
    }

    /// What the user may do, as the token file says it. Kubernetes tells nobody all that somebody may do.
    pub fn rights(&self, user: &User) -> Result<Vec<String>, Failure> {
        match self {
            Auth::Kubernetes(_) => Ok(Vec::new()),
            Auth::Tokens(tokens) => tokens.rights(user),
        }
    }

    async fn allows(&self, user: &User, question: Question<'_>) -> Result<bool, Failure> {
        match self {
            Auth::Kubernetes(reviews) => reviews.allows(user, &question).await,
            Auth::Tokens(tokens) => tokens.allows(user, &question),
        }
    }
}

impl Bearer {
    fn from_metadata(metadata: &MetadataMap) -> Result<Bearer, Failure> {
        Bearer::from_headers(metadata.as_ref())
    }

    fn from_headers(headers: &HeaderMap) -> Result<Bearer, Failure> {
        let value = headers.get("authorization").ok_or_else(|| {
            Failure::new(ErrorKind::NotLoggedIn, "no token was sent").with_hint("skpr login CLUSTER")
        })?;
        let token = value.to_str().ok().and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
        });
        match token {
            Some(token) if !token.is_empty() => Ok(Bearer(token.to_owned())),
            _ => Err(not_accepted()),
        }
    }
}

fn not_accepted() -> Failure {
    Failure::new(
        ErrorKind::NotLoggedIn,
        "the token was not accepted: it is unknown, expired or meant for someone else",
    )
    .with_hint("skpr login CLUSTER")
}

#[cfg(test)]
pub(crate) use front_proxy::tests as front_proxy_tests;
#[cfg(test)]
pub(crate) use grant::tests::granted;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use skpr_proto::Label;

    pub(crate) fn key(namespace: &str, project: &str, environment: &str) -> EnvironmentKey {
        EnvironmentKey {
            namespace: Label::parse("namespace", namespace).unwrap(),
            name: EnvironmentName::parse(project, environment).unwrap(),
        }
    }

    fn metadata(value: &str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert("authorization", value.parse().unwrap());
        metadata
    }

    #[test]
    fn a_bearer_token_is_read_and_never_shown() {
        let bearer = Bearer::from_metadata(&metadata("bearer sesame")).unwrap();
        assert_eq!(bearer.0, "sesame");
        assert!(!format!("{bearer:?}").contains("sesame"));
        for bad in ["sesame", "Basic sesame", "Bearer", "Bearer "] {
            let failure = Bearer::from_metadata(&metadata(bad)).unwrap_err();
            assert_eq!(failure.kind, ErrorKind::NotLoggedIn, "{bad}");
        }
        let failure = Bearer::from_metadata(&MetadataMap::new()).unwrap_err();
        assert!(failure.hint.unwrap().starts_with("skpr login"));
    }
}
