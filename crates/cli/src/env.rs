//! The environment variables that gptkit reads and sets; docs/tools.md lists them for users.
//!
//! | variable | read in | for |
//! | --- | --- | --- |
//! | `GPTKIT_CPU` | [`gptkit_ops::cpu`] | the most of the processor's instructions that is used |
//! | `GPTKIT_EVENTS` | here | set by `gptkit lineage` for the processes it runs: they report events instead of words |
//! | `USER`, `USERNAME` | here | name of the person who judges |
//! | `CANDLE_BARRIER_POOL_SPIN_LIMIT` | candle; set here | how long its threads wait by spinning |
//!
//! Libraries read more of them: `RAYON_NUM_THREADS`, `NO_COLOR`, `RUST_BACKTRACE`, `TMPDIR`.

use crate::ui::Usage;
use gptkit_lineage::event::EVENTS;
use gptkit_ops::cpu::{Cpu, LIMIT};
use std::ffi::OsStr;

/// Begins the names of all that is read here.
const PREFIX: &str = "GPTKIT_";

/// Whether another gptkit wants events; the other variables are checked.
///
/// # Errors
/// When one has a value that means nothing.
pub(crate) fn wants_events() -> Result<bool, Usage> {
    Cpu::limit().map_err(Usage)?;
    parse_events(std::env::var_os(EVENTS).as_deref())
}

fn parse_events(value: Option<&OsStr>) -> Result<bool, Usage> {
    match value {
        None => Ok(false),
        Some(value) if value == "1" => Ok(true),
        Some(value) => Err(Usage(format!("{EVENTS} is {value:?}; it must be 1 or not set"))),
    }
}

/// Names that begin as those of gptkit do, and are none: misspelled, they would change nothing without a word.
pub(crate) fn unknown() -> Vec<String> {
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(PREFIX) && ![LIMIT, EVENTS].contains(&name.as_str())).collect()
}

/// Name of the person at the keyboard.
pub(crate) fn user() -> Option<String> {
    ["USER", "USERNAME"].into_iter().find_map(|name| std::env::var(name).ok())
}

/// Has candle's own threads sleep as soon as they have no work: by default they wait by spinning, on the cores that the
/// products of a training step run on.
pub(crate) fn keep_cores() {
    // SAFETY: the program has no second thread yet that could read the environment.
    unsafe { std::env::set_var("CANDLE_BARRIER_POOL_SPIN_LIMIT", "1") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_on_or_off() {
        assert!(!parse_events(None).unwrap() && parse_events(Some("1".as_ref())).unwrap());
        for value in ["", "0", "yes", "1 "] {
            let said = parse_events(Some(value.as_ref())).unwrap_err().to_string();
            assert!(said.contains("GPTKIT_EVENTS is") && said.contains("must be 1 or not set"), "{said}");
        }
    }
}
