//! Tables for people, and CSV.

use std::borrow::Cow;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// A cell and how it is drawn attention to.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    /// An SGR parameter, such as `31` for red.
    colour: Option<&'static str>,
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Cell { text: text.into(), colour: None }
    }

    pub(crate) fn coloured(text: impl Into<String>, colour: &'static str) -> Self {
        Cell { text: text.into(), colour: Some(colour) }
    }
}

/// A column and what becomes of it where there is no room for all.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub header: Cow<'static, str>,
    /// 0 stays; of the others the one with the greatest number goes first.
    pub rank: u8,
}

impl Column {
    /// Columns that all stay.
    pub(crate) const fn fixed(header: &'static str) -> Self {
        Column::ranked(header, 0)
    }

    pub(crate) const fn ranked(header: &'static str, rank: u8) -> Self {
        Column { header: Cow::Borrowed(header), rank }
    }
}

/// The columns that there is room for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    columns: Vec<usize>,
    /// What is left of the width; `None` where it is not limited.
    pub left: Option<usize>,
    /// What is missing even so.
    pub missing: usize,
}

impl Kept {
    pub(crate) fn new(columns: &[Column], rows: &[Vec<Cell>], width: Option<usize>) -> Self {
        let wide: Vec<usize> = (0..columns.len()).map(|index| widest(columns, rows, index)).collect();
        let mut kept: Vec<usize> = (0..columns.len()).collect();
        let Some(width) = width else { return Kept { columns: kept, left: None, missing: 0 } };
        let rank = |index: &usize| columns.get(*index).map_or(0, |column| column.rank);
        let needed = |kept: &[usize]| {
            kept.iter().filter_map(|index| wide.get(*index)).sum::<usize>() + 2 * kept.len().saturating_sub(1)
        };
        let mut dropped = Vec::new();
        while needed(&kept) > width {
            let least = kept.iter().copied().max_by_key(rank).filter(|index| rank(index) > 0);
            let Some(least) = least else { break };
            kept.retain(|index| *index != least);
            dropped.push(least);
        }
        // Where a wide one had to go, a narrow one that went before it may have room again.
        for index in dropped.into_iter().rev() {
            let at = kept.partition_point(|kept| *kept < index);
            kept.insert(at, index);
            if needed(&kept) > width {
                kept.remove(at);
            }
        }
        let needed = needed(&kept);
        Kept {
            columns: kept,
            left: Some(width.saturating_sub(needed)),
            missing: needed.saturating_sub(width),
        }
    }

    pub(crate) fn has(&self, column: usize) -> bool {
        self.columns.contains(&column)
    }

    pub(crate) fn render(&self, columns: &[Column], rows: &[Vec<Cell>], colour: bool) -> String {
        let headers: Vec<&str> = self
            .columns
            .iter()
            .filter_map(|index| columns.get(*index))
            .map(|column| &*column.header)
            .collect();
        let rows: Vec<Vec<Cell>> = rows
            .iter()
            .map(|row| self.columns.iter().filter_map(|index| row.get(*index).cloned()).collect())
            .collect();
        render(&headers, &rows, colour)
    }
}

fn widest(columns: &[Column], rows: &[Vec<Cell>], index: usize) -> usize {
    let header = columns.get(index).map_or(0, |column| column.header.width());
    rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.text.width()).fold(header, usize::max)
}

/// The end of a name, which tells it from the others of its kind, in at most this many columns.
pub(crate) fn cut_name(name: &str, columns: usize, ellipsis: &str) -> String {
    if name.width() <= columns {
        return name.to_owned();
    }
    let mut room = columns.saturating_sub(ellipsis.width());
    let mut from = name.len();
    for (at, character) in name.char_indices().rev() {
        let Some(rest) = room.checked_sub(character.width().unwrap_or(0)) else { break };
        (room, from) = (rest, at);
    }
    let end = name.get(from..).unwrap_or_default();
    if columns < ellipsis.width() { end.to_owned() } else { format!("{ellipsis}{end}") }
}

/// Columns as wide as their widest cell, two spaces between them, none at the end of a line.
pub(super) fn render(headers: &[&str], rows: &[Vec<Cell>], colour: bool) -> String {
    let mut widths: Vec<usize> = headers.iter().map(|header| header.width()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.text.width());
        }
    }
    let heads: Vec<Cell> = headers.iter().map(|header| Cell::coloured(*header, "1")).collect();
    let mut out = String::new();
    for row in std::iter::once(&heads).chain(rows) {
        let last = row.iter().rposition(|cell| !cell.text.is_empty()).unwrap_or_default();
        for (index, (cell, width)) in row.iter().zip(&widths).enumerate().take(last + 1) {
            match cell.colour.filter(|_| colour) {
                Some(code) => out.push_str(&format!("\x1b[{code}m{}\x1b[0m", cell.text)),
                None => out.push_str(&cell.text),
            }
            if index < last {
                out.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.text.width()) + 2));
            }
        }
        out.push('\n');
    }
    out
}

/// One line of CSV (RFC 4180, but for the line end, which is that of every other tool here).
pub(crate) fn csv_line<'a>(fields: impl Iterator<Item = &'a str>) -> String {
    let mut line = String::new();
    for (index, field) in fields.enumerate() {
        if index > 0 {
            line.push(',');
        }
        if field.contains([',', '"', '\n', '\r']) {
            line.push('"');
            line.push_str(&field.replace('"', "\"\""));
            line.push('"');
        } else {
            line.push_str(field);
        }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_characters_keep_the_columns_straight() {
        let rows =
            vec![vec![Cell::new("日本"), Cell::new("x")], vec![Cell::new("a"), Cell::coloured("y", "31")]];
        assert_eq!(render(&["N", "V"], &rows, false), "N     V\n日本  x\na     y\n");
        assert!(render(&["N", "V"], &rows, true).ends_with("a     \x1b[31my\x1b[0m\n"));
    }

    #[test]
    fn columns_go_by_rank_until_the_rest_fits() {
        let columns = [Column::fixed("NAME"), Column::ranked("LESS", 2), Column::ranked("MORE", 1)];
        let rows = vec![vec![Cell::new("web-1"), Cell::new("a"), Cell::new("b")]];
        let at = |width| Kept::new(&columns, &rows, width);
        assert_eq!(at(None), Kept { columns: vec![0, 1, 2], left: None, missing: 0 });
        assert_eq!(at(Some(20)), Kept { columns: vec![0, 1, 2], left: Some(3), missing: 0 });
        assert_eq!(at(Some(16)), Kept { columns: vec![0, 2], left: Some(5), missing: 0 });
        assert_eq!(at(Some(3)), Kept { columns: vec![0], left: Some(0), missing: 2 });
        // The wide one goes, and what had gone before it comes back.
        let wide = vec![vec![Cell::new("web-1"), Cell::new("a"), Cell::new("b".repeat(30))]];
        assert_eq!(
            Kept::new(&columns, &wide, Some(11)),
            Kept { columns: vec![0, 1], left: Some(0), missing: 0 }
        );
        assert_eq!(at(Some(16)).render(&columns, &rows, false), "NAME   MORE\nweb-1  b\n");
    }

    #[test]
    fn names_keep_their_end() {
        for (name, columns, expected) in [
            ("web-1", 5, "web-1"),
            ("shop-prod-x2x1z", 8, "…d-x2x1z"),
            ("日本語", 4, "…語"),
            ("abc", 1, "…"),
            ("abc", 0, ""),
        ] {
            assert_eq!(cut_name(name, columns, "…"), expected);
        }
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        assert_eq!(csv_line(["a", "b,c", "d\"e", ""].into_iter()), "a,\"b,c\",\"d\"\"e\",\n");
    }
}
