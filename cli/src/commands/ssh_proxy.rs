//! `skpr ssh-proxy`: what `ssh` runs to get to an instance. stdin and stdout are SSH's bytes.
//!
//! Before the first of them it writes down the host key that the aggregator has told, so that `ssh` knows the host and never
//! has to ask.

use super::session::broken;
use crate::args::SshProxy;
use crate::client::call_error;
use crate::credentials;
use crate::error::Error;
use crate::output::Output;
use crate::session::{NotOpened, Session, Wanted, host_of, parse_host, stdin, stdout};
use crate::settings::Settings;
use anyhow::Context as _;

pub(super) async fn run(verb: SshProxy, settings: &Settings, output: &Output) -> Result<(), Error> {
    let environment = parse_host(&verb.host)?;
    let host = host_of(&environment);
    let access = settings.access()?;
    let wanted = Wanted { environment, namespace: settings.namespace(None)?, instance: verb.instance };
    let session = match Session::open(&access, &wanted).await {
        Ok(session) => session,
        Err(NotOpened::Refused(error)) => return Err(error),
        Err(NotOpened::Broken(error)) => return Err(broken(&error, output)),
    };
    let known = format!("{host} {}\n", session.opened.host_key);
    let path = settings.directory.known_host(&host);
    if std::fs::read_to_string(&path).ok().as_deref() != Some(known.as_str()) {
        let written = credentials::replace(&path, known.as_bytes());
        written.with_context(|| format!("write `{}`", path.display()))?;
    }
    output.detail(&format!("instance {}, version {}", session.opened.instance, session.opened.version));
    // `ssh` hangs up its proxy at its own end: the goodbye takes a moment longer.
    #[cfg(unix)]
    let _hangups = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
    let passed = session.relay.pass(stdin(), stdout()).await;
    passed.map_err(|status| broken(&call_error(&status, &access.endpoint), output))
}
