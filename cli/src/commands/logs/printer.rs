//! Records as lines of each format.
//!
//! A gap is a line of its own, on stdout and at its place: a saved log must not hide that something is missing. A line
//! is followed by a mark when it was cut at the longest length kept.

use crate::args::Format;
use crate::error::Error;
use crate::output::{Output, csv_line};
use crate::terminal::{clean, push_json_string, push_text};
use crate::time::Stamp;
use base64::Engine as _;
use jiff::tz::TimeZone;
use skpr_proto::v1::{LogRecord, RecordKind};
use skpr_proto::{EnvironmentName, MAX_MESSAGE, UnixNanos};
use std::collections::HashMap;
use unicode_width::UnicodeWidthStr as _;

/// Enough for one write to cost little, and little enough to be on the screen at once.
const FULL: usize = 256 << 10;
/// A longer name does not push every line to the right.
const WIDEST_NAME: usize = 40;
/// SGR parameters that are readable on dark and on light backgrounds.
const COLOURS: [&str; 10] = ["36", "33", "32", "35", "34", "96", "93", "92", "95", "94"];

pub(super) struct Printer {
    format: Format,
    colour: bool,
    raw: bool,
    /// What is of which instance and stream is left out of lines for people.
    nameless: bool,
    stamp: Stamp,
    environment: EnvironmentName,
    /// By instance, then by stream.
    labels: HashMap<String, HashMap<String, Label>>,
    width: usize,
    out: Vec<u8>,
}

/// What stands between time and message for one instance and stream.
struct Label {
    /// The instance, and the container or stream when it is not the main one's.
    name: String,
    columns: usize,
    error: bool,
    colour: &'static str,
}

impl Label {
    fn new(instance: &str, stream: &str) -> Self {
        let (container, error) = match stream {
            "stdout" => (None, false),
            "stderr" => (None, true),
            other => match other.rsplit_once('.') {
                Some((container, "stdout")) => (Some(container), false),
                Some((container, "stderr")) => (Some(container), true),
                _ => (Some(other), false),
            },
        };
        let name = match container {
            Some(container) => format!("{}/{}", clean(instance), clean(container)),
            None => clean(instance).into_owned(),
        };
        Label { columns: name.width(), name, error, colour: colour_of(instance) }
    }
}

/// The same colour for the same name, always and on every machine (FNV-1a).
fn colour_of(name: &str) -> &'static str {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let index = usize::try_from(hash >> 32).unwrap_or_default() % COLOURS.len();
    COLOURS.get(index).copied().unwrap_or("0")
}

impl Printer {
    pub(super) fn new(environment: &EnvironmentName, output: &Output, zone: &TimeZone, raw: bool) -> Self {
        // Programs get one zone, people theirs.
        let zone = if output.format == Format::Table { zone.clone() } else { TimeZone::UTC };
        let mut out = Vec::with_capacity(FULL + FULL / 4);
        if output.format == Format::Csv {
            out.extend_from_slice(b"time,project,environment,instance,stream,sequence,kind,message\n");
        }
        Printer {
            format: output.format,
            colour: output.colour,
            raw,
            nameless: false,
            stamp: Stamp::new(zone),
            environment: environment.clone(),
            labels: HashMap::new(),
            width: 0,
            out,
        }
    }

    /// For what is all of one instance.
    pub(super) fn without_names(self) -> Self {
        Printer { nameless: true, ..self }
    }

    pub(super) fn is_full(&self) -> bool {
        self.out.len() >= FULL
    }

    /// Writes all that was pushed.
    pub(super) fn flush(&mut self, output: &Output) -> Result<(), Error> {
        if !self.out.is_empty() {
            output.write(&self.out)?;
            self.out.clear();
        }
        Ok(())
    }

    pub(super) fn push(&mut self, record: &LogRecord) {
        let time = record.time.map_or(UnixNanos(0), UnixNanos::from);
        match self.format {
            Format::Table | Format::Name => self.push_line(time, record),
            Format::Json => self.push_json(time, record),
            // JSON is YAML, and a list can be continued for as long as there are records.
            Format::Yaml => {
                self.out.extend_from_slice(b"- ");
                self.push_json(time, record);
            }
            Format::Csv => self.push_csv(time, record),
        }
    }

    fn push_line(&mut self, time: UnixNanos, record: &LogRecord) {
        let Printer { out, stamp, labels, width, colour, raw, nameless, .. } = self;
        // Two look-ups by reference: the usual record costs no allocation.
        let known = labels.get(&record.instance).is_some_and(|streams| streams.contains_key(&record.stream));
        if !known {
            let label = Label::new(&record.instance, &record.stream);
            *width = (*width).max(label.columns.min(WIDEST_NAME));
            labels.entry(record.instance.clone()).or_default().insert(record.stream.clone(), label);
        }
        let Some(label) = labels.get(&record.instance).and_then(|streams| streams.get(&record.stream)) else {
            return;
        };
        let kind = record.kind();
        let (mark, mark_colour) = match (kind, label.error) {
            (RecordKind::Gap, _) => (b'~', "1;33"),
            (_, true) => (b'!', "31"),
            (_, false) => (b'|', "2"),
        };
        if *colour {
            out.extend_from_slice(b"\x1b[2m");
            stamp.push(out, time, 3);
            out.extend_from_slice(b"\x1b[0;");
            out.extend_from_slice(label.colour.as_bytes());
            out.extend_from_slice(b"m ");
        } else {
            stamp.push(out, time, 3);
            out.push(b' ');
        }
        if !*nameless {
            out.extend_from_slice(label.name.as_bytes());
            out.extend(std::iter::repeat_n(b' ', width.saturating_sub(label.columns) + 1));
        }
        if *colour {
            out.extend_from_slice(b"\x1b[0;");
            out.extend_from_slice(mark_colour.as_bytes());
            out.extend([b'm', mark]);
            // A gap stays coloured to its end.
            if kind != RecordKind::Gap {
                out.extend_from_slice(b"\x1b[0m");
            }
        } else {
            out.push(mark);
        }
        out.push(b' ');
        if kind == RecordKind::Gap {
            out.extend_from_slice(b"gap: ");
        }
        push_message(out, &record.message, *raw);
        match kind {
            RecordKind::Truncated => out.extend_from_slice(TRUNCATED.as_bytes()),
            RecordKind::Gap if *colour => out.extend_from_slice(b"\x1b[0m"),
            RecordKind::Gap | RecordKind::Line => {}
        }
        out.push(b'\n');
    }

    fn push_json(&mut self, time: UnixNanos, record: &LogRecord) {
        let Printer { out, stamp, environment, .. } = self;
        out.extend_from_slice(b"{\"time\":\"");
        stamp.push(out, time, 9);
        out.extend_from_slice(b"\",\"project\":");
        push_json_string(out, environment.project.as_str());
        out.extend_from_slice(b",\"environment\":");
        push_json_string(out, environment.environment.as_str());
        out.extend_from_slice(b",\"instance\":");
        push_json_string(out, &record.instance);
        out.extend_from_slice(b",\"stream\":");
        push_json_string(out, &record.stream);
        out.extend_from_slice(b",\"sequence\":");
        out.extend_from_slice(record.sequence.to_string().as_bytes());
        match std::str::from_utf8(&record.message) {
            Ok(message) => {
                out.extend_from_slice(b",\"message\":");
                push_json_string(out, message);
            }
            Err(_) => {
                out.extend_from_slice(b",\"message_base64\":\"");
                let text = base64::engine::general_purpose::STANDARD.encode(&record.message);
                out.extend_from_slice(text.as_bytes());
                out.push(b'"');
            }
        }
        if record.kind() != RecordKind::Line {
            out.extend_from_slice(b",\"kind\":");
            push_json_string(out, kind_name(record.kind()));
        }
        out.extend_from_slice(b"}\n");
    }

    fn push_csv(&mut self, time: UnixNanos, record: &LogRecord) {
        let (mut stamp, mut message) = (Vec::new(), Vec::new());
        self.stamp.push(&mut stamp, time, 9);
        push_message(&mut message, &record.message, self.raw);
        let line = csv_line(
            [
                String::from_utf8_lossy(&stamp).as_ref(),
                self.environment.project.as_str(),
                self.environment.environment.as_str(),
                &clean(&record.instance),
                &clean(&record.stream),
                &record.sequence.to_string(),
                kind_name(record.kind()),
                &String::from_utf8_lossy(&message),
            ]
            .into_iter(),
        );
        self.out.extend_from_slice(line.as_bytes());
    }
}

const TRUNCATED: &str = " [truncated at 1 MiB]";
const _: () = assert!(MAX_MESSAGE == 1 << 20, "the mark names the length");

fn push_message(out: &mut Vec<u8>, message: &[u8], raw: bool) {
    if raw {
        out.extend_from_slice(message);
    } else {
        // The line ends of Windows programs are not worth a `^M` on every line.
        push_text(out, message.strip_suffix(b"\r").unwrap_or(message));
    }
}

fn kind_name(kind: RecordKind) -> &'static str {
    match kind {
        RecordKind::Line => "line",
        RecordKind::Truncated => "truncated",
        RecordKind::Gap => "gap",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Color, Global};
    use skpr_proto::v1::Instant;

    fn printed(format: Format, color: Color, raw: bool, records: &[LogRecord]) -> String {
        let output = Output::new(&Global { output: format, color, ..Global::default() });
        let environment = EnvironmentName::parse("shop", "prod").unwrap();
        let mut printer =
            Printer::new(&environment, &output, &TimeZone::get("Australia/Sydney").unwrap(), raw);
        records.iter().for_each(|record| printer.push(record));
        String::from_utf8_lossy(&printer.out).into_owned()
    }

    fn record(stream: &str, kind: RecordKind, message: &[u8]) -> LogRecord {
        LogRecord {
            time: Some(Instant { unix_nanos: 1_795_322_400_123_456_789 }),
            instance: "web-1".into(),
            stream: stream.into(),
            sequence: 7,
            message: message.to_vec().into(),
            kind: kind.into(),
        }
    }

    #[test]
    fn table() {
        use RecordKind::{Gap, Line, Truncated};
        let records = [
            record("stdout", Line, b"hello\r"),
            record("stderr", Line, b"\x1b[31moops\xff"),
            record("nginx.stdout", Line, b"GET /"),
            record("stdout", Gap, b"4096 bytes were deleted before they were read"),
            record("stdout", Truncated, b"aaa"),
        ];
        insta::assert_snapshot!(printed(Format::Table, Color::Never, false, &records));
        assert!(printed(Format::Table, Color::Never, true, &records).contains("\x1b[31moops"));
        let coloured = printed(Format::Table, Color::Always, false, &records[..1]);
        assert!(coloured.starts_with("\x1b[2m2026-"), "{coloured}");
    }

    #[test]
    fn json_and_csv() {
        use RecordKind::{Gap, Line};
        let records = [
            record("stdout", Line, "a\"b\u{9b}é".as_bytes()),
            record("stdout", Line, b"\xff"),
            record("stdout", Gap, b"lost"),
        ];
        insta::assert_snapshot!(printed(Format::Json, Color::Never, false, &records));
        insta::assert_snapshot!(printed(Format::Csv, Color::Never, false, &records));
        assert!(printed(Format::Yaml, Color::Never, false, &records).starts_with("- {\"time\":"));
        for line in printed(Format::Json, Color::Never, false, &records).lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }

    #[test]
    fn a_name_keeps_its_colour() {
        assert_eq!(colour_of("web-1"), colour_of("web-1"));
        let colours: std::collections::BTreeSet<_> =
            (0..100).map(|n| colour_of(&format!("web-{n}"))).collect();
        assert!(colours.len() > 5);
    }
}
