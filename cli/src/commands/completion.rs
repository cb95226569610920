//! `skpr completion`: the script that a shell sources once.

use crate::args::{Completion, CompletionShell};
use crate::error::Error;
use crate::output::Output;
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};

pub(super) fn run(verb: &Completion, output: &Output) -> Result<(), Error> {
    let shell: &dyn EnvCompleter = match verb.shell {
        CompletionShell::Bash => &Bash,
        CompletionShell::Zsh => &Zsh,
        CompletionShell::Fish => &Fish,
    };
    let mut script = Vec::new();
    shell.write_registration("COMPLETE", "skpr", "skpr", "skpr", &mut script)?;
    output.write(&script)
}
