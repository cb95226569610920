//! Whose cgroup it is, by its path. Pure.
//!
//! Only the end of a path is looked at: what is above differs by node, cgroup driver and distribution, and by how deep the
//! node itself is in somebody else's container. So nothing depends on what the kubelet calls the parent of all pods.

use skpr_proto::PodUid;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// What a cgroup is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    Pod(PodUid),
    /// A container of a pod, or something in it.
    Container {
        pod: PodUid,
        id: Box<str>,
    },
    /// A runtime's process beside a container: not the container's use.
    Monitor,
    Other,
}

/// How long a container's id is, in hexadecimal digits.
const ID: usize = 64;

/// Reads a path below the root of a hierarchy.
pub(super) fn identify(path: &Path) -> Identity {
    let mut names = path.iter().rev().map(|name| name.as_bytes());
    let Some(last) = names.next() else { return Identity::Other };
    if is_monitor(last) {
        return Identity::Monitor;
    }
    if let Some(uid) = pod(last)
        && id(last).is_none()
    {
        return Identity::Pod(uid);
    }
    let mut found = id(last);
    let mut uid = found.and_then(|_| pod(last));
    for name in names {
        if uid.is_some() {
            break;
        }
        if is_monitor(name) {
            return Identity::Monitor;
        }
        if found.is_none() {
            // Inside a container, as crun's `container`; inside a pod, but in no container, it is nothing.
            found = id(name);
            if found.is_none() && pod(name).is_some() {
                return Identity::Other;
            }
        }
        uid = found.and_then(|_| pod(name));
    }
    match (uid, found) {
        (Some(pod), Some(id)) => Identity::Container { pod, id: id.into() },
        (_, None) | (None, _) => Identity::Other,
    }
}

/// `crio-conmon-ID.scope`, and whatever else watches a container.
fn is_monitor(name: &[u8]) -> bool {
    memchr::memmem::find(name, b"conmon-").is_some()
}

/// `ID`, `RUNTIME-ID.scope`, `crio-ID`, and `SLICE:RUNTIME:ID`, which containerd makes of a slice that it does not
/// understand (kubernetes/kubernetes#106515).
fn id(name: &[u8]) -> Option<&str> {
    let name = name.strip_suffix(b".scope").unwrap_or(name);
    let (prefix, id) = name.split_at_checked(name.len().checked_sub(ID)?)?;
    let separated = matches!(prefix.last(), None | Some(b'-' | b':'));
    (separated && id.iter().all(is_hex)).then(|| std::str::from_utf8(id).ok()).flatten()
}

/// `podUID`, and `PARENTS-podUID.slice`, in which systemd allows no hyphens.
fn pod(name: &[u8]) -> Option<PodUid> {
    let name = name.split(|byte| *byte == b':').next()?;
    let (name, is_slice) = match name.strip_suffix(b".slice") {
        Some(name) => (name, true),
        None => (name, false),
    };
    let uid = match name.strip_prefix(b"pod") {
        Some(uid) => uid,
        None if is_slice => name.get(memchr::memmem::rfind(name, b"-pod")? + 4..)?,
        None => return None,
    };
    let mut text = [0_u8; 36];
    let text = text.get_mut(..uid.len())?;
    for (to, from) in text.iter_mut().zip(uid) {
        *to = if *from == b'_' { b'-' } else { *from };
    }
    is_uid(text).then(|| PodUid::parse(std::str::from_utf8(text).ok()?).ok()).flatten()
}

/// A UUID, or for a pod from a file on the node the hash of that file.
fn is_uid(text: &[u8]) -> bool {
    match text.len() {
        32 => text.iter().all(is_hex),
        36 => text.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => is_hex(byte),
        }),
        _ => false,
    }
}

fn is_hex(byte: &u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ffi::OsStr;

    const UID: &str = "0f2a7f34-5c1d-4f4e-9d55-2d9d3a9c1b7e";
    const OUTER: &str = "11111111-2222-3333-4444-555555555555";
    const HASH: &str = "b3bd1b8b9c9d6a4f0e3c5d7a8f1e2d3c";
    const ID: &str = "3f9c1e7b5a2d4c6e8f0a1b3c5d7e9f1a2b4c6d8e0f1a3b5c7d9e1f2a4b6c8d0e";
    const NODE: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    #[derive(Debug, PartialEq)]
    enum Is {
        Pod(&'static str),
        Container(&'static str),
        Monitor,
        Nothing,
    }

    #[track_caller]
    fn check(shape: &str, expected: Is) {
        let path = shape
            .replace("UID_", &UID.replace('-', "_"))
            .replace("OUTER", OUTER)
            .replace("UID", UID)
            .replace("HASH", HASH)
            .replace("NODE", NODE)
            .replace("ID", ID);
        let found = identify(Path::new(&path));
        let expected = match expected {
            Is::Pod(uid) => Identity::Pod(PodUid::parse(uid).unwrap()),
            Is::Container(uid) => Identity::Container { pod: PodUid::parse(uid).unwrap(), id: ID.into() },
            Is::Monitor => Identity::Monitor,
            Is::Nothing => Identity::Other,
        };
        assert_eq!(found, expected, "{shape}");
    }

    #[test]
    fn containers_of_every_driver_runtime_and_distribution() {
        for shape in [
            // cgroupfs, with each class of service.
            "kubepods/burstable/podUID/ID",
            "kubepods/besteffort/podUID/ID",
            "kubepods/podUID/ID",
            // systemd, containerd.
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice/cri-containerd-ID.scope",
            "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podUID_.slice/cri-containerd-ID.scope",
            "kubepods.slice/kubepods-podUID_.slice/cri-containerd-ID.scope",
            // CRI-O, with either driver, and with crun's nested cgroup.
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice/crio-ID.scope",
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice/crio-ID.scope/container",
            "kubepods.slice/kubepods-podUID_.slice/crio-ID.scope/container",
            "kubepods/burstable/podUID/crio-ID",
            // docker and podman.
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice/docker-ID.scope",
            "kubepods.slice/kubepods-podUID_.slice/libpod-ID.scope",
            "kubepods.slice/kubepods-podUID_.slice/libpod-ID.scope/container",
            // kind: a prefix of the kubelet's, inside of a node's container or seen from within.
            "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-podUID_.slice/cri-containerd-ID.scope",
            "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podUID_.slice/cri-containerd-ID.scope",
            "docker/NODE/kubelet/kubepods/burstable/podUID/ID",
            "docker/NODE/kubelet/kubepods/podUID/ID",
            "system.slice/docker-NODE.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podUID_.slice/cri-containerd-ID.scope",
            // A cluster in a pod of another one.
            "kubepods/burstable/podOUTER/NODE/kubelet/kubepods/besteffort/podUID/ID",
            "kubepods/burstable/podOUTER/NODE/kubepods/podUID/ID",
            // containerd with cgroupfs names that systemd made.
            "system.slice/containerd.service/kubepods-burstable-podUID_.slice:cri-containerd:ID",
            "system.slice/containerd.service/kubepods-podUID_.slice:cri-containerd:ID",
            // k3s, a root of the kubelet's own, and none at all.
            "system.slice/k3s.service/kubepods/burstable/podUID/ID",
            "some.slice/some-pods.slice/some-pods-burstable.slice/some-pods-burstable-podUID_.slice/cri-containerd-ID.scope",
            "podUID/ID",
            "/kubepods/burstable/podUID/ID",
            "kubepods/burstable/podUID/ID/init.scope/deeper",
        ] {
            check(shape, Is::Container(UID));
        }
        check("kubepods/burstable/podHASH/ID", Is::Container(HASH));
        check("kubepods.slice/kubepods-podHASH.slice/cri-containerd-ID.scope", Is::Container(HASH));
    }

    #[test]
    fn pods() {
        for shape in [
            "kubepods/burstable/podUID",
            "kubepods/podUID",
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice",
            "kubepods.slice/kubepods-podUID_.slice",
            "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podUID_.slice",
            "kubepods/burstable/podOUTER/NODE/kubepods/podUID",
        ] {
            check(shape, Is::Pod(UID));
        }
        check("kubepods/burstable/podHASH", Is::Pod(HASH));
    }

    #[test]
    fn monitors_are_nobodys_use() {
        for shape in [
            "kubepods.slice/kubepods-podUID_.slice/crio-conmon-ID.scope",
            "kubepods/burstable/podUID/crio-conmon-ID",
            "machine.slice/libpod-conmon-ID.scope",
            "kubepods/podUID/crio-conmon-ID/deeper",
        ] {
            check(shape, Is::Monitor);
        }
    }

    #[test]
    fn everything_else_is_nothing() {
        for shape in [
            "",
            "/",
            "kubepods",
            "kubepods/burstable",
            "kubepods.slice/kubepods-burstable.slice",
            "system.slice/podman.service",
            "machine.slice/libpod-ID.scope",
            "docker/ID",
            "user.slice/user-1000.slice",
            "kubepods/podUID/helper",
            "kubepods/podUID/helper/deeper",
            "kubepods/pod/ID",
            "kubepods/podnot-a-uid/ID",
            "kubepods/podUID/xID",
            "kubepods/podUID/ID0",
            "kubepods/podUIDUID/ID",
        ] {
            check(shape, Is::Nothing);
        }
        check(&format!("kubepods/podUID/{}", ID.to_uppercase()), Is::Nothing);
    }

    proptest! {
        #[test]
        fn hostile_paths_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            identify(Path::new(OsStr::from_bytes(&bytes)));
        }

        #[test]
        fn paths_of_likely_parts_are_survived(parts in prop::collection::vec(
            prop::sample::select(vec![UID, ID, HASH, "pod", "-pod", ".slice", ".scope", "/", ":", "_", "conmon-", "é"]),
            0..20,
        )) {
            if let Identity::Container { pod, id } = identify(Path::new(&parts.concat())) {
                prop_assert!(is_uid(pod.as_str().as_bytes()));
                prop_assert_eq!(id.len(), super::ID);
            }
        }
    }
}
