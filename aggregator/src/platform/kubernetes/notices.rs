//! Kubernetes' own events about environments, for `kubectl describe`: as many as can be had, and nobody waits for them.

use super::access::CONTROLLER;
use super::resource::{API_VERSION, KIND, object_name};
use crate::environment::EnvironmentKey;
use crate::event::{Event, Kind};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event as Notice, EventType, Recorder, Reporter};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Notices that wait to be written, of some 2 KiB each. A full queue drops what comes.
const WAITING: usize = 256;

#[derive(Debug)]
pub(super) struct Notices {
    out: mpsc::Sender<(Notice, ObjectReference)>,
    /// Owns the task that publishes them.
    _publisher: JoinSet<()>,
}

impl Notices {
    pub(super) fn new(client: Client, identity: &str) -> Notices {
        let (out, mut waiting) = mpsc::channel::<(Notice, ObjectReference)>(WAITING);
        let reporter = Reporter { controller: CONTROLLER.into(), instance: Some(identity.to_owned()) };
        let recorder = Recorder::new(client, reporter);
        let mut publisher = JoinSet::new();
        publisher.spawn(async move {
            while let Some((notice, object)) = waiting.recv().await {
                if let Err(error) = recorder.publish(&notice, &object).await {
                    tracing::debug!(error = &error as &dyn std::error::Error, "a notice was not taken");
                }
            }
        });
        Notices { out, _publisher: publisher }
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.out.max_capacity() - self.out.capacity()
    }

    pub(super) fn publish<'a>(
        &self,
        key: &EnvironmentKey,
        uid: &str,
        events: impl Iterator<Item = &'a Event>,
    ) {
        let object = ObjectReference {
            api_version: Some(API_VERSION.into()),
            kind: Some(KIND.into()),
            name: Some(object_name(&key.name)),
            namespace: Some(key.namespace.to_string()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        for event in events {
            drop(self.out.try_send((notice(event), object.clone())));
        }
    }
}

fn notice(event: &Event) -> Notice {
    let body = &event.body;
    // The recorder joins what has the same action and reason, whatever it says.
    let (action, reason) = match (body.kind, body.state) {
        (Kind::Deploy, Some(state)) => {
            (format!("Release{}", body.release.unwrap_or_default()), camel(state.name()))
        }
        (Kind::Deploy, None) => ("Release".to_owned(), "Release".to_owned()),
        (Kind::Scale, _) => ("Scale".to_owned(), "Scaled".to_owned()),
        (Kind::Run, _) => ("Run".to_owned(), "RunFailed".to_owned()),
        (Kind::Restart | Kind::OutOfMemory | Kind::Probe | Kind::Trouble | Kind::Environment, _)
        | (Kind::Session | Kind::Task, _) => ("Reconcile".to_owned(), "Trouble".to_owned()),
    };
    Notice {
        type_: if body.warning { EventType::Warning } else { EventType::Normal },
        reason,
        note: Some(body.text.chars().take(1000).collect()),
        action,
        secondary: None,
    }
}

/// `rolled-back` as Kubernetes writes reasons: `RolledBack`.
fn camel(name: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    };
    name.split('-').map(word).collect()
}
