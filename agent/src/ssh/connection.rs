//! What russh asks of one connection, answered at once: nothing here waits for a process, a disk or the network, because
//! the whole connection would wait with it. Channels do their work in tasks of their own.

use super::channel::{Channels, Ready, SFTP};
use super::forward::Forward;
use crate::runtime::{To, User};
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, Session};
use russh::{Channel, ChannelId, ChannelOpenFailure, Pty, Sig};
use skpr_proto::ssh;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What is said to a client that asks for what is not served.
const NO_REMOTE_FORWARDING: &str = "ports of an instance cannot be forwarded to your machine (ssh -R)";
const NO_X11: &str = "X11 is not forwarded";
const NO_AGENT: &str = "the keys of your machine are not forwarded (ssh -A)";

/// What a client has opened.
pub(super) enum Opened {
    Session(Ready),
    /// It is answered once it is known whether there is anything.
    Forward(Forward),
}

/// One connection.
pub(super) struct Connection {
    channels: Arc<Channels>,
    opened: mpsc::Sender<Opened>,
    /// Whether a channel has been told what to run.
    running: HashMap<ChannelId, bool>,
    logged_in: CancellationToken,
}

impl Connection {
    pub(super) fn new(channels: Arc<Channels>, opened: mpsc::Sender<Opened>) -> Connection {
        Connection { channels, opened, running: HashMap::new(), logged_in: CancellationToken::new() }
    }

    /// Is cancelled once the client has logged in.
    pub(super) fn logged_in(&self) -> CancellationToken {
        self.logged_in.clone()
    }

    /// Has a forward dialled, elsewhere.
    async fn forward(&mut self, channel: Channel<Msg>, to: To, origin: &str, reply: ChannelOpenHandle) {
        match self.channels.take_forward() {
            // There is a place in the queue for each that is let in; without one the reply is dropped, which refuses.
            Some(place) => {
                let paced = origin == ssh::FORWARD;
                let forward = Forward { channel, to, paced, reply, place };
                drop(self.opened.try_send(Opened::Forward(forward)));
            }
            None => reply.reject(ChannelOpenFailure::ResourceShortage).await,
        }
    }

    /// Answers a request to run something: yes, once for each channel.
    fn run(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), russh::Error> {
        // One that is not open has no place here, and one that runs something already runs nothing else.
        let runs = self.running.get_mut(&channel).is_none_or(|running| std::mem::replace(running, true));
        if runs { session.channel_failure(channel) } else { session.channel_success(channel) }
    }
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_none(&mut self, user: &str) -> Result<Auth, russh::Error> {
        self.channels.log_in(User::parse(user));
        Ok(Auth::Accept)
    }

    async fn auth_succeeded(&mut self, _: &mut Session) -> Result<(), russh::Error> {
        self.logged_in.cancel();
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let id = channel.id();
        let place = match self.channels.take() {
            Some(place) => place,
            None => {
                reply.reject(ChannelOpenFailure::ResourceShortage).await;
                return Ok(());
            }
        };
        // There is a place in the queue for each that is let in.
        let ready = Ready { channel, handle: session.handle(), place };
        if self.opened.try_send(Opened::Session(ready)).is_err() {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        self.running.insert(id, false);
        reply.accept().await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        origin: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        match u16::try_from(port) {
            Ok(port) => self.forward(channel, To::Port { host: host.to_owned(), port }, origin, reply).await,
            Err(_) => reply.reject(ChannelOpenFailure::ConnectFailed).await,
        }
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        path: &str,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.forward(channel, To::Socket(path.into()), "", reply).await;
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _: &mut Session) -> Result<(), russh::Error> {
        self.running.remove(&channel);
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _: &str,
        _: u32,
        _: u32,
        _: u32,
        _: u32,
        _: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        match self.running.get(&channel) {
            Some(false) => session.channel_success(channel),
            Some(true) | None => session.channel_failure(channel),
        }
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        _: &str,
        _: &str,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        // Which variables are taken is decided by the channel; a client need not know.
        session.channel_success(channel)
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), russh::Error> {
        self.run(channel, session)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        _: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.run(channel, session)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        if name == SFTP { self.run(channel, session) } else { session.channel_failure(channel) }
    }

    async fn signal(&mut self, _: ChannelId, _: Sig, _: &mut Session) -> Result<(), russh::Error> {
        // The channel gets it, too.
        Ok(())
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _: bool,
        _: &str,
        _: &str,
        _: u32,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.channels.refuse(NO_X11);
        session.channel_failure(channel)
    }

    async fn agent_request(&mut self, _: ChannelId, _: &mut Session) -> Result<bool, russh::Error> {
        self.channels.refuse(NO_AGENT);
        Ok(false)
    }

    async fn tcpip_forward(&mut self, _: &str, _: &mut u32, _: &mut Session) -> Result<bool, russh::Error> {
        self.channels.refuse(NO_REMOTE_FORWARDING);
        Ok(false)
    }

    async fn streamlocal_forward(&mut self, _: &str, _: &mut Session) -> Result<bool, russh::Error> {
        self.channels.refuse(NO_REMOTE_FORWARDING);
        Ok(false)
    }
}
