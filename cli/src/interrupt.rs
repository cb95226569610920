//! Ctrl-C ends the program at once with exit code 130, even while it is blocked in a write to a stopped pager.
//!
//! Nothing is lost by that: what was received has been written whenever the program waits for more. Of a session that is
//! interrupted the end is lost anyway.

use std::io;
use std::sync::Mutex;

const INTERRUPTED: i32 = 130;
/// What a shell says of a program that this signal ended.
#[cfg(unix)]
const TERMINATED: i32 = 143;

/// What the user should know who interrupts what goes on without this program.
static PARTING: Mutex<Option<String>> = Mutex::new(None);

/// Keeps a sentence for the user who interrupts, until it is dropped.
pub(crate) struct Parting(());

impl Parting {
    pub(crate) fn new(text: String) -> Self {
        set(Some(text));
        Parting(())
    }
}

impl Drop for Parting {
    fn drop(&mut self) {
        set(None);
    }
}

fn set(text: Option<String>) {
    if let Ok(mut parting) = PARTING.lock() {
        *parting = text;
    }
}

/// Starts the thread that waits for Ctrl-C.
pub(crate) fn exit_on_interrupt() -> io::Result<()> {
    exit_on(interrupt, INTERRUPTED)
}

/// Starts the thread that waits for `kill`: for when the terminal is not to be left as it is then.
pub(crate) fn exit_on_terminate() -> io::Result<()> {
    #[cfg(unix)]
    exit_on(terminate, TERMINATED)?;
    Ok(())
}

/// Starts a thread that has no owner on purpose: it lives as long as the process.
fn exit_on<F: Future<Output = io::Result<()>> + Send + 'static>(
    signal: fn() -> F,
    code: i32,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Registered before anything else runs, so that there is no moment in which the signal kills without a code.
    let arrives = {
        let _registers_with = runtime.enter();
        Box::pin(signal())
    };
    std::thread::Builder::new().name("interrupt".into()).spawn(move || {
        if runtime.block_on(arrives).is_ok() {
            crate::output::leave_screen();
            crate::terminal::show_typing();
            if let Some(text) = PARTING.lock().ok().and_then(|mut parting| parting.take()) {
                crate::output::parting(&text);
            }
            std::process::exit(code);
        }
    })?;
    Ok(())
}

#[cfg(unix)]
fn interrupt() -> impl Future<Output = io::Result<()>> + Send + 'static {
    arrival(tokio::signal::unix::SignalKind::interrupt())
}

#[cfg(unix)]
fn terminate() -> impl Future<Output = io::Result<()>> + Send + 'static {
    arrival(tokio::signal::unix::SignalKind::terminate())
}

#[cfg(unix)]
fn arrival(kind: tokio::signal::unix::SignalKind) -> impl Future<Output = io::Result<()>> + Send + 'static {
    let signal = tokio::signal::unix::signal(kind);
    async move {
        signal?.recv().await;
        Ok(())
    }
}

#[cfg(not(unix))]
fn interrupt() -> impl Future<Output = io::Result<()>> + Send + 'static {
    tokio::signal::ctrl_c()
}
