//! An API server for tests: keeps objects in memory, as far as rounds of the controller and changes of users need one.
//! No controller works on what is written to it; a test does that by hand.

use super::access::{api_resource, is_made};
use super::desired::Kind;
use super::{ClusterOptions, MetricsApi, Options};
use crate::environment::EnvironmentKey;
use axum::body::Body;
use http::{Method, Request, Response};
use kube::Client;
use kube::core::ObjectMeta;
use serde_json::{Value, json};
use skpr_proto::Label;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
pub(super) struct Fake(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    /// Every write: `PATCH deployments/shop-dev`.
    writes: Vec<String>,
    /// How writes are answered that are not done: by `PATCH deployments/shop-dev`, perhaps with the manager's name.
    refused: BTreeMap<String, (u16, String)>,
    /// From which write on nobody is there any more.
    cut: Option<(usize, Cut)>,
}

/// What becomes of the first write of which no answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    Before,
    After,
}

/// As skpr is installed in a test.
pub(super) fn options() -> Options {
    Options {
        namespace: Label::parse("namespace", "skpr").unwrap(),
        lease: "l".into(),
        identity: "i".into(),
        home: "{project}".into(),
        create_namespaces: true,
        metrics_api: MetricsApi::Never,
        monitoring_service: "s".into(),
        cluster: ClusterOptions { volume_access_mode: "ReadWriteOnce".into(), ..ClusterOptions::default() },
    }
}

impl Fake {
    pub(super) fn client(&self) -> Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let fake = fake.clone();
            async move { fake.answer(request).await }
        });
        Client::new(service, "default")
    }

    pub(super) fn put(&self, path: &str, manager: &str, mut object: Value) {
        let mut state = self.0.lock().unwrap();
        state.version += 1;
        let name = path.rsplit('/').next().unwrap();
        let meta = json!({"name": name, "namespace": "sites", "uid": format!("u{}", state.version), "generation": 1,
            "creationTimestamp": "2026-11-24T00:00:00Z", "resourceVersion": state.version.to_string(),
            "managedFields": [{"manager": manager, "operation": "Apply", "time": "2026-11-24T00:00:00Z",
                "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {}}}]});
        merge(&mut object, &json!({ "metadata": meta }));
        state.objects.insert(path.to_owned(), object);
    }

    /// The object, or null.
    pub(super) fn get(&self, path: &str) -> Value {
        self.0.lock().unwrap().objects.get(path).cloned().unwrap_or_default()
    }

    /// The objects below a path.
    pub(super) fn find(&self, below: &str) -> Vec<Value> {
        let state = self.0.lock().unwrap();
        state
            .objects
            .iter()
            .filter(|(path, _)| path.starts_with(below))
            .map(|(_, object)| object.clone())
            .collect()
    }

    pub(super) fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.0.lock().unwrap();
        state.version += 1;
        let version = state.version.to_string();
        let object = state.objects.get_mut(path).unwrap();
        change(object);
        object["metadata"]["resourceVersion"] = json!(version);
    }

    pub(super) fn forget(&self, path: &str) {
        self.0.lock().unwrap().objects.remove(path);
    }

    pub(super) fn forbid(&self, write: &str) {
        self.refuse(write, 403, &format!("{write} is forbidden"));
    }

    pub(super) fn refuse(&self, write: &str, code: u16, message: &str) {
        self.0.lock().unwrap().refused.insert(write.to_owned(), (code, message.to_owned()));
    }

    /// After this many writes no answer comes any more, until it is mended.
    pub(super) fn cut_after(&self, writes: usize, cut: Cut) {
        self.0.lock().unwrap().cut = Some((writes, cut));
    }

    pub(super) fn mend(&self) {
        let mut state = self.0.lock().unwrap();
        (state.cut, state.refused) = (None, BTreeMap::new());
    }

    /// Deletes what belongs to nobody that is there any more, as Kubernetes does.
    pub(super) fn collect(&self) {
        let mut state = self.0.lock().unwrap();
        let uids: Vec<Value> =
            state.objects.values().map(|object| object["metadata"]["uid"].clone()).collect();
        state.objects.retain(|_, object| {
            let owners = object["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
            owners.is_empty() || owners.iter().any(|owner| uids.contains(&owner["uid"]))
        });
    }

    /// The writes since this was asked last.
    pub(super) fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().writes)
    }

    /// What the controller's watches would know to be ours.
    pub(super) fn children(&self, key: &EnvironmentKey) -> BTreeMap<(Kind, String), String> {
        let state = self.0.lock().unwrap();
        let mut children = BTreeMap::new();
        for kind in Kind::ALL {
            let start = path(key, kind, "");
            for (path, object) in state.objects.iter().filter(|(path, _)| path.starts_with(&start)) {
                let metadata: ObjectMeta = serde_json::from_value(object["metadata"].clone()).unwrap();
                if is_made(&metadata) {
                    children.insert((kind, path[start.len()..].to_owned()), metadata.uid.unwrap());
                }
            }
        }
        children
    }

    async fn answer(&self, request: Request<kube::client::Body>) -> Result<Response<Body>, tower::BoxError> {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await?;
        let body: Value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body)? };
        let query = parts.uri.query().unwrap_or_default();
        let manager = query.split('&').find_map(|part| part.strip_prefix("fieldManager="));
        let answer = self.0.lock().unwrap().answer(&parts.method, parts.uri.path(), manager, &body);
        let (code, object) = match answer {
            Ok(object) => (200, object),
            Err((code, message)) => {
                let reason = match code {
                    404 => "NotFound",
                    409 => "Conflict",
                    500 => "InternalError",
                    _ => "Forbidden",
                };
                let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "message": message, "reason": reason, "code": code});
                (code, status)
            }
        };
        Ok(Response::builder().status(code).body(Body::from(object.to_string()))?)
    }
}

/// Where an object of the environment is.
pub(super) fn path(key: &EnvironmentKey, kind: Kind, name: &str) -> String {
    let resource = api_resource(kind);
    let group = if resource.group.is_empty() { "/api" } else { "/apis" };
    format!("{group}/{}/namespaces/{}/{}/{name}", resource.api_version, key.namespace, resource.plural)
}

type Answer = Result<Value, (u16, String)>;

impl State {
    fn answer(&mut self, method: &Method, path: &str, manager: Option<&str>, body: &Value) -> Answer {
        let missing = || (404, format!("{path} not found"));
        if *method == Method::GET {
            if let Some(object) = self.objects.get(path) {
                return Ok(object.clone());
            }
            let start = format!("{path}/");
            let items: Vec<&Value> = self
                .objects
                .iter()
                .filter(|(path, _)| path.starts_with(&start))
                .map(|(_, item)| item)
                .collect();
            let plural = path.rsplit('/').next().unwrap();
            let is_list =
                plural == "jobs" || Kind::ALL.iter().any(|kind| api_resource(*kind).plural == plural);
            let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items});
            return if is_list { Ok(list) } else { Err(missing()) };
        }
        let made = body["metadata"]["name"].as_str().filter(|_| *method == Method::POST);
        let path = &made.map_or_else(|| path.to_owned(), |name| format!("{path}/{name}"));
        let (whole, is_status) =
            path.strip_suffix("/status").map_or((path.as_str(), false), |whole| (whole, true));
        let mut words = whole.rsplit('/');
        let (name, plural) = (words.next().unwrap(), words.next().unwrap());
        let write = format!("{method} {plural}/{name}{}", if is_status { "/status" } else { "" });
        self.writes.push(write.clone());
        let by_manager = format!("{write} {}", manager.unwrap_or_default());
        if let Some(refused) = self.refused.get(&write).or_else(|| self.refused.get(&by_manager)) {
            return Err(refused.clone());
        }
        match &mut self.cut {
            None => self.write(method, (whole, is_status), manager, body),
            Some((left @ 1.., _)) => {
                *left -= 1;
                self.write(method, (whole, is_status), manager, body)
            }
            Some((_, cut)) => {
                if std::mem::replace(cut, Cut::Before) == Cut::After {
                    self.write(method, (whole, is_status), manager, body).ok();
                }
                Err((500, "nobody is there".into()))
            }
        }
    }

    fn write(
        &mut self,
        method: &Method,
        (whole, is_status): (&str, bool),
        manager: Option<&str>,
        body: &Value,
    ) -> Answer {
        if *method == Method::DELETE {
            return self.objects.remove(whole).ok_or_else(|| (404, format!("{whole} not found")));
        }
        self.version += 1;
        let version = self.version.to_string();
        let before = self.objects.get(whole).cloned();
        let asked = &body["metadata"]["resourceVersion"];
        if before
            .as_ref()
            .is_some_and(|before| !asked.is_null() && *asked != before["metadata"]["resourceVersion"])
        {
            return Err((409, "the object has been modified".into()));
        }
        let mut object = before.clone().unwrap_or_else(
            || json!({"metadata": {"uid": format!("u{version}"), "creationTimestamp": "2026-11-24T00:00:00Z"}}),
        );
        if is_status {
            object["status"] = body["status"].clone();
        } else if *method == Method::PUT && before.is_none() {
            return Err((404, format!("{whole} not found")));
        } else if *method == Method::PUT {
            let status = object["status"].clone();
            object = body.clone();
            object["status"] = status;
            // Nobody writes what the server keeps.
            for kept in ["uid", "generation", "creationTimestamp", "managedFields"] {
                let value = before.as_ref().map(|before| before["metadata"][kept].clone());
                object["metadata"][kept] = value.unwrap_or_default();
            }
        } else {
            merge(&mut object, body);
            if let Some(manager) = manager {
                let fields = json!([{"manager": manager, "operation": "Apply"}]);
                let known = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
                let new =
                    if known.iter().any(|field| field["manager"] == manager) { json!([]) } else { fields };
                let all: Vec<Value> = known.into_iter().chain(new.as_array().cloned().unwrap()).collect();
                object["metadata"]["managedFields"] = all.into();
            }
        }
        let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
        if before.is_none_or(|before| before["spec"] != object["spec"]) {
            object["metadata"]["generation"] = json!(generation + 1);
        }
        object["metadata"]["resourceVersion"] = json!(version);
        self.objects.insert(whole.to_owned(), object.clone());
        Ok(object)
    }
}

/// As a merge patch does: nulls remove, lists are replaced.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (into, from) if from.is_object() => {
            *into = json!({});
            merge(into, from);
        }
        (into, from) => *into = from.clone(),
    }
}
