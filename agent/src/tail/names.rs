//! The names of log files, as the kubelet gives them: `N.log` is being written, `N.log.YYYYMMDD-HHMMSS` was rotated,
//! and with `.gz` also compressed. Everything else (`.tmp` above all) is not a log file.

/// Where a file stands in its container's chain: by restart, then by rotation, the file being written last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) attempt: u32,
    pub(super) rotation: Rotation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rotation {
    Rotated([u8; 15]),
    Live,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) key: Key,
    pub(super) gzip: bool,
}

pub(super) fn parse(name: &str) -> Option<Name> {
    let (attempt, rest) = name.split_once(".log")?;
    if attempt.is_empty() || !attempt.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let attempt = attempt.parse().ok()?;
    if rest.is_empty() {
        return Some(Name { key: Key { attempt, rotation: Rotation::Live }, gzip: false });
    }
    let stamp = rest.strip_prefix('.')?;
    let (stamp, gzip) = match stamp.strip_suffix(".gz") {
        Some(stamp) => (stamp, true),
        None => (stamp, false),
    };
    let stamp: [u8; 15] = stamp.as_bytes().try_into().ok()?;
    let valid = stamp
        .iter()
        .enumerate()
        .all(|(at, byte)| if at == 8 { *byte == b'-' } else { byte.is_ascii_digit() });
    valid.then_some(Name { key: Key { attempt, rotation: Rotation::Rotated(stamp) }, gzip })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubelets_names_and_no_others() {
        for good in ["0.log", "12.log", "0.log.20261122-154000", "0.log.20261122-154000.gz"] {
            assert!(parse(good).is_some(), "{good}");
        }
        for bad in [
            "",
            ".log",
            "a.log",
            "-1.log",
            "0.log.",
            "0.log.gz",
            "0.log.20261122-154000.tmp",
            "0.log.20261122-154000.gz.tmp",
            "0.log.20261122154000",
            "0.logs",
            "99999999999.log",
            "0.log.2026112a-154000",
            "+1.log",
            "0.log/..",
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn the_chain_is_in_order_of_writing() {
        let names =
            ["0.log.20261122-154000.gz", "0.log.20261122-154010", "0.log", "1.log.20261122-100000", "1.log"];
        assert!(names.map(|name| parse(name).unwrap().key).is_sorted());
    }
}
