//! How a process ended, from all that was said of it.
//!
//! * Kubernetes says that a process has ended well also where its own connection to the node broke, and nobody knows
//!   (<https://github.com/kubernetes/kubectl/issues/1726>). Where a shell stays beside the process, only that shell is
//!   believed to say so.
//! * What nobody knows is never taken for success.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use skpr_agent::runtime::{Exit, StartError};
use std::io;

/// What is known when nothing more comes.
#[derive(Debug)]
pub(super) enum Outcome {
    Ended(Exit),
    NotStarted(StartError),
    /// Nobody knows, and why.
    Unknown(String),
}

/// Who could have said how it ended, and has not.
#[derive(Clone, Copy, Debug)]
pub(super) enum Witness<'a> {
    /// The shell beside it.
    Shell,
    /// Nobody: this program was run as it is. It may have written something.
    None { program: &'a str, written: bool },
}

/// What Kubernetes says.
enum Said {
    Success,
    Code(u8),
    /// It has not gone as it should, before the start or after it.
    Failure(String),
    /// It has ended, or may have, and how is not to be told from it.
    Unclear(String),
}

fn said(status: &Status) -> Said {
    if status.status.as_deref() == Some("Success") {
        return Said::Success;
    }
    let causes = status.details.iter().filter_map(|details| details.causes.as_ref()).flatten();
    let code = causes
        .filter(|cause| cause.reason.as_deref() == Some("ExitCode"))
        .find_map(|cause| cause.message.as_deref()?.parse::<u8>().ok().filter(|code| *code != 0));
    let message = status.message.clone().unwrap_or_default();
    match (status.status.as_deref(), status.reason.as_deref(), code) {
        (Some("Failure"), Some("NonZeroExitCode"), Some(code)) => Said::Code(code),
        (Some("Failure"), reason, _) if reason != Some("NonZeroExitCode") => Said::Failure(message),
        _ => Said::Unclear(message),
    }
}

/// How it ended. A status that has not come is none.
pub(super) fn outcome(witness: Witness<'_>, status: Option<&Status>) -> Outcome {
    match (witness, status.map(said)) {
        // A shell that is killed says nothing, and most often what it was beside was killed with it.
        (_, Some(Said::Code(code))) => Outcome::Ended(Exit::Code(code)),
        (Witness::None { .. }, Some(Said::Success)) => Outcome::Ended(Exit::Code(0)),
        (Witness::Shell, Some(Said::Success)) => unknown("Kubernetes has lost it"),
        (Witness::None { program, written: false }, Some(Said::Failure(why))) => {
            // Anything else may be said of one that has run for hours.
            let known = StartError::of_runtime(&why, program);
            known.map_or_else(|| unknown(&kubernetes_says(&why)), Outcome::NotStarted)
        }
        (_, Some(Said::Failure(why) | Said::Unclear(why))) => unknown(&kubernetes_says(&why)),
        (_, None) => unknown("the connection to Kubernetes broke"),
    }
}

fn unknown(why: &str) -> Outcome {
    Outcome::Unknown(format!("{why}, and nobody knows how the process ended"))
}

/// Why something was not started that was run only to be asked for.
pub(super) fn why_not(status: &Status, written: &str) -> String {
    match said(status) {
        Said::Failure(why) | Said::Unclear(why) => why,
        // Some runtimes say as a program's output why there is none.
        Said::Success | Said::Code(_) => written.trim().to_owned(),
    }
}

/// Why a program was not started, from what Kubernetes passes on of what the runtime says.
pub(super) fn not_started(why: &str, program: &str) -> StartError {
    StartError::of_runtime(why, program)
        .unwrap_or_else(|| StartError::Failed(io::Error::other(kubernetes_says(why))))
}

/// As something to be shown.
pub(super) fn kubernetes_says(what: &str) -> String {
    if what.is_empty() {
        return "Kubernetes does not say why".to_owned();
    }
    let what: String = what.chars().take(500).flat_map(char::escape_debug).collect();
    format!("Kubernetes says: {what}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(text: serde_json::Value) -> Status {
        serde_json::from_value(text).unwrap()
    }

    fn success() -> Status {
        status(json!({"metadata": {}, "status": "Success"}))
    }

    fn code(code: &str) -> Status {
        status(json!({"status": "Failure", "reason": "NonZeroExitCode", "message": "it failed",
            "details": {"causes": [{"reason": "Other", "message": "7"}, {"reason": "ExitCode", "message": code}]}}))
    }

    fn failure(message: &str) -> Status {
        status(json!({"status": "Failure", "reason": "InternalError", "message": message, "code": 500}))
    }

    fn no_code() -> Status {
        status(json!({"status": "Failure", "reason": "NonZeroExitCode", "message": "it failed"}))
    }

    #[track_caller]
    fn check(witness: Witness<'_>, status: Option<Status>, expected: Result<u8, &str>) {
        match (outcome(witness, status.as_ref()), expected) {
            (Outcome::Ended(Exit::Code(code)), Ok(expected)) => assert_eq!(code, expected),
            (Outcome::Unknown(why), Err(expected)) => assert!(why.contains(expected), "{why}"),
            (Outcome::NotStarted(error), Err(expected)) => {
                assert!(error.exit_code() != 0 && error.to_string().contains(expected), "{error}");
            }
            (other, expected) => panic!("{other:?} is not {expected:?}"),
        }
    }

    #[test]
    fn without_a_word_of_that_shell_nothing_has_ended_well() {
        check(Witness::Shell, Some(success()), Err("Kubernetes has lost it, and nobody knows"));
        check(Witness::Shell, None, Err("the connection to Kubernetes broke, and nobody knows"));
        check(
            Witness::Shell,
            Some(failure("it \u{1b}broke")),
            Err("says: it \\u{1b}broke, and nobody knows"),
        );
        check(Witness::Shell, Some(failure("no such file or directory")), Err("nobody knows"));
        check(Witness::Shell, Some(Status::default()), Err("does not say why, and nobody knows"));
        check(Witness::Shell, Some(no_code()), Err("nobody knows"));
        // The shell was killed.
        check(Witness::Shell, Some(code("137")), Ok(137));
    }

    #[test]
    fn of_a_program_without_a_shell_kubernetes_knows_alone() {
        let program = |written| Witness::None { program: "x", written };
        for written in [false, true] {
            check(program(written), Some(success()), Ok(0));
            check(program(written), Some(code("1")), Ok(1));
            check(program(written), Some(code("255")), Ok(255));
            check(program(written), None, Err("the connection to Kubernetes broke"));
            // No code at all, and none that a process can have.
            for wrong in ["0", "256", "-1", "x", ""] {
                check(program(written), Some(code(wrong)), Err("says: it failed, and nobody knows"));
            }
            check(program(written), Some(no_code()), Err("nobody knows"));
        }
        check(program(true), Some(failure("no such file or directory")), Err("nobody knows"));
        check(program(false), Some(failure("exec: \"x\": no such file or directory")), Err("no program `x`"));
        check(program(false), Some(failure("it broke")), Err("says: it broke, and nobody knows"));
        check(program(false), Some(Status::default()), Err("does not say why, and nobody knows"));
    }

    #[test]
    fn what_a_runtime_says_becomes_what_a_shell_would_say() {
        for (said, expected) in [
            ("exec: \"x\": executable file not found in $PATH: unknown", 127),
            ("executable file `x` not found in $PATH: No such file or directory", 127),
            ("exec: \"/x\": permission denied: unknown", 126),
            ("container not found (\"main\")\u{1b}", 255),
        ] {
            let error = not_started(&format!("error executing command in container: {said}"), "x");
            assert_eq!(error.exit_code(), expected, "{error}");
            assert!(!error.to_string().contains('\u{1b}'));
        }
        assert_eq!(why_not(&success(), " permission denied\r\n"), "permission denied");
        assert_eq!(why_not(&failure("no"), "yes"), "no");
    }
}
