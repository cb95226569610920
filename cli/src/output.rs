//! stdout and stderr: data goes to the one, all else to the other, and nothing but this module writes to them.
//!
//! Invariants: no colour and no redrawing off a terminal; a closed pipe ends the program as a success.

mod live;
pub(crate) mod number;
mod screen;
mod sparkline;
mod table;

pub(crate) use live::Live;
pub(crate) use screen::{Screen, leave as leave_screen};
pub(crate) use sparkline::{Letters, sparkline};
pub(crate) use table::{Cell, Column, Kept, csv_line, cut_name};

use crate::args::{Color, Format, Global};
use crate::error::Error;
use crate::terminal::{clean, clean_lines};
use serde::Serialize;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use skpr_proto::ErrorKind;
use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

/// How and how much is written.
#[derive(Clone)]
pub(crate) struct Output {
    pub format: Format,
    pub colour: bool,
    pub terminal: bool,
    /// Whether stderr is a terminal that can be drawn on.
    pub error_terminal: bool,
    pub letters: Letters,
    error_colour: bool,
    quiet: bool,
    verbose: bool,
}

/// A list of things in every format.
pub(crate) struct Listing<'a, T> {
    pub items: &'a [T],
    pub name: fn(&T) -> String,
    pub headers: &'a [&'a str],
    pub cells: fn(&T) -> Vec<Cell>,
    pub csv_headers: &'a [&'a str],
    pub csv: fn(&T) -> Vec<String>,
}

impl Output {
    pub(crate) fn new(global: &Global) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colour = |terminal: bool| match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => !set("NO_COLOR") && (set("CLICOLOR_FORCE") || (terminal && !dumb)),
        };
        let terminal = io::stdout().is_terminal();
        Output {
            format: global.output,
            colour: colour(terminal),
            terminal: terminal && !dumb,
            error_terminal: io::stderr().is_terminal() && !dumb,
            letters: Letters::of(|name| std::env::var(name).ok()),
            error_colour: colour(io::stderr().is_terminal()) && global.color != Color::Always,
            quiet: global.quiet,
            verbose: global.verbose,
        }
    }

    /// The same without a word on stderr, while stdout holds a view that words would break.
    pub(crate) fn silent(&self) -> Self {
        Output { quiet: true, verbose: false, ..*self }
    }

    /// Whether more is to be said.
    pub(crate) fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// How many columns and rows there are to draw on: those of the terminal, or as many columns as `COLUMNS` says;
    /// `None` where nobody counts them.
    pub(crate) fn size(&self) -> Option<(usize, usize)> {
        const FEW: usize = 24;
        let said = || std::env::var("COLUMNS").ok()?.parse().ok().filter(|columns| *columns > 0);
        match (self.terminal, live::size_of(&io::stdout())) {
            (true, Some(size)) => Some(size),
            (true, None) => Some((said().unwrap_or(80), FEW)),
            (false, _) => Some((said()?, FEW)),
        }
    }

    /// Writes data, now.
    pub(crate) fn write(&self, data: &[u8]) -> Result<(), Error> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(data).and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Error::ClosedPipe,
            _ => anyhow::Error::new(error).context("cannot write to stdout").into(),
        })
    }

    /// What helps to understand the data; not with `-q`.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            self.error_line(text);
        }
    }

    /// What only a curious user wants to know.
    pub(crate) fn detail(&self, text: &str) {
        if self.verbose {
            self.error_line(text);
        }
    }

    /// What the user must know, also with `-q`.
    pub(crate) fn warn(&self, text: &str) {
        self.error_line(&format!("warning: {text}"));
    }

    /// A table that helps to understand the data; not with `-q`.
    pub(crate) fn note_table(&self, headers: &[&str], rows: &[Vec<Cell>]) {
        if !self.quiet {
            write_stderr(&table::render(headers, rows, self.error_colour));
        }
    }

    /// A table of several that make up the data; without the columns that the terminal has no room for.
    pub(crate) fn fitting_table(&self, columns: &[Column], rows: &[Vec<Cell>]) -> String {
        Kept::new(columns, rows, self.size().map(|(width, _)| width)).render(columns, rows, self.colour)
    }

    /// A table of several that make up the data.
    pub(crate) fn table(&self, headers: &[&str], rows: &[Vec<Cell>]) -> String {
        table::render(headers, rows, self.colour)
    }

    /// Lines that belong to an error, before it is reported.
    pub(crate) fn evidence(&self, lines: &str) {
        write_stderr(&clean_lines(lines));
    }

    /// Lines that are replaced in place while something goes on; none with `-q`, and none off a terminal.
    pub(crate) fn live(&self) -> Option<Live> {
        (self.error_terminal && !self.quiet).then(Live::default)
    }

    fn error_line(&self, text: &str) {
        write_stderr(&format!("{}\n", clean(text)));
    }

    /// Says why a command failed.
    pub(crate) fn report(&self, error: &Error) -> ExitCode {
        match error {
            Error::ClosedPipe | Error::Exit(_) => {}
            Error::Failed { .. } if self.format == Format::Json => {
                write_stderr(&(escape_json(error.json()) + "\n"))
            }
            Error::Failed { .. } => {
                let text = clean_lines(&error.text());
                let text = match text.strip_prefix("error:") {
                    Some(rest) if self.error_colour => format!("\x1b[1;31merror:\x1b[0m{rest}"),
                    _ => text,
                };
                write_stderr(&text);
            }
        }
        ExitCode::from(error.exit_code())
    }

    /// A list as bytes.
    pub(crate) fn render<T: Serialize>(&self, listing: &Listing<'_, T>) -> Result<Vec<u8>, Error> {
        let text = match self.format {
            Format::Table => {
                let rows: Vec<Vec<Cell>> = listing.items.iter().map(listing.cells).collect();
                table::render(listing.headers, &rows, self.colour)
            }
            Format::Json => escape_json(json(&listing.items)?) + "\n",
            Format::Yaml => yaml(&listing.items)?,
            Format::Csv => {
                let mut text = table::csv_line(listing.csv_headers.iter().copied());
                for item in listing.items {
                    text.push_str(&table::csv_line((listing.csv)(item).iter().map(String::as_str)));
                }
                text
            }
            Format::Name => listing.items.iter().map(|item| (listing.name)(item) + "\n").collect(),
        };
        Ok(text.into_bytes())
    }

    /// One thing in every format; as an object, not as a list of one.
    pub(crate) fn object<T: Serialize>(&self, listing: &Listing<'_, T>) -> Result<(), Error> {
        let text = match (self.format, listing.items.first()) {
            (Format::Json, Some(item)) => (escape_json(json(item)?) + "\n").into_bytes(),
            (Format::Yaml, Some(item)) => yaml(item)?.into_bytes(),
            _ => self.render(listing)?,
        };
        self.write(&text)
    }

    /// One thing: its fields for programs, `text` for people, and its name alone.
    pub(crate) fn thing<T: Serialize>(&self, thing: &T, text: &str, name: &str) -> Result<(), Error> {
        let text = match self.format {
            Format::Table => text.to_owned(),
            Format::Json => escape_json(json(thing)?) + "\n",
            Format::Yaml => yaml(thing)?,
            Format::Name => format!("{name}\n"),
            Format::Csv => csv(thing)?,
        };
        self.write(text.as_bytes())
    }
}

fn json<T: Serialize>(value: &T) -> Result<String, Error> {
    serde_json::to_string_pretty(value).map_err(|error| anyhow::Error::new(error).into())
}

/// The fields of a thing in the order in which it has them, which a map of `serde_json` loses.
struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ordered;
        impl<'de> Visitor<'de> for Ordered {
            type Value = Fields;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Ordered)
    }
}

/// One thing as a header and a line; what is a list or an object in it stays JSON.
fn csv<T: Serialize>(thing: &T) -> Result<String, Error> {
    let Fields(fields) = serde_json::from_str(&json(thing)?).map_err(anyhow::Error::new)?;
    let values = fields.iter().map(|(_, value)| match value {
        Value::Null => String::new(),
        Value::String(text) => clean(text).into_owned(),
        other => escape_json(other.to_string()),
    });
    let values: Vec<String> = values.collect();
    let header = table::csv_line(fields.iter().map(|(key, _)| key.as_str()));
    Ok(header + &table::csv_line(values.iter().map(String::as_str)))
}

fn yaml<T: Serialize>(value: &T) -> Result<String, Error> {
    serde_saphyr::to_string(value).map_err(|error| anyhow::Error::msg(error.to_string()).into())
}

/// JSON lets C1 controls and line-reordering characters through, which a terminal acts on. Outside of strings there
/// are none, so they can be escaped in the text.
pub(crate) fn escape_json(json: String) -> String {
    let harmless = |character: char| {
        character == '\n' || clean(character.encode_utf8(&mut [0; 4])).len() == character.len_utf8()
    };
    if json.chars().all(harmless) {
        return json;
    }
    let mut out = String::new();
    for character in json.chars() {
        if harmless(character) {
            out.push(character);
        } else {
            out.push_str(&format!("\\u{:04x}", u32::from(character)));
        }
    }
    out
}

/// A stderr that is gone is no reason to stop: the data still goes to stdout.
fn write_stderr(text: &str) {
    drop(io::stderr().lock().write_all(text.as_bytes()));
}

/// The last words of an interrupted program, on a line of their own below what the terminal echoed.
pub(crate) fn parting(text: &str) {
    let fresh = if io::stderr().is_terminal() { "\n" } else { "" };
    write_stderr(&format!("{fresh}{}\n", clean(text)));
}

/// What the parser of the command line has to say: help and version are data, an error is not.
pub(crate) fn report_usage(error: &clap::Error, as_json: bool) -> ExitCode {
    if !error.use_stderr() {
        // Help into a pager that was closed is fine.
        drop(error.print());
        return ExitCode::SUCCESS;
    }
    if as_json {
        let text = error.render().to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let failure = skpr_proto::Failure::new(ErrorKind::Usage, message).with_hint("skpr --help");
        write_stderr(&(escape_json(Error::from(failure).json()) + "\n"));
    } else {
        drop(error.print());
    }
    ExitCode::from(ErrorKind::Usage.exit_code())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_reaches_a_terminal_without_controls() {
        let json = serde_json::to_string("a\u{9b}31m\u{7f}\u{202e}é").unwrap();
        let escaped = escape_json(json);
        assert_eq!(escaped, "\"a\\u009b31m\\u007f\\u202eé\"");
        assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), "a\u{9b}31m\u{7f}\u{202e}é");
    }
}
