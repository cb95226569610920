//! From a v2 `cpu.weight` back to the share of a core that was asked for. Pure.
//!
//! A share of N thousandths is `N * 1024 / 1000` shares, and these become a weight by one of two formulas: a linear one
//! (the kubelet and runc until 1.3.1, crun until 1.22), and one that keeps the default of 1,024 shares at the default
//! weight of 100 (kubernetes/kubernetes#131216, opencontainers/runc#4785, containers/crun#1721). A weight alone does not
//! tell which one made it, and the kubelet, which makes the pods' cgroups, may use another than the runtime, which makes the
//! containers'. What tells: a weight that would be more than the whole node, and containers that must add up to their pod.
//!
//! Both lose precision. Of the shares that have the same weight the roundest is taken, which people most likely wrote.

/// How shares became a weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Formula {
    #[default]
    Linear,
    /// 1,024 shares are 100.
    Quadratic,
}

/// What somebody writes, roundest first.
const ROUND: [u64; 8] = [1000, 500, 250, 100, 50, 25, 10, 5];
/// The bounds of shares and weights.
const MOST_SHARES: u64 = 262_144;
const MOST_WEIGHT: u64 = 10_000;

impl Formula {
    fn weight(self, millicores: u64) -> u64 {
        let shares = millicores.saturating_mul(1024) / 1000;
        match shares {
            ..=2 => 1,
            MOST_SHARES.. => MOST_WEIGHT,
            shares => match self {
                Formula::Linear => 1 + (shares - 2) * (MOST_WEIGHT - 1) / (MOST_SHARES - 2),
                Formula::Quadratic => {
                    #[expect(clippy::cast_precision_loss, reason = "shares are below 2^18")]
                    let log = (shares as f64).log2();
                    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
                    #[expect(
                        clippy::cast_possible_truncation,
                        clippy::cast_sign_loss,
                        reason = "between 1 and 10,000"
                    )]
                    let weight = 10_f64.powf(exponent).ceil() as u64;
                    weight
                }
            },
        }
    }

    /// The share that has this weight.
    pub(super) fn millicores(self, weight: u64) -> u64 {
        if weight <= 1 {
            return 0;
        }
        let least = self.least(weight);
        let most = self.least(weight.saturating_add(1)).saturating_sub(1).max(least);
        let round = ROUND.iter().map(|unit| most / unit * unit).find(|round| *round >= least);
        round.unwrap_or(most)
    }

    /// The least share with at least this weight: both formulas rise.
    fn least(self, weight: u64) -> u64 {
        let (mut below, mut above) = (0, MOST_SHARES);
        while below < above {
            let middle = below.midpoint(above);
            if self.weight(middle) < weight { below = middle + 1 } else { above = middle }
        }
        below
    }

    /// How the kubelet weighs, by the cgroup of all pods: they may have no more than the node has.
    pub(super) fn of_all_pods(weight: u64, cores: u64) -> Formula {
        // 100 is what the kernel gives to whoever is not told otherwise.
        let likely = weight != 100;
        if likely && Formula::Linear.millicores(weight) > cores.saturating_mul(1050) {
            Formula::Quadratic
        } else {
            Formula::Linear
        }
    }

    /// How the runtime weighs, by one pod whose containers have `weights`: they add up to the pod.
    pub(super) fn of_containers(
        pod: Formula,
        weight: u64,
        weights: impl Iterator<Item = u64> + Clone,
    ) -> Formula {
        let whole = pod.millicores(weight);
        let off = |formula: Formula| {
            let sum: u64 = weights.clone().map(|weight| formula.millicores(weight)).sum();
            // As a factor, in thousandths, so that 100 against 40 is as far off as 100 against 250.
            sum.max(whole).saturating_mul(1000) / sum.min(whole).max(1)
        };
        let other = match pod {
            Formula::Linear => Formula::Quadratic,
            Formula::Quadratic => Formula::Linear,
        };
        if off(other) < off(pod) { other } else { pod }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_the_runtimes() {
        for (millicores, linear, quadratic) in [
            (0, 1, 1),
            (100, 4, 17),
            (250, 10, 35),
            (500, 20, 59),
            (1000, 39, 100),
            (256_000, 10_000, 10_000),
        ] {
            assert_eq!(Formula::Linear.weight(millicores), linear, "{millicores}");
            assert_eq!(Formula::Quadratic.weight(millicores), quadratic, "{millicores}");
        }
    }

    #[test]
    fn the_usual_shares_come_back() {
        for formula in [Formula::Linear, Formula::Quadratic] {
            for millicores in [100, 250, 500, 1000, 1500, 2000, 3000, 4000, 8000, 16_000] {
                assert_eq!(formula.millicores(formula.weight(millicores)), millicores, "{formula:?}");
            }
            assert_eq!(formula.millicores(1), 0);
        }
    }

    #[test]
    fn any_weight_is_read_as_a_share_that_has_it() {
        for formula in [Formula::Linear, Formula::Quadratic] {
            for weight in (2..=10_000).step_by(37) {
                let back = formula.weight(formula.millicores(weight));
                // Some weights have no share at all.
                assert!(back.abs_diff(weight) <= 1 + weight / 50, "{formula:?} {weight} {back}");
            }
            assert!(formula.millicores(u64::MAX) <= 262_144);
        }
    }

    #[test]
    fn more_than_the_node_has_shows_the_formula() {
        for (millicores, cores) in [(2000, 2), (3500, 4), (15_000, 16), (63_000, 64)] {
            let formula = |made: Formula| Formula::of_all_pods(made.weight(millicores), cores);
            assert_eq!(formula(Formula::Linear), Formula::Linear, "{millicores}");
            assert_eq!(formula(Formula::Quadratic), Formula::Quadratic, "{millicores}");
        }
        assert_eq!(Formula::of_all_pods(100, 1), Formula::Linear);
    }

    #[test]
    fn containers_add_up_to_their_pod() {
        for pod in [Formula::Linear, Formula::Quadratic] {
            for runtime in [Formula::Linear, Formula::Quadratic] {
                let weights = [0, 250, 100].map(|millicores| runtime.weight(millicores));
                let found = Formula::of_containers(pod, pod.weight(350), weights.into_iter());
                assert_eq!(found, runtime, "{pod:?}");
            }
        }
        assert_eq!(Formula::of_containers(Formula::Linear, 1, std::iter::empty()), Formula::Linear);
    }
}
