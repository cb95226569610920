//! An environment and its instances as `skpr list` and `skpr info` show them.

use super::release::{Release, is_open, text};
use super::usage::Usage;
use crate::output::Cell;
use crate::time;
use jiff::Timestamp;
use serde::Serialize;
use skpr_proto::v1::{self, EnvironmentSummary};
use skpr_proto::{EnvironmentName, UnixNanos};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Health {
    Ok,
    /// A release is under way.
    Deploying,
    /// A release failed and the one before is put back.
    RollingBack,
    /// The newest release failed and was left as it is.
    Failed,
    /// The platform cannot do what is asked.
    Trouble,
    /// Fewer instances are ready than should be.
    Degraded,
    Down,
}

impl Health {
    fn of(summary: &EnvironmentSummary) -> Self {
        let state = summary.release.as_ref().map_or("", |release| release.state.as_str());
        let wanted = summary.minimum.max(summary.instances);
        // The worst first; what is being worked on before what is merely not there yet.
        match (state, summary.ready) {
            ("deploying", _) => Health::Deploying,
            ("rolling-back", _) => Health::RollingBack,
            (_, 0) => Health::Down,
            _ if summary.trouble.is_some() => Health::Trouble,
            ("failed", _) => Health::Failed,
            (_, ready) if ready < wanted => Health::Degraded,
            _ => Health::Ok,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Health::Ok => "ok",
            Health::Deploying => "deploying",
            Health::RollingBack => "rolling-back",
            Health::Failed => "failed",
            Health::Trouble => "trouble",
            Health::Degraded => "degraded",
            Health::Down => "down",
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Health::Ok => "32",
            Health::Deploying | Health::RollingBack | Health::Degraded => "33",
            Health::Failed | Health::Trouble | Health::Down => "31",
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Environment {
    pub project: String,
    pub environment: String,
    /// None from an aggregator that does not tell.
    pub namespace: Option<String>,
    pub production: bool,
    pub versions: Vec<String>,
    pub ready: u32,
    pub instances: u32,
    pub minimum: Option<u32>,
    pub maximum: Option<u32>,
    pub health: Health,
    /// Why the platform does not do what is asked.
    pub trouble: Option<String>,
    /// The platform has not been heard from for a while.
    pub stale: bool,
    /// The newest; none when nothing was deployed through skpr.
    pub release: Option<Release>,
    /// What its instances use together; none when it was never sampled.
    pub usage: Option<Usage>,
    pub instance: Vec<Instance>,
}

#[derive(Debug, Serialize)]
pub(super) struct Instance {
    pub name: String,
    pub version: String,
    pub ready: bool,
    pub node: String,
    /// The number of the release that it belongs to.
    pub release: Option<u64>,
    pub created: Option<String>,
    pub restarts: u32,
    pub out_of_memory_kills: u32,
    /// It was asked to end.
    pub leaving: bool,
    /// Why it is not ready.
    pub trouble: Option<String>,
    /// Of its last end.
    pub exit_code: Option<i32>,
    /// None when it was never sampled.
    pub usage: Option<Usage>,
    #[serde(skip)]
    pub created_at: Option<UnixNanos>,
}

impl From<&v1::Instance> for Instance {
    fn from(instance: &v1::Instance) -> Self {
        let created_at = instance.created.map(UnixNanos::from);
        Instance {
            name: text(&instance.name),
            version: text(&instance.version),
            ready: instance.ready,
            node: text(&instance.node),
            release: instance.release,
            created: created_at.map(time::rfc3339),
            restarts: instance.restarts,
            out_of_memory_kills: instance.out_of_memory_kills,
            leaving: instance.leaving,
            trouble: instance.trouble.as_deref().map(text),
            exit_code: instance.exit_code,
            usage: instance.usage.as_ref().map(Usage::from),
            created_at,
        }
    }
}

impl From<EnvironmentSummary> for Environment {
    fn from(summary: EnvironmentSummary) -> Self {
        let health = Health::of(&summary);
        let name = summary.environment.unwrap_or_default();
        // A name that cannot be parsed is still shown; only its releases have no id that could be typed.
        let parsed = EnvironmentName::parse(&name.project, &name.environment).ok();
        Environment {
            release: summary
                .release
                .as_ref()
                .and_then(|release| Some(Release::new(parsed.as_ref()?, release))),
            project: text(&name.project),
            environment: text(&name.environment),
            namespace: name.namespace.as_deref().map(text),
            production: summary.production,
            versions: summary.versions.iter().map(|version| text(version)).collect(),
            ready: summary.ready,
            instances: summary.instances,
            minimum: (summary.minimum > 0).then_some(summary.minimum),
            maximum: (summary.maximum > 0).then_some(summary.maximum),
            health,
            trouble: summary.trouble.as_deref().map(text),
            stale: summary.stale,
            usage: summary.usage.as_ref().map(Usage::from),
            instance: summary.instance.iter().map(Instance::from).collect(),
        }
    }
}

impl Environment {
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.project, self.environment)
    }

    /// Nothing new was heard of it.
    pub(super) fn grow_old(&mut self) {
        self.stale = true;
        let instances = self.instance.iter_mut().filter_map(|instance| instance.usage.as_mut());
        self.usage.iter_mut().chain(instances).for_each(|usage| usage.stale = true);
    }

    /// `2/2–8`: ready, and how many are wanted; how many exist, where that is not known.
    pub(super) fn count(&self) -> String {
        let ready = self.ready;
        match (self.minimum, self.maximum) {
            (Some(minimum), Some(maximum)) if minimum == maximum => format!("{ready}/{minimum}"),
            (Some(minimum), Some(maximum)) => format!("{ready}/{minimum}–{maximum}"),
            (Some(minimum), None) => format!("{ready}/{minimum}–"),
            (None, Some(maximum)) => format!("{ready}/–{maximum}"),
            (None, None) => format!("{ready}/{}", self.instances),
        }
    }

    pub(super) fn health_cell(&self) -> Cell {
        let name = self.health.name().replace('-', " ");
        if self.stale {
            Cell::coloured(format!("{name} (stale)"), "2")
        } else {
            Cell::coloured(name, self.health.colour())
        }
    }

    /// `5m ago by dana`, and how it went unless it went well.
    pub(super) fn last_deploy(&self, now: Timestamp) -> String {
        let Some(release) = &self.release else { return "-".to_owned() };
        let done = release.state == "succeeded" || is_open(&release.state);
        let how = if done { String::new() } else { format!(", {}", release.state_in_words()) };
        format!("{}{how}", release.age_and_author(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_what_is_ready_of_what_should_be() {
        let of = |ready, instances, minimum, state: &str, trouble: bool| {
            Health::of(&EnvironmentSummary {
                ready,
                instances,
                minimum,
                release: (!state.is_empty())
                    .then(|| v1::Release { state: state.into(), ..v1::Release::default() }),
                trouble: trouble.then(|| "quota".to_owned()),
                ..EnvironmentSummary::default()
            })
        };
        for (ready, instances, minimum, state, trouble, expected) in [
            (2, 2, 2, "", false, Health::Ok),
            (2, 2, 0, "succeeded", false, Health::Ok),
            (1, 2, 2, "succeeded", false, Health::Degraded),
            (2, 2, 3, "rolled-back", false, Health::Degraded),
            (2, 2, 2, "rolled-back", false, Health::Ok),
            (0, 2, 2, "failed", true, Health::Down),
            (0, 0, 0, "", false, Health::Down),
            (0, 2, 2, "deploying", true, Health::Deploying),
            (1, 2, 2, "rolling-back", false, Health::RollingBack),
            (2, 2, 2, "failed", false, Health::Failed),
            (2, 2, 2, "failed", true, Health::Trouble),
        ] {
            assert_eq!(of(ready, instances, minimum, state, trouble), expected, "{ready} {state} {trouble}");
        }
    }
}
