//! What is durably known of one environment: `environments/PROJECT.ENVIRONMENT.json`.
//!
//! * Two lines of JSON: a header with format and checksum, then the record. A file is the old one or the new one, never
//!   a mix, and is on the disk when [`save`] returns.
//! * A file that is not whole, or is another environment's, is an error that names it. It is left as it is: somebody has
//!   to look.
//! * What is left of an environment that is gone is the number of its last release, in `PROJECT.ENVIRONMENT.last`: one of
//!   the same name that is made later counts on, so that no instance is called as another was.
//! * What is known of its tasks is in `PROJECT.ENVIRONMENT.cron`, of the same form: `cron/written.rs`.

use crate::private_file;
use crate::release::Release;
use anyhow::{Context as _, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use skpr_proto::manifest::Environment;
use skpr_proto::{EnvironmentName, Label};
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;
/// Twenty releases with settings of 32 KiB each are far below.
pub(super) const MOST_BYTES: u64 = 16 << 20;
const ENDING: &str = ".json";
const LAST: &str = "last";

/// One environment as it is written down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    /// Whose it is; not in files of the first version that wrote them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) environment: Option<EnvironmentName>,
    /// Where the project is: its repository, or simply its files.
    pub(super) directory: PathBuf,
    /// As wanted now: the newest release's, and what was changed since.
    pub(super) settings: Environment,
    /// As wanted before the open release began: what going back from it brings back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) before: Option<Environment>,
    /// Oldest first.
    pub(super) releases: Vec<Release>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) deleting: Option<Deleting>,
}

/// It is being taken away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Deleting {
    pub(super) by: String,
    /// The contents of its volumes go, too.
    pub(super) volumes: bool,
}

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    crc32c: u32,
}

impl Record {
    pub(super) fn new(environment: &EnvironmentName, directory: PathBuf) -> Record {
        Record {
            environment: Some(environment.clone()),
            directory,
            settings: Environment::default(),
            before: None,
            releases: vec![],
            deleting: None,
        }
    }
}

/// Where an environment's record is.
pub(super) fn place(directory: &Path, name: &EnvironmentName) -> PathBuf {
    directory.join(format!("{}.{}{ENDING}", name.project, name.environment))
}

/// The environments that have a record, whatever is in it.
pub(super) fn names(directory: &Path) -> std::io::Result<Vec<EnvironmentName>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let file = entry?.file_name();
        let parts = file.to_str().and_then(|file| file.strip_suffix(ENDING)?.split_once('.'));
        let Some((project, environment)) = parts else { continue };
        let labels = (Label::parse("project", project), Label::parse("environment", environment));
        if let (Ok(project), Ok(environment)) = labels {
            names.push(EnvironmentName { project, environment });
        }
    }
    names.sort();
    Ok(names)
}

/// The record of an environment.
pub(super) fn load(directory: &Path, name: &EnvironmentName) -> anyhow::Result<Record> {
    let path = place(directory, name);
    let read = || {
        ensure!(std::fs::metadata(&path)?.len() <= MOST_BYTES, "it is longer than {MOST_BYTES} bytes");
        let mut record: Record = decode(&std::fs::read_to_string(&path)?)?;
        let whose = record.environment.get_or_insert_with(|| name.clone());
        ensure!(whose == name, "it is of environment `{whose}`");
        Ok(record)
    };
    read().with_context(|| format!("the state file `{}` cannot be read", path.display()))
}

/// The number of the last release of a former environment whose record would be `path`; 0 when there was none.
pub(super) fn last(path: &Path) -> anyhow::Result<u64> {
    let path = path.with_extension(LAST);
    let text = private_file::read(&path)?;
    let number = text.map_or(Ok(0), |text| decode(&text));
    number.with_context(|| format!("the file `{}` cannot be read", path.display()))
}

/// Writes that number down. Blocks until it is on the disk.
pub(super) fn save_last(path: &Path, number: u64) -> anyhow::Result<()> {
    private_file::write(&path.with_extension(LAST), &encode(&number)?)
}

/// Blocks until it is on the disk.
pub(super) fn save(path: &Path, record: &Record) -> anyhow::Result<()> {
    private_file::write(path, &encode(record)?)
}

/// Removes a record; it is gone from the disk when this returns.
pub(super) fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    path.parent().map_or(Ok(()), |directory| std::fs::File::open(directory)?.sync_all())
}

pub(super) fn encode(record: &impl Serialize) -> anyhow::Result<Vec<u8>> {
    let body = serde_json::to_vec(record).context("encode the record")?;
    let header = Header { version: VERSION, crc32c: crc32c::crc32c(&body) };
    let mut bytes = serde_json::to_vec(&header).context("encode the header")?;
    for part in [b"\n".as_slice(), &body, b"\n"] {
        bytes.extend_from_slice(part);
    }
    Ok(bytes)
}

pub(super) fn decode<T: DeserializeOwned>(text: &str) -> anyhow::Result<T> {
    let (header, body) = text.split_once('\n').context("it is cut short")?;
    let body = body.strip_suffix('\n').context("it is cut short")?;
    let header: Header = serde_json::from_str(header).context("its header makes no sense")?;
    ensure!(header.version == VERSION, "its format is {}, this program knows {VERSION}", header.version);
    ensure!(header.crc32c == crc32c::crc32c(body.as_bytes()), "it is damaged");
    serde_json::from_str(body).context("its record makes no sense")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name() -> EnvironmentName {
        EnvironmentName::parse("shop", "dev").unwrap()
    }

    fn record() -> Record {
        let settings = r#"{"port": 8080, "command": ["./serve"], "env": {"A": "b"}}"#;
        let settings: Environment = serde_json::from_str(settings).unwrap();
        Record {
            settings: settings.clone(),
            before: Some(Environment::default()),
            releases: vec![super::super::plan::tests::release(1, settings)],
            deleting: Some(Deleting { by: "ann".into(), volumes: true }),
            ..Record::new(&name(), "/site".into())
        }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let path = place(directory.path(), &name());
        for number in 1..3 {
            let mut record = record();
            record.releases[0].number = number;
            save(&path, &record).unwrap();
            assert_eq!(load(directory.path(), &name()).unwrap(), record);
        }
        std::fs::write(directory.path().join("shop.dev.json.new"), "rest of a crash").unwrap();
        std::fs::write(directory.path().join("..json"), "").unwrap();
        assert_eq!(names(directory.path()).unwrap(), [name()]);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(names(directory.path()).unwrap().is_empty());
    }

    #[test]
    fn an_error_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shop.dev.json");
        std::fs::write(&path, "{}").unwrap();
        let error = format!("{:#}", load(directory.path(), &name()).unwrap_err());
        assert_eq!(error, format!("the state file `{}` cannot be read: it is cut short", path.display()));
        std::fs::write(&path, "{\"version\":2,\"crc32c\":0}\n{}\n").unwrap();
        let error = format!("{:#}", load(directory.path(), &name()).unwrap_err());
        assert!(error.ends_with("its format is 2, this program knows 1"), "{error}");
    }

    #[test]
    fn a_file_of_another_environment_is_an_error_and_one_of_nobody_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let prod = EnvironmentName::parse("shop", "prod").unwrap();
        save(&place(directory.path(), &prod), &record()).unwrap();
        let error = format!("{:#}", load(directory.path(), &prod).unwrap_err());
        assert!(error.ends_with("it is of environment `shop/dev`"), "{error}");
        let old = Record { environment: None, ..record() };
        save(&place(directory.path(), &prod), &old).unwrap();
        assert_eq!(load(directory.path(), &prod).unwrap().environment, Some(prod));
    }

    #[test]
    fn the_last_number_of_a_former_environment_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let path = place(directory.path(), &name());
        assert_eq!(last(&path).unwrap(), 0);
        save_last(&path, 7).unwrap();
        assert_eq!((last(&path).unwrap(), names(directory.path()).unwrap()), (7, vec![]));
        std::fs::write(directory.path().join("shop.dev.last"), "7").unwrap();
        assert!(last(&path).unwrap_err().to_string().contains("shop.dev.last"));
    }

    proptest! {
        #[test]
        fn a_damaged_file_is_an_error_and_never_another_record(
            cut in 0usize..2000, at in 0usize..2000, bits in 1u8..=255,
        ) {
            let good = encode(&record()).unwrap();
            let short = &good[..cut % good.len()];
            prop_assert!(decode::<Record>(&String::from_utf8_lossy(short)).is_err());
            let mut damaged = good.clone();
            let at = at % good.len();
            damaged[at] ^= bits;
            if let Ok(read) = decode::<Record>(&String::from_utf8_lossy(&damaged)) {
                prop_assert_eq!(read, record());
            }
        }
    }
}
