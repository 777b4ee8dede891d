//! Iterations to be timed: models of drawn weights, prompts and answers of one length.

use crate::config::PpoConfig;
use crate::policy::{Policy, ValueHead, Values};
use crate::ppo::{Ppo, PpoState};
use crate::prompts::Prompt;
use crate::rollout::Ends;
use anyhow::Result;
use candle_core::Device;
use gptkit_data::progress::Silent;
use gptkit_data::tokenizer::Tokenizer;
use gptkit_model::{ClassHead, Dtype, Gpt, ModelConfig, Params};
use gptkit_reward::RewardModel;
use gptkit_train::objective::LanguageModeling;
use gptkit_train::schedule::Step;
use gptkit_train::trainer::Trainer;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Seconds of the parts of an iteration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seconds {
    /// Answers.
    pub rollout: f64,
    /// Log-probabilities, values and scores.
    pub scoring: f64,
    /// One update of policy and value network.
    pub optimization: f64,
}

/// Runs iterations of one update each, with `episodes` prompts of `prompt` tokens and answers of `new`, until `more` of the
/// newest says that it is enough. Policy, reference, value network and reward model are four models of `shape`.
///
/// # Errors
/// When memory does not suffice.
pub fn iterations(
    shape: &ModelConfig,
    (episodes, prompt, new): (usize, usize, usize),
    dtype: Dtype,
    device: &Device,
    mut more: impl FnMut(Seconds) -> bool,
) -> Result<()> {
    let config: PpoConfig = serde_json::from_value(serde_json::json!({
        "rollout": { "max_new_tokens": new, "rows": episodes },
        "reward": { "missing_end": "ignored" },
        "value": { "warmup_epochs": 0 },
        "train": { "length": "1 steps", "batch_size": episodes, "lr": 1e-6, "clip": 1.0, "dtype": dtype },
    }))?;
    let token = |n: usize, i: usize| ((n * prompt + i) * 7919 % shape.vocab_size) as u32;
    let prompts: Vec<Prompt> =
        (0..episodes).map(|n| Prompt { tokens: (0..prompt).map(|i| token(n, i)).collect(), world: None }).collect();
    let precision = dtype.precision();
    let params = || Params::init(shape, 1, device);
    let (own, frozen, mut of_values, mut of_reward) = (params()?, params()?, params()?, params()?);
    let head = ClassHead::init_value(&mut of_values, shape.d_model)?;
    let values =
        Values { gpt: Gpt::new(shape, &of_values, precision)?, head: ValueHead { head, clip_range: Some(0.2) } };
    let head = ClassHead::init_reward(&mut of_reward, shape.d_model, 1)?;
    let rewarder = RewardModel { gpt: Gpt::new(shape, &of_reward, precision)?, head };
    let policy = Policy {
        language: LanguageModeling { model: Gpt::new(shape, &own, precision)? },
        temperature: 1.0,
        clip_range: config.policy.clip_range,
        values: None,
        ptx_coef: 0.0,
    };
    let mut ppo = Ppo {
        config: Arc::new(config.clone()),
        policy: Trainer::new(policy, own, &config.train, 1)?,
        reference: Some(Gpt::new(shape, &frozen, precision)?),
        values: Some(Trainer::new(values, of_values, &config.train, 1)?),
        rewarder: Box::new(rewarder),
        ema: None,
        tokenizer: Tokenizer::of_characters(&BTreeSet::from(['a']))?,
        ends: Ends::default(),
        validation: Vec::new(),
        text: None,
        state: PpoState { kl_coef: config.reward.kl_coef, ..PpoState::default() },
    };
    for number in 1.. {
        let step = Step { number, first_row: (number - 1) * episodes as u64, rows: episodes, lr: config.train.lr };
        let figures = ppo.iterate(&prompts, &step, &Silent)?.figures;
        let seconds = |part: &str| figures[&format!("time/{part}_s")];
        let found =
            Seconds { rollout: seconds("rollout"), scoring: seconds("scoring"), optimization: seconds("optimization") };
        if !more(found) {
            break;
        }
    }
    Ok(())
}
