//! `metrics.k8s.io/v1beta1`, which the API server passes on to us: what `kubectl top` and autoscalers ask.
//!
//! - Whoever is not the API server's front proxy learns nothing, not even which paths there are.
//! - What is read is what the user that it names has been granted. The API server's own audit has the line of it.
//! - Nothing is kept here: every answer is made of what is known of usage at this moment.

mod objects;
mod quantity;
mod request;
mod selector;
mod status;

use super::monitoring::Peer;
use crate::aggregator::Shared;
use crate::auth::{ResourceGrant, Resources};
use crate::health;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use objects::{List, Object};
use request::{Query, Target, takes_json};
use serde::Serialize;
use skpr_proto::ErrorKind;
use status::Refusal;
use std::sync::Arc;

pub(super) fn routes(shared: Arc<Shared>) -> Router {
    Router::new().route("/apis", any(answer)).route("/apis/{*path}", any(answer)).with_state(shared)
}

/// Answers everything below `/apis`.
async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    match asked(&shared, &request.into_parts().0).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    }
}

async fn asked(shared: &Shared, request: &Parts) -> Result<Response, Refusal> {
    let peer = request.extensions.get::<Peer>();
    let certificates = peer.map_or(&[][..], |peer| &peer.certificates);
    let user = shared.auth.passed_on(certificates, &request.headers)?;
    let target = Target::parse(request.uri.path()).ok_or_else(Refusal::no_such_path)?;
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(Refusal::not_a_read());
    }
    if !takes_json(accept(&request.headers).as_deref()) {
        return Err(Refusal::only_json());
    }
    let resources = match target {
        Target::Groups => return Ok(json(&objects::groups())),
        Target::Group => return Ok(json(&objects::group())),
        Target::Kinds => return Ok(json(&objects::kinds())),
        Target::Objects(resources) => resources,
    };
    let query = Query::parse(request.uri.query().unwrap_or_default()).map_err(Refusal::not_understood)?;
    if query.watch {
        return Err(Refusal::not_a_read());
    }
    let grant = shared.auth.grant_resources(&user, resources).await?;
    if let Some(reason) = health::unready(shared) {
        return Err(Refusal::of(ErrorKind::Unavailable, reason));
    }
    read(shared, &grant, &query)
}

/// What the grant is for, as far as the query selects it.
fn read(shared: &Shared, grant: &ResourceGrant, query: &Query) -> Result<Response, Refusal> {
    match grant.resources() {
        Resources::Pods { namespace, name } => {
            let found = shared.usage.pods(namespace.as_ref(), |pod| {
                let namespace = pod.environment.namespace.as_str();
                match name {
                    Some(name) => **name == *pod.instance,
                    // Of a pod whose labels are not known nothing can be said that selects.
                    None => {
                        !pod.labels.is_empty()
                            && query.fields.matches(namespace, &pod.instance)
                            && query.labels.matches(&pod.labels)
                    }
                }
            });
            let found = found.iter().map(objects::pod);
            let full = |name: &String| match namespace {
                Some(namespace) => format!("{namespace}/{name}"),
                None => name.clone(),
            };
            answer_with(found, name.as_ref().map(full), ["PodMetrics", "PodMetricsList", "podmetrics"])
        }
        Resources::Nodes { name } => {
            if !query.labels.selects_all() {
                return Err(Refusal::not_understood(
                    "skpr knows no labels of nodes: nodes cannot be selected by them".to_owned(),
                ));
            }
            let mut nodes = shared.usage.nodes();
            nodes.sort_unstable_by(|one, other| one.node.cmp(&other.node));
            let wanted = nodes.iter().filter(|node| match name {
                Some(name) => name == node.node.as_str(),
                None => query.fields.matches("", node.node.as_str()),
            });
            let found = wanted.filter_map(objects::node);
            answer_with(found, name.clone(), ["NodeMetrics", "NodeMetricsList", "nodemetrics"])
        }
    }
}

/// The one that has a name, or all. `kinds`: of one, of a list, and as an error has it.
fn answer_with(
    mut found: impl Iterator<Item = Object>,
    name: Option<String>,
    [one, list, resource]: [&'static str; 3],
) -> Result<Response, Refusal> {
    match name {
        None => Ok(json(&List::new(list, found.collect()))),
        Some(name) => match found.next() {
            Some(object) => Ok(json(&object.alone(one))),
            None => Err(Refusal::not_found(resource, name)),
        },
    }
}

/// All that the caller says about what it takes.
fn accept(headers: &HeaderMap) -> Option<String> {
    let lines: Vec<&str> =
        headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    (!lines.is_empty()).then(|| lines.join(","))
}

fn json(answer: &impl Serialize) -> Response {
    status::with(StatusCode::OK, answer)
}
