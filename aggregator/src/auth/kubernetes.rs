//! Tokens and rights as the API server judges them: TokenReview says who, SubjectAccessReview says what.
//!
//! - A token counts only if the API server says that it was made for our audience: one that was made for the API
//!   server itself is worth nothing here.
//! - Answers, yes and no, are remembered for [`KEEP`]; failures to get one never are.
//! - Whoever has no good token can cause reviews, but only [`TOKEN_REVIEWS`] at a time, and no log line for each.

use super::cache::{Cache, Key, Keys};
use super::{Bearer, FrontProxies, FrontProxy, Question, Resources, Right, User, not_accepted};
use crate::audit::Sparing;
use crate::environment::EnvironmentKey;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client, Resource};
use serde::{Serialize, de::DeserializeOwned};
use skpr_proto::{AGENT_AUDIENCE, EnvironmentName, ErrorKind, Failure, Label, NodeName, USER_AUDIENCE};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

/// How long an answer counts: the delay until a revoked token or right is noticed.
const KEEP: Duration = Duration::from_secs(10);
/// How long the last yes counts for monitoring while Kubernetes cannot be asked.
pub(super) const ALLOWANCE: Duration = Duration::from_secs(5 * 60);
/// Remembered answers: a caller needs one for the token and one per environment asked about; at about 1 KiB each 4 MiB.
const REMEMBERED: usize = 4096;
/// Remembered refusals, at some 100 bytes each; what is asked at random is not asked again.
const REFUSALS: usize = 1024;
/// Reviews of tokens under way at once, for everybody: at 10 ms each 3200 callers a second.
const TOKEN_REVIEWS: usize = 32;
/// Reviews of rights under way at once: four callers of `List` with few rights.
const ACCESS_REVIEWS: usize = 4 * REVIEWS_AT_ONCE;
/// Callers that wait for their turn, and how long: who is not served by then comes again.
const WAITING: usize = 1024;
const TURN_TIMEOUT: Duration = Duration::from_secs(3);
/// Reviews under way for one `List`, so that a caller with few rights does not crowd out the others.
const REVIEWS_AT_ONCE: usize = 16;
/// A review takes milliseconds; an API server that needs longer is as good as away.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(10);

/// What reading metrics is called in RBAC: a URL that is no resource.
const METRICS: &str = "/metrics";
const TOO_MANY_REQUESTS: u16 = 429;
const SERVER_ERRORS: u16 = 500;

const GROUP: &str = "skpr.io";
const RESOURCE: &str = "environments";
/// Where the API server puts the node of the pod that a service account token is bound to.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// The service account that agents run as.
#[derive(Clone, Debug)]
pub struct AgentAccount {
    pub namespace: Label,
    pub name: String,
}

/// Asks the API server, and remembers for a moment.
pub struct Reviews {
    client: Client,
    agents: AgentAccount,
    front_proxies: FrontProxies,
    keys: Keys,
    users: Cache<Option<Arc<User>>, NoAnswer>,
    rights: Cache<bool, NoAnswer>,
    token_reviews: Turns,
    access_reviews: Turns,
    troubles: Sparing,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoAnswer {
    /// It was nobody's turn: Kubernetes was not asked.
    Busy,
    /// Kubernetes does not answer, or says that it cannot now.
    Away,
    /// It takes no such question from the aggregator.
    Refused,
}

impl From<NoAnswer> for Failure {
    fn from(reason: NoAnswer) -> Failure {
        let message = match reason {
            NoAnswer::Busy => "the aggregator has too many callers to recognise",
            NoAnswer::Away | NoAnswer::Refused => {
                "the aggregator cannot ask Kubernetes about your rights now"
            }
        };
        Failure::new(ErrorKind::Unavailable, message)
    }
}

/// So many at once, and so many that wait.
struct Turns {
    running: Semaphore,
    waiting: Semaphore,
}

impl Turns {
    fn new(at_once: usize) -> Turns {
        Turns { running: Semaphore::new(at_once), waiting: Semaphore::new(WAITING) }
    }

    async fn take(&self) -> Result<SemaphorePermit<'_>, NoAnswer> {
        if let Ok(turn) = self.running.try_acquire() {
            return Ok(turn);
        }
        let _waiting = self.waiting.try_acquire().map_err(|_| NoAnswer::Busy)?;
        let turn = tokio::time::timeout(TURN_TIMEOUT, self.running.acquire()).await;
        turn.ok().and_then(Result::ok).ok_or(NoAnswer::Busy)
    }
}

impl fmt::Debug for Reviews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reviews").field("agents", &self.agents).finish_non_exhaustive()
    }
}

impl Reviews {
    pub fn new(client: Client, agents: AgentAccount) -> anyhow::Result<Reviews> {
        Ok(Reviews {
            client,
            agents,
            front_proxies: watch::channel(None).1,
            keys: Keys::random()?,
            users: Cache::new(KEEP, (REMEMBERED, REFUSALS), Option::is_some),
            rights: Cache::new(KEEP, (REMEMBERED, REFUSALS), |allowed| *allowed),
            token_reviews: Turns::new(TOKEN_REVIEWS),
            access_reviews: Turns::new(ACCESS_REVIEWS),
            troubles: Sparing::default(),
        })
    }

    /// Believes these about users, too.
    #[must_use]
    pub fn believing(self, front_proxies: FrontProxies) -> Reviews {
        Reviews { front_proxies, ..self }
    }

    pub(super) fn front_proxy(&self) -> Option<Arc<FrontProxy>> {
        self.front_proxies.borrow().clone()
    }

    pub(super) async fn user(&self, bearer: &Bearer) -> Result<Arc<User>, Failure> {
        self.review_token(bearer, USER_AUDIENCE).await?.ok_or_else(not_accepted)
    }

    /// Whoever asks for metrics; while Kubernetes is away whoever it last was.
    pub(super) async fn scraper(&self, bearer: &Bearer) -> Result<Arc<User>, Failure> {
        let known = match self.review_token(bearer, USER_AUDIENCE).await {
            Err(NoAnswer::Away) => {
                let key = self.token_key(bearer, USER_AUDIENCE);
                self.users.last_yes(&key, ALLOWANCE).ok_or(NoAnswer::Away)?
            }
            answer => answer?,
        };
        known.ok_or_else(not_accepted)
    }

    /// The node of the agent whose token this is.
    pub(super) async fn agent(&self, bearer: &Bearer) -> Result<(String, NodeName), Failure> {
        let user = self.review_token(bearer, AGENT_AUDIENCE).await?.ok_or_else(not_accepted)?;
        let AgentAccount { namespace, name } = &self.agents;
        if user.name != format!("system:serviceaccount:{namespace}:{name}") {
            let message = format!("`{}` is not the agents' service account", user.name.escape_debug());
            return Err(Failure::new(ErrorKind::NotAllowed, message));
        }
        let node = match user.extra.get(NODE_NAME).map(Vec::as_slice) {
            Some([node]) => NodeName::parse(node).ok(),
            _ => None,
        };
        let node = node.ok_or_else(|| {
            Failure::new(ErrorKind::NotAllowed, "the agent's token names no node: it is not bound to a pod")
        })?;
        Ok((user.name.clone(), node))
    }

    pub(super) async fn allows(&self, user: &User, question: &Question<'_>) -> Result<bool, Failure> {
        let allowed = self.review(user, question, attributes(question)).await?;
        match also(question) {
            Some(more) if allowed => self.review(user, question, Some(more)).await,
            Some(_) | None => Ok(allowed),
        }
    }

    async fn review(
        &self,
        user: &User,
        question: &Question<'_>,
        resource_attributes: Option<ResourceAttributes>,
    ) -> Result<bool, Failure> {
        let is_monitor = *question == Question::Monitor;
        let spec = SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            groups: Some(user.groups.clone()),
            uid: user.uid.clone(),
            extra: Some(user.extra.clone()),
            resource_attributes,
            non_resource_attributes: is_monitor
                .then(|| NonResourceAttributes { path: Some(METRICS.into()), verb: Some("get".into()) }),
        };
        let asked =
            serde_json::to_string(&spec).map_err(|error| self.unanswered(NoAnswer::Refused, &error))?;
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let ask = async || {
            let answer = self.create(&self.access_reviews, &review).await?;
            Ok(answer.status.is_some_and(|status| status.allowed && status.denied != Some(true)))
        };
        let key = self.keys.key(&["right", &asked]);
        match self.rights.get(key, ask).await {
            Err(NoAnswer::Away) if is_monitor => {
                Ok(self.rights.last_yes(&key, ALLOWANCE).ok_or(NoAnswer::Away)?)
            }
            answer => Ok(answer?),
        }
    }

    /// Asks for the whole cluster, then for each namespace, then for each environment: most callers need one question.
    pub(super) async fn visible(
        &self,
        user: &User,
        candidates: BTreeSet<EnvironmentKey>,
    ) -> Result<BTreeSet<EnvironmentKey>, Failure> {
        if self.allows(user, &Question::ListAll).await? {
            return Ok(candidates);
        }
        let namespaces: BTreeSet<_> = candidates.iter().map(|key| key.namespace.clone()).collect();
        let whole: BTreeSet<Label> = stream::iter(namespaces)
            .map(async |namespace| {
                let allowed = self.allows(user, &Question::ListNamespace(namespace.as_str())).await?;
                Ok::<_, Failure>(allowed.then_some(namespace))
            })
            .buffer_unordered(REVIEWS_AT_ONCE)
            .try_filter_map(async |namespace| Ok(namespace))
            .try_collect()
            .await?;
        stream::iter(candidates)
            .map(async |key| {
                let visible = whole.contains(&key.namespace)
                    || self.allows(user, &Question::May(Right::See, &key)).await?;
                Ok::<_, Failure>(visible.then_some(key))
            })
            .buffer_unordered(REVIEWS_AT_ONCE)
            .try_filter_map(async |key| Ok(key))
            .try_collect()
            .await
    }

    fn token_key(&self, bearer: &Bearer, audience: &str) -> Key {
        self.keys.key(&["token", audience, &bearer.0])
    }

    async fn review_token(&self, bearer: &Bearer, audience: &str) -> Result<Option<Arc<User>>, NoAnswer> {
        let ask = async || {
            let review = TokenReview {
                spec: TokenReviewSpec {
                    audiences: Some(vec![audience.into()]),
                    token: Some(bearer.0.clone()),
                },
                ..TokenReview::default()
            };
            Ok(accepted(self.create(&self.token_reviews, &review).await?, audience).map(Arc::new))
        };
        self.users.get(self.token_key(bearer, audience), ask).await
    }

    async fn create<K>(&self, turns: &Turns, review: &K) -> Result<K, NoAnswer>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>,
        K: Clone + DeserializeOwned + Serialize + fmt::Debug,
    {
        let _turn = turns.take().await?;
        let api = Api::<K>::all(self.client.clone());
        match tokio::time::timeout(REVIEW_TIMEOUT, api.create(&PostParams::default(), review)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(status))) => {
                let cannot_now = status.code == TOO_MANY_REQUESTS || status.code >= SERVER_ERRORS;
                let reason = if cannot_now { NoAnswer::Away } else { NoAnswer::Refused };
                Err(self.unanswered(reason, &status.message))
            }
            Ok(Err(error)) => Err(self.unanswered(NoAnswer::Away, &error)),
            Err(elapsed) => Err(self.unanswered(NoAnswer::Away, &elapsed)),
        }
    }

    fn unanswered(&self, reason: NoAnswer, error: &dyn fmt::Display) -> NoAnswer {
        if let Some(unsaid) = self.troubles.say() {
            tracing::warn!(error = %error, unsaid, "review failed");
        }
        reason
    }
}

/// The user of a review, if the API server vouches for the token and for what it was made for. An API server that
/// does not know audiences answers with none, which is not enough.
fn accepted(review: TokenReview, audience: &str) -> Option<User> {
    let status = review.status?;
    let for_us = status.audiences.iter().flatten().any(|known| known == audience);
    let UserInfo { username, groups, uid, extra } = status.user?;
    let name = username.filter(|name| !name.is_empty())?;
    if status.authenticated != Some(true) || !for_us {
        return None;
    }
    Some(User { name, groups: groups.unwrap_or_default(), uid, extra: extra.unwrap_or_default() })
}

fn of_metrics(resources: &Resources) -> ResourceAttributes {
    let (resource, namespace, name) = match resources {
        Resources::Nodes { name } => ("nodes", None, name),
        Resources::Pods { namespace, name } => ("pods", namespace.as_ref(), name),
    };
    let verb = if name.is_some() { "get" } else { "list" };
    ResourceAttributes {
        group: Some("metrics.k8s.io".into()),
        version: Some("v1beta1".into()),
        resource: Some(resource.into()),
        verb: Some(verb.into()),
        namespace: namespace.map(ToString::to_string),
        name: name.clone(),
        ..ResourceAttributes::default()
    }
}

fn attributes(question: &Question<'_>) -> Option<ResourceAttributes> {
    let ask = |verb: &str, namespace: Option<&str>, name: Option<String>| ResourceAttributes {
        group: Some(GROUP.into()),
        resource: Some(RESOURCE.into()),
        verb: Some(verb.into()),
        namespace: namespace.map(str::to_owned),
        name,
        ..ResourceAttributes::default()
    };
    // A dot cannot be part of either name, so that no two environments share one.
    let object = |name: &EnvironmentName| Some(format!("{}.{}", name.project, name.environment));
    let may = |right: Right, namespace: Option<&str>, name: &EnvironmentName| {
        let (verb, subresource) = match right {
            Right::See => ("get", None),
            Right::ReadLogs => ("get", Some("logs")),
            Right::ReadMetrics => ("get", Some("metrics")),
            Right::Change => ("create", Some("deploy")),
            Right::Delete => ("delete", None),
            Right::Exec => ("create", Some("exec")),
            Right::Files => ("create", Some("files")),
            Right::Cron => ("create", Some("cron")),
        };
        ResourceAttributes {
            subresource: subresource.map(str::to_owned),
            ..ask(verb, namespace, object(name))
        }
    };
    Some(match question {
        Question::Monitor => return None,
        Question::Resources(resources) => of_metrics(resources),
        Question::ListAll => ask("list", None, None),
        Question::ListNamespace(namespace) => ask("list", Some(namespace), None),
        Question::May(right, key) => may(*right, Some(key.namespace.as_str()), &key.name),
        Question::Anywhere(right, name) => may(*right, None, name),
        Question::CreateNamespaces => ResourceAttributes {
            group: None,
            resource: Some("namespaces".into()),
            ..ask("create", None, None)
        },
    })
}

/// What has to be allowed besides: whoever may run something in an environment may run it in pods, whose user and
/// service account it then has. Whoever may write files there may, too, since files are run.
fn also(question: &Question<'_>) -> Option<ResourceAttributes> {
    let namespace = match question {
        Question::May(Right::Exec | Right::Files, key) => Some(key.namespace.to_string()),
        Question::Anywhere(Right::Exec | Right::Files, _) => None,
        Question::May(..)
        | Question::Anywhere(..)
        | Question::ListAll
        | Question::ListNamespace(_)
        | Question::CreateNamespaces
        | Question::Monitor
        | Question::Resources(_) => return None,
    };
    Some(ResourceAttributes {
        resource: Some("pods".into()),
        subresource: Some("exec".into()),
        verb: Some("create".into()),
        namespace,
        ..ResourceAttributes::default()
    })
}

#[cfg(test)]
mod tests;
