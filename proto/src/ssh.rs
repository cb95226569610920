//! What `skpr` and the agent say to each other over SSH beyond what SSH has. Other clients never meet it.

use bytes::Bytes;

/// Who a client is that wants to be whom the instance runs as. Any other name or number asks for that user.
pub const OWN_USER: &str = "skpr";
/// The kind of extended data that is stderr (RFC 4254, section 5.2).
pub const STDERR: u32 = 1;
/// The longest command: as long as the longest argument that Linux takes.
pub const LONGEST_COMMAND: usize = 128 << 10;
/// A variable by which a client asks to be told how much of what it has sent was taken. SSH's own windows do not tell: the
/// agent takes in what a process has not read yet.
pub const TELL_TAKEN: &str = "SKPR_TELL_TAKEN";
/// The kind of extended data that tells it: the count of all bytes so far.
pub const TAKEN: u32 = 0x736b_7072;
/// A variable by which a client says that it tells in the same way how much it has passed on of what a process says, and
/// wants no more than [`MOST_UNTAKEN`] ahead of that: what it has not passed on would keep it from all else that comes.
pub const TELLS_TAKEN: &str = "SKPR_TELLS_TAKEN";
/// What such a client may have sent to a process that was not taken, and the other way round.
pub const MOST_UNTAKEN: u64 = 4 << 20;
/// Where a client says that a forward comes from when it wants to be told, and tells, what was taken: no address is like it.
pub const FORWARD: &str = "skpr";
/// What either side of such a forward may have sent that was not taken. A client holds that for each of its forwards, so
/// that one whose reader stops does not stop the others.
pub const MOST_UNTAKEN_FORWARD: u64 = 1 << 20;

/// A program and its arguments as an SSH command: a NUL, which no shell's line can hold, before each word.
pub fn command_of<'a>(words: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut command = Vec::new();
    for word in words {
        command.push(0);
        command.extend_from_slice(word);
    }
    command
}

/// The words of such a command; none of what is a line for a shell.
pub fn words_of(command: &[u8]) -> Option<Vec<&[u8]>> {
    let words = command.strip_prefix(&[0])?;
    Some(words.split(|byte| *byte == 0).collect())
}

/// How it is told that so many bytes were taken.
pub fn taken(bytes: u64) -> Bytes {
    Bytes::copy_from_slice(&bytes.to_be_bytes())
}

/// What was told; none of what makes no sense.
pub fn bytes_taken(told: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(told.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_same_at_the_other_end() {
        for words in [&[&b"ls"[..]][..], &[b"echo", b"a b", b"", b"$x", b"\xff\n"], &[b"", b""]] {
            let command = command_of(words.iter().copied());
            assert_eq!(words_of(&command).as_deref(), Some(words));
        }
        for line in [&b""[..], b"echo 'a b'", b"x\0y"] {
            assert_eq!(words_of(line), None);
        }
    }

    #[test]
    fn what_was_taken_is_told_in_eight_bytes() {
        assert_eq!(bytes_taken(&taken(1 << 40)), Some(1 << 40));
        for odd in [&b""[..], b"1234567", b"123456789"] {
            assert_eq!(bytes_taken(odd), None);
        }
    }
}
