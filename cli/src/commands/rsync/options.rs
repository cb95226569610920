//! From what is typed to what the engine is asked for.

use super::place::Way;
use crate::args::{Rsync, Rule};
use crate::error::usage;
use crate::output::Output;
use crate::terminal::clean;
use skpr_proto::Failure;
use skpr_rsync::chmod::Chmod;
use skpr_rsync::filter::{BadRule, Filters};
use skpr_rsync::options::{Delete, Options};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

/// Of zstd, with `-z`.
const COMPRESS: u8 = 6;

/// Whether each change is to be told.
pub(super) fn tells(verb: &Rsync, output: &Output) -> bool {
    verb.shown.itemize_changes || output.is_verbose()
}

pub(super) fn of(verb: &Rsync, way: Way, report: bool) -> Result<Options, Failure> {
    let Rsync { kept, chosen, .. } = verb;
    let all = kept.archive;
    let delete = match (chosen.delete, chosen.allow_empty) {
        (false, _) => Delete::No,
        (true, false) => Delete::Yes,
        (true, true) => Delete::EvenAll,
    };
    let bandwidth = chosen.bwlimit.as_deref().map(rate).transpose()?.flatten();
    // What a container's files may not do to this machine is not asked for, and what a worker refuses neither.
    let (devices, set_id) = (false, false);
    let umask = match way {
        Way::Pull => umask(),
        // The other side's is as a login gives it.
        Way::Push => 0o022,
    };
    Ok(Options {
        links: all || kept.links,
        perms: all || kept.perms,
        times: all || kept.times,
        owner: all || kept.owner,
        group: all || kept.group,
        devices,
        specials: all || kept.specials,
        hard_links: kept.hard_links,
        sparse: kept.sparse,
        checksum: chosen.checksum,
        update: chosen.update,
        dry_run: chosen.dry_run,
        partial: chosen.partial || verb.shown.partial_progress,
        one_file_system: chosen.one_file_system,
        safe_links: kept.safe_links,
        set_id,
        report,
        delete,
        max_delete: chosen.max_delete,
        chmod: chmod(&kept.chmod, umask)?,
        filters: filters(&verb.rules.0)?,
        bandwidth,
        level: if chosen.compress { COMPRESS } else { 0 },
    })
}

/// Ours; to look at it is to set it.
fn umask() -> u32 {
    let own = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    rustix::process::umask(own);
    own.as_raw_mode()
}

fn chmod(typed: &[String], umask: u32) -> Result<Chmod, Failure> {
    if typed.is_empty() {
        return Ok(Chmod::default());
    }
    Chmod::parse(&typed.join(","), umask).map_err(|bad| {
        usage(clean(&bad.to_string()).into_owned()).with_hint("modes are such as D755,F644 or go-w")
    })
}

/// Bytes a second; none for no limit.
fn rate(typed: &str) -> Result<Option<u64>, Failure> {
    let wrong = || {
        usage(format!("`{}` is no rate", clean(typed)))
            .with_hint("say KiB a second, or put K, M or G behind: --bwlimit 1.5M")
    };
    let at = typed.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(typed.len());
    let (number, unit) = typed.split_at(at);
    let unit: f64 = match unit.to_ascii_lowercase().as_str() {
        "" | "k" | "kib" => 1024.0,
        "b" => 1.0,
        "kb" => 1e3,
        "m" | "mib" => 1024.0 * 1024.0,
        "mb" => 1e6,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "gb" => 1e9,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let bytes = number * unit;
    match bytes {
        0.0 => Ok(None),
        // Less would take hours for what is said anyway.
        512.0..=1e15 => Ok(Some(bytes as u64)),
        _ => Err(wrong()),
    }
}

fn filters(rules: &[(Rule, OsString)]) -> Result<Filters, Failure> {
    let mut filters = Filters::default();
    let load = |file: &[u8]| std::fs::read(OsStr::from_bytes(file));
    for (rule, text) in rules {
        let bytes = text.as_bytes();
        let added = match rule {
            Rule::Exclude => filters.exclude(bytes),
            Rule::Include => filters.include(bytes),
            Rule::Filter => filters.rule(bytes, &load),
            Rule::ExcludeFrom => read(text).and_then(|lines| filters.exclude_from(&lines)),
            Rule::IncludeFrom => read(text).and_then(|lines| filters.include_from(&lines)),
        };
        added.map_err(|bad| {
            let cause = std::error::Error::source(&bad).map(|cause| format!(": {cause}")).unwrap_or_default();
            usage(clean(&format!("{bad}{cause}")).into_owned())
        })?;
    }
    Ok(filters)
}

/// `-` is stdin.
fn read(file: &OsStr) -> Result<Vec<u8>, BadRule> {
    let text = if file == "-" {
        io::read_to_string(io::stdin()).map(String::into_bytes)
    } else {
        std::fs::read(file)
    };
    text.map_err(|error| BadRule::Read(skpr_rsync::escape(&file.to_owned().into_vec()), error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Chosen, Kept};

    #[test]
    fn rates_are_rsyncs() {
        for (typed, expected) in [
            ("100", Some(102_400)),
            ("1.5M", Some(1_572_864)),
            ("1m", Some(1 << 20)),
            ("2MB", Some(2_000_000)),
            ("1GiB", Some(1 << 30)),
            ("0", None),
        ] {
            assert_eq!(rate(typed), Ok(expected), "{typed}");
        }
        for typed in ["", "x", "-1", "1T", "1.2.3", "1b", "9e9", "\u{1b}"] {
            assert!(!rate(typed).unwrap_err().message.contains('\u{1b}'), "{typed}");
        }
    }

    #[test]
    fn an_archive_keeps_what_a_tree_needs_and_no_power() {
        let kept = Kept { archive: true, ..Kept::default() };
        let of = |kept, chosen| of(&Rsync { kept, chosen, ..Rsync::default() }, Way::Pull, false).unwrap();
        let options = of(kept, Chosen::default());
        let expected = Options { devices: false, ..Options::archive() };
        assert_eq!(options, expected);
        let plain = of(Kept::default(), Chosen::default());
        assert_eq!(plain, Options::default());
        for (allow_empty, expected) in [(false, Delete::Yes), (true, Delete::EvenAll)] {
            let chosen = Chosen { delete: true, allow_empty, ..Chosen::default() };
            assert_eq!(of(Kept::default(), chosen).delete, expected);
        }
    }

    #[test]
    fn rules_that_are_none_are_refused_in_harmless_words() {
        for (rule, text) in
            [(Rule::Filter, "? \u{1b}"), (Rule::ExcludeFrom, "/nowhere/\u{1b}"), (Rule::Exclude, "")]
        {
            let failure = filters(&[(rule, text.into())]).unwrap_err();
            assert!(!failure.message.contains('\u{1b}'), "{failure}");
        }
        assert!(chmod(&["rwx".into()], 0o022).is_err());
        assert_eq!(chmod(&["D755".into(), "F644".into()], 0), chmod(&["D755,F644".into()], 0));
    }
}
