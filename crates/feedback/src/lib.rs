//! What people think of a model's answers, kept in one file until the next round of training reads it.
//!
//! - [`records`]  answers, rankings, ratings and demonstrations
//! - [`store`]    the SQLite file that holds them
//! - [`people`]   who gave feedback, and what they may do
//! - [`tasks`]    prompts that wait for a labeler
//! - [`export`]   records → files for `train-rm`, `sft`, `dpo` and `ppo`
//! - [`mask`]     mail addresses, telephone and card numbers are taken out of exports
//! - [`figures`]  counts, agreement, win rates, strengths of models
//! - [`provenance`]  where a record is from

pub mod export;
pub mod figures;
pub mod mask;
pub mod people;
pub mod provenance;
pub mod records;
pub mod store;
pub mod tasks;

pub use store::{FeedbackStore, StoreError};

#[cfg(test)]
mod tests;
