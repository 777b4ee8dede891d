//! The fields that `/v1/chat/completions` and `/v1/completions` share. A field that is accepted is obeyed; one that would
//! change the answer and is not supported is refused by name.

use crate::api::error::ApiError;
use gptkit_config::{Check, Problems};
use gptkit_model::sampler::Sampling;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// How tokens are chosen, and when an answer ends.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct SamplingFields {
    /// Name of a served model, or an alias.
    pub(crate) model: Option<String>,
    /// 0 takes the most likely token; 1 by default.
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f32>,
    /// Sample from the most likely tokens with this total probability.
    top_p: Option<f32>,
    /// Sample from this many of the most likely tokens.
    top_k: Option<i64>,
    /// Sample from tokens at least this share as likely as the most likely one.
    min_p: Option<f32>,
    /// Penalty for tokens of the prompt and of the answer so far; 1 changes nothing.
    #[serde(alias = "repeat_penalty")]
    repetition_penalty: Option<f32>,
    /// Penalty for each token that was generated at all.
    #[schema(minimum = -2, maximum = 2)]
    presence_penalty: Option<f32>,
    /// Penalty for a token for each time that it was generated.
    #[schema(minimum = -2, maximum = 2)]
    frequency_penalty: Option<f32>,
    /// Token id → what is added to its logit.
    #[schema(value_type = Option<BTreeMap<String, f32>>)]
    logit_bias: Option<BTreeMap<String, f32>>,
    /// The same seed gives the same answer; one is drawn, and returned, when it is absent.
    #[schema(value_type = Option<i64>)]
    seed: Option<Value>,
    /// Texts that end the answer: one, or a list of at most 16.
    #[schema(value_type = Option<Vec<String>>)]
    stop: Option<StopField>,
    /// Number of answers.
    #[schema(minimum = 1, maximum = 9)]
    pub(crate) n: Option<i64>,
    /// Longest answer, in tokens.
    pub(crate) max_tokens: Option<i64>,
    /// Whether the answer is sent as it is generated.
    pub(crate) stream: Option<bool>,
    /// Options of a stream.
    pub(crate) stream_options: Option<StreamOptions>,
    /// Go on where the model would end the text.
    pub(crate) ignore_eos: Option<bool>,
    /// Do not end the text before this many tokens.
    pub(crate) min_tokens: Option<i64>,
    /// Who asks, for a fair share of the server.
    pub(crate) user: Option<String>,
}

/// Options of a stream.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct StreamOptions {
    /// Whether the last chunk has the counts of tokens.
    pub(crate) include_usage: Option<bool>,
    /// Accepted; nothing is added to hide lengths.
    #[serde(rename = "include_obfuscation")]
    #[expect(dead_code, reason = "the field is accepted")]
    include_obfuscation: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum StopField {
    One(String),
    Several(Vec<String>),
}

/// The most stop texts.
const MOST_STOPS: usize = 16;
/// The most answers.
const MOST_ANSWERS: i64 = 9;

impl SamplingFields {
    /// How tokens are chosen; `vocab_size` bounds their ids.
    pub(crate) fn sampling(&self, vocab_size: usize) -> Result<Sampling, ApiError> {
        let top_k = match self.top_k {
            None | Some(0 | -1) => None, // vLLM's and llama.cpp's words for all tokens
            Some(k) => Some(usize::try_from(k).map_err(|_| ApiError::invalid("top_k", "must not be negative"))?),
        };
        let sampling = Sampling {
            logit_bias: self.logit_bias(vocab_size)?,
            repetition_penalty: self.repetition_penalty.unwrap_or(1.0),
            frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
            presence_penalty: self.presence_penalty.unwrap_or(0.0),
            temperature: self.temperature.unwrap_or(1.0),
            top_k,
            top_p: self.top_p.filter(|&p| p != 1.0),
            min_p: self.min_p.filter(|&p| p != 0.0),
            seed: self.seed()?,
        };
        if sampling.temperature > 2.0 {
            return Err(ApiError::invalid("temperature", format!("{} must be at most 2", sampling.temperature)));
        }
        let mut problems = Problems::default();
        sampling.check(&mut problems);
        match problems.iter().next() {
            None => Ok(sampling),
            Some(problem) => {
                let name = problem.key.replace('-', "_");
                Err(ApiError::invalid(name, problem.to_string()))
            }
        }
    }

    fn logit_bias(&self, vocab_size: usize) -> Result<Vec<(u32, f32)>, ApiError> {
        let known = |id: &String| id.parse().ok().filter(|&id: &u32| (id as usize) < vocab_size);
        let one = |(id, &bias): (&String, &f32)| {
            let wrong = || ApiError::invalid("logit_bias", format!("{id} is not a token id below {vocab_size}"));
            Ok((known(id).ok_or_else(wrong)?, bias))
        };
        self.logit_bias.iter().flatten().map(one).collect()
    }

    /// The seed that was given, or one that is drawn. A drawn one stays below 2^53, so that every JSON reader keeps it.
    fn seed(&self) -> Result<u64, ApiError> {
        match &self.seed {
            None | Some(Value::Null) => {
                Ok(u64::from_le_bytes(ulid::Ulid::new().to_bytes()[8..].try_into().unwrap_or_default()) >> 11)
            }
            Some(seed) => match (seed.as_u64(), seed.as_i64()) {
                (Some(seed), _) => Ok(seed),
                (None, Some(seed)) => Ok(seed as u64), // OpenAI's clients may send negative numbers
                (None, None) => Err(ApiError::invalid("seed", "must be a whole number")),
            },
        }
    }

    /// Texts that end the answer.
    pub(crate) fn stop(&self) -> Result<Vec<String>, ApiError> {
        let stop = match &self.stop {
            None => Vec::new(),
            Some(StopField::One(text)) => vec![text.clone()],
            Some(StopField::Several(texts)) => texts.clone(),
        };
        if stop.len() > MOST_STOPS || stop.iter().any(String::is_empty) {
            return Err(ApiError::invalid("stop", format!("must be at most {MOST_STOPS} texts, none of them empty")));
        }
        Ok(stop)
    }

    /// Number of answers.
    pub(crate) fn n(&self) -> Result<usize, ApiError> {
        in_range("n", self.n.unwrap_or(1), 1, MOST_ANSWERS)
    }

    /// Whether the answer is streamed, and whether with counts of tokens.
    pub(crate) fn stream(&self) -> Result<Option<bool>, ApiError> {
        let usage = self.stream_options.as_ref().map(|options| options.include_usage.unwrap_or(false));
        match (self.stream.unwrap_or(false), usage) {
            (true, usage) => Ok(Some(usage.unwrap_or(false))),
            (false, None) => Ok(None),
            (false, Some(_)) => Err(ApiError::invalid("stream_options", "needs stream: true")),
        }
    }
}

/// `value` if it is from `least` to `most`.
pub(crate) fn in_range(param: &str, value: i64, least: i64, most: i64) -> Result<usize, ApiError> {
    match usize::try_from(value).ok().filter(|_| (least..=most).contains(&value)) {
        Some(value) => Ok(value),
        None => Err(ApiError::invalid(param, format!("{value} must be from {least} to {most}"))),
    }
}

/// Refuses a field that would change the answer, unless it has a value that changes nothing.
pub(crate) fn must_be_neutral(param: &str, value: Option<&Value>, neutral: &[Value]) -> Result<(), ApiError> {
    let is_neutral = |value: &Value| value.is_null() || neutral.contains(value);
    if value.is_none_or(is_neutral) { Ok(()) } else { Err(ApiError::unsupported(param)) }
}
