//! Who calls, and what they may do.
//!
//! - A [`Grant`] is made here and nowhere else; what reads an environment's logs asks for one.
//! - Whatever is unknown, broken or unreachable means no: there is no path from an error to a grant.
//! - An environment that does not exist and one that the caller may not see give the same answer, except to a caller
//!   who may list everything.
//!
//! Deliberately not here: any list of users or roles of our own. In Kubernetes, RBAC is the only source of rights.

mod cache;
mod kubernetes;
mod tokens;

pub use kubernetes::{AgentAccount, Reviews};
pub(crate) use tokens::random_below;
pub use tokens::{TokenFile, create_token};

use crate::environment::EnvironmentKey;
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

/// Proof that a user may read the logs of one environment.
#[derive(Clone, Debug)]
pub struct Grant {
    user: Arc<User>,
    environment: EnvironmentKey,
}

/// The environments of one name, each with whether it has instances now.
pub type Candidates = BTreeMap<EnvironmentKey, bool>;

impl Grant {
    pub fn user(&self) -> &User {
        &self.user
    }

    pub fn environment(&self) -> &EnvironmentKey {
        &self.environment
    }
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
    /// May the user see this environment?
    See(&'a EnvironmentKey),
    /// May the user read this environment's logs?
    ReadLogs(&'a EnvironmentKey),
    /// May the user read the logs of an environment of this name wherever it may be?
    ReadLogsAnywhere(&'a EnvironmentName),
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

    /// A grant to read the logs of the one environment called `name` among `candidates` (which have that name). Of
    /// several that the caller may read, the only one that runs is meant: history of the others has no say in that.
    pub async fn grant_logs(
        &self,
        user: &Arc<User>,
        name: &EnvironmentName,
        candidates: &Candidates,
    ) -> Result<Grant, Failure> {
        let mut allowed = Candidates::new();
        for (candidate, runs) in candidates {
            if self.allows(user, Question::ReadLogs(candidate)).await? {
                allowed.insert(candidate.clone(), *runs);
            }
        }
        if candidates.is_empty() {
            // As many questions as for one that exists, so that the time an answer takes tells nothing either.
            self.allows(user, Question::ReadLogsAnywhere(name)).await?;
        }
        let sees_all = allowed.is_empty() && self.allows(user, Question::ListAll).await?;
        let environment = choose(name, allowed, Known { exists: !candidates.is_empty(), sees_all })?;
        Ok(Grant { user: Arc::clone(user), environment })
    }

    /// Whether a grant still holds: a follower outlives changes of rights. The token is not asked for again, so that
    /// following goes on when a short-lived token runs out, as it does with `kubectl logs -f`.
    pub async fn recheck_grant(&self, grant: &Grant) -> Result<(), Failure> {
        if self.allows(&grant.user, Question::ReadLogs(&grant.environment)).await? {
            Ok(())
        } else {
            Err(not_allowed(&grant.environment.name))
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
        let value = metadata.get("authorization").ok_or_else(|| {
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

/// What is known about a name when none of its environments is allowed.
#[derive(Clone, Copy)]
struct Known {
    exists: bool,
    sees_all: bool,
}

fn choose(name: &EnvironmentName, allowed: Candidates, known: Known) -> Result<EnvironmentKey, Failure> {
    let mut running = allowed.iter().filter(|(_, runs)| **runs).map(|(key, _)| key);
    let mut all = allowed.keys();
    match (running.next(), running.next(), all.next(), all.next()) {
        (Some(only), None, _, _) | (None, None, Some(only), None) => Ok(only.clone()),
        (_, _, None, _) if known.sees_all && !known.exists => {
            Err(Failure::new(ErrorKind::NotFound, format!("there is no environment `{name}`"))
                .with_hint("skpr list"))
        }
        (_, _, None, _) => Err(not_allowed(name)),
        (_, _, Some(first), _) => {
            let namespaces: Vec<_> = allowed.keys().map(|key| format!("`{}`", key.namespace)).collect();
            Err(Failure::new(
                ErrorKind::Usage,
                format!("`{name}` is ambiguous: it exists in the namespaces {}", namespaces.join(", ")),
            )
            .with_hint(format!("say which: skpr logs {name} --namespace {}", first.namespace)))
        }
    }
}

fn not_allowed(name: &EnvironmentName) -> Failure {
    Failure::new(
        ErrorKind::NotAllowed,
        format!("there is no environment `{name}` that you may read the logs of"),
    )
    .with_hint("skpr list")
}

fn not_accepted() -> Failure {
    Failure::new(
        ErrorKind::NotLoggedIn,
        "the token was not accepted: it is unknown, expired or meant for someone else",
    )
    .with_hint("skpr login CLUSTER")
}

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

    #[test]
    fn unknown_and_forbidden_look_alike_but_to_who_sees_all() {
        let name = EnvironmentName::parse("web", "prod").unwrap();
        let answer =
            |exists, sees_all| choose(&name, Candidates::new(), Known { exists, sees_all }).unwrap_err();
        assert_eq!(answer(true, false), answer(false, false));
        assert_eq!(answer(true, false).kind, ErrorKind::NotAllowed);
        assert_eq!(answer(false, true).kind, ErrorKind::NotFound);
        assert_eq!(answer(true, true).kind, ErrorKind::NotAllowed);
    }

    #[test]
    fn one_allowed_is_chosen_and_two_are_named() {
        let name = EnvironmentName::parse("web", "prod").unwrap();
        let known = Known { exists: true, sees_all: false };
        let (a, b) = (key("a", "web", "prod"), key("b", "web", "prod"));
        let choice = |allowed: &[(&EnvironmentKey, bool)]| {
            choose(&name, allowed.iter().map(|(key, runs)| ((*key).clone(), *runs)).collect(), known)
        };
        for runs in [true, false] {
            assert_eq!(choice(&[(&a, runs)]), Ok(a.clone()));
            let failure = choice(&[(&a, runs), (&b, runs)]).unwrap_err();
            assert_eq!(failure.kind, ErrorKind::Usage);
            assert!(failure.message.contains("`a`, `b`"), "{failure}");
            assert!(failure.hint.unwrap().contains("skpr logs web/prod --namespace a"));
        }
    }

    #[test]
    fn a_foreign_label_that_is_only_history_locks_nobody_out() {
        let name = EnvironmentName::parse("web", "prod").unwrap();
        let known = Known { exists: true, sees_all: false };
        let (ours, foreign) = (key("sites", "web", "prod"), key("mallory", "web", "prod"));
        let allowed = Candidates::from([(foreign, false), (ours.clone(), true)]);
        assert_eq!(choose(&name, allowed, known), Ok(ours));
    }
}
