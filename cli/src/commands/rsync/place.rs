//! The two sides of a transfer as they are typed: one of this machine, and one of an environment.

use crate::args::Rsync;
use crate::error::usage;
use crate::terminal::clean;
use skpr_proto::{EnvironmentName, ErrorKind, Failure, Label};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

/// From where to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From the environment.
    Pull,
    /// To it.
    Push,
}

/// A side of a transfer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    Local(OsString),
    Remote(Remote),
}

/// Files of an environment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Remote {
    /// As typed.
    pub(super) environment: String,
    volume: Option<Label>,
    path: Vec<u8>,
}

/// Which side is which.
pub(super) fn sides(verb: &Rsync) -> Result<(Way, OsString, Remote), Failure> {
    // A variable that is not set must not mean all that is in this directory.
    for (name, side) in [("SRC", &verb.source), ("DST", &verb.destination)] {
        if side.is_empty() {
            return Err(usage(format!("{name} is empty")).with_hint("say `.` for the current directory"));
        }
    }
    let hint = "say ENV:PATH for the environment's side, such as dev:/var/www, and ./PATH for a path here that has a colon";
    match (Place::parse(&verb.source), Place::parse(&verb.destination)) {
        (Place::Remote(remote), Place::Local(local)) => Ok((Way::Pull, local, remote)),
        (Place::Local(local), Place::Remote(remote)) => Ok((Way::Push, local, remote)),
        (Place::Local(_), Place::Local(_)) => {
            Err(usage("neither SRC nor DST names an environment").with_hint(hint))
        }
        (Place::Remote(_), Place::Remote(_)) => {
            Err(usage("SRC and DST both name an environment, and one of them has to be of this machine")
                .with_hint(hint))
        }
    }
}

impl Place {
    /// As rsync reads it: what has a colon before any slash is elsewhere.
    fn parse(typed: &OsStr) -> Place {
        let bytes = typed.as_bytes();
        let before = |bytes: &[u8]| {
            let colon = bytes.iter().position(|byte| *byte == b':')?;
            let slash = bytes.iter().position(|byte| *byte == b'/');
            (colon > 0 && slash.is_none_or(|slash| colon < slash)).then_some(colon)
        };
        let Some((environment, path)) =
            before(bytes).and_then(|colon| Some((bytes.get(..colon)?, bytes.get(colon + 1..)?)))
        else {
            return Place::Local(typed.to_owned());
        };
        let volume = before(path).and_then(|colon| {
            let name = std::str::from_utf8(path.get(..colon)?).ok()?;
            Some((Label::parse("volume", name).ok()?, path.get(colon + 1..)?))
        });
        let environment = String::from_utf8_lossy(environment).into_owned();
        Place::Remote(match volume {
            Some((volume, path)) => Remote { environment, volume: Some(volume), path: path.to_vec() },
            None => Remote { environment, volume: None, path: path.to_vec() },
        })
    }
}

impl Remote {
    /// Where it is in an instance, whose volumes are there.
    pub(super) fn path(
        &self,
        volumes: &HashMap<String, String>,
        name: &EnvironmentName,
    ) -> Result<Vec<u8>, Failure> {
        let Some(volume) = &self.volume else { return Ok(self.path.clone()) };
        let Some(place) = volumes.get(volume.as_str()) else {
            let mut known: Vec<String> =
                volumes.keys().map(|volume| format!("`{}`", clean(volume))).collect();
            known.sort();
            let hint = match known.as_slice() {
                [] => "it has no volume that skpr knows of".to_owned(),
                known => format!("its volumes are {}", known.join(", ")),
            };
            let path = OsString::from_vec(self.path.clone());
            let file = format!("{}:./{volume}:{}", self.environment, path.to_string_lossy());
            let message = format!("`{name}` has no volume `{volume}`");
            return Err(Failure::new(ErrorKind::NotFound, message)
                .with_hint(format!("{hint}; a file of that name is `{}`", clean(&file))));
        };
        // Whoever names a volume means nothing outside of it.
        let mut inside: Vec<&[u8]> = vec![];
        for part in self.path.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => drop(inside.pop()),
                part => inside.push(part),
            }
        }
        let directory =
            self.path.is_empty() || [&b"/"[..], b"/.", b"/.."].iter().any(|end| self.path.ends_with(end));
        let mut path = [place.as_bytes(), &inside.join(&b'/')].join(&b'/');
        if directory && !path.ends_with(b"/") {
            path.push(b'/');
        }
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Place {
        Place::parse(OsStr::new(text))
    }

    #[test]
    fn a_colon_before_any_slash_means_an_environment() {
        let remote = |environment: &str, volume: Option<&str>, path: &str| {
            let volume = volume.map(|name| Label::parse("volume", name).unwrap());
            Place::Remote(Remote { environment: environment.into(), volume, path: path.into() })
        };
        for (typed, expected) in [
            ("dev:", remote("dev", None, "")),
            ("dev:/var/www/", remote("dev", None, "/var/www/")),
            ("dev:web", remote("dev", None, "web")),
            ("dev:files:/2026/", remote("dev", Some("files"), "/2026/")),
            ("dev:files:", remote("dev", Some("files"), "")),
            ("dev:./a:b", remote("dev", None, "./a:b")),
            ("dev:/a:b", remote("dev", None, "/a:b")),
            ("dev:A B:c", remote("dev", None, "A B:c")),
            ("\u{1b}[2J:x", remote("\u{1b}[2J", None, "x")),
        ] {
            assert_eq!(parse(typed), expected, "{typed}");
        }
        for local in ["web", "./a:b", "/a:b", "a/b:c", ":x", "", "."] {
            assert_eq!(parse(local), Place::Local(local.into()), "{local}");
        }
    }

    #[test]
    fn one_side_is_here_and_one_is_not() {
        let verb = |source: &str, destination: &str| Rsync {
            source: source.into(),
            destination: destination.into(),
            ..Rsync::default()
        };
        assert_eq!(sides(&verb("a", "dev:")).unwrap().0, Way::Push);
        assert_eq!(sides(&verb("dev:", "a")).unwrap().0, Way::Pull);
        // An empty one is a variable that was not set, and never what is here.
        for (source, destination) in [("a", "b"), ("dev:", "prod:"), ("dev:", ""), ("", "dev:")] {
            assert_eq!(sides(&verb(source, destination)).unwrap_err().kind, ErrorKind::Usage);
        }
    }

    #[test]
    fn a_volume_is_where_the_environment_has_it_and_nothing_leads_out_of_it() {
        let volumes = HashMap::from([("files".to_owned(), "/data/app/files".to_owned())]);
        let name = EnvironmentName::parse("shop", "dev").unwrap();
        let path = |typed: &str| match parse(typed) {
            Place::Remote(remote) => {
                remote.path(&volumes, &name).map(|path| String::from_utf8(path).unwrap())
            }
            Place::Local(_) => panic!("{typed}"),
        };
        for (typed, expected) in [
            ("dev:files:", "/data/app/files/"),
            ("dev:files:/", "/data/app/files/"),
            ("dev:files:2026", "/data/app/files/2026"),
            ("dev:files:/2026/", "/data/app/files/2026/"),
            ("dev:files:/a/../../../etc/passwd", "/data/app/files/etc/passwd"),
            ("dev:files:/a/..", "/data/app/files/"),
            ("dev:/x/../y", "/x/../y"),
        ] {
            assert_eq!(path(typed).unwrap(), expected, "{typed}");
        }
        let failure = path("dev:other:x").unwrap_err();
        assert_eq!(failure.kind, ErrorKind::NotFound);
        let hint = failure.hint.unwrap();
        assert!(hint.contains("`files`") && hint.contains("dev:./other:x"), "{hint}");
    }
}
