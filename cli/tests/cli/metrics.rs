//! `metrics`, and what `list` and `info` say of usage.

use crate::environments::script;
use crate::fake::{Fake, Script, State};
use crate::names::summary;
use crate::{Home, run};
use serde_json::Value;
use skpr_proto::v1::{EnvironmentSummary, Instant, Point, Series, UsageNow, UsageResponse};
use skpr_proto::{ErrorKind, Failure};

/// 2025-11-24T15:00:00Z, and this many seconds more.
fn at(second: i64) -> Option<Instant> {
    Some(Instant { unix_nanos: 1_763_996_400_000_000_000 + second * 1_000_000_000 })
}

pub(crate) fn now() -> UsageNow {
    UsageNow {
        cpu_millicores: Some(842.5),
        cpu_share_millicores: Some(1000),
        cpu_limit_millicores: Some(4000),
        memory_working_set_bytes: Some(424 << 20),
        memory_not_reclaimable_bytes: Some(400 << 20),
        memory_cache_bytes: Some(90 << 20),
        memory_peak_bytes: Some(500 << 20),
        memory_limit_bytes: Some(512 << 20),
        throttled: Some(0.042),
        oom_kills: Some(7),
        restarts: 9,
        instances: 2,
        processes: Some(12),
        age_millis: Some(1_800),
        stale: false,
        cpu_pressure: Some(0.125),
        memory_pressure: None,
        io_pressure: Some(0.004),
        missing: 0,
    }
}

/// A minute each, with a gap that nothing is known of.
fn points(count: i64, instances: u32) -> Vec<Point> {
    let point = |index: i64| {
        let time = at(index * 60);
        if (20..26).contains(&index) {
            return Point { time, ..Point::default() };
        }
        Point {
            time,
            cpu_millicores: Some((index % 17) as f64 * 60.123_456),
            working_set_bytes: Some((200 + u64::try_from(index).unwrap()) << 20),
            not_reclaimable_bytes: Some(180 << 20),
            instances,
            throttled: Some(0.01),
            oom_kills: Some(u64::from(index == 30)),
            restarts: u64::from(index % 30 == 0),
            cpu_share_millicores: Some(1000),
            memory_limit_bytes: Some(512 << 20),
        }
    };
    (0..count).map(point).collect()
}

pub(crate) fn answer() -> UsageResponse {
    let stale = UsageNow { stale: true, age_millis: Some(25_300), cpu_share_millicores: None, ..now() };
    let series = |instance: &str, now: Option<UsageNow>, count| Series {
        instance: instance.into(),
        now,
        points: points(count, 1),
    };
    UsageResponse {
        now: at(3600),
        interval_seconds: 60,
        whole: Some(Series { instance: String::new(), now: Some(now()), points: points(60, 2) }),
        instances: vec![
            series("shop-prod-7d4b9c6f5-x2x1z", Some(UsageNow { instances: 1, ..now() }), 60),
            series("shop-prod-7d4b9c6f5-k8\u{1b}[2J", Some(stale), 60),
            series("shop-prod-0ld", None, 60),
            series("shop-prod-n3w", Some(UsageNow { instances: 1, ..UsageNow::default() }), 0),
        ],
        since: at(0),
        until: at(3600),
        oldest: at(-100),
        namespace: Some("sites".into()),
        sample_interval_millis: 500,
    }
}

pub(crate) fn answering(answer: UsageResponse) -> Fake {
    Fake::scripted(Script { usage: [Some(answer)].into(), ..script() })
}

#[test]
fn metrics_for_people() {
    let (home, fake) = (Home::new(), answering(answer()));
    let shown = |columns: &str, utf8: bool, arguments: &[&str]| {
        let mut all = vec!["metrics", "prod", "--timezone", "Australia/Sydney"];
        all.extend(arguments);
        let locale = if utf8 { "C.UTF-8" } else { "C" };
        let mut command = home.with(&fake, &all);
        let shown = run(command.env("COLUMNS", columns).env("LANG", locale), Some(&fake));
        let table = shown.split("--- stdout\n").nth(1).unwrap().split("--- stderr").next().unwrap();
        let widest = table.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(columns.is_empty() || widest <= columns.parse().unwrap(), "{widest}: {shown}");
        shown
    };
    insta::assert_snapshot!("alone", shown("80", true, &[]));
    insta::assert_snapshot!("alone_at_40", shown("40", true, &["-q"]));
    insta::assert_snapshot!("at_40", shown("40", true, &["-q", "--per-instance"]));
    insta::assert_snapshot!("at_80", shown("80", true, &["-q", "--per-instance"]));
    insta::assert_snapshot!("ascii_at_80", shown("80", false, &["-q", "--per-instance"]));
    insta::assert_snapshot!("unlimited", shown("", true, &["-q", "--per-instance"]));
    insta::assert_snapshot!("coloured", shown("", true, &["-q", "--per-instance", "--color", "always"]));
    for columns in ["1", "12", "25", "33", "55", "70", "100", "119", "300"] {
        let mut command = home.with(&fake, &["metrics", "prod", "-q", "--per-instance"]);
        assert!(run(command.env("COLUMNS", columns), None).starts_with("exit 0\n"), "{columns}");
    }
}

#[test]
fn what_is_typed_is_what_is_asked() {
    let (home, fake) = (Home::new(), answering(answer()));
    let asked = |arguments: &[&str]| {
        let mut all = vec!["metrics", "prod"];
        all.extend(arguments);
        let shown = run(&mut home.with(&fake, &all), Some(&fake));
        assert!(shown.starts_with("exit 0\n"), "{shown}");
        fake.script().usage_requests.pop().unwrap()
    };
    let request = asked(&[
        "--since",
        "2025-11-24T15:00:00Z",
        "--until",
        "2025-11-24T16:00:00Z",
        "--interval",
        "5m",
        "--instance",
        "shop-prod-0ld",
        "--instance",
        "shop-prod-n3w",
        "--namespace",
        "sites",
    ]);
    assert_eq!((request.since, request.until, request.interval_seconds), (at(0), at(3600), 300));
    assert_eq!(
        (request.instances, request.per_instance),
        (vec!["shop-prod-0ld".into(), "shop-prod-n3w".into()], true)
    );
    assert_eq!(request.environment.unwrap().namespace.as_deref(), Some("sites"));
    let request = asked(&[]);
    assert_eq!((request.until, request.interval_seconds, request.per_instance), (None, 0, false));
    assert!(request.since.is_some(), "an hour, unless something else is said");
    for (wrong, message) in [
        (&["--interval", "0s"][..], "`0s` is not an interval"),
        (&["--interval", "soon"], "`soon` is not an interval"),
        (&["--since", "soon"], "`soon` is not a time"),
        (&["-o", "name"], "means nothing for metrics"),
        (&["--watch"], "--watch needs a terminal"),
        (&["--watch", "-o", "csv"], "--watch is a view for people"),
        (&["--watch", "--until", "1h"], "cannot be used with"),
    ] {
        let mut all = vec!["metrics", "prod"];
        all.extend(wrong);
        let shown = run(&mut home.with(&fake, &all), None);
        assert!(shown.starts_with("exit 2\n") && shown.contains(message), "{shown}");
    }
}

/// What is used now was once shown beside the bars of a time that was past.
#[test]
fn a_time_that_is_past_is_shown_in_its_own_numbers() {
    let whole = Series { points: points(20, 2), ..answer().whole.unwrap() };
    let past = UsageResponse { whole: Some(whole), instances: Vec::new(), until: at(1200), ..answer() };
    let (home, fake) = (Home::new(), answering(past));
    let shown = run(&mut home.with(&fake, &["metrics", "prod"]), None);
    assert!(shown.contains("CPU is the average of that time, memory and instances are the most"), "{shown}");
    let row = shown.lines().find(|line| line.starts_with("shop/prod")).unwrap();
    let cells: Vec<&str> = row.split_whitespace().take(6).collect();
    // The points' CPU, and their memory of 200 to 219 MiB.
    assert_eq!(cells, ["shop/prod", "0.42", "42%", "219Mi", "512Mi", "43%"], "{shown}");
}

#[test]
fn an_instance_that_there_was_not_is_no_empty_answer() {
    let (home, fake) = (Home::new(), answering(answer()));
    let shown = run(&mut home.with(&fake, &["metrics", "prod", "--instance", "web\u{1b}-9"]), None);
    assert!(shown.starts_with("exit 3\n") && shown.contains("had no instance `web"), "{shown}");
    assert!(!shown.contains('\u{1b}') && shown.contains("--per-instance"), "{shown}");
    // It says in which time, and nothing of what such an instance used.
    assert!(shown.contains("from 2025-11-24") && !shown.contains("nothing is known"), "{shown}");
}

#[test]
fn what_is_not_known_or_not_kept_is_said() {
    let (home, fake) = (
        Home::new(),
        answering(UsageResponse {
            whole: None,
            instances: Vec::new(),
            oldest: at(0),
            since: at(0),
            ..answer()
        }),
    );
    let shown = run(&mut home.with(&fake, &["metrics", "prod", "--since", "2025-11-24T14:00:00Z"]), None);
    insta::assert_snapshot!(shown);
    let refusal = Failure::new(ErrorKind::Usage, "an interval of 1 s over a day makes more than 2000 points")
        .with_hint("--interval 44s");
    fake.script().refusals.insert("read", [refusal].into());
    let shown = run(&mut home.with(&fake, &["metrics", "prod", "--interval", "1s"]), None);
    assert!(shown.starts_with("exit 2\n") && shown.contains("hint: --interval 44s\n"), "{shown}");
    let unknown = Failure::new(ErrorKind::NotFound, "`shop/prd` is not there");
    fake.script().refusals.insert("read", [unknown].into());
    fake.state.lock().unwrap().environments = vec![summary("shop", "prod", true, 2)];
    let shown = run(&mut home.with(&fake, &["metrics", "prd"]), None);
    assert!(shown.starts_with("exit 3\n") && shown.contains("did you mean `shop/prod`?"), "{shown}");
}

#[test]
fn metrics_for_programs() {
    let (home, fake) = (
        Home::new(),
        answering(UsageResponse {
            whole: Some(Series { points: points(2, 2), ..answer().whole.unwrap() }),
            instances: answer()
                .instances
                .into_iter()
                .take(2)
                .map(|series| Series { points: points(1, 1), ..series })
                .collect(),
            ..answer()
        }),
    );
    let shown = |format: &str| {
        run(&mut home.with(&fake, &["metrics", "prod", "-q", "--per-instance", "-o", format]), None)
    };
    insta::assert_snapshot!(shown("json"));
    insta::assert_snapshot!(shown("csv"));
    assert!(shown("yaml").contains("cpuMillicores: 842.5"));
}

/// What of JSON Schema the schemas in `docs/schemas` use; any other word in one is a failure.
fn check(schema: &Value, value: &Value, root: &Value, path: &str) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{path}: {value} is not {what}"));
    for (word, said) in schema.as_object().unwrap() {
        match word.as_str() {
            "$schema" | "$id" | "title" | "description" | "$defs" | "additionalProperties" => {}
            "$ref" => {
                let target = root.pointer(said.as_str().unwrap().strip_prefix('#').unwrap()).unwrap();
                check(target, value, root, path)?;
            }
            "anyOf" => {
                let any = said.as_array().unwrap();
                if !any.iter().any(|schema| check(schema, value, root, path).is_ok()) {
                    return wrong(&said.to_string());
                }
            }
            "type" => {
                let is = |name: &Value| match name.as_str().unwrap() {
                    "null" => value.is_null(),
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "number" => value.is_number(),
                    "integer" => value.is_u64() || value.is_i64(),
                    other => unreachable!("{other} is no type"),
                };
                if !said.as_array().map_or_else(|| is(said), |names| names.iter().any(is)) {
                    return wrong(&said.to_string());
                }
            }
            "minimum" if value.as_f64().is_some_and(|value| value < said.as_f64().unwrap()) => {
                return wrong("so small");
            }
            "maximum" if value.as_f64().is_some_and(|value| value > said.as_f64().unwrap()) => {
                return wrong("so great");
            }
            "minimum" | "maximum" => {}
            "format" => {
                assert_eq!(said, "date-time");
                if value.as_str().is_some_and(|time| !time.ends_with('Z') || !time.contains('T')) {
                    return wrong("a time");
                }
            }
            "required" => {
                for name in said.as_array().unwrap() {
                    if value.is_object() && value.get(name.as_str().unwrap()).is_none() {
                        return wrong(&format!("complete: {name}"));
                    }
                }
            }
            "properties" => {
                for (name, field) in value.as_object().into_iter().flatten() {
                    match said.get(name) {
                        Some(schema) => check(schema, field, root, &format!("{path}/{name}"))?,
                        // Everything there is has to be described, whatever programs have to put up with.
                        None => return wrong(&format!("described: {name}")),
                    }
                }
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(said, item, root, &format!("{path}/{index}"))?;
                }
            }
            other => return Err(format!("{other} in a schema is not checked")),
        }
    }
    Ok(())
}

#[test]
fn the_json_is_as_its_schema_says() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/schemas/metrics.json");
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let odd = |now: UsageNow| UsageNow {
        cpu_millicores: Some(f64::NAN),
        throttled: Some(f64::INFINITY),
        memory_limit_bytes: Some(u64::MAX),
        ..now
    };
    let mut hostile = answer();
    let whole = hostile.whole.as_mut().unwrap();
    whole.now = whole.now.map(odd);
    whole.points[0].cpu_millicores = Some(-1.0);
    whole.points[1].throttled = Some(7.0);
    for answer in [answer(), hostile, UsageResponse::default()] {
        let (home, fake) = (Home::new(), answering(answer));
        let json =
            home.with(&fake, &["metrics", "prod", "--per-instance", "-o", "json"]).output().unwrap().stdout;
        let mut value: Value = serde_json::from_slice(&json).unwrap();
        check(&schema, &value, &schema, "").unwrap();
        // And the check is one.
        value["intervalSeconds"] = Value::from("60");
        check(&schema, &value, &schema, "").unwrap_err();
        value.as_object_mut().unwrap().remove("intervalSeconds");
        check(&schema, &value, &schema, "").unwrap_err();
    }
}

/// One with usage, one whose numbers are old, one that was never sampled.
fn environments() -> Vec<EnvironmentSummary> {
    let with = |name: &str, usage: Option<UsageNow>| EnvironmentSummary {
        usage,
        ..summary("shop", name, name == "prod", 2)
    };
    vec![
        with("dev", None),
        with("prod", Some(now())),
        with("qa", Some(UsageNow { stale: true, age_millis: Some(25_300), ..now() })),
        with("test", Some(UsageNow { instances: 2, missing: 1, ..now() })),
    ]
}

#[test]
fn list_and_info_show_usage_where_there_is_room() {
    let (home, fake) = (Home::new(), Fake::start(State { environments: environments(), ..State::default() }));
    let shown = |columns: &str, arguments: &[&str]| {
        run(home.with(&fake, arguments).env("COLUMNS", columns), Some(&fake))
    };
    insta::assert_snapshot!("list", shown("", &["list"]));
    insta::assert_snapshot!("list_at_80", shown("80", &["list"]));
    insta::assert_snapshot!("list_at_40", shown("40", &["list"]));
    insta::assert_snapshot!("list_csv", shown("", &["list", "-o", "csv"]));
    let json: Value =
        serde_json::from_slice(&home.with(&fake, &["list", "-o", "json"]).output().unwrap().stdout).unwrap();
    assert_eq!(json[0]["usage"], Value::Null);
    assert_eq!(json[2]["usage"]["memoryWorkingSetBytes"], 424 << 20);
    let mut described = script().described;
    let summary = described.summary.as_mut().unwrap();
    summary.usage = Some(now());
    summary.instance[1].usage = Some(UsageNow { stale: true, age_millis: Some(25_300), ..now() });
    fake.script().described = described;
    let info = shown("", &["info", "prod"]);
    assert!(
        info.contains("uses        0.84 cores (84% of its share), 424Mi of memory (83% of its max), waits for CPU 12% of the time\n"),
        "{info}"
    );
    assert!(info.contains("0.84/1 (stale 25s)  424Mi/512Mi (stale 25s)"), "{info}");
    let narrow = shown("60", &["info", "prod"]);
    assert!(!narrow.contains("424Mi/512Mi"), "{narrow}");
}
