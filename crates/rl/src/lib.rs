//! InstructGPT's third step: PPO against a reward model (Ouyang et al. 2022, §3.5 and appendix C.4), and the baseline of
//! today's users beside it.
//!
//! - [`answers`]   prompts with answers, and how likely a model finds each token of these

pub mod answers;
