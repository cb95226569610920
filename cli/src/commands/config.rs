//! `skpr config`: the settings that the nearest `.skpr.yml` gives an environment, and the schema of such files.
//!
//! Works offline. The values of variables are shown: the file is the user's own.

use crate::args::{Config, ConfigVerb, Format};
use crate::error::{Error, usage};
use crate::output::{Output, escape_json};
use crate::project::Project;
use skpr_proto::{EnvironmentName, Label, manifest};

pub(super) fn run(verb: &Config, project: Option<&str>, output: &Output) -> Result<(), Error> {
    match &verb.verb {
        ConfigVerb::Show { environment } => show(environment, project, output),
        ConfigVerb::Schema => {
            let schema = serde_json::to_string_pretty(&manifest::schema()).map_err(anyhow::Error::new)?;
            output.write((schema + "\n").as_bytes())
        }
    }
}

fn show(typed: &str, named: Option<&str>, output: &Output) -> Result<(), Error> {
    let project = Project::here()?;
    let name = match (typed.split_once('/'), named) {
        (Some((project, environment)), _) => EnvironmentName::parse(project, environment),
        (None, Some(project)) => EnvironmentName::parse(project, typed),
        (None, None) => Label::parse("environment", typed)
            .map(|environment| EnvironmentName { project: project.manifest.project.clone(), environment }),
    };
    let settings = project.settings_of(&name.map_err(|error| usage(error.to_string()))?)?;
    let text = match output.format {
        Format::Json => {
            let json = serde_json::to_string_pretty(&settings).map_err(anyhow::Error::new)?;
            escape_json(json) + "\n"
        }
        Format::Table | Format::Yaml | Format::Csv | Format::Name => {
            serde_saphyr::to_string(&settings).map_err(|error| anyhow::Error::msg(error.to_string()))?
        }
    };
    output.write(text.as_bytes())
}
