//! What the machine refuses, in words for users: no numbers of errors, and no words of a library.

use std::io::{Error, ErrorKind};

/// Why something could not be done with a file, a port or a program.
pub(super) fn why(error: &Error) -> String {
    let words = match error.kind() {
        ErrorKind::NotFound => "there is no such file",
        ErrorKind::PermissionDenied => "permission is denied",
        ErrorKind::AddrInUse => "another program listens there",
        ErrorKind::AddrNotAvailable => "this machine has no such address",
        ErrorKind::StorageFull => "the disk is full",
        ErrorKind::QuotaExceeded => "the disk's quota is used up",
        ErrorKind::ReadOnlyFilesystem => "the disk is read-only",
        ErrorKind::OutOfMemory => "the machine is out of memory",
        ErrorKind::ExecutableFileBusy => "the file is being written",
        _ => {
            let text = error.to_string();
            return text.split(" (os error ").next().unwrap_or_default().to_owned();
        }
    };
    words.to_owned()
}

/// The same of an error that began with one of the machine's; what was tried stays in the log.
pub(super) fn root(error: &anyhow::Error) -> String {
    let machine = error.chain().find_map(|cause| cause.downcast_ref::<Error>());
    machine.map_or_else(|| format!("{error:#}"), why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn an_error_of_the_machine_is_a_sentence() {
        for (code, words) in [
            (2, "there is no such file"),
            (28, "the disk is full"),
            (98, "another program listens there"),
            (5, "Input/output error"),
        ] {
            let error = Err::<(), _>(Error::from_raw_os_error(code)).context("write /data/x").unwrap_err();
            assert_eq!(root(&error), words);
        }
        assert_eq!(why(&ErrorKind::NotFound.into()), "there is no such file");
        assert_eq!(root(&anyhow::anyhow!("git refuses").context("list")), "list: git refuses");
    }
}
