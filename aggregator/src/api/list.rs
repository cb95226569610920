//! `List`: the environments that the caller may see, production last.

use crate::aggregator::Shared;
use crate::audit::Access;
use crate::environment::EnvironmentKey;
use crate::inventory::{EnvironmentState, Inventory};
use skpr_proto::v1::{self, EnvironmentSummary, Instance, ListRequest, ListResponse};
use skpr_proto::{ErrorKind, Failure, Label};
use std::collections::BTreeSet;
use std::sync::Arc;
use tonic::Request;

pub(super) async fn list(
    shared: &Shared,
    request: &Request<ListRequest>,
    access: &mut Access,
) -> Result<ListResponse, Failure> {
    let user = super::caller(shared, request.metadata(), access).await?;
    let project = match &request.get_ref().project {
        Some(name) => Some(
            Label::parse("project", name)
                .map_err(|invalid| Failure::new(ErrorKind::Usage, invalid.to_string()))?,
        ),
        None => None,
    };
    let inventory = Arc::clone(&shared.inventory.borrow());
    if !inventory.heard {
        return Err(Failure::new(ErrorKind::Unavailable, "the aggregator does not know yet what runs"));
    }
    let wanted = |key: &&EnvironmentKey| project.as_ref().is_none_or(|project| *project == key.name.project);
    let candidates = inventory.environments.keys().filter(wanted).cloned().collect();
    let visible = shared.auth.visible(&user, candidates).await?;
    access.allowed(None);
    access.sent(visible.len(), 0);
    Ok(ListResponse { environments: summaries(&inventory, &visible) })
}

fn summaries(inventory: &Inventory, visible: &BTreeSet<EnvironmentKey>) -> Vec<EnvironmentSummary> {
    let mut shown: Vec<_> = inventory.environments.iter().filter(|(key, _)| visible.contains(key)).collect();
    // Stable: within either kind the order of names stays.
    shown.sort_by_key(|(key, state)| (key.name.project.clone(), state.wanted.production));
    shown.into_iter().map(|(key, state)| summary(key, state, inventory.stale)).collect()
}

fn summary(key: &EnvironmentKey, state: &EnvironmentState, stale: bool) -> EnvironmentSummary {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let instance = state
        .instances
        .iter()
        .map(|(name, instance)| Instance {
            name: name.to_string(),
            version: instance.version.to_string(),
            ready: instance.ready,
            node: instance.node.as_ref().map(ToString::to_string).unwrap_or_default(),
        })
        .collect();
    EnvironmentSummary {
        environment: Some(v1::Environment {
            namespace: Some(key.namespace.to_string()),
            ..(&key.name).into()
        }),
        versions: state.versions().iter().map(ToString::to_string).collect(),
        ready: count(state.ready()),
        instances: count(state.instances.len()),
        minimum: state.wanted.minimum,
        maximum: state.wanted.maximum,
        production: state.wanted.production,
        instance,
        stale,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::tests::key;
    use crate::inventory::Wanted;

    #[test]
    fn production_is_last_in_its_project_and_the_invisible_is_absent() {
        let production = Wanted { production: true, ..Wanted::default() };
        let wanted = [
            (key("a", "shop", "live"), production),
            (key("a", "shop", "staging"), Wanted::default()),
            (key("a", "shop", "dev"), Wanted::default()),
            (key("a", "web", "dev"), Wanted::default()),
            (key("a", "zoo", "dev"), Wanted::default()),
        ];
        let inventory = Inventory::of(Default::default(), &wanted.clone().into());
        let visible =
            wanted.iter().map(|(key, _)| key.clone()).filter(|key| key.name.project.as_str() != "zoo");
        let names: Vec<_> = summaries(&inventory, &visible.collect())
            .into_iter()
            .map(|summary| summary.environment.unwrap())
            .map(|name| format!("{}/{}", name.project, name.environment))
            .collect();
        assert_eq!(names, ["shop/dev", "shop/staging", "shop/live", "web/dev"]);
    }
}
