//! Reads what is stored of the runs of an environment, for whoever may read its logs.

use super::history::{Asked, Found, History, Now, Page, SLACK};
use crate::aggregator::stopping;
use crate::auth::{Grant, ReadLogs};
use crate::event::{self, Body};
use crate::record::{Filter, Read, RecordKind};
use crate::run::{Run, RunId};
use crate::store::{ReadError, Store};
use regex::bytes::Regex;
use skpr_proto::{ErrorKind, Failure, Label, UnixNanos};

/// The newest runs that are asked for: of the store, and of what the platform `says`, some of which may not be stored yet.
pub(super) async fn newest(
    store: &Store,
    grant: &Grant<ReadLogs>,
    asked: Asked,
    now: Now,
    says: Vec<Run>,
) -> Result<Found, Failure> {
    let filter = told_of(asked.task.as_ref())?;
    let since = asked.since.map(before);
    let mut history = History::new(asked, now);
    says.into_iter().for_each(|run| history.take(run));
    while let Some(pages) = history.next_page() {
        let read = Read { since, until: pages.until, last: Some(pages.size), ..of(grant, &filter) };
        let page = take(store, read, &mut history).await?;
        history.turn(page);
    }
    Ok(history.found())
}

/// One run.
pub(super) async fn one(
    store: &Store,
    grant: &Grant<ReadLogs>,
    id: &RunId,
    now: Now,
    says: Vec<Run>,
) -> Result<Option<Run>, Failure> {
    let asked = Asked { last: 1, ..Asked::default() };
    let mut newest = History::new(asked.clone(), now.clone());
    let mut history = History::new(asked, now);
    let filter = events(vec![pattern(&format!(r#""run":{{"id":"{id}""#))?]);
    // The newest event is found soon, of a run of today; and it says how far back the others may be.
    take(store, Read { last: Some(1), ..of(grant, &filter) }, &mut newest).await?;
    if let Some(run) = newest.found().runs.pop() {
        let since = run.time().map(|time| before(time.into()));
        take(store, Read { since, ..of(grant, &filter) }, &mut history).await?;
    }
    says.into_iter().filter(|run| run.id == *id).for_each(|run| history.take(run));
    Ok(history.found().runs.pop())
}

/// When the first event may be of a run that began then.
fn before(time: UnixNanos) -> UnixNanos {
    UnixNanos(time.0.saturating_sub(i64::try_from(SLACK.as_nanos()).unwrap_or(i64::MAX)))
}

/// The events that are about runs, of a task or of any.
fn told_of(task: Option<&Label>) -> Result<Filter, Failure> {
    let text = match task {
        Some(task) => format!(r#""task":"{task}""#),
        None => r#""kind":"run""#.to_owned(),
    };
    Ok(events(vec![pattern(&text)?]))
}

/// This text and nothing else, as it stands in an event's JSON. Within a string its quotes would be escaped.
fn pattern(text: &str) -> Result<Regex, Failure> {
    Regex::new(&regex::escape(text)).map_err(|error| {
        tracing::error!(%error, "a pattern of events is no regular expression");
        Failure::new(ErrorKind::Failed, "the store could not be asked")
    })
}

fn events(grep: Vec<Regex>) -> Filter {
    Filter { streams: event::STREAMS.map(str::to_owned).into(), grep, ..Filter::default() }
}

fn of(grant: &Grant<ReadLogs>, filter: &Filter) -> Read {
    Read {
        environment: grant.environment().clone(),
        since: None,
        until: None,
        follow: false,
        to_now: false,
        last: None,
        filter: filter.clone(),
        cursor: None,
    }
}

/// Takes in the runs that a read gives.
async fn take(store: &Store, read: Read, history: &mut History) -> Result<Page, Failure> {
    let mut page = Page::default();
    let mut reader = store.read(read);
    while let Some(chunk) = reader.next().await {
        let chunk = chunk.map_err(failed)?;
        page.is_cut |= chunk.skipped > 0;
        // What says that records are lost is no event.
        for record in chunk.records.iter().filter(|record| record.kind == RecordKind::Line) {
            page.events += 1;
            page.oldest = Some(page.oldest.map_or(record.time, |oldest| oldest.min(record.time)));
            if let Some(run) = run_of(&record.message) {
                history.take(run);
            }
        }
    }
    Ok(page)
}

/// The run that an event is about. One that waits to begin is nobody's to tell of: the platform knows whether it still does.
fn run_of(message: &[u8]) -> Option<Run> {
    let body: Body = serde_json::from_slice(message).ok()?;
    let run = *body.run?;
    (run.outcome.is_some() || run.began.is_some()).then_some(run)
}

fn failed(error: ReadError) -> Failure {
    match error {
        ReadError::Closed => stopping(),
        ReadError::Failed => {
            tracing::error!(error = &error as &dyn std::error::Error, "read of runs failed");
            Failure::new(ErrorKind::Failed, "the store could not be read; its log says why")
        }
    }
}

#[cfg(test)]
mod tests;
