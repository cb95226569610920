//! What an instance finds in its environment: what describes the machine and its user, and what its release says.
//!
//! Nothing else of our own is passed on. It may hold secrets, and what a site needs is to stand in its manifest.

use std::ffi::{OsStr, OsString};

/// What is passed on, and every `LC_…`.
const PASSED_ON: [&str; 9] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR"];
/// Where programs are looked for.
const PATH: &str = "PATH";

/// All variables of an instance that is told `own`, which wins. Each is there once.
pub(super) fn variables(own: &[(String, String)]) -> Vec<(OsString, OsString)> {
    let ours = std::env::vars_os().filter(|(name, _)| {
        is_passed_on(name) && !own.iter().any(|(other, _)| name.as_os_str() == other.as_str())
    });
    ours.chain(own.iter().map(|(name, value)| (name.into(), value.into()))).collect()
}

/// Where the instance's program is looked for.
pub(super) fn search(own: &[(String, String)]) -> OsString {
    let said = own.iter().rev().find(|(name, _)| name == PATH).map(|(_, value)| value.into());
    said.or_else(|| std::env::var_os(PATH)).unwrap_or_default()
}

fn is_passed_on(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| PASSED_ON.contains(&name) || name.starts_with("LC_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_secret_of_ours_is_not_passed_on() {
        for (name, passed_on) in [
            ("PATH", true),
            ("LC_ALL", true),
            ("TZ", true),
            ("SKPR_TOKEN", false),
            ("AWS_SECRET_ACCESS_KEY", false),
            ("PATHS", false),
            ("LD_PRELOAD", false),
            ("", false),
        ] {
            assert_eq!(is_passed_on(name.as_ref()), passed_on, "{name}");
        }
        let own = [("PATH".to_owned(), "/site/bin".to_owned()), ("A".to_owned(), "b".to_owned())];
        let all = variables(&own);
        assert_eq!(all.iter().filter(|(name, _)| name == "PATH").count(), 1);
        assert!(
            all.contains(&("PATH".into(), "/site/bin".into())) && all.contains(&("A".into(), "b".into()))
        );
        assert_eq!((search(&own), search(&[])), ("/site/bin".into(), std::env::var_os("PATH").unwrap()));
    }
}
