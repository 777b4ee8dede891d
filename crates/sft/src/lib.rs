//! Supervised fine-tuning.
//!
//! - [`scores`] predictions against truth: accuracy, F1, correlation

pub mod scores;
