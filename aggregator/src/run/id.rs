//! What a run is named by within its environment.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use skpr_proto::{InvalidId, Label};
use std::fmt;

/// Characters of what makes a run's id that a user asked for its own.
const RANDOM: usize = 6;
/// Without those that are read for another, and without vowels, which make words; five are there twice, so that it is 32.
const ALPHABET: &[u8; 32] = b"23456789bcdfghjkmnpqrstvwxzbcdfg";

/// `TASK-MINUTES` where it was due, in minutes since the Unix epoch, as Kubernetes names the Jobs of a CronJob; else `TASK-` and
/// six characters by chance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(String);

impl RunId {
    /// Of the run that is due then.
    pub fn due(task: &Label, due: Timestamp) -> RunId {
        RunId(format!("{task}-{}", due.as_second().div_euclid(60)))
    }

    /// Of a run that a user asks for; `chance` is random.
    pub fn asked(task: &Label, chance: u64) -> RunId {
        let letter = |place: usize| {
            let at = (chance >> (5 * place)) & 31;
            ALPHABET.get(at as usize).map_or('x', |byte| char::from(*byte))
        };
        RunId(format!("{task}-{}", (0..RANDOM).map(letter).collect::<String>()))
    }

    /// What a user names.
    pub fn parse(text: &str) -> Result<RunId, InvalidId> {
        // A label and a number: as long as two labels at most.
        let (task, suffix) = text.rsplit_once('-').unwrap_or_default();
        Label::parse("run", task)?;
        Label::parse("run", suffix)?;
        Ok(RunId(text.to_owned()))
    }

    /// The part behind the task's name.
    pub fn suffix(&self) -> &str {
        self.0.rsplit_once('-').map_or("", |(_, suffix)| suffix)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_of_the_minute_or_by_chance_and_is_read_back() {
        let task = Label::parse("task", "drush-cron").unwrap();
        let due = RunId::due(&task, Timestamp::from_second(29_412_345 * 60).unwrap());
        assert_eq!((due.as_str(), due.suffix()), ("drush-cron-29412345", "29412345"));
        let asked = RunId::asked(&task, 0x1234_5678_9abc_def0);
        assert_eq!(asked.as_str().len(), "drush-cron-".len() + RANDOM);
        assert_ne!(asked, RunId::asked(&task, 0x1234_5678_9abc_def1));
        for id in [due, asked] {
            assert_eq!(RunId::parse(id.as_str()).unwrap(), id);
        }
        for wrong in ["", "-", "a", "a-", "-1", "a b-1", "a-1\n", "../x-1"] {
            assert!(RunId::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
