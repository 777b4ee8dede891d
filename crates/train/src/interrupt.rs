//! Ctrl-C and SIGTERM: the step is finished and saved; a second one ends the process at once.

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Whether somebody asked to stop.
#[derive(Debug, Default)]
pub struct Interrupt {
    signal: Arc<AtomicUsize>,
}

impl Interrupt {
    /// From now on, signals are noted instead of ending the process.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn watch() -> Result<Self> {
        let interrupt = Self::default();
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            let register = || -> std::io::Result<()> {
                // In this order: the first signal finds `asked` false and sets it, the second ends the process.
                flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&asked))?;
                flag::register(signal, Arc::clone(&asked))?;
                flag::register_usize(signal, Arc::clone(&interrupt.signal), signal as usize)?;
                Ok(())
            };
            register().context("signals cannot be watched")?;
        }
        Ok(interrupt)
    }

    /// The signal that came, if one did.
    pub fn signal(&self) -> Option<u8> {
        match self.signal.load(Ordering::Relaxed) {
            0 => None,
            signal => u8::try_from(signal).ok(),
        }
    }
}
