//! What no program of OpenSSH sends: another client, and one that overdoes it.

use super::Server;
use russh::client::{AuthResult, Config, Handle, Handler, Msg, connect};
use russh::keys::PublicKeyOrCertificate;
use russh::{Channel, ChannelMsg, Sig};
use skpr_proto::ssh::OWN_USER;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Believes every host.
struct Anyone;

impl Handler for Anyone {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

async fn client(server: &Server) -> Handle<Anyone> {
    let config = Arc::new(Config::default());
    let mut handle = connect(config, (Ipv4Addr::LOCALHOST, server.port), Anyone).await.unwrap();
    assert!(matches!(handle.authenticate_none(OWN_USER).await.unwrap(), AuthResult::Success));
    handle
}

/// What is said until the text, or the end.
async fn heard(channel: &mut Channel<Msg>, wanted: &str) -> String {
    let mut said = String::new();
    while !said.contains(wanted) {
        match channel.wait().await {
            Some(ChannelMsg::Data { data }) => said.push_str(&String::from_utf8_lossy(&data)),
            Some(_) => {}
            None => break,
        }
    }
    said
}

async fn exit_code(channel: &mut Channel<Msg>) -> Option<u32> {
    let mut code = None;
    while let Some(message) = channel.wait().await {
        if let ChannelMsg::ExitStatus { exit_status } = message {
            code = Some(exit_status);
        }
    }
    code
}

fn with_server(test: impl AsyncFnOnce(&Server)) {
    let server = Server::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let in_time = tokio::time::Duration::from_secs(60);
    runtime.block_on(async { tokio::time::timeout(in_time, test(&server)).await.unwrap() });
}

#[test]
fn a_place_is_free_again_when_its_session_has_ended() {
    with_server(async |server| {
        let handle = client(server).await;
        for number in 0..3 * super::super::CHANNELS {
            let mut channel = handle.channel_open_session().await.unwrap();
            channel.exec(true, format!("exit {number}")).await.unwrap();
            assert_eq!(exit_code(&mut channel).await, Some(u32::try_from(number).unwrap()));
        }
    });
}

/// Case 35.
#[test]
fn of_sizes_that_come_fast_the_last_one_counts_and_none_is_impossible() {
    with_server(async |server| {
        let handle = client(server).await;
        let mut channel = handle.channel_open_session().await.unwrap();
        channel.request_pty(true, "xterm", 80, 24, 0, 0, &[]).await.unwrap();
        channel.exec(true, "echo ready; read line; stty size; read line; stty size").await.unwrap();
        heard(&mut channel, "ready").await;
        for number in 1..=500 {
            channel.window_change(number, 1000 - number, 0, 0).await.unwrap();
        }
        channel.window_change(120, 50, 0, 0).await.unwrap();
        channel.data_bytes(&b"\n"[..]).await.unwrap();
        heard(&mut channel, "50 120").await;
        channel.window_change(65_535, 0, 0, 0).await.unwrap();
        channel.data_bytes(&b"\n"[..]).await.unwrap();
        heard(&mut channel, "24 9999").await;
        assert_eq!(exit_code(&mut channel).await, Some(0));
    });
}

/// Case 37.
#[test]
fn a_signal_arrives_and_one_that_is_unknown_does_nothing() {
    with_server(async |server| {
        let handle = client(server).await;
        let mut channel = handle.channel_open_session().await.unwrap();
        let line = "trap 'exit 9' INT; echo ready; while :; do sleep 0.11; done";
        channel.exec(true, line).await.unwrap();
        heard(&mut channel, "ready").await;
        channel.signal(Sig::Custom("nonsense@example.com".into())).await.unwrap();
        channel.signal(Sig::INT).await.unwrap();
        assert_eq!(exit_code(&mut channel).await, Some(9));
    });
}

/// Cases 41 and 45.
#[test]
fn a_thousand_channels_and_variables_are_too_many_and_do_no_harm() {
    with_server(async |server| {
        let handle = client(server).await;
        let mut channels = Vec::new();
        for _ in 0..1000 {
            channels.extend(handle.channel_open_session().await.ok());
        }
        assert_eq!(channels.len(), super::super::CHANNELS);
        let mut channel = channels.pop().unwrap();
        for number in 0..1000 {
            channel.set_env(false, format!("LC_{number}"), "x".repeat(10_000)).await.unwrap();
            channel.set_env(false, "LD_PRELOAD", "/tmp/x.so").await.unwrap();
        }
        channel.set_env(false, "LC_ALL", "C").await.unwrap();
        channel.exec(true, "env; exit 5").await.unwrap();
        let said = heard(&mut channel, "LC_ALL=C").await;
        assert!(!said.contains("LD_PRELOAD") && !said.contains("LC_1"), "{said}");
        assert_eq!(exit_code(&mut channel).await, Some(5));
        // A second program on a channel is refused.
        let mut channel = channels.pop().unwrap();
        channel.exec(true, "exit 6").await.unwrap();
        channel.exec(true, "exit 7").await.unwrap();
        let mut refused = 0;
        while let Some(message) = channel.wait().await {
            refused += usize::from(matches!(message, ChannelMsg::Failure));
        }
        assert_eq!(refused, 1);
    });
}
