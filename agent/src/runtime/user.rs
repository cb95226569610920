//! As whom a process runs: what a client asks for, and what `/etc/passwd` and `/etc/group` make of it.
//!
//! Whoever owns an instance may have written anything into these files. What makes no sense in them is as if it were not
//! there, and no number is taken that Linux reads as "leave it as it is".

use skpr_proto::ssh::OWN_USER;
use std::fmt;

/// More groups than this nobody is in.
const MOST_GROUPS: usize = 1024;
/// A name that is longer is none, and neither is a path.
const LONGEST_NAME: usize = 256;
const LONGEST_HOME: usize = 4096;

/// As whom a process is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// Whom the instance itself runs as.
    Own,
    Named(String),
    Numbered {
        uid: u32,
        gid: Option<u32>,
    },
}

/// What a user is in an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Beside that one.
    pub(super) groups: Vec<u32>,
    pub(super) name: Option<String>,
    pub(super) home: Option<String>,
}

impl User {
    /// Of what a client calls itself: `skpr` for the instance's own, a name, `UID` or `UID:GID`.
    pub(crate) fn parse(text: &str) -> User {
        let numbered = match text.split_once(':') {
            Some((uid, gid)) => number(uid).zip(number(gid)).map(|(uid, gid)| (uid, Some(gid))),
            None => number(text).map(|uid| (uid, None)),
        };
        match numbered {
            _ if text == OWN_USER => User::Own,
            Some((uid, gid)) => User::Numbered { uid, gid },
            None => User::Named(text.to_owned()),
        }
    }

    /// Whether that is who runs as `uid` and `gid` anyway.
    pub(super) fn is(&self, uid: u32, gid: u32, passwd: &str) -> bool {
        match self {
            User::Own => true,
            User::Named(name) => entries(passwd).any(|entry| entry.name == name && entry.uid == uid),
            User::Numbered { uid: wanted, gid: group } => {
                *wanted == uid && group.is_none_or(|group| group == gid)
            }
        }
    }
}

/// Short and harmless, whatever a client has sent.
impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            User::Own => f.write_str(OWN_USER),
            User::Named(name) => {
                name.chars().take(100).flat_map(char::escape_debug).try_for_each(|c| write!(f, "{c}"))
            }
            User::Numbered { uid, gid: None } => write!(f, "{uid}"),
            User::Numbered { uid, gid: Some(gid) } => write!(f, "{uid}:{gid}"),
        }
    }
}

impl Account {
    /// Who that is; none for a name that is not there. A number need not be: then its group is the one of that number.
    pub(super) fn find(user: &User, passwd: &str, group: &str) -> Option<Account> {
        let (entry, numbers) = match user {
            User::Own => return None,
            User::Named(name) => {
                let entry = entries(passwd).find(|entry| entry.name == name)?;
                (Some(entry), (entry.uid, None))
            }
            User::Numbered { uid, gid } => (entries(passwd).find(|entry| entry.uid == *uid), (*uid, *gid)),
        };
        let (uid, given) = numbers;
        let gid = given.or(entry.map(|entry| entry.gid)).unwrap_or(uid);
        // Who names a group means that one.
        let groups = match entry {
            Some(entry) if given.is_none() => groups(group, entry.name, gid),
            _ => vec![],
        };
        let name = entry.map(|entry| entry.name.to_owned());
        let home = entry.and_then(|entry| entry.home).map(str::to_owned);
        Some(Account { uid, gid, groups, name, home })
    }
}

/// The name of a user, or else the number.
pub(super) fn name_of(uid: u32, passwd: &str) -> String {
    let entry = entries(passwd).find(|entry| entry.uid == uid);
    entry.map_or_else(|| uid.to_string(), |entry| entry.name.to_owned())
}

/// A line of `/etc/passwd` that makes sense.
#[derive(Clone, Copy)]
struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: Option<&'a str>,
}

fn entries(passwd: &str) -> impl Iterator<Item = Entry<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let home = fields.nth(1).filter(|home| home.starts_with('/') && is_plain(home, LONGEST_HOME));
        is_plain(name, LONGEST_NAME).then_some(Entry { name, uid: number(uid)?, gid: number(gid)?, home })
    })
}

/// The groups that list a user, but for one.
fn groups(group: &str, name: &str, but: u32) -> Vec<u32> {
    let mut found = vec![];
    for line in group.lines() {
        let mut fields = line.split(':').skip(2);
        let Some(gid) = fields.next().and_then(number) else { continue };
        let mut members = fields.next().unwrap_or_default().split(',');
        if gid != but && members.any(|member| member == name) && !found.contains(&gid) {
            found.push(gid);
        }
        if found.len() == MOST_GROUPS {
            break;
        }
    }
    found
}

/// The greatest number means "no change" to Linux, and so is nobody's.
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number != u32::MAX)
}

fn is_plain(text: &str, longest: usize) -> bool {
    !text.is_empty() && text.len() <= longest && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        site:x:1000:1001::/home/site:/bin/sh\n\
        site:x:0:0::/:/bin/sh\n\
        twin:x:1000:7::/twin:\n\
        short:x:5\n\
        minus:x:-1:0::/:\n\
        none:x:4294967295:0::/:\n\
        nogroup:x:6:4294967295::/:\n\
        big:x:4294967296:0::/:\n\
        1234:x:8:8::/:\n\
        skpr:x:9:9::/skpr:\n\
        es\u{1b}c:x:10:10::/:\n\
        ho\u{1b}me:x:11:11::/:\n\
        homeless:x:12:12::relative:\n\
        odd:x:13:13::/\u{7}:\n\
        ::::::\n\
        +::::::";
    const GROUP: &str = "root:x:0:site\nwheel:x:10:root,site\nsite:x:1001:site\nwheel:x:10:site\n\
        broken:x\nbad:x:4294967295:site\nother:x:20:sites\nlast:x:30:a,site,b";

    #[test]
    fn what_a_client_calls_itself_is_a_user() {
        let named = |name: &str| User::Named(name.to_owned());
        let numbered = |uid, gid| User::Numbered { uid, gid };
        for (text, expected) in [
            ("skpr", User::Own),
            ("root", named("root")),
            ("1000", numbered(1000, None)),
            ("1000:20", numbered(1000, Some(20))),
            ("0", numbered(0, None)),
            ("4294967294", numbered(4_294_967_294, None)),
            // Linux would take it for "as it is", which may be root.
            ("4294967295", named("4294967295")),
            ("0:4294967295", named("0:4294967295")),
            ("4294967296", named("4294967296")),
            ("+5", named("+5")),
            ("-1", named("-1")),
            ("1000:", named("1000:")),
            (":5", named(":5")),
            ("5:5:5", named("5:5:5")),
            ("", named("")),
        ] {
            assert_eq!(User::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn an_account_is_what_the_files_say_where_they_make_sense() {
        let some = |uid, gid, groups: &[u32], name: &str, home: &str| {
            let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            Some(Account { uid, gid, groups: groups.to_vec(), name: text(name), home: text(home) })
        };
        for (asked, expected) in [
            ("root", some(0, 0, &[10], "root", "/root")),
            ("0", some(0, 0, &[10], "root", "/root")),
            // The first line counts.
            ("site", some(1000, 1001, &[0, 10, 30], "site", "/home/site")),
            ("1000", some(1000, 1001, &[0, 10, 30], "site", "/home/site")),
            ("1000:5", some(1000, 5, &[], "site", "/home/site")),
            ("777", some(777, 777, &[], "", "")),
            ("777:0", some(777, 0, &[], "", "")),
            // Digits are a number.
            ("1234", some(1234, 1234, &[], "", "")),
            ("homeless", some(12, 12, &[], "homeless", "")),
            ("odd", some(13, 13, &[], "odd", "")),
            ("9", some(9, 9, &[], "skpr", "/skpr")),
            ("skpr", None),
            ("nobody", None),
            ("short", None),
            ("minus", None),
            ("none", None),
            ("nogroup", None),
            ("big", None),
            ("es\u{1b}c", None),
            ("", None),
            ("+", None),
            ("root:x", None),
        ] {
            assert_eq!(Account::find(&User::parse(asked), PASSWD, GROUP), expected, "{asked:?}");
        }
        let crowd: String = (1..100_000).map(|gid| format!("g:x:{gid}:root\n")).collect();
        let account = Account::find(&User::parse("root"), PASSWD, &crowd).unwrap();
        assert_eq!(account.groups.len(), MOST_GROUPS);
    }

    #[test]
    fn the_own_user_may_be_called_by_name_and_by_number() {
        for (asked, own) in [
            ("skpr", true),
            ("site", true),
            ("twin", true),
            ("1000", true),
            ("1000:1", true),
            ("1000:1001", false),
            ("root", false),
            ("0", false),
            ("nobody", false),
        ] {
            assert_eq!(User::parse(asked).is(1000, 1, PASSWD), own, "{asked}");
        }
        assert_eq!((name_of(1000, PASSWD), name_of(3, PASSWD)), ("site".to_owned(), "3".to_owned()));
    }

    #[test]
    fn what_is_shown_of_a_name_is_harmless() {
        let shown = User::Named(format!("\u{1b}[2J{}", "x".repeat(10_000))).to_string();
        assert!(!shown.contains('\u{1b}') && shown.len() < 200, "{shown}");
    }

    proptest::proptest! {
        #[test]
        fn no_file_is_too_odd(asked in ".{0,12}", passwd in "([a-z:,0-9\\n]{0,9}|.){0,40}", group in "([a-z:,0-9\\n]{0,9}|.){0,40}") {
            let user = User::parse(&asked);
            if let Some(account) = Account::find(&user, &passwd, &group) {
                let numbers = account.groups.iter().chain([&account.uid, &account.gid]);
                assert!({ numbers }.all(|number| *number != u32::MAX));
                user.is(account.uid, account.gid, &passwd);
            }
        }
    }
}
