//! Whether this installation serves `metrics.k8s.io`, from what is registered. Pure.

use k8s_openapi::ByteString;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::{
    APIService, APIServiceSpec, ServiceReference,
};
use skpr_proto::Label;
use std::time::Duration;
use tokio::time::Instant;

pub(super) const NAME: &str = "v1beta1.metrics.k8s.io";
/// On the object: the namespace of the installation that registered it.
pub(super) const MARK: &str = "skpr.io/installation";
const PORT: i32 = 443;
/// As the metrics-server has them, so that a client sees no difference.
const PRIORITY: i32 = 100;

/// How long the API server may fail to reach us until it is worth a word: it does while an aggregator starts.
const WORTH_A_WORD: Duration = Duration::from_secs(45);
/// How long it may fail to reach what it was told of, and how long it is told of nothing after that.
const UNREACHED: Duration = Duration::from_secs(120);
const REST: Duration = Duration::from_secs(3600);

/// Whether `metrics.k8s.io` is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsApi {
    /// While nobody else does.
    Auto,
    /// Whoever else does.
    Always,
    Never,
}

/// Which installation of skpr this is.
#[derive(Clone, Debug)]
pub(in crate::platform::kubernetes) struct Installation {
    pub(in crate::platform::kubernetes) namespace: Label,
    /// Of monitoring, which also answers the API server.
    pub(in crate::platform::kubernetes) service: String,
}

/// What is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Nothing,
    Ours,
    /// Somebody wrote another's service into what is marked as ours.
    TakenOver,
    Theirs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Leave,
    Write,
    Remove,
    /// Take our mark and our owner off it, with which it would be deleted.
    LetGo,
}

/// Pure: what to do.
pub(super) fn step(wanted: MetricsApi, standing: Standing, reaching: Reaching) -> Step {
    let rests = reaching == Reaching::Rests;
    match (wanted, standing) {
        (MetricsApi::Auto, Standing::Ours) if rests => Step::Remove,
        (MetricsApi::Auto, Standing::Nothing) if rests => Step::Leave,
        (MetricsApi::Auto, Standing::Nothing | Standing::Ours) | (MetricsApi::Always, _) => Step::Write,
        (MetricsApi::Never, Standing::Ours) => Step::Remove,
        (MetricsApi::Auto | MetricsApi::Never, Standing::TakenOver) => Step::LetGo,
        (MetricsApi::Auto | MetricsApi::Never, Standing::Theirs) | (MetricsApi::Never, Standing::Nothing) => {
            Step::Leave
        }
    }
}

pub(super) fn standing(found: Option<&APIService>, here: &Installation) -> Standing {
    let Some(found) = found else { return Standing::Nothing };
    let service = found.spec.as_ref().and_then(|spec| spec.service.as_ref());
    let leads_here = service.is_some_and(|service| {
        service.namespace.as_deref() == Some(here.namespace.as_str())
            && service.name.as_deref() == Some(&here.service)
    });
    let mark = found.metadata.annotations.as_ref().and_then(|annotations| annotations.get(MARK));
    match (mark.map(String::as_str) == Some(here.namespace.as_str()), leads_here) {
        (true, true) => Standing::Ours,
        (true, false) => Standing::TakenOver,
        (false, _) => Standing::Theirs,
    }
}

/// The object as it is to be. It goes with `owner`, which goes with the chart.
pub(super) fn wanted(here: &Installation, ca_bundle: &[u8], owner: OwnerReference) -> APIService {
    let part_of = ("app.kubernetes.io/part-of".to_owned(), "skpr".to_owned());
    APIService {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            labels: Some([part_of].into()),
            annotations: Some([(MARK.to_owned(), here.namespace.to_string())].into()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(APIServiceSpec {
            group: Some("metrics.k8s.io".to_owned()),
            version: Some("v1beta1".to_owned()),
            group_priority_minimum: PRIORITY,
            version_priority: PRIORITY,
            // Said, so that it does not stay as another may have left it.
            insecure_skip_tls_verify: Some(false),
            ca_bundle: Some(ByteString(ca_bundle.to_vec())),
            service: Some(ServiceReference {
                namespace: Some(here.namespace.to_string()),
                name: Some(here.service.clone()),
                port: Some(PORT),
            }),
        }),
        status: None,
    }
}

/// Whether what is found says all that is wanted.
pub(super) fn says(found: &APIService, wanted: &APIService) -> bool {
    let spec = |object: &APIService| {
        let mut spec = object.spec.clone().unwrap_or_default();
        spec.insecure_skip_tls_verify.get_or_insert_default();
        spec
    };
    let owners = |object: &APIService| {
        let owners = object.metadata.owner_references.iter().flatten();
        owners.map(|owner| owner.uid.clone()).collect::<Vec<_>>()
    };
    let known = owners(found);
    spec(found) == spec(wanted) && owners(wanted).iter().all(|owner| known.contains(owner))
}

/// Why the API server cannot reach what is registered; none when it can, or has not tried.
pub(super) fn unreached(found: &APIService) -> Option<&str> {
    let conditions = found.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut failed = conditions
        .into_iter()
        .flatten()
        .filter(|condition| condition.type_ == "Available" && condition.status == "False");
    failed.next().map(|condition| condition.message.as_deref().unwrap_or_default())
}

/// Whether the API server reaches us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaching {
    /// As far as is known.
    Yes,
    No,
    /// It did not for so long that it is told of nothing for a while.
    Rests,
}

/// The same over time.
#[derive(Debug, Default)]
pub(super) struct Reach {
    failing_since: Option<Instant>,
    rests_until: Option<Instant>,
}

impl Reach {
    /// Takes whether it failed just now.
    pub(super) fn take(&mut self, fails: bool, now: Instant) -> Reaching {
        let since = fails.then(|| *self.failing_since.get_or_insert(now));
        self.failing_since = since;
        if since.is_some_and(|since| now - since >= UNREACHED) {
            (self.failing_since, self.rests_until) = (None, Some(now + REST));
        }
        self.rests_until = self.rests_until.filter(|until| *until > now);
        match since {
            _ if self.rests_until.is_some() => Reaching::Rests,
            Some(since) if now - since >= WORTH_A_WORD => Reaching::No,
            Some(_) | None => Reaching::Yes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn somebody_else_is_left_alone_unless_asked_otherwise() {
        use MetricsApi::{Always, Auto, Never};
        use Standing::{Nothing, Ours, TakenOver, Theirs};
        for (wanted, standing, rests, expected) in [
            (Auto, Nothing, false, Step::Write),
            (Auto, Nothing, true, Step::Leave),
            (Auto, Ours, false, Step::Write),
            (Auto, Ours, true, Step::Remove),
            (Auto, TakenOver, false, Step::LetGo),
            (Auto, Theirs, false, Step::Leave),
            (Auto, Theirs, true, Step::Leave),
            (Always, Nothing, true, Step::Write),
            (Always, Ours, true, Step::Write),
            (Always, TakenOver, false, Step::Write),
            (Always, Theirs, false, Step::Write),
            (Never, Nothing, false, Step::Leave),
            (Never, Ours, false, Step::Remove),
            (Never, TakenOver, false, Step::LetGo),
            (Never, Theirs, false, Step::Leave),
        ] {
            let reaching = if rests { Reaching::Rests } else { Reaching::No };
            assert_eq!(step(wanted, standing, reaching), expected, "{wanted:?} {standing:?} {rests}");
        }
    }

    fn here() -> Installation {
        let namespace = Label::parse("namespace", "skpr").unwrap();
        Installation { namespace, service: "skpr-aggregator-metrics".into() }
    }

    fn ours() -> APIService {
        let owner = OwnerReference { uid: "u1".into(), name: "r".into(), ..OwnerReference::default() };
        wanted(&here(), b"ca", owner)
    }

    fn changed(path: &str, value: Value) -> APIService {
        let mut object = serde_json::to_value(ours()).unwrap();
        *object.pointer_mut(path).unwrap() = value;
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn what_is_registered_is_told_apart_by_mark_and_service() {
        for (found, expected) in [
            (None, Standing::Nothing),
            (Some(ours()), Standing::Ours),
            (Some(changed("/spec/service/name", json!("metrics-server"))), Standing::TakenOver),
            (Some(changed("/spec/service/namespace", json!("kube-system"))), Standing::TakenOver),
            (Some(changed("/metadata/annotations", json!({}))), Standing::Theirs),
            (
                Some(changed("/metadata/annotations", json!({"skpr.io/installation": "other"}))),
                Standing::Theirs,
            ),
            (Some(changed("/spec", Value::Null)), Standing::TakenOver),
        ] {
            assert_eq!(standing(found.as_ref(), &here()), expected, "{found:?}");
        }
    }

    #[test]
    fn what_differs_is_written_again() {
        assert!(says(&ours(), &ours()));
        // The API server leaves out what is false.
        assert!(says(&changed("/spec/insecureSkipTLSVerify", Value::Null), &ours()));
        for (path, value) in [
            ("/spec/insecureSkipTLSVerify", json!(true)),
            ("/spec/caBundle", json!("b2xk")),
            ("/spec/service/port", json!(8443)),
            ("/metadata/ownerReferences/0/uid", json!("u0")),
        ] {
            assert!(!says(&changed(path, value), &ours()), "{path}");
        }
    }

    #[test]
    fn what_the_api_server_cannot_reach_is_taken_back_for_an_hour() {
        let mut object = ours();
        assert_eq!(unreached(&object), None);
        let status = json!({"conditions": [{"type": "Available", "status": "False", "message": "no route"}]});
        object.status = Some(serde_json::from_value(status).unwrap());
        assert_eq!(unreached(&object), Some("no route"));

        let began = Instant::now();
        let mut reach = Reach::default();
        for (fails, second, expected) in [
            (true, 0, Reaching::Yes),
            (true, 44, Reaching::Yes),
            (true, 119, Reaching::No),
            // It did once: it starts anew.
            (false, 120, Reaching::Yes),
            (true, 130, Reaching::Yes),
            (true, 249, Reaching::No),
            (true, 250, Reaching::Rests),
            (false, 251, Reaching::Rests),
            (false, 3849, Reaching::Rests),
            (false, 3850, Reaching::Yes),
            (true, 3860, Reaching::Yes),
        ] {
            assert_eq!(reach.take(fails, began + Duration::from_secs(second)), expected, "{second}");
        }
    }
}
