//! Seeded log text: web server, PHP, JSON and Kubernetes lines in the proportions of a hosted site, with a random id in
//! every line so that compression has something to do.

use std::io::{self, Write as _};

/// xorshift64*: small, seeded and the same everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices.get(self.below(choices.len() as u64) as usize).copied().unwrap_or_default()
    }
}

const PATHS: [&str; 12] = [
    "/",
    "/about",
    "/news",
    "/news/archive",
    "/contact",
    "/search",
    "/user/login",
    "/sites/default/files/styles/large",
    "/api/v1/weather",
    "/core/misc/drupal.js",
    "/robots.txt",
    "/node",
];
const AGENTS: [&str; 5] = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 Version/17.5 Mobile Safari/604.1",
    "curl/8.5.0",
    "Googlebot/2.1 (+http://www.google.com/bot.html)",
];

/// Appends one message without newline; true when it belongs to stderr.
pub(crate) fn message(random: &mut Random, out: &mut Vec<u8>) -> io::Result<bool> {
    let id = random.next();
    match random.below(100) {
        0..=59 => {
            let path = random.pick(&PATHS);
            let agent = random.pick(&AGENTS);
            let (a, b, c) = (random.below(256), random.below(256), random.below(256));
            let status = ["200", "200", "200", "200", "304", "301", "404", "503"];
            let status = random.pick(&status);
            let size = random.below(60_000);
            write!(
                out,
                "10.{a}.{b}.{c} - - \"GET {path}/{} HTTP/1.1\" {status} {size} \"-\" \"{agent}\" rid={id:016x}",
                id % 9973
            )?;
            Ok(false)
        }
        60..=79 => {
            let module = random.pick(&["user", "node", "views", "cron", "cache", "system"]);
            let level = random.pick(&["Notice", "Warning", "Notice", "Fatal error"]);
            write!(
                out,
                "PHP {level}:  Undefined index: field_{} in /data/app/modules/{module}/{module}.module on line {} [{id:016x}]",
                id % 97,
                id % 2003
            )?;
            Ok(true)
        }
        80..=92 => {
            let level = random.pick(&["info", "info", "warn", "error"]);
            write!(
                out,
                "{{\"level\":\"{level}\",\"logger\":\"queue.worker\",\"trace\":\"{id:016x}\",\"duration_ms\":{},\"message\":\"job finished\",\"attempt\":{}}}",
                random.below(5000),
                id % 4
            )?;
            Ok(false)
        }
        _ => {
            write!(
                out,
                "I1122 15:40:{:02}.{:06}       1 controller.go:{}] \"Reconciled\" object=\"default/site-{}\" id={id:016x}",
                id % 60,
                id % 1_000_000,
                id % 900,
                id % 50
            )?;
            Ok(true)
        }
    }
}

/// Appends one container log line as containerd writes it.
pub(crate) fn cri_line(
    nanos: i64,
    random: &mut Random,
    text: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    text.clear();
    let stderr = message(random, text)?;
    cri_header(nanos, stderr, out)?;
    out.extend_from_slice(text);
    out.push(b'\n');
    Ok(())
}

/// What stands before the message in a container log line.
pub(crate) fn cri_header(nanos: i64, stderr: bool, out: &mut impl io::Write) -> io::Result<()> {
    let time = jiff::Timestamp::from_nanosecond(i128::from(nanos)).map_err(io::Error::other)?;
    write!(out, "{time:.9} {} F ", if stderr { "stderr" } else { "stdout" })
}
