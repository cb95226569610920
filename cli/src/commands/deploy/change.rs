//! What is asked of the aggregator: a deploy, or a rollback. Both answer alike and go on alike.

use crate::client::Client;
use skpr_proto::v1::{DeployRequest, DeployResponse, Environment, RollbackRequest};
use tonic::{Response, Status};

#[derive(Clone)]
pub(in crate::commands) enum Change {
    Deploy(DeployRequest),
    Rollback(RollbackRequest),
}

impl Change {
    /// In words that a version follows.
    pub(super) fn words(&self) -> &'static str {
        match self {
            Change::Deploy(_) => "deploy of",
            Change::Rollback(_) => "rollback to",
        }
    }

    /// Asks for it; with `dry_run` only what it would change.
    pub(super) async fn ask(
        &self,
        client: &Client,
        environment: Environment,
        dry_run: bool,
    ) -> Result<Response<DeployResponse>, Status> {
        let environment = Some(environment);
        match self.clone() {
            Change::Deploy(request) => {
                client.environments().deploy(DeployRequest { environment, dry_run, ..request }).await
            }
            Change::Rollback(request) => {
                client.environments().rollback(RollbackRequest { environment, dry_run, ..request }).await
            }
        }
    }
}
