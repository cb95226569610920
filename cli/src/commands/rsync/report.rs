//! What a transfer did, once it is done: rsync's numbers, a line, or an object.

use super::place::Way;
use crate::args::{Format, Rsync};
use crate::error::Error;
use crate::output::Output;
use crate::output::number::bytes;
use serde::Serialize;
use skpr_proto::EnvironmentName;
use skpr_proto::v1::OpenedSession;
use skpr_rsync::Summary;
use skpr_rsync::stats::{Received, Stats, Totals};
use std::time::Duration;

/// A transfer that is done.
pub(super) struct Transfer<'a> {
    pub(super) verb: &'a Rsync,
    pub(super) way: Way,
    pub(super) opened: &'a OpenedSession,
    pub(super) summary: Summary,
    pub(super) elapsed: Duration,
}

#[derive(Serialize)]
struct Summarised {
    project: String,
    environment: String,
    instance: String,
    /// `push` or `pull`.
    direction: &'static str,
    dry_run: bool,
    /// rsync's exit code.
    code: u8,
    /// Files and directories that could not be transferred.
    problems: u64,
    files: u64,
    directories: u64,
    links: u64,
    specials: u64,
    size_bytes: u64,
    created_files: u64,
    created_directories: u64,
    created_links: u64,
    created_specials: u64,
    deleted: u64,
    transferred_files: u64,
    transferred_bytes: u64,
    literal_bytes: u64,
    matched_bytes: u64,
    sent_bytes: u64,
    received_bytes: u64,
    seconds: f64,
}

impl Transfer<'_> {
    pub(super) fn say(
        &self,
        environment: &EnvironmentName,
        problems: u64,
        output: &Output,
    ) -> Result<(), Error> {
        match output.format {
            Format::Table => self.words(environment, output),
            Format::Json | Format::Yaml | Format::Csv | Format::Name => {
                let summarised = self.summarised(environment, problems);
                output.thing(&summarised, "", &environment.to_string())
            }
        }
    }

    /// As rsync does it: nothing unless it is asked for. Who sits in front of a terminal gets a line.
    fn words(&self, environment: &EnvironmentName, output: &Output) -> Result<(), Error> {
        let stats = &self.summary.stats;
        let mut text = String::new();
        if self.verb.shown.stats {
            text.push_str(&numbers(stats));
        }
        if self.verb.shown.stats || output.is_verbose() {
            text.push_str(&self.last_lines(stats));
        }
        if !text.is_empty() {
            return output.write(text.as_bytes());
        }
        if output.error_terminal {
            output.note(&self.line(environment));
        }
        Ok(())
    }

    /// What rsync ends with.
    fn last_lines(&self, stats: &Stats) -> String {
        let moved = stats.sent_bytes + stats.received_bytes;
        let rate = moved as f64 / self.elapsed.as_secs_f64().max(0.001);
        let speedup = stats.totals.size as f64 / moved.max(1) as f64;
        let dry = if self.verb.chosen.dry_run { " (DRY RUN)" } else { "" };
        format!(
            "\nsent {} bytes  received {} bytes  {rate:.0} bytes/sec\ntotal size is {}  speedup is {speedup:.2}{dry}\n",
            stats.sent_bytes, stats.received_bytes, stats.totals.size
        )
    }

    fn line(&self, environment: &EnvironmentName) -> String {
        let Stats { totals, received, sent_bytes, received_bytes } = self.summary.stats;
        let would = if self.verb.chosen.dry_run { "would be " } else { "" };
        let (verb, way) = match self.way {
            Way::Push => ("sent", "to"),
            Way::Pull => ("fetched", "from"),
        };
        let deleted = match received.deleted {
            0 => String::new(),
            count => format!(", {count} {would}deleted"),
        };
        format!(
            "{} of {} files {would}{verb} {way} {environment}{deleted}: {} over the connection in {:.1} s",
            received.transferred,
            totals.files,
            bytes(sent_bytes + received_bytes),
            self.elapsed.as_secs_f64()
        )
    }

    fn summarised(&self, environment: &EnvironmentName, problems: u64) -> Summarised {
        let Stats { totals, received, sent_bytes, received_bytes } = self.summary.stats;
        let Totals { files, directories, links, specials, size } = totals;
        let Received { created_files, created_directories, created_links, created_specials, .. } = received;
        Summarised {
            project: environment.project.to_string(),
            environment: environment.environment.to_string(),
            instance: self.opened.instance.clone(),
            direction: match self.way {
                Way::Push => "push",
                Way::Pull => "pull",
            },
            dry_run: self.verb.chosen.dry_run,
            code: self.summary.code as u8,
            problems,
            files,
            directories,
            links,
            specials,
            size_bytes: size,
            created_files,
            created_directories,
            created_links,
            created_specials,
            deleted: received.deleted,
            transferred_files: received.transferred,
            transferred_bytes: received.transferred_size,
            literal_bytes: received.literal,
            matched_bytes: received.matched,
            sent_bytes,
            received_bytes,
            seconds: (self.elapsed.as_secs_f64() * 1000.0).round() / 1000.0,
        }
    }
}

/// rsync's `--stats`, by the words that scripts look for.
fn numbers(stats: &Stats) -> String {
    let Stats { totals, received, sent_bytes, received_bytes } = *stats;
    let of = |files: u64, directories: u64, links: u64, specials: u64| {
        let parts = [("reg", files), ("dir", directories), ("link", links), ("special", specials)];
        let named: Vec<String> = parts
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| format!("{name}: {}", grouped(count)))
            .collect();
        let all = grouped(files + directories + links + specials);
        if named.is_empty() { all } else { format!("{all} ({})", named.join(", ")) }
    };
    let Received { created_files, created_directories, created_links, created_specials, .. } = received;
    format!(
        "\nNumber of files: {}\nNumber of created files: {}\nNumber of deleted files: {}\n\
         Number of regular files transferred: {}\nTotal file size: {} bytes\nTotal transferred file size: {} bytes\n\
         Literal data: {} bytes\nMatched data: {} bytes\nTotal bytes sent: {}\nTotal bytes received: {}\n",
        of(totals.files, totals.directories, totals.links, totals.specials),
        of(created_files, created_directories, created_links, created_specials),
        grouped(received.deleted),
        grouped(received.transferred),
        grouped(totals.size),
        grouped(received.transferred_size),
        grouped(received.literal),
        grouped(received.matched),
        grouped(sent_bytes),
        grouped(received_bytes),
    )
}

/// `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rsyncs() {
        let totals = Totals { files: 3200, directories: 800, links: 0, specials: 0, size: 1_234_567 };
        let received = Received { created_files: 1, transferred: 1, literal: 12, ..Received::default() };
        let text = numbers(&Stats { totals, received, sent_bytes: 1000, received_bytes: 7 });
        for line in [
            "Number of files: 4,000 (reg: 3,200, dir: 800)\n",
            "Number of created files: 1 (reg: 1)\n",
            "Number of deleted files: 0\n",
            "Total file size: 1,234,567 bytes\n",
            "Literal data: 12 bytes\n",
            "Total bytes sent: 1,000\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert_eq!([0, 999, 1000, 1_000_000].map(grouped), ["0", "999", "1,000", "1,000,000"]);
    }
}
