//! How many instances are wanted: from what is asked for and what there is. Pure.
//!
//! What there is comes from whoever is about to write: a side that is not named stays as it is then, whatever was shown
//! before.

use skpr_proto::Failure;
use skpr_proto::error::usage;
use skpr_proto::manifest::{Instances, MAX_INSTANCES};

/// How many instances are wanted, at least and at most. A side that is not named stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    pub minimum: Option<u32>,
    pub maximum: Option<u32>,
    /// Only say what would change.
    pub dry_run: bool,
    pub by: String,
}

/// The limits before and after, each at least and at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scaled {
    pub before: (u32, u32),
    pub after: (u32, u32),
}

impl Scale {
    /// What becomes of `before`, and the settings for that. What CPU is aimed at stays, for when there is something to
    /// scale again.
    pub fn of(&self, before: Option<&Instances>) -> Result<(Scaled, Instances), Failure> {
        let cpu = before.and_then(|before| before.cpu);
        let before = before.map_or((1, 1), |before| (before.min, before.max));
        let (min, max) = self.limits(before)?;
        Ok((Scaled { before, after: (min, max) }, Instances { min, max, cpu }))
    }

    fn limits(&self, before: (u32, u32)) -> Result<(u32, u32), Failure> {
        let Scale { minimum, maximum, .. } = *self;
        if minimum.is_none() && maximum.is_none() {
            return Err(
                usage("neither a minimum nor a maximum is named").with_hint("--min N, --max N or both")
            );
        }
        for (name, number) in [("minimum", minimum), ("maximum", maximum)] {
            if number == Some(0) {
                return Err(usage(format!(
                    "a {name} of `0` is too few: an environment has at least one instance"
                ))
                .with_hint("skpr delete takes one away"));
            }
            if let Some(number) = number.filter(|number| *number > MAX_INSTANCES) {
                return Err(usage(format!("a {name} of `{number}` is too many: at most {MAX_INSTANCES}")));
            }
        }
        let (min, max) = (minimum.unwrap_or(before.0), maximum.unwrap_or(before.1));
        if min <= max {
            return Ok((min, max));
        }
        Err(match (minimum, maximum) {
            (Some(_), None) => {
                usage(format!("a minimum of `{min}` is more than the maximum, which is `{max}`"))
                    .with_hint(format!("--min {min} --max {min}"))
            }
            (None, Some(_)) => {
                usage(format!("a maximum of `{max}` is less than the minimum, which is `{min}`"))
                    .with_hint(format!("--min {max} --max {max}"))
            }
            _ => usage(format!("a minimum of `{min}` is more than a maximum of `{max}`")),
        })
    }
}

impl Scaled {
    pub fn is_change(&self) -> bool {
        self.before != self.after
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use skpr_proto::manifest::Environment;

    pub(crate) fn to(minimum: impl Into<Option<u32>>, maximum: impl Into<Option<u32>>) -> Scale {
        Scale { minimum: minimum.into(), maximum: maximum.into(), dry_run: false, by: "ann".into() }
    }

    fn instances(text: &str) -> Option<Instances> {
        serde_json::from_str::<Environment>(text).unwrap().instances
    }

    #[track_caller]
    fn check(minimum: Option<u32>, maximum: Option<u32>, expected: Result<(u32, u32), &str>) {
        let before = instances(r#"{"instances": {"min": 2, "max": 4}}"#);
        match (to(minimum, maximum).of(before.as_ref()), expected) {
            (Ok((scaled, settings)), Ok(expected)) => {
                assert_eq!((scaled.before, scaled.after), ((2, 4), expected));
                assert_eq!((settings.min, settings.max), expected);
            }
            (Err(failure), Err(part)) => {
                let told = format!("{failure} {}", failure.hint.clone().unwrap_or_default());
                assert!(told.contains(part), "{told}");
            }
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn a_side_that_is_not_named_stays_and_is_never_moved() {
        check(Some(3), None, Ok((3, 4)));
        check(None, Some(9), Ok((2, 9)));
        check(Some(10_000), Some(10_000), Ok((10_000, 10_000)));
        check(Some(5), None, Err("--min 5 --max 5"));
        check(None, Some(1), Err("--min 1 --max 1"));
        check(Some(3), Some(2), Err("more than a maximum of `2`"));
        check(Some(0), None, Err("skpr delete"));
        check(None, Some(10_001), Err("at most 10000"));
        check(None, None, Err("--min N"));
        assert_eq!(to(None, 3).of(None).unwrap().0, Scaled { before: (1, 1), after: (1, 3) });
    }

    #[test]
    fn what_is_aimed_at_outlasts_a_fixed_number() {
        let before = instances(r#"{"instances": {"min": 2, "max": 8, "cpu": "70%"}}"#);
        let (scaled, fixed) = to(4, 4).of(before.as_ref()).unwrap();
        assert!(scaled.is_change() && fixed.cpu == before.as_ref().unwrap().cpu);
        let (_, again) = to(2, 8).of(Some(&fixed)).unwrap();
        assert_eq!(Some(again), before);
        assert!(!to(2, None).of(before.as_ref()).unwrap().0.is_change());
    }
}
