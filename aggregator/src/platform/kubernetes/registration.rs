//! Tells the API server that this aggregator serves `metrics.k8s.io`, where it is to.
//!
//! * An API that is registered and that nobody serves blocks the deletion of every namespace of a cluster. Therefore it is
//!   registered when it can be served, is taken back where the API server does not reach it, and belongs to the chart's
//!   ClusterRole: Kubernetes deletes it with that, also when nobody of us is there any more.
//! * One API has one server. What another has registered is not touched, unless that is asked for.

mod decide;

pub(super) use decide::Installation;
pub use decide::MetricsApi;

use crate::auth::FrontProxies;
use crate::inventory::Inventory;
use crate::tls::Authority;
use anyhow::{Context as _, anyhow};
use decide::{MARK, NAME, Reach, Reaching, Standing, Step, says, standing, step, unreached, wanted};
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// One name for the fields that are ours.
const MANAGER: &str = "skpr-metrics-api";
/// How long until what somebody else does is noticed.
const LOOK_EVERY: Duration = Duration::from_secs(15);
const ROUND_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub(super) struct Registrar {
    pub(super) client: Client,
    pub(super) metrics_api: MetricsApi,
    pub(super) here: Installation,
    /// By which the API server recognises us.
    pub(super) authority: Authority,
    /// By which we recognise the API server.
    pub(super) front_proxies: FrontProxies,
    pub(super) inventory: watch::Receiver<Arc<Inventory>>,
}

/// What was said last, so that it is said once.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    Serves,
    SomebodyElse,
    Trouble(String),
}

impl Registrar {
    /// Looks after the registration. Ends only with whoever waits for it.
    pub(super) async fn look_after(mut self) -> anyhow::Result<()> {
        if self.metrics_api != MetricsApi::Never {
            let heard = self.inventory.wait_for(|inventory| inventory.heard).await;
            heard.map_err(|_gone| anyhow!("what has to be known of the cluster is not told any more"))?;
            // A round says what is amiss; this, in general, takes but a moment.
            drop(timeout(LOOK_EVERY, self.front_proxies.wait_for(Option::is_some)).await);
        }
        let mut reach = Reach::default();
        let mut said = Said::Nothing;
        loop {
            let round = timeout(ROUND_TIMEOUT, self.round(&mut reach)).await;
            let now = match round.context("wait for the API server").and_then(|round| round) {
                Ok(now) => now,
                Err(error) => Said::Trouble(format!("{error:#}")),
            };
            if now != said {
                now.say();
                said = now;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn round(&self, reach: &mut Reach) -> anyhow::Result<Said> {
        let services = Api::<APIService>::all(self.client.clone());
        let found = services.get_opt(NAME).await.context("read the APIService")?;
        let standing = standing(found.as_ref(), &self.here);
        let failure = found.as_ref().filter(|_| standing == Standing::Ours).and_then(unreached);
        let reaching = reach.take(failure.is_some(), Instant::now());
        let step = step(self.metrics_api, standing, reaching);
        match (step, &found) {
            (Step::Leave, _) => {}
            // It is not registered by one who would refuse the API server; what is registered already is taken back as
            // above, if that lasts.
            (Step::Write, _) if self.front_proxies.borrow().is_none() => {
                return Ok(Said::Trouble("who the API server is cannot be read yet".to_owned()));
            }
            (Step::Write, found) => {
                let owner = self.owner().await?;
                let wanted = wanted(&self.here, &self.authority.pem()?, owner);
                if !found.as_ref().is_some_and(|found| says(found, &wanted)) {
                    let params = PatchParams::apply(MANAGER).force();
                    services
                        .patch(NAME, &params, &Patch::Apply(&wanted))
                        .await
                        .context("write the APIService")?;
                }
            }
            (Step::Remove, Some(found)) => {
                let preconditions =
                    Preconditions { uid: found.uid(), resource_version: found.resource_version() };
                let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                services.delete(NAME, &params).await.context("delete the APIService")?;
            }
            (Step::LetGo, Some(found)) => self.let_go(&services, found).await?,
            // There is nothing to remove.
            (Step::Remove | Step::LetGo, None) => {}
        }
        let others = matches!(standing, Standing::TakenOver | Standing::Theirs);
        Ok(match (step, reaching) {
            (Step::Write, Reaching::Yes) => Said::Serves,
            (Step::Write, Reaching::No | Reaching::Rests) => {
                Said::Trouble(format!("the API server cannot reach it: {}", failure.unwrap_or_default()))
            }
            (Step::Leave | Step::LetGo, _) if others && self.metrics_api == MetricsApi::Auto => {
                Said::SomebodyElse
            }
            (_, Reaching::Rests) => Said::Trouble("the API server could not reach it".to_owned()),
            (Step::Leave | Step::LetGo | Step::Remove, Reaching::Yes | Reaching::No) => Said::Nothing,
        })
    }

    fn owner_name(&self) -> String {
        format!("skpr-aggregator.{}", self.here.namespace)
    }

    /// The chart's ClusterRole. Where there is none, nobody would take the registration away again.
    async fn owner(&self) -> anyhow::Result<OwnerReference> {
        let name = self.owner_name();
        let roles = Api::<ClusterRole>::all(self.client.clone());
        let found = roles.get_metadata_opt(&name).await.context("read the ClusterRole that it belongs to")?;
        let role: PartialObjectMeta<ClusterRole> =
            found.with_context(|| format!("there is no ClusterRole `{name}` that it could belong to"))?;
        Ok(OwnerReference {
            api_version: ClusterRole::api_version(&()).into_owned(),
            kind: ClusterRole::kind(&()).into_owned(),
            name,
            uid: role.metadata.uid.context("read the ClusterRole's UID")?,
            controller: None,
            block_owner_deletion: None,
        })
    }

    /// With the version that was read: nobody else's owner is lost.
    async fn let_go(&self, services: &Api<APIService>, found: &APIService) -> anyhow::Result<()> {
        let ours = self.owner_name();
        let owners = found.metadata.owner_references.iter().flatten();
        let others: Vec<_> =
            owners.filter(|owner| owner.kind != ClusterRole::kind(&()) || owner.name != ours).collect();
        let change = json!({"metadata": {"resourceVersion": found.resource_version(),
            "annotations": {MARK: null}, "ownerReferences": others}});
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        services.patch(NAME, &params, &Patch::Merge(&change)).await.context("let go of the APIService")?;
        Ok(())
    }
}

impl Said {
    fn say(&self) {
        match self {
            Said::Nothing => tracing::info!("metrics.k8s.io is not served"),
            Said::Serves => tracing::info!("metrics.k8s.io is served from here"),
            Said::SomebodyElse => tracing::info!("somebody else serves metrics.k8s.io, and is left alone"),
            Said::Trouble(why) => tracing::warn!(why, "metrics.k8s.io cannot be served from here"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::front_proxy_tests::Ca;
    use crate::platform::kubernetes::fake::Fake;
    use serde_json::Value;

    const SERVICE: &str = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io";
    const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/skpr-aggregator.skpr";

    fn registrar(fake: &Fake, metrics_api: MetricsApi, knows: bool) -> Registrar {
        Registrar {
            client: fake.client(),
            metrics_api,
            here: Installation {
                namespace: skpr_proto::Label::parse("namespace", "skpr").unwrap(),
                service: "skpr-aggregator-metrics".into(),
            },
            authority: Authority::Own("pem".into()),
            front_proxies: watch::channel(knows.then(|| Arc::new(Ca::new().proxy(&[])))).1,
            inventory: watch::channel(Arc::default()).1,
        }
    }

    fn installed() -> Fake {
        let fake = Fake::default();
        fake.put(ROLE, "helm", json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole"}));
        fake
    }

    async fn round(fake: &Fake, metrics_api: MetricsApi) -> anyhow::Result<Said> {
        registrar(fake, metrics_api, true).round(&mut Reach::default()).await
    }

    fn theirs() -> Value {
        json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "spec": {
            "group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
            "insecureSkipTLSVerify": true, "service": {"namespace": "kube-system", "name": "metrics-server"}}})
    }

    #[tokio::test]
    async fn it_is_registered_once_with_a_ca_and_an_owner_and_taken_away() {
        let fake = installed();
        assert_eq!(round(&fake, MetricsApi::Auto).await.unwrap(), Said::Serves);
        let written = fake.get(SERVICE);
        assert_eq!(written["spec"]["caBundle"], "cGVt");
        assert_eq!(written["spec"]["insecureSkipTLSVerify"], false);
        assert_eq!(written["metadata"]["ownerReferences"][0]["name"], "skpr-aggregator.skpr");
        assert_eq!(written["metadata"]["ownerReferences"][0]["uid"], fake.get(ROLE)["metadata"]["uid"]);
        assert_eq!(fake.writes().len(), 1);
        assert_eq!(round(&fake, MetricsApi::Auto).await.unwrap(), Said::Serves);
        assert!(fake.writes().is_empty());
        assert_eq!(round(&fake, MetricsApi::Never).await.unwrap(), Said::Nothing);
        assert!(fake.get(SERVICE).is_null());
    }

    #[tokio::test]
    async fn somebody_else_s_is_left_alone_until_it_is_asked_for() {
        let fake = installed();
        fake.put(SERVICE, "kubectl", theirs());
        assert_eq!(round(&fake, MetricsApi::Auto).await.unwrap(), Said::SomebodyElse);
        assert_eq!(round(&fake, MetricsApi::Never).await.unwrap(), Said::Nothing);
        assert!(fake.writes().is_empty());
        assert_eq!(round(&fake, MetricsApi::Always).await.unwrap(), Said::Serves);
        assert_eq!(fake.get(SERVICE)["spec"]["service"]["name"], "skpr-aggregator-metrics");
        // And back: what they write over ours is theirs, and is not deleted with us.
        fake.change(SERVICE, |object| object["spec"]["service"] = theirs()["spec"]["service"].clone());
        assert_eq!(round(&fake, MetricsApi::Auto).await.unwrap(), Said::SomebodyElse);
        let left = fake.get(SERVICE);
        assert_eq!(left["spec"]["service"]["name"], "metrics-server");
        assert_eq!(left["metadata"]["ownerReferences"], json!([]));
        assert!(left["metadata"]["annotations"][MARK].is_null());
    }

    /// An aggregator that could not read who the API server is once left its registration alone, which then blocked the
    /// deletion of every namespace.
    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_served_is_not_registered_and_taken_back() {
        let fake = installed();
        let blind = registrar(&fake, MetricsApi::Auto, false);
        assert!(matches!(blind.round(&mut Reach::default()).await.unwrap(), Said::Trouble(_)));
        assert!(fake.get(SERVICE).is_null());
        round(&fake, MetricsApi::Auto).await.unwrap();
        fake.change(SERVICE, |object| {
            object["status"] =
                json!({"conditions": [{"type": "Available", "status": "False", "message": "403"}]});
        });
        let mut reach = Reach::default();
        blind.round(&mut reach).await.unwrap();
        assert!(!fake.get(SERVICE).is_null());
        tokio::time::advance(Duration::from_secs(130)).await;
        assert!(matches!(blind.round(&mut reach).await.unwrap(), Said::Trouble(_)));
        assert!(fake.get(SERVICE).is_null());
    }

    #[tokio::test]
    async fn without_an_owner_nothing_is_registered() {
        let fake = Fake::default();
        let error = round(&fake, MetricsApi::Always).await.unwrap_err();
        assert!(error.to_string().contains("skpr-aggregator.skpr"), "{error:#}");
        assert!(fake.get(SERVICE).is_null());
    }
}
