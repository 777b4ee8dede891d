//! Cases for `gptkit bench` to time: iterations of PPO with models of drawn weights, prompts and answers of one length.

use crate::config::PpoConfig;
use crate::policy::{Policy, ValueHead, Values};
use crate::ppo::{Ppo, PpoState};
use crate::prompts::Prompt;
use crate::rollout::Ends;
use anyhow::Result;
use candle_core::Device;
use gptkit_data::progress::{Progress, Silent, Unit};
use gptkit_data::tokenizer::Tokenizer;
use gptkit_model::{ClassHead, Dtype, Gpt, ModelConfig, Params};
use gptkit_ranks::ALONE;
use gptkit_reward::RewardModel;
use gptkit_train::bench::{CaseTime, MIN_RUNS, median};
use gptkit_train::language_modeling::LanguageModeling;
use gptkit_train::schedule::Step;
use gptkit_train::trainer::Trainer;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Tokens of a prompt.
const PROMPT: usize = 32;
/// Tokens of an answer.
const ANSWER: usize = 48;

/// Seconds of the parts of an iteration.
#[derive(Debug, Clone, Copy, PartialEq)]
struct IterationSeconds {
    /// Generation of the answers.
    rollout: f64,
    /// Log-probabilities, values and rewards, with the forward passes of the update.
    scoring: f64,
    /// The rest of one update of policy and value network.
    optimization: f64,
}

/// Times an iteration of PPO with one update on `episodes` episodes, and its parts. It takes the memory of four models of
/// `shape`: policy, reference model, value network and reward model.
///
/// # Errors
/// When memory does not suffice.
pub fn ppo(
    shape: &ModelConfig,
    episodes: usize,
    dtype: Dtype,
    device: &Device,
    progress: &dyn Progress,
) -> Result<Vec<CaseTime>> {
    let task = progress.task("ppo", None, Unit::Items);
    let mut measured = Vec::new();
    iterations(shape, (episodes, PROMPT, ANSWER), dtype, device, |seconds| {
        task.advance(1);
        measured.push(seconds);
        measured.len() <= MIN_RUNS // the first takes its memory from the system
    })?;
    let case = |case, seconds: fn(&IterationSeconds) -> f64| CaseTime {
        case,
        batch: episodes,
        seq: PROMPT + ANSWER,
        seconds: median(measured[1..].iter().map(seconds).collect()),
        tokens: episodes * ANSWER,
        flops: 0.0,
    };
    Ok(vec![
        case("ppo_iteration", |s| s.rollout + s.scoring + s.optimization),
        case("ppo_rollout", |s| s.rollout),
        case("ppo_scoring", |s| s.scoring),
        case("ppo_optimization", |s| s.optimization),
    ])
}

/// Runs iterations with `episodes` prompts of `prompt` tokens and answers of `new` until `more` returns false.
fn iterations(
    shape: &ModelConfig,
    (episodes, prompt, new): (usize, usize, usize),
    dtype: Dtype,
    device: &Device,
    mut more: impl FnMut(IterationSeconds) -> bool,
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
    let (own, mut of_values, mut of_reward) = (params()?, params()?, params()?);
    let head = ClassHead::init_value(&mut of_values, shape.d_model)?;
    let values =
        Values { gpt: Gpt::new(shape, &of_values, precision)?, head: ValueHead { head, clip_range: Some(0.2) } };
    let head = ClassHead::init_reward(&mut of_reward, shape.d_model, 1)?;
    let frozen = |params: &Params| -> Result<Gpt> {
        let model = Gpt::new(shape, params, precision)?;
        model.keep_packed_only()?;
        Ok(model)
    };
    let rewarder = RewardModel { gpt: frozen(&of_reward)?, head };
    let policy = Policy {
        language: LanguageModeling { model: Gpt::new(shape, &own, precision)? },
        temperature: 1.0,
        clip_range: config.policy.clip_range,
        values: None,
        ptx_coef: 0.0,
    };
    let mut ppo = Ppo {
        config: Arc::new(config.clone()),
        policy: Trainer::new(policy, own, &config.train, 1, &ALONE)?,
        reference: Some(frozen(&params()?)?),
        values: Some(Trainer::new(values, of_values, &config.train, 1, &ALONE)?),
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
        let found = IterationSeconds {
            rollout: seconds("rollout"),
            scoring: seconds("scoring"),
            optimization: seconds("optimization"),
        };
        if !more(found) {
            break;
        }
    }
    Ok(())
}
