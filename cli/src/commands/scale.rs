//! `skpr scale`: how many instances run, until the next deploy.

use super::call::Cluster;
use crate::args::Scale;
use crate::error::{Error, usage};
use crate::output::Output;
use crate::settings::Settings;
use serde::Serialize;
use skpr_proto::v1::ScaleRequest;

#[derive(Serialize)]
struct Scaled {
    project: String,
    environment: String,
    minimum_before: u32,
    maximum_before: u32,
    minimum: u32,
    maximum: u32,
    dry_run: bool,
}

pub(super) async fn run(verb: &Scale, settings: &Settings, output: &Output) -> Result<(), Error> {
    if let (Some(min), Some(max)) = (verb.min, verb.max) {
        check(min, max)?;
    }
    let cluster = Cluster::connect(&verb.target, settings, output).await?;
    let request = ScaleRequest {
        environment: Some(cluster.wire()),
        minimum: verb.min,
        maximum: verb.max,
        dry_run: verb.dry_run,
    };
    let answer = cluster.answer(cluster.client.environments().scale(request).await).await?;
    let scaled = Scaled {
        project: cluster.environment.project.to_string(),
        environment: cluster.environment.environment.to_string(),
        minimum_before: answer.minimum_before,
        maximum_before: answer.maximum_before,
        minimum: answer.minimum,
        maximum: answer.maximum,
        dry_run: verb.dry_run,
    };
    let before = range(answer.minimum_before, answer.maximum_before);
    let after = range(answer.minimum, answer.maximum);
    let text = match (before == after, verb.dry_run) {
        (true, _) => format!("{}: instances are {after} already; nothing was changed\n", cluster.environment),
        (false, dry_run) => format!(
            "{}: instances {before} → {after}, until the next deploy{}\n",
            cluster.environment,
            if dry_run { " (nothing was changed)" } else { "" },
        ),
    };
    output.thing(&scaled, &text, &cluster.environment.to_string())
}

fn check(minimum: u32, maximum: u32) -> Result<(), Error> {
    if minimum <= maximum {
        return Ok(());
    }
    Err(usage(format!("at least `{minimum}` instances are more than at most `{maximum}`"))
        .with_hint(format!("--min {maximum} --max {minimum}, or say both as you need them"))
        .into())
}

fn range(minimum: u32, maximum: u32) -> String {
    if minimum == maximum { minimum.to_string() } else { format!("{minimum}–{maximum}") }
}
