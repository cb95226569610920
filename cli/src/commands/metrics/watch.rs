//! `skpr metrics --watch`: the whole screen, again with every sample, until the user has seen enough.
//!
//! Invariants: what is shown while there is no connection says so and of when it is; the first answer is waited for
//! before the screen is taken, so that what is wrong with the question is said as by any other command.

use super::series::Whole;
use super::{Question, ask, instant, table};
use crate::client::Access;
use crate::error::Error;
use crate::link::{Cut, Link};
use crate::output::{Output, Screen, cut_name};
use jiff::tz::TimeZone;
use skpr_proto::v1::{self, UsageResponse};
use skpr_proto::{ErrorKind, Failure};
use std::pin::pin;
use std::time::{Duration, Instant};
use table::Look;
use tokio::time::MissedTickBehavior;

/// How often instances are sampled, where the aggregator does not say.
const USUAL: Duration = Duration::from_secs(5);
const SHORTEST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);
/// How long an answer may take however often there is a sample.
const LEAST_PATIENCE: Duration = Duration::from_secs(3);
/// Ctrl-D, as it arrives where keys are read one by one.
const END: u8 = 4;

pub(super) async fn run(question: &Question<'_>, access: &Access, output: &Output) -> Result<(), Error> {
    let silent = output.silent();
    let mut link = Link::new(access, &silent, true);
    let first = match ask(&mut link, question.request(&question.range()?)).await {
        Ok(answer) => answer,
        Err(Cut::Lost(error) | Cut::Final(error)) => return Err(error),
        // A call that ended well has answered.
        Err(Cut::Closed) => return Ok(()),
    };
    question.is_about(&first)?;
    let namespace = question.namespace.clone().map(String::from).or_else(|| first.namespace.clone());
    let mut view = View {
        question,
        output,
        screen: Screen::open()?,
        resized: Resized::new()?,
        whole: Whole::new(&question.environment, first),
        received: Instant::now(),
        connection: Connection::Fine,
    };
    loop {
        view.draw()?;
        let pause = view.pause();
        if view.during(tokio::time::sleep(pause)).await?.is_none() {
            return Ok(());
        }
        let mut request = question.request(&question.range()?);
        // By then another of its name may be the one that runs.
        request.environment = request
            .environment
            .map(|environment| v1::Environment { namespace: namespace.clone(), ..environment });
        loop {
            let patience = view.patience();
            let asked = async {
                let answer = tokio::time::timeout(patience, ask(&mut link, request.clone())).await;
                answer.unwrap_or_else(|_| Err(Cut::Lost(late(patience).into())))
            };
            match view.during(asked).await? {
                None => return Ok(()),
                Some(Ok(answer)) => {
                    view.take(answer);
                    break;
                }
                Some(Err(Cut::Final(error))) => return Err(error),
                Some(Err(cut)) => {
                    view.connection = Connection::Lost;
                    view.draw()?;
                    match view.during(link.wait(cut)).await? {
                        None => return Ok(()),
                        Some(waited) => waited?,
                    }
                }
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Connection {
    Fine,
    Lost,
    /// Until the next answer.
    Back,
}

struct View<'a> {
    question: &'a Question<'a>,
    output: &'a Output,
    screen: Screen,
    resized: Resized,
    whole: Whole,
    received: Instant,
    connection: Connection,
}

impl View<'_> {
    fn take(&mut self, answer: UsageResponse) {
        self.whole = Whole::new(&self.question.environment, answer);
        self.received = Instant::now();
        self.connection = match self.connection {
            Connection::Lost => Connection::Back,
            Connection::Fine | Connection::Back => Connection::Fine,
        };
    }

    /// Nothing is new before the next sample.
    fn pause(&self) -> Duration {
        match self.whole.sample_millis {
            0 => USUAL,
            millis => Duration::from_millis(millis.into()).clamp(SHORTEST, LONGEST),
        }
    }

    /// What is shown is stale after two intervals, of which one has passed when it is asked for anew.
    fn patience(&self) -> Duration {
        self.pause().max(LEAST_PATIENCE)
    }

    fn draw(&mut self) -> Result<(), Error> {
        let (width, height) = self.output.size().unwrap_or((80, 24));
        let look = Look { width: Some(width), letters: self.output.letters, colour: self.output.colour };
        if self.connection == Connection::Lost {
            self.whole.grow_old(self.received.elapsed());
            self.received = Instant::now();
        }
        let frame = frame(&self.whole, self.question, self.connection, look, height);
        self.screen.draw(&frame, self.output)
    }

    /// Works, and meanwhile follows the user. `None`: they have seen enough.
    async fn during<T>(&mut self, work: impl Future<Output = T>) -> Result<Option<T>, Error> {
        let mut work = pin!(work);
        // What is shown without a connection grows old while it is looked at.
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                done = &mut work => return Ok(Some(done)),
                key = self.screen.key() => {
                    if matches!(key, b'q' | b'Q' | END) {
                        return Ok(None);
                    }
                }
                () = self.resized.next() => self.draw()?,
                _ = second.tick(), if self.connection == Connection::Lost => self.draw()?,
            }
        }
    }
}

fn late(patience: Duration) -> Failure {
    Failure::new(ErrorKind::TimedOut, format!("no answer within {} s", patience.as_secs()))
}

fn frame(
    whole: &Whole,
    question: &Question<'_>,
    connection: Connection,
    look: Look,
    height: usize,
) -> Vec<String> {
    let width = look.width.unwrap_or(80);
    let paint = |text: String, code: &str| {
        if look.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text }
    };
    let clock = clock(whole, &question.zone);
    let name = cut_name(&whole.name(), width.saturating_sub(clock.len() + 2), look.letters.ellipsis());
    let (status, colour) = match connection {
        Connection::Lost => (format!("reconnecting, this is of {clock}"), "33"),
        Connection::Back => ("connected again".to_owned(), "32"),
        Connection::Fine => {
            let interval = crate::time::span(whole.interval_seconds.into());
            (format!("the last {} by {interval}; q ends", table::length(whole)), "2")
        }
    };
    let mut lines = vec![
        format!("{}  {clock}", paint(name, "1")),
        paint(status.chars().take(width).collect(), colour),
        String::new(),
    ];
    let table = table::table(whole, question.instances(), look);
    let room = height.saturating_sub(lines.len()).max(2);
    let rows = table.lines().count();
    let shown = if rows > room { room - 1 } else { rows };
    lines.extend(table.lines().take(shown).map(str::to_owned));
    if shown < rows {
        lines.push(paint(format!("and {} more", rows - shown), "2"));
    }
    let graphs = table::graphs(whole, look);
    if lines.len() + 1 + graphs.len() <= height && !graphs.is_empty() {
        lines.push(String::new());
        lines.extend(graphs);
    }
    // One line too many would scroll the first away.
    lines.truncate(height);
    lines
}

/// The aggregator's time of day, in the user's zone.
fn clock(whole: &Whole, zone: &TimeZone) -> String {
    let at = whole.at.map(|at| instant(at.into()).to_zoned(zone.clone()));
    at.map(|at| at.strftime("%H:%M:%S").to_string()).unwrap_or_default()
}

/// The terminal has another size.
#[cfg(unix)]
struct Resized(tokio::signal::unix::Signal);

#[cfg(unix)]
impl Resized {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        signal(SignalKind::window_change()).map(Resized)
    }

    async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(not(unix))]
struct Resized;

#[cfg(not(unix))]
impl Resized {
    fn new() -> std::io::Result<Self> {
        Ok(Resized)
    }

    async fn next(&mut self) {
        std::future::pending().await
    }
}
