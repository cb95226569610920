//! Any bytes as filter rules, each asked of any path: nothing may panic or take for ever, and rules that merge themselves end.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skpr_rsync::filter::{Filters, Side};

fuzz_target!(|bytes: &[u8]| {
    let [way, split, bytes @ ..] = bytes else { return };
    let (rules, path) = bytes.split_at(usize::from(*split).min(bytes.len()));
    let mut filters = Filters::default();
    // What is no rule is refused, and those before it stay.
    let _refused = match way & 3 {
        0 => filters.exclude_from(rules).is_err(),
        1 => filters.include_from(rules).is_err(),
        _ => filters.rule(rules, &|_| Ok(rules.to_vec())).is_err(),
    };
    for side in [Side::Sender, Side::Receiver] {
        let of_directory = filters.excludes(path, true, side);
        assert_eq!(filters.excludes(path, true, side), of_directory);
        filters.excludes(path, false, side);
    }
    assert!(!filters.is_empty() || !filters.excludes(path, false, Side::Sender));
});
