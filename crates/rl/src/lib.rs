//! InstructGPT's third step: PPO against a reward model (Ouyang et al. 2022, §3.5 and appendix C.4), and the baseline of
//! today's users beside it.
//!
//! One iteration, in the order of [`mod@ppo`]:
//! 1. [`rollout`]    prompts → answers, their log-probabilities, values and scores
//! 2. [`shaping`]    −β·KL at every token, by the estimators of [`kl`]; the score on the last
//! 3. [`advantage`]  generalized advantage estimation, then whitening
//! 4. [`policy`]     the clipped losses of [`loss`], plus γ × the pretraining loss
//! 5. [`doctor`]     what must hold after it, in words
//!
//! - [`config`]     what a user may set of it
//! - [`answers`]    prompts with answers, and how likely a model finds each token of these
//! - [`prompts`]    files of prompts → tokens
//! - [`provenance`] what a model was made from, round by round
//! - [`charts`]     reward against KL
//! - [`mod@bench`]  iterations to be timed
//! - [`plan`]       memory and updates before any are spent
//! - [`stage`]      start, resume, evaluate, save
//!
//! Beside it:
//! - [`mod@dpo`]    a policy from comparisons alone
//! - [`compared`]   comparisons with how likely a frozen reference finds each completion

pub mod advantage;
pub mod answers;
pub mod bench;
mod charts;
pub mod compared;
pub mod config;
pub mod doctor;
pub mod dpo;
pub mod kl;
pub mod loss;
pub mod plan;
mod policy;
mod ppo;
pub mod prompts;
pub mod provenance;
pub mod rollout;
pub mod shaping;
pub mod stage;

pub use config::PpoConfig;
pub use dpo::{Dpo, DpoConfig};
pub use stage::PpoTraining;
