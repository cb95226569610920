//! What reviewers would otherwise have to remember: the size and shape of files, which crate may use which, and links
//! that lead somewhere. Every rule is checked over everything that git knows; there is no list of exceptions.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The most lines of a source file, its tests left out.
const MAX_LINES: usize = 600;
/// The map of the code is one sitting's read.
const MAX_ARCHITECTURE_LINES: usize = 150;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The files with this ending that git tracks or would track.
fn files(ending: &str) -> Vec<(PathBuf, String)> {
    let arguments = ["ls-files", "--cached", "--others", "--exclude-standard", "-z"];
    let listed = Command::new("git").args(arguments).current_dir(root()).output().unwrap();
    assert!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stdout).unwrap();
    let paths: BTreeSet<PathBuf> =
        listed.split('\0').filter(|path| path.ends_with(ending)).map(PathBuf::from).collect();
    // A file that git still lists may have been deleted just now.
    paths
        .into_iter()
        .filter_map(|path| Some((path.clone(), fs::read_to_string(root().join(path)).ok()?)))
        .collect()
}

/// The lines before the tests that close a file.
fn code(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines
        .windows(2)
        .position(|pair| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{'));
    lines[..tests.unwrap_or(lines.len())].to_vec()
}

/// The files and folders that are compiled for tests only: `tests` themselves, and the modules marked so.
fn test_paths(sources: &[(PathBuf, String)]) -> Vec<PathBuf> {
    let mut paths = vec![PathBuf::from("tests")];
    for (path, text) in sources {
        let lines: Vec<&str> = text.lines().collect();
        let marked = lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]");
        for name in marked.filter_map(|pair| pair[1].strip_prefix("mod ")?.strip_suffix(';')) {
            let is_root = ["lib.rs", "main.rs"].iter().any(|root| path.ends_with(root));
            let folder = if is_root { path.parent().unwrap().to_owned() } else { path.with_extension("") };
            paths.extend([folder.join(name), folder.join(name).with_extension("rs")]);
        }
    }
    paths
}

#[track_caller]
fn none(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn source_files_are_short() {
    let sources = files(".rs");
    let tests = test_paths(&sources);
    let shipped = sources.iter().filter(|(path, _)| !tests.iter().any(|test| path.starts_with(test)));
    let long = shipped.filter_map(|(path, text)| {
        let lines = code(text).len();
        (lines > MAX_LINES).then(|| format!("{}: {lines} lines, more than {MAX_LINES}", path.display()))
    });
    none(long.collect());
}

#[test]
fn every_source_file_says_what_it_owns() {
    let silent = files(".rs").into_iter().filter(|(_, text)| !text.starts_with("//! "));
    none(silent.map(|(path, _)| format!("{}: has no module documentation", path.display())).collect());
}

#[test]
fn nothing_is_left_unfinished() {
    // Put together here, so that this file does not find itself.
    let marks = [
        ["FIX", "ME"],
        ["XX", "X"],
        ["todo", "!("],
        ["unimplemented", "!("],
        ["dbg", "!("],
        ["tokio::spa", "wn("],
    ];
    let marks = marks.map(|halves| halves.concat());
    let mut found = vec![];
    for (path, text) in files(".rs").into_iter().chain(files(".proto")) {
        for (number, line) in text.lines().enumerate() {
            found.extend(
                marks
                    .iter()
                    .filter(|mark| line.contains(mark.as_str()))
                    .map(|mark| format!("{}:{}: `{mark}`", path.display(), number + 1)),
            );
        }
    }
    none(found);
}

#[test]
fn exceptions_to_lints_have_a_reason() {
    let mut found = vec![];
    for (path, text) in files(".rs") {
        // An attribute may go on over several lines.
        for (at, _) in text.match_indices(&["[exp", "ect("].concat()) {
            let attribute = text[at..].split(']').next().unwrap();
            if !attribute.contains("reason") {
                found.push(format!("{}: `#{attribute}]` gives no reason", path.display()));
            }
        }
    }
    none(found);
}

/// The members of the workspace that a member depends on, outside of its own tests.
fn members_used_by(member: &str) -> BTreeSet<String> {
    let manifest = fs::read_to_string(root().join(member).join("Cargo.toml")).unwrap();
    let mut section = "";
    let mut used = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        }
        let name = line.split(['.', ' ', '=']).next().unwrap();
        if section.ends_with("dependencies]") && !section.contains("dev-") && !name.is_empty() {
            used.insert(name.to_owned());
        }
    }
    used
}

#[test]
fn dependencies_point_one_way() {
    let forbidden = [
        ("proto", ["skpr", "skpr-agent", "skpr-aggregator", "skpr-tests", "kube", "k8s-openapi"].as_slice()),
        // One engine used at both ends: it knows neither a network nor a runtime.
        (
            "rsync",
            &["skpr", "skpr-proto", "skpr-agent", "skpr-aggregator", "skpr-tests", "tokio", "tonic", "kube"],
        ),
        ("agent", &["skpr", "skpr-aggregator", "skpr-tests", "kube", "k8s-openapi"]),
        ("aggregator", &["skpr", "skpr-tests"]),
        ("cli", &["skpr-agent", "skpr-aggregator", "skpr-tests", "kube", "k8s-openapi"]),
    ];
    let mut found = vec![];
    for (member, others) in forbidden {
        let used = members_used_by(member);
        assert!(
            ["prost", "skpr-proto", "thiserror"].iter().any(|name| used.contains(*name)),
            "read {member}'s dependencies: {used:?}"
        );
        found.extend(
            others
                .iter()
                .filter(|other| used.contains(**other))
                .map(|other| format!("{member} must not depend on {other}")),
        );
    }
    none(found);
}

/// The targets of `[text](target)` outside of code.
fn links(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut targets = vec![];
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join(" ");
        targets.extend(prose.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())));
    }
    targets
}

#[test]
fn links_lead_somewhere() {
    let mut broken = vec![];
    for (path, text) in files(".md") {
        let folder = root().join(path.parent().unwrap());
        for link in links(&text) {
            let file = link.split('#').next().unwrap();
            let elsewhere = file.is_empty() || file.contains("://") || file.starts_with("mailto:");
            if !elsewhere && !folder.join(file).exists() {
                broken.push(format!("{}: `{link}` leads nowhere", path.display()));
            }
        }
    }
    none(broken);
}

#[test]
fn the_map_of_the_code_is_one_sitting() {
    let Ok(text) = fs::read_to_string(root().join("ARCHITECTURE.md")) else { return };
    let lines = text.lines().count();
    assert!(
        lines <= MAX_ARCHITECTURE_LINES,
        "ARCHITECTURE.md: {lines} lines, more than {MAX_ARCHITECTURE_LINES}"
    );
}

#[test]
fn the_map_of_the_code_names_files_that_there_are() {
    let Ok(text) = fs::read_to_string(root().join("ARCHITECTURE.md")) else { return };
    let sources: Vec<PathBuf> = files(".rs").into_iter().map(|(path, _)| path).collect();
    let named = text.split('`').skip(1).step_by(2).filter(|name| name.ends_with(".rs"));
    let missing =
        named.filter(|name| !name.contains('<') && !sources.iter().any(|path| path.ends_with(name)));
    none(missing.map(|name| format!("ARCHITECTURE.md: there is no `{name}`")).collect());
}

#[test]
fn the_chart_has_the_version_of_the_programs() {
    let chart = fs::read_to_string(root().join("charts/skpr/Chart.yaml")).unwrap();
    for key in ["version", "appVersion"] {
        let line = format!("\n{key}: {}\n", env!("CARGO_PKG_VERSION"));
        assert!(
            chart.contains(&line),
            "charts/skpr/Chart.yaml: `{key}` is not {}",
            env!("CARGO_PKG_VERSION")
        );
    }
}
