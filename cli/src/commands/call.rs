//! One call or a few to the aggregator about one environment, and what its errors tell the user.

use crate::args::Target;
use crate::client::{Access, Client, call_error};
use crate::error::{Error, did_you_mean};
use crate::output::Output;
use crate::settings::Settings;
use crate::terminal::clean;
use skpr_proto::{EnvironmentName, ErrorKind, Label, v1};
use tonic::{Response, Status};

/// An environment, and an open connection to where it is.
pub(super) struct Cluster<'a> {
    pub settings: &'a Settings,
    pub output: &'a Output,
    pub access: Access,
    pub client: Client,
    pub environment: EnvironmentName,
    /// Where several have one of that name: whose is meant. Filled in once the aggregator has said it.
    pub namespace: Option<String>,
}

impl<'a> Cluster<'a> {
    pub(super) async fn connect(
        target: &Target,
        settings: &'a Settings,
        output: &'a Output,
    ) -> Result<Self, Error> {
        let environment = settings.environment(&target.environment)?;
        let namespace = settings.namespace(target.namespace.as_deref())?;
        Cluster::open(environment, namespace, settings, output).await
    }

    pub(super) async fn open(
        environment: EnvironmentName,
        namespace: Option<Label>,
        settings: &'a Settings,
        output: &'a Output,
    ) -> Result<Self, Error> {
        let access = settings.access()?;
        let client = Client::connect(&access).await?;
        let namespace = namespace.map(String::from);
        Ok(Cluster { settings, output, access, client, environment, namespace })
    }

    /// The environment as it travels.
    pub(super) fn wire(&self) -> v1::Environment {
        v1::Environment { namespace: self.namespace.clone(), ..(&self.environment).into() }
    }

    /// What a call answered, or its error in words.
    pub(super) async fn answer<T>(&self, answer: Result<Response<T>, Status>) -> Result<T, Error> {
        match answer {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => {
                let error = call_error(&status, &self.access.endpoint);
                Err(suggest(error, &self.environment, self.settings).await)
            }
        }
    }

    /// Everything about the environment.
    pub(super) async fn describe(&self) -> Result<v1::DescribeResponse, Error> {
        let request = v1::DescribeRequest { environment: Some(self.wire()) };
        self.answer(self.client.environments().describe(request).await).await
    }
}

/// A name that the aggregator does not know, or does not let the caller know, was perhaps mistyped.
pub(super) async fn suggest(error: Error, environment: &EnvironmentName, settings: &Settings) -> Error {
    let Error::Failed { mut failure, causes } = error else { return error };
    if matches!(failure.kind, ErrorKind::NotFound | ErrorKind::NotAllowed) {
        let names = match settings.access() {
            Ok(access) => match Client::connect(&access).await {
                Ok(client) => super::list::names(&client, &access, settings).await,
                Err(_) => Vec::new(),
            },
            Err(_) => Vec::new(),
        };
        let full = environment.to_string();
        let of_project = format!("{}/", environment.project);
        // One of another project is meant only where there is none of this one.
        let known = names.iter().any(|name| name.starts_with(&of_project));
        let candidates = names.iter().map(String::as_str).filter(|name| **name != full);
        let near = did_you_mean(&full, candidates.filter(|name| !known || name.starts_with(&of_project)));
        match near {
            // The environment is there: it is something else that was not found.
            _ if names.contains(&full) && failure.hint.is_some() => {}
            Some(name) => {
                failure.hint =
                    Some(format!("did you mean `{}`? `skpr list --all` shows what you may see", clean(name)))
            }
            None if failure.hint.is_none() => failure.hint = Some("skpr list --all".to_owned()),
            None => {}
        }
        // The aggregator does not know which project is ours.
        let elsewhere = || matches!(settings.project(), Ok(Some(own)) if own != environment.project);
        if failure.hint.as_deref() == Some("skpr list") && elsewhere() {
            failure.hint = Some(format!("skpr list --project {}", environment.project));
        }
    }
    Error::Failed { failure, causes }
}
