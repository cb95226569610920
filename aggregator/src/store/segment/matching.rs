//! Finds the rows of a page of messages that a filter's regular expressions accept. Pure.
//!
//! A regular expression that cannot match without some literal is not run over every message: the literal is searched for
//! in the whole page first, which is what makes a search as fast as memory can be read.

use super::pages::MessagePage;
use crate::record::Filter;
use memchr::memmem::Finder;
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Hir, HirKind};

/// The messages asked for.
pub(super) struct Matcher {
    filter: Filter,
    literal: Option<Finder<'static>>,
    /// A message that has the literal passes; no regular expression is left to be asked.
    literal_decides: bool,
}

impl Matcher {
    pub(super) fn new(filter: &Filter) -> Matcher {
        let literals = filter.grep.iter().filter_map(|regex| literal_of(regex.as_str()));
        let best = literals.max_by_key(|literal| literal.bytes.len());
        let alone = filter.grep.len() == 1 && filter.exclude.is_empty();
        Matcher {
            filter: filter.clone(),
            literal_decides: alone && best.as_ref().is_some_and(|literal| literal.whole),
            literal: best.map(|literal| Finder::new(&literal.bytes).into_owned()),
        }
    }

    pub(super) fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Whether every message passes.
    pub(super) fn is_trivial(&self) -> bool {
        self.filter.grep.is_empty() && self.filter.exclude.is_empty()
    }

    /// Calls `hit` with the index in the page of each row that passes and is `wanted`, in order.
    pub(super) fn hits(
        &self,
        page: &MessagePage,
        wanted: impl Fn(usize) -> bool,
        mut hit: impl FnMut(usize),
    ) {
        let passes = |index: usize| {
            let message = page.range(index).and_then(|range| page.bytes.get(range)).unwrap_or_default();
            self.filter.accepts_message(message)
        };
        let Some(finder) = &self.literal else {
            for index in 0..page.rows.len() {
                if wanted(index) && (self.is_trivial() || passes(index)) {
                    hit(index);
                }
            }
            return;
        };
        let ends = page.offsets.get(1..).unwrap_or_default();
        let (mut from, mut row) = (0, 0);
        while let Some(found) = page.bytes.get(from..).and_then(|rest| finder.find(rest)) {
            let start = from + found;
            row += row_of(ends.get(row..).unwrap_or_default(), start);
            let Some(end) = ends.get(row).map(|end| *end as usize) else { return };
            if start + finder.needle().len() > end {
                from = start + 1; // it straddles two messages; one that begins inside of it may not
                continue;
            }
            if wanted(row) && (self.literal_decides || passes(row)) {
                hit(row);
            }
            from = end;
        }
    }
}

/// How many of `ends` are not after `position`. Most hits are a few rows apart or many, so it gallops.
fn row_of(ends: &[u32], position: usize) -> usize {
    let before = |end: &u32| *end as usize <= position;
    let mut bound = 1;
    while ends.get(bound - 1).is_some_and(before) {
        bound *= 2;
    }
    let known = bound / 2;
    let rest = ends.get(known..bound.min(ends.len())).unwrap_or_default();
    known + rest.partition_point(before)
}

struct Literal {
    bytes: Vec<u8>,
    /// The regular expression is nothing but this literal.
    whole: bool,
}

/// A literal that is part of every match.
fn literal_of(regex: &str) -> Option<Literal> {
    // As the regex crate parses what is matched against bytes. Flags given to a builder instead of in the text, like
    // `(?i)`, cannot be seen here: whoever compiles a filter must not use them.
    let hir = ParserBuilder::new().utf8(false).build().parse(regex).ok()?;
    required(&hir)
}

fn required(hir: &Hir) -> Option<Literal> {
    match hir.kind() {
        HirKind::Literal(literal) => Some(Literal { bytes: literal.0.to_vec(), whole: true }),
        HirKind::Capture(capture) => required(&capture.sub),
        HirKind::Repetition(repetition) if repetition.min > 0 => part_of(required(&repetition.sub)),
        HirKind::Concat(parts) => {
            part_of(parts.iter().filter_map(required).max_by_key(|literal| literal.bytes.len()))
        }
        _ => None,
    }
}

fn part_of(literal: Option<Literal>) -> Option<Literal> {
    literal.map(|literal| Literal { whole: false, ..literal })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;
    use regex::bytes::Regex;

    fn check(regex: &str, expected: Option<(&str, bool)>) {
        let literal = literal_of(regex);
        let found =
            literal.as_ref().map(|literal| (std::str::from_utf8(&literal.bytes).unwrap(), literal.whole));
        assert_eq!(found, expected, "{regex}");
    }

    #[test]
    fn literals_are_those_that_every_match_has() {
        check("PHP Fatal error", Some(("PHP Fatal error", true)));
        check("(timeout)", Some(("timeout", true)));
        check(r"line [0-9]+7$", Some(("line ", false)));
        check(r"\d+ upstream \w+ late", Some((" upstream ", false)));
        check("^GET", Some(("GET", false)));
        check("(?:abc)+d", Some(("abc", false)));
        check("(?:abc)?d", Some(("d", false)));
        for none in ["(?i)error", "error|warn", "", "^", "[0-9]+", "(?:abc)*", "("] {
            check(none, None);
        }
    }

    fn page_of(messages: &[Vec<u8>]) -> MessagePage {
        let mut offsets = vec![0];
        let mut bytes = Vec::new();
        for message in messages {
            bytes.extend_from_slice(message);
            offsets.push(bytes.len() as u32);
        }
        MessagePage { rows: 0..messages.len(), offsets, bytes: Bytes::from(bytes) }
    }

    fn hits(filter: &Filter, messages: &[Vec<u8>]) -> Vec<usize> {
        let mut found = Vec::new();
        Matcher::new(filter).hits(&page_of(messages), |_| true, |index| found.push(index));
        found
    }

    #[test]
    fn a_needle_across_two_messages_is_no_hit_but_one_right_behind_it_is() {
        let filter = Filter { grep: vec![Regex::new("aab").unwrap()], ..Filter::default() };
        let messages = [&b"xa"[..], b"aab", b"", b"aa", b"b", b"aaab"].map(<[u8]>::to_vec);
        assert_eq!(hits(&filter, &messages), [1, 5]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn hits_are_the_rows_that_each_regex_judges_alone(
            messages in proptest::collection::vec("[ab\u{0}\n]{0,6}", 0..20),
            grep in proptest::collection::vec("(a|b|ab|aab|\\^a|b\\$|\\(\\?i\\)A|a\\|bb|a\\+b|\\(\\?m\\)\\^b\\$){1}", 0..3),
            exclude in proptest::collection::vec("a|b|bb", 0..2),
        ) {
            let compile = |list: &[String]| list.iter().map(|text| Regex::new(text).unwrap()).collect::<Vec<_>>();
            let filter = Filter { grep: compile(&grep), exclude: compile(&exclude), ..Filter::default() };
            let messages: Vec<Vec<u8>> = messages.into_iter().map(String::into_bytes).collect();
            let expected: Vec<usize> =
                (0..messages.len()).filter(|index| filter.accepts_message(&messages[*index])).collect();
            prop_assert_eq!(hits(&filter, &messages), expected);
        }
    }
}
