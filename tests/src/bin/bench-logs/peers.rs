//! Other tailers on the same input in the same run.

use crate::measure::{cpu_seconds, wait_until};
use anyhow::Context as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A child process that ends with its owner.
pub(crate) struct Running(pub Child);

impl Running {
    /// Asks it to end, and waits until it has.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("ask a process to end")?;
        self.0.wait().context("wait for a process")?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.kill().is_ok() {
            self.0.wait().ok();
        }
    }
}

/// MB of raw log per CPU-second of rsyslog's imfile, from the same files into one file; `None` when it is not installed.
pub(crate) fn rsyslog(work: &Path, logs: &Path, lines: u64, bytes: u64) -> anyhow::Result<Option<f64>> {
    let state = work.join("rsyslog");
    std::fs::create_dir_all(&state)?;
    let output = state.join("out.log");
    let configuration = state.join("rsyslog.conf");
    std::fs::write(
        &configuration,
        format!(
            r#"global(workDirectory="{state}")
module(load="imfile" mode="inotify")
template(name="raw" type="string" string="%msg%\n")
input(type="imfile" File="{logs}/*/app/0.log" Tag="bench" reopenOnTruncate="on")
main_queue(queue.size="100000")
action(type="omfile" file="{output}" template="raw" ioBufferSize="256k" flushOnTXEnd="off")
"#,
            state = state.display(),
            logs = logs.display(),
            output = output.display(),
        ),
    )?;
    let started = Command::new("rsyslogd")
        .arg("-n")
        .args(["-f".as_ref(), configuration.as_os_str()])
        .args(["-i".as_ref(), state.join("pid").as_os_str()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let process = match started {
        Ok(child) => Running(child),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context("start rsyslogd"),
    };
    let pid = process.0.id();
    // What it keeps in its buffer at the end is less than a thousandth of the input.
    let enough = bytes - bytes / 500;
    wait_until("rsyslog reads the input", Duration::from_secs(300), || {
        Ok(std::fs::metadata(&output).map(|file| file.len() >= enough).unwrap_or(false))
    })
    .with_context(|| format!("{lines} lines"))?;
    Ok(Some(bytes as f64 / 1e6 / cpu_seconds(pid)?))
}
