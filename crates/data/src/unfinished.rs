//! Unfinished files and folders, which are removed when a signal ends the process.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// All that is unfinished, each with its number.
static UNFINISHED: Mutex<Vec<(u64, PathBuf)>> = Mutex::new(Vec::new());
/// Whether signals no longer end the process by themselves.
static HANDLED: AtomicBool = AtomicBool::new(false);

/// That a path is unfinished, as long as this lives.
#[derive(Debug)]
pub(crate) struct Unfinished(u64);

impl Unfinished {
    pub(crate) fn new(path: &Path) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        watch();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Absolute, since the process may change its folder.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).push((number, path));
        Self(number)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).retain(|(number, _)| *number != self.0);
    }
}

/// Disables the removal: from now on the process handles signals itself.
pub fn signals_are_handled() {
    HANDLED.store(true, Ordering::Relaxed);
}

/// Whether `signal` was ignored when the process began, as `nohup` has SIGHUP ignored.
#[cfg(unix)]
pub fn is_ignored(signal: i32) -> bool {
    let mut old = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with no new action the call only writes the old one to where there is room for it.
    let read = unsafe { libc::sigaction(signal, std::ptr::null(), old.as_mut_ptr()) };
    // SAFETY: all zeros are a value of this type, and the call may have written another.
    read == 0 && unsafe { old.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Begins to watch for signals, once.
#[cfg(unix)]
fn watch() {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
    use signal_hook::iterator::Signals;
    use std::sync::Once;
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let signals = [SIGINT, SIGTERM, SIGHUP, SIGUSR1].into_iter().filter(|&signal| !is_ignored(signal));
        // Without a handler, signals end the process as usual, and the next process removes what is left.
        let Ok(mut signals) = Signals::new(signals) else { return };
        std::thread::spawn(move || {
            for signal in signals.forever() {
                if !HANDLED.load(Ordering::Relaxed) {
                    // The list stays locked: what begins now would never be removed.
                    let unfinished = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
                    unfinished.iter().for_each(|(_, path)| remove_now(path));
                    let _ = signal_hook::low_level::emulate_default_handler(signal);
                }
            }
        });
    });
}

#[cfg(not(unix))]
fn watch() {}

/// Removes the file or folder `path`, if it is there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
    };
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("{} cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}

/// Removes `path` while the rest of the process may still be writing below it: under another name nothing new comes in.
#[cfg(unix)]
fn remove_now(path: &Path) {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".gptkit-tmp");
    let renamed = path.with_file_name(name);
    let path = if std::fs::rename(path, &renamed).is_ok() { &renamed } else { path };
    for _ in 0..3 {
        if remove(path).is_ok() {
            break;
        }
    }
}
