//! The forms in which the kernel writes counters into a cgroup's files. Pure, and nothing is allocated.
//!
//! What is not understood is left out: a line of another form is skipped, and a value that is none is absent.

use memchr::memchr;

/// No count, size or number of processes comes near it, and from here on a floating-point number, which many readers
/// make of it, is no longer exact.
const ABSURD: u64 = 1 << 53;

/// One number, with white space around it.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let digits = text.trim_ascii();
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// One number of bytes or other things that can be counted. `max`, `-1` and the huge numbers that mean "no limit" are
/// none.
pub(super) fn amount(text: &[u8]) -> Option<u64> {
    number(text).filter(|value| *value < ABSURD)
}

/// Time counts up for as long as a node runs, on all its cores: 2^53 nanoseconds are over after a few days of many.
pub(super) fn nanos(value: u64, unit: u64) -> Option<u64> {
    value.checked_mul(unit).filter(|nanos| i64::try_from(*nanos).is_ok())
}

/// The lines `KEY NUMBER`, of which few are wanted: the number is for [`number`] to read.
pub(super) fn keyed(text: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    lines(text).filter_map(|line| line.split_at_checked(memchr(b' ', line)?))
}

/// The number of one key of many, each in a line `KEY NUMBER`. `line` is the key between a line's end and a blank. Of a long
/// file with few keys that matter this is several times as fast as [`keyed`].
pub(super) fn value(text: &[u8], line: &[u8]) -> Option<u64> {
    let at = match text.strip_prefix(line.get(1..)?) {
        Some(rest) => rest,
        None => text.get(memchr::memmem::find(text, line)? + line.len()..)?,
    };
    amount(lines(at).next()?)
}

/// The microseconds for which some task waited, as a pressure file counts them.
pub(super) fn pressure(text: &[u8]) -> Option<u64> {
    let some = lines(text).find_map(|line| line.strip_prefix(b"some "))?;
    let total = some.split(|byte| *byte == b' ').find_map(|field| field.strip_prefix(b"total="))?;
    nanos(number(total)?, 1)
}

fn lines(mut text: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        if text.is_empty() {
            return None;
        }
        let end = memchr(b'\n', text).unwrap_or(text.len());
        let (line, rest) = text.split_at_checked(end)?;
        text = rest.get(1..).unwrap_or_default();
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_digits_and_nothing_else() {
        for (text, expected) in [
            ("0\n", Some(0)),
            ("42", Some(42)),
            (" 7 \n", Some(7)),
            ("18446744073709551615\n", Some(u64::MAX)),
            ("18446744073709551616\n", None),
            ("-1\n", None),
            ("+1", None),
            ("max\n", None),
            ("1 2", None),
            ("0x10", None),
            ("", None),
            ("\n", None),
        ] {
            assert_eq!(number(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn an_absurd_amount_is_none() {
        assert_eq!(amount(b"9007199254740991\n"), Some((1 << 53) - 1));
        assert_eq!(amount(b"9007199254740992\n"), None);
        // How v1 says that there is no limit, with pages of 4 and of 64 KiB.
        assert_eq!(amount(b"9223372036854771712\n"), None);
        assert_eq!(amount(b"9223372036854710272\n"), None);
    }

    #[test]
    fn times_may_be_longer_than_amounts_are_large() {
        assert_eq!(nanos(1 << 53, 1), Some(1 << 53));
        assert_eq!(nanos(u64::MAX / 2, 1000), None);
        assert_eq!(nanos(u64::MAX, 1), None);
    }

    #[test]
    fn unexpected_lines_are_skipped() {
        let text = b"usage_usec 12\n\nnonsense\n  \nfrom_tomorrow one two\nuser_usec\t5\nsystem_usec 3";
        let read: Vec<_> = keyed(text).filter_map(|(key, value)| Some((key, number(value)?))).collect();
        assert_eq!(read, [(b"usage_usec".as_slice(), 12), (b"system_usec".as_slice(), 3)]);
    }

    #[test]
    fn a_key_is_found_whole() {
        let text =
            b"cache 1\ntotal_cache 5\nrss 2\ntotal_rss x\nshmem\ntotal_shmem 18446744073709551615\nlast 7";
        for (line, expected) in [
            (b"\ncache ".as_slice(), Some(1)),
            (b"\ntotal_cache ", Some(5)),
            (b"\nrss ", Some(2)),
            (b"\ntotal_rss ", None),
            (b"\nshmem ", None),
            (b"\ntotal_shmem ", None),
            (b"\nlast ", Some(7)),
            (b"\nach ", None),
            (b"", None),
        ] {
            assert_eq!(value(text, line), expected, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn pressure_is_the_total_of_some() {
        let text = b"some avg10=0.00 avg60=1.00 avg300=2.27 total=20500281\n\
                     full avg10=0.00 avg60=0.00 avg300=0.00 total=17\n";
        assert_eq!(pressure(text), Some(20_500_281));
        for none in
            ["", "full avg10=0.00 total=1\n", "some avg10=0.00\n", "some total=x\n", "some total=-1\n"]
        {
            assert_eq!(pressure(none.as_bytes()), None, "{none:?}");
        }
    }

    proptest! {
        #[test]
        fn a_number_is_what_the_standard_library_reads(value: u64, before in "[ \t]{0,3}", after in "[ \n]{0,3}") {
            prop_assert_eq!(number(format!("{before}{value}{after}").as_bytes()), Some(value));
        }

        #[test]
        fn anything_at_all_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let text = std::str::from_utf8(&bytes).ok().map(str::trim_ascii);
            let digits = text.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            prop_assert_eq!(number(&bytes), digits.and_then(|digits| digits.parse().ok()));
            prop_assert!(amount(&bytes).is_none_or(|amount| Some(amount) == number(&bytes)));
            pressure(&bytes);
            value(&bytes, b"\nanon ");
            for (key, value) in keyed(&bytes) {
                prop_assert!(!key.contains(&b'\n') && !value.contains(&b'\n'));
            }
        }

        #[test]
        fn lines_of_keys_come_back(lines in prop::collection::vec(("[a-z_.]{1,20}", any::<u64>()), 0..20)) {
            let text: String = lines.iter().map(|(key, value)| format!("{key} {value}\n")).collect();
            let read = keyed(text.as_bytes()).map(|(key, value)| (key.to_vec(), number(value).unwrap()));
            let expected = lines.iter().map(|(key, value)| (key.as_bytes().to_vec(), *value));
            prop_assert_eq!(read.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
            for (key, _) in &lines {
                let first = keyed(text.as_bytes()).find(|(known, _)| *known == key.as_bytes());
                let found = value(text.as_bytes(), format!("\n{key} ").as_bytes());
                prop_assert_eq!(found, first.and_then(|(_, value)| amount(value)));
            }
        }
    }
}
