//! `skpr forward`: a port of this machine that leads to one of an instance, until Ctrl-C or until the connection breaks.

use super::session::{ended_early, open};
use crate::args::{Format, Forward};
use crate::error::{Error, usage};
use crate::output::{Output, escape_json};
use crate::session::{Ports, forward};
use crate::settings::Settings;
use crate::terminal::clean;
use russh::ChannelOpenFailure;
use serde::Serialize;
use skpr_proto::{ErrorKind, Failure};
use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use tokio::net::TcpListener;

/// What leads where, for programs.
#[derive(Serialize)]
struct Forwarded<'a> {
    address: String,
    port: u16,
    project: &'a str,
    environment: &'a str,
    instance: &'a str,
    remote_host: &'a str,
    remote_port: u16,
}

pub(super) async fn run(verb: Forward, settings: &Settings, output: &Output) -> Result<(), Error> {
    let (local, host, port) = parse(&verb.ports)?;
    let typed = clean(&verb.place.target.environment).into_owned();
    // Nobody else's machine gets in.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, local)).await;
    let listener = listener.map_err(|error| not_listening(&error, local, &typed, &verb.ports))?;
    let address = listener.local_addr()?;
    let access = settings.access()?;
    let name = settings.environment(&typed)?;
    let (session, banner) = open(verb.place, &access, settings, output).await?;
    output.note(&banner);
    output.note(&format!("{address} leads to port {port} of {host} there"));
    tell(
        &Forwarded {
            address: address.to_string(),
            port: address.port(),
            project: name.project.as_str(),
            environment: name.environment.as_str(),
            instance: &session.opened.instance,
            remote_host: &host,
            remote_port: port,
        },
        output,
    )?;
    let hinted = Cell::new(false);
    let refused = |error: &russh::Error| {
        output.note(&refusal(error, &host, port));
        if !hinted.replace(true) {
            output.note(&format!(
                "hint: check the host and the port, and whether what is to answer there runs: skpr logs {typed}"
            ));
        }
    };
    let ports = Ports { listener, host: host.clone(), port };
    match forward(session.relay, &session.opened.host_key, &ports, refused).await {
        Ok(never) => match never {},
        Err(broken) => Err(ended_early(&broken, &access, output)),
    }
}

/// Writes it for programs, to whom it is the sign that connections are taken.
fn tell(forwarded: &Forwarded<'_>, output: &Output) -> Result<(), Error> {
    match output.format {
        // People have been told.
        Format::Table => Ok(()),
        // In a line, since whoever reads it does not wait for the end.
        Format::Json => {
            let line = serde_json::to_string(forwarded).map_err(anyhow::Error::new)?;
            output.write((escape_json(line) + "\n").as_bytes())
        }
        Format::Yaml | Format::Csv | Format::Name => output.thing(forwarded, "", &forwarded.address),
    }
}

/// Why a port of this machine cannot be had, and which can.
fn not_listening(error: &io::Error, local: u16, environment: &str, ports: &str) -> Error {
    let message = match error.kind() {
        io::ErrorKind::AddrInUse => format!("port {local} of this machine is another program's already"),
        io::ErrorKind::PermissionDenied => format!("you may not take port {local} of this machine"),
        _ => format!("port {local} of this machine cannot be taken"),
    };
    let there = ports.split_once(':').map_or(ports, |(_, there)| there);
    let hint = format!(
        "say another port before the first `:`, or 0 for one that is free: skpr forward {environment} 0:{there}"
    );
    Error::new(Failure::new(ErrorKind::Failed, message).with_hint(hint), error)
}

/// Why a connection was not passed on, in words.
fn refusal(error: &russh::Error, host: &str, port: u16) -> String {
    let why = match error {
        russh::Error::ChannelOpenFailure(ChannelOpenFailure::ConnectFailed) => {
            format!("nothing takes connections at port {port} of {host} there, or it does not answer")
        }
        russh::Error::ChannelOpenFailure(ChannelOpenFailure::ResourceShortage) => {
            "the instance's agent has as many connections open as it can".to_owned()
        }
        russh::Error::ChannelOpenFailure(ChannelOpenFailure::AdministrativelyProhibited) => {
            "ports of this instance are not forwarded, because no agent serves it; what speaks to them can be run \
             in it: skpr exec ENV -- PROGRAM"
                .to_owned()
        }
        russh::Error::ChannelOpenFailure(_) => "the instance's agent does not pass it on".to_owned(),
        other => format!("it broke: {other}"),
    };
    format!("a connection came to nothing: {why}")
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
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let is_name = !host.is_empty() && host.len() <= 255 && host.bytes().all(plain);
    if !is_name && host.parse::<Ipv6Addr>().is_err() {
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
    fn a_port_that_cannot_be_had_is_said_with_one_that_can() {
        for (kind, expected) in [
            (io::ErrorKind::AddrInUse, "port 80 of this machine is another program's already"),
            (io::ErrorKind::PermissionDenied, "you may not take port 80 of this machine"),
            (io::ErrorKind::OutOfMemory, "port 80 of this machine cannot be taken"),
        ] {
            let said = not_listening(&kind.into(), 80, "shop/dev", "80:db:3306").text();
            assert!(said.contains(expected), "{said}");
            assert!(said.contains("hint: say another port before"), "{said}");
            assert!(said.ends_with("skpr forward shop/dev 0:db:3306\n"), "{said}");
        }
    }

    #[test]
    fn a_refused_connection_is_explained_without_the_words_of_a_protocol() {
        for (reason, expected) in [
            (ChannelOpenFailure::ConnectFailed, "nothing takes connections at port 80 of db there"),
            (ChannelOpenFailure::ResourceShortage, "as many connections open as it can"),
            (ChannelOpenFailure::AdministrativelyProhibited, "because no agent serves it"),
            (ChannelOpenFailure::UnknownChannelType, "does not pass it on"),
        ] {
            let said = refusal(&russh::Error::ChannelOpenFailure(reason.clone()), "db", 80);
            assert!(said.contains(expected) && !said.contains(&format!("{reason:?}")), "{said}");
        }
    }

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
        for typed in [
            "",
            "80",
            ":80",
            "80:",
            "80:0",
            "70000:80",
            "80:a b:1",
            "80::1",
            "x:80",
            "1:2:3:4",
            "\u{1b}:\u{1b}",
        ] {
            let failure = parse(typed).unwrap_err();
            assert!(!failure.message.contains('\u{1b}'), "{typed:?}");
        }
    }
}
