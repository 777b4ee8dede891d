//! What a stage's process tells the one that runs it: an object a line on its stderr.

use gptkit_data::progress::Unit;
use serde::{Deserialize, Serialize};

/// Set in the environment of a process that is to say [`ProgressEvent`]s instead of words.
pub const EVENTS: &str = "GPTKIT_EVENTS";

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProgressEvent {
    /// Words were said.
    Said(String),
    /// Long work began.
    Began {
        /// What it is.
        label: String,
        /// Units of it, if it is known how many.
        total: Option<u64>,
        /// What it counts.
        unit: Unit,
    },
    /// Units that were done before this run.
    ResumedAt(u64),
    /// Progress of a task, with figures to show.
    Reached {
        /// Units.
        done: u64,
        /// As [`gptkit_data::progress::ProgressTask::show`] takes them.
        figures: String,
    },
    /// The work that began last is over.
    Over,
    /// The process is about to end.
    Ended {
        /// The most memory that it has had, where the system says it.
        peak_bytes: Option<u64>,
    },
}
