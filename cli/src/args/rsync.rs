//! `skpr rsync`, as typed: rsync's flags where it has them. Those that every verb has (`-p`, `-o`, `-q`, `-v`) stay skpr's.

use crate::completion;
use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use clap_complete::engine::ArgValueCompleter;
use std::ffi::OsString;

/// rsync's exit code for a command line that makes no sense.
pub(super) const USAGE: u8 = 1;

pub(super) const EXAMPLES: &str = "\
Examples:
  skpr rsync -a web/ dev:web/             what is in web into the directory web of an instance of dev
  skpr rsync -a prod:files:/ files/       what is in the volume `files` of prod
  skpr rsync -an --delete -i web/ dev:web/  what would change, and what would go
  skpr rsync -a --exclude '*.log' dev:/var/lib/app .
";

pub(super) const AFTER: &str = "\
One of SRC and DST is ENV:PATH or ENV:VOLUME:PATH, as .skpr.yml names volumes; a PATH without a slash in front begins
where the instance does. `SRC/` is what is in a directory, `SRC` the directory itself. A path of this machine that has a
colon is written as ./PATH. Directories are always entered, and what is sent is always compressed.
Exit codes are rsync's: 0 done, 1 usage, 3 a path cannot be used, 5 not allowed, not found or not logged in, 10 no
connection, 11 cannot be written, 12 the connection broke, 20 interrupted, 23 some files were not transferred,
24 some vanished, 25 stopped by --max-delete, 30 timed out.
";

/// Files between this machine and an environment.
#[derive(Debug, Default, Args)]
pub(crate) struct Rsync {
    /// What is copied: PATH or ENV:PATH
    #[arg(value_name = "SRC", add = ArgValueCompleter::new(completion::places))]
    pub source: OsString,
    /// Where it goes: PATH or ENV:PATH
    #[arg(value_name = "DST", add = ArgValueCompleter::new(completion::places))]
    pub destination: OsString,
    /// This instance [default: the newest that is ready]
    #[arg(long, value_name = "INSTANCE")]
    pub instance: Option<String>,
    /// That of this namespace, where several have one of that name; else SKPR_NAMESPACE
    #[arg(long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    #[command(flatten)]
    pub kept: Kept,
    #[command(flatten)]
    pub chosen: Chosen,
    #[command(flatten)]
    pub rules: Rules,
    #[command(flatten)]
    pub shown: Shown,
}

/// What of each file is kept.
#[derive(Debug, Default, Args)]
pub(crate) struct Kept {
    /// As -rlt with --perms, --owner, --group and --specials: what a copy of a tree needs
    #[arg(short, long)]
    pub archive: bool,
    /// Taken for those who are used to it: directories are always entered
    #[arg(short, long, hide = true)]
    pub recursive: bool,
    /// Links stay links
    #[arg(short, long)]
    pub links: bool,
    /// Times of modification
    #[arg(short, long)]
    pub times: bool,
    /// Modes
    #[arg(long)]
    pub perms: bool,
    /// Owners, by number, where the receiver is root
    #[arg(long)]
    pub owner: bool,
    /// Groups, by number, where the receiver may set them
    #[arg(short, long)]
    pub group: bool,
    /// Pipes and sockets
    #[arg(long)]
    pub specials: bool,
    /// Files that are one file with several names stay so
    #[arg(short = 'H', long)]
    pub hard_links: bool,
    /// Runs of zeros become holes
    #[arg(short = 'S', long)]
    pub sparse: bool,
    /// Change modes: `D755,F644`, `g+w` (repeat for more)
    #[arg(long, value_name = "MODE", allow_hyphen_values = true)]
    pub chmod: Vec<String>,
    /// Leave out links that lead out of the tree
    #[arg(long)]
    pub safe_links: bool,
}

/// What is transferred, and what goes.
#[derive(Debug, Default, Args)]
pub(crate) struct Chosen {
    /// Only show what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Compare contents, and not sizes and times
    #[arg(short, long)]
    pub checksum: bool,
    /// Leave alone what is newer at the destination
    #[arg(short, long)]
    pub update: bool,
    /// Stay on one file system
    #[arg(short = 'x', long)]
    pub one_file_system: bool,
    /// Delete at the destination what the source does not have, once all of the source was read
    #[arg(long, visible_alias = "del")]
    pub delete: bool,
    /// Delete no more than so many
    #[arg(long, value_name = "N")]
    pub max_delete: Option<u64>,
    /// Delete also when the source is empty
    #[arg(long, requires = "delete")]
    pub allow_empty: bool,
    /// Agree to deletions in an environment
    #[arg(short, long)]
    pub yes: bool,
    /// Keep what has come of a file when it is interrupted, and go on from there the next time
    #[arg(long)]
    pub partial: bool,
    /// Spend more time on compression
    #[arg(short = 'z', long)]
    pub compress: bool,
    /// Send no more than so much a second: KiB, or with K, M or G behind
    #[arg(long, value_name = "RATE")]
    pub bwlimit: Option<String>,
}

/// What is said.
#[derive(Debug, Default, Args)]
pub(crate) struct Shown {
    /// A line for each thing that changes, as rsync's
    #[arg(short, long)]
    pub itemize_changes: bool,
    /// Numbers at the end
    #[arg(long)]
    pub stats: bool,
    /// How far it is, also off a terminal
    #[arg(long)]
    pub progress: bool,
    /// As --partial --progress
    #[arg(short = 'P')]
    pub partial_progress: bool,
}

/// What a rule was typed as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    Exclude,
    Include,
    ExcludeFrom,
    IncludeFrom,
    Filter,
}

/// Rules of which files take part, in the order in which they were typed: the first that matches decides.
#[derive(Debug, Default)]
pub(crate) struct Rules(pub Vec<(Rule, OsString)>);

const RULES: [(&str, Option<char>, Rule, &str, &str); 5] = [
    ("exclude", None, Rule::Exclude, "PATTERN", "Leave out what matches (repeat for more)"),
    ("include", None, Rule::Include, "PATTERN", "But not what matches this; the first that matches decides"),
    ("exclude-from", None, Rule::ExcludeFrom, "FILE", "Leave out what matches a line of a file"),
    ("include-from", None, Rule::IncludeFrom, "FILE", "But not what matches a line of this file"),
    (
        "filter",
        Some('f'),
        Rule::Filter,
        "RULE",
        "One of rsync's rules: `- *.log`, `P uploads/`, `merge FILE`",
    ),
];

impl FromArgMatches for Rules {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Rules, clap::Error> {
        let mut rules = Rules::default();
        rules.update_from_arg_matches(matches)?;
        Ok(rules)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let mut typed = vec![];
        for (name, _, rule, _, _) in RULES {
            let values = matches.get_many::<OsString>(name).into_iter().flatten();
            let places = matches.indices_of(name).into_iter().flatten();
            typed.extend(places.zip(values).map(|(place, text)| (place, rule, text.clone())));
        }
        typed.sort_by_key(|(place, ..)| *place);
        self.0 = typed.into_iter().map(|(_, rule, text)| (rule, text)).collect();
        Ok(())
    }
}

impl Args for Rules {
    fn augment_args(command: Command) -> Command {
        RULES.into_iter().fold(command, |command, (name, short, _, value, help)| {
            let arg = Arg::new(name).long(name).value_name(value).help(help).action(ArgAction::Append);
            let arg = match short {
                Some(short) => arg.short(short),
                None => arg,
            };
            command.arg(arg.value_parser(ValueParser::os_string()).allow_hyphen_values(true))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Rules::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        verb: Rsync,
    }

    #[test]
    fn rules_keep_the_order_in_which_they_were_typed() {
        let words = "rsync -a --include *.rs --exclude=* -f P_x --exclude-from a --include /b src dev:dst";
        let rsync = Line::try_parse_from(words.split(' ')).unwrap_or_else(|error| panic!("{error}")).verb;
        let rules: Vec<_> =
            rsync.rules.0.iter().map(|(rule, text)| (*rule, text.to_str().unwrap())).collect();
        let expected = [
            (Rule::Include, "*.rs"),
            (Rule::Exclude, "*"),
            (Rule::Filter, "P_x"),
            (Rule::ExcludeFrom, "a"),
            (Rule::Include, "/b"),
        ];
        assert_eq!(rules, expected);
        assert!(rsync.kept.archive && !rsync.chosen.delete);
        assert_eq!((rsync.source, rsync.destination), ("src".into(), "dev:dst".into()));
    }

    #[test]
    fn flags_of_one_letter_go_together() {
        let rsync = Line::try_parse_from("rsync -aniHSxzcu --delete a b:".split(' '))
            .unwrap_or_else(|error| panic!("{error}"));
        let Rsync { kept, chosen, shown, .. } = rsync.verb;
        assert!(kept.archive && kept.hard_links && kept.sparse);
        assert!(
            chosen.dry_run && chosen.one_file_system && chosen.compress && chosen.checksum && chosen.update
        );
        assert!(chosen.delete && shown.itemize_changes);
        assert!(Line::try_parse_from(["rsync", "--allow-empty", "a", "b:"]).is_err());
        assert!(Line::try_parse_from(["rsync", "a"]).is_err());
    }
}
