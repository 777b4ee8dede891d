//! Supervised fine-tuning: from a model folder to one that answers, or that labels.
//!
//! - [`start`]     the model it begins with, its vocabulary extended
//! - [`dialogues`] dialogues → tokens that know whether they are learned → packed windows
//! - [`answers`]   what a model answers, before and after
//! - [`mod@sft`]   InstructGPT's first step
//! - [`scores`]    predictions against truth: accuracy, F1, correlation

pub mod answers;
pub mod dialogues;
pub mod scores;
pub mod sft;
pub mod start;

pub use sft::{SftConfig, sft};
