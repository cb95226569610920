//! The verbs, one file each.

mod completion;
mod list;
mod login;
mod logout;
mod logs;
mod version;
mod whoami;

use crate::args::{Arguments, Verb};
use crate::error::Error;
use crate::output::Output;
use crate::settings::Settings;

pub(crate) async fn run(arguments: Arguments, output: &Output) -> Result<(), Error> {
    if let Verb::Completion(verb) = &arguments.verb {
        return completion::run(verb, output);
    }
    let settings = Settings::new(arguments.global)?;
    match arguments.verb {
        Verb::Login(verb) => login::run(verb, &settings, output).await,
        Verb::Logout(verb) => logout::run(&verb, &settings, output),
        Verb::Whoami => whoami::run(&settings, output).await,
        Verb::List(verb) => list::run(&verb, &settings, output).await,
        Verb::Logs(verb) => logs::run(verb, &settings, output).await,
        Verb::Version => version::run(&settings, output).await,
        // Answered above: it must work without settings.
        Verb::Completion(_) => Ok(()),
    }
}
