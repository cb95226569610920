//! OpenSSH's server in a container of a site: the image, its keys, and stock `ssh` as its client.
//!
//! Debian's program and the libraries that it needs, from where `scripts/setup bench-shell` has unpacked them. Beside it are
//! busybox and this machine's rsync, and nothing else.

use anyhow::{Context as _, Result, ensure};
use skpr_tests::cli::User;
use skpr_tests::cluster::{Cluster, Namespace};
use skpr_tests::image::{busybox_root, pack};
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

pub(crate) const IMAGE: &str = "skpr-bench-sshd:1";
/// What of the package is a program; newer ones split it up.
const PROGRAMS: [&str; 3] = ["usr/sbin/sshd", "usr/lib/openssh/sshd-session", "usr/lib/openssh/sshd-auth"];
const ACCOUNTS: &str = "root:x:0:0::/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/bin/false\n";
/// Its own defaults, but for what a Secret's files and a container without PAM are not like.
const SETTINGS: &str = "HostKey /ssh/host\nAuthorizedKeysFile /ssh/authorized_keys\nStrictModes no\nPidFile none\n\
    UsePAM no\nPrintMotd no\nPrintLastLog no\n";

/// Where it is, and a key that it takes.
#[derive(Debug)]
pub(crate) struct Sshd {
    keys: TempDir,
    pub(crate) address: SocketAddr,
}

/// Puts the image on the nodes; on a cluster that is not ours it is there.
pub(crate) fn load_image(cluster: &Cluster) -> Result<()> {
    let Some(own) = cluster.breakable() else { return Ok(()) };
    let folder = busybox_root()?;
    let unpacked = unpacked()?;
    for program in PROGRAMS.into_iter().filter(|program| unpacked.join(program).is_file()) {
        let file = unpacked.join(program);
        copy(&file, &folder.path().join(program))?;
        for library in libraries(&file, &unpacked)? {
            let inside = library.strip_prefix(&unpacked).or_else(|_| library.strip_prefix("/"))?;
            copy(&library, &folder.path().join(inside))?;
        }
    }
    // What `bench-rsync` compares with, where there is one.
    let rsync = Path::new("/usr/bin/rsync");
    if rsync.is_file() {
        for file in [vec![rsync.to_owned()], libraries(rsync, &unpacked)?].concat() {
            copy(&file, &folder.path().join(file.strip_prefix("/")?))?;
        }
    }
    for directory in ["run/sshd", "root", "etc"] {
        fs::create_dir_all(folder.path().join(directory))?;
    }
    fs::write(folder.path().join("etc/passwd"), ACCOUNTS)?;
    fs::write(folder.path().join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    own.load(&pack(&folder, &format!("docker.io/library/{IMAGE}"), r#"["/usr/sbin/sshd"]"#)?)
}

fn unpacked() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let folder = cache.context("find the cache's directory")?.join("skpr-bench/openssh-server");
    ensure!(folder.join("usr/sbin/sshd").is_file(), "there is no sshd\nhint: scripts/setup bench-shell");
    Ok(fs::canonicalize(folder)?)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("it has a folder")?)?;
    fs::copy(from, to).with_context(|| format!("copy `{}`", from.display())).map(drop)
}

/// The paths of what the loader loads; those that this machine has not are beside the program.
fn libraries(program: &Path, unpacked: &Path) -> Result<Vec<PathBuf>> {
    let mut places = OsString::new();
    for below in ["lib", "usr/lib"] {
        for entry in fs::read_dir(unpacked.join(below)).into_iter().flatten().filter_map(Result::ok) {
            places.push(entry.path());
            places.push(":");
        }
    }
    let listed =
        Command::new("ldd").arg(program).env("LD_LIBRARY_PATH", places).output().context("run ldd")?;
    let listed = String::from_utf8(listed.stdout)?;
    ensure!(!listed.contains("not found"), "a library is missing: {listed}");
    // `NAME => PATH (ADDRESS)`, and the loader by its path alone.
    let words = listed.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(words.map(PathBuf::from).collect())
}

impl Sshd {
    /// Makes the keys, and the Secret `ssh` that a container mounts at `/ssh`.
    pub(crate) fn prepare(sites: &Namespace) -> Result<TempDir> {
        let keys = tempfile::tempdir()?;
        let at = |name: &str| keys.path().join(name).display().to_string();
        for name in ["host", "user"] {
            let file = at(name);
            let words = ["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", &file];
            let made = Command::new("ssh-keygen").args(words).status().context("run ssh-keygen")?;
            ensure!(made.success(), "ssh-keygen: {made}");
        }
        fs::copy(at("user.pub"), at("authorized_keys"))?;
        fs::write(at("sshd_config"), SETTINGS)?;
        let files =
            ["host", "authorized_keys", "sshd_config"].map(|name| format!("--from-file={}", at(name)));
        sites.kubectl(
            &[&["create", "secret", "generic", "ssh"], &files.each_ref().map(String::as_str)[..]].concat(),
        )?;
        Ok(keys)
    }

    /// The one that listens there.
    pub(crate) fn at(address: SocketAddr, keys: TempDir) -> Result<Sshd> {
        let host = fs::read_to_string(keys.path().join("host.pub"))?;
        fs::write(keys.path().join("known"), format!("sshd {host}"))?;
        Ok(Sshd { keys, address })
    }

    /// Stock `ssh`, with its own defaults, that asks nobody anything.
    pub(crate) fn client(&self, user: &User, terminal: &str, words: &[&str]) -> Command {
        self.client_by(self.address, user, terminal, words)
    }

    /// The same by way of this address.
    pub(crate) fn client_by(
        &self,
        address: SocketAddr,
        user: &User,
        terminal: &str,
        words: &[&str],
    ) -> Command {
        let at = |name: &str| self.keys.path().join(name).display().to_string();
        let options = [
            format!("UserKnownHostsFile={}", at("known")),
            format!("IdentityFile={}", at("user")),
            format!("HostName={}", address.ip()),
            "HostKeyAlias=sshd".to_owned(),
            "StrictHostKeyChecking=yes".to_owned(),
            "GlobalKnownHostsFile=/dev/null".to_owned(),
            "IdentitiesOnly=yes".to_owned(),
            "IdentityAgent=none".to_owned(),
            "BatchMode=yes".to_owned(),
        ];
        let mut ssh = user.other("ssh", &["-F", "/dev/null", "-l", "root", "-p"]);
        ssh.arg(address.port().to_string());
        for option in options {
            ssh.args(["-o", &option]);
        }
        ssh.args([terminal, "sshd"]).args(words);
        ssh
    }
}
