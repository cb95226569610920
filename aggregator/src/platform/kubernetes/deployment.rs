//! What a Deployment says of itself. Pure.
//!
//! * What it says of an earlier state of itself is about another release, and does not count.

use jiff::{SignedDuration, Timestamp};
use kube::api::DynamicObject;
use serde_json::Value;

/// How long what keeps instances from being made may last before it counts: a webhook that is started again, an API
/// server that is busy.
const PASSES_WITHIN: SignedDuration = SignedDuration::from_secs(30);

/// A deployment, as far as it decides.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Deployment {
    pub(super) uid: String,
    pub(super) generation: i64,
    pub(super) replicas: u32,
    pub(super) obstacle: Option<Obstacle>,
    /// Every instance is of the present template, and no other is left.
    pub(super) rolled_out: bool,
}

/// What keeps instances from being made.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Obstacle {
    message: String,
    since: Option<Timestamp>,
}

impl Obstacle {
    /// The reason, once it will not pass by itself.
    pub(super) fn reason(&self, now: Timestamp) -> Option<&str> {
        // A quota and a policy are there until somebody changes them.
        let stays = ["exceeded quota", "forbidden"].iter().any(|word| self.message.contains(word));
        let lasts = || self.since.is_none_or(|since| now.duration_since(since) >= PASSES_WITHIN);
        (stays || lasts()).then_some(self.message.as_str())
    }
}

impl Deployment {
    pub(super) fn of(object: &DynamicObject) -> Deployment {
        let number = |path: &str| object.data.pointer(path).and_then(Value::as_i64);
        let generation = object.metadata.generation.unwrap_or_default();
        let current = number("/status/observedGeneration").is_some_and(|observed| observed >= generation);
        let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
        let obstacle = conditions.into_iter().flatten().find_map(obstacle).filter(|_| current);
        let replicas = number("/spec/replicas").unwrap_or(1);
        let there = number("/status/replicas").unwrap_or(0);
        let updated = number("/status/updatedReplicas").unwrap_or(0);
        Deployment {
            uid: object.metadata.uid.clone().unwrap_or_default(),
            generation,
            replicas: u32::try_from(replicas).unwrap_or(1),
            obstacle,
            rolled_out: current && updated >= replicas && there <= updated,
        }
    }
}

fn obstacle(condition: &Value) -> Option<Obstacle> {
    let text = |key: &str| condition.get(key).and_then(Value::as_str);
    if text("type") != Some("ReplicaFailure") || text("status") != Some("True") {
        return None;
    }
    Some(Obstacle {
        message: super::facts::short(text("message")?).to_string(),
        since: text("lastTransitionTime").and_then(|time| time.parse().ok()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(status: Value) -> Deployment {
        let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x", "generation": 4},
            "spec": {"replicas": 2}, "status": status});
        Deployment::of(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn it_is_rolled_out_when_it_says_so_of_what_it_is_now() {
        for (observed, updated, all, expected) in
            [(4, 2, 2, true), (3, 2, 2, false), (4, 1, 2, false), (4, 2, 3, false), (4, 0, 2, false)]
        {
            let status = json!({"observedGeneration": observed, "updatedReplicas": updated, "replicas": all});
            assert_eq!(deployment(status.clone()).rolled_out, expected, "{status}");
        }
        assert!(!deployment(json!({})).rolled_out);
    }

    #[test]
    fn only_what_does_not_pass_by_itself_counts_at_once() {
        let reason = |message: &str, observed: u32, second: i64| {
            let status = json!({"observedGeneration": observed, "conditions": [
                {"type": "Progressing", "status": "True", "message": "fine"},
                {"type": "ReplicaFailure", "status": "True", "message": message, "lastTransitionTime": "2026-11-24T00:00:00Z"}]});
            let begun: Timestamp = "2026-11-24T00:00:00Z".parse().unwrap();
            let now = begun + SignedDuration::from_secs(second);
            deployment(status).obstacle?.reason(now).map(str::to_owned)
        };
        let quota = "pods \"x\" is forbidden: exceeded quota: tight";
        assert_eq!(reason(quota, 4, 0).as_deref(), Some(quota));
        assert_eq!(reason(quota, 3, 60), None, "said of an earlier state");
        assert_eq!(reason("failed calling webhook \"w\"", 4, 29), None);
        assert_eq!(
            reason("failed calling webhook \"w\"", 4, 30).as_deref(),
            Some("failed calling webhook \"w\"")
        );
    }
}
