//! Requests as a client writes them, and what is answered.

use super::*;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

/// A request that is built up.
struct Asked(Vec<u8>);

fn asked(kind: u8) -> Asked {
    Asked(vec![kind, 0, 0, 0, 9])
}

impl Asked {
    fn number(mut self, number: u32) -> Asked {
        self.0.extend(number.to_be_bytes());
        self
    }
    fn long(mut self, number: u64) -> Asked {
        self.0.extend(number.to_be_bytes());
        self
    }
    fn text(self, text: impl AsRef<[u8]>) -> Asked {
        let mut asked = self.number(u32::try_from(text.as_ref().len()).unwrap());
        asked.0.extend_from_slice(text.as_ref());
        asked
    }
    fn path(self, path: &Path) -> Asked {
        self.text(path.as_os_str().as_bytes())
    }
}

/// What is answered: its kind, and what comes after the number of the request.
fn told(handles: &mut Handles, asked: Asked) -> (u8, Vec<u8>) {
    let reply = answer(handles, &asked.0).unwrap();
    let (length, reply) = reply.split_at(4);
    assert_eq!(u32::from_be_bytes(length.try_into().unwrap()) as usize, reply.len());
    assert_eq!(reply[1..5], [0, 0, 0, 9]);
    (reply[0], reply[5..].to_vec())
}

/// The code of the status that is answered.
fn code(handles: &mut Handles, asked: Asked) -> u32 {
    let (kind, rest) = told(handles, asked);
    assert_eq!(kind, kind::STATUS, "{rest:?}");
    u32::from_be_bytes(rest[..4].try_into().unwrap())
}

fn opened(handles: &mut Handles, asked: Asked) -> Vec<u8> {
    let (kind, rest) = told(handles, asked);
    assert_eq!(kind, kind::HANDLE, "{}", String::from_utf8_lossy(&rest));
    rest[4..].to_vec()
}

#[test]
fn a_file_is_written_read_renamed_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a b\n");
    let mut handles = Handles::default();
    let all = 1 | 2 | 8 | 16;
    let open = || asked(kind::OPEN).path(&path).number(all).number(4).number(0o640);
    let handle = opened(&mut handles, open());
    assert_eq!(code(&mut handles, asked(kind::WRITE).text(&handle).long(5).text("world")), 0);
    assert_eq!(code(&mut handles, asked(kind::WRITE).text(&handle).long(0).text("hello")), 0);
    let (kind, data) = told(&mut handles, asked(kind::READ).text(&handle).long(2).number(u32::MAX));
    assert_eq!((kind, &data[4..]), (kind::DATA, &b"lloworld"[..]));
    assert_eq!(code(&mut handles, asked(kind::READ).text(&handle).long(10).number(1)), 1);
    let times = asked(kind::FSETSTAT).text(&handle).number(8).number(5).number(7);
    assert_eq!(code(&mut handles, times), 0);
    assert_eq!(code(&mut handles, asked(kind::CLOSE).text(&handle)), 0);
    assert_eq!(code(&mut handles, asked(kind::CLOSE).text(&handle)), 5);
    let metadata = path.metadata().unwrap();
    assert_eq!((metadata.mtime(), metadata.permissions().mode() & 0o777 & !0o640), (7, 0));

    let other = directory.path().join("other");
    std::fs::write(&other, "in the way").unwrap();
    assert_eq!(code(&mut handles, asked(kind::RENAME).path(&path).path(&other)), 4);
    let over = asked(kind::EXTENDED).text("posix-rename@openssh.com").path(&path).path(&other);
    assert_eq!(code(&mut handles, over), 0);
    assert_eq!(std::fs::read(&other).unwrap(), b"helloworld");
    assert_eq!(code(&mut handles, asked(kind::REMOVE).path(&other)), 0);
    assert_eq!(code(&mut handles, asked(kind::REMOVE).path(&other)), 2);
}

#[test]
fn names_are_bytes_and_come_back_as_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let odd = [&b"\xff\xfe"[..], b"a\nb", b"\x1b[2J", b"plain"];
    for name in odd {
        std::fs::write(directory.path().join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    let mut handles = Handles::default();
    let handle = opened(&mut handles, asked(kind::OPENDIR).path(directory.path()));
    let (kind, rest) = told(&mut handles, asked(kind::READDIR).text(&handle));
    assert_eq!(kind, kind::NAME);
    let mut fields = Fields::new(&rest);
    let mut found: Vec<Vec<u8>> = (0..fields.number().unwrap())
        .map(|_| {
            let name = fields.text().unwrap().to_vec();
            assert!(fields.text().unwrap().ends_with(&name));
            Attributes::read(&mut fields).unwrap();
            name
        })
        .collect();
    found.sort();
    let mut expected = odd.map(<[u8]>::to_vec).to_vec();
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(code(&mut handles, asked(kind::READDIR).text(&handle)), 1);
}

#[test]
fn a_path_leads_where_it_does_and_its_last_part_need_not_be_there() {
    let directory = tempfile::tempdir().unwrap();
    let real = directory.path().canonicalize().unwrap();
    std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
    let mut handles = Handles::default();
    let mut leads = |path: &Path| {
        let (kind, rest) = told(&mut handles, asked(kind::REALPATH).path(path));
        assert_eq!(kind, kind::NAME, "{}", path.display());
        Path::new(std::ffi::OsStr::from_bytes(Fields::new(&rest[4..]).text().unwrap())).to_owned()
    };
    assert_eq!(leads(Path::new("")), std::env::current_dir().unwrap().canonicalize().unwrap());
    assert_eq!(leads(&real.join("link/../new")), real.parent().unwrap().join("new"));
    assert_eq!(leads(&real.join("link/new")), real.join("new"));
    assert_eq!(code(&mut handles, asked(kind::REALPATH).path(&real.join("no/new"))), 2);
}

#[test]
fn nobody_is_waited_for_and_what_makes_no_sense_is_said_to_make_none() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    rustix::fs::mknodat(CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let mut handles = Handles::default();
    for path in [pipe.as_path(), Path::new("/dev/null"), directory.path()] {
        let status = code(&mut handles, asked(kind::OPEN).path(path).number(1).number(0));
        assert_ne!(status, 0, "{}", path.display());
    }
    for (request, expected) in [
        (asked(kind::OPEN), 5),
        (asked(kind::OPEN).text("a\0b").number(1).number(0), 5),
        (asked(kind::READ).text("none").long(0).number(1), 5),
        (asked(kind::READ).text("\0\0\0\x09").long(0).number(1), 5),
        (asked(kind::WRITE).number(u32::MAX), 5),
        (asked(kind::SETSTAT).path(&pipe).number(1 << 31).number(u32::MAX), 5),
        (asked(kind::EXTENDED).text("statvfs@openssh.com").text("/"), 8),
        (asked(99), 8),
        (asked(kind::STAT).path(&directory.path().join("no")), 2),
        (asked(kind::MKDIR).path(directory.path()).number(0), 4),
    ] {
        assert_eq!(code(&mut handles, request), expected);
    }
    // So many may be open, and no more.
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let open = || asked(kind::OPEN).path(&file).number(1).number(0);
    let first = opened(&mut handles, open());
    (1..handles::MOST).for_each(|_| drop(opened(&mut handles, open())));
    assert_eq!(code(&mut handles, open()), 4);
    assert_eq!(code(&mut handles, asked(kind::CLOSE).text(&first)), 0);
    opened(&mut handles, open());
}

#[test]
fn a_client_that_does_not_keep_to_the_protocol_is_left() {
    let mut output = Vec::new();
    let hello = [&5_u32.to_be_bytes()[..], &[kind::INIT, 0, 0, 0, 3]].concat();
    serve(&*hello, &mut output).unwrap();
    assert_eq!(output[4..9], [kind::VERSION, 0, 0, 0, 3]);
    for bad in [&[0, 0, 0, 0][..], &[0, 0, 0, 1, kind::STAT], &[0xff, 0xff, 0xff, 0xff, 0]] {
        assert!(serve(bad, &mut Vec::new()).is_err(), "{bad:?}");
    }
    // One that goes in the middle of a request has hung up, which is not ours to complain of.
    for cut in [&[0, 0][..], &[0, 0, 0, 9, kind::STAT]] {
        serve(cut, &mut Vec::new()).unwrap();
    }
}
