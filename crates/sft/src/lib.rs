//! Supervised fine-tuning: from a model folder to one that answers, or that labels.
//!
//! - [`dialogues`] dialogues → tokens that know whether they are learned → batches of demonstrations
//! - `mixing`      the loss of demonstrations and of the pretraining text that is mixed in
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

pub use finetune::{FinetuneConfig, Finetuning};
pub use predict::predict;
pub use sft::{Sft, SftConfig};
