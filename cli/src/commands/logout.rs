//! `skpr logout`: forgets a login.

use crate::args::Logout;
use crate::client::Endpoint;
use crate::error::Error;
use crate::output::Output;
use crate::settings::Settings;
use skpr_proto::{ErrorKind, Failure};

pub(super) fn run(verb: &Logout, settings: &Settings, output: &Output) -> Result<(), Error> {
    let mut credentials = settings.directory.load()?;
    let endpoint = match &verb.cluster {
        Some(typed) => Endpoint::parse(typed)?,
        None => settings.endpoint(&credentials)?,
    };
    let name = endpoint.to_string();
    if credentials.clusters.remove(&name).is_none() {
        let known: Vec<&str> = credentials.clusters.keys().map(String::as_str).collect();
        let mut failure = Failure::new(ErrorKind::NotFound, format!("not logged in to `{name}`"));
        if !known.is_empty() {
            failure = failure.with_hint(format!("logged in to: {}", known.join(", ")));
        }
        return Err(failure.into());
    }
    if credentials.default.as_deref() == Some(name.as_str()) {
        // The only one that is left is the one that is meant from now on; of several, none is.
        let mut left = credentials.clusters.keys();
        credentials.default = left.next().filter(|_| left.next().is_none()).cloned();
    }
    settings.directory.store(&credentials)?;
    output.note(&format!("logged out of {name}"));
    Ok(())
}
