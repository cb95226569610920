//! `skpr-aggregator run-instance`: what an instance's process does before it becomes the site's program, and what a process
//! of a session does before it becomes what its user asked for.
//!
//! A step between fork and exec would need unsafe code; a program of our own that execs does not.

use rustix::process::{
    Resource, Rlimit, Signal, getppid, getrlimit, ioctl_tiocsctty, set_parent_process_death_signal,
    setrlimit, setsid,
};
use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// The soft limit of open files that a login gives.
const USUAL_FILES: u64 = 1024;

/// The umask that a login gives.
const USUAL_UMASK: u32 = 0o022;

/// Starts the program of an instance; used by standalone only.
#[derive(Debug, clap::Args)]
pub struct RunInstance {
    /// The process that must still be our parent.
    #[arg(long)]
    parent: i32,
    /// A `cgroup.procs` to join.
    #[arg(long)]
    cgroup: Vec<PathBuf>,
    /// Lead a session of its own: it is run for a user and not for the site.
    #[arg(long)]
    session: bool,
    /// Take the terminal that stdin is.
    #[arg(long, requires = "session")]
    terminal: bool,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// What a shell exits with that cannot run a program which is there.
const NOT_RUNNABLE: u8 = 126;

/// Becomes the program. Returns only when that failed, with the reason: print it and exit. To the user of a session it is
/// said here, in the words that the session has for the rest.
pub fn run_instance(args: RunInstance) -> anyhow::Result<ExitCode> {
    let session = args.session;
    match become_it(args) {
        Ok(never) => match never {},
        Err(error) if session => {
            writeln!(std::io::stderr(), "skpr: {error:#}")?;
            Ok(ExitCode::from(NOT_RUNNABLE))
        }
        Err(error) => Err(error),
    }
}

fn become_it(args: RunInstance) -> anyhow::Result<std::convert::Infallible> {
    use anyhow::Context as _;
    set_parent_process_death_signal(Some(Signal::KILL)).context("ask to end with the aggregator")?;
    // The parent may have died before it was asked for.
    let parent = getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    anyhow::ensure!(parent == args.parent, "the aggregator has ended");
    if args.session {
        setsid().context("begin a session")?;
    }
    if args.terminal {
        ioctl_tiocsctty(std::io::stdin()).context("take the terminal")?;
    }
    for entrance in &args.cgroup {
        // A hierarchy that refuses is one that ends or measures less; the site runs all the same.
        drop(std::fs::write(entrance, "0"));
    }
    // What is right for records is not what a site expects of its own files.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(USUAL_UMASK));
    // What the agent needs is not what a site expects: programs that use `select` break past this.
    let files = getrlimit(Resource::Nofile);
    let usual = Some(files.maximum.map_or(USUAL_FILES, |maximum| maximum.min(USUAL_FILES)));
    setrlimit(Resource::Nofile, Rlimit { current: usual, maximum: files.maximum })
        .context("limit open files")?;
    let (program, arguments) = args.command.split_first().context("no program given")?;
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("run `{}`", program.display()))
}
