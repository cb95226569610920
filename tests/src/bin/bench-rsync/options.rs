//! How much is measured, by the environment.

use anyhow::Context as _;

pub(crate) struct Options {
    /// Of the tree, in directories of five.
    pub(crate) files: u64,
    /// Of 200 bytes.
    pub(crate) small: u64,
    /// MiB of one file.
    pub(crate) mib: u64,
    /// Turns of each.
    pub(crate) runs: usize,
}

impl Options {
    pub(crate) fn read() -> anyhow::Result<Options> {
        let short = std::env::var_os("BENCH_SHORT").is_some_and(|text| !text.is_empty());
        let of = |name: &str, whole: u64, shortened: u64| -> anyhow::Result<u64> {
            let usual = if short { shortened } else { whole };
            let number = std::env::var(name).map_or(Ok(usual), |text| text.parse());
            number.ok().filter(|number| *number > 0).with_context(|| format!("{name} is a number from 1 on"))
        };
        Ok(Options {
            files: of("BENCH_FILES", 4000, 400)?,
            small: of("BENCH_SMALL", 100_000, 3000)?,
            mib: of("BENCH_MIB", 256, 32)?,
            runs: usize::try_from(of("BENCH_RUNS", 5, 1)?)?,
        })
    }
}
