//! What the bytes of a session are.

/// What a session is for; what is not listed is of a later version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// They are SSH's, and the agent is the server.
    #[default]
    Ssh,
    /// They are those of a transfer of files, and the worker beside the files is the server.
    Files,
}

impl Purpose {
    /// As it is called in messages and in the audit.
    pub fn name(self) -> &'static str {
        match self {
            Purpose::Ssh => "ssh",
            Purpose::Files => "files",
        }
    }

    /// What a message says; what says nothing is of a version that knew of SSH alone.
    pub fn parse(name: &str) -> Option<Purpose> {
        match name {
            "" | "ssh" => Some(Purpose::Ssh),
            "files" => Some(Purpose::Files),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_purpose_is_what_it_is_called() {
        for purpose in [Purpose::Ssh, Purpose::Files] {
            assert_eq!(Purpose::parse(purpose.name()), Some(purpose));
        }
        assert_eq!(Purpose::parse(""), Some(Purpose::Ssh));
        assert_eq!(Purpose::parse("Files"), None);
    }
}
