//! How much is measured, by the environment.

use skpr_tests::report::amount;

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
        Ok(Options {
            keys: amount("BENCH_KEYS", 500, 50)?,
            connects: amount("BENCH_CONNECTS", 21, 5)?,
            mib: amount("BENCH_MIB", 256, 32)?,
            runs: amount("BENCH_RUNS", 20, 2)?,
            peer_runs: amount("BENCH_PEER_RUNS", 5, 1)?,
            shells: amount("BENCH_SHELLS", 50, 6)?,
        })
    }
}
