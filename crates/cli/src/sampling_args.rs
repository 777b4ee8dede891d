//! Arguments of every command that writes text: how tokens are chosen, and when to stop.

use crate::ui::Usage;
use anyhow::Result;
use clap::Args;
use gptkit_config::{Check, Problems};
use gptkit_model::sampler::Sampling;

/// The default of `--temperature`.
const TEMPERATURE: f32 = 0.8;

/// Sampling options
#[derive(Debug, Args)]
pub(crate) struct SamplingArgs {
    /// Sampling temperature; 0 always takes the most likely token
    #[arg(long, value_name = "T", default_value_t = TEMPERATURE, allow_negative_numbers = true)]
    temperature: f32,
    /// Sample from the K most likely tokens
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Sample from the most likely tokens with a total probability of P
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Sample from tokens at least P times as likely as the most likely one
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
    /// Penalty for tokens that already occurred; 1 is no penalty
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    repetition_penalty: f32,
    /// Penalty for a token for each time that it was generated, from -2 to 2
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    frequency_penalty: f32,
    /// Penalty for each token that was generated at all, from -2 to 2
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    presence_penalty: f32,
    /// Add BIAS, from -100 to 100, to the logit of a token (repeatable)
    #[arg(long, value_name = "ID=BIAS", value_parser = logit_bias, allow_hyphen_values = true)]
    logit_bias: Vec<(u32, f32)>,
    /// Stop before this text (repeatable)
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// Random seed: the same seed gives the same text
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl SamplingArgs {
    /// Whether any of them differs from its default.
    pub(crate) fn are_given(&self) -> bool {
        let Self { temperature, top_k, top_p, min_p, repetition_penalty, stop, seed, .. } = self;
        let numbers = (*temperature, *repetition_penalty, *seed) != (TEMPERATURE, 1.0, 1);
        let adjusts = (self.frequency_penalty, self.presence_penalty) != (0.0, 0.0) || !self.logit_bias.is_empty();
        numbers || adjusts || top_k.is_some() || top_p.is_some() || min_p.is_some() || !stop.is_empty()
    }

    /// The options as library types.
    ///
    /// # Errors
    /// When a value is out of range.
    pub(crate) fn checked(&self) -> Result<Sampling> {
        let sampling = Sampling {
            logit_bias: self.logit_bias.clone(),
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            repetition_penalty: self.repetition_penalty,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            seed: self.seed,
        };
        let mut problems = Problems::default();
        sampling.check(&mut problems);
        if problems.is_empty() {
            return Ok(sampling);
        }
        let wrong: Vec<String> = problems.iter().map(|problem| format!("--{problem}")).collect();
        Err(Usage::new(wrong.join("\n")).into())
    }
}

/// `ID=BIAS`
fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let parsed = text.split_once('=').and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse().ok()?)));
    parsed.ok_or_else(|| "write a token id, = and a number, for example 262=-100".to_owned())
}
