//! `skpr releases`: what was deployed to an environment, newest first.

use super::call::Cluster;
use super::release::Release;
use crate::args::Releases;
use crate::error::Error;
use crate::output::{Cell, Listing, Output};
use crate::settings::Settings;
use crate::time;
use jiff::Timestamp;
use skpr_proto::v1;

pub(super) async fn run(verb: &Releases, settings: &Settings, output: &Output) -> Result<(), Error> {
    let cluster = Cluster::connect(&verb.target, settings, output).await?;
    let answer = cluster.describe().await?;
    let releases: Vec<Release> = answer
        .releases
        .iter()
        .take(verb.lines.unwrap_or(usize::MAX))
        .map(|release: &v1::Release| Release::new(&cluster.environment, release))
        .collect();
    if answer.releases.is_empty() {
        output.note(&format!("nothing was deployed to {} by skpr yet", cluster.environment));
    }
    output.write(&output.render(&Listing {
        items: &releases,
        name: |release| release.id.clone(),
        headers: &["RELEASE", "VERSION", "STATE", "BY", "BEGAN", "TOOK", "NOTE"],
        cells,
        csv_headers: &[
            "id",
            "number",
            "version",
            "state",
            "by",
            "began",
            "ended",
            "seconds",
            "restores",
            "reason",
            "instance",
            "exit_code",
            "digest",
        ],
        csv,
    })?)
}

fn cells(release: &Release) -> Vec<Cell> {
    let restores = release.restores.map(|number| format!("restores {number}"));
    let notes: Vec<String> = restores.into_iter().chain(release.reason.clone()).collect();
    vec![
        Cell::new(release.number.to_string()),
        Cell::new(release.version.as_str()),
        Cell::coloured(release.state_in_words(), release.colour()),
        Cell::new(release.by.as_str()),
        Cell::new(time::ago(release.began_at, Timestamp::now())),
        Cell::new(release.seconds.map(took).unwrap_or_default()),
        Cell::new(notes.join("; ")),
    ]
}

/// Seconds are counted whole, and nothing takes none.
fn took(seconds: i64) -> String {
    if seconds == 0 { "<1s".to_owned() } else { time::span(seconds) }
}

fn csv(release: &Release) -> Vec<String> {
    let number = |number: Option<String>| number.unwrap_or_default();
    vec![
        release.id.clone(),
        release.number.to_string(),
        release.version.clone(),
        release.state.clone(),
        release.by.clone(),
        release.began.clone(),
        number(release.ended.clone()),
        number(release.seconds.map(|seconds| seconds.to_string())),
        number(release.restores.map(|restores| restores.to_string())),
        number(release.reason.clone()),
        number(release.instance.clone()),
        number(release.exit_code.map(|code| code.to_string())),
        number(release.digest.clone()),
    ]
}
