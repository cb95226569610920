//! Which files take part: rsync's filter rules, in their order. The first rule that matches decides; what no rule
//! matches takes part. What is in an excluded directory is not looked at.
//!
//! A rule acts at the sender (hide, show), at the receiver (protect, risk) or at both (exclude, include). Merging of
//! files is done when rules are read (`merge FILE`, `. FILE`); per-directory merging (`dir-merge`) is refused in so many
//! words, since a file in a container would then decide what leaves or is deleted on the other side.

mod pattern;

use crate::wire::{Cursor, Malformed, put_bytes, put_number};
use pattern::Pattern;
use std::io;

/// More rules than anybody writes; each is tried on every file.
const MOST_RULES: usize = 10_000;
const LONGEST_PATTERN: usize = 4096;
/// How deep files of rules may name each other.
const DEEPEST_MERGE: usize = 10;

/// Where a rule is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Sender,
    Receiver,
}

/// Why a text is no rule.
#[derive(Debug, thiserror::Error)]
pub enum BadRule {
    #[error("`{0}` is no filter rule")]
    Unknown(String),
    #[error("`{0}` has no pattern")]
    NoPattern(String),
    #[error("`{0}`: per-directory merge files are not supported")]
    DirMerge(String),
    #[error("`{0}`: the modifier `{1}` is not supported")]
    Modifier(String, char),
    #[error("`{0}`: the pattern is too long, or there are too many rules")]
    TooMany(String),
    #[error("cannot read the rules in `{0}`")]
    Read(String, #[source] io::Error),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    pattern: Pattern,
    include: bool,
    sender: bool,
    receiver: bool,
    /// Matches what the pattern does not.
    negated: bool,
}

/// An ordered list of rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    rules: Vec<Rule>,
}

/// Gives the bytes of a file of rules.
pub type Load<'a> = &'a dyn Fn(&[u8]) -> io::Result<Vec<u8>>;

impl Filters {
    /// `--exclude`.
    pub fn exclude(&mut self, pattern: &[u8]) -> Result<(), BadRule> {
        self.simple(pattern, false)
    }

    /// `--include`.
    pub fn include(&mut self, pattern: &[u8]) -> Result<(), BadRule> {
        self.simple(pattern, true)
    }

    /// `--exclude-from`: a pattern a line, with `#` and `;` for comments and `+ ` or `- ` in front where wanted.
    pub fn exclude_from(&mut self, text: &[u8]) -> Result<(), BadRule> {
        self.lines(text, |filters, line| filters.simple(line, false))
    }

    /// `--include-from`.
    pub fn include_from(&mut self, text: &[u8]) -> Result<(), BadRule> {
        self.lines(text, |filters, line| filters.simple(line, true))
    }

    /// `--filter`: `RULE PATTERN`, or `RULE,MODIFIERS PATTERN`.
    pub fn rule(&mut self, text: &[u8], load: Load<'_>) -> Result<(), BadRule> {
        self.read_rule(text, load, 0)
    }

    fn lines(
        &mut self,
        text: &[u8],
        mut each: impl FnMut(&mut Filters, &[u8]) -> Result<(), BadRule>,
    ) -> Result<(), BadRule> {
        for line in text.split(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if !matches!(line.first(), None | Some(b'#' | b';')) {
                each(self, line)?;
            }
        }
        Ok(())
    }

    /// A pattern as `--exclude` and `--include` take it.
    fn simple(&mut self, text: &[u8], include: bool) -> Result<(), BadRule> {
        match text {
            b"!" => {
                self.rules.clear();
                Ok(())
            }
            [b'+', b' ', pattern @ ..] => self.add(text, pattern, Rule::both(true)),
            [b'-', b' ', pattern @ ..] => self.add(text, pattern, Rule::both(false)),
            _ => self.add(text, text, Rule::both(include)),
        }
    }

    fn add(&mut self, text: &[u8], pattern: &[u8], rule: Rule) -> Result<(), BadRule> {
        if pattern.is_empty() {
            return Err(BadRule::NoPattern(crate::escape(text)));
        }
        if self.rules.len() >= MOST_RULES || pattern.len() > LONGEST_PATTERN {
            return Err(BadRule::TooMany(crate::escape(text)));
        }
        self.rules.push(Rule { pattern: Pattern::new(pattern), ..rule });
        Ok(())
    }

    fn read_rule(&mut self, text: &[u8], load: Load<'_>, depth: usize) -> Result<(), BadRule> {
        let unknown = || BadRule::Unknown(crate::escape(text));
        if matches!(text, b"!" | b"clear") {
            self.rules.clear();
            return Ok(());
        }
        let (head, pattern) = split_rule(text).ok_or_else(unknown)?;
        let (mut rule, modifiers) = match head {
            Head::Short(first, modifiers) => (letter(first).ok_or_else(unknown)?, modifiers),
            Head::Long(word, modifiers) => (keyword(word).ok_or_else(unknown)?, modifiers),
        };
        match rule {
            Kind::DirMerge => Err(BadRule::DirMerge(crate::escape(text))),
            Kind::Merge => {
                let mut sides = None;
                for modifier in modifiers {
                    match modifier {
                        b'+' => sides = Some(true),
                        b'-' => sides = Some(false),
                        other => return Err(BadRule::Modifier(crate::escape(text), char::from(*other))),
                    }
                }
                self.merge(pattern, sides, load, depth)
            }
            Kind::Rule(ref mut rule) => {
                let mut sides = (false, false);
                for modifier in modifiers {
                    match modifier {
                        b'!' => rule.negated = true,
                        b's' => sides.0 = true,
                        b'r' => sides.1 = true,
                        // Perishable only matters when a directory is deleted, and then errs on the safe side here;
                        // an absolute rule is what a leading slash makes anyway.
                        b'p' => {}
                        other => return Err(BadRule::Modifier(crate::escape(text), char::from(*other))),
                    }
                }
                if sides != (false, false) {
                    (rule.sender, rule.receiver) = sides;
                }
                self.add(text, pattern, rule.clone())
            }
        }
    }

    fn merge(
        &mut self,
        file: &[u8],
        include: Option<bool>,
        load: Load<'_>,
        depth: usize,
    ) -> Result<(), BadRule> {
        let name = || crate::escape(file);
        if depth >= DEEPEST_MERGE {
            return Err(BadRule::TooMany(name()));
        }
        let text = load(file).map_err(|error| BadRule::Read(name(), error))?;
        self.lines(&text, |filters, line| match include {
            Some(include) => filters.simple(line, include),
            None => filters.read_rule(line, load, depth + 1),
        })
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a path below the root of the transfer is left out.
    pub fn excludes(&self, path: &[u8], is_directory: bool, side: Side) -> bool {
        for rule in &self.rules {
            let acts = match side {
                Side::Sender => rule.sender,
                Side::Receiver => rule.receiver,
            };
            if acts && rule.pattern.matches(path, is_directory) != rule.negated {
                return !rule.include;
            }
        }
        false
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_number(out, self.rules.len() as u64);
        for rule in &self.rules {
            let flags = [rule.include, rule.sender, rule.receiver, rule.negated];
            out.push(flags.iter().enumerate().map(|(bit, on)| u8::from(*on) << bit).sum());
            put_bytes(out, rule.pattern.text());
        }
    }

    pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<Filters, Malformed> {
        let count = cursor.at_most(MOST_RULES as u64, "too many filter rules")?;
        let mut rules = vec![];
        for _ in 0..count {
            let flags = cursor.byte()?;
            if flags > 15 {
                return Err(Malformed("a filter rule of an unknown kind"));
            }
            let pattern = cursor.bytes(LONGEST_PATTERN)?;
            if pattern.is_empty() {
                return Err(Malformed("a filter rule without a pattern"));
            }
            let [include, sender, receiver, negated] = [0, 1, 2, 3].map(|bit| flags >> bit & 1 == 1);
            rules.push(Rule { pattern: Pattern::new(pattern), include, sender, receiver, negated });
        }
        Ok(Filters { rules })
    }
}

impl Rule {
    fn both(include: bool) -> Rule {
        Rule { pattern: Pattern::default(), include, sender: true, receiver: true, negated: false }
    }
}

enum Kind {
    Rule(Rule),
    Merge,
    DirMerge,
}

enum Head<'a> {
    Short(u8, &'a [u8]),
    Long(&'a [u8], &'a [u8]),
}

/// The kind with its modifiers, and the pattern. After a letter modifiers follow at once, after a word behind a comma.
fn split_rule(text: &[u8]) -> Option<(Head<'_>, &[u8])> {
    let end = text.iter().position(|byte| matches!(byte, b' ' | b'_')).unwrap_or(text.len());
    let (head, rest) = text.split_at_checked(end)?;
    let pattern = rest.get(1..).unwrap_or_default();
    let (first, others) = head.split_first()?;
    if letter(*first).is_some() && !head.iter().any(u8::is_ascii_lowercase)
        || head.len() == 1
        || !first.is_ascii_alphabetic()
    {
        return Some((Head::Short(*first, others.strip_prefix(b",").unwrap_or(others)), pattern));
    }
    let comma = head.iter().position(|byte| *byte == b',').unwrap_or(head.len());
    let (word, modifiers) = head.split_at_checked(comma)?;
    let head = match (keyword(word), letter(*first)) {
        // `Hs pattern`: a letter whose modifiers are letters, too.
        (None, Some(_)) => Head::Short(*first, others.strip_prefix(b",").unwrap_or(others)),
        _ => Head::Long(word, modifiers.get(1..).unwrap_or_default()),
    };
    Some((head, pattern))
}

fn letter(letter: u8) -> Option<Kind> {
    let one_side = |include, sender| Kind::Rule(Rule { sender, receiver: !sender, ..Rule::both(include) });
    Some(match letter {
        b'-' => Kind::Rule(Rule::both(false)),
        b'+' => Kind::Rule(Rule::both(true)),
        b'H' => one_side(false, true),
        b'S' => one_side(true, true),
        b'P' => one_side(false, false),
        b'R' => one_side(true, false),
        b'.' => Kind::Merge,
        b':' => Kind::DirMerge,
        _ => return None,
    })
}

fn keyword(word: &[u8]) -> Option<Kind> {
    letter(match word {
        b"exclude" => b'-',
        b"include" => b'+',
        b"hide" => b'H',
        b"show" => b'S',
        b"protect" => b'P',
        b"risk" => b'R',
        b"merge" => b'.',
        b"dir-merge" => b':',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(rules: &[&str]) -> Filters {
        let mut filters = Filters::default();
        for rule in rules {
            filters.rule(rule.as_bytes(), &|_| Err(io::ErrorKind::NotFound.into())).unwrap();
        }
        filters
    }

    #[test]
    fn the_first_match_decides() {
        let filters = filters(&["+ *.rs", "- *"]);
        assert!(!filters.excludes(b"src/lib.rs", false, Side::Sender));
        assert!(filters.excludes(b"src", true, Side::Sender));
    }

    #[test]
    fn rules_have_sides_and_words() {
        for (rule, sender, receiver) in [
            ("- x", true, true),
            ("exclude x", true, true),
            ("-_x", true, true),
            ("hide x", true, false),
            ("H x", true, false),
            ("P x", false, true),
            ("protect x", false, true),
            ("-s x", true, false),
            ("-,r x", false, true),
            ("exclude,r x", false, true),
        ] {
            let filters = filters(&[rule]);
            assert_eq!(filters.excludes(b"x", false, Side::Sender), sender, "{rule}");
            assert_eq!(filters.excludes(b"x", false, Side::Receiver), receiver, "{rule}");
        }
        assert!(filters(&["-! /keep"]).excludes(b"other", false, Side::Sender));
        assert!(!filters(&["-! /keep"]).excludes(b"keep", false, Side::Sender));
        assert!(filters(&["- x", "!"]).is_empty());
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        let read =
            |text: &str| Filters::default().rule(text.as_bytes(), &|_| Err(io::ErrorKind::NotFound.into()));
        assert!(matches!(read(": .rsync-filter"), Err(BadRule::DirMerge(_))));
        assert!(matches!(read("dir-merge .f"), Err(BadRule::DirMerge(_))));
        assert!(matches!(read("-"), Err(BadRule::NoPattern(_))));
        assert!(matches!(read("? x"), Err(BadRule::Unknown(_))));
        assert!(matches!(read("-x y"), Err(BadRule::Modifier(_, 'x'))));
        assert!(matches!(read(". file"), Err(BadRule::Read(..))));
    }

    #[test]
    fn files_of_rules_are_merged_in_place_and_never_for_ever() {
        let load = |file: &[u8]| match file {
            b"a" => Ok(b"# comment\n+ yes\n. b\n".to_vec()),
            b"b" => Ok(b"- no\r\n\n; comment".to_vec()),
            _ => Ok(b". loop\n".to_vec()),
        };
        let mut filters = Filters::default();
        filters.rule(b"merge a", &load).unwrap();
        filters.exclude_from(b"+ also\nthat\n").unwrap();
        let excluded = |path: &[u8]| filters.excludes(path, false, Side::Receiver);
        assert_eq!([&b"yes"[..], b"no", b"also", b"that"].map(excluded), [false, true, false, true]);
        assert!(matches!(Filters::default().rule(b". loop", &load), Err(BadRule::TooMany(_))));
    }

    #[test]
    fn rules_cross_the_wire() {
        let filters = filters(&["+ *.rs", "H /a/***", "-!r x/"]);
        let mut out = vec![];
        filters.encode(&mut out);
        assert_eq!(Filters::decode(&mut Cursor(&out)).unwrap(), filters);
    }
}
