//! How a process is started in a container: as the container's own first process, but for what is asked.
//!
//! User, groups, capabilities, limits, labels of AppArmor and SELinux and `noNewPrivileges` stay as they are, and so does
//! what this version does not know. The system call filter, the cgroups and the namespaces are the container's anyway.
//!
//! Another user may be asked for where the container's own process could become it, and never has more than that.

use super::super::user::Account;
use super::super::{StartError, Terminal};
use crate::worker::{Way, of_files};
use serde_json::{Map, Value, json};

/// What is asked of a process.
pub(super) struct Asked<'a> {
    pub(super) words: &'a [String],
    pub(super) variables: &'a [(String, String)],
    pub(super) terminal: Option<&'a Terminal>,
    /// Another than the container's own.
    pub(super) user: Option<&'a Account>,
}

/// The process to start, of how the container's own was started.
pub(super) fn process(own: &Value, asked: &Asked<'_>) -> Result<Value, StartError> {
    if asked.words.first().is_none_or(String::is_empty) {
        return Err(StartError::Empty);
    }
    let mut process = own.as_object().cloned().unwrap_or_default();
    let mut variables: Vec<(String, String)> = variables(&process);
    if let Some(user) = asked.user {
        change_user(&mut process, user);
        variables.retain(|(name, _)| !["HOME", "USER", "LOGNAME"].contains(&name.as_str()));
        let known = [("HOME", &user.home), ("USER", &user.name), ("LOGNAME", &user.name)];
        variables
            .extend(known.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?))));
    }
    variables.extend(asked.variables.iter().cloned());
    if let Some(terminal) = asked.terminal {
        variables.push(("TERM".to_owned(), terminal.kind.clone()));
        let size = json!({"width": terminal.size.columns(), "height": terminal.size.rows()});
        process.insert("consoleSize".to_owned(), size);
    } else {
        process.remove("consoleSize");
    }
    process.insert("args".to_owned(), json!(asked.words));
    process.insert("env".to_owned(), json!(one_each(variables)));
    process.insert("terminal".to_owned(), json!(asked.terminal.is_some()));
    // It is for Windows, and would be run instead.
    process.remove("commandLine");
    Ok(Value::Object(process))
}

/// The container's own value of a variable.
pub(super) fn variable(own: &Value, name: &str) -> Option<String> {
    let all = variables(own.as_object()?);
    all.into_iter().rev().find(|(known, _)| known == name).map(|(_, value)| value)
}

/// The user that the container runs as.
pub(super) fn uid(own: &Value) -> u32 {
    number(own, "/user/uid")
}

/// And the group.
pub(super) fn gid(own: &Value) -> u32 {
    number(own, "/user/gid")
}

fn number(own: &Value, place: &str) -> u32 {
    let number = own.pointer(place).and_then(Value::as_u64);
    number.and_then(|number| u32::try_from(number).ok()).unwrap_or(0)
}

/// Whether the container's own process could become another user. Of what stands here, root has what is effective and
/// within bounds once its program runs; any other user has what is ambient, and nothing else.
pub(super) fn may_change_user(own: &Value) -> bool {
    let sets: &[&str] = if uid(own) == 0 { &["effective", "bounding"] } else { &["ambient"] };
    sets.iter().all(|set| {
        let kept = own.pointer("/capabilities").and_then(|all| all.get(set)).and_then(Value::as_array);
        let has = |name: &str| kept.is_some_and(|kept| kept.iter().any(|capability| capability == name));
        has("CAP_SETUID") && has("CAP_SETGID")
    })
}

/// As a login does it: who is not root has no capability, and what is out of bounds stays so.
fn change_user(process: &mut Map<String, Value>, user: &Account) {
    let ids = process.entry("user").or_insert_with(|| json!({}));
    if let Some(ids) = ids.as_object_mut() {
        ids.insert("uid".to_owned(), json!(user.uid));
        ids.insert("gid".to_owned(), json!(user.gid));
        ids.insert("additionalGids".to_owned(), json!(user.groups));
    }
    if user.uid != 0
        && let Some(capabilities) = process.get_mut("capabilities").and_then(Value::as_object_mut)
    {
        for set in ["effective", "permitted", "inheritable", "ambient"] {
            capabilities.insert(set.to_owned(), json!([]));
        }
    }
}

/// How to come to where its first process is, and be what it is, as far as the specification says it.
pub(super) fn way(own: &Value) -> Way {
    let number = |path: &str| own.pointer(path).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
    let list = |path: &str| own.pointer(path).and_then(Value::as_array).into_iter().flatten();
    let groups = list("/user/additionalGids").filter_map(|id| u32::try_from(id.as_u64()?).ok());
    Way {
        uid: uid(own),
        gid: number("/user/gid").unwrap_or(0),
        groups: groups.collect(),
        capabilities: of_files(list("/capabilities/effective").filter_map(Value::as_str)),
        directory: own.get("cwd").and_then(Value::as_str).unwrap_or("/").into(),
        ..Way::default()
    }
}

fn variables(process: &Map<String, Value>) -> Vec<(String, String)> {
    let all = process.get("env").and_then(Value::as_array).into_iter().flatten();
    let pairs = all.filter_map(|pair| pair.as_str()?.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// `NAME=VALUE`, each name once: what comes later counts.
fn one_each(variables: Vec<(String, String)>) -> Vec<String> {
    let mut kept: Vec<(String, String)> = vec![];
    for (name, value) in variables {
        match kept.iter_mut().find(|(known, _)| *known == name) {
            Some(pair) => pair.1 = value,
            None => kept.push((name, value)),
        }
    }
    kept.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::Size;
    use super::*;

    fn own() -> Value {
        json!({
            "terminal": false,
            "consoleSize": {"width": 1, "height": 1},
            "user": {"uid": 1000, "gid": 1000, "additionalGids": [5]},
            "args": ["/serve"],
            "env": ["PATH=/bin", "SITE=a", "SITE=b", "EMPTY=", "odd"],
            "cwd": "/app",
            "capabilities": {"bounding": ["CAP_CHOWN"]},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
            "apparmorProfile": "cri-containerd.apparmor.d",
            "selinuxLabel": "x",
            "oomScoreAdj": 1000,
            "ofAnotherVersion": {"a": 1}
        })
    }

    #[test]
    fn nothing_changes_but_what_is_asked() {
        let words = ["echo".to_owned(), "a b".to_owned()];
        let variables = [("LANG".to_owned(), "C".to_owned()), ("SITE".to_owned(), "c".to_owned())];
        let asked = Asked { words: &words, variables: &variables, terminal: None, user: None };
        let process = process(&own(), &asked).unwrap();
        let mut expected = own();
        let changed = expected.as_object_mut().unwrap();
        changed.insert("args".into(), json!(["echo", "a b"]));
        changed.insert("env".into(), json!(["PATH=/bin", "SITE=c", "EMPTY=", "LANG=C"]));
        changed.remove("consoleSize");
        assert_eq!(process, expected);
    }

    #[test]
    fn a_terminal_has_a_name_and_a_size_from_the_first_byte_on() {
        let terminal = Terminal { kind: "xterm".into(), size: Size::of(132, 43), modes: vec![] };
        let asked =
            Asked { words: &["sh".to_owned()], variables: &[], terminal: Some(&terminal), user: None };
        let process = process(&own(), &asked).unwrap();
        assert_eq!(process["terminal"], true);
        assert_eq!(process["consoleSize"], json!({"width": 132, "height": 43}));
        assert!(process["env"].as_array().unwrap().contains(&json!("TERM=xterm")));
    }

    #[test]
    fn what_a_container_does_not_say_is_as_usual() {
        let own = own();
        assert_eq!(variable(&own, "SITE").as_deref(), Some("b"));
        assert_eq!(variable(&own, "NONE"), None);
        assert_eq!(uid(&own), 1000);
        assert_eq!((uid(&json!({})), gid(&json!({}))), (0, 0));
        assert_eq!(gid(&own), 1000);
        let asked = Asked { words: &[String::new()], variables: &[], terminal: None, user: None };
        assert!(matches!(process(&own, &asked), Err(StartError::Empty)));
    }
    #[test]
    fn only_what_could_become_another_user_by_itself_may() {
        let both = json!(["CAP_KILL", "CAP_SETGID", "CAP_SETUID"]);
        for (uid, capabilities, may) in [
            (0, json!({"effective": both, "permitted": both, "bounding": both}), true),
            (0, json!({"effective": ["CAP_SETUID"], "bounding": both}), false),
            (0, json!({"effective": both, "bounding": []}), false),
            (0, json!({"bounding": both}), false),
            (0, json!({"effective": both}), false),
            (0, json!({}), false),
            (0, json!("all"), false),
            // What stands there for a user who is not root is gone when the program runs.
            (
                1000,
                json!({"effective": both, "permitted": both, "bounding": both, "inheritable": both}),
                false,
            ),
            (1000, json!({"ambient": both, "effective": both, "permitted": both, "bounding": both}), true),
        ] {
            let own = json!({"user": {"uid": uid}, "capabilities": capabilities});
            assert_eq!(may_change_user(&own), may, "{own}");
        }
        assert!(!may_change_user(&json!({})));
    }

    #[test]
    fn another_user_has_what_a_login_has_and_never_more_than_the_container() {
        let both = json!(["CAP_SETGID", "CAP_SETUID"]);
        let mut own = own();
        own["user"] = json!({"uid": 0, "gid": 0, "additionalGids": [5], "umask": 18});
        own["env"] = json!(["PATH=/bin", "HOME=/root", "USER=root"]);
        own["capabilities"] = json!({"effective": both, "permitted": both, "bounding": both});
        let started = |uid: u32, name: Option<&str>| {
            let name = name.map(str::to_owned);
            let home = name.as_ref().map(|name| format!("/home/{name}"));
            let user = Account { uid, gid: 7, groups: vec![8, 9], name, home };
            let asked =
                Asked { words: &["id".to_owned()], variables: &[], terminal: None, user: Some(&user) };
            process(&own, &asked).unwrap()
        };
        let site = started(1000, Some("site"));
        assert_eq!(site["user"], json!({"uid": 1000, "gid": 7, "additionalGids": [8, 9], "umask": 18}));
        assert_eq!(site["env"], json!(["PATH=/bin", "HOME=/home/site", "USER=site", "LOGNAME=site"]));
        let none = json!([]);
        let expected = json!({
            "effective": none, "permitted": none, "inheritable": none, "ambient": none, "bounding": both
        });
        assert_eq!(site["capabilities"], expected);
        for kept in
            ["noNewPrivileges", "apparmorProfile", "selinuxLabel", "rlimits", "cwd", "ofAnotherVersion"]
        {
            assert_eq!(site[kept], own[kept], "{kept}");
        }
        // Root's home is nobody else's.
        assert_eq!(started(777, None)["env"], json!(["PATH=/bin"]));
        // Root with another group stays what the container's root is.
        assert_eq!(started(0, Some("root"))["capabilities"], own["capabilities"]);
    }
}
