//! The scripts, run by each shell that is here, as a container would run them by its own.

use super::super::note::{Note, Notes, Piece};
use super::*;
use skpr_agent::runtime::{Size, Terminal};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use tempfile::TempDir;

fn start(command: Command, variables: &[(&str, &str)], terminal: bool) -> Start {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let terminal = terminal.then(|| Terminal { kind: "xterm".into(), size: Size::of(80, 24), modes: vec![] });
    Start { command, variables: variables.iter().map(owned).collect(), terminal, user: User::Own }
}

fn program_of(words: &[&str]) -> Command {
    Command::Program(words.iter().map(OsString::from).collect())
}

fn find(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// A folder for each shell that is here, in which it is `sh`.
fn shells() -> Vec<TempDir> {
    let found: Vec<PathBuf> = ["dash", "bash", "busybox"].into_iter().filter_map(find).collect();
    assert!(!found.is_empty(), "no shell is here");
    let folder = |shell: &PathBuf| {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(shell, folder.path().join("sh")).unwrap();
        folder
    };
    found.iter().map(folder).collect()
}

/// Starts words where `sh` is the one of this folder.
fn spawn(folder: &Path, words: &[String]) -> Child {
    let old = std::env::var_os("PATH").unwrap();
    let path = std::env::join_paths([folder.to_owned()].into_iter().chain(std::env::split_paths(&old)));
    // What `nohup` has made of a signal no shell can undo, and no container has it.
    let mut command = std::process::Command::new("/usr/bin/env");
    command.arg("--default-signal=HUP").arg(folder.join(&words[0]));
    command.args(&words[1..]).env("PATH", path.unwrap()).env("skpr", "kept").process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// What is text, and what the last note says.
fn told(secret: &Secret, bytes: Vec<u8>) -> (Vec<u8>, Option<Note>) {
    let (mut text, mut last) = (vec![], None);
    for piece in Notes::of(secret).take(bytes.into()) {
        match piece {
            Piece::Text(part) => text.extend_from_slice(&part),
            Piece::Note(note) => last = Some(note),
        }
    }
    (text, last)
}

/// Runs it by each shell; the notes are looked at and taken off.
fn run(start: &Start, input: &str) -> Vec<Output> {
    let mut outputs = vec![];
    for folder in shells() {
        let secret = Secret::new().unwrap();
        let mut child = spawn(folder.path(), &by_shell(start, &secret).unwrap());
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&[GO, input.as_bytes()].concat()).unwrap();
        drop(stdin);
        let mut output = child.wait_with_output().unwrap();
        let ended = output.status.code().map(|code| Note::Ended(code as u8));
        for bytes in [&mut output.stdout, &mut output.stderr] {
            let (text, last) = told(&secret, std::mem::take(bytes));
            assert_eq!(last, ended, "{folder:?}");
            *bytes = text;
        }
        outputs.push(output);
    }
    outputs
}

#[test]
fn words_stay_words_and_variables_are_set() {
    let words = program_of(&["printf", "%s|", "a b", "$X", "", "*", "'\"\\", "--", "é"]);
    for output in run(&start(words, &[("LANG", "a b;c")], false), "") {
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "a b|$X||*|'\"\\|--|é|");
        assert_eq!((output.stderr, output.status.code()), (vec![], Some(0)));
    }
    let line = Command::Line("echo \"$LANG $TERM $skpr ${skpr_own-unset}\"; cat; exit 42".into());
    for output in run(&start(line, &[("LANG", "C.UTF-8")], true), "input\n") {
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!((text.as_str(), output.status.code()), ("C.UTF-8 xterm kept unset\ninput\n", Some(42)));
    }
    for output in run(&start(Command::Shell, &[], false), "echo $((40 + 2))\n") {
        assert_eq!(output.stdout, b"42\n");
    }
    for output in run(&start(program_of(&["no-such-program", "x"]), &[], false), "") {
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(text, "skpr: there is no program `no-such-program`\n");
        assert_eq!(output.status.code(), Some(127));
    }
}

#[test]
fn nothing_is_run_that_was_not_let_go() {
    for input in ["", "no\n", "go"] {
        for folder in shells() {
            let secret = Secret::new().unwrap();
            let words = by_shell(&start(program_of(&["echo", "it runs"]), &[], false), &secret).unwrap();
            let mut child = spawn(folder.path(), &words);
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            let (text, _) = told(&secret, child.wait_with_output().unwrap().stdout);
            assert_eq!(text, b"", "{input:?}: {folder:?}");
        }
    }
}

#[test]
fn what_cannot_be_run_says_so_before() {
    let secret = Secret::new().unwrap();
    let shell = |command| by_shell(&start(command, &[], false), &secret);
    assert!(matches!(shell(Command::Files), Err(StartError::Unserved { .. })));
    assert!(matches!(shell(Command::TooLong), Err(StartError::TooLong)));
    assert!(matches!(shell(program_of(&[])), Err(StartError::Empty)));
    assert!(matches!(shell(program_of(&[""])), Err(StartError::Empty)));
    let bytes = OsString::from_vec(vec![0xff]);
    assert!(matches!(shell(Command::Line(bytes)), Err(StartError::NotText)));
    // Twice as much would still be one argument of Linux, and no URL.
    assert!(shell(Command::Line("x".repeat(55 << 10).into())).is_ok());
    assert!(matches!(shell(Command::Line("x".repeat(70 << 10).into())), Err(StartError::TooLong)));
    assert!(matches!(shell(Command::Line("/".repeat(20 << 10).into())), Err(StartError::TooLong)));
    let bare = |command| as_it_is(&start(command, &[("LANG", "C")], false));
    assert!(matches!(bare(Command::Shell), Err(StartError::NoShell)));
    assert!(matches!(bare(Command::Line("x".into())), Err(StartError::NoShell)));
    assert_eq!(bare(program_of(&["a", "b c"])).unwrap(), ["a", "b c"]);
    let another = Start { user: User::Named("root".into()), ..start(Command::Shell, &[], false) };
    for refused in [by_shell(&another, &secret), as_it_is(&another)] {
        let error = refused.unwrap_err();
        assert!(error.to_string().contains("another user") && error.hint().is_some(), "{error}");
    }
}

/// A process that was let go, and the reader of its stdout.
fn begin(
    folder: &Path,
    secret: &Secret,
    words: &[&str],
) -> (Child, BufReader<std::process::ChildStdout>, Numbers) {
    let words = by_shell(&start(program_of(words), &[], false), secret).unwrap();
    let mut child = spawn(folder, &words);
    child.stdin.as_mut().unwrap().write_all(GO).unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = vec![];
    stdout.read_until(b'\n', &mut line).unwrap();
    let (_, Some(Note::Here(numbers))) = told(secret, line) else { panic!("no number") };
    assert_eq!(numbers.shell, child.id());
    (child, stdout, numbers)
}

/// What is answered to these lines.
fn ask(folder: &Path, secret: &Secret, numbers: Numbers, asked: &[Option<Signal>]) -> String {
    let mut child = spawn(folder, &signals(secret, numbers));
    let mut stdin = child.stdin.take().unwrap();
    for signal in asked {
        // One that does not read has said why not.
        drop(stdin.write_all(&line(*signal)));
    }
    drop(stdin);
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn a_signal_reaches_the_group_and_the_shell_beside_it_says_how_it_ended() {
    for folder in shells() {
        for (sent, group) in
            [(Signal::TERM, false), (Signal::HUP, false), (Signal::USR1, false), (Signal::TERM, true)]
        {
            let secret = Secret::new().unwrap();
            // The second is in no group but its own, as an interactive shell is.
            let words: &[&str] =
                if group { &["setsid", "sleep", "61"] } else { &["sh", "-c", "sleep 61; true"] };
            let (child, mut stdout, numbers) = begin(folder.path(), &secret, words);
            assert_eq!(ask(folder.path(), &secret, numbers, &[None]), "y\n");
            ask(folder.path(), &secret, numbers, &[Some(sent)]);
            let mut rest = vec![];
            stdout.read_to_end(&mut rest).unwrap();
            let code = 128 + sent.as_raw();
            assert_eq!(told(&secret, rest).1, Some(Note::Ended(code as u8)), "{folder:?}");
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(code), "{folder:?}");
            // No shell says anything of its own.
            assert_eq!(told(&secret, output.stderr).0, b"", "{folder:?}");
        }
    }
}

#[test]
fn what_is_killed_takes_the_shell_with_it() {
    use std::os::unix::process::ExitStatusExt as _;
    for folder in shells() {
        let secret = Secret::new().unwrap();
        let (mut child, _stdout, numbers) = begin(folder.path(), &secret, &["sleep", "61"]);
        ask(folder.path(), &secret, numbers, &[Some(Signal::KILL)]);
        assert_eq!(child.wait().unwrap().signal(), Some(Signal::KILL.as_raw()));
    }
}

#[test]
fn numbers_of_other_processes_are_let_alone() {
    for folder in shells() {
        let secret = Secret::new().unwrap();
        let (mut child, _stdout, numbers) = begin(folder.path(), &secret, &["sleep", "61"]);
        let other = Secret::new().unwrap();
        assert_eq!(ask(folder.path(), &other, numbers, &[Some(Signal::KILL)]), "n\n", "{folder:?}");
        assert_eq!(child.try_wait().unwrap(), None);
        ask(folder.path(), &secret, numbers, &[Some(Signal::KILL)]);
        child.wait().unwrap();
        assert_eq!(ask(folder.path(), &secret, numbers, &[Some(Signal::KILL)]), "n\n", "{folder:?}");
    }
}
