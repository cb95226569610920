//! `skpr whoami`: who the cluster says the caller is.

use crate::client::{Client, call_error};
use crate::error::Error;
use crate::output::{Cell, Listing, Output};
use crate::settings::Settings;
use crate::terminal::clean;
use serde::Serialize;
use skpr_proto::v1::WhoAmIRequest;

#[derive(Serialize)]
struct Caller {
    name: String,
    groups: Vec<String>,
    cluster: String,
}

pub(super) async fn run(settings: &Settings, output: &Output) -> Result<(), Error> {
    let access = settings.access()?;
    let answer = Client::connect(&access).await?.environments().who_am_i(WhoAmIRequest {}).await;
    let answer = answer.map_err(|status| call_error(&status, &access.endpoint))?.into_inner();
    let caller = Caller {
        name: clean(&answer.name).into_owned(),
        groups: answer.groups.iter().map(|group| clean(group).into_owned()).collect(),
        cluster: access.endpoint.to_string(),
    };
    output.object(&Listing {
        items: &[caller],
        name: |caller| caller.name.clone(),
        headers: &["NAME", "CLUSTER", "GROUPS"],
        cells: |caller| {
            vec![Cell::new(&caller.name), Cell::new(&caller.cluster), Cell::new(caller.groups.join(", "))]
        },
        csv_headers: &["name", "cluster", "groups"],
        csv: |caller| vec![caller.name.clone(), caller.cluster.clone(), caller.groups.join(" ")],
    })
}
