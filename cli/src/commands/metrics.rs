//! `skpr metrics`: what an environment and its instances use, now and over time.

mod series;
mod table;
mod watch;

use super::call::{Cluster, suggest};
use crate::args::{Format, Metrics};
use crate::error::{Error, usage};
use crate::link::{Cut, Link};
use crate::output::Output;
use crate::settings::Settings;
use crate::terminal::clean;
use crate::time::{self, Range, Typed};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use series::{Whole, past};
use skpr_proto::v1::{self, UsageRequest};
use skpr_proto::{EnvironmentName, ErrorKind, Failure, Label, UnixNanos};

/// Without `--since`, this much is shown.
const WINDOW: SignedDuration = SignedDuration::from_hours(1);

/// What is asked, once all of it has been found to make sense.
struct Question<'a> {
    verb: &'a Metrics,
    environment: EnvironmentName,
    namespace: Option<Label>,
    interval_seconds: u32,
    zone: TimeZone,
}

pub(super) async fn run(verb: &Metrics, settings: &Settings, output: &Output) -> Result<(), Error> {
    check(verb, output)?;
    let question = Question {
        interval_seconds: verb.interval.as_deref().map(interval).transpose()?.unwrap_or(0),
        zone: time::zone(verb.timezone.as_deref())?,
        environment: settings.environment(&verb.target.environment)?,
        namespace: settings.namespace(verb.target.namespace.as_deref())?,
        verb,
    };
    let range = question.range()?;
    let access = settings.access()?;
    if verb.watch {
        let done = watch::run(&question, &access, output).await;
        return match done {
            Err(error) => Err(suggest(error, &question.environment, settings).await),
            done => done,
        };
    }
    range.notes.iter().for_each(|note| output.note(note));
    let cluster =
        Cluster::open(question.environment.clone(), question.namespace.clone(), settings, output).await?;
    let answer = cluster.client.metrics().read(question.request(&range)).await;
    let answer = cluster.answer(answer).await?;
    tell_range(&answer, &question, output);
    question.is_about(&answer)?;
    tell_what_is_missing(&answer, &question, range.since, output);
    let whole = Whole::new(&question.environment, answer);
    match output.format {
        Format::Table => output.write(table::once(&whole, question.instances(), output).as_bytes()),
        Format::Csv => output.write(whole.csv().as_bytes()),
        _ => output.thing(&whole, "", ""),
    }
}

fn check(verb: &Metrics, output: &Output) -> Result<(), Failure> {
    if output.format == Format::Name {
        return Err(usage("`-o name` means nothing for metrics").with_hint("use -o json, -o csv or -o yaml"));
    }
    let alone = "leave out --watch: without it, what is known now is printed once";
    if verb.watch && output.format != Format::Table {
        return Err(usage("--watch is a view for people, and -o says how programs get it").with_hint(alone));
    }
    if verb.watch && !output.terminal {
        return Err(usage("--watch needs a terminal that can be drawn on").with_hint(alone));
    }
    Ok(())
}

/// `30s`: whole seconds, at least one.
fn interval(text: &str) -> Result<u32, Failure> {
    let seconds = time::duration(text.trim()).and_then(|length| u32::try_from(length.as_secs()).ok());
    seconds.filter(|seconds| *seconds > 0).ok_or_else(|| {
        let shown: String = text.chars().take(128).collect();
        usage(format!("`{}` is not an interval", clean(&shown)))
            .with_hint("accepted are lengths such as `10s`, `5m` and `1h`")
    })
}

impl Question<'_> {
    /// As typed, from now: a length such as `1h` moves on with the time.
    fn range(&self) -> Result<Range, Failure> {
        let typed = Typed {
            since: self.verb.since.as_deref(),
            until: self.verb.until.as_deref(),
            window: WINDOW,
            ..Typed::default()
        };
        time::range(typed, Timestamp::now(), &self.zone)
    }

    /// Whether instances have rows of their own.
    fn instances(&self) -> bool {
        self.verb.per_instance || !self.verb.instance.is_empty()
    }

    /// Whoever asks for an instance by name means one that there was.
    fn is_about(&self, answer: &v1::UsageResponse) -> Result<(), Failure> {
        let known = |name: &&String| answer.instances.iter().any(|series| series.instance == **name);
        let Some(missing) = self.verb.instance.iter().find(|name| !known(name)) else { return Ok(()) };
        let shown: String = missing.chars().take(128).collect();
        let message = format!("{} had no instance `{}` in that time", self.environment, clean(&shown));
        Err(Failure::new(ErrorKind::NotFound, message)
            .with_hint(format!("skpr metrics {} --per-instance shows which there were", self.environment)))
    }

    fn request(&self, range: &Range) -> UsageRequest {
        UsageRequest {
            environment: Some(v1::Environment {
                namespace: self.namespace.clone().map(String::from),
                ..(&self.environment).into()
            }),
            since: range.since.map(|since| UnixNanos::from(since).into()),
            until: range.until.map(|until| UnixNanos::from(until).into()),
            interval_seconds: self.interval_seconds,
            per_instance: self.instances(),
            instances: self.verb.instance.clone(),
        }
    }
}

fn instant(instant: v1::Instant) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(UnixNanos::from(instant).0)).unwrap_or_default()
}

/// The range as it was used.
fn tell_range(answer: &v1::UsageResponse, question: &Question<'_>, output: &Output) {
    let used =
        Range { since: answer.since.map(instant), until: answer.until.map(instant), notes: Vec::new() };
    let interval = i64::from(answer.interval_seconds);
    let interval = if interval > 0 { format!(", by {}", time::span(interval)) } else { String::new() };
    output.note(&format!("{}{interval}", time::describe(&used, false, None, &question.zone)));
}

/// What the numbers are, and which there are not.
fn tell_what_is_missing(
    answer: &v1::UsageResponse,
    question: &Question<'_>,
    since: Option<Timestamp>,
    output: &Output,
) {
    if let (Some(oldest), Some(since)) = (answer.oldest.map(instant), since)
        && oldest > since
    {
        output.note(&format!("nothing before {} is kept", time::show(oldest, &question.zone)));
    }
    let nothing = answer
        .whole
        .as_ref()
        .is_none_or(|whole| whole.now.is_none() && whole.points.iter().all(|point| point.instances == 0));
    if past(answer) && !nothing {
        output.note("CPU is the average of that time, memory and instances are the most");
    }
    if nothing {
        let of = if question.verb.instance.is_empty() { "" } else { " these instances of" };
        output.note(&format!("nothing is known of what{of} {} used in that time", question.environment));
    }
}

/// One call, over the connection of the call before if there is one.
async fn ask(link: &mut Link<'_>, request: UsageRequest) -> Result<v1::UsageResponse, Cut> {
    let client = link.client().await?;
    let answer = client.metrics().read(request).await.map_err(|status| link.cut(&status))?;
    link.answered();
    link.keep(client);
    Ok(answer.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_whole_seconds() {
        assert_eq!(interval("90s").ok(), Some(90));
        assert_eq!(interval(" 1h30m ").ok(), Some(5400));
        for wrong in ["", "0s", "5", "5x", "-5s", "1.5s", "9999999999999w", "99999d", "\x1b[2J"] {
            let failure = interval(wrong).unwrap_err();
            assert!(!failure.message.contains('\x1b') && failure.hint.is_some(), "{wrong}");
        }
    }
}
