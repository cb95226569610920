//! `skpr whoami`: who the cluster says the caller is, and what they may do.

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
    /// Empty where Kubernetes has them.
    rights: Vec<String>,
}

/// Where the aggregator has no list of rights.
const KUBERNETES_KNOWS: &str = "as RBAC says: kubectl auth can-i --list";

pub(super) async fn run(settings: &Settings, output: &Output) -> Result<(), Error> {
    let access = settings.access()?;
    let answer = Client::connect(&access).await?.environments().who_am_i(WhoAmIRequest {}).await;
    let answer = answer.map_err(|status| call_error(&status, &access.endpoint))?.into_inner();
    let caller = Caller {
        name: clean(&answer.name).into_owned(),
        groups: answer.groups.iter().map(|group| clean(group).into_owned()).collect(),
        cluster: access.endpoint.to_string(),
        rights: answer.rights.iter().map(|right| clean(right).into_owned()).collect(),
    };
    output.object(&Listing {
        items: &[caller],
        name: |caller| caller.name.clone(),
        headers: &["NAME", "CLUSTER", "GROUPS", "RIGHTS"],
        cells: |caller| {
            let rights = caller.rights.join(", ");
            vec![
                Cell::new(&caller.name),
                Cell::new(&caller.cluster),
                Cell::new(caller.groups.join(", ")),
                Cell::new(if rights.is_empty() { KUBERNETES_KNOWS.to_owned() } else { rights }),
            ]
        },
        csv_headers: &["name", "cluster", "groups", "rights"],
        csv: |caller| {
            let Caller { name, cluster, groups, rights } = caller;
            vec![name.clone(), cluster.clone(), groups.join(" "), rights.join(" ")]
        },
    })
}
