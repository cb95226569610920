//! Stock rsync as the judge: random trees and random options, and both must leave the same and tell the same of it.

use crate::harness::{Way, archive, bytes, content, noise, state, trees};
use proptest::prelude::*;
use skpr_rsync::options::{Delete, Options};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a name stands for in a tree.
#[derive(Clone, Debug)]
enum Node {
    File {
        content: u8,
        length: usize,
        mode: u32,
        time: u64,
    },
    Link {
        target: u8,
        time: u64,
    },
    Directory {
        mode: u32,
        time: u64,
        entries: BTreeMap<u8, Node>,
    },
    /// Another name of a file of the same tree's top.
    Twin,
}

const NAMES: [&str; 7] = ["a", "b.log", "c d", "\u{e4}\u{f6}", "e.txt", "keep", "tmp"];

fn leaf() -> impl Strategy<Value = Node> {
    let length = prop_oneof![Just(0), 1_usize..50, 500_usize..5000, Just(70_000)];
    let file = (0_u8..3, length, prop_oneof![Just(0o644), Just(0o600), Just(0o755)], 0_u64..3)
        .prop_map(|(content, length, mode, time)| Node::File { content, length, mode, time });
    let link = (0_u8..2, 0_u64..2).prop_map(|(target, time)| Node::Link { target, time });
    prop_oneof![6 => file, 2 => link, 1 => Just(Node::Twin)]
}

fn tree() -> impl Strategy<Value = Node> {
    let entries = |inner| proptest::collection::btree_map(0_u8..7, inner, 0..5);
    let directory = move |inner: BoxedStrategy<Node>| {
        let mode = prop_oneof![Just(0o755), Just(0o700), Just(0o711)];
        (mode, 0_u64..3, entries(inner)).prop_map(|(mode, time, entries)| Node::Directory {
            mode,
            time,
            entries,
        })
    };
    let deep = leaf().prop_recursive(3, 24, 5, move |inner| directory(inner).boxed());
    (0_u64..3, entries(deep.boxed())).prop_map(|(time, entries)| Node::Directory {
        mode: 0o755,
        time,
        entries,
    })
}

fn time(seconds: u64) -> std::time::SystemTime {
    std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000 + seconds * 100)
}

fn build(node: &Node, at: &Path, first: &mut Option<PathBuf>) {
    match node {
        Node::File { content, length, mode, time: seconds } => {
            fs::write(at, noise(u64::from(*content), *length)).unwrap();
            fs::set_permissions(at, fs::Permissions::from_mode(*mode)).unwrap();
            fs::File::open(at).unwrap().set_modified(time(*seconds)).unwrap();
            first.get_or_insert_with(|| at.to_owned());
        }
        Node::Link { target, time } => {
            symlink(NAMES[usize::from(*target)], at).unwrap();
            let seconds = 1_000_000_000 + time * 100;
            let stamp = format!("@{seconds}");
            assert!(Command::new("touch").args(["-h", "-d", &stamp]).arg(at).status().unwrap().success());
        }
        Node::Directory { mode, time: seconds, entries } => {
            fs::create_dir_all(at).unwrap();
            entries.iter().for_each(|(name, node)| build(node, &at.join(NAMES[usize::from(*name)]), first));
            fs::set_permissions(at, fs::Permissions::from_mode(*mode)).unwrap();
            fs::File::open(at).unwrap().set_modified(time(*seconds)).unwrap();
        }
        Node::Twin => {
            if let Some(first) = first {
                fs::hard_link(first, at).unwrap();
            }
        }
    }
}

/// Options of ours and the same ones of rsync's.
#[derive(Clone, Debug)]
struct Flags {
    /// Of `-t`, `-p`, `-H`, `-c`, `-u`, `-S`, `-n`, delete, links.
    on: [bool; 9],
    rules: Vec<&'static str>,
    chmod: Option<&'static str>,
}

fn flags() -> impl Strategy<Value = Flags> {
    let rules = ["- *.log", "+ keep", "- /tmp", "- a/", "P e.txt", "H c*", "- keep", "- /*/a"];
    let rules = proptest::sample::subsequence(rules.to_vec(), 0..3).prop_shuffle();
    let chmod =
        proptest::option::weighted(0.2, proptest::sample::select(vec!["D711,F640", "go-rwx", "a+rX"]));
    let on = [0.8, 0.8, 0.2, 0.2, 0.2, 0.2, 0.2, 0.5, 0.9].map(proptest::bool::weighted);
    (on, rules, chmod).prop_map(|(on, rules, chmod)| Flags { on, rules, chmod })
}

impl Flags {
    fn ours(&self) -> Options {
        let [times, perms, hard_links, checksum, update, sparse, dry_run, delete, links] = self.on;
        let mut options =
            Options { times, perms, hard_links, checksum, update, sparse, dry_run, links, ..archive() };
        options.delete = if delete { Delete::EvenAll } else { Delete::No };
        for rule in &self.rules {
            options.filters.rule(rule.as_bytes(), &|_| Err(std::io::ErrorKind::NotFound.into())).unwrap();
        }
        if let Some(chmod) = self.chmod {
            options.chmod = skpr_rsync::chmod::Chmod::parse(chmod, 0o022).unwrap();
        }
        options
    }

    fn rsyncs(&self) -> Vec<String> {
        let names = ["-t", "-p", "-H", "-c", "-u", "-S", "-n", "--delete", "-l"];
        let mut arguments: Vec<String> =
            names.iter().zip(self.on).filter(|(_, on)| *on).map(|(name, _)| (*name).to_owned()).collect();
        arguments.extend(["-rgoD", "-i", "-8"].map(str::to_owned));
        arguments.extend(self.rules.iter().map(|rule| format!("--filter={rule}")));
        arguments.extend(self.chmod.map(|chmod| format!("--chmod={chmod}")));
        arguments
    }
}

/// Runs the judge, and returns the lines of what it changed.
fn rsync(from: &Path, to: &Path, arguments: &[String]) -> Vec<String> {
    let from = [&bytes(from)[..], b"/"].concat();
    let output = Command::new("rsync")
        .args(arguments)
        .arg(String::from_utf8(from).unwrap())
        .arg(to)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap_or_else(|error| panic!("run rsync, which this test needs: {error}"));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<String> = text
        .lines()
        .filter(|line| {
            !line.starts_with("skipping") && !line.starts_with("cannot delete") && !line.is_empty()
        })
        .map(ToOwned::to_owned)
        .collect();
    lines.sort();
    lines
}

/// A line without what a link leads to: rsync shows it in other places, too.
fn class(line: &str) -> String {
    line.split(" -> ").next().unwrap_or(line).split(" => ").next().unwrap_or(line).to_owned()
}

fn check(source: &Node, target: &Node, flags: &Flags, way: Way) -> Result<(), TestCaseError> {
    if flags.on[6] && flags.rules.contains(&"P e.txt") {
        // In a dry run rsync does not look whether what is protected keeps a directory.
        return Ok(());
    }
    let trees = trees();
    let theirs = trees.root.path().join("theirs");
    build(source, &trees.from, &mut None);
    build(target, &trees.to, &mut None);
    build(target, &theirs, &mut None);
    let expected = rsync(&trees.from, &theirs, &flags.rsyncs());
    let done = content(way, &trees.from, &trees.to, &flags.ours());
    if flags.on[2] && done.problems.iter().any(|problem| problem.ends_with("in the way")) {
        // There rsync links late, and leaves other times at directories than it should.
        return Ok(());
    }
    let mut ours = done.lines.clone();
    if !flags.on[8] {
        // rsync tells of every link that it skips.
        ours.retain(|line| !line.contains("skipped"));
    }
    let (mine, others) = (comparable(&trees.to, flags), comparable(&theirs, flags));
    prop_assert_eq!(
        mine,
        others,
        "{:?}\nrsync: {:#?}\nours: {:#?} {:#?}",
        flags.rsyncs(),
        expected,
        ours,
        done.problems
    );
    // Which of the names of one file is transferred, and which ones become links to it, is anybody's choice.
    let linked = |class: &String| {
        let path = class.get(12..).map(|path| trees.from.join(path));
        let meta = path.and_then(|path| path.symlink_metadata().ok());
        flags.on[2] && meta.is_some_and(|meta| meta.is_file() && meta.nlink() > 1)
    };
    let classes = |lines: &[String]| {
        let classes = lines.iter().map(|line| class(line)).filter(|class| !linked(class));
        classes.collect::<std::collections::BTreeSet<_>>()
    };
    prop_assert_eq!(classes(&ours), classes(&expected), "{:?}", flags.rsyncs());
    Ok(())
}

/// The state of a tree, without times that nobody sets.
fn comparable(root: &Path, flags: &Flags) -> BTreeMap<String, String> {
    let mut state = state(root);
    // What was changed in the test has one time or another.
    for text in state.values_mut() {
        let words = text
            .split(' ')
            .map(|word| if word.len() == 10 && word > "11" && word.starts_with('1') { "now" } else { word });
        *text = words.collect::<Vec<_>>().join(" ");
    }
    if !flags.on[0] {
        for text in state.values_mut() {
            let words: Vec<&str> = text.split(' ').collect();
            // Kind and mode, then the time, for all but links, whose time is last.
            *text = match words[0] {
                "link" => words[1].to_owned(),
                _ => words
                    .iter()
                    .filter(|word| !(word.len() == 10 && word.starts_with('1') || **word == "now"))
                    .copied()
                    .collect::<Vec<_>>()
                    .join(" "),
            };
        }
    }
    if !flags.on[2] {
        for text in state.values_mut() {
            *text = text.split(" of ").next().unwrap_or(text).to_owned();
        }
    }
    state
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn random_trees_become_what_rsync_makes_of_them(source in tree(), target in tree(), flags in flags(), push: bool) {
        check(&source, &target, &flags, if push { Way::Push } else { Way::Pull })?;
    }
}
