//! `.skpr.yml` as people write it, rightly, wrongly and with bad intent.

use super::*;
use proptest::prelude::*;
use std::num::NonZeroU16;

fn cpu(share: &str, limit: Option<&str>) -> Cpu {
    let parse = |text| CpuQuantity::parse(text).unwrap();
    Cpu { share: parse(share), limit: limit.map(parse) }
}

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

/// `text` is refused with a sentence that holds `sentence`. Whole messages are in the table of `tests/manifest.rs`.
#[track_caller]
fn refused(text: &str, sentence: &str) {
    let error = parse(text).unwrap_err();
    assert!(error.message.contains(sentence), "{error:?}");
    assert!(!error.message.contains(['\n', '\u{1b}']), "{error:?}");
    assert!(error.message.len() < 1000, "{error:?}");
}

#[test]
fn every_key_is_read() {
    let manifest = parse(EVERY_KEY).unwrap();
    assert_eq!(manifest.project.as_str(), "commit-weather");
    assert_eq!(manifest.cluster.as_deref(), Some("skpr.example.com:443"));
    let prod = manifest.resolve(&label("prod")).unwrap();
    assert_eq!(prod.production, Some(true));
    assert_eq!(prod.cpu, Some(cpu("500m", None)));
    assert_eq!(prod.instances, Some(Instances { min: 2, max: 8, cpu: Percent::parse("70%").ok() }));
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
    assert_eq!(staging.cpu, Some(cpu("500m", Some("2"))));
    assert_eq!(manifest.resolve(&label("nope")), None);
}

#[test]
fn cpu_is_a_quantity_however_it_is_written() {
    for (written, share) in [("500m", "500m"), ("2", "2"), ("0.5", "0.5"), ("\"1.5\"", "1.5")] {
        let manifest = parse(&format!("project: p\nenvironments: {{dev: {{cpu: {written}}}}}\n")).unwrap();
        let cpu = manifest.resolve(&label("dev")).unwrap().cpu.unwrap();
        assert_eq!((cpu.share.as_str(), cpu.limit), (share, None));
    }
    refused("project: p\nenvironments:\n  dev:\n    cpu: {share: 1, limits: 2}\n", ".skpr.yml:4:");
}

#[test]
fn a_bomb_is_an_error_and_not_an_outage() {
    let mut levels = vec!["&a0 [x,x,x,x,x,x,x,x,x,x]".to_owned()];
    for level in 1..12 {
        let before = format!("*a{}", level - 1);
        levels.push(format!("&a{level} [{}]", vec![before; 10].join(",")));
    }
    refused(&format!("project: [{}]\n", levels.join(", ")), "repeats itself too often");
    refused(
        &levels.iter().map(|level| format!("- {level}\n")).collect::<String>(),
        "repeats itself too often",
    );
    refused(&format!("project: {}\n", "[".repeat(100_000)), ".skpr.yml:");
    refused(&format!("project: {}\n", "{a: ".repeat(100_000)), ".skpr.yml:");
    refused(&"- ".repeat(100_000), ".skpr.yml:");
    let aliases =
        format!("project: p\nenvironments: {{dev: {{domains: [&a a.b{}]}}}}\n", ",*a".repeat(5_000));
    refused(&aliases, "too often");
}

#[test]
fn ten_megabytes_are_refused_unread() {
    refused(&"# long\n".repeat(1_500_000), "larger than 1 MiB");
    let file = std::env::temp_dir().join(format!("skpr-manifest-{}.yml", std::process::id()));
    std::fs::write(&file, "x".repeat(10 << 20)).unwrap();
    let error = Manifest::load(&file).unwrap_err();
    std::fs::remove_file(&file).unwrap();
    assert!(error.message.contains("larger than 1 MiB"), "{error}");
}

#[test]
fn text_from_the_file_cannot_drive_a_terminal() {
    refused("\"\\e[31mred\\n\": 1\n", "unknown key");
    refused("project: \"\\e[31m\"\nenvironments: {}\n", ".skpr.yml:1");
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

fn every_setting() -> Environment {
    parse(EVERY_KEY).unwrap().resolve(&label("prod")).unwrap()
}

#[test]
fn several_problems_are_said_at_once_in_order_of_the_file() {
    let text =
        "project: p\ndefaults: {health: /}\nenvironments:\n  dev: {instances: {min: 2, max: 1}}\n  all: {}\n";
    let file = std::env::temp_dir().join(format!("skpr-several-{}.yml", std::process::id()));
    std::fs::write(&file, text).unwrap();
    let problems = Manifest::load_all(&file).unwrap_err();
    let first = Manifest::load(&file).unwrap_err();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(problems.first(), Some(&first));
    let places: Vec<_> = problems.iter().map(|it| it.message.rsplit_once(".yml:").unwrap().1).collect();
    assert_eq!(
        places,
        [
            "2:20: `health` needs a `port` to ask on",
            "4:26: min `2` is more than max `1`",
            "5:3: `all` is a reserved name"
        ]
    );
}

#[test]
fn a_file_of_another_encoding_is_an_error_with_its_place() {
    let file = std::env::temp_dir().join(format!("skpr-latin-{}.yml", std::process::id()));
    std::fs::write(&file, b"project: p\n# caf\xe9\nenvironments: {}\n").unwrap();
    let error = Manifest::load(&file).unwrap_err();
    std::fs::remove_file(&file).unwrap();
    assert!(error.message.ends_with(".yml:2:6: is not UTF-8 text from here on"), "{error}");
    assert_eq!(error.hint.as_deref(), Some("save the file as UTF-8"));
    assert!(
        Manifest::load(Path::new("/nowhere.yml"))
            .unwrap_err()
            .message
            .starts_with("/nowhere.yml: cannot be read")
    );
    // A byte order mark is no reason to refuse a file.
    assert!(parse("\u{feff}project: p\nenvironments: {dev: {}}\n").is_ok());
}

#[test]
fn anchors_and_merges_work_and_errors_stand_where_they_are_mended() {
    let text = "project: p\ndefaults: &base {port: 8080, env: {A: 1.10}}\nenvironments:\n  dev: *base\n  prod: {<<: *base, port: 9090}\n";
    let manifest = parse(text).unwrap();
    let prod = manifest.resolve(&label("prod")).unwrap();
    assert_eq!(prod.port.map(NonZeroU16::get), Some(9090));
    // As it was typed, not as the number 1.1.
    assert_eq!(prod.env.unwrap().values().next().unwrap().as_str(), "1.10");
    refused(&text.replace("8080", "eighty"), ".skpr.yml:2:24: `port` wants a whole number");
}

#[test]
fn numbers_and_words_are_texts_where_a_text_is_wanted() {
    let text = "project: p1\nenvironments: {dev: {env: {A: 010, B: true, C: 1e999, D: .inf, E: 12_000, F: -0}, command: [serve, 8080]}}\n";
    let settings = parse(text).unwrap().resolve(&label("dev")).unwrap();
    let env = settings.env.unwrap();
    let values: Vec<_> = env.values().map(VariableValue::as_str).collect();
    assert_eq!(values, ["010", "true", "1e999", ".inf", "12_000", "-0"]);
    assert_eq!(settings.command.unwrap().arguments(), ["8080"]);
}

#[test]
fn a_variables_value_is_hidden_in_debug() {
    let shown = format!("{:?}", parse(EVERY_KEY).unwrap());
    assert!(shown.contains("APP_ENV: (hidden)"), "{shown}");
}

#[test]
fn settings_come_back_from_json_as_they_were() {
    let settings = every_setting();
    assert_eq!(Environment::from_json(&settings.to_json()).unwrap(), settings);
    let json: serde_json::Value = serde_json::from_slice(&settings.to_json()).unwrap();
    assert_eq!(json["cpu"], serde_json::json!({"share": "500m"}));
    assert_eq!(json["cron"]["drush-cron"]["overlap"], "forbid");
}

#[test]
fn json_is_read_strictly_and_says_no_secret() {
    for (json, sentence, hint) in [
        ("{\"nope\": 1}", "unknown field `nope`", None),
        (
            "{\"memory\": {\"max\": \"512m\"}}",
            "`512m` is in thousandths of a byte",
            Some("did you mean `512M` or `512Mi`?"),
        ),
        ("{\"port\": 0}", "`0` is no port", Some("a port is a number from 1 to 65535, such as `8080`")),
        ("{\"env\": \"s3cret\"}", "a map is wanted", None),
        ("{\"env\": {\"A\": 1}}", "a string is wanted", None),
        ("{\"cpu\": null}", "an amount of CPU", None),
        ("[true]", "they are no object", None),
        ("1", "they are no object", None),
        ("{\"memory\": []}", "`memory` is a list where", None),
        ("{\"instances\": [1, 2, \"70%\"]}", "`instances` is a list where", None),
        ("{\"volumes\": {\"a\": [\"/x\", \"1Gi\"]}}", "`volumes.a` is a list where", None),
        ("{\"cron\": {\"\\n\": [\"* * * * *\", \"x\"]}}", "`cron.\\n` is a list where", None),
        ("{} {}", "trailing characters", None),
    ] {
        let failure = Environment::from_json(json.as_bytes()).unwrap_err();
        assert_eq!(failure.kind, ErrorKind::InvalidConfiguration);
        assert!(failure.message.contains(sentence) && !failure.message.contains("s3cret"), "{failure}");
        assert_eq!(failure.hint.as_deref(), hint, "{failure}");
    }
    let long = format!("{{\"env\": {{\"A\": \"{}\"}}}}", "x".repeat(MAX_SETTINGS_BYTES));
    assert!(Environment::from_json(long.as_bytes()).unwrap_err().message.contains("at most 32768"));
}

#[test]
fn settings_written_by_hand_are_checked_like_those_of_a_file() {
    let name = |environment| EnvironmentName::parse("shop", environment).unwrap();
    let check = |json: &str, environment| {
        let settings = Environment::from_json(json.as_bytes()).unwrap();
        settings.check(&name(environment)).map_err(|problems| {
            problems
                .iter()
                .map(|problem| format!("{}: {}", problem.key(), problem.sentence))
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(check("{}", "dev"), Ok(()));
    assert_eq!(check("{}", "none"), Err(vec![": `none` is a reserved name".to_owned()]));
    assert_eq!(
        check("{\"memory\": {\"min\": \"1Gi\", \"max\": \"1G\"}, \"health\": \"/\"}", "dev"),
        Err(vec![
            "memory.min: min `1Gi` is more than max `1G`".to_owned(),
            "health: `health` needs a `port` to ask on".to_owned()
        ])
    );
}

#[test]
fn the_schema_of_the_settings_is_one_that_kubernetes_takes() {
    let mut settings = schemars::generate::SchemaSettings::openapi3();
    settings.inline_subschemas = true;
    let schema = settings.into_generator().into_root_schema_for::<Environment>().to_value();
    let text = schema.to_string();
    for foreign in [
        "anyOf",
        "oneOf",
        "allOf",
        "patternProperties",
        "propertyNames",
        "nullable",
        "\"null\"",
        "uint",
        "$ref\"",
    ] {
        assert!(!text.contains(foreign), "{foreign} in {schema:#}");
    }
    assert!(schema.get("required").is_none());
    assert_eq!(schema["properties"]["cpu"]["required"], serde_json::json!(["share"]));
    assert_eq!(schema["properties"]["instances"]["properties"]["min"]["maximum"], MAX_INSTANCES);
}

#[test]
fn the_schema_of_the_file_knows_every_key_of_the_settings() {
    let schema = schema();
    let settings = &schema["properties"]["environments"]["additionalProperties"];
    let written: serde_json::Value = serde_json::from_slice(&every_setting().to_json()).unwrap();
    for key in written.as_object().unwrap().keys() {
        assert!(settings["properties"][key]["description"].is_string(), "{key}: {settings:#}");
    }
    assert!(!schema.to_string().contains("$ref"), "a reference leads nowhere: {schema:#}");
    assert_eq!(settings["additionalProperties"], false);
    assert_eq!(settings["properties"]["cpu"]["anyOf"][0]["type"], serde_json::json!(["string", "number"]));
}

#[test]
fn a_time_zone_is_known_however_the_machine_is_installed() {
    for zone in ["Australia/Sydney", "UTC", "America/Argentina/Buenos_Aires"] {
        assert!(Zone::parse(zone).is_ok(), "{zone}");
    }
    let sydney = Zone::parse("Australia/Sydney").unwrap();
    let schedule = Schedule::parse("30 3 * * *").unwrap();
    let due = schedule.next_after("2026-11-24T00:00:00Z".parse().unwrap(), &sydney).unwrap();
    assert_eq!(due.to_string(), "2026-11-24T16:30:00Z");
}

#[test]
fn schedules_are_those_of_vixie_cron() {
    for good in [
        "* * * * *",
        "*/15 * * * *",
        "0,30 8-18 * * 1-5",
        "0 0 1,15 * MON",
        "0 0 29 2 *",
        "0 0 30 2 MON",
        "0 3 * JAN-MAR,DEC sun",
        "0 0 * * 7",
        "5-59/10 * * * *",
        "  0\t0 * *  0 ",
        "@hourly",
        "@daily",
        "@midnight",
        "@weekly",
        "@monthly",
        "@yearly",
        "@annually",
    ] {
        let schedule = Schedule::parse(good).unwrap_or_else(|refusal| panic!("{good}: {refusal}"));
        let from = "2026-11-24T00:00:00Z".parse().unwrap();
        assert!(schedule.next_after(from, &Zone::utc()).is_some(), "{good}");
        assert!(Schedule::parse(schedule.fields()).is_ok(), "{good}");
        assert!(!schedule.words().is_empty(), "{good}");
    }
    // Either day is enough when both are given.
    let schedule = Schedule::parse("0 0 13 * FRI").unwrap();
    let due = schedule.next_after("2026-11-24T00:00:00Z".parse().unwrap(), &Zone::utc()).unwrap();
    assert_eq!(due.to_string(), "2026-11-27T00:00:00Z");
}

#[test]
fn kubernetes_is_told_a_schedule_as_it_reads_it() {
    for (written, told) in [
        ("@daily", "0 0 * * *"),
        ("0 0 * * 7", "0 0 * * 0"),
        ("0 0 * * 5-7", "0 0 * * 0,5,6"),
        ("0 0 * * 0-7", "0 0 * * 0,1,2,3,4,5,6"),
        ("0 0 * * 1-7/2,MON", "0 0 * * 0,1,3,5,MON"),
        ("  0\t0 * *  MON-FRI ", "0 0 * * MON-FRI"),
        ("0 0 * * */3", "0 0 * * */3"),
    ] {
        assert_eq!(Schedule::parse(written).unwrap().fields(), told, "{written}");
    }
    // Where it does not matter which of the two readings it is, and where both are the same.
    for fine in ["0 0 */2 * *", "0 0 * * */2", "0 0 *,5 * MON", "0 0 1-31/2 * MON", "0 0 1,*/1 * *"] {
        assert!(Schedule::parse(fine).is_ok(), "{fine}");
    }
    for (twice, hint) in [
        ("0 0 */2 * MON", "did you mean `0 0 1-31/2 * MON`, where either is enough?"),
        ("0 0 1 * */2", "did you mean `0 0 1 * 0-6/2`, where either is enough?"),
        ("0 0 5,* * MON", "did you mean `0 0 5,1-31 * MON`, where either is enough?"),
    ] {
        assert_eq!(Schedule::parse(twice).unwrap_err().hint.as_deref(), Some(hint), "{twice}");
    }
}

#[test]
fn quantities_are_compared_by_what_they_amount_to() {
    let cpu = |text| CpuQuantity::parse(text).unwrap();
    let memory = |text| MemoryQuantity::parse(text).unwrap();
    assert_eq!(cpu("0.5"), cpu("500m"));
    assert!(cpu("2") > cpu("1999m"));
    assert_eq!(memory("1Gi"), memory("1024Mi"));
    assert!(memory("1G") < memory("1Gi"));
    // Kubernetes has no `K`.
    assert_eq!((memory("2000K").as_str(), memory("2000K").bytes()), ("2000k", 2_000_000));
    assert_eq!(memory("1.1Gi").bytes(), 1_181_116_007);
    for (text, seconds) in [("90s", 90), ("10m", 600), ("1h30m", 5400), ("24h", 86_400), ("1h0m5s", 3605)] {
        assert_eq!(TimeSpan::parse(text).unwrap().duration().as_secs(), seconds, "{text}");
    }
}

proptest! {
    #[test]
    fn quantities_are_read_as_an_independent_reader_would(whole in 0u64..5000, thousandths in 0u64..1000, unit in 0usize..8) {
        let text = format!("{whole}.{thousandths:03}");
        let millicores = whole * 1000 + thousandths;
        let found = CpuQuantity::parse(&text).ok().map(|quantity| quantity.millicores());
        prop_assert_eq!(found, Some(millicores).filter(|value| (1..=1_000_000).contains(value)));
        let (unit, factor) = [
            ("Ki", 1u64 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30), ("Ti", 1 << 40),
            ("k", 1_000), ("M", 1_000_000), ("G", 1_000_000_000), ("T", 1_000_000_000_000),
        ][unit];
        let bytes = (millicores * factor).div_ceil(1000);
        let found = MemoryQuantity::parse(&format!("{text}{unit}")).ok().map(|quantity| quantity.bytes());
        prop_assert_eq!(found, Some(bytes).filter(|bytes| (1 << 20..=1 << 50).contains(bytes)));
    }

    #[test]
    fn every_text_is_taken_or_refused_and_never_grows(text in "[-0-9a-zA-Z./*%: ]{0,24}") {
        if let Ok(quantity) = MemoryQuantity::parse(&text) {
            prop_assert_eq!(MemoryQuantity::parse(quantity.as_str()), Ok(quantity.clone()));
        }
        for refusal in [
            CpuQuantity::parse(&text).err(), MemoryQuantity::parse(&text).err(), Percent::parse(&text).err(),
            TimeSpan::parse(&text).err(), Schedule::parse(&text).err(), Zone::parse(&text).err(),
            Domain::parse(&text).err(), VolumePath::parse(&text).err(), HttpPath::parse(&text).err(),
        ].into_iter().flatten() {
            prop_assert!(!refusal.sentence.is_empty() && refusal.to_string().len() < 400, "{}", refusal);
        }
    }
}
