//! From a log file on a (fake) node to `skpr logs`, with the programs as they are installed.

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use skpr_tests::cli::{Finished, Running, User};
use skpr_tests::eventually;
use skpr_tests::fault::Link;
use skpr_tests::inventory::{CONTAINER, NAMESPACE, PROJECT};
use skpr_tests::node::{ContainerLog, Stream};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// A fake node, the aggregator and the agent, joined by a link that can fail.
struct Spine {
    work: TempDir,
    link: Link,
    aggregator: Option<Running>,
    agent: Option<Running>,
    system: User,
}

impl Spine {
    fn start() -> Result<Spine> {
        let work = tempfile::tempdir()?;
        std::fs::create_dir_all(work.path().join("pods"))?;
        let nowhere = "127.0.0.1:1".parse()?;
        let mut spine =
            Spine { work, link: Link::to(nowhere)?, aggregator: None, agent: None, system: User::new()? };
        spine.start_aggregator()?;
        spine.start_agent()?;
        Ok(spine)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    fn start_aggregator(&mut self) -> Result<()> {
        let (logs, data) = (self.path("pods"), self.path("data"));
        let arguments: [&Path; 11] = [
            &logs,
            "standalone".as_ref(),
            "--listen".as_ref(),
            "127.0.0.1:0".as_ref(),
            "--config".as_ref(),
            "/dev/null".as_ref(),
            "--keep".as_ref(),
            "400d".as_ref(),
            "--data".as_ref(),
            &data,
            "--log-format=text".as_ref(),
        ];
        let running = self.system.start("fixture-aggregator", &arguments)?;
        let line = running.line(PATIENCE, |line| line.starts_with("address: "))?;
        running.line(PATIENCE, |line| line.starts_with("token: "))?;
        self.link.retarget(line.trim_start_matches("address: ").parse()?);
        self.aggregator = Some(running);
        Ok(())
    }

    fn start_agent(&mut self) -> Result<()> {
        let (logs, ca, token, state) =
            (self.path("pods"), self.path("data/ca.crt"), self.path("data/agent.token"), self.path("agent"));
        let address = self.link.address().to_string();
        let arguments: [&Path; 12] = [
            "--node".as_ref(),
            "local".as_ref(),
            "--aggregator".as_ref(),
            address.as_ref(),
            "--ca".as_ref(),
            &ca,
            "--token".as_ref(),
            &token,
            "--logs".as_ref(),
            &logs,
            "--state".as_ref(),
            &state,
        ];
        std::fs::create_dir_all(&state)?;
        self.agent = Some(self.system.start("skpr-agent", &arguments)?);
        Ok(())
    }

    /// A power cut for one program.
    fn kill(running: Option<Running>) -> Result<()> {
        running.context("it runs")?.end("KILL", PATIENCE).map(drop)
    }

    fn pod(&self, number: u32, name: &str, start: Timestamp) -> Result<ContainerLog> {
        let uid = format!("00000000-0000-0000-0000-{number:012}");
        ContainerLog::create(&self.path("pods"), NAMESPACE, name, &uid, CONTAINER, start)
    }

    /// A user with the administrator's token, or another one.
    fn user(&self, token: Option<&str>) -> Result<User> {
        let token = match token {
            Some(token) => token.to_owned(),
            None => std::fs::read_to_string(self.path("data/admin.token"))?.trim().to_owned(),
        };
        Ok(User::new()?
            .with("SKPR_CLUSTER", self.link.address().to_string())
            .with("SKPR_CA", self.path("data/ca.crt").display().to_string())
            .with("SKPR_TOKEN", token)
            .with("SKPR_PROJECT", PROJECT))
    }
}

/// The messages of `-o json` by instance, in the order printed.
fn by_instance<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<BTreeMap<String, Vec<String>>> {
    let mut instances = BTreeMap::<String, Vec<String>>::new();
    for line in lines {
        let record: serde_json::Value =
            serde_json::from_str(line).with_context(|| format!("parse `{line}`"))?;
        let text = |name: &str| record.get(name).and_then(|value| value.as_str()).map(str::to_owned);
        let instance = text("instance").context("an instance")?;
        instances.entry(instance).or_default().push(text("message").context("a message")?);
    }
    Ok(instances)
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("line {number}")).collect()
}

fn logs(user: &User, arguments: &[&str]) -> Result<Finished> {
    let mut all = vec!["logs", "prod", "-q", "-o", "json"];
    all.extend(arguments);
    user.skpr(&all)?.success()
}

#[test]
fn each_line_comes_out_once_through_kills_cuts_and_rotations() -> Result<()> {
    const LINES: usize = 12_000;
    const TURN: usize = 500;
    let mut spine = Spine::start()?;
    let start = Timestamp::now() - SignedDuration::from_mins(50);
    let mut pods = vec![];
    for number in 0..3 {
        pods.push(spine.pod(number, &format!("prod-{number}"), start)?);
    }
    for turn in 0..LINES / TURN {
        for pod in &mut pods {
            for number in turn * TURN..(turn + 1) * TURN {
                let stream = if number % 5 == 0 { Stream::Stderr } else { Stream::Stdout };
                pod.line(stream, format!("line {number}").as_bytes())?;
            }
        }
        match turn {
            3 | 9 | 17 => {
                Spine::kill(spine.agent.take())?;
                spine.start_agent()?;
            }
            5 | 11 | 19 => {
                Spine::kill(spine.aggregator.take())?;
                spine.start_aggregator()?;
            }
            7 => spine.link.cut(),
            8 => spine.link.heal(),
            13 => spine.link.reset(),
            2 | 6 | 15 | 21 => {
                for pod in &mut pods {
                    pod.rotate()?;
                }
            }
            _ => {}
        }
    }
    let user = spine.user(None)?;
    let expected = numbered(LINES);
    let read = || by_instance(logs(&user, &["--since", "2h"])?.stdout.lines());
    eventually("every line is stored", PATIENCE, || {
        let total: usize = read()?.values().map(Vec::len).sum();
        ensure!(total >= 3 * LINES, "{total} of {} lines so far", 3 * LINES);
        Ok(Some(()))
    })?;
    // A line more in each file, stored after anything that may still have been sent twice.
    for pod in &mut pods {
        pod.line(Stream::Stdout, b"the end")?;
    }
    let mut found = eventually("the last line of each is stored", PATIENCE, || {
        let found = read()?;
        let ended = |lines: &Vec<String>| lines.last().is_some_and(|line| line == "the end");
        Ok((found.len() == 3 && found.values().all(ended)).then_some(found))
    })?;
    for lines in found.values_mut() {
        lines.pop();
    }
    for number in 0..3 {
        let lines = found.get(&format!("prod-{number}")).context("the instance's lines")?;
        let wrong = lines.iter().zip(&expected).position(|(found, wanted)| found != wanted);
        ensure!(
            wrong.is_none() && lines.len() == LINES,
            "prod-{number}: {} lines, wrong at {wrong:?}",
            lines.len()
        );
    }
    Ok(())
}

#[test]
fn following_survives_an_aggregator_restart_and_sees_new_pods() -> Result<()> {
    const LINES: usize = 300;
    let mut spine = Spine::start()?;
    let mut first = spine.pod(0, "prod-0", Timestamp::now())?;
    first.line(Stream::Stdout, b"line 0")?;
    let user = spine.user(None)?;
    eventually("the first line is stored", PATIENCE, || {
        Ok(logs(&user, &["--since", "1h"])?.stdout.contains("line 0").then_some(()))
    })?;
    let follower = user.start("skpr", &["logs", "prod", "-f", "-q", "-o", "json", "--since", "1h"])?;
    follower.line(PATIENCE, |line| line.contains("line 0"))?;
    for number in 1..LINES {
        if number == LINES / 3 {
            Spine::kill(spine.aggregator.take())?;
            spine.start_aggregator()?;
        }
        first.line(Stream::Stdout, format!("line {number}").as_bytes())?;
    }
    let mut second = spine.pod(1, "prod-1", Timestamp::now())?;
    for number in 0..LINES {
        second.line(Stream::Stdout, format!("line {number}").as_bytes())?;
    }
    first.delete()?;
    let found = follower.until(PATIENCE, |lines| {
        (lines.len() >= 2 * LINES).then(|| by_instance(lines.iter().map(String::as_str)))
    })??;
    assert_eq!(found.get("prod-0"), Some(&numbered(LINES)));
    assert_eq!(found.get("prod-1"), Some(&numbered(LINES)));
    follower.end("INT", PATIENCE)?.exit(130)?;
    Ok(())
}

/// Lines a minute apart, each saying its time, over a whole day around `middle`.
fn minutes_around(spine: &Spine, number: u32, middle: Timestamp) -> Result<()> {
    let mut pod = spine.pod(number, &format!("prod-{number}"), middle)?;
    for minute in -720..720 {
        let time = middle + SignedDuration::from_mins(minute);
        pod.raw(format!("{time:.9} stdout F at {time}\n").as_bytes())?;
    }
    Ok(())
}

#[test]
fn a_window_is_exact_across_midnight_and_clock_changes() -> Result<()> {
    let spine = Spine::start()?;
    // Sydney: clocks go forward on 2026-10-04 (02:00 → 03:00) and went back on 2026-04-05 (03:00 → 02:00).
    let forward: Timestamp = "2026-10-03T16:00:00Z".parse()?;
    let back: Timestamp = "2026-04-04T16:00:00Z".parse()?;
    minutes_around(&spine, 1, forward)?;
    minutes_around(&spine, 2, back)?;
    let user = spine.user(None)?;
    let window = |since: &str, until: &str| -> Result<(usize, String, String)> {
        let output = logs(&user, &["--since", since, "--until", until, "--timezone", "Australia/Sydney"])?;
        let found = by_instance(output.stdout.lines())?;
        let messages: Vec<String> = found.into_values().flatten().collect();
        let first = messages.first().cloned().unwrap_or_default();
        Ok((messages.len(), first, messages.last().cloned().unwrap_or_default()))
    };
    eventually("everything is stored", PATIENCE, || {
        let all = logs(&user, &["--since", "2026-01-01"])?.stdout.lines().count();
        ensure!(all == 2 * 1440, "{all} lines");
        Ok(Some(()))
    })?;
    let at = |text: &str| format!("at {text}");
    // Ten minutes, until exclusive.
    let (count, first, last) = window("2026-10-03 23:55", "2026-10-04 00:05")?;
    assert_eq!((count, first, last), (10, at("2026-10-03T13:55:00Z"), at("2026-10-03T14:04:00Z")));
    // The hour that does not exist: 01:55 to 03:05 is ten minutes.
    assert_eq!(window("2026-10-04 01:55", "2026-10-04 03:05")?.0, 10);
    // The hour that exists twice: 02:00 to 03:00 is two hours.
    let (count, first, last) = window("2026-04-05 02:00", "2026-04-05 03:00")?;
    assert_eq!((count, first, last), (120, at("2026-04-04T15:00:00Z"), at("2026-04-04T16:59:00Z")));
    Ok(())
}

#[test]
fn yesterdays_ten_minutes_are_exactly_those() -> Result<()> {
    let spine = Spine::start()?;
    let zone = jiff::tz::TimeZone::get("Australia/Sydney")?;
    let today = || Timestamp::now().to_zoned(zone.clone()).date();
    let day = today();
    let middle = day.yesterday()?.at(15, 45, 0, 0).to_zoned(zone.clone())?.timestamp();
    minutes_around(&spine, 1, middle)?;
    let user = spine.user(None)?;
    let arguments =
        ["--since", "yesterday 15:40", "--until", "yesterday 15:50", "--timezone", "Australia/Sydney"];
    let found = eventually("the window is stored", PATIENCE, || {
        let output = logs(&user, &arguments)?;
        Ok((today() != day || output.stdout.lines().count() >= 10).then_some(output.stdout))
    })?;
    if today() != day {
        // Midnight came in between, and yesterday is another day: what was written is not what was asked for.
        return Ok(());
    }
    let messages = by_instance(found.lines())?.remove("prod-1").context("the instance's lines")?;
    let wanted: Vec<String> =
        (-5..5).map(|minute| format!("at {}", middle + SignedDuration::from_mins(minute))).collect();
    assert_eq!(messages, wanted);
    Ok(())
}

#[test]
fn a_user_sees_what_the_rights_say_and_nothing_else() -> Result<()> {
    let spine = Spine::start()?;
    let now = Timestamp::now();
    spine.pod(1, "prod-1", now)?.line(Stream::Stdout, b"for production")?;
    spine.pod(2, "dev-1", now)?.line(Stream::Stdout, b"for development")?;
    let data = spine.path("data").display().to_string();
    let made = spine
        .system
        .start("skpr-aggregator", &["token", "create", "--data", &data, "dana", "site/dev:list+logs"])?;
    let token = made.line(PATIENCE, |line| !line.is_empty())?;
    let token = token.rsplit(' ').next().context("a token")?.to_owned();
    let (admin, dana, nobody) = (spine.user(None)?, spine.user(Some(&token))?, spine.user(Some("wrong"))?);
    eventually("both environments are listed", PATIENCE, || {
        let list = admin.skpr(&["list", "-o", "name"])?.success()?.stdout;
        Ok((list.lines().count() == 2).then_some(()))
    })?;
    assert_eq!(dana.skpr(&["list", "-o", "name"])?.success()?.stdout.trim(), "site/dev");
    eventually("the line is stored", PATIENCE, || {
        let output = dana.skpr(&["logs", "dev", "-q", "--since", "1h"])?.success()?;
        Ok(output.stdout.contains("for development").then_some(()))
    })?;
    let refused = dana.skpr(&["logs", "prod", "-q"])?.exit(4)?;
    let unknown = dana.skpr(&["logs", "nothing-there", "-q"])?.exit(4)?;
    assert_eq!(refused.stderr.replace("site/prod", "X"), unknown.stderr.replace("site/nothing-there", "X"));
    assert!(!refused.stdout.contains("production"), "{refused:?}");
    let stranger = nobody.skpr(&["list"])?.exit(4)?;
    assert!(stranger.stderr.contains("hint: "), "{stranger:?}");
    Ok(())
}
