//! Signals by the names that SSH has for them.

use russh::Sig;
use rustix::process::Signal;

/// What to send to a process; none for a signal that clients may not send or that is not known.
pub(super) fn to_send(signal: &Sig) -> Option<Signal> {
    Some(match signal {
        Sig::ABRT => Signal::ABORT,
        Sig::ALRM => Signal::ALARM,
        Sig::HUP => Signal::HUP,
        Sig::INT => Signal::INT,
        Sig::KILL => Signal::KILL,
        Sig::PIPE => Signal::PIPE,
        Sig::QUIT => Signal::QUIT,
        Sig::TERM => Signal::TERM,
        Sig::USR1 => Signal::USR1,
        Sig::FPE => Signal::FPE,
        Sig::ILL => Signal::ILL,
        Sig::SEGV => Signal::SEGV,
        Sig::Custom(name) => match name.as_str() {
            "USR2" => Signal::USR2,
            "STOP" => Signal::STOP,
            "CONT" => Signal::CONT,
            "TSTP" => Signal::TSTP,
            "WINCH" => Signal::WINCH,
            _ => return None,
        },
    })
}

/// What to say of a process that a signal ended.
pub(super) fn to_tell(number: i32) -> Sig {
    match number {
        1 => Sig::HUP,
        2 => Sig::INT,
        3 => Sig::QUIT,
        4 => Sig::ILL,
        6 => Sig::ABRT,
        8 => Sig::FPE,
        9 => Sig::KILL,
        10 => Sig::USR1,
        11 => Sig::SEGV,
        13 => Sig::PIPE,
        14 => Sig::ALRM,
        15 => Sig::TERM,
        // OpenSSH's way to name what has no name of its own.
        12 => Sig::Custom("USR2@skpr".to_owned()),
        other => Sig::Custom(format!("SIG{other}@skpr")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_keep_their_meaning_there_and_back() {
        for number in [1, 2, 3, 4, 6, 8, 9, 10, 11, 13, 14, 15] {
            let sent = to_send(&to_tell(number)).unwrap();
            assert_eq!(sent.as_raw(), number);
        }
        assert_eq!(to_send(&Sig::Custom("USR2".into())), Some(Signal::USR2));
        for unknown in ["", "RTMIN", "usr2", "9"] {
            assert_eq!(to_send(&Sig::Custom(unknown.into())), None, "{unknown}");
        }
    }
}
