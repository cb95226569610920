//! `skpr rollback`: puts an earlier release back, and watches it as a deploy.

use super::call::Cluster;
use super::deploy::{Change, Wish, carry_out};
use crate::args::Rollback;
use crate::error::Error;
use crate::output::Output;
use crate::settings::Settings;
use skpr_proto::v1::RollbackRequest;

pub(super) async fn run(verb: &Rollback, settings: &Settings, output: &Output) -> Result<(), Error> {
    let wish = Wish::new(&verb.waiting, verb.dry_run)?;
    let cluster = Cluster::connect(&verb.target, settings, output).await?;
    let request = RollbackRequest {
        environment: None,
        version: verb.version.clone(),
        timeout_seconds: wish.timeout_seconds(),
        dry_run: false,
    };
    carry_out(Change::Rollback(request), &wish, cluster).await
}
