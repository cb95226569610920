//! `skpr forward`: a port of this machine that leads to one of an instance, until Ctrl-C or until the connection breaks.

use super::session::{BROKEN, lost, open};
use crate::args::Forward;
use crate::error::{Error, usage};
use crate::output::Output;
use crate::session::{Ports, forward};
use crate::settings::Settings;
use crate::terminal::clean;
use anyhow::Context as _;
use skpr_proto::Failure;
use std::net::Ipv4Addr;
use tokio::net::TcpListener;

pub(super) async fn run(verb: Forward, settings: &Settings, output: &Output) -> Result<(), Error> {
    let (local, host, port) = parse(&verb.ports)?;
    // Nobody else's machine gets in.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, local)).await;
    let listener = listener.with_context(|| format!("listen on port {local} of this machine"))?;
    let address = listener.local_addr()?;
    let access = settings.access()?;
    let (session, banner) = open(verb.place, &access, settings, output).await?;
    output.note(&banner);
    output.note(&format!("{address} leads to port {port} of {host} there"));
    let refused =
        |error: &russh::Error| output.note(&format!("port {port} of {host} does not answer: {error}"));
    let ports = Ports { listener, host: host.clone(), port };
    match forward(session.relay, &session.opened.host_key, &ports, refused).await {
        Ok(never) => match never {},
        Err(broken) => {
            output.report(&lost(&broken, &access));
            Err(Error::Exit(BROKEN))
        }
    }
}

/// The port here, and the host and the port there.
fn parse(ports: &str) -> Result<(u16, String, u16), Failure> {
    let wrong = || {
        let shown: String = ports.chars().take(100).collect();
        usage(format!("`{}` does not say which port leads where", clean(&shown)))
            .with_hint("say LOCAL:REMOTE, such as 8080:80")
    };
    let (local, there) = ports.split_once(':').ok_or_else(wrong)?;
    let (host, remote) = there.rsplit_once(':').unwrap_or(("localhost", there));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
    if host.is_empty() || host.len() > 255 || !host.bytes().all(plain) {
        return Err(wrong());
    }
    let number = |text: &str| text.parse::<u16>().map_err(|_| wrong());
    match (number(local)?, number(remote)?) {
        (_, 0) => Err(wrong()),
        (local, remote) => Ok((local, host.to_owned(), remote)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_as_people_write_them() {
        for (typed, expected) in [
            ("8080:80", (8080, "localhost", 80)),
            ("0:80", (0, "localhost", 80)),
            ("3307:db:3306", (3307, "db", 3306)),
            ("3307:db.example.com:3306", (3307, "db.example.com", 3306)),
            ("1:[::1]:2", (1, "::1", 2)),
        ] {
            let (local, host, port) = parse(typed).unwrap();
            assert_eq!((local, host.as_str(), port), expected, "{typed}");
        }
        for typed in
            ["", "80", ":80", "80:", "80:0", "70000:80", "80:a b:1", "80::1", "x:80", "\u{1b}:\u{1b}"]
        {
            let failure = parse(typed).unwrap_err();
            assert!(!failure.message.contains('\u{1b}'), "{typed:?}");
        }
    }
}
