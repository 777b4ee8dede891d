//! What people prefer: collecting comparisons, counting win rates, and exporting them for training (Ouyang et al. 2022, §3.4).
//!
//! - [`settings`]   models, decoding options and prompts of a collection
//! - [`prompts`]    a file or the built-in world → prompts that all models can read
//! - [`answering`]  prompts → completions of a model
//! - [`collection`] prompts → completions of models and the choices between them, in a store of feedback
//! - [`compare`]    completions → ranks, by people and by automatic judges
//! - [`win_rates`]  counts of choices: win rates and agreement
//! - [`contest`]    several models or decoding settings against a reference: win rates, rewards, KL divergence
//! - [`people`]     simulated people who use a server; `client` is their connection
//! - [`export`]     a collection → comparison records for `gptkit train-rm`, and a summary

pub mod answering;
mod client;
pub mod collection;
pub mod compare;
pub mod contest;
pub mod export;
pub mod people;
pub mod prompts;
pub mod settings;
pub mod win_rates;
