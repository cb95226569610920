//! Usage as people see it: a row for the environment, a row an instance, and a row of bars beside each.
//!
//! Invariants: no line is wider than the terminal, down to 40 columns; what the row is about, its CPU, its memory and
//! that it is stale are never left out for want of room.

use super::series::{Instance, Point, Whole};
use crate::commands::usage::{Usage, cell};
use crate::output::{Cell, Column, Kept, Letters, Output, cut_name, number, sparkline};
use std::borrow::Cow;

/// In the order of the table; those with the greatest rank go first where there is no room.
const COLUMNS: [Column; 12] = [
    Column::fixed("ENVIRONMENT"),
    Column::fixed("STATE"),
    Column::fixed("CPU"),
    Column::ranked("% SHARE", 4),
    Column::fixed("MEMORY"),
    Column::ranked("MAX", 2),
    Column::ranked("% MAX", 5),
    Column::ranked("INSTANCES", 3),
    Column::ranked("THROTTLED", 6),
    Column::ranked("OOM KILLS", 7),
    Column::ranked("RESTARTS", 8),
    Column::ranked("CPU", 1),
];
const STATE: usize = 1;
/// Fewer bars than these say nothing.
const FEWEST_BARS: usize = 6;
/// More than these are no easier to read.
const MOST_BARS: usize = 60;
/// Where nobody counts columns.
const SOME_BARS: usize = 30;
/// However little room there is, names are told apart by their last characters.
const SHORTEST_NAME: usize = 12;

/// What a table is drawn with.
#[derive(Clone, Copy)]
pub(super) struct Look {
    pub width: Option<usize>,
    pub letters: Letters,
    pub colour: bool,
}

/// A table, once.
pub(super) fn once(whole: &Whole, instances: bool, output: &Output) -> String {
    let width = output.size().map(|(width, _)| width);
    table(whole, instances, Look { width, letters: output.letters, colour: output.colour })
}

pub(super) fn table(whole: &Whole, instances: bool, look: Look) -> String {
    let mut lines = vec![Line::whole(whole)];
    if instances {
        lines.extend(whole.instance.iter().map(|series| Line::instance(whole, series)));
    }
    let (mut columns, states) = (COLUMNS, lines.iter().any(|line| line.state().is_some()));
    if let (Some(seconds), Some(bars)) = (whole.seconds, columns.last_mut()) {
        bars.header = format!("CPU {}", in_words(seconds)).into();
    }
    // Most of the time nothing is stale, and a column for it would be empty.
    let shown = |index: &usize| states || *index != STATE;
    let columns: Vec<Column> = columns
        .iter()
        .enumerate()
        .filter(|(index, _)| shown(index))
        .map(|(_, column)| column.clone())
        .collect();
    let rows = |name: usize, bars: &dyn Fn(&Line<'_>) -> String| -> Vec<Vec<Cell>> {
        lines
            .iter()
            .map(|line| {
                let cells = line.cells(cut_name(&line.name, name, look.letters.ellipsis()), bars(line));
                cells
                    .into_iter()
                    .enumerate()
                    .filter(|(index, _)| shown(index))
                    .map(|(_, cell)| cell)
                    .collect()
            })
            .collect()
    };
    let points = lines.iter().map(|line| line.points.len()).max().unwrap_or_default();
    let least = |_: &Line<'_>| "-".repeat(FEWEST_BARS.min(points));
    let mut name = usize::MAX;
    let mut kept = Kept::new(&columns, &rows(name, &least), look.width);
    let all = (0..columns.len()).all(|index| kept.has(index)) && kept.missing == 0;
    if let (false, Some(width)) = (all, look.width) {
        // A long name costs less when it is cut than the columns do that it would drive out.
        name = SHORTEST_NAME.max(width * 3 / 10);
        kept = Kept::new(&columns, &rows(name, &least), look.width);
        if kept.missing > 0 {
            name = name.saturating_sub(kept.missing).max(1);
            kept = Kept::new(&columns, &rows(name, &least), look.width);
        }
    }
    let bars = match kept.left {
        Some(left) => (left + FEWEST_BARS.min(points)).min(MOST_BARS),
        None => SOME_BARS,
    };
    let drawn = |line: &Line<'_>| sparkline(&line.cpu(), bars, look.letters);
    kept.render(&columns, &rows(name, &drawn), look.colour)
}

/// One row.
struct Line<'a> {
    name: String,
    /// What its numbers are of: now, or a time that is past.
    shown: Option<Cow<'a, Usage>>,
    points: &'a [Point],
    /// Of the share and of the max, from 0 to 1 and above.
    of_share: Option<f64>,
    of_max: Option<f64>,
    is_whole: bool,
    past: bool,
}

impl<'a> Line<'a> {
    fn new(past: bool, name: String, now: Option<&'a Usage>, points: &'a [Point]) -> Self {
        if past {
            let shown = over(points).map(Cow::Owned);
            // Share and max change over time: each point has its own.
            let shares = points.iter().filter_map(Point::of_share);
            let of_max = points.iter().filter_map(Point::of_memory_limit).reduce(f64::max);
            return Line { name, shown, points, of_share: average(shares), of_max, is_whole: false, past };
        }
        let (of_share, of_max) = (now.and_then(Usage::of_share), now.and_then(Usage::of_memory_limit));
        Line { name, shown: now.map(Cow::Borrowed), points, of_share, of_max, is_whole: false, past }
    }

    fn whole(whole: &'a Whole) -> Self {
        let line = Line::new(whole.past, whole.name(), whole.now.as_ref(), &whole.points);
        Line { is_whole: true, ..line }
    }

    fn instance(whole: &Whole, series: &'a Instance) -> Self {
        Line::new(whole.past, series.name.clone(), series.now.as_ref(), &series.points)
    }

    fn state(&self) -> Option<String> {
        match &self.shown {
            _ if self.past => None,
            Some(usage) => usage.caveat(),
            None if !self.is_whole && !self.points.is_empty() => Some("ended".to_owned()),
            None => None,
        }
    }

    fn cpu(&self) -> Vec<Option<f64>> {
        self.points.iter().map(|point| point.cpu_millicores).collect()
    }

    /// In the range; nothing is known of a time without samples.
    fn count(&self, count: fn(&Point) -> u64) -> Option<u64> {
        let known = self.points.iter().any(|point| point.instances > 0);
        known.then(|| self.points.iter().map(count).fold(0, u64::saturating_add))
    }

    fn cells(&self, name: String, bars: String) -> Vec<Cell> {
        let percent = |ratio: Option<f64>| ratio.map_or_else(|| "-".to_owned(), number::percent);
        let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let bytes = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), number::bytes);
        let now = self.shown.as_deref();
        let dim = now.is_none_or(|usage| usage.stale).then_some("2");
        // Of a time that is past, the most used may stand beside another limit than its own.
        let colour = |of: fn(&Usage) -> Option<&'static str>| now.filter(|_| !self.past).and_then(of);
        let instances = match (self.is_whole, now) {
            (true, Some(usage)) => usage.instances.to_string(),
            (true, None) => "-".to_owned(),
            (false, _) => String::new(),
        };
        let counted = self.points.iter().filter_map(|point| point.out_of_memory_kills);
        let kills = counted.reduce(u64::saturating_add);
        vec![
            cell(name, if self.is_whole { None } else { dim }),
            cell(self.state().unwrap_or_default(), dim),
            cell(
                now.and_then(|usage| usage.cpu_millicores).map_or_else(|| "-".to_owned(), number::cores),
                colour(Usage::cpu_colour),
            ),
            cell(percent(self.of_share), dim),
            cell(bytes(now.and_then(|usage| usage.memory_working_set_bytes)), colour(Usage::memory_colour)),
            cell(bytes(now.and_then(|usage| usage.memory_limit_bytes)), dim),
            cell(percent(self.of_max), colour(Usage::memory_colour)),
            cell(instances, dim),
            cell(percent(now.and_then(|usage| usage.throttled_ratio)), dim),
            cell(number(kills), kills.filter(|kills| *kills > 0).map(|_| "31")),
            cell(number(self.count(|point| point.restarts)), None),
            cell(bars, Some("36")),
        ]
    }
}

/// A time that is past in one number each: CPU on average, the most of memory and of instances, and the last of what is set.
fn over(points: &[Point]) -> Option<Usage> {
    let last = points.iter().rfind(|point| point.instances > 0)?;
    Some(Usage {
        cpu_millicores: average(points.iter().filter_map(|point| point.cpu_millicores)),
        throttled_ratio: average(points.iter().filter_map(|point| point.throttled_ratio)),
        cpu_share_millicores: last.cpu_share_millicores,
        memory_working_set_bytes: points.iter().filter_map(|point| point.memory_working_set_bytes).max(),
        memory_limit_bytes: last.memory_limit_bytes,
        instances: points.iter().map(|point| point.instances).max().unwrap_or_default(),
        ..Usage::default()
    })
}

fn average(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (count, sum) = values.fold((0_u32, 0.0), |(count, sum), value| (count + 1, sum + value));
    (count > 0).then(|| sum / f64::from(count))
}

/// The environment over the range in three rows of bars as wide as there is room, for the whole screen.
pub(super) fn graphs(whole: &Whole, look: Look) -> Vec<String> {
    const LABEL: usize = 11;
    /// `max >99999` and the two blanks before it.
    const GREATEST: usize = 12;
    let points = &whole.points;
    let row = |label: &str, values: Vec<Option<f64>>, shown: &dyn Fn(f64) -> String| {
        let greatest = values.iter().flatten().copied().reduce(f64::max)?;
        let room = look.width.unwrap_or(80).saturating_sub(LABEL + GREATEST);
        let bars = sparkline(&values, room, look.letters);
        let bars = if look.colour { format!("\x1b[36m{bars}\x1b[0m") } else { bars };
        Some(format!("{label:<LABEL$}{bars}  max {}", shown(greatest)))
    };
    let memory = |point: &Point| point.memory_working_set_bytes.map(|bytes| bytes as f64);
    let instances = |point: &Point| (point.instances > 0).then_some(f64::from(point.instances));
    // Whole bytes and instances came in as integers: a cast of a float ends at the bounds of the integer.
    [
        row("cpu", points.iter().map(|point| point.cpu_millicores).collect(), &number::cores),
        row("memory", points.iter().map(memory).collect(), &|bytes| number::bytes(bytes as u64)),
        row("instances", points.iter().map(instances).collect(), &|count| count.to_string()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// How long the range is, in words: `1h`.
pub(super) fn length(whole: &Whole) -> String {
    whole.seconds.map(in_words).unwrap_or_default()
}

/// To the unit that a user would say; where a range begins is moved to a round time, which is not worth a word.
fn in_words(seconds: i64) -> String {
    let minutes = seconds.saturating_add(30) / 60;
    match minutes {
        _ if seconds < 120 => format!("{seconds}s"),
        58..=62 => "1h".to_owned(),
        ..120 => format!("{minutes}m"),
        120..=2_879 => format!("{}h", (minutes + 30) / 60),
        _ => format!("{}d", (minutes + 720) / 1_440),
    }
}
