//! Tables for people, and CSV.

use unicode_width::UnicodeWidthStr as _;

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
    fn csv_quotes_what_needs_it() {
        assert_eq!(csv_line(["a", "b,c", "d\"e", ""].into_iter()), "a,\"b,c\",\"d\"\"e\",\n");
    }
}
