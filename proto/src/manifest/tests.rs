//! `.skpr.yml` as people write it, rightly, wrongly and with bad intent.

use super::*;
use proptest::prelude::*;

const EVERY_KEY: &str = r#"
project: commit-weather
image: registry.example.com/commit-weather
cluster: skpr.example.com:443
defaults: {port: 8080, health: /healthz}
environments:
  dev: {instances: {min: 1, max: 1}}
  prod:
    production: true
    cpu: 500m
    memory: {min: 256Mi, max: 1Gi}
    instances: {min: 2, max: 8, cpu: 70%}
    env: {APP_ENV: prod, WORKERS: 4}
    volumes: {files: {path: /data/app/files, size: 5Gi}}
    domains: [www.example.com]
    cron:
      drush-cron: {schedule: "*/15 * * * *", command: drush cron, timezone: Australia/Sydney, timeout: 10m, overlap: forbid}
    command: [./serve, --port, "8080"]
  staging: {cpu: {share: 500m, limit: 2}, port: 9090}
"#;

fn parse(text: &str) -> Result<Manifest, ManifestError> {
    Manifest::parse(text, Path::new(".skpr.yml"))
}

fn label(text: &str) -> Label {
    Label::parse("environment", text).unwrap()
}

/// `text` is refused with a sentence that holds `sentence` and a hint that holds `hint` ("" when there is none).
#[track_caller]
fn refused(text: &str, sentence: &str, hint: &str) {
    let error = parse(text).unwrap_err();
    assert!(error.message.contains(sentence), "{error:?}");
    assert!(!error.message.contains(['\n', '\u{1b}']), "{error:?}");
    assert!(error.message.len() < 1000, "{error:?}");
    match error.hint {
        Some(found) => assert!(!hint.is_empty() && found.contains(hint), "{found}"),
        None => assert_eq!(hint, "", "{:?}", error.message),
    }
}

#[test]
fn every_key_is_read() {
    let manifest = parse(EVERY_KEY).unwrap();
    assert_eq!(manifest.project.as_str(), "commit-weather");
    assert_eq!(manifest.cluster.as_deref(), Some("skpr.example.com:443"));
    let prod = manifest.resolve(&label("prod")).unwrap();
    assert_eq!(prod.production, Some(true));
    assert_eq!(prod.cpu, Some(Cpu { share: "500m".into(), limit: None }));
    assert_eq!(prod.instances, Some(Instances { min: 2, max: 8, cpu: Some("70%".into()) }));
    assert_eq!(prod.port.map(NonZeroU16::get), Some(8080));
    let command = prod.command.unwrap();
    assert_eq!(
        (command.program(), command.arguments()),
        ("./serve", &["--port".to_owned(), "8080".to_owned()][..])
    );
    let env = prod.env.unwrap();
    let workers = env.iter().find(|(name, _)| name.as_str() == "WORKERS").unwrap().1;
    assert_eq!(workers.as_str(), "4");
    let task = &prod.cron.unwrap()[&label("drush-cron")];
    assert_eq!((task.command.as_str(), task.overlap), ("drush cron", Overlap::Forbid));
}

#[test]
fn an_environment_overrides_the_defaults_key_by_key() {
    let manifest = parse(EVERY_KEY).unwrap();
    let staging = manifest.resolve(&label("staging")).unwrap();
    assert_eq!(staging.port.map(NonZeroU16::get), Some(9090));
    assert_eq!(staging.health.as_ref().map(HttpPath::as_str), Some("/healthz"));
    assert_eq!(staging.cpu, Some(Cpu { share: "500m".into(), limit: Some("2".into()) }));
    assert_eq!(manifest.resolve(&label("nope")), None);
}

#[test]
fn cpu_is_a_quantity_however_it_is_written() {
    for (written, share) in [("500m", "500m"), ("2", "2"), ("0.5", "0.5"), ("\"1.5\"", "1.5")] {
        let manifest = parse(&format!("project: p\nenvironments: {{dev: {{cpu: {written}}}}}\n")).unwrap();
        let cpu = manifest.resolve(&label("dev")).unwrap().cpu.unwrap();
        assert_eq!(cpu, Cpu { share: share.into(), limit: None });
    }
    refused("project: p\nenvironments:\n  dev:\n    cpu: {share: 1, limits: 2}\n", ".skpr.yml:4:", "`limit`");
}

#[test]
fn an_error_names_file_line_and_column() {
    refused("project: p\nenvironments:\n  dev:\n    instances: {min: 3, max: 2}\n", ".skpr.yml:4:", "");
    refused(
        "project: p\nenvironments:\n  dev:\n    instances: {min: 3, max: 2}\n",
        "min `3` is greater than max `2`",
        "",
    );
    refused("project: p\nenvironments:\n  dev:\n    port: eighty\n", ".skpr.yml:4:11:", "");
    refused("project: P\nenvironments: {}\n", ".skpr.yml:1:10:", "");
    refused("environments: {}\n", "`project` is missing", "");
}

#[test]
fn an_unknown_key_is_answered_with_the_nearest() {
    refused(
        "project: p\nenviroments: {}\n",
        ".skpr.yml:2:1: unknown key `enviroments`",
        "did you mean `environments`?",
    );
    refused("project: p\nenvironments:\n  dev: {prot: 1}\n", ".skpr.yml:3:9: unknown key `prot`", "`port`");
    refused("project: p\nenvironments: {}\nxyzzy: 1\n", "unknown key `xyzzy`", "the keys here are `project`");
}

#[test]
fn historic_keys_are_answered_with_todays() {
    for (historic, today) in [
        ("minInstances", "instances: {min"),
        ("maxInstances", "instances: {min"),
        ("minMemory", "memory: {min"),
        ("maxMemory", "memory: {min"),
        ("scaleCPU", "cpu"),
        ("crons", "cron: {NAME"),
    ] {
        refused(&format!("project: p\nenvironments:\n  dev: {{{historic}: 1}}\n"), historic, today);
    }
}

#[test]
fn values_that_cannot_be_meant_are_refused() {
    for bad in [
        "port: 0",
        "port: 70000",
        "health: healthz",
        "health: \"/a b\"",
        "command: []",
        "command: [\"\"]",
        "command: ./serve",
        "command: [\"a\\0b\"]",
        "env: {1A: x}",
        "env: {\"A=B\": x}",
        "env: {A: \"\\0\"}",
        "instances: 3",
        "instances: {min: -1, max: 1}",
        "instances: {min: 1, max: 100000}",
        "production: maybe",
        "cron: {a: {schedule: x, command: y, overlap: sometimes}}",
        "volumes: {../a: {path: /, size: 1}}",
    ] {
        refused(&format!("project: p\nenvironments:\n  dev:\n    {bad}\n"), ".skpr.yml:4:", "");
    }
}

#[test]
fn duplicate_keys_are_refused() {
    refused("project: a\nproject: b\nenvironments: {}\n", "`project` appears twice", "");
    refused("project: a\nenvironments: {dev: {}, dev: {}}\n", "`dev` appears twice", "");
}

#[test]
fn tabs_are_refused_with_a_hint() {
    refused("project: p\nenvironments:\n\tdev: {}\n", ".skpr.yml:", "spaces");
}

#[test]
fn a_bomb_is_an_error_and_not_an_outage() {
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..12 {
        let before = format!("*a{}", level - 1);
        bomb += &format!("a{level}: &a{level} [{}]\n", vec![before; 10].join(","));
    }
    refused(&bomb, ".skpr.yml:", "the keys here are");
    let merged = format!(
        "project: p\nenvironments:\n  dev: {{domains: [{}]}}\n",
        bomb.replace('\n', " ").replace(": ", " ")
    );
    assert!(parse(&merged).is_err());
    refused(&format!("project: {}\n", "[".repeat(100_000)), ".skpr.yml:", "");
    refused(&format!("project: {}\n", "{a: ".repeat(100_000)), ".skpr.yml:", "");
    refused(&"- ".repeat(100_000), ".skpr.yml:", "");
    let aliases = format!("project: p\nenvironments: {{dev: {{domains: [&a x{}]}}}}\n", ",*a".repeat(5_000));
    refused(&aliases, "too often", "");
}

#[test]
fn ten_megabytes_are_refused_unread() {
    refused(&"# long\n".repeat(1_500_000), "at most 1048576", "");
    let file = std::env::temp_dir().join(format!("skpr-manifest-{}.yml", std::process::id()));
    std::fs::write(&file, "x".repeat(10 << 20)).unwrap();
    let error = Manifest::load(&file).unwrap_err();
    std::fs::remove_file(&file).unwrap();
    assert!(error.message.contains("at most 1048576"), "{error}");
}

#[test]
fn text_from_the_file_cannot_drive_a_terminal() {
    refused("\"\\e[31mred\\n\": 1\n", "unknown key", "the keys");
    refused("project: \"\\e[31m\"\nenvironments: {}\n", ".skpr.yml:1", "");
}

#[test]
fn more_than_one_document_is_refused() {
    refused("project: p\nenvironments: {}\n---\nproject: q\nenvironments: {}\n", ".skpr.yml:", "");
}

#[test]
fn it_is_found_walking_up() {
    let root = std::env::temp_dir().join(format!("skpr-find-{}", std::process::id()));
    std::fs::create_dir_all(root.join("a/b")).unwrap();
    std::fs::write(root.join(FILE_NAME), "").unwrap();
    let found = Manifest::find(&root.join("a/b"));
    std::fs::remove_dir_all(&root).unwrap();
    assert_eq!(found, Some(root.join(FILE_NAME)));
}

proptest! {
    #[test]
    fn no_text_panics(text in "[ -~\\n\\t]{0,300}") {
        drop(parse(&text));
    }

    #[test]
    fn no_edit_of_a_good_file_panics(at in 0..EVERY_KEY.len(), insert in ".{0,4}") {
        if EVERY_KEY.is_char_boundary(at) {
            let mut text = EVERY_KEY.to_owned();
            text.insert_str(at, &insert);
            drop(parse(&text));
        }
    }
}
