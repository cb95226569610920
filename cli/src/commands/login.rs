//! `skpr login`: pins the cluster's CA, checks the token and stores both.
//!
//! Invariants: the token leaves this machine only after the CA is trusted; nothing is stored before the cluster has
//! accepted the token.

use crate::args::Login;
use crate::client::{Access, Ca, Client, Endpoint, Token, call_error, shown_ca};
use crate::credentials::{self, Credentials};
use crate::error::{Error, usage};
use crate::output::Output;
use crate::settings::{Settings, read_ca};
use crate::terminal;
use skpr_proto::v1::WhoAmIRequest;
use skpr_proto::{ErrorKind, Failure};
use std::io::Read as _;

/// Longer than any token: somebody piped the wrong file.
const MAX_TOKEN: u64 = 64 << 10;

pub(super) async fn run(verb: Login, settings: &Settings, output: &Output) -> Result<(), Error> {
    let endpoint = Endpoint::parse(&verb.cluster)?;
    let mut credentials = settings.directory.load()?;
    let ca = trusted_ca(&verb, &endpoint, &credentials, settings, output).await?;
    let text = token(&verb, settings)?;
    let access = Access { endpoint: endpoint.clone(), ca_pem: ca.to_pem(), token: Token::parse(&text)? };
    let answer = Client::connect(&access).await?.environments().who_am_i(WhoAmIRequest {}).await;
    let answer = answer.map_err(|status| {
        let error = call_error(&status, &endpoint);
        match error {
            Error::Failed { failure, causes } if failure.kind == ErrorKind::NotLoggedIn => Error::Failed {
                failure: failure
                    .with_hint("get a fresh token; in Kubernetes: kubectl create token NAME --audience skpr"),
                causes,
            },
            other => other,
        }
    })?;
    let name = endpoint.to_string();
    credentials
        .clusters
        .insert(name.clone(), credentials::Login { token: text.trim().to_owned(), ca_pem: access.ca_pem });
    credentials.default = Some(name.clone());
    settings.directory.store(&credentials)?;
    output.note(&format!("logged in to {name} as {}", answer.into_inner().name));
    Ok(())
}

async fn trusted_ca(
    verb: &Login,
    endpoint: &Endpoint,
    credentials: &Credentials,
    settings: &Settings,
    output: &Output,
) -> Result<Ca, Error> {
    if let Some(path) = verb.ca.as_deref().or(settings.variables.ca.as_deref()) {
        let ca = Ca::from_pem(&read_ca(path)?)?;
        match &verb.fingerprint {
            Some(typed) if !ca.has_fingerprint(typed) => return Err(wrong_fingerprint(&ca, typed)),
            _ => return Ok(ca),
        }
    }
    let ca = shown_ca(endpoint).await?;
    let fingerprint = ca.fingerprints().join(" ");
    if let Some(typed) = &verb.fingerprint {
        return if ca.has_fingerprint(typed) { Ok(ca) } else { Err(wrong_fingerprint(&ca, typed)) };
    }
    let pinned =
        credentials.clusters.get(&endpoint.to_string()).and_then(|login| Ca::from_pem(&login.ca_pem).ok());
    if pinned.as_ref() == Some(&ca) {
        output.detail("the cluster shows the CA that is already pinned");
        return Ok(ca);
    }
    if pinned.is_some() {
        output.warn(&format!("the CA of {endpoint} is not the one that was pinned at the last login"));
    }
    if !terminal::can_ask() {
        return Err(usage(format!(
            "the CA of `{endpoint}` is not known, and there is no terminal to ask on"
        ))
        .with_hint(format!("--ca FILE, or --fingerprint {fingerprint} if that is the right one"))
        .into());
    }
    output.warn(&format!("the CA of {endpoint} is not known; its SHA-256 fingerprint is {fingerprint}"));
    let answer = terminal::ask("Is it the one that your sysops gave you? [y/N] ")?;
    if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        Ok(ca)
    } else {
        Err(Failure::new(ErrorKind::Failed, format!("the CA of `{endpoint}` was not trusted"))
            .with_hint("ask your sysops for the fingerprint, or for the CA and use --ca FILE")
            .into())
    }
}

fn wrong_fingerprint(ca: &Ca, typed: &str) -> Error {
    let typed: String = typed.chars().take(128).collect();
    let own = ca.fingerprints().join(" ");
    Failure::new(ErrorKind::Failed, format!("the CA's fingerprint is not `{typed}` but `{own}`"))
        .with_hint("do not go on before you know why")
        .into()
}

fn token(verb: &Login, settings: &Settings) -> Result<String, Error> {
    if verb.token_stdin {
        let mut text = String::new();
        std::io::stdin().lock().take(MAX_TOKEN).read_to_string(&mut text)?;
        return Ok(text);
    }
    if let Some(token) = &settings.variables.token {
        return Ok(token.clone());
    }
    if !terminal::can_ask() {
        return Err(usage("no token was given, and there is no terminal to ask on")
            .with_hint("pipe it into --token-stdin, or set SKPR_TOKEN")
            .into());
    }
    Ok(terminal::ask_hidden("Token: ")?)
}
