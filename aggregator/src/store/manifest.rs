//! The list of what is sealed: files, sequences, committed positions and claims, and which part of the write-ahead log
//! is covered by them.
//!
//! It is written twice, one copy after the other: a damaged copy costs nothing, and a crash between the two leaves the
//! older or the newer one, which are both true. What the newer one made superfluous is removed only after both.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use skpr_proto::{NodeName, Source};

use super::disk::Disk;
use super::positions::Progress;
use super::segment::SegmentFile;
use super::table::{Expired, Labels, Shared};
use crate::environment::{Claim, EnvironmentKey};

const NAMES: [&str; 2] = ["manifest.copy", "manifest"];
const MAGIC: &str = "skpr-manifest 1";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// Counts up with each change.
    pub(super) edition: u64,
    /// Every entry of the write-ahead log in files up to this number is covered.
    pub(super) wal_covered: u64,
    pub(super) environments: Vec<SealedEnvironment>,
    pub(super) claims: Vec<RememberedClaim>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SealedEnvironment {
    pub(super) key: EnvironmentKey,
    /// Records up to this sequence are sealed, or expired.
    pub(super) head: u64,
    pub(super) files: Vec<SegmentFile>,
    pub(super) expired: Vec<Expired>,
}

/// A claim, and how far its source is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RememberedClaim {
    /// Namespace, pod, uid, container.
    source: [String; 4],
    environment: EnvironmentKey,
    node: String,
    instance: String,
    stream_prefix: String,
    used: i64,
    progress: Option<Progress>,
}

impl RememberedClaim {
    pub(super) fn new(labels: &Labels, progress: Option<&Progress>) -> RememberedClaim {
        let source = &labels.source;
        RememberedClaim {
            source: [
                source.namespace.to_string(),
                source.pod.to_string(),
                source.uid.to_string(),
                source.container.to_string(),
            ],
            environment: labels.claim.environment.clone(),
            node: labels.claim.node.to_string(),
            instance: labels.claim.instance.to_string(),
            stream_prefix: labels.claim.stream_prefix.to_string(),
            used: labels.used.load(std::sync::atomic::Ordering::Relaxed),
            progress: progress.cloned(),
        }
    }

    /// Back to what it was made of. `None` cannot happen to what was written from parsed ids.
    pub(super) fn restore(&self, shared: &Shared) -> Option<(Labels, Option<Progress>)> {
        let [namespace, pod, uid, container] = &self.source;
        let source = Source::parse(namespace, pod, uid, container).ok()?;
        let claim = Claim {
            environment: self.environment.clone(),
            node: NodeName::parse(&self.node).ok()?,
            instance: self.instance.as_str().into(),
            stream_prefix: self.stream_prefix.as_str().into(),
        };
        let table: Arc<_> = shared.table(&claim.environment);
        Some((Labels::new(source, claim, table, self.used), self.progress.clone()))
    }
}

/// What was found of the manifest.
pub(super) enum Found {
    Nothing,
    /// At least one copy is good; `damaged` counts the others.
    Good {
        manifest: Manifest,
        damaged: usize,
    },
    /// There was one, and no copy can be read.
    Lost,
}

impl Manifest {
    pub(super) fn read(directory: &Path) -> std::io::Result<Found> {
        let (mut best, mut damaged) = (None::<Manifest>, 0);
        for name in NAMES {
            match std::fs::read(directory.join(name)) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                // A medium error is damage like any other; a missing permission is not.
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return Err(error),
                Err(_) => damaged += 1,
                Ok(bytes) => match decode(&bytes) {
                    None => damaged += 1,
                    Some(manifest) if best.as_ref().is_none_or(|best| best.edition <= manifest.edition) => {
                        best = Some(manifest);
                    }
                    Some(_) => {}
                },
            }
        }
        Ok(match best {
            Some(manifest) => Found::Good { manifest, damaged },
            None if damaged > 0 => Found::Lost,
            None => Found::Nothing,
        })
    }

    pub(super) fn write(&self, disk: &Disk, directory: &Path) -> std::io::Result<()> {
        let body = serde_json::to_vec(self).map_err(std::io::Error::other)?;
        let mut content = format!("{MAGIC} {:08x}\n", crc32c::crc32c(&body)).into_bytes();
        content.extend_from_slice(&body);
        NAMES.iter().try_for_each(|name| disk.replace(&directory.join(name), &content))
    }

    /// Puts unreadable copies aside for whoever wants to look at them.
    pub(super) fn set_aside(directory: &Path) {
        for name in NAMES {
            let path = directory.join(name);
            drop(std::fs::rename(&path, directory.join(format!("{name}.damaged"))));
        }
    }

    /// The environment's entry, made when there is none.
    pub(super) fn environment(&mut self, key: &EnvironmentKey) -> Option<&mut SealedEnvironment> {
        let index = match self.environments.binary_search_by(|entry| entry.key.cmp(key)) {
            Ok(index) => index,
            Err(index) => {
                let entry =
                    SealedEnvironment { key: key.clone(), head: 0, files: Vec::new(), expired: Vec::new() };
                self.environments.insert(index, entry);
                index
            }
        };
        self.environments.get_mut(index)
    }
}

fn decode(bytes: &[u8]) -> Option<Manifest> {
    let rest = bytes.strip_prefix(MAGIC.as_bytes())?.strip_prefix(b" ")?;
    let (checksum, body) = rest.split_at_checked(8)?;
    let body = body.strip_prefix(b"\n")?;
    let checksum = u32::from_str_radix(std::str::from_utf8(checksum).ok()?, 16).ok()?;
    (crc32c::crc32c(body) == checksum).then(|| serde_json::from_slice(body).ok())?
}
