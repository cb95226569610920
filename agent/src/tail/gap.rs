//! What is known to be lost, and how it is told: one record where the lost lines would have been.

use jiff::Timestamp;

/// A loss that was noticed and whose record is not acknowledged yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    /// When the last record before it was written.
    pub(super) after: Option<i64>,
    /// What is known of its size; it may be more.
    pub(super) bytes: u64,
    pub(super) reason: &'static str,
    /// Its record is on its way.
    pub(super) sent: bool,
}

impl Gap {
    /// Two losses with nothing between them are one.
    pub(super) fn merge(into: &mut Option<Gap>, gap: Gap) {
        match into {
            Some(earlier) => {
                earlier.bytes = earlier.bytes.saturating_add(gap.bytes);
                earlier.sent = false;
            }
            None => *into = Some(gap),
        }
    }

    /// The record's text; `before` is when the first record after the loss was written.
    pub(super) fn message(&self, before: Option<i64>) -> String {
        let mut text = String::from("log lines may have been lost");
        if self.bytes > 0 {
            text = format!("log lines were lost (at least {} bytes)", self.bytes);
        }
        match (self.after, before) {
            (Some(after), Some(before)) => {
                text.push_str(&format!(" between {} and {}", show(after), show(before)))
            }
            (Some(after), None) => text.push_str(&format!(" after {}", show(after))),
            (None, Some(before)) => text.push_str(&format!(" before {}", show(before))),
            (None, None) => {}
        }
        format!("{text}: {}", self.reason)
    }
}

fn show(time: i64) -> String {
    Timestamp::from_nanosecond(i128::from(time)).map(|time| time.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_when_and_why() {
        let gap = Gap { after: Some(0), bytes: 0, reason: "the file was removed", sent: false };
        assert_eq!(
            gap.message(Some(1_000_000_000)),
            "log lines may have been lost between 1970-01-01T00:00:00Z and 1970-01-01T00:00:01Z: the file was removed"
        );
        let gap = Gap { after: None, bytes: 10, ..gap };
        assert_eq!(gap.message(None), "log lines were lost (at least 10 bytes): the file was removed");
    }
}
