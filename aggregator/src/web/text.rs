//! The text of a scrape: families of series, in either of the two formats that are in use.
//!
//! - A family is declared once, as a [`Column`] of a table, and that is where its name, its unit and its help come from.
//! - Labels are written and escaped once a row, and not once a series.

use axum::http::{HeaderMap, header};
use std::fmt::Write as _;

/// How a scrape is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    OpenMetrics,
    /// The older one, which tools such as `promtool` read.
    Prometheus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
}

/// What series of one name are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Without the `_total` of a counter.
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
}

/// A family, where it is and which labels its series have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described {
    pub path: &'static str,
    pub labels: &'static [&'static str],
    pub family: Family,
}

/// The families with their labels, as they are written.
pub(crate) struct Table<T: 'static> {
    pub(crate) labels: &'static [&'static str],
    pub(crate) columns: &'static [Column<T>],
}

/// One family, and how its value is read off a row.
pub(crate) struct Column<T> {
    pub(crate) family: Family,
    pub(crate) read: fn(&T) -> Option<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value {
    Count(u64),
    /// Of a unit: seconds, cores.
    Thousandths(u64),
    Billionths(u64),
}

/// The labels of a row as they stand between braces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels(String);

/// A scrape that is being written.
pub(crate) struct Text {
    format: Format,
    out: String,
}

pub(crate) const fn counter<T>(
    name: &'static str,
    help: &'static str,
    read: fn(&T) -> Option<Value>,
) -> Column<T> {
    Column { family: Family { name, kind: Kind::Counter, help }, read }
}

pub(crate) const fn gauge<T>(
    name: &'static str,
    help: &'static str,
    read: fn(&T) -> Option<Value>,
) -> Column<T> {
    Column { family: Family { name, kind: Kind::Gauge, help }, read }
}

impl Family {
    /// The base unit, which the name ends with where there is one.
    pub fn unit(&self) -> Option<&'static str> {
        ["seconds", "bytes", "cores"].into_iter().find(|unit| {
            let rest = self.name.strip_suffix(unit);
            rest.is_some_and(|rest| rest.ends_with('_'))
        })
    }

    /// What its series are called.
    pub fn series(&self) -> String {
        match self.kind {
            Kind::Counter => format!("{}_total", self.name),
            Kind::Gauge => self.name.to_owned(),
        }
    }
}

impl<T> Table<T> {
    pub(crate) fn describe(&self, path: &'static str) -> Vec<Described> {
        let labels = self.labels;
        self.columns.iter().map(|column| Described { path, labels, family: column.family }).collect()
    }
}

impl Labels {
    /// Values may be anything; names are ours.
    pub(crate) fn of(pairs: &[(&str, &str)]) -> Labels {
        let mut text =
            String::with_capacity(pairs.iter().map(|(name, value)| name.len() + value.len() + 4).sum());
        for (name, value) in pairs {
            let comma = if text.is_empty() { "" } else { "," };
            text.extend([comma, name, "=\""]);
            for char in value.chars() {
                match char {
                    '\\' => text.push_str("\\\\"),
                    '"' => text.push_str("\\\""),
                    '\n' => text.push_str("\\n"),
                    char => text.push(char),
                }
            }
            text.push('"');
        }
        Labels(text)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Format {
    /// What the scraper asks for: whoever can read OpenMetrics names it.
    pub(crate) fn accepted(headers: &HeaderMap) -> Format {
        let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut types = accepts.flat_map(|value| value.split(','));
        if types.any(|kind| kind.trim().starts_with("application/openmetrics-text")) {
            Format::OpenMetrics
        } else {
            Format::Prometheus
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

impl Text {
    pub(crate) fn new(format: Format) -> Text {
        Text::with_room(format, 0)
    }

    /// With room for so many bytes.
    pub(crate) fn with_room(format: Format, bytes: usize) -> Text {
        Text { format, out: String::with_capacity(bytes) }
    }

    /// Writes a table, family by family, of rows with their labels.
    pub(crate) fn table<T>(&mut self, table: &Table<T>, rows: &[(Labels, T)]) {
        for column in table.columns {
            self.family(&column.family);
            for (labels, row) in rows {
                if let Some(value) = (column.read)(row) {
                    self.sample(&column.family, labels.as_str(), value);
                }
            }
        }
    }

    /// Begins a family.
    pub(crate) fn family(&mut self, family: &Family) {
        let suffix = match (self.format, family.kind) {
            (Format::Prometheus, Kind::Counter) => "_total",
            (Format::OpenMetrics, _) | (_, Kind::Gauge) => "",
        };
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let name = family.name;
        self.out.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        if self.format == Format::OpenMetrics
            && let Some(unit) = family.unit()
        {
            self.out.extend(["# UNIT ", name, " ", unit, "\n"]);
        }
        self.out.extend(["# HELP ", name, suffix, " ", family.help, "\n"]);
    }

    /// A series of the family that was begun last.
    pub(crate) fn sample(&mut self, family: &Family, labels: &str, value: Value) {
        self.out.push_str(family.name);
        if family.kind == Kind::Counter {
            self.out.push_str("_total");
        }
        if !labels.is_empty() {
            self.out.extend(["{", labels, "}"]);
        }
        // To write into a string cannot fail.
        let written = match value {
            Value::Count(count) => write!(self.out, " {count}"),
            Value::Thousandths(parts) => write!(self.out, " {}.{:03}", parts / 1000, parts % 1000),
            Value::Billionths(parts) => {
                write!(self.out, " {}.{:09}", parts / 1_000_000_000, parts % 1_000_000_000)
            }
        };
        debug_assert!(written.is_ok());
        self.out.push('\n');
    }

    pub(crate) fn len(&self) -> usize {
        self.out.len()
    }

    /// What was written since the beginning or the last time.
    pub(crate) fn take(&mut self) -> String {
        std::mem::take(&mut self.out)
    }

    /// Writes the end; nothing may come after it.
    pub(crate) fn end(&mut self) {
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Use {
        nanos: Option<u64>,
        bytes: u64,
    }

    const TABLE: Table<Use> = Table {
        labels: &["site"],
        columns: &[
            counter("x_cpu_seconds", "CPU time", |row: &Use| row.nanos.map(Value::Billionths)),
            gauge("x_size_bytes", "Size", |row: &Use| Some(Value::Count(row.bytes))),
            gauge("x_instances", "Instances", |_| Some(Value::Count(1))),
        ],
    };

    fn rows() -> [(Labels, Use); 2] {
        [
            (Labels::of(&[("site", "a")]), Use { nanos: Some(1_500_000_000), bytes: 7 }),
            (Labels::of(&[("site", "b")]), Use { nanos: None, bytes: 8 }),
        ]
    }

    fn text(format: Format) -> String {
        let mut text = Text::new(format);
        text.table(&TABLE, &rows());
        text.end();
        text.take()
    }

    #[test]
    fn openmetrics_names_units_and_ends() {
        assert_eq!(
            text(Format::OpenMetrics),
            "# TYPE x_cpu_seconds counter\n# UNIT x_cpu_seconds seconds\n# HELP x_cpu_seconds CPU time\n\
             x_cpu_seconds_total{site=\"a\"} 1.500000000\n\
             # TYPE x_size_bytes gauge\n# UNIT x_size_bytes bytes\n# HELP x_size_bytes Size\n\
             x_size_bytes{site=\"a\"} 7\nx_size_bytes{site=\"b\"} 8\n\
             # TYPE x_instances gauge\n# HELP x_instances Instances\n\
             x_instances{site=\"a\"} 1\nx_instances{site=\"b\"} 1\n# EOF\n"
        );
    }

    #[test]
    fn the_older_format_calls_the_family_of_a_counter_as_its_series() {
        let text = text(Format::Prometheus);
        assert!(
            text.starts_with("# TYPE x_cpu_seconds_total counter\n# HELP x_cpu_seconds_total CPU time\n")
        );
        assert!(!text.contains("UNIT") && !text.contains("EOF"), "{text}");
    }

    #[test]
    fn hostile_values_stay_inside_their_quotes() {
        let labels = Labels::of(&[("instance", "a\"} 1\nx_evil{b=\"\\"), ("node", "n\u{7}é")]);
        assert_eq!(labels.as_str(), "instance=\"a\\\"} 1\\nx_evil{b=\\\"\\\\\",node=\"n\u{7}é\"");
        assert!(!labels.as_str().contains('\n'));
    }

    #[test]
    fn what_is_asked_for_is_what_is_sent() {
        let check = |accept: &[&'static str], expected| {
            let mut headers = HeaderMap::new();
            for value in accept {
                headers.append(header::ACCEPT, header::HeaderValue::from_static(value));
            }
            assert_eq!(Format::accepted(&headers), expected, "{accept:?}");
        };
        check(&[], Format::Prometheus);
        check(&["*/*"], Format::Prometheus);
        check(&["text/plain;version=0.0.4"], Format::Prometheus);
        check(
            &[
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            ],
            Format::OpenMetrics,
        );
        check(&["text/plain;q=0.5", "application/openmetrics-text; version=1.0.0"], Format::OpenMetrics);
    }
}
