//! The verbs about the file that describes a project, as typed.

use crate::completion;
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use std::path::PathBuf;

pub(super) const VALIDATE_EXAMPLES: &str = "\
Examples:
  skpr validate                           the nearest .skpr.yml; exit code 5 when it is wrong
  skpr validate sites/shop/.skpr.yml -o json
";

pub(super) const CONFIG_EXAMPLES: &str = "\
Examples:
  skpr config show prod                   the settings of prod, defaults filled in
  skpr config schema > .skpr.schema.json  for editors: `# yaml-language-server: $schema=.skpr.schema.json`
";

#[derive(Debug, Args)]
pub(crate) struct Validate {
    /// The file, or the directory that it is in; else the nearest .skpr.yml
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Config {
    #[command(subcommand)]
    pub verb: ConfigVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// The settings of an environment, defaults filled in, as YAML or with -o json
    Show {
        /// ENVIRONMENT or PROJECT/ENVIRONMENT
        #[arg(value_name = "ENV", add = ArgValueCompleter::new(completion::described))]
        environment: String,
    },
    /// The JSON Schema of .skpr.yml
    Schema,
}
