//! InstructGPT's second step: what people prefer, learned from their comparisons (Ouyang et al. 2022, §3.5).
//!
//! - [`group`]     a prompt with its completions and their places, as tokens
//! - [`groups`]    comparison records → groups, split by prompt
//! - [`reading`]   groups as a model reads them
//! - [`loss`]      the loss of all pairs of a group
//! - [`model`]     a language model with a scalar head: tokens → rewards
//! - [`normalization`] where rewards are 0
//! - [`report`]    rewards against comparisons: accuracy, calibration, what length explains
//! - `charts`      the same as pictures
//! - [`mod@train_rm`] the stage
//! - [`best_of`]   N completions of a prompt, best first
//! - [`mod@score`] records → records with rewards

pub mod bench;
pub mod best_of;
mod charts;
pub mod group;
pub mod groups;
pub mod loss;
pub mod model;
pub mod normalization;
pub mod reading;
pub mod report;
pub mod score;
pub mod train_rm;

pub use model::RewardModel;
pub use train_rm::{RewardConfig, RewardModeling};
