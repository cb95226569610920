//! From nothing to a program's end: what every command of a script costs.

use crate::guard::check;
use crate::median;
use crate::options::Options;
use crate::site::Site;
use crate::ways::{ALL, Way, in_turn};
use anyhow::{Context as _, Result};
use skpr_tests::report::{Better, Figure};
use std::time::Instant;

/// In seconds.
const TARGET: f64 = 0.12;

pub(crate) fn measure(site: &Site, options: &Options) -> Result<Vec<Figure>> {
    let mut taken: [Vec<f64>; ALL.len()] = Default::default();
    // The first of each is not counted.
    for round in 0..=options.connects {
        for (number, way) in in_turn(round) {
            check()?;
            let begun = Instant::now();
            site.inside(way, &["true"])?;
            if round > 0 {
                taken.get_mut(number).context("a way")?.push(begun.elapsed().as_secs_f64());
            }
        }
    }
    let [skpr, through, sshd, kubectl] = taken.map(median);
    let of = |way: Way, seconds: f64| {
        Figure::new(format!("connect and run `true`: {}", way.name()), seconds, "s", Better::Lower)
    };
    let ours = [(Way::Skpr, skpr), (Way::ThroughSkpr, through)];
    let figures = ours.into_iter().flat_map(|(way, seconds)| {
        [
            of(way, seconds).target(TARGET),
            of(way, seconds).against(Way::Sshd.name(), sshd).target_ratio(1.0),
            of(way, seconds).against(Way::Kubectl.name(), kubectl).target_ratio(1.0),
        ]
    });
    Ok(figures.collect())
}
