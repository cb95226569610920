//! What a session is about, as the aggregator says it.

use crate::recording::{Record, Recorder, Subject};
use crate::ssh::HostKey;
use skpr_proto::{Label, PodUid, Purpose, v1};

/// An instance, and the key by which a client knows it.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) purpose: Purpose,
    pub(super) instance: PodUid,
    /// Of a pod, the container that is the instance.
    pub(super) container: Label,
    pub(super) host_key: HostKey,
    /// What it is called, where the aggregator says that.
    subject: Option<Subject>,
}

/// Why a session cannot be.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoTarget {
    #[error("it is for `{0}`, which this version does not know")]
    Purpose(String),
    #[error("it names no instance and key that can be")]
    Target,
    #[error("it is to be recorded, and the aggregator does not say under which names")]
    Subject,
}

impl Target {
    /// How it is recorded, where sessions are that show anything.
    pub(super) fn record(&self, recorder: Option<&Recorder>) -> Result<Option<Record>, NoTarget> {
        let recorder = recorder.filter(|_| self.purpose == Purpose::Ssh);
        let record = |recorder: &Recorder| Some(recorder.of(self.subject.clone()?));
        recorder.map(|recorder| record(recorder).ok_or(NoTarget::Subject)).transpose()
    }
}

impl TryFrom<&v1::Dial> for Target {
    type Error = NoTarget;

    fn try_from(dial: &v1::Dial) -> Result<Target, NoTarget> {
        // Another is one of a later version.
        let purpose = Purpose::parse(&dial.purpose).ok_or_else(|| {
            NoTarget::Purpose(dial.purpose.chars().take(64).flat_map(char::escape_debug).collect())
        })?;
        let instance = PodUid::parse(&dial.target).map_err(|_| NoTarget::Target)?;
        let container = Label::parse("container", &dial.container).map_err(|_| NoTarget::Target)?;
        let host_key = <[u8; 32]>::try_from(&*dial.host_key).map_err(|_| NoTarget::Target)?;
        Ok(Target { purpose, instance, container, host_key: HostKey(host_key), subject: Subject::of(dial) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_nothing_is_no_target() {
        let dial = || v1::Dial {
            session: "s".into(),
            purpose: "ssh".into(),
            target: "u1".into(),
            container: "php".into(),
            host_key: vec![7; 32].into(),
            ..v1::Dial::default()
        };
        assert_eq!(Target::try_from(&dial()).unwrap().instance.as_str(), "u1");
        for (said, purpose) in [("ssh", Purpose::Ssh), ("files", Purpose::Files)] {
            let dial = v1::Dial { purpose: said.into(), ..dial() };
            assert_eq!(Target::try_from(&dial).unwrap().purpose, purpose);
        }
        for wrong in [
            v1::Dial { target: "../u1".into(), ..dial() },
            v1::Dial { target: String::new(), ..dial() },
            v1::Dial { container: "a\"b".into(), ..dial() },
            v1::Dial { host_key: vec![7; 31].into(), ..dial() },
        ] {
            assert!(matches!(Target::try_from(&wrong), Err(NoTarget::Target)), "{wrong:?}");
        }
        let later = v1::Dial { purpose: "\u{1b}files".into(), ..dial() };
        assert!(matches!(Target::try_from(&later), Err(NoTarget::Purpose(said)) if !said.contains('\u{1b}')));
    }
}
