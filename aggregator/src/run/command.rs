//! What a run starts: a task's command, and what it is told of itself. Pure.
//!
//! Who may run a task may not run anything else: what a user puts behind a command is given to it, and is never a command.

use skpr_proto::error::usage;
use skpr_proto::{Failure, Label};

/// The variables that name its task and itself.
pub const TASK: &str = "SKPR_TASK";
pub const RUN: &str = "SKPR_RUN";

const SHELL: &str = "/bin/sh";
/// What the shell calls itself where it is given arguments.
const NAME: &str = "skpr";
/// By these a line says itself where its arguments go.
const PLACES: [&str; 2] = ["$@", "$*"];
/// With one of these a line may be more than one command, wherever it stands in it.
const SEPARATORS: [char; 8] = ['\n', '\r', ';', '&', '|', '(', ')', '`'];

/// The words that a task's line is started by, with what a user puts behind it, each as one word.
pub fn command(line: &str, arguments: &[String]) -> Vec<String> {
    let own = match arguments {
        [] => vec![line.to_owned()],
        _ if says_where(line) => vec![line.to_owned(), NAME.to_owned()],
        _ => vec![format!("{} \"$@\"", line.trim_end()), NAME.to_owned()],
    };
    let shell = [SHELL.to_owned(), "-c".to_owned()];
    shell.into_iter().chain(own).chain(arguments.iter().cloned()).collect()
}

/// Refuses arguments that the shell could take for a command of their own, or lose: they may be put behind one simple
/// command, and anywhere that a line says itself. What is quoted is not told apart, so that some are refused that need not be.
pub fn takes(task: &Label, line: &str, arguments: &[String]) -> Result<(), Failure> {
    if arguments.is_empty() || says_where(line) {
        return Ok(());
    }
    let line = line.trim_end();
    let comment = line.split([' ', '\t']).any(|word| word.starts_with('#'));
    let why = match line.find(SEPARATORS).and_then(|at| line[at..].chars().next()) {
        Some('\n' | '\r') => "has several lines".to_owned(),
        Some(separator) => format!("has `{separator}`"),
        None if comment => "has `#`".to_owned(),
        None if line.contains("<<") => "has `<<`".to_owned(),
        None => match line.chars().last().filter(|last| ['\\', '<', '>'].contains(last)) {
            Some(last) => format!("ends with `{last}`"),
            None if has_program(line) => return Ok(()),
            None => "has no program of its own that is plain to see".to_owned(),
        },
    };
    let message = format!("the command of task `{task}` {why}, so that nothing can be put behind it");
    Err(usage(message).with_hint("write \"$@\" into the command in .skpr.yml, where arguments are to stand"))
}

fn says_where(line: &str) -> bool {
    PLACES.iter().any(|place| line.contains(place))
}

/// Whether a word of the line, behind what sets variables and says where input and output go, is a program. Where one of those is
/// quoted, so that it may be several words, that is not known: no.
fn has_program(line: &str) -> bool {
    let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        let sets = word.split_once('=').is_some_and(|(name, _)| is_variable(name));
        let target = word.trim_start_matches(|each: char| each.is_ascii_digit()).strip_prefix(['<', '>']);
        let skipped = match target.map(|target| target.trim_start_matches(['<', '>'])) {
            Some("") => words.next().unwrap_or_default(),
            Some(_) => word,
            None if sets || word == "!" => word,
            None => return true,
        };
        if skipped.contains(['\'', '"', '\\', '{']) {
            return false;
        }
    }
    false
}

fn is_variable(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.chars().all(|each| each.is_ascii_alphanumeric() || each == '_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const NO_PROGRAM: &str = "has no program of its own that is plain to see";

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn refused(line: &str, arguments: &[&str]) -> Result<(), String> {
        let task = Label::parse("task", "drush").unwrap();
        takes(&task, line, &strings(arguments)).map_err(|failure| failure.message)
    }

    #[test]
    fn what_is_put_behind_a_line_is_one_word_each() {
        assert_eq!(command("drush cron", &[]), ["/bin/sh", "-c", "drush cron"]);
        let expected = ["/bin/sh", "-c", "drush cron \"$@\"", "skpr", "a b", "-x"];
        assert_eq!(command("drush cron", &strings(&["a b", "-x"])), expected);
        let expected = ["/bin/sh", "-c", "set -e; drush \"$@\" | tee x", "skpr", "a b"];
        assert_eq!(command("set -e; drush \"$@\" | tee x", &strings(&["a b"])), expected);
    }

    /// With a line that ends with a separator they were a command of their own, which whoever may run tasks need not be
    /// allowed to run.
    #[test]
    fn arguments_are_never_a_command() {
        for (line, why) in [
            ("echo hi\necho ho", "has several lines"),
            ("echo hi;", "has `;`"),
            ("sleep 0.1 &", "has `&`"),
            ("a && b", "has `&`"),
            ("a | b", "has `|`"),
            ("(a)", "has `(`"),
            ("echo `date`", "has ```"),
            ("echo hi # say hi", "has `#`"),
            ("# nothing", "has `#`"),
            ("cat <<END", "has `<<`"),
            ("echo hi \\", "ends with `\\`"),
            ("echo hi >", "ends with `>`"),
            ("A=1 _b=2", NO_PROGRAM),
            ("A='x y'", NO_PROGRAM),
            ("A=${X:-a b}", NO_PROGRAM),
            ("> log", NO_PROGRAM),
            (">>log 2>errors </dev/null", NO_PROGRAM),
            ("> 'the log'", NO_PROGRAM),
            ("!", NO_PROGRAM),
            ("if true; then a; fi", "has `;`"),
        ] {
            let expected = format!("the command of task `drush` {why}, so that nothing can be put behind it");
            assert_eq!(refused(line, &["x"]), Err(expected), "{line}");
            assert_eq!(refused(line, &[]), Ok(()), "{line}");
            assert_eq!(refused(&format!("{line} \"$@\""), &["x"]), Ok(()), "{line}");
        }
        for line in [
            "drush cron",
            "drush cron\n",
            "A=1 ./x --y=2 > $HOME/log 2>/dev/null",
            "> log ./x",
            "a#b ${X}",
            "a =b",
            "printf '<%s>\\n' $X",
        ] {
            assert_eq!(refused(line, &["x"]), Ok(()), "{line}");
        }
    }

    /// Whatever separates, the shell itself does not run an argument of a line that takes any.
    #[test]
    fn a_shell_runs_no_argument_of_a_line_that_takes_them() {
        let pieces = [
            "true",
            ">",
            "/dev/null",
            "A=1",
            "\n",
            ";",
            "&",
            "|",
            "#",
            " ",
            "\\",
            "=",
            "A",
            "(",
            ")",
            "<<",
            "`",
            "'",
            "\"",
            "{",
            "}",
            "!",
            "$",
        ];
        let (mut random, directory): (u64, _) = (7, tempfile::tempdir().unwrap());
        for number in 0..400 {
            let mut line = if number % 2 == 0 { "true".to_owned() } else { String::new() };
            for _ in 0..4 {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                line.push_str(pieces[(random >> 33) as usize % pieces.len()]);
            }
            let arguments = strings(&["sh", "-c", "echo RAN"]);
            if refused(&line, &["sh"]).is_err() || says_where(&line) {
                continue;
            }
            let words = command(&line, &arguments);
            let place = tempfile::tempdir_in(directory.path()).unwrap();
            let done = Command::new(&words[0]).args(&words[1..]).current_dir(place.path()).output().unwrap();
            let named = std::fs::read_dir(place.path()).unwrap().any(|file| {
                arguments.iter().any(|argument| file.as_ref().unwrap().file_name() == argument.as_str())
            });
            assert!(!named, "{line:?} writes where an argument says");
            assert!(!String::from_utf8_lossy(&done.stdout).contains("RAN"), "{line:?}");
        }
    }
}
