//! What a process has started, as the node's `/proc` shows it.
//!
//! containerd signals only the process itself. The rest is signalled by a shell of the container, which knows processes by
//! the numbers that they have there.

use procfs::process::{Process, all_processes_with_root};
use std::path::Path;

/// Which processes are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// All of its session.
    Session,
    /// Those that it is with in the foreground of its terminal, or else its process group.
    Group,
}

/// One that runs, by its number in its own container.
pub(super) type Number = i32;

/// A process by its number on the node, and its container's first one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leader {
    pub(super) pid: u32,
    pub(super) first: u32,
}

/// Those that have not ended, without the leader itself. None where the node's `/proc` is not to be seen.
pub(super) fn others(proc: &Path, leader: Leader, which: Which) -> Vec<Number> {
    let (Ok(leader), Ok(first)) = (i32::try_from(leader.pid), i32::try_from(leader.first)) else {
        return vec![];
    };
    // A container may have containers of its own, in which processes have yet another number.
    let numbers = |process: &Process| process.status().ok()?.nspid;
    let first = Process::new_with_root(proc.join(first.to_string())).ok();
    let Some(depth) = first.as_ref().and_then(numbers).map(|numbers| numbers.len()) else { return vec![] };
    // The number of a session that is over may be another container's.
    let space = |pid: i32| std::fs::read_link(proc.join(pid.to_string()).join("ns/pid")).ok();
    let inside = first.as_ref().and_then(|process| space(process.pid));
    let own = Process::new_with_root(proc.join(leader.to_string())).and_then(|process| process.stat());
    let foreground = own.ok().map(|stat| stat.tpgid).filter(|group| *group > 0).unwrap_or(leader);
    let listed = all_processes_with_root(proc).into_iter().flatten().filter_map(Result::ok);
    let meant = listed.filter(|process| {
        process.stat().is_ok_and(|stat| {
            let belongs = stat.session == leader && (which == Which::Session || stat.pgrp == foreground);
            belongs && space(stat.pid) == inside && stat.pid != leader && !matches!(stat.state, 'Z' | 'X')
        })
    });
    meant.filter_map(|process| numbers(&process)?.get(depth.checked_sub(1)?).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufRead as _;
    use std::process::{Command, Stdio};

    #[test]
    fn what_a_process_has_started_is_found_and_nothing_else() {
        // A session as runc makes one: the first process leads it.
        let mut shell = Command::new("setsid")
            .args(["sh", "-c", "sleep 87 & setsid sleep 88 & echo $$ $!; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u32>().unwrap());
        let (leader, apart) = (numbers.next().unwrap(), numbers.next().unwrap());
        let (proc, leader) = (Path::new("/proc"), Leader { pid: leader, first: std::process::id() });
        let named = |number: i32| {
            let process = Process::new(number).unwrap();
            process.cmdline().unwrap().join(" ")
        };
        // The second one leaves the session a moment after it is started.
        let mut session = vec![];
        for _ in 0..200 {
            session = others(proc, leader, Which::Session);
            if session.len() == 1 && named(session[0]) == "sleep 87" {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let session: Vec<String> = session.into_iter().map(named).collect();
        let group: Vec<String> = others(proc, leader, Which::Group).into_iter().map(named).collect();
        let kill = |number: String| Command::new("kill").args(["-KILL", "--", &number]).status().unwrap();
        kill(format!("-{}", leader.pid));
        kill(apart.to_string());
        shell.wait().unwrap();
        assert_eq!(session, ["sleep 87"]);
        assert_eq!(group, ["sleep 87"]);
        assert!(others(Path::new("/nonexistent"), leader, Which::Session).is_empty());
    }
}
