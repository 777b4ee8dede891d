//! Supervised fine-tuning: from a model folder to one that answers, or that labels.
//!
//! - [`sources`]   where records come from, and which of them are trained on, validated on, tested on
//! - [`start`]     the model it begins with, its vocabulary extended
//! - [`dialogues`] dialogues → tokens that know whether they are learned → batches of demonstrations
//! - `mixing`      the loss of demonstrations and of pretraining text beside them
//! - [`answers`]   what a model answers, before and after
//! - [`mod@sft`]   InstructGPT's first step
//! - [`columns`]   which columns of a file hold texts and labels
//! - [`labeled`]   labeled records → sequences between special tokens → batches
//! - [`classifier`] a model with a head, its loss and what its predictions are worth
//! - [`mod@finetune`] GPT-1's second step
//! - [`mod@predict`] records → records with a label
//! - [`mod@accuracy`] a classifier on records that are in memory
//! - [`scores`]    predictions against truth: accuracy, F1, correlation

pub mod accuracy;
pub mod answers;
pub mod classifier;
pub mod columns;
pub mod dialogues;
pub mod finetune;
pub mod labeled;
mod mixing;
pub mod predict;
pub mod scores;
pub mod sft;
pub mod sources;
pub mod start;

pub use accuracy::accuracy;
pub use finetune::{FinetuneConfig, finetune};
pub use predict::predict;
pub use sft::{SftConfig, sft};
