//! Tokens and rights as the API server judges them: TokenReview says who, SubjectAccessReview says what.
//!
//! - A token counts only if the API server says that it was made for our audience: one that was made for the API
//!   server itself is worth nothing here.
//! - Answers, yes and no, are remembered for [`KEEP`]; failures to get one never are.
//! - Whoever has no good token can cause reviews, but only [`TOKEN_REVIEWS`] at a time, and no log line for each.

use super::cache::{Cache, Keys};
use super::{Bearer, Question, User, not_accepted};
use crate::audit::Sparing;
use crate::environment::EnvironmentKey;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client, Resource};
use serde::{Serialize, de::DeserializeOwned};
use skpr_proto::{AGENT_AUDIENCE, ErrorKind, Failure, Label, NodeName, USER_AUDIENCE};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// How long an answer counts: the delay until a revoked token or right is noticed.
const KEEP: Duration = Duration::from_secs(10);
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
    keys: Keys,
    users: Cache<Option<Arc<User>>, Failure>,
    rights: Cache<bool, Failure>,
    token_reviews: Turns,
    access_reviews: Turns,
    troubles: Sparing,
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

    async fn take(&self) -> Result<SemaphorePermit<'_>, Failure> {
        let busy =
            || Failure::new(ErrorKind::Unavailable, "the aggregator has too many callers to recognise");
        if let Ok(turn) = self.running.try_acquire() {
            return Ok(turn);
        }
        let _waiting = self.waiting.try_acquire().map_err(|_| busy())?;
        let turn = tokio::time::timeout(TURN_TIMEOUT, self.running.acquire()).await;
        turn.ok().and_then(Result::ok).ok_or_else(busy)
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
            keys: Keys::random()?,
            users: Cache::new(KEEP, (REMEMBERED, REFUSALS), Option::is_some),
            rights: Cache::new(KEEP, (REMEMBERED, REFUSALS), |allowed| *allowed),
            token_reviews: Turns::new(TOKEN_REVIEWS),
            access_reviews: Turns::new(ACCESS_REVIEWS),
            troubles: Sparing::default(),
        })
    }

    pub(super) async fn user(&self, bearer: &Bearer) -> Result<Arc<User>, Failure> {
        self.review_token(bearer, USER_AUDIENCE).await?.ok_or_else(not_accepted)
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
        let spec = SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            groups: Some(user.groups.clone()),
            uid: user.uid.clone(),
            extra: Some(user.extra.clone()),
            resource_attributes: Some(attributes(question)),
            ..SubjectAccessReviewSpec::default()
        };
        let asked = serde_json::to_string(&spec).map_err(|error| self.unreachable(&error))?;
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let ask = async || {
            let answer = self.create(&self.access_reviews, &review).await?;
            Ok(answer.status.is_some_and(|status| status.allowed && status.denied != Some(true)))
        };
        self.rights.get(self.keys.key(&["right", &asked]), ask).await
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
                let visible =
                    whole.contains(&key.namespace) || self.allows(user, &Question::See(&key)).await?;
                Ok::<_, Failure>(visible.then_some(key))
            })
            .buffer_unordered(REVIEWS_AT_ONCE)
            .try_filter_map(async |key| Ok(key))
            .try_collect()
            .await
    }

    async fn review_token(&self, bearer: &Bearer, audience: &str) -> Result<Option<Arc<User>>, Failure> {
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
        self.users.get(self.keys.key(&["token", audience, &bearer.0]), ask).await
    }

    async fn create<K>(&self, turns: &Turns, review: &K) -> Result<K, Failure>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>,
        K: Clone + DeserializeOwned + Serialize + fmt::Debug,
    {
        let _turn = turns.take().await?;
        let api = Api::<K>::all(self.client.clone());
        match tokio::time::timeout(REVIEW_TIMEOUT, api.create(&PostParams::default(), review)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(status))) => Err(self.unreachable(&status.message)),
            Ok(Err(error)) => Err(self.unreachable(&error)),
            Err(elapsed) => Err(self.unreachable(&elapsed)),
        }
    }

    fn unreachable(&self, error: &dyn fmt::Display) -> Failure {
        if let Some(unsaid) = self.troubles.say() {
            tracing::warn!(error = %error, unsaid, "review failed");
        }
        Failure::new(ErrorKind::Unavailable, "the aggregator cannot ask Kubernetes about your rights now")
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

fn attributes(question: &Question<'_>) -> ResourceAttributes {
    let ask = |verb: &str, namespace: Option<&str>, name: Option<String>| ResourceAttributes {
        group: Some(GROUP.into()),
        resource: Some(RESOURCE.into()),
        verb: Some(verb.into()),
        namespace: namespace.map(str::to_owned),
        name,
        ..ResourceAttributes::default()
    };
    // A dot cannot be part of either name, so that no two environments share one.
    let object = |name: &skpr_proto::EnvironmentName| Some(format!("{}.{}", name.project, name.environment));
    let logs = |attributes| ResourceAttributes { subresource: Some("logs".into()), ..attributes };
    match question {
        Question::ListAll => ask("list", None, None),
        Question::ListNamespace(namespace) => ask("list", Some(namespace), None),
        Question::See(key) => ask("get", Some(key.namespace.as_str()), object(&key.name)),
        Question::ReadLogs(key) => logs(ask("get", Some(key.namespace.as_str()), object(&key.name))),
        Question::ReadLogsAnywhere(name) => logs(ask("get", None, object(name))),
    }
}

#[cfg(test)]
mod tests;
