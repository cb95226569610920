//! How much is measured, by the environment.

use anyhow::Context as _;

pub(crate) struct Options {
    /// Keys of each way, of idle sessions and again beside a transfer.
    pub(crate) keys: usize,
    /// Connections of each way.
    pub(crate) connects: usize,
    /// MiB of one transfer.
    pub(crate) mib: usize,
    /// Transfers of `skpr exec` in each direction.
    pub(crate) runs: usize,
    /// Those of the others.
    pub(crate) peer_runs: usize,
    /// Shells at once.
    pub(crate) shells: usize,
}

impl Options {
    pub(crate) fn read() -> anyhow::Result<Options> {
        let short = std::env::var_os("BENCH_SHORT").is_some_and(|text| !text.is_empty());
        let of = |name: &str, whole: usize, shortened: usize| -> anyhow::Result<usize> {
            let usual = if short { shortened } else { whole };
            let number = std::env::var(name).map_or(Ok(usual), |text| text.parse());
            number.ok().filter(|number| *number > 0).with_context(|| format!("{name} is a number from 1 on"))
        };
        Ok(Options {
            keys: of("BENCH_KEYS", 500, 50)?,
            connects: of("BENCH_CONNECTS", 21, 5)?,
            mib: of("BENCH_MIB", 256, 32)?,
            runs: of("BENCH_RUNS", 20, 2)?,
            peer_runs: of("BENCH_PEER_RUNS", 5, 1)?,
            shells: of("BENCH_SHELLS", 50, 6)?,
        })
    }
}
