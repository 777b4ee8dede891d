//! Prompts with answers, and how likely a model finds each token of these.

use anyhow::Result;
use candle_core::Tensor;
use gptkit_data::pack::like_lengths;
use gptkit_model::{Gpt, Input, Pass};
use gptkit_train::language_modeling::check_tokens;

/// Tokens that a model reads at a time where nothing is to be differentiated, but for a longer sequence alone.
pub(crate) const TOKENS_AT_A_TIME: usize = 4096;

/// A prompt and an answer to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Of both.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt, at least one.
    pub prompt: usize,
}

impl Answer {
    /// The answer's tokens, with the one that ends it if it has its end.
    pub fn said(&self) -> &[u32] {
        &self.tokens[self.prompt..]
    }
}

/// What a model has when it chooses each token of some answers, one answer after the other: N tokens in all.
#[derive(Debug)]
pub struct Choosing {
    /// `[N, D]`, the last layer at the token before, as part of a graph when the pass trains.
    pub states: Tensor,
    /// N.
    pub tokens: Vec<u32>,
}

impl Choosing {
    /// Of `answers`, read by `model`.
    ///
    /// # Errors
    /// When a token is not of the vocabulary, or an answer with its prompt over the context.
    pub fn of<'a>(model: &Gpt, answers: impl IntoIterator<Item = &'a Answer>, pass: Pass) -> Result<Self> {
        let answers: Vec<&Answer> = answers.into_iter().collect();
        answers.iter().try_for_each(|answer| check_tokens(&answer.tokens, model))?;
        let input = Input::ragged(answers.iter().map(|answer| answer.tokens.as_slice()), model.device())?;
        let hidden = model.hidden(&input, pass.of_part())?.squeeze(0)?; // [all tokens, D]
        let (mut rows, mut tokens, mut first) = (Vec::<u32>::new(), Vec::new(), 0);
        for answer in answers {
            rows.extend((first + answer.prompt - 1..first + answer.tokens.len() - 1).map(|row| row as u32));
            tokens.extend(answer.said());
            first += answer.tokens.len();
        }
        Ok(Self { states: hidden.index_select(&Tensor::new(rows, model.device())?, 0)?, tokens })
    }

    /// The log-probability of each token in row 0, the entropy there in row 1, nats, when logits are divided by
    /// `temperature`. Returns `[2, N]`.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub fn log_probs(&self, model: &Gpt, temperature: f32, pass: Pass) -> Result<Tensor> {
        Ok(model.token_log_probs(&self.states, &self.tokens, temperature, pass)?)
    }
}

/// The log-probability that `model` gives each token of each of `answers`, nats, when logits are divided by `temperature`.
///
/// # Errors
/// As [`Choosing::of`].
pub fn log_probs(model: &Gpt, answers: &[Answer], temperature: f32) -> Result<Vec<Vec<f32>>> {
    let lengths: Vec<usize> = answers.iter().map(|answer| answer.tokens.len()).collect();
    let mut found = vec![Vec::new(); answers.len()];
    for batch in like_lengths(&lengths, TOKENS_AT_A_TIME) {
        let choosing = Choosing::of(model, batch.iter().map(|&i| &answers[i]), Pass::Eval)?;
        let read = choosing.log_probs(model, temperature, Pass::Eval)?.get(0)?.to_vec1()?;
        let mut numbers = read.into_iter();
        for i in batch {
            found[i] = numbers.by_ref().take(answers[i].said().len()).collect();
        }
    }
    Ok(found)
}
