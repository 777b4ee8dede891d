//! What a command gives to the stage that it runs.

use candle_core::Device;
use gptkit_data::progress::Progress;
use gptkit_ranks::Ranks;
use std::time::Instant;

/// Where a stage computes, where it reports, and until when.
#[derive(Clone, Copy)]
pub struct RunContext<'a> {
    /// Device of all tensors.
    pub device: &'a Device,
    /// The command's output.
    pub progress: &'a dyn Progress,
    /// When the current step is the last one: it is completed and saved.
    pub deadline: Option<Instant>,
    /// The processes that run the stage together.
    pub ranks: &'a Ranks,
}
