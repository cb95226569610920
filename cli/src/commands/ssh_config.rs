//! `skpr ssh-config`: what `~/.ssh/config` needs so that `ssh ENV.PROJECT.skpr` works.

use crate::args::SshConfig;
use crate::credentials;
use crate::error::{Error, usage};
use crate::output::Output;
use crate::session::SUFFIX;
use crate::settings::Settings;
use anyhow::Context as _;
use skpr_proto::ssh::OWN_USER;
use skpr_proto::{ErrorKind, Failure, Label};
use std::fs::Permissions;
use std::io;
use std::path::{Path, PathBuf};

pub(super) fn run(verb: &SshConfig, settings: &Settings, output: &Output) -> Result<(), Error> {
    let project = settings.project()?.ok_or_else(|| {
        usage("it is not known for which project")
            .with_hint("say --project, or go into the project's directory")
    })?;
    let login = Login::of(settings)?;
    let program = std::env::current_exe().context("find this program")?;
    let text = config(&project, &program, &login.cluster, &settings.directory.known_hosts())?;
    if !verb.install {
        return output.write(text.as_bytes());
    }
    let path = settings.directory.ssh_config(&project);
    let other = std::fs::read_to_string(&path).is_ok_and(|before| before != text);
    credentials::replace(&path, text.as_bytes()).with_context(|| format!("write `{}`", path.display()))?;
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    let home = home.ok_or_else(|| Failure::new(ErrorKind::Failed, "there is no home directory"))?;
    let theirs = home.join(".ssh").join("config");
    let (theirs, before, mode) = kept(theirs)?;
    let include = format!("Include {}", quoted(&settings.directory.ssh_configs())?);
    if let Some(after) = including(&before, &include) {
        let written = credentials::replace(&theirs, after.as_bytes());
        written.with_context(|| format!("write `{}`", theirs.display()))?;
        if let Some(mode) = mode {
            let same = std::fs::set_permissions(&theirs, mode);
            same.with_context(|| format!("set the mode of `{}`", theirs.display()))?;
        }
        output.note(&format!("`{}` includes what skpr needs now", theirs.display()));
    }
    if other {
        output.note(&format!("`{}` was another before: it leads to {} now", path.display(), login.cluster));
    }
    for line in login.told(&project) {
        output.note(&line);
    }
    Ok(())
}

/// The file that stands there, which may be kept elsewhere, with its text and its mode.
fn kept(path: PathBuf) -> Result<(PathBuf, String, Option<Permissions>), Error> {
    let cannot = |error: io::Error| anyhow::Error::new(error).context(format!("read `{}`", path.display()));
    if path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok((path, String::new(), None));
    }
    // A link that leads nowhere is not replaced: what it stands for may be back tomorrow.
    let real = path.canonicalize().map_err(cannot)?;
    let metadata = real.metadata().map_err(cannot)?;
    if !metadata.is_file() {
        return Err(Failure::new(ErrorKind::Failed, format!("`{}` is no file", path.display())).into());
    }
    let text = std::fs::read_to_string(&real).map_err(cannot)?;
    Ok((real, text, Some(metadata.permissions())))
}

/// What `ssh` will find of a login.
struct Login {
    cluster: String,
    /// The one that every program of this user finds.
    stored: bool,
    /// In variables, which only what is started from here has.
    here: bool,
}

impl Login {
    fn of(settings: &Settings) -> Result<Login, Error> {
        let credentials = settings.directory.load()?;
        let cluster = settings.endpoint(&credentials)?.to_string();
        let stored = credentials.clusters.contains_key(&cluster);
        let here = settings.variables.ca.is_some() && settings.variables.token.is_some();
        Ok(Login { cluster, stored, here })
    }

    /// Whether it works now, and else what is still to be done.
    fn told(&self, project: &Label) -> Vec<String> {
        let (ssh, cluster) = (format!("ssh ENV.{project}.{SUFFIX}"), &self.cluster);
        match self {
            Login { stored: true, .. } => {
                vec![format!("{ssh} works now, for each environment of `{project}`")]
            }
            Login { here: true, .. } => vec![
                format!(
                    "{ssh} works where SKPR_CA and SKPR_TOKEN are set as they are here, and nowhere else"
                ),
                format!("hint: skpr login {cluster}, so that it works everywhere"),
            ],
            Login { .. } => vec![
                format!("{ssh} works once you are logged in to `{cluster}`, which you are not"),
                format!("hint: skpr login {cluster}"),
            ],
        }
    }
}

/// The part of a project.
fn config(project: &Label, program: &Path, cluster: &str, known_hosts: &Path) -> Result<String, Failure> {
    let program = in_shell(program)?;
    let known_hosts = quoted(&known_hosts.join("%h"))?;
    Ok(format!(
        "# The environments of `{project}`, through skpr. Needs OpenSSH 8.4 or later.\n\
         Host *.{project}.{SUFFIX}\n\
         \x20   User {OWN_USER}\n\
         \x20   ProxyCommand {program} --cluster {cluster} ssh-proxy %h\n\
         \x20   UserKnownHostsFile {known_hosts}\n\
         \x20   GlobalKnownHostsFile /dev/null\n\
         \x20   StrictHostKeyChecking yes\n\
         \x20   HostKeyAlgorithms ssh-ed25519\n\
         \x20   CheckHostIP no\n\
         \x20   ServerAliveInterval 5\n\
         \x20   ServerAliveCountMax 3\n"
    ))
}

/// `text` with the line before all else, since what comes first counts; none when it is there.
fn including(text: &str, include: &str) -> Option<String> {
    (!text.lines().any(|line| line.trim() == include)).then(|| match text {
        "" => format!("{include}\n"),
        text => format!("{include}\n\n{text}"),
    })
}

/// A path as an argument of OpenSSH's configuration; `%h` stays what it is.
fn quoted(path: &Path) -> Result<String, Failure> {
    let text = plain(path)?;
    Ok(format!("\"{text}\""))
}

/// A path as a word of the shell that runs a `ProxyCommand`, in which `%` begins what `ssh` fills in.
fn in_shell(path: &Path) -> Result<String, Failure> {
    Ok(format!("'{}'", plain(path)?.replace('%', "%%")))
}

fn plain(path: &Path) -> Result<String, Failure> {
    let text = path.to_str().filter(|text| !text.contains(['"', '\'', '\\', '\n', '\r', '\0']));
    text.map(str::to_owned).ok_or_else(|| {
        let path: PathBuf = path.to_owned();
        let message =
            format!("`{}` cannot stand in a configuration of ssh", path.display().to_string().escape_debug());
        Failure::new(ErrorKind::Failed, message).with_hint("move it to a path without quotes and backslashes")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_the_place_of_a_configuration_is_kept() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        let (path, text, mode) = kept(at("none")).unwrap();
        assert!(path == at("none") && text.is_empty() && mode.is_none());
        std::fs::write(at("real"), "Host x\n").unwrap();
        std::os::unix::fs::symlink("real", at("link")).unwrap();
        let (path, text, mode) = kept(at("link")).unwrap();
        assert_eq!((path, &*text), (at("real").canonicalize().unwrap(), "Host x\n"));
        assert_eq!(mode, Some(at("real").metadata().unwrap().permissions()));
        std::os::unix::fs::symlink("away", at("dangling")).unwrap();
        std::fs::create_dir(at("directory")).unwrap();
        for bad in ["dangling", "directory"] {
            assert!(kept(at(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_project_s_part_leads_to_this_program() {
        let project = Label::parse("project", "shop").unwrap();
        let text =
            config(&project, Path::new("/opt/50% off/skpr"), "127.0.0.1:7443", Path::new("/home/me/known"));
        let text = text.unwrap();
        assert!(text.contains("Host *.shop.skpr\n"), "{text}");
        // Else `ssh` would ask for a user of the name that its own has.
        assert!(text.contains("    User skpr\n"), "{text}");
        assert!(
            text.contains("ProxyCommand '/opt/50%% off/skpr' --cluster 127.0.0.1:7443 ssh-proxy %h\n"),
            "{text}"
        );
        assert!(text.contains("UserKnownHostsFile \"/home/me/known/%h\"\n"), "{text}");
        assert!(config(&project, Path::new("/it's"), "a:1", Path::new("/k")).is_err());
    }

    #[test]
    fn what_is_still_to_be_done_is_said() {
        let project = Label::parse("project", "shop").unwrap();
        for (stored, here, works, hint) in [
            (true, false, "works now", None),
            (true, true, "works now", None),
            (false, true, "works where SKPR_CA and SKPR_TOKEN are set", Some("hint: skpr login a:1, so")),
            (false, false, "works once you are logged in to `a:1`", Some("hint: skpr login a:1")),
        ] {
            let told = Login { cluster: "a:1".to_owned(), stored, here }.told(&project);
            assert!(told[0].contains("ssh ENV.shop.skpr") && told[0].contains(works), "{told:?}");
            assert_eq!(told.get(1).is_some_and(|line| line.starts_with(hint.unwrap_or("-"))), hint.is_some());
        }
    }

    #[test]
    fn the_line_comes_first_and_once() {
        let include = "Include \"/x/*.conf\"";
        let first = including("", include).unwrap();
        assert_eq!(first, "Include \"/x/*.conf\"\n");
        assert_eq!(including(&first, include), None);
        let theirs = "Host *\n  User me\n";
        let both = including(theirs, include).unwrap();
        assert_eq!(both, format!("{include}\n\n{theirs}"));
        assert_eq!(including(&both, include), None);
    }
}
