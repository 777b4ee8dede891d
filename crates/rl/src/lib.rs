//! InstructGPT's third step: PPO against a reward model (Ouyang et al. 2022, §3.5 and appendix C.4), and the baseline of
//! today's users beside it.
//!
//! - [`answers`]   prompts with answers, and how likely a model finds each token of these
//! - [`compared`]  comparisons with how likely a frozen reference finds each completion
//! - [`mod@dpo`]   the baseline: a policy from comparisons alone

pub mod answers;
pub mod compared;
pub mod dpo;

pub use dpo::{DpoConfig, dpo};
