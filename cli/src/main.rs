//! `skpr`: what runs in a project's environments, deploys, and logs.
//!
//! Three steps: [`args`] as typed → [`settings`] resolved (flag, `SKPR_*`, `.skpr.yml`, login) → one file of
//! [`commands`] runs. stdout carries data only; [`output`] owns both streams and nothing else writes to them.

mod args;
mod client;
mod commands;
mod completion;
mod credentials;
mod error;
mod interrupt;
mod link;
mod output;
mod project;
mod session;
mod settings;
mod terminal;
mod time;

use std::process::ExitCode;

fn main() -> ExitCode {
    // The shell's TAB key asks through the environment; such a call ends here.
    completion::answer();
    let args = match args::parse() {
        Ok(args) => args,
        Err(code) => return code,
    };
    let output = output::Output::new(&args.global);
    match run(args, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output.report(&error),
    }
}

fn run(args: args::Arguments, output: &output::Output) -> Result<(), error::Error> {
    // One user, one connection: a second thread would only cost start-up time.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    interrupt::exit_on_interrupt()?;
    let result = runtime.block_on(commands::run(args, output));
    // A name look-up that hangs in the resolver must not hold up the exit.
    runtime.shutdown_background();
    result
}
