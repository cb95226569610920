//! A project to deploy, and what a cluster answers while that goes on.

use crate::Home;
use crate::fake::{Fake, Part, Script};
use skpr_proto::v1::{Change, DeployResponse, Environment, FollowResponse, Instance, Instant, Release};

pub(crate) const MANIFEST: &str = "\
project: shop
image: registry.example.com/shop
defaults: {port: 8080, health: /healthz}
environments:
  dev: {instances: {min: 2, max: 2}, env: {KEY: s3cret}}
  prod: {production: true}
";

pub(crate) fn at(second: i64) -> Option<Instant> {
    // 2026-11-22T04:40:00Z
    Some(Instant { unix_nanos: 1_795_322_400_000_000_000 + second * 1_000_000_000 })
}

pub(crate) fn instance(name: &str, release: u64, ready: bool) -> Instance {
    Instance {
        name: name.into(),
        version: format!("v{release}"),
        release: Some(release),
        ready,
        ..Instance::default()
    }
}

/// Release 42 puts v42 in the place of v41.
pub(crate) fn answer(state: &str, instances: &[Instance]) -> FollowResponse {
    let ended = !matches!(state, "deploying" | "rolling-back");
    FollowResponse {
        release: Some(Release {
            number: 42,
            version: "v42".into(),
            by: "dana".into(),
            began: at(0),
            ended: ended.then(|| at(30)).flatten(),
            state: state.into(),
            ..Release::default()
        }),
        ready: u32::try_from(instances.iter().filter(|it| it.release == Some(42) && it.ready).count())
            .unwrap(),
        instances: instances.to_vec(),
        wanted: 2,
        waiting_for: if ended {
            String::new()
        } else {
            "1 of 2 instances are ready; `web-b` waits (Pending)".into()
        },
        ..FollowResponse::default()
    }
}

pub(crate) fn succeeded() -> FollowResponse {
    answer("succeeded", &[instance("web-a", 42, true), instance("web-b", 42, true)])
}

pub(crate) fn planned() -> DeployResponse {
    DeployResponse {
        environment: Some(Environment {
            project: "shop".into(),
            environment: "dev".into(),
            namespace: Some("sites".into()),
        }),
        version_before: Some("v41".into()),
        version: "v42".into(),
        changes: vec![
            Change { setting: "memory.max".into(), before: Some("256Mi".into()), after: Some("1Gi".into()) },
            Change {
                setting: "env.KEY".into(),
                before: Some("(hidden)".into()),
                after: Some("(hidden)".into()),
            },
            Change { setting: "port".into(), before: None, after: Some("8080\u{1b}[2J".into()) },
        ],
        ..DeployResponse::default()
    }
}

pub(crate) fn scripted(answers: Vec<FollowResponse>) -> Fake {
    Fake::scripted(Script {
        planned: planned(),
        follow: [Part { answers, cut: None }].into(),
        ..Script::default()
    })
}

pub(crate) fn project() -> Home {
    let home = Home::new();
    home.write(".skpr.yml", MANIFEST);
    home
}
