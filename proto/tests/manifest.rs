//! What is said about a `.skpr.yml` that is wrong: every message whole, with its place and its hint.
//!
//! `manifest/bad.txt` is the table: a file, `-----`, the message, and a line `hint: …` where there is one. After a change of
//! a sentence it is written anew by `UPDATE=1 cargo test -p skpr-proto --test manifest`, and read before it is committed.

use skpr_proto::manifest::Manifest;
use std::fmt::Write as _;
use std::path::Path;

const TABLE: &str = include_str!("manifest/bad.txt");

fn said(yaml: &str) -> String {
    match Manifest::parse(yaml, Path::new(".skpr.yml")) {
        Ok(_) => "accepted\n".to_owned(),
        Err(error) => {
            let hint = error.hint.map_or_else(String::new, |hint| format!("hint: {hint}\n"));
            format!("{}\n{hint}", error.message)
        }
    }
}

#[test]
fn every_bad_file_is_answered_with_its_place_and_its_mend() {
    let mut table = String::new();
    let mut wrong = String::new();
    let mut cases = 0;
    for case in TABLE.split("=====\n").skip(1) {
        let (yaml, expected) = case.split_once("-----\n").unwrap();
        let found = said(yaml);
        assert!(!found.contains("s3cret"), "a secret is shown: {found}");
        assert!(found.lines().count() <= 2 && !found.contains('\u{1b}'), "{found:?}");
        write!(table, "=====\n{yaml}-----\n{found}").unwrap();
        if found != expected {
            write!(wrong, "{yaml}-----\n{found}----- expected\n{expected}\n").unwrap();
        }
        cases += 1;
    }
    if std::env::var_os("UPDATE").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifest/bad.txt");
        std::fs::write(path, table).unwrap();
        return;
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(cases >= 100, "the table has {cases} files");
}
