//! One line of a container's log file, as the CRI defines it: `TIME STREAM TAGS MESSAGE`.
//!
//! A line that is anything else is no error: the whole of it is its message.

use super::time::Clock;

/// Which of a container's two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    Stdout,
    Stderr,
}

impl Output {
    pub(super) const BOTH: [Output; 2] = [Output::Stdout, Output::Stderr];
}

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// A whole message, or the last chunk of one.
    Full { time: i64, output: Output, message: &'a [u8] },
    /// A chunk of a message that goes on.
    Partial { time: i64, output: Output, message: &'a [u8] },
    /// Not in the format.
    Malformed { message: &'a [u8] },
}

/// Reads one line, without its newline.
pub(super) fn parse<'a>(clock: &mut Clock, line: &'a [u8]) -> Line<'a> {
    well_formed(clock, line).unwrap_or(Line::Malformed { message: line })
}

fn well_formed<'a>(clock: &mut Clock, line: &'a [u8]) -> Option<Line<'a>> {
    // The longest time is `2026-11-22T15:40:00.123456789+10:00`.
    let space = line.iter().take(36).position(|byte| *byte == b' ')?;
    let (time, rest) = line.split_at_checked(space)?;
    let (output, rest) = match rest.split_first_chunk::<8>()? {
        (b" stdout ", rest) => (Output::Stdout, rest),
        (b" stderr ", rest) => (Output::Stderr, rest),
        _ => return None,
    };
    let (last, message) = match rest {
        // An empty message may come without the space before it.
        [b'F'] => (true, rest.get(1..)?),
        [b'P'] => (false, rest.get(1..)?),
        [b'F', b' ', message @ ..] => (true, message),
        [b'P', b' ', message @ ..] => (false, message),
        // More tags may follow the first, after colons.
        [tag @ (b'F' | b'P'), b':', more @ ..] => {
            let end = more.iter().take(256).position(|byte| *byte == b' ')?;
            (*tag == b'F', more.get(end + 1..)?)
        }
        _ => return None,
    };
    let time = clock.parse(time)?;
    Some(if last { Line::Full { time, output, message } } else { Line::Partial { time, output, message } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(line: &[u8], expected: Option<(bool, Output, &[u8])>) {
        let seen = match parse(&mut Clock::default(), line) {
            Line::Full { output, message, .. } => Some((true, output, message)),
            Line::Partial { output, message, .. } => Some((false, output, message)),
            Line::Malformed { message } => {
                assert_eq!(message, line);
                None
            }
        };
        assert_eq!(seen, expected, "{}", line.escape_ascii());
    }

    #[test]
    fn lines_in_the_format() {
        check(b"2026-11-22T15:40:00.1Z stdout F hello", Some((true, Output::Stdout, b"hello")));
        check(b"2026-11-22T15:40:00.1Z stderr P  two ", Some((false, Output::Stderr, b" two ")));
        check(b"2026-11-22T15:40:00.1+10:00 stdout F ", Some((true, Output::Stdout, b"")));
        check(b"2026-11-22T15:40:00Z stdout F", Some((true, Output::Stdout, b"")));
        check(b"2026-11-22T15:40:00Z stdout F:tag:x a b", Some((true, Output::Stdout, b"a b")));
        check(
            b"2026-11-22T15:40:00Z stdout F \xff\0\r\x1b[31m",
            Some((true, Output::Stdout, b"\xff\0\r\x1b[31m")),
        );
    }

    #[test]
    fn anything_else_is_kept_whole() {
        for line in [
            &b""[..],
            b" ",
            b"hello",
            b"\0\0\0\0",
            b"2026-11-22T15:40:00Z",
            b"2026-11-22T15:40:00Z ",
            b"2026-11-22T15:40:00Z stdout",
            b"2026-11-22T15:40:00Z stdout ",
            b"2026-11-22T15:40:00Z stdin F x",
            b"2026-11-22T15:40:00Z stdout X x",
            b"2026-11-22T15:40:00Z stdout Fx",
            b"2026-99-22T15:40:00Z stdout F x",
            b"15:40 stdout F x",
        ] {
            check(line, None);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(time in 0_i64..4_000_000_000_000_000_000, stderr: bool, full: bool, message in proptest::collection::vec(any::<u8>(), 0..100)) {
            let stamp = jiff::Timestamp::from_nanosecond(i128::from(time)).unwrap();
            let mut line = format!("{stamp} {} {} ", if stderr { "stderr" } else { "stdout" }, if full { "F" } else { "P" }).into_bytes();
            line.extend_from_slice(&message);
            let output = if stderr { Output::Stderr } else { Output::Stdout };
            let message = message.as_slice();
            let expected = if full { Line::Full { time, output, message } } else { Line::Partial { time, output, message } };
            prop_assert_eq!(parse(&mut Clock::default(), &line), expected);
        }

        #[test]
        fn hostile_lines_never_panic_and_lose_nothing(line in proptest::collection::vec(any::<u8>(), 0..80)) {
            match parse(&mut Clock::default(), &line) {
                Line::Malformed { message } => prop_assert_eq!(message, line.as_slice()),
                Line::Full { message, .. } | Line::Partial { message, .. } => prop_assert!(line.ends_with(message)),
            }
        }
    }
}
