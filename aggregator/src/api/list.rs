//! `List`: the environments that the caller may see, production last.

use super::target::heard;
use super::usage::now;
use super::wire;
use crate::aggregator::Shared;
use crate::audit::Access;
use crate::environment::EnvironmentKey;
use crate::inventory::{EnvironmentState, Inventory};
use skpr_proto::error::usage;
use skpr_proto::v1::{EnvironmentSummary, Instance, ListRequest, ListResponse};
use skpr_proto::{Failure, Label};
use std::collections::BTreeSet;
use tonic::Request;

pub(super) async fn list(
    shared: &Shared,
    request: &Request<ListRequest>,
    access: &mut Access,
) -> Result<ListResponse, Failure> {
    let user = super::caller(shared, request.metadata(), access).await?;
    let project = match &request.get_ref().project {
        Some(name) => Some(Label::parse("project", name).map_err(|invalid| usage(invalid.to_string()))?),
        None => None,
    };
    let inventory = heard(shared)?;
    let wanted = |key: &&EnvironmentKey| project.as_ref().is_none_or(|project| *project == key.name.project);
    let candidates = inventory.environments.keys().filter(wanted).cloned().collect();
    let visible = shared.auth.visible(&user, candidates).await?;
    access.allowed(None);
    access.sent(visible.len(), 0);
    let with_instances = !request.get_ref().without_instances;
    let told = |(key, state): (&EnvironmentKey, &EnvironmentState)| {
        let mut summary = summary(key, state, inventory.stale);
        if with_instances {
            summary.instance = instances(state);
        }
        now::fill(&shared.usage, key, state, &mut summary);
        summary
    };
    Ok(ListResponse { environments: shown(&inventory, &visible).into_iter().map(told).collect() })
}

/// In the order of a list.
fn shown<'a>(
    inventory: &'a Inventory,
    visible: &BTreeSet<EnvironmentKey>,
) -> Vec<(&'a EnvironmentKey, &'a EnvironmentState)> {
    let mut shown: Vec<_> = inventory.environments.iter().filter(|(key, _)| visible.contains(key)).collect();
    // Stable: within either kind the order of names stays.
    shown.sort_by_key(|(key, state)| (key.name.project.clone(), is_production(state)));
    shown
}

pub(super) fn instances(state: &EnvironmentState) -> Vec<Instance> {
    state.instances.iter().map(|(name, state)| wire::instance(name, state)).collect()
}

/// Without its instances, and without what it uses.
pub(super) fn summary(key: &EnvironmentKey, state: &EnvironmentState, stale: bool) -> EnvironmentSummary {
    let managed = state.managed.as_deref();
    let instances = managed.and_then(|managed| managed.settings.instances.as_ref());
    let (minimum, maximum) = match (managed, instances) {
        (_, Some(instances)) => (instances.min, instances.max),
        // What an environment gets that does not say.
        (Some(_), None) => (1, 1),
        (None, None) => (state.wanted.minimum, state.wanted.maximum),
    };
    EnvironmentSummary {
        environment: Some(wire::environment(key)),
        versions: state.versions().iter().map(ToString::to_string).collect(),
        ready: wire::count(state.ready()),
        instances: wire::count(state.staying().count()),
        minimum,
        maximum,
        production: is_production(state),
        instance: Vec::new(),
        stale,
        release: managed.and_then(|managed| managed.releases.last()).map(wire::release),
        trouble: managed.and_then(|managed| managed.trouble.clone()),
        usage: None,
    }
}

pub(super) fn is_production(state: &EnvironmentState) -> bool {
    let managed = state.managed.as_deref().and_then(|managed| managed.settings.production);
    managed.unwrap_or_default() || state.wanted.production
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
        let names: Vec<_> =
            shown(&inventory, &visible.collect()).into_iter().map(|(key, _)| key.name.to_string()).collect();
        assert_eq!(names, ["shop/dev", "shop/staging", "shop/live", "web/dev"]);
    }
}
