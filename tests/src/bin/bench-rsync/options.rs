//! How much is measured, by the environment.

use skpr_tests::report::amount;

pub(crate) struct Options {
    /// Of the tree, in directories of five.
    pub(crate) files: u64,
    /// Of 200 bytes.
    pub(crate) small: u64,
    /// MiB of one file, and of a large one.
    pub(crate) mib: u64,
    pub(crate) large: u64,
    /// Turns of each.
    pub(crate) runs: usize,
}

impl Options {
    pub(crate) fn read() -> anyhow::Result<Options> {
        Ok(Options {
            files: u64::try_from(amount("BENCH_FILES", 4000, 400)?)?,
            small: u64::try_from(amount("BENCH_SMALL", 100_000, 3000)?)?,
            mib: u64::try_from(amount("BENCH_MIB", 256, 32)?)?,
            large: u64::try_from(amount("BENCH_LARGE", 1024, 64)?)?,
            runs: amount("BENCH_RUNS", 5, 1)?,
        })
    }
}
