//! The environment variables that gptkit reads and sets. `gptkit info` lists [`VARIABLES`]; a test compares them with the
//! table in docs/tools.md.
//!
//! Libraries read two of them, each in one function: `GPTKIT_CPU` in [`Cpu::limit`], `SOURCE_DATE_EPOCH` in
//! `gptkit_data::template`. The last four are read by libraries that gptkit is built on.

use crate::ui::Usage;
use gptkit_lineage::event::EVENTS;
use gptkit_ops::cpu::{Cpu, LIMIT};
use std::ffi::OsStr;

/// Beginning of the names of gptkit's own variables.
const PREFIX: &str = "GPTKIT_";

/// A variable that changes what gptkit does.
pub(crate) struct Variable {
    /// Its name.
    pub(crate) name: &'static str,
    /// Accepted values; empty where a library decides.
    pub(crate) values: &'static str,
}

/// Every variable that gptkit reads, or that a user may want to set for the libraries below it.
pub(crate) const VARIABLES: &[Variable] = &[
    Variable { name: LIMIT, values: "portable, avx2, avx512" },
    Variable { name: EVENTS, values: "1" },
    Variable { name: "SOURCE_DATE_EPOCH", values: "seconds since 1970" },
    Variable { name: "USER", values: "any text" },
    Variable { name: "USERNAME", values: "any text" },
    Variable { name: "RAYON_NUM_THREADS", values: "" },
    Variable { name: "NO_COLOR", values: "" },
    Variable { name: "TMPDIR", values: "" },
    Variable { name: "RUST_BACKTRACE", values: "" },
];

impl Variable {
    /// Its value, if it is set.
    pub(crate) fn value(&self) -> Option<String> {
        std::env::var_os(self.name).map(|value| value.to_string_lossy().into_owned())
    }
}

/// Whether output is to be events for another gptkit instead of text. Checks the values of all of gptkit's own variables.
///
/// # Errors
/// When one has a value that is not accepted.
pub(crate) fn wants_events() -> Result<bool, Usage> {
    Cpu::limit().map_err(Usage::new)?;
    parse_events(std::env::var_os(EVENTS).as_deref())
}

fn parse_events(value: Option<&OsStr>) -> Result<bool, Usage> {
    match value {
        None => Ok(false),
        Some(value) if value == "1" => Ok(true),
        Some(value) => Err(Usage::new(format!("{EVENTS} is {value:?}; it must be 1 or unset"))),
    }
}

/// Names of variables that are set, begin with [`PREFIX`], and are not gptkit's: a misspelled name has no effect.
pub(crate) fn unknown() -> Vec<String> {
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(PREFIX) && VARIABLES.iter().all(|known| known.name != name)).collect()
}

/// Name of the person at the keyboard.
pub(crate) fn user() -> Option<String> {
    ["USER", "USERNAME"].into_iter().find_map(|name| std::env::var(name).ok())
}

/// Keeps candle's own threads from the cores that the products of a training step run on: by default they wait for work by
/// spinning. There are none of them unless weights are `quantized`, whose products they make; then they sleep while they have
/// no work. Values that the user has set stay.
pub(crate) fn keep_cores(quantized: bool) {
    let (name, value) = if quantized { ("CANDLE_BARRIER_POOL_SPIN_LIMIT", "1") } else { ("CANDLE_NUM_THREADS", "1") };
    if std::env::var_os(name).is_none() {
        // SAFETY: the program has no second thread yet that could read the environment.
        unsafe { std::env::set_var(name, value) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_on_or_off() {
        assert!(!parse_events(None).unwrap() && parse_events(Some("1".as_ref())).unwrap());
        for value in ["", "0", "yes", "1 "] {
            let error = parse_events(Some(value.as_ref())).unwrap_err().to_string();
            assert!(error.contains("GPTKIT_EVENTS is") && error.contains("must be 1 or unset"), "{error}");
        }
    }
}
