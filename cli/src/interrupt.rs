//! Ctrl-C ends the program at once with exit code 130, even while it is blocked in a write to a stopped pager.
//!
//! Nothing is lost by that: what was received has been written whenever the program waits for more.

use std::io;

const INTERRUPTED: i32 = 130;

/// Starts the thread that waits for Ctrl-C. It has no owner on purpose: it lives as long as the process.
pub(crate) fn exit_on_interrupt() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Registered before anything else runs, so that there is no moment in which the signal kills without a code.
    let interrupt = {
        let _registers_with = runtime.enter();
        Box::pin(registered())
    };
    std::thread::Builder::new().name("interrupt".into()).spawn(move || {
        if runtime.block_on(interrupt).is_ok() {
            crate::terminal::show_typing();
            std::process::exit(INTERRUPTED);
        }
    })?;
    Ok(())
}

#[cfg(unix)]
fn registered() -> impl Future<Output = io::Result<()>> + Send + 'static {
    let signal = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt());
    async move {
        signal?.recv().await;
        Ok(())
    }
}

#[cfg(not(unix))]
fn registered() -> impl Future<Output = io::Result<()>> + Send + 'static {
    tokio::signal::ctrl_c()
}
