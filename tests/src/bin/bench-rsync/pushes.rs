//! One push by each of the two, from the same state into the same, and what it cost.

use crate::far::Far;
use crate::guard::{Client, check};
use crate::network;
use crate::options::Options;
use crate::site::{Site, aggregator};
use anyhow::{Context as _, Result, ensure};
use skpr_tests::cli::program;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(600);
/// Where files go, in the container.
const PLACE: &str = "/data/place";

/// What one of the two took, as a median.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) bytes: f64,
    pub(crate) seconds: f64,
}

pub(crate) struct Compared {
    pub(crate) ours: Cost,
    pub(crate) theirs: Cost,
}

pub(crate) struct Bench<'a> {
    pub(crate) site: &'a Site,
    work: TempDir,
    pub(crate) interface: String,
    runs: usize,
    /// The ways of the two, where they are not the usual ones.
    far: Option<[Far; 2]>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Skpr,
    Rsync,
}

impl<'a> Bench<'a> {
    pub(crate) fn new(site: &'a Site, options: &Options) -> Result<Bench<'a>> {
        network::is_here("rsync")?;
        let interface = network::interface(site.sshd.address.ip())?;
        Ok(Bench { site, work: tempfile::tempdir()?, interface, runs: options.runs, far: None })
    }

    /// From now on both are that far away.
    pub(crate) fn move_away(&mut self, round_trip: Duration) -> Result<()> {
        let site = self.site;
        self.far =
            Some([Far::to(aggregator(&site.release)?, round_trip)?, Far::to(site.sshd.address, round_trip)?]);
        Ok(())
    }

    /// An empty directory of this machine.
    pub(crate) fn here(&self, name: &str) -> Result<PathBuf> {
        let path = self.work.path().join(name);
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// Keeps what is here as a state that the container can be in.
    pub(crate) fn keep(&self, from: &Path, name: &str) -> Result<()> {
        self.inside(&format!("rm -rf /data/{name} {PLACE}"))?;
        self.push(By::Rsync, from, &format!("/data/{name}"), &["-a"]).map(drop)
    }

    fn inside(&self, script: &str) -> Result<()> {
        let said = self.site.said(&["sh", "-c", &format!("{script} && echo done")])?;
        ensure!(said.ends_with("done\n"), "{script}: {said}");
        Ok(())
    }

    /// Both in turn; before each the container is in this state, or empty where it has no name.
    pub(crate) fn compare(&self, from: &Path, state: &str, flags: &[&str]) -> Result<Compared> {
        let mut costs: [Vec<(f64, f64)>; 2] = Default::default();
        for round in 0..self.runs {
            let mut turns = [(0, By::Skpr), (1, By::Rsync)];
            turns.rotate_left(round % 2);
            for (number, by) in turns {
                let before =
                    if state.is_empty() { "true".to_owned() } else { format!("cp -a /data/{state} {PLACE}") };
                self.inside(&format!("rm -rf {PLACE} && {before}"))?;
                let cost = self.push(by, from, PLACE, flags)?;
                costs.get_mut(number).context("one of two")?.push(cost);
                self.same(from)?;
            }
        }
        let of = |costs: &[(f64, f64)]| Cost {
            bytes: median(costs.iter().map(|(bytes, _)| *bytes).collect()),
            seconds: median(costs.iter().map(|(_, seconds)| *seconds).collect()),
        };
        let [ours, theirs] = costs.each_ref().map(|costs| of(costs));
        Ok(Compared { ours, theirs })
    }

    /// Bytes and seconds.
    fn push(&self, by: By, from: &Path, to: &str, flags: &[&str]) -> Result<(f64, f64)> {
        let mut command = self.command(by, from, to, flags)?;
        check()?;
        let (before, begun) = (network::passed(&self.interface)?, Instant::now());
        Client::start(&mut command, LIMIT)?.success()?;
        let seconds = begun.elapsed().as_secs_f64();
        Ok(((network::passed(&self.interface)? - before) as f64, seconds))
    }

    /// A push into the empty place that goes on beside something else.
    pub(crate) fn begin(&self, by: By, from: &Path, flags: &[&str]) -> Result<Client> {
        self.inside(&format!("rm -rf {PLACE}"))?;
        Client::start(&mut self.command(by, from, PLACE, flags)?, LIMIT)
    }

    fn command(&self, by: By, from: &Path, to: &str, flags: &[&str]) -> Result<Command> {
        let from = format!("{}/", from.display());
        let user = self.site.user(0)?;
        let mut command = match by {
            By::Skpr => {
                // What it always does is what rsync has `-z` and `-W` for.
                let own: Vec<&str> = flags.iter().copied().filter(|flag| *flag == "-S").collect();
                let to = format!("dev:{to}");
                let mut command =
                    user.other(program("skpr")?, &[&["rsync", "-a"], &own[..], &[&from, &to]].concat());
                if let Some([far, _]) = &self.far {
                    command.env("SKPR_CLUSTER", format!("localhost:{}", far.address.port()));
                }
                command
            }
            By::Rsync => {
                let address = self.far.as_ref().map_or(self.site.sshd.address, |[_, far]| far.address);
                let shell = self.site.sshd.client_by(address, user, "-T", &[]);
                let words = [shell.get_program()].into_iter().chain(shell.get_args());
                let words: Vec<&str> = words.filter_map(|word| word.to_str()).collect();
                let (host, shell) = words.split_last().context("ssh has a host")?;
                let to = format!("{host}:{to}");
                user.other("rsync", &[flags, &["-e", &shell.join(" "), &from, &to]].concat())
            }
        };
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Ok(command)
    }

    /// Whether what is there is what is here, by a hash of all names and contents.
    fn same(&self, from: &Path) -> Result<()> {
        const HASH: &str = "find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum";
        let here = Command::new("sh").args(["-c", HASH]).current_dir(from).output()?;
        let there = self.site.said(&["sh", "-c", &format!("cd {PLACE} && {HASH}")])?;
        ensure!(String::from_utf8(here.stdout)? == there, "what came is something else");
        Ok(())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
