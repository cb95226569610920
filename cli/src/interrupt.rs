//! Ctrl-C ends the program at once with exit code 130, even while it is blocked in a write to a stopped pager.
//!
//! Nothing is lost by that: what was received has been written whenever the program waits for more. Of a session that is
//! interrupted the end is lost anyway. What would leave something half done behind asks to be ended in order, once.

use std::io;
use std::sync::Mutex;
#[cfg(unix)]
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
#[cfg(not(unix))]
use tokio::signal::windows::CtrlC as Signals;

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

/// What is done at the first signal instead of an end at once.
static ORDERLY: Mutex<Option<Box<dyn Fn() + Send>>> = Mutex::new(None);

/// Lets what goes on end in order when somebody interrupts it, until it is dropped; a second signal ends all at once.
pub(crate) struct Orderly(());

impl Orderly {
    pub(crate) fn new(end: impl Fn() + Send + 'static) -> Self {
        if let Ok(mut orderly) = ORDERLY.lock() {
            *orderly = Some(Box::new(end));
        }
        Orderly(())
    }
}

impl Drop for Orderly {
    fn drop(&mut self) {
        if let Ok(mut orderly) = ORDERLY.lock() {
            *orderly = None;
        }
    }
}

/// Whether something goes on that ends in order.
fn ends_in_order() -> bool {
    let end = ORDERLY.lock().ok().and_then(|mut orderly| orderly.take());
    end.map(|end| end()).is_some()
}

/// Starts the thread that waits for Ctrl-C.
pub(crate) fn exit_on_interrupt() -> io::Result<()> {
    #[cfg(unix)]
    let signals = || signal(SignalKind::interrupt());
    #[cfg(not(unix))]
    let signals = tokio::signal::windows::ctrl_c;
    exit_on(signals, INTERRUPTED)
}

/// Starts the thread that waits for `kill`: for when the terminal is not to be left as it is then.
pub(crate) fn exit_on_terminate() -> io::Result<()> {
    #[cfg(unix)]
    exit_on(|| signal(SignalKind::terminate()), TERMINATED)?;
    Ok(())
}

/// Starts a thread that has no owner on purpose: it lives as long as the process.
fn exit_on(signals: impl FnOnce() -> io::Result<Signals>, code: i32) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Registered before anything else runs, so that there is no moment in which the signal kills without a code.
    let mut signals = {
        let _registers_with = runtime.enter();
        signals()?
    };
    std::thread::Builder::new().name("interrupt".into()).spawn(move || {
        while runtime.block_on(signals.recv()).is_some() {
            if ends_in_order() {
                continue;
            }
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
