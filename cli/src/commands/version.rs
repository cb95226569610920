//! `skpr version`: this program's version; with `-v` the cluster's too.

use crate::client::{Client, call_error};
use crate::error::Error;
use crate::output::{Cell, Listing, Output};
use crate::settings::Settings;
use crate::terminal::clean;
use serde::Serialize;
use skpr_proto::v1::WhoAmIRequest;

#[derive(Serialize)]
struct Versions {
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_version: Option<String>,
}

pub(super) async fn run(settings: &Settings, output: &Output) -> Result<(), Error> {
    let mut versions = Versions { version: env!("CARGO_PKG_VERSION"), server_version: None };
    if settings.verbose() {
        let access = settings.access()?;
        let answer = Client::connect(&access).await?.environments().who_am_i(WhoAmIRequest {}).await;
        let answer = answer.map_err(|status| call_error(&status, &access.endpoint))?.into_inner();
        versions.server_version = Some(clean(&answer.server_version).into_owned());
    }
    output.object(&Listing {
        items: &[versions],
        name: |versions| versions.version.to_owned(),
        headers: &["SKPR", "CLUSTER"],
        cells: |versions| {
            vec![Cell::new(versions.version), Cell::new(versions.server_version.clone().unwrap_or_default())]
        },
        csv_headers: &["version", "server_version"],
        csv: |versions| {
            vec![versions.version.to_owned(), versions.server_version.clone().unwrap_or_default()]
        },
    })
}
