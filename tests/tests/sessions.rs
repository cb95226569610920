//! Shells and programs in an instance, on one machine: with `skpr`, and with stock OpenSSH through `skpr ssh-proxy`.

use anyhow::{Context as _, Result, ensure};
use skpr_tests::cli::{Finished, Running, User, fed, program};
use skpr_tests::eventually;
use skpr_tests::fault::Link;
use skpr_tests::machine::Machine;
use skpr_tests::numbers::noise;
use skpr_tests::screen::Screen;
use skpr_tests::ssh::{HOST, Killed, Ssh};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn exec(user: &User, words: &[&str]) -> Result<Finished> {
    user.skpr(&[&["exec", "dev", "--"], words].concat())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether some process runs exactly these words.
fn runs(words: &str) -> bool {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let mut lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.any(|line| text(&line).trim_end_matches('\0').replace('\0', " ") == words)
}

#[test]
fn what_is_run_is_in_the_instance_and_ends_with_its_own_code() -> Result<()> {
    let machine = Machine::ready()?;
    let user = &machine.user;
    for code in [0, 1, 42, 127] {
        exec(user, &["sh", "-c", &format!("exit {code}")])?.exit(code)?;
    }
    exec(user, &["sh", "-c", "kill -TERM $$"])?.exit(143)?;
    let missing = exec(user, &["no-such-program"])?.exit(127)?;
    assert!(missing.stderr.contains("there is no program `no-such-program`"), "{}", missing.stderr);
    // A terminal there is none of ours: what is said to people has the ends of lines that files have.
    let missing = user.skpr(&["exec", "dev", "-t", "--", "no-such-program"])?.exit(127)?;
    assert!(missing.stderr.ends_with("there is no program `no-such-program`\n"), "{:?}", missing.stderr);
    let shell = fed(user.other(program("skpr")?, &["shell", "dev", "-t"]), b"stty size; exit 5\n".to_vec())?;
    assert_eq!(shell.status.code(), Some(5), "{}", text(&shell.stderr));
    assert!(text(&shell.stdout).contains("24 80\r\n"), "{}", text(&shell.stdout));
    // No shell reads the arguments.
    let apart = exec(user, &["printf", "%s|", "a b", "$HOME", "", "*"])?.success()?;
    assert_eq!((apart.stdout.as_str(), apart.stderr.as_str()), ("a b|$HOME||*|", ""));
    let long = "x".repeat(100_000);
    assert_eq!(exec(user, &["printf", "%s", &long])?.success()?.stdout, long);
    let longer = exec(user, &["true", &long, &long])?.exit(126)?;
    assert!(longer.stderr.contains("longer than what can be passed"), "{}", longer.stderr);
    let megabyte = [&*long; 10];
    let longest = exec(user, &[&["true"], &megabyte[..]].concat())?.exit(126)?;
    assert!(longest.stderr.contains("longer than what can be passed"), "{}", longest.stderr);
    let both = exec(user, &["sh", "-c", "echo out; echo err >&2"])?.success()?;
    assert_eq!((both.stdout.as_str(), both.stderr.as_str()), ("out\n", "err\n"));
    let place = exec(user, &["sh", "-c", "pwd; echo $SKPR_VERSION $SKPR_INSTANCE; cat /proc/self/cgroup"])?;
    let place = place.success()?.stdout;
    let mut lines = place.lines();
    assert!(lines.next().context("a directory")?.starts_with(&*machine.data().display().to_string()));
    assert_eq!(lines.next(), Some("good1 shop-dev-r1-0"));
    // Where cgroups may be made, it is in the instance's.
    let own = std::fs::read_to_string("/proc/self/cgroup")?;
    let made = place.contains("shop-dev-r1-0\n") && place.contains("/skpr-");
    assert!(made || lines.eq(own.lines()), "{place}");
    Ok(())
}

/// What is lost on the way is no success, whatever the program says of itself.
#[test]
fn what_cannot_be_read_or_written_here_is_said_and_is_255() -> Result<()> {
    let machine = Machine::ready()?;
    let skpr = |words: &[&str]| -> Result<std::process::Command> {
        Ok(machine.user.other(program("skpr")?, &[&["exec", "dev", "--"], words].concat()))
    };
    let full = std::fs::File::options().write(true).open("/dev/full")?;
    let done = skpr(&["echo", "hi"])?.stdin(Stdio::null()).stdout(full).stderr(Stdio::piped()).output()?;
    assert_eq!(done.status.code(), Some(255), "{}", text(&done.stderr));
    assert!(text(&done.stderr).contains("some of it is lost"), "{}", text(&done.stderr));
    let directory = std::fs::File::open(machine.user.home())?;
    let done = skpr(&["cat"])?.stdin(directory).output()?;
    assert_eq!(done.status.code(), Some(255), "{}", text(&done.stderr));
    assert!(text(&done.stderr).contains("cannot be read"), "{}", text(&done.stderr));
    // A reader that has seen enough is none of that.
    let mut seq = Killed(skpr(&["seq", "1000000"])?.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?);
    seq.0.stdout.take().context("stdout")?.read_exact(&mut [0; 2])?;
    assert_eq!(seq.0.wait()?.code(), Some(0));
    Ok(())
}

/// What a process that runs these words has written, if it runs.
fn has_written(words: &str) -> Result<Option<u64>> {
    for process in std::fs::read_dir("/proc")?.filter_map(Result::ok) {
        let Ok(line) = std::fs::read(process.path().join("cmdline")) else { continue };
        if text(&line).trim_end_matches('\0').replace('\0', " ") == words {
            let counts = std::fs::read_to_string(process.path().join("io"))?;
            let written = counts.lines().find_map(|line| line.strip_prefix("wchar: ")).context("wchar")?;
            return Ok(Some(written.parse()?));
        }
    }
    Ok(None)
}

#[test]
fn a_stdout_that_nobody_reads_holds_up_nothing_else_and_gets_all_in_the_end() -> Result<()> {
    let machine = Machine::ready()?;
    let heard = machine.user.home().join("heard");
    let line = format!("yes 78.5 & read line; echo $line >{}; kill $!; wait; exit 7", heard.display());
    let mut skpr = machine.user.other(program("skpr")?, &["exec", "dev", "--", "sh", "-c", &line]);
    let mut skpr = Killed(skpr.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
    let mut stdout = skpr.0.stdout.take().context("stdout")?;
    let mut all = vec![0; 2];
    stdout.read_exact(&mut all)?;
    let mut before = None;
    eventually("it can write no more", PATIENCE, || {
        let now = has_written("yes 78.5")?;
        Ok((now > Some(4 << 20) && std::mem::replace(&mut before, now) == now).then_some(()))
    })?;
    skpr.0.stdin.as_mut().context("stdin")?.write_all(b"go on\n")?;
    eventually("stdin goes on", PATIENCE, || {
        Ok(std::fs::read_to_string(&heard).ok().filter(|heard| heard == "go on\n").map(|_| ()))
    })?;
    assert!(skpr.0.try_wait()?.is_none(), "it ended before all was written");
    stdout.read_to_end(&mut all)?;
    ensure!(all.len() > 4 << 20, "{} bytes", all.len());
    ensure!(all.chunks(5).all(|line| b"78.5\n".starts_with(line)), "something was lost");
    assert_eq!(skpr.0.wait()?.code(), Some(7));
    Ok(())
}

#[test]
fn bytes_are_the_same_at_the_other_end_and_the_audit_says_who_did_what() -> Result<()> {
    let machine = Machine::ready()?;
    let bytes = noise(24 << 20);
    let back = fed(machine.user.other(program("skpr")?, &["exec", "dev", "--", "cat"]), bytes.clone())?;
    assert_eq!(back.status.code(), Some(0));
    ensure!(back.stdout == bytes, "{} bytes came back", back.stdout.len());
    eventually("the audit has it", PATIENCE, || {
        let said = machine.said().into_iter().filter(|line| line.contains(r#""audit":"Sessions.Open""#));
        let lines = said.filter_map(|line| serde_json::from_str::<serde_json::Value>(&line).ok());
        let moved = |line: &serde_json::Value| line.get("bytes").and_then(serde_json::Value::as_u64);
        let Some(line) = { lines }.find(|line| moved(line) > Some(2 * bytes.len() as u64)) else {
            return Ok(None);
        };
        for (key, value) in [
            ("user", "admin"),
            ("environment", "shop/dev"),
            ("instance", "shop-dev-r1-0"),
            ("purpose", "ssh"),
            ("exit", "0"),
            ("ended", "completed"),
        ] {
            ensure!(line.get(key).and_then(serde_json::Value::as_str) == Some(value), "{key}: {line}");
        }
        Ok(Some(()))
    })?;
    exec(&machine.user, &["sh", "-c", "exit 42"])?.exit(42)?;
    eventually("the events have it", PATIENCE, || {
        let told = machine.user.skpr(&["events", "dev"])?.success()?.stdout;
        let ended = told.lines().find(|line| line.contains("ended after") && line.contains("exit code 42"));
        let began =
            told.lines().any(|line| line.contains("session in instance `shop-dev-r1-0` began (by admin)"));
        Ok(ended.filter(|_| began).map(|_| ()))
    })
}

#[test]
fn stock_openssh_leads_to_the_instance_and_never_asks() -> Result<()> {
    let machine = Machine::ready()?;
    let ssh = Ssh::install(&machine.user)?;
    for code in [0, 1, 42, 127] {
        let done = ssh.run(&[], &[&format!("exit {code}")])?;
        assert_eq!(done.status.code(), Some(code), "{}", text(&done.stderr));
    }
    assert_eq!(ssh.run(&[], &["kill -KILL $$"])?.status.code(), Some(255));
    let said = ssh.run(&[], &["echo $SKPR_VERSION"])?;
    assert_eq!((text(&said.stdout), text(&said.stderr)), ("good1\n".to_owned(), String::new()));
    // The same bytes both ways.
    let bytes = noise(16 << 20);
    // Also with new keys every few megabytes (case 51).
    for options in [&["-T"][..], &["-T", "-o", "RekeyLimit=2M"]] {
        let back = fed(ssh.command(options, &["cat"]), bytes.clone())?;
        ensure!(back.stdout == bytes, "{options:?}: {} bytes came back", back.stdout.len());
    }
    // The old protocol of scp needs nothing but a program at the other end.
    let (near, far) = (machine.user.home().join("near"), format!("{HOST}:far"));
    std::fs::write(&near, &bytes)?;
    let config = ssh.config.display().to_string();
    let copied =
        machine.user.other("scp", &["-q", "-O", "-F", &config, "-B", &near.display().to_string(), &far]);
    ensure!({ copied }.stdin(Stdio::null()).status()?.success(), "scp -O");
    let back = ssh.run(&["-T"], &["cat far"])?;
    ensure!(back.stdout == bytes, "{} bytes were copied", back.stdout.len());
    // A second start has the same key, and nothing in ~/.ssh but one line.
    let included = std::fs::read_to_string(&ssh.config)?;
    Ssh::install(&machine.user)?;
    assert_eq!(std::fs::read_to_string(&ssh.config)?, included);
    let other = ssh.user.other(
        "ssh",
        &["-F", &ssh.config.display().to_string(), "-o", "BatchMode=yes", "nowhere.shop.skpr", "true"],
    );
    let refused = { other }.stdin(Stdio::null()).output()?;
    assert_eq!(refused.status.code(), Some(255));
    assert!(
        text(&refused.stderr).contains("there is no environment `shop/nowhere`"),
        "{}",
        text(&refused.stderr)
    );
    Ok(())
}

#[test]
fn instances_of_this_machine_run_as_one_user_whoever_is_asked_for() -> Result<()> {
    let machine = Machine::ready()?;
    let user = &machine.user;
    let ssh = Ssh::install(user)?;
    let own = exec(user, &["id", "-u"])?.success()?.stdout;
    let named = user.skpr(&["exec", "dev", "--user", own.trim(), "--", "id", "-u"])?.success()?;
    assert_eq!(named.stdout, own);
    assert_eq!(text(&ssh.run(&[], &["id -u"])?.stdout), own);
    assert_eq!(text(&ssh.run(&["-l", own.trim()], &["id -u"])?.stdout), own);
    let refused = user.skpr(&["exec", "dev", "--user", "no-such-user", "--", "id"])?.exit(126)?;
    assert!(refused.stderr.contains("nothing in them as `no-such-user`"), "{}", refused.stderr);
    let refused = ssh.run(&["-l", "4242:4242"], &["id"])?;
    assert!(text(&refused.stderr).contains("nothing in them as `4242:4242`"), "{}", text(&refused.stderr));
    assert_eq!((refused.status.code(), text(&refused.stdout)), (Some(126), String::new()));
    Ok(())
}

/// Cases 33 and 34 through the whole path.
#[test]
fn of_eight_sessions_of_one_ssh_one_that_reads_nothing_stops_none() -> Result<()> {
    let machine = Machine::ready()?;
    let ssh = Ssh::install(&machine.user)?;
    let control = format!("ControlPath={}", machine.user.home().join("control").display());
    let _master = Killed(ssh.command(&["-N", "-M", "-o", &control], &[]).spawn()?);
    eventually("the connection is open", PATIENCE, || {
        Ok(machine.user.home().join("control").exists().then_some(()))
    })?;
    let zeros = std::fs::File::open("/dev/zero")?;
    let _deaf = Killed(ssh.command(&["-o", &control], &["sleep 71.5"]).stdin(zeros).spawn()?);
    let mut mute = Killed(ssh.command(&["-o", &control], &["yes"]).stdout(Stdio::piped()).spawn()?);
    mute.0.stdout.as_mut().context("stdout")?.read_exact(&mut [0; 2])?;
    let mut others: Vec<Killed> = vec![];
    for number in 0..6 {
        let line = format!("read line; echo {number} $line");
        let mut other = ssh.command(&["-o", &control], &[&line]);
        others.push(Killed(other.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?));
    }
    for (number, other) in others.iter_mut().enumerate() {
        let begun = Instant::now();
        other.0.stdin.take().context("stdin")?.write_all(b"hello\n")?;
        let mut said = String::new();
        other.0.stdout.take().context("stdout")?.read_to_string(&mut said)?;
        assert_eq!(said, format!("{number} hello\n"));
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
    Ok(())
}

#[test]
fn a_shell_in_a_terminal_has_its_size_and_its_keys() -> Result<()> {
    let machine = Machine::ready()?;
    let mut screen = Screen::of(&machine.user)?;
    screen.until("instance shop-dev-r1-0")?;
    screen.keys(b"echo size $(stty size)\r")?;
    screen.until("size 33 101")?;
    screen.keys(b"sleep 72.5\r")?;
    eventually("it sleeps", PATIENCE, || Ok(runs("sleep 72.5").then_some(())))?;
    screen.keys(&[3])?;
    eventually("Ctrl-C has ended it", PATIENCE, || Ok((!runs("sleep 72.5")).then_some(())))?;
    screen.keys(b"echo the shell is $((40 + 2)); exit 7\r")?;
    let shown = screen.until("the shell is 42")?;
    assert!(!shown.contains("recorded"), "{shown}");
    assert_eq!(screen.ends()?, Some(7));
    Ok(())
}

#[test]
fn a_recorded_terminal_shows_again_what_it_showed_and_nothing_that_was_typed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let recordings = folder.path().join("casts");
    let machine = Machine::ready_with(&["--record".as_ref(), &recordings])?;
    let mut screen = Screen::of(&machine.user)?;
    let begin = screen.until("this session is recorded")?;
    assert!(!begin.contains(['$', '#']), "something came before: {begin}");
    screen.keys(b"echo size $(stty size)\r")?;
    screen.until("size 33 101")?;
    screen.resize("40", "90")?;
    let until = b"until [ \"$(stty size)\" = '40 90' ]; do sleep 0.1; done; echo re$((1 + 1))sized\r";
    screen.keys(until)?;
    screen.until("re2sized")?;
    screen.keys(b"stty -echo; echo go$((1 + 1)); read secret; stty echo; echo ${#secret} letters\r")?;
    screen.until("go2")?;
    screen.keys(b"correct-horse\r")?;
    screen.until("13 letters")?;
    screen.keys(b"printf 'caf\\303'; sleep 0.6; printf '\\251 \\377.\\n'; exit 7\r")?;
    screen.until("caf\u{e9} ")?;
    assert_eq!(screen.ends()?, Some(7));

    let kept = recordings.join("shop/dev");
    let all =
        || -> Result<Vec<std::fs::DirEntry>> { Ok(std::fs::read_dir(&kept)?.collect::<Result<_, _>>()?) };
    // What had no terminal, such as the program that found the instance ready, left none.
    let [file] = all()?.try_into().ok().context("one recording")?;
    assert_eq!(file.metadata()?.permissions().mode() & 0o777, 0o600);
    let mut cast = String::new();
    eventually("it is written to its end", PATIENCE, || {
        cast = std::fs::read_to_string(file.path())?;
        Ok(cast.contains("\u{e9} \u{fffd}").then_some(()))
    })?;
    let mut lines = cast.lines().map(serde_json::from_str::<serde_json::Value>);
    let header = lines.next().context("a header")??;
    for (key, value) in [("version", 2), ("width", 101), ("height", 33)] {
        assert_eq!(header.get(key).and_then(serde_json::Value::as_u64), Some(value), "{header}");
    }
    assert_eq!(header.get("title").and_then(|title| title.as_str()), Some("shop/dev shop-dev-r1-0"));
    let env = header.get("env").context("variables")?;
    assert_eq!(env.get("TERM").and_then(|term| term.as_str()), Some("xterm"));
    assert!(env.get("SHELL").and_then(|shell| shell.as_str()).is_some_and(|shell| shell.ends_with("sh")));
    let (mut shown, mut sizes, mut last) = (String::new(), vec![], 0.0);
    for line in lines {
        let (at, code, data): (f64, String, String) = serde_json::from_value(line?)?;
        assert!(at >= last, "{at} {code} {data}");
        last = at;
        match code.as_str() {
            "o" => shown.push_str(&data),
            "r" => sizes.push(data),
            _ => panic!("{code} {data}"),
        }
    }
    // `stty` sets one side after the other.
    assert_eq!(sizes.last().map(String::as_str), Some("90x40"), "{sizes:?}");
    for wanted in ["size 33 101", "go2", "13 letters", "caf\u{e9} \u{fffd}.\r\n"] {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
    assert!(!cast.contains("horse"), "{cast}");
    // Whose it is, the audit says.
    let name = file.file_name().into_string().ok().context("a name")?;
    let session = name.trim_end_matches(".cast").rsplit('-').next().context("a session")?;
    eventually("the audit has it", PATIENCE, || {
        let wanted = [&*format!(r#""session":"{session}""#), r#""user":"admin""#];
        Ok(machine.said().iter().any(|line| wanted.iter().all(|part| line.contains(part))).then_some(()))
    })?;
    // A shell of stock ssh is recorded, too, and a program without a terminal is not.
    let ssh = Ssh::install(&machine.user)?;
    assert_eq!(text(&ssh.run(&["-T"], &["echo here"])?.stderr), "");
    let told = ssh.run(&["-tt"], &["echo here"])?;
    assert!(text(&told.stderr).starts_with("skpr: this session is recorded"), "{}", text(&told.stderr));
    eventually("it is recorded", PATIENCE, || Ok((all()?.len() == 2).then_some(())))
}

/// A script starts what it puts into the background so, and `nohup` does.
#[test]
fn what_the_aggregator_was_told_to_ignore_sessions_do_not() -> Result<()> {
    let (mut machine, aggregator) = (Machine::new()?, program("skpr-aggregator")?);
    machine.start_by(|system, all| {
        let ignoring = "trap '' HUP INT QUIT TSTP USR1; exec \"$0\" \"$@\"";
        let words: Vec<&Path> = [Path::new("-c"), ignoring.as_ref(), &aggregator]
            .into_iter()
            .chain(all.iter().copied())
            .collect();
        let mut shell = system.other("sh", &words);
        shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running::start(shell)
    })?;
    eventually("the instance is ready", PATIENCE, || {
        machine.user.skpr(&["exec", "dev", "--", "true"])?.success().map(Some)
    })?;
    let status = exec(&machine.user, &["grep", "SigIgn", "/proc/self/status"])?.success()?.stdout;
    let ignored = u64::from_str_radix(status.trim_start_matches("SigIgn:").trim(), 16)?;
    // The two that the C library keeps for itself nobody can change.
    assert_eq!(ignored & !(0b11 << 31), 0, "{status}");
    machine.end("INT")
}

#[test]
fn who_has_not_the_right_is_told_the_same_as_of_what_is_not_there() -> Result<()> {
    let machine = Machine::ready()?;
    let data = machine.data().display().to_string();
    let made = machine
        .user
        .other(program("skpr-aggregator")?, &["token", "create", "--data", &data, "reader", "other/*:exec"]);
    let token = text(&{ made }.output()?.stdout);
    let reader = User::new()?
        .with("SKPR_CLUSTER", machine.address()?.to_string())
        .with("SKPR_CA", machine.data().join("ca.crt").display().to_string())
        .with("SKPR_TOKEN", token.trim())
        .with("SKPR_PROJECT", "shop");
    let told = |environment: &str| -> Result<String> {
        let refused = reader.skpr(&["exec", environment, "--", "true"])?.exit(4)?;
        ensure!(refused.stdout.is_empty());
        Ok(refused.stderr.replace(environment, "it"))
    };
    assert_eq!(told("dev")?, told("nowhere")?);
    let missing = machine.user.skpr(&["exec", "dev", "--instance", "nobody", "--", "true"])?.exit(3)?;
    assert!(missing.stderr.contains("has no instance `nobody`"), "{}", missing.stderr);
    Ok(())
}

#[test]
fn a_broken_connection_is_said_within_twenty_seconds_and_is_255() -> Result<()> {
    let mut machine = Machine::ready()?;
    let link = Link::to(machine.address()?)?;
    let far = User::new()?
        .with("SKPR_CLUSTER", link.address().to_string())
        .with("SKPR_CA", machine.data().join("ca.crt").display().to_string())
        .with("SKPR_TOKEN", std::fs::read_to_string(machine.data().join("admin.token"))?.trim())
        .with("SKPR_PROJECT", "shop");
    // Cut, it is seen at once; and the process goes.
    let session = far.start("skpr", &["exec", "dev", "--", "sleep", "73.5"])?;
    eventually("it runs", PATIENCE, || Ok(runs("sleep 73.5").then_some(())))?;
    let begun = Instant::now();
    link.cut();
    let ended = session.wait(PATIENCE)?.exit(255)?;
    assert!(ended.stderr.contains("was lost"), "{}", ended.stderr);
    eventually("the process is gone", PATIENCE, || Ok((!runs("sleep 73.5")).then_some(())))?;
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    link.heal();
    // A network that passes nothing any more says nothing either.
    let session = far.start("skpr", &["exec", "dev", "--", "sleep", "74.5"])?;
    eventually("it runs", PATIENCE, || Ok(runs("sleep 74.5").then_some(())))?;
    let begun = Instant::now();
    link.stall();
    session.wait(PATIENCE)?.exit(255)?;
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    link.cut();
    // With the aggregator, which is the agent here, everything ends that it has started.
    let session = machine.user.start("skpr", &["exec", "dev", "--", "sleep", "75.5"])?;
    eventually("it runs", PATIENCE, || Ok(runs("sleep 75.5").then_some(())))?;
    machine.end("KILL")?;
    session.wait(PATIENCE)?.exit(255)?;
    eventually("nothing is left", PATIENCE, || Ok((!runs("sleep 75.5")).then_some(())))
}

#[test]
fn a_client_that_is_killed_leaves_nothing_and_a_deploy_ends_its_sessions() -> Result<()> {
    let machine = Machine::ready()?;
    let ssh = Ssh::install(&machine.user)?;
    for options in [&["-T"][..], &["-tt"]] {
        let client = Killed(ssh.command(options, &["sleep 76.5"]).stdout(Stdio::null()).spawn()?);
        eventually("it runs", PATIENCE, || Ok(runs("sleep 76.5").then_some(())))?;
        let begun = Instant::now();
        drop(client);
        eventually("it is gone", PATIENCE, || Ok((!runs("sleep 76.5")).then_some(())))?;
        assert!(begun.elapsed() < Duration::from_secs(15), "{options:?}: {:?}", begun.elapsed());
    }
    let session = machine.user.start("skpr", &["exec", "dev", "--", "sleep", "77.5"])?;
    eventually("it runs", PATIENCE, || Ok(runs("sleep 77.5").then_some(())))?;
    machine.user.skpr(&["deploy", "dev", "good2"])?.success()?;
    let ended = session.wait(PATIENCE)?;
    ensure!(ended.status.code() != Some(0), "{}", ended.stderr);
    let after = exec(&machine.user, &["sh", "-c", "echo $SKPR_VERSION"])?.success()?;
    assert_eq!(after.stdout, "good2\n");
    Ok(())
}
