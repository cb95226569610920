//! One pattern of a filter rule, matched in time that is bounded by pattern times path, whatever either holds.

/// What one place of a pattern stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// `?`: any byte but a slash.
    One,
    /// `*`: any bytes without a slash.
    Star,
    /// `**`: any bytes.
    Stars,
    /// `[…]`: one of these 256, by bit. Never a slash.
    Class([u64; 4]),
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pattern {
    text: Vec<u8>,
    tokens: Vec<Token>,
    /// Begins at the root of the transfer.
    anchored: bool,
    only_directories: bool,
    /// Is about the last component alone.
    only_name: bool,
    /// Ends in `/***`: the directory itself matches as well as what is in it.
    with_content: bool,
}

impl Pattern {
    pub(super) fn new(text: &[u8]) -> Pattern {
        let mut body = text;
        let mut pattern = Pattern { text: text.to_vec(), ..Pattern::default() };
        if let Some(rest) = body.strip_suffix(b"/")
            && !rest.is_empty()
        {
            (body, pattern.only_directories) = (rest, true);
        }
        pattern.with_content = body.ends_with(b"/***");
        pattern.only_name = !body.contains(&b'/') && !body.windows(2).any(|pair| pair == b"**");
        if let Some(rest) = body.strip_prefix(b"/") {
            (body, pattern.anchored) = (rest, true);
        }
        // Without any wildcard a backslash is a backslash.
        let wild = body.iter().any(|byte| matches!(byte, b'*' | b'?' | b'['));
        pattern.tokens =
            if wild { tokens(body) } else { body.iter().map(|byte| Token::Byte(*byte)).collect() };
        pattern
    }

    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    pub(super) fn matches(&self, path: &[u8], is_directory: bool) -> bool {
        if self.only_directories && !is_directory {
            return false;
        }
        let path =
            if self.only_name { path.rsplit(|byte| *byte == b'/').next().unwrap_or(path) } else { path };
        if self.with_content && is_directory {
            let mut inside = path.to_vec();
            inside.push(b'/');
            return self.run(&inside);
        }
        self.run(path)
    }

    /// All places of the pattern that can be reached by the bytes so far are followed at once.
    fn run(&self, path: &[u8]) -> bool {
        let mut states = vec![false; self.tokens.len() + 1];
        let mut next = states.clone();
        self.enter(&mut states, 0);
        for (at, byte) in path.iter().enumerate() {
            next.fill(false);
            for (place, token) in self.tokens.iter().enumerate() {
                if states.get(place) != Some(&true) {
                    continue;
                }
                match token {
                    Token::Byte(wanted) if wanted == byte => self.enter(&mut next, place + 1),
                    Token::One if *byte != b'/' => self.enter(&mut next, place + 1),
                    Token::Star if *byte != b'/' => self.enter(&mut next, place),
                    Token::Stars => self.enter(&mut next, place),
                    Token::Class(set) if has(set, *byte) => self.enter(&mut next, place + 1),
                    Token::Byte(_) | Token::One | Token::Star | Token::Class(_) => {}
                }
            }
            // Without an anchor a match may begin at any component.
            if *byte == b'/' && !self.anchored && at + 1 < path.len() {
                self.enter(&mut next, 0);
            }
            std::mem::swap(&mut states, &mut next);
        }
        states.last() == Some(&true)
    }

    /// Stars may stand for nothing, so what follows them is reached at once.
    fn enter(&self, states: &mut [bool], mut place: usize) {
        loop {
            if let Some(state) = states.get_mut(place) {
                *state = true;
            }
            match self.tokens.get(place) {
                Some(Token::Star | Token::Stars) => place += 1,
                Some(Token::Byte(_) | Token::One | Token::Class(_)) | None => return,
            }
        }
    }
}

fn has(set: &[u64; 4], byte: u8) -> bool {
    set.get(usize::from(byte >> 6)).is_some_and(|bits| bits >> (byte & 63) & 1 == 1)
}

fn tokens(mut text: &[u8]) -> Vec<Token> {
    let mut tokens = vec![];
    while let Some((first, rest)) = text.split_first() {
        text = rest;
        let token = match first {
            b'?' => Token::One,
            b'*' => {
                let stars = 1 + rest.iter().take_while(|byte| **byte == b'*').count();
                text = rest.get(stars - 1..).unwrap_or_default();
                if stars > 1 { Token::Stars } else { Token::Star }
            }
            b'[' => match class(rest) {
                Some((set, after)) => {
                    text = after;
                    Token::Class(set)
                }
                None => Token::Byte(b'['),
            },
            b'\\' if !rest.is_empty() => {
                let (escaped, after) = rest.split_first().unwrap_or((&b'\\', &[]));
                text = after;
                Token::Byte(*escaped)
            }
            other => Token::Byte(*other),
        };
        tokens.push(token);
    }
    tokens
}

/// The bytes of `[…]`, and what follows. A class that does not end is none.
fn class(text: &[u8]) -> Option<([u64; 4], &[u8])> {
    let (negated, mut rest) = match text {
        [b'!' | b'^', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let mut set = [0_u64; 4];
    let mut add = |byte: u8| {
        if let Some(bits) = set.get_mut(usize::from(byte >> 6)) {
            *bits |= 1 << (byte & 63);
        }
    };
    let mut first = true;
    loop {
        match rest {
            [b']', after @ ..] if !first => {
                rest = after;
                break;
            }
            [b'[', b':', after @ ..] => {
                let end = after.windows(2).position(|pair| pair == b":]")?;
                let named = named(after.get(..end)?)?;
                (0..=255).filter(named).for_each(&mut add);
                rest = after.get(end + 2..)?;
            }
            [b'\\', low, b'-', high, after @ ..] | [low, b'-', high, after @ ..]
                if *high != b']' && (*low != b'\\' || rest.first() == Some(&b'\\')) =>
            {
                (*low..=*high).for_each(&mut add);
                rest = after;
            }
            [b'\\', byte, after @ ..] | [byte, after @ ..] => {
                add(*byte);
                rest = after;
            }
            [] => return None,
        }
        first = false;
    }
    if negated {
        set = set.map(|bits| !bits);
    }
    if let Some(bits) = set.get_mut(usize::from(b'/' >> 6)) {
        *bits &= !(1 << (b'/' & 63));
    }
    Some((set, rest))
}

fn named(name: &[u8]) -> Option<fn(&u8) -> bool> {
    Some(match name {
        b"alnum" => u8::is_ascii_alphanumeric,
        b"alpha" => u8::is_ascii_alphabetic,
        b"blank" => |byte| matches!(byte, b' ' | b'\t'),
        b"cntrl" => u8::is_ascii_control,
        b"digit" => u8::is_ascii_digit,
        b"graph" => u8::is_ascii_graphic,
        b"lower" => u8::is_ascii_lowercase,
        b"print" => |byte| matches!(byte, b' '..=b'~'),
        b"punct" => u8::is_ascii_punctuation,
        b"space" => |byte| byte.is_ascii_whitespace() || *byte == 0x0b,
        b"upper" => u8::is_ascii_uppercase,
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        let read = Pattern::new(pattern.as_bytes());
        let is = |path: &str| read.matches(path.trim_end_matches('/').as_bytes(), path.ends_with('/'));
        for path in yes {
            assert!(is(path), "`{pattern}` matches `{path}`");
        }
        for path in no {
            assert!(!is(path), "`{pattern}` does not match `{path}`");
        }
    }

    #[test]
    fn patterns_mean_what_they_mean_to_rsync() {
        check("foo", &["foo", "a/foo", "a/foo/"], &["foo/a", "afoo"]);
        check("/foo", &["foo", "foo/"], &["a/foo"]);
        check("foo/", &["foo/", "a/foo/"], &["foo"]);
        check("*.o", &["a.o", "b/c.o", ".o"], &["a.o/x", "a.oo"]);
        check("/*.o", &["a.o"], &["b/c.o"]);
        check("a/*", &["a/b", "x/a/b"], &["a/b/c", "a"]);
        check("a/**", &["a/b", "a/b/c", "x/a/b"], &["a", "b"]);
        check("/a/***", &["a/", "a/b", "a/b/c"], &["a", "x/a/b"]);
        check("**/z", &["a/z", "a/b/z"], &["z", "a/zz"]);
        check("a**z", &["a/z", "az", "x/abcz"], &["a/zx"]);
        check("b[0-9]?", &["b1x", "q/b22"], &["b1", "bax"]);
        check("[!a-c]x", &["dx"], &["ax", "bx", "x"]);
        check("[]a]", &["]", "a"], &["b"]);
        check("[[:digit:]_]x", &["4x", "_x"], &["ax"]);
        check("a\\*b*", &["a*bc"], &["axbc"]);
        check("a\\b", &["a\\b"], &["ab"]);
        check("[abc", &["[abc"], &["a"]);
        check("*", &["a", "b/c"], &[]);
    }

    #[test]
    fn no_pattern_takes_for_ever() {
        let pattern = Pattern::new(&b"*a".repeat(200));
        let begun = std::time::Instant::now();
        assert!(!pattern.matches(&[b'a'; 4000], false) || pattern.matches(&[b'a'; 4000], false));
        assert!(!pattern.matches(&[b"a".repeat(3999), b"b".to_vec()].concat(), false));
        assert!(begun.elapsed() < std::time::Duration::from_secs(5));
    }
}
