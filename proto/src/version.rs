//! A version as users type it, with one parser for the CLI, the API and every platform.
//!
//! Invariant: it is a tag that an image may have, and no option, range or path to git: what can be deployed on one platform
//! can be deployed on each.

use crate::error::{ErrorKind, Failure};
use std::fmt;

/// What `git describe --dirty` puts behind a version that has changes beside it.
pub const DIRTY: &str = "-dirty";
/// The longest tag of an image.
const LONGEST: usize = 128;

/// An image's tag, or a git tag or commit: 1 to 128 of `A-Z a-z 0-9 _ . -`, with no `.` or `-` first and no `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(String);

impl Version {
    pub fn parse(text: &str) -> Result<Version, Failure> {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let valid = text.len() <= LONGEST
            && text.bytes().next().is_some_and(word)
            && text.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
            && !text.contains("..");
        if valid {
            return Ok(Version(text.to_owned()));
        }
        // As much of a hostile value as fits a sentence.
        let shown: String = text.chars().take(64).flat_map(char::escape_debug).collect();
        let hint = if text.contains(['/', '+']) {
            "an image's tag has no `/` and no `+`: tag it otherwise, or name the commit: git rev-parse --short HEAD"
        } else {
            "a version is a tag: 1 to 128 letters, digits, `_`, `.` and `-`, with no `.` or `-` first"
        };
        Err(Failure::new(ErrorKind::Usage, format!("`{shown}` cannot be a version")).with_hint(hint))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Version> for String {
    fn from(version: Version) -> String {
        version.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_a_tag_that_an_image_and_git_may_have() {
        for good in ["v1.4.0", "1", "_x", "v1.4.0-3-gabc1234-dirty", "A", &"v".repeat(128)] {
            assert_eq!(Version::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "-h",
            ".x",
            "release/1.0",
            "v1+2",
            "v1..v2",
            "HEAD~1",
            "@{u}",
            "v 1",
            "v1\n",
            "ü",
            &"v".repeat(129),
        ] {
            let failure = Version::parse(bad).unwrap_err();
            assert_eq!(failure.kind, ErrorKind::Usage, "{bad}");
            assert!(!failure.message.contains('\n') && failure.message.len() < 300, "{failure}");
        }
        for bad in ["release/1.0", "v1+2"] {
            assert!(Version::parse(bad).unwrap_err().hint.unwrap().contains("no `/` and no `+`"), "{bad}");
        }
    }
}
