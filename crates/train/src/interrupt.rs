//! Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 and `--max-time`: the step is finished and saved. A second Ctrl-C or SIGTERM ends the
//! process at once; the other two come more than once (a closed terminal sends SIGHUP from the shell and from the system).

use anyhow::{Context, Result};
use gptkit_data::unfinished::signals_are_handled;
use gptkit_ranks::Ranks;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Why a run was stopped before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// By this signal.
    Signal(u8),
    /// Its time was over.
    Time,
}

impl Stop {
    /// The exit code that says so: 128 + the signal, as shells give it, or 124, as `timeout` does.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Signal(signal) => 128 + signal,
            Self::Time => 124,
        }
    }

    /// Why all ranks stop: the reason of the first of them that has one. Every rank must call it.
    ///
    /// # Errors
    /// When a rank has ended, or does not answer in time.
    pub fn of_all(own: Option<Self>, ranks: &Ranks) -> Result<Option<Self>> {
        let of_ranks = ranks.gather(&[own.map_or(0, Self::number)])?;
        Ok(of_ranks.iter().flatten().find_map(|&number| Self::of_number(number)))
    }

    /// A number that is not 0, for other ranks.
    fn number(self) -> u16 {
        match self {
            Self::Signal(signal) => 1 + u16::from(signal),
            Self::Time => u16::MAX,
        }
    }

    /// What [`Stop::number`] says; nothing for 0.
    fn of_number(number: u16) -> Option<Self> {
        match number {
            0 => None,
            u16::MAX => Some(Self::Time),
            signal => u8::try_from(signal - 1).ok().map(Self::Signal),
        }
    }
}

/// Whether somebody asked to stop.
#[derive(Debug, Default)]
pub struct Interrupt {
    signal: Arc<AtomicUsize>,
    deadline: Option<Instant>,
}

impl Interrupt {
    /// From now on, signals are noted instead of ending the process. At `deadline`, if there is one, time is over.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn watch(deadline: Option<Instant>) -> Result<Self> {
        let interrupt = Self { deadline, ..Self::default() };
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            let register = || -> std::io::Result<()> {
                // In this order: the first signal finds `asked` false and sets it, the second ends the process.
                flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&asked))?;
                flag::register(signal, Arc::clone(&asked))?;
                flag::register_usize(signal, Arc::clone(&interrupt.signal), signal as usize)?;
                Ok(())
            };
            register().context("cannot install a signal handler")?;
        }
        interrupt.watch_unix().context("cannot install a signal handler")?;
        signals_are_handled();
        Ok(interrupt)
    }

    /// SIGHUP from a terminal that is closed, unless it is ignored as under `nohup`, and SIGUSR1 as SLURM sends it ahead of
    /// the end (`--signal=USR1@60`).
    #[cfg(unix)]
    fn watch_unix(&self) -> std::io::Result<()> {
        use signal_hook::consts::{SIGHUP, SIGUSR1};
        for signal in [SIGHUP, SIGUSR1].into_iter().filter(|&signal| !gptkit_data::unfinished::is_ignored(signal)) {
            flag::register_usize(signal, Arc::clone(&self.signal), signal as usize)?;
        }
        Ok(())
    }

    #[cfg(not(unix))]
    fn watch_unix(&self) -> std::io::Result<()> {
        Ok(())
    }

    /// Asks to stop, as SIGTERM does, unless somebody has asked already.
    pub fn stop(&self) {
        let _ = self.signal.compare_exchange(0, SIGTERM as usize, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether a signal has come.
    pub fn is_signaled(&self) -> bool {
        self.signal.load(Ordering::Relaxed) != 0
    }

    /// Why to stop now, if there is a reason. Time is over when `next`, how long one more step takes, is not left.
    pub fn reason(&self, next: Duration) -> Option<Stop> {
        match self.signal.load(Ordering::Relaxed) {
            0 => self.deadline.filter(|&deadline| Instant::now() + next > deadline).map(|_| Stop::Time),
            signal => u8::try_from(signal).ok().map(Stop::Signal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_over_when_the_next_step_would_end_after_it() {
        let interrupt =
            Interrupt { deadline: Some(Instant::now() + Duration::from_secs(3600)), ..Interrupt::default() };
        assert_eq!(interrupt.reason(Duration::from_secs(60)), None);
        assert_eq!(interrupt.reason(Duration::from_secs(4000)), Some(Stop::Time));
        assert_eq!(Interrupt::default().reason(Duration::from_secs(4000)), None);
    }
}
