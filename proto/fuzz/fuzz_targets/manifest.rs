//! Any bytes as a `.skpr.yml`, and as the settings of a deploy: neither may panic, and what is accepted must come through
//! JSON as it was and keep the rules on the other side.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skpr_proto::EnvironmentName;
use skpr_proto::manifest::{Environment, Manifest};
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        match Manifest::parse(text, Path::new(".skpr.yml")) {
            Ok(manifest) => {
                for environment in manifest.environments.keys() {
                    let settings = manifest.resolve(environment).unwrap();
                    let name = EnvironmentName { project: manifest.project.clone(), environment: environment.clone() };
                    assert_eq!(settings.check(&name), Ok(()));
                    through_json(&settings);
                    for task in settings.cron.iter().flatten().map(|(_, task)| task) {
                        let from = "2026-11-24T00:00:00Z".parse().unwrap();
                        assert!(task.next_after(from).is_some(), "{} never comes due", task.schedule);
                    }
                }
            }
            Err(error) => {
                assert!(error.message.starts_with(".skpr.yml:"), "{error}");
                assert!(error.message.len() < 1000, "{error}");
                let said = format!("{}{}", error.message, error.hint.unwrap_or_default());
                assert!(!said.chars().any(char::is_control), "{said:?}");
            }
        }
    }
    if let Ok(settings) = Environment::from_json(bytes) {
        through_json(&settings);
    }
});

fn through_json(settings: &Environment) {
    let json = settings.to_json();
    match Environment::from_json(&json) {
        Ok(read) => assert_eq!(&read, settings),
        // The one form of short settings may be longer than what was read.
        Err(error) => assert!(error.message.contains("at most"), "{error}"),
    }
}
