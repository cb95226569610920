//! `validate` and `config`: offline, with nothing but a file.

use crate::{Home, run};

const MANIFEST: &str = r#"project: shop
image: registry.example.com/shop
defaults: {port: 8080, health: /healthz, env: {APP_ENV: "production", PASSWORD: s3cret, DEBUG: "false"}}
environments:
  prod:
    production: true
    cpu: {share: 500m, limit: 2}
    memory: {min: 256Mi, max: 1Gi}
    instances: {min: 2, max: 8, cpu: 70%}
    volumes: {files: {path: /data/files, size: 5Gi}}
    domains: [www.example.com, example.com]
    cron:
      tidy: {schedule: "0 3 29 2 *", command: tidy up, timezone: Australia/Sydney, timeout: 10m}
    command: [./serve, --port, "8080"]
  dev: {cpu: 0.5}
"#;

/// Nothing of a home or of a login is there.
fn offline(home: &Home, arguments: &[&str]) -> String {
    run(home.skpr(arguments).env_remove("HOME").env_remove("SKPR_CONFIG_DIR"), None)
}

#[test]
fn a_right_file_is_shown_by_environment() {
    let home = Home::new();
    home.write(".skpr.yml", MANIFEST);
    let shown = offline(&home, &["validate"]);
    // When a task is next due depends on today.
    let shown = shown.split("shop/prod: task").next().unwrap();
    insta::assert_snapshot!(shown);
    let shown = offline(&home, &["validate"]);
    let due = "task tidy is due at 03:00 on 29 February (Australia/Sydney): 20";
    assert!(shown.contains(due) && shown.contains("-02-29 03:00, "), "{shown}");
    assert!(!shown.contains("s3cret"), "{shown}");
    assert!(offline(&home, &["validate", "-q"]).ends_with("--- stderr\n"));
    let json = offline(&home, &["validate", "-o", "json"]);
    assert!(json.contains("\"variables\": [") && !json.contains("s3cret"), "{json}");
    let below = home.0.path().join("web");
    std::fs::create_dir(&below).unwrap();
    for arguments in [
        &["validate", "-o", "name"][..],
        &["validate", "..", "-o", "name"],
        &["validate", "../.skpr.yml", "-o", "name"],
    ] {
        let shown = run(home.skpr(arguments).current_dir(&below), None);
        assert!(shown.starts_with("exit 0\n--- stdout\nshop/dev\nshop/prod\n"), "{shown}");
    }
}

#[test]
fn every_problem_is_said_and_the_exit_code_is_five() {
    let home = Home::new();
    home.write(
        ".skpr.yml",
        "project: shop\nenvironments:\n  dev: {instances: {min: 3, max: 2}}\n  all: {health: /healthz}\n",
    );
    insta::assert_snapshot!(offline(&home, &["validate", "."]));
    insta::assert_snapshot!(offline(&home, &["validate", ".", "-o", "json"]));
    home.write(".skpr.yml", "project: shop\nenvironments:\n  dev: {memory: {max: 512}}\n");
    insta::assert_snapshot!(offline(&home, &["validate", ".skpr.yml"]));
    let shown = offline(&home, &["validate", "nowhere.yml"]);
    assert!(
        shown.starts_with("exit 5\n--- stdout\n--- stderr\nerror: nowhere.yml: cannot be read: "),
        "{shown}"
    );
}

#[test]
fn the_settings_of_an_environment_are_shown_with_defaults() {
    let home = Home::new();
    home.write(".skpr.yml", MANIFEST);
    insta::assert_snapshot!(offline(&home, &["config", "show", "prod"]));
    insta::assert_snapshot!(offline(&home, &["config", "show", "shop/dev", "-o", "json"]));
    let path = home.0.path().canonicalize().unwrap().display().to_string();
    let shown = |arguments: &[&str]| offline(&home, arguments).replace(&path, "HOME");
    insta::assert_snapshot!(shown(&["config", "show", "prd"]));
    assert!(shown(&["config", "show", "blog/prod"]).starts_with("exit 2\n"));
    assert!(shown(&["config", "show", "Prod"]).starts_with("exit 2\n"));
}

#[test]
fn what_is_shown_can_be_written_into_a_file_again() {
    let home = Home::new();
    home.write(".skpr.yml", MANIFEST);
    let shown = offline(&home, &["config", "show", "prod"]);
    let yaml = shown.split("--- stdout\n").nth(1).unwrap().split("--- stderr").next().unwrap();
    let indented: String = yaml.lines().map(|line| format!("    {line}\n")).collect();
    home.write(".skpr.yml", &format!("project: shop\nenvironments:\n  prod:\n{indented}"));
    assert_eq!(offline(&home, &["config", "show", "prod"]), shown);
}

#[test]
fn the_schema_is_json() {
    let shown = offline(&Home::new(), &["config", "schema"]);
    let json = shown.strip_prefix("exit 0\n--- stdout\n").unwrap().strip_suffix("--- stderr\n").unwrap();
    let schema: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(schema["required"], serde_json::json!(["project", "environments"]));
}
