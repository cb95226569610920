//! What a benchmark says: a table for people, and `target/bench/NAME.json` for whoever compares runs.

use anyhow::Context as _;
use serde::Serialize;
use std::path::Path;

/// How much is measured: a number from 1 on, by the environment. `BENCH_SHORT` makes what is not said smaller.
pub fn amount(name: &str, whole: usize, shortened: usize) -> anyhow::Result<usize> {
    let short = std::env::var_os("BENCH_SHORT").is_some_and(|text| !text.is_empty());
    let usual = if short { shortened } else { whole };
    let number = std::env::var(name).map_or(Ok(usual), |text| text.parse());
    number.ok().filter(|number| *number > 0).with_context(|| format!("{name} is a number from 1 on"))
}

/// Which direction is good.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    Higher,
    Lower,
}

/// One measured figure, what it was compared with in the same run, and what was promised.
#[derive(Serialize)]
pub struct Figure {
    pub name: String,
    pub value: f64,
    pub unit: &'static str,
    pub better: Better,
    pub peer: Option<String>,
    pub peer_value: Option<f64>,
    /// `value / peer_value`.
    pub ratio: Option<f64>,
    /// A bound on `value`, or on `ratio` where the promise is relative (`target_on_ratio`).
    pub target: Option<f64>,
    pub target_on_ratio: bool,
    pub met: Option<bool>,
}

impl Figure {
    pub fn new(name: impl Into<String>, value: f64, unit: &'static str, better: Better) -> Self {
        Figure {
            name: name.into(),
            value,
            unit,
            better,
            peer: None,
            peer_value: None,
            ratio: None,
            target: None,
            target_on_ratio: false,
            met: None,
        }
    }

    pub fn against(mut self, peer: impl Into<String>, peer_value: f64) -> Self {
        self.peer = Some(peer.into());
        self.peer_value = Some(peer_value);
        self.ratio = Some(self.value / peer_value);
        self
    }

    /// Says why there is nobody to compare with.
    pub fn without(mut self, reason: impl Into<String>) -> Self {
        self.peer = Some(reason.into());
        self
    }

    pub fn target(mut self, bound: f64) -> Self {
        self.target = Some(bound);
        self.met = Some(self.within(self.value, bound));
        self
    }

    /// A promise relative to the peer; call after [`Figure::against`].
    pub fn target_ratio(mut self, bound: f64) -> Self {
        self.target = Some(bound);
        self.target_on_ratio = true;
        self.met = self.ratio.map(|ratio| self.within(ratio, bound));
        self
    }

    fn within(&self, value: f64, bound: f64) -> bool {
        match self.better {
            Better::Higher => value >= bound,
            Better::Lower => value <= bound,
        }
    }

    fn row(&self) -> [String; 6] {
        let sign = match self.better {
            Better::Higher => "≥",
            Better::Lower => "≤",
        };
        let target = match (self.target, self.target_on_ratio) {
            (Some(bound), true) => format!("{sign} {bound} ×"),
            (Some(bound), false) => format!("{sign} {bound}"),
            (None, _) => String::new(),
        };
        let peer = match (&self.peer, self.peer_value) {
            (Some(peer), Some(value)) => format!("{peer} {}", short(value)),
            (Some(reason), None) => reason.clone(),
            (None, _) => String::new(),
        };
        let met = match self.met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        [
            self.name.clone(),
            format!("{} {}", short(self.value), self.unit),
            peer,
            self.ratio.map(|ratio| format!("{} ×", short(ratio))).unwrap_or_default(),
            target,
            met.to_owned(),
        ]
    }
}

fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Prints the table and writes the JSON file.
#[expect(clippy::print_stdout, reason = "the table is what a benchmark is run for")]
pub fn publish(figures: &[Figure], file: &Path) -> anyhow::Result<()> {
    let rows: Vec<[String; 6]> = figures.iter().map(Figure::row).collect();
    let head = ["figure", "value", "peer", "ratio", "target", ""].map(String::from);
    let mut widths = [0usize; 6];
    for row in rows.iter().chain([&head]) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in [&head].into_iter().chain(&rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
        }
        println!("{}", line.trim_end());
    }
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory).context("create the report's directory")?;
    }
    std::fs::write(file, serde_json::to_string_pretty(figures)? + "\n").context("write the report")?;
    println!("\nwritten to {}", file.display());
    Ok(())
}
