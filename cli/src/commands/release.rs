//! A release as users see it, in every verb that shows one.

use crate::terminal::clean;
use crate::time;
use jiff::Timestamp;
use serde::Serialize;
use skpr_proto::{EnvironmentName, UnixNanos, v1};

/// In JSON and YAML; what came from the cluster is harmless to print.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Release {
    /// `project/environment/number`: what `skpr deploy --follow` takes.
    pub id: String,
    pub number: u64,
    pub version: String,
    pub digest: Option<String>,
    pub by: String,
    pub began: String,
    pub ended: Option<String>,
    /// From its beginning to its end.
    pub seconds: Option<i64>,
    pub state: String,
    pub reason: Option<String>,
    pub restores: Option<u64>,
    pub instance: Option<String>,
    pub exit_code: Option<i32>,
    #[serde(skip)]
    pub began_at: UnixNanos,
}

pub(super) fn text(text: &str) -> String {
    clean(text).into_owned()
}

impl Release {
    pub(super) fn new(environment: &EnvironmentName, release: &v1::Release) -> Self {
        let optional = |value: &Option<String>| value.as_deref().map(text);
        let began_at = release.began.map_or(UnixNanos(0), UnixNanos::from);
        let ended = release.ended.map(UnixNanos::from);
        Release {
            id: format!("{environment}/{}", release.number),
            number: release.number,
            version: text(&release.version),
            digest: optional(&release.digest),
            by: text(&release.by),
            began: time::rfc3339(began_at),
            ended: ended.map(time::rfc3339),
            seconds: ended.map(|ended| (ended.0.saturating_sub(began_at.0) / 1_000_000_000).max(0)),
            state: text(&release.state),
            reason: optional(&release.reason),
            restores: release.restores,
            instance: optional(&release.instance),
            exit_code: release.exit_code,
            began_at,
        }
    }

    /// `5m ago by dana`.
    pub(super) fn age_and_author(&self, now: Timestamp) -> String {
        let ago = time::ago(self.began_at, now);
        if self.by.is_empty() { ago } else { format!("{ago} by {}", self.by) }
    }

    /// `succeeded`, `rolled back`.
    pub(super) fn state_in_words(&self) -> String {
        self.state.replace('-', " ")
    }

    pub(super) fn colour(&self) -> &'static str {
        match self.state.as_str() {
            "succeeded" => "32",
            "failed" | "rolled-back" => "31",
            "deploying" | "rolling-back" => "33",
            _ => "2",
        }
    }
}

/// ``release `shop/dev/42` (`v42`) is being deployed by dana since 2026-11-22T04:40:00Z``.
pub(super) fn under_way(environment: &EnvironmentName, release: &v1::Release) -> String {
    let Release { id, version, by, began, .. } = Release::new(environment, release);
    format!("release `{id}` (`{version}`) is being deployed by {by} since {began}")
}

/// Whether it is still under way.
pub(super) fn is_open(state: &str) -> bool {
    matches!(state, "deploying" | "rolling-back")
}
