//! What is run in a container so that what was asked for runs there.
//!
//! `pods/exec` takes words and nothing else. A shell of the image therefore sets the variables, chooses the user's shell and
//! becomes what was asked for, when it has said its [number](Numbers) and was let go. A second shell stays beside it and says
//! how it has ended, on each of its outputs and after all that it has written.
//!
//! Words stay words: they are arguments of the scripts and never part of them. An image without `sh` runs programs as they
//! are, with no variables, no signals, and nobody beside them.

use super::note::{BEGINNING, Numbers, Secret};
use rustix::process::Signal;
use skpr_agent::runtime::{Command, Start, StartError, User};
use std::ffi::OsString;

/// The URL of a request has at most 64 KiB, in which a byte may take three.
const LONGEST: usize = 60 << 10;
/// What is said to the process's whole group, and must not end the shell beside it.
const SURVIVED: &str = "HUP INT QUIT ILL ABRT FPE SEGV PIPE ALRM TERM USR1 USR2";
/// Becomes what was asked for. The names are ours, so that none is a variable of the container, and of files only what the
/// shell itself can read is asked: an image need not have `id` or `grep`.
const BECOME: &str = r#"
while [ "$1" != -- ]; do export "$1"; shift; done
skpr_what=$2; shift 2
if [ "$skpr_what" = program ]; then
  command -v "$1" >/dev/null 2>&1 || { echo "skpr: there is no program \`$1\`" >&2; exit 127; }
  exec "$@"
fi
skpr_own=; skpr_shell=
while read -r skpr_key skpr_uid skpr_rest; do
  [ "$skpr_key" = Uid: ] && skpr_own=$skpr_uid
done 2>/dev/null </proc/self/status
while IFS=: read -r skpr_name skpr_word skpr_uid skpr_gid skpr_about skpr_home skpr_last; do
  [ "$skpr_uid" = "$skpr_own" ] && skpr_shell=$skpr_last && break
done 2>/dev/null </etc/passwd
case $skpr_shell in */nologin|*/false|*/true) skpr_shell= ;; /*) ;; *) skpr_shell= ;; esac
[ -n "$skpr_shell" ] && [ -x "$skpr_shell" ] || skpr_shell=$(command -v bash) || skpr_shell=sh
exec "$skpr_shell" "$@"
"#;
/// What lets the script go. A terminal shows it, before anything that counts.
pub(super) const GO: &[u8] = b"go\n";
/// Reads signals by their numbers, a line each, and answers whether anything of the process is left: `y` or `n`.
///
/// Numbers mean something else in a container that was started anew, and a pod of the same name has other processes: so the
/// first look is whether the shell beside the process is still there, which has its secret on its command line. A `--`
/// before the numbers is not known to every shell's `kill`.
const SIGNALS: &str = r#"
{ read -r skpr_line </proc/$2/cmdline; } 2>/dev/null
case $skpr_line in *"$1"*) ;; *) echo n; exit ;; esac
while read -r skpr_signal; do
  { kill -$skpr_signal -$2 || kill -$skpr_signal $3; kill -$skpr_signal -$3; } 2>/dev/null
  if { kill -0 -$2 || kill -0 -$3 || kill -0 $3; } 2>/dev/null; then echo y; else echo n; fi
done
"#;

/// What stays beside the process. It is one line, because its command line is looked at by its first; and it says nothing of
/// its own, such as `Terminated`. A pipe that is full, and that the process has left without waiting, takes nothing at first.
fn beside() -> String {
    let ended = |to: &str| {
        let tell = format!("echo \"{BEGINNING}$1 ended $skpr_code\"{to}");
        format!("for skpr_try in 1 2 3 4 5; do {tell} && break; sleep 1; done")
    };
    format!(
        "trap : {SURVIVED}; exec 3>&2 2>/dev/null; (exec sh -c \"$2\" \"$0\" \"$@\" 2>&3 3>&-); skpr_code=$?; \
         {}; {}; exit $skpr_code",
        ended(""),
        ended(" >&3")
    )
}

fn becomes() -> String {
    let note = |what: &str| format!("echo \"{BEGINNING}$skpr_secret {what}\"");
    let (here, going) = (note("here $$ $PPID"), note("going"));
    format!(
        "skpr_secret=$1; shift 2; {here}; read -r skpr_go || exit; [ \"$skpr_go\" = go ] || exit; {going}{BECOME}"
    )
}

/// The words that run it by shells of the image.
pub(super) fn by_shell(start: &Start, secret: &Secret) -> Result<Vec<String>, StartError> {
    served(start)?;
    let (what, command) = match &start.command {
        Command::Shell => ("shell", vec![]),
        Command::Line(line) => ("shell", vec!["-c".to_owned(), text(line)?]),
        Command::Program(_) => ("program", program(start)?),
        Command::Files | Command::Transfer => return Err(NO_FILES),
        Command::TooLong => return Err(StartError::TooLong),
    };
    let words = ["sh", "-c", &beside(), "skpr", secret.as_str(), &becomes()];
    let mut all = words.map(str::to_owned).to_vec();
    all.extend(start.terminal.iter().map(|terminal| format!("TERM={}", terminal.kind)));
    all.extend(start.variables.iter().map(|(name, value)| format!("{name}={value}")));
    all.extend(["--".to_owned(), what.to_owned()]);
    all.extend(command);
    check(all)
}

/// The words that run it with no shell between.
pub(super) fn as_it_is(start: &Start) -> Result<Vec<String>, StartError> {
    served(start)?;
    match start.command {
        Command::Program(_) => check(program(start)?),
        Command::Shell | Command::Line(_) => Err(StartError::NoShell),
        Command::Files | Command::Transfer => Err(NO_FILES),
        Command::TooLong => Err(StartError::TooLong),
    }
}

const NO_FILES: StartError = StartError::Unserved {
    what: "files are not served here: `pods/exec` of Kubernetes, which serves this instance, starts programs alone",
    instead: "`skpr exec ENV -- tar c FOLDER | tar x` brings files; the chart's `sessions.enabled` brings sftp, on nodes with containerd",
};

const NO_USERS: StartError = StartError::Unserved {
    what: "nothing is run as another user here: `pods/exec` of Kubernetes, which serves this instance, knows none",
    instead: "leave the user out, or say `skpr`, for the instance's own",
};

/// Whether it can be served at all, whatever the image has.
fn served(start: &Start) -> Result<(), StartError> {
    if start.user == User::Own { Ok(()) } else { Err(NO_USERS) }
}

/// The words that read [`SIGNALS`] of a process.
pub(super) fn signals(secret: &Secret, numbers: Numbers) -> Vec<String> {
    let Numbers { process, shell } = numbers;
    let (shell, process) = (shell.to_string(), process.to_string());
    ["sh", "-c", SIGNALS, "skpr", secret.as_str(), &shell, &process].map(str::to_owned).into()
}

/// The line that says a signal to them; none is to look alone.
pub(super) fn line(signal: Option<Signal>) -> Vec<u8> {
    format!("{}\n", signal.map_or(0, Signal::as_raw)).into_bytes()
}

fn program(start: &Start) -> Result<Vec<String>, StartError> {
    let Command::Program(words) = &start.command else { return Ok(vec![]) };
    if words.first().is_none_or(|program| program.is_empty()) {
        return Err(StartError::Empty);
    }
    words.iter().map(text).collect()
}

fn text(word: &OsString) -> Result<String, StartError> {
    word.clone().into_string().map_err(|_| StartError::NotText)
}

/// Whether all of it can be said in one request.
fn check(words: Vec<String>) -> Result<Vec<String>, StartError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"*-._ ".contains(&byte);
    let length = |word: &String| -> usize {
        "&command=".len() + word.bytes().map(|byte| if plain(byte) { 1 } else { 3 }).sum::<usize>()
    };
    if words.iter().map(length).sum::<usize>() > LONGEST { Err(StartError::TooLong) } else { Ok(words) }
}

#[cfg(test)]
mod tests;
