//! Random rows, ranges and filters: a scan gives exactly what looking at every row would give.

use super::*;
use proptest::prelude::*;
use regex::bytes::Regex;

fn message() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => "[ab]{0,8}".prop_map(String::into_bytes),
        4 => "(GET|PUT) /[a-c]{1,3} (200|404|500)\n?".prop_map(String::into_bytes),
        1 => Just(Vec::new()),
        1 => proptest::collection::vec(any::<u8>(), 0..20),
        1 => (1usize..200_000).prop_map(|length| b"ab404 ".iter().copied().cycle().take(length).collect()),
    ]
}

fn rows() -> impl Strategy<Value = Vec<Owned>> {
    let row = (0i64..3, 0i64..4, 0usize..3, 0usize..2, 0i32..3, message());
    proptest::collection::vec(row, 1..60).prop_map(|rows| {
        let mut order_time = START;
        let mut rows: Vec<Owned> = rows
            .into_iter()
            .enumerate()
            .map(|(index, (step, lag, instance, stream, kind, message))| {
                order_time += step;
                Owned {
                    order_time,
                    time: order_time - lag,
                    sequence: 100 + (index as u64 * 7919) % 1009, // in another order than the times
                    instance: ["web-0", "web-1", "cron"][instance].to_owned(),
                    stream: ["stdout", "stderr"][stream].to_owned(),
                    kind: RecordKind::try_from(kind).unwrap(),
                    message,
                }
            })
            .collect();
        rows.sort_by_key(|row| (row.order_time, row.sequence));
        rows
    })
}

fn range() -> impl Strategy<Value = Range> {
    let option = |values: std::ops::Range<i64>| proptest::option::weighted(0.3, values);
    (option(-5..70), option(-5..120), option(90..1110), option(90..1110), option(-1..70), 90u64..1110)
        .prop_map(|(since, until, after_sequence, up_to_sequence, after, sequence)| Range {
            since: since.map(|time| UnixNanos(START + time)),
            until: until.map(|time| UnixNanos(START + time)),
            after_sequence: after_sequence.map(|sequence| sequence as u64),
            up_to_sequence: up_to_sequence.map(|sequence| sequence as u64),
            after: after.map(|time| (UnixNanos(START + time), sequence)),
        })
}

fn filter() -> impl Strategy<Value = Filter> {
    const PATTERNS: [&str; 14] = [
        "404",
        "ab",
        "aab",
        "^GET",
        "500$",
        "(?i)get",
        "GET|PUT",
        "a+b",
        "",
        "(?s)^.$",
        "(?m)200$",
        r"/[ab]+ \d",
        "ba{2}",
        r"(?-u)\xff",
    ];
    let patterns = || proptest::collection::vec(0..PATTERNS.len(), 0..3);
    let compile =
        |list: Vec<usize>| list.into_iter().map(|i| Regex::new(PATTERNS[i]).unwrap()).collect::<Vec<_>>();
    let names = |all: &'static [&'static str]| {
        proptest::collection::vec(0..all.len(), 0..2)
            .prop_map(move |list| list.into_iter().map(|i| all[i].to_owned()).collect::<Vec<_>>())
    };
    (
        patterns(),
        patterns(),
        names(&["web-0", "cron", "gone"]),
        names(&["stdout", "stderr"]),
        any::<[bool; 2]>(),
    )
        .prop_map(move |(grep, exclude, instances, streams, [excludes, except])| Filter {
            instances,
            streams,
            except_streams: if except { &["stderr", "cron.drush.stdout"] } else { &[] },
            grep: compile(grep),
            exclude: if excludes { compile(exclude) } else { Vec::new() },
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn a_scan_gives_what_looking_at_every_row_gives(
        rows in rows(),
        asked in proptest::collection::vec((range(), filter()), 12),
    ) {
        let (root, file) = sealed(&rows);
        verify(root.path(), &file).unwrap();
        for (range, filter) in asked {
            let expected = expected(&rows, &range, &filter);
            let found = given(root.path(), &file, &range, &filter).unwrap();
            prop_assert_eq!(count(root.path(), &file, &range, &filter).unwrap(), expected.len() as u64);
            prop_assert!(found == expected, "{:?} {:?}: {} instead of {}", range, filter, found.len(), expected.len());
        }
    }
}
