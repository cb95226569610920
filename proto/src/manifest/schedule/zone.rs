//! Time zones: those compiled in, the same on every machine.

use crate::manifest::text::{Refusal, text_type};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use std::fmt;

/// A time zone's name, such as `Australia/Sydney`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Zone(String);

impl Zone {
    /// The zone of tasks that name none.
    pub fn utc() -> Zone {
        Zone("UTC".to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its clock.
    pub fn time_zone(&self) -> TimeZone {
        // Parsing has found it once.
        TimeZoneDatabase::bundled().get(&self.0).unwrap_or(TimeZone::UTC)
    }

    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let unknown = Refusal::new("is no time zone").about(text);
        let database = TimeZoneDatabase::bundled();
        let found = (text.len() <= 64).then(|| database.get(text).ok()).flatten();
        if is_offset(text) && found.is_none() {
            return Err(Refusal::new("is an offset, and none of the names of time zones")
                .with_hint("name a place with that clock, such as `Europe/Berlin`; `ls /usr/share/zoneinfo/*` shows the names")
                .about(text));
        }
        let name = found.as_ref().and_then(TimeZone::iana_name).filter(|name| *name != "Etc/Unknown");
        match name {
            Some(name) if name == text => Ok(Zone(text.to_owned())),
            Some(name) => Err(unknown.with_hint(format!("did you mean `{name}`?"))),
            None => {
                let names: Vec<String> = database.available().map(|name| name.to_string()).collect();
                let near = crate::manifest::hint::nearest(text, names.iter().map(String::as_str))
                    // `Sydney` for `Australia/Sydney`.
                    .or_else(|| {
                        names.iter().find(|name| name.ends_with(&format!("/{text}"))).map(String::as_str)
                    });
                let near = near.map(|name| format!("did you mean `{name}`?"));
                Err(unknown.or_hint(near, "write a name such as `Australia/Sydney` or `UTC`"))
            }
        }
    }
}

/// `UTC+2`, `GMT-05:30`, `+0200`.
fn is_offset(text: &str) -> bool {
    let name = text.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let is_one =
        |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b':');
    let of = text.get(..text.len() - name.len()).unwrap_or_default().to_ascii_uppercase();
    matches!(of.as_str(), "" | "UTC" | "GMT" | "Z") && name.strip_prefix(['+', '-']).is_some_and(is_one)
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_type!(Zone, {
    "type": "string", "maxLength": 64, "pattern": "^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$",
    "description": "The name of a time zone.", "examples": ["Australia/Sydney", "UTC"]
});
