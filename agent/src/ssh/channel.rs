//! One channel: from its first request to the end of its process.
//!
//! * Messages are taken in whatever else is waited for: a channel that were not read would hold up the connection.
//! * What is sent to the client is sent by tasks, each at the client's pace.

mod request;

pub(super) use request::SFTP;

use super::output::{self, Pace, Stream, To, pass_on};
use super::signals::to_tell;
use super::spill::{self, Drain, Filler};
use super::taken::Taken;
use super::{CHANNELS, Ended, FORWARDS, INSTANCE_ENDED, Session};
use crate::recording::{Record, Recording};
use crate::runtime::{Command, Exit, Input, Process, Size, Start, StartError, User};
use request::{Asked, Event};
use russh::server::{Handle, Msg};
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use skpr_proto::ssh;
use std::future::pending;
use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Often enough for a client that may be [`ssh::MOST_UNTAKEN`] ahead.
const TELL_EVERY: u64 = ssh::MOST_UNTAKEN / 16;
/// What ends a line of input to a terminal's reader.
const END_OF_TYPING: [u8; 1] = [4];

/// The longest that a process is being ended, and what is told of it.
const TOLD_WITHIN: Duration = Duration::from_secs(15);
/// How long a client may take to read it.
const READ_WITHIN: Duration = Duration::from_secs(2);

/// What a person is told before anything else whose terminal is recorded.
const RECORDED: &str = "this session is recorded";

/// What the channels of one connection share.
pub(super) struct Channels {
    session: Session,
    user: OnceLock<User>,
    places: Arc<Semaphore>,
    forwards: Arc<Semaphore>,
    over: CancellationToken,
    refused: Mutex<Vec<&'static str>>,
    last: Mutex<Option<Exit>>,
}

/// A channel that was just opened for a process.
pub(super) struct Ready {
    pub(super) channel: Channel<Msg>,
    pub(super) handle: Handle,
    pub(super) place: OwnedSemaphorePermit,
}

impl Channels {
    pub(super) fn new(session: Session) -> Channels {
        Channels {
            session,
            user: OnceLock::new(),
            places: Arc::new(Semaphore::new(CHANNELS)),
            forwards: Arc::new(Semaphore::new(FORWARDS)),
            over: CancellationToken::new(),
            refused: Mutex::default(),
            last: Mutex::default(),
        }
    }

    /// A place for one more; none when there are enough.
    pub(super) fn take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// The same for a forward.
    pub(super) fn take_forward(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.forwards).try_acquire_owned().ok()
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// As whom its processes run. No channel is there before, and nobody logs in twice.
    pub(super) fn log_in(&self, user: User) {
        drop(self.user.set(user));
    }

    fn user(&self) -> User {
        self.user.get().cloned().unwrap_or(User::Own)
    }

    /// The connection is over.
    pub(super) fn end(&self) {
        self.over.cancel();
    }

    /// Returns when it is.
    pub(super) async fn over(&self) {
        self.over.cancelled().await;
    }

    /// What the next channel that begins tells its user.
    pub(super) fn refuse(&self, what: &'static str) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if !refused.contains(&what) {
            refused.push(what);
        }
    }

    /// Returns when the instance has ended and what was run in it, too, as far as that can be waited for.
    pub(super) async fn gone(&self) {
        self.session.runtime.gone(&self.session.instance).await;
        let all = u32::try_from(CHANNELS).unwrap_or(u32::MAX);
        drop(timeout(TOLD_WITHIN, self.places.acquire_many(all)).await);
        // A client that has been told closes the connection itself; OpenSSH would not write what it has not written by then.
        sleep(READ_WITHIN).await;
    }

    pub(super) fn ended(&self) -> Option<Ended> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.map(|exit| Ended { exit, user: self.user() })
    }

    fn refusals(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.refused.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Why a channel's work was given up.
enum Interrupted {
    /// The client has closed it, or is gone.
    Gone,
    /// More was sent than can be kept.
    Full(String),
}

/// Serves a channel to its end.
pub(super) async fn serve(ready: Ready, channels: &Channels) {
    let Ready { channel, handle, place: _place } = ready;
    let (read, write) = channel.split();
    let (filler, drain) = spill::pair(&channels.session.space);
    let mut serving = Serving {
        channels,
        read,
        write: Arc::new(write),
        handle,
        filler,
        terminal: false,
        size: None,
        recording: None,
        tell_taken: false,
        taken: None,
    };
    let start = match serving.asked().await {
        Ok(start) => start,
        Err(interrupted) => return serving.interrupted(interrupted).await,
    };
    serving.terminal = start.terminal.is_some();
    // Files are nothing to look at, whether or not there is a terminal.
    let seen = start.terminal.clone().filter(|_| start.command != Command::Files);
    let recorded = channels.session.record.as_ref().zip(seen);
    if recorded.is_some()
        && let Err(interrupted) = serving.say(RECORDED).await
    {
        return serving.interrupted(interrupted).await;
    }
    let runtime = &channels.session.runtime;
    let instance = &channels.session.instance;
    let started = serving.meanwhile(runtime.start(instance, start), None).await;
    let interrupted = match started {
        Ok(Ok(process)) => {
            let begin = |(record, terminal): (&Record, _)| record.begin(&terminal, process.shell.clone());
            serving.recording = recorded.map(begin).map(Arc::new);
            serving.run(process, drain).await.err()
        }
        Ok(Err(error)) => {
            drop(drain);
            serving.not_started(&error).await.err()
        }
        Err(interrupted) => Some(interrupted),
    };
    // Once it is closed here, russh passes on nothing that the client still says, not even that it has closed it, too.
    if let Some(interrupted) = interrupted {
        serving.interrupted(interrupted).await;
    }
}

struct Serving<'a> {
    channels: &'a Channels,
    read: ChannelReadHalf,
    write: Arc<ChannelWriteHalf<Msg>>,
    handle: Handle,
    filler: Filler,
    /// The client shows it on a terminal.
    terminal: bool,
    /// The terminal's, when it changed after it was asked for.
    size: Option<Size>,
    /// Of what its terminal shows.
    recording: Option<Arc<Recording>>,
    tell_taken: bool,
    /// What a client that says so has passed on of what it was sent.
    taken: Option<watch::Sender<u64>>,
}

impl Serving<'_> {
    /// Tells the client why it ends early, if there still is one.
    async fn interrupted(mut self, why: Interrupted) {
        match why {
            Interrupted::Gone => {}
            Interrupted::Full(why) => {
                drop(self.farewell(&why, Exit::Code(u8::MAX)).await);
            }
        }
    }

    /// What is said beside a process's own output, as what shows it needs it: a terminal that a program has in its hands does
    /// not go back to the first column by itself.
    fn lines(&self, said: &str) -> String {
        let said = format!("skpr: {said}\n");
        if self.terminal { said.replace('\n', "\r\n") } else { said }
    }

    /// Tells the client something.
    async fn say(&mut self, line: &str) -> Result<(), Interrupted> {
        let (write, line) = (Arc::clone(&self.write), self.lines(line));
        // Whether it hears it, shows in what it does next.
        self.meanwhile(async move { drop(write.extended_data_bytes(ssh::STDERR, line).await) }, None).await
    }

    /// Waits for the request to run something.
    async fn asked(&mut self) -> Result<Start, Interrupted> {
        let mut asked = Asked::default();
        loop {
            let message = self.read.wait().await;
            match asked.take(message.ok_or(Interrupted::Gone)?) {
                Event::Run(command) => {
                    self.tell_taken = asked.tell_taken;
                    self.taken = asked.tells_taken.then(|| watch::channel(0).0);
                    return Ok(asked.start(command, self.channels.user()));
                }
                Event::Data(bytes) => {
                    self.filler.push(bytes).await.map_err(|full| Interrupted::Full(full.to_string()))?;
                }
                Event::End => self.filler.end(),
                Event::Close => return Err(Interrupted::Gone),
                Event::Resize(_) | Event::Signal(_) | Event::Taken(_) | Event::Nothing => {}
            }
        }
    }

    /// Waits for `work`, and takes in what comes meanwhile.
    async fn meanwhile<T>(
        &mut self,
        work: impl Future<Output = T>,
        process: Option<&Process>,
    ) -> Result<T, Interrupted> {
        let mut work = pin!(work);
        // What was asked for is settled; a second request to run something has been refused.
        let mut asked = Asked::default();
        loop {
            let message: Option<ChannelMsg> = tokio::select! {
                done = &mut work => return Ok(done),
                message = self.read.wait() => message,
            };
            match asked.take(message.ok_or(Interrupted::Gone)?) {
                Event::Data(bytes) => {
                    self.filler.push(bytes).await.map_err(|full| Interrupted::Full(full.to_string()))?;
                }
                Event::End => self.filler.end(),
                Event::Close => return Err(Interrupted::Gone),
                Event::Resize(size) => {
                    self.size = Some(size);
                    process.into_iter().for_each(|process| process.resize(size));
                    self.recording.iter().for_each(|recording| recording.resize(size));
                }
                Event::Signal(signal) => process.into_iter().for_each(|process| process.signal(signal)),
                Event::Taken(bytes) => {
                    if let Some(taken) = &self.taken {
                        taken.send_replace(bytes);
                    }
                }
                Event::Run(_) | Event::Nothing => {}
            }
        }
    }

    /// From the start of a process to what the client is told of its end.
    async fn run(&mut self, mut process: Process, drain: Drain) -> Result<(), Interrupted> {
        if let Some(size) = self.size {
            process.resize(size);
            self.recording.iter().for_each(|recording| recording.resize(size));
        }
        let (mut input, mut outputs) = (JoinSet::new(), JoinSet::new());
        let (ended, lost) = (CancellationToken::new(), CancellationToken::new());
        if let Some(stdin) = process.input.take() {
            let taken = Taken::new(self.tell_taken.then(|| Arc::clone(&self.write)), TELL_EVERY);
            input.spawn(feed(drain, stdin, process.has_terminal(), taken, lost.clone()));
        }
        let refusals: Vec<String> = self.channels.refusals().iter().map(|line| self.lines(line)).collect();
        let write = Arc::clone(&self.write);
        let said = async move {
            for line in refusals {
                drop(write.extended_data_bytes(ssh::STDERR, line).await);
            }
        };
        outputs.spawn(said);
        let pace = self.taken.as_ref().map(|taken| Pace::of(taken.subscribe()));
        let pipes = [(process.output.take(), Stream::Output), (process.errors.take(), Stream::Errors)];
        for (pipe, stream) in pipes {
            if let Some(pipe) = pipe {
                let end = output::End { ended: ended.clone(), on_the_way: process.on_the_way() };
                let (client, recording) = (Arc::clone(&self.write), self.recording.clone());
                outputs.spawn(pass_on(pipe, To { client, stream, recording, pace: pace.clone() }, end));
            }
        }
        let session = &self.channels.session;
        let over = async {
            tokio::select! {
                () = process.ended() => None,
                () = lost.cancelled() => Some("what was sent could not be kept, and some of it is lost"),
                () = session.runtime.gone(&session.instance) => Some(INSTANCE_ENDED),
            }
        };
        let over = self.meanwhile(over, Some(&process)).await;
        // What it has written can be read as long as it is kept.
        let mut kept = None;
        let (why, exit) = match &over {
            Ok(None) => {
                let exit = process.exit().await;
                kept = Some(process);
                ("", exit)
            }
            // Nobody is there, or will be, for what it still writes.
            Ok(Some(why)) => (*why, self.ending(process).await),
            Err(_) => {
                outputs.shutdown().await;
                let exit = self.ending(process).await;
                // Only then: half of a file would be taken for the whole by who sees its end.
                input.shutdown().await;
                ("", exit)
            }
        };
        let exit = exit.unwrap_or_else(|error| {
            tracing::warn!(%error, "the end of a process cannot be told");
            Exit::Code(u8::MAX)
        });
        // One that was cut short has not done what it was to do, whatever it says itself.
        let exit = if why.is_empty() { exit } else { Exit::Code(u8::MAX) };
        *self.channels.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(exit);
        over?;
        ended.cancel();
        input.shutdown().await;
        let outputs = async { while outputs.join_next().await.is_some() {} };
        self.meanwhile(outputs, None).await?;
        drop((kept, self.recording.take()));
        self.farewell(why, exit).await
    }

    /// Ends a process while what the client sends is still taken in.
    async fn ending(&mut self, process: Process) -> std::io::Result<Exit> {
        let mut end = pin!(process.end());
        match self.meanwhile(&mut end, None).await {
            Ok(exit) => exit,
            Err(_) => end.await,
        }
    }

    async fn not_started(&mut self, error: &StartError) -> Result<(), Interrupted> {
        let hint = error.hint().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        let exit = Exit::Code(error.exit_code());
        *self.channels.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(exit);
        self.farewell(&format!("{error}{hint}"), exit).await
    }

    /// Tells the client how it ended, in the order in which it has to be told.
    async fn farewell(&mut self, why: &str, exit: Exit) -> Result<(), Interrupted> {
        let (write, handle) = (Arc::clone(&self.write), self.handle.clone());
        let why = if why.is_empty() { String::new() } else { self.lines(why) };
        let told = async move {
            if !why.is_empty() {
                write.extended_data_bytes(ssh::STDERR, why).await?;
            }
            match exit {
                Exit::Code(code) => write.exit_status(code.into()).await?,
                Exit::Signal(number) => {
                    let (signal, none) = (to_tell(number), String::new);
                    let told = handle.exit_signal_request(write.id(), signal, false, none(), none()).await;
                    told.map_err(|()| russh::Error::SendError)?;
                }
            }
            write.eof().await?;
            write.close().await
        };
        if let Err(error) = self.meanwhile(told, None).await? {
            tracing::debug!(%error, "a client did not hear how its process ended");
        }
        Ok(())
    }
}

/// From what the client has sent to the process, at its pace.
async fn feed(mut drain: Drain, mut input: Input, terminal: bool, mut taken: Taken, lost: CancellationToken) {
    loop {
        match drain.next().await {
            Ok(Some(bytes)) => {
                if input.write(&bytes).await.is_err() {
                    // Nothing more is read, and what comes is dropped.
                    drop(drain);
                    return taken.tell(u64::MAX).await;
                }
                taken.passed(bytes.len() as u64).await;
            }
            Ok(None) => break,
            Err(error) => {
                tracing::error!(%error, "what a client has sent is lost");
                // Its stdin stays open: the end of what there is would be taken for the end of all.
                lost.cancel();
                return pending().await;
            }
        }
    }
    if terminal {
        // The terminal stays open for what the program still shows.
        drop(input.write(&END_OF_TYPING).await);
    } else {
        input.end().await;
    }
}
