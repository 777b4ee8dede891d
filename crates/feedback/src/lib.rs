//! What people think of a model's answers, kept in one file until the next round of training reads it.
//!
//! - [`records`]  answers, rankings, ratings and demonstrations
//! - [`store`]    the SQLite file that holds them; `schema.rs` has its tables
//! - [`choices`]  the collection of `gptkit compare` in the same file
//! - [`people`]   who gave feedback, and what they may do
//! - [`tasks`]    prompts that wait for a labeler
//! - [`export`]   records → files for `train-rm`, `sft`, `dpo` and `ppo`
//! - [`trace`]    which records an export holds, and which exports hold a record
//! - [`deletion`] all that a person wrote is removed
//! - [`mask`]     mail addresses, telephone and card numbers are taken out of exports
//! - [`figures`]  counts, agreement, win rates, strengths of models
//! - [`provenance`]  where a record is from

pub mod choices;
pub mod deletion;
pub mod export;
pub mod figures;
pub mod mask;
pub mod people;
pub mod provenance;
pub mod records;
mod schema;
pub mod store;
pub mod tasks;
pub mod trace;

pub use store::{FeedbackStore, StoreError};

#[cfg(test)]
mod tests;
