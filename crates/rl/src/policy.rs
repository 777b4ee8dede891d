//! The policy, and what it learns from: episodes by the clipped loss, text by the language model's.

use crate::answers::{Answer, Choosing};
use crate::loss::{Loss, differentiable, policy_loss, value_loss};
use crate::rollout::{Episode, split_among};
use anyhow::Result;
use candle_core::Tensor;
use gptkit_data::batch::Batch;
use gptkit_model::{ClassHead, Gpt, Pass};
use gptkit_train::language_modeling::LanguageModeling;
use gptkit_train::objective::{BatchSums, Objective};
use std::ops::Range;

/// What an update of the policy is made from. Its rows are the episodes, then the windows of text.
#[derive(Debug, Default)]
pub(crate) struct Minibatch {
    pub(crate) episodes: Vec<Episode>,
    /// Windows of pretraining text.
    pub(crate) text: Option<Batch>,
    /// Whether values may move from the old ones as far as they like.
    pub(crate) unclipped_values: bool,
    /// The policy's forward pass over the episodes, with what its backward pass reads, where scoring ran it with the weights
    /// that are to be updated.
    pub(crate) forward: Option<PolicyOutput>,
}

/// Output of the policy for the tokens of some answers, as part of a graph when the pass trains.
#[derive(Debug, Clone)]
pub(crate) struct PolicyOutput {
    /// Log-probabilities in row 0, entropies in row 1, `[2, N]`, nats.
    found: Tensor,
    /// Values of its own, `[N]`, where it has a head for them.
    values: Option<Tensor>,
}

impl PolicyOutput {
    /// Sets log-probabilities and values of the `chosen` of `episodes`, whose answers were read in this order.
    pub(crate) fn write_to(&self, episodes: &mut [Episode], chosen: &[usize]) -> Result<()> {
        split_among(self.found.get(0)?.to_vec1()?, episodes, chosen, |episode| &mut episode.log_probs);
        if let Some(values) = &self.values {
            split_among(values.to_vec1()?, episodes, chosen, |episode| &mut episode.values);
        }
        Ok(())
    }
}

impl Minibatch {
    /// Tokens of all answers.
    pub(crate) fn n_tokens(&self) -> usize {
        self.episodes.iter().map(|episode| episode.answer.said().len()).sum()
    }
}

/// Sums over the response tokens of one or more updates.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct PpoMetrics {
    /// Response tokens.
    pub(crate) tokens: f64,
    /// Σ π/π_old.
    pub(crate) ratio: f64,
    /// Σ (Δ ln π)²/2.
    pub(crate) approx_kl: f64,
    /// Tokens whose policy loss was clipped.
    pub(crate) clipped: f64,
    /// Σ entropy, nats.
    pub(crate) entropy: f64,
    pub(crate) policy_loss: f64,
    pub(crate) value_loss: f64,
    /// Tokens whose value loss was clipped.
    pub(crate) value_clipped: f64,
    /// Mean loss on pretraining text, nats a token; one summand for each update.
    pub(crate) text_loss: f64,
}

impl BatchSums for PpoMetrics {
    fn add(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.ratio += other.ratio;
        self.approx_kl += other.approx_kl;
        self.clipped += other.clipped;
        self.entropy += other.entropy;
        self.policy_loss += other.policy_loss;
        self.value_loss += other.value_loss;
        self.value_clipped += other.value_clipped;
        self.text_loss += other.text_loss;
    }

    fn numbers(&self) -> Vec<f64> {
        let Self { tokens, ratio, approx_kl, clipped, entropy, policy_loss, value_loss, value_clipped, text_loss } =
            *self;
        vec![tokens, ratio, approx_kl, clipped, entropy, policy_loss, value_loss, value_clipped, text_loss]
    }

    fn of_numbers(numbers: &[f64]) -> Self {
        let &[tokens, ratio, approx_kl, clipped, entropy, policy_loss, value_loss, value_clipped, text_loss] = numbers
        else {
            return Self::default();
        };
        Self { tokens, ratio, approx_kl, clipped, entropy, policy_loss, value_loss, value_clipped, text_loss }
    }
}

/// A policy in training.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) language: LanguageModeling,
    pub(crate) temperature: f32,
    pub(crate) clip_range: f64,
    /// Values of its own, and what their loss counts.
    pub(crate) values: Option<(ValueHead, f64)>,
    /// What the text's loss counts.
    pub(crate) ptx_coef: f64,
}

impl Policy {
    pub(crate) fn gpt(&self) -> &Gpt {
        &self.language.model
    }

    /// Reads `answers`, one after the other.
    ///
    /// # Errors
    /// As [`Choosing::of`].
    pub(crate) fn read<'a>(&self, answers: impl IntoIterator<Item = &'a Answer>, pass: Pass) -> Result<PolicyOutput> {
        let choosing = Choosing::of(self.gpt(), answers, pass)?;
        let values = self.values.as_ref().map(|(head, _)| head.values(&choosing, pass)).transpose()?;
        Ok(PolicyOutput { found: choosing.log_probs(self.gpt(), self.temperature, pass)?, values })
    }

    /// The contribution of `episodes`, which are part of `batch`, to its loss.
    fn ppo_loss(&self, episodes: &[Episode], batch: &Minibatch, pass: Pass) -> Result<(Tensor, PpoMetrics)> {
        let n_tokens = batch.n_tokens();
        let PolicyOutput { found, values } = match &batch.forward {
            Some(output) if episodes.len() == batch.episodes.len() => output.clone(),
            _ => self.read(episodes.iter().map(|episode| &episode.answer), pass)?,
        };
        let log_probs = found.get(0)?; // [N]
        let entropies: Vec<f32> = found.get(1)?.to_vec1()?;
        let new: Vec<f32> = log_probs.to_vec1()?;
        let old = joined(episodes, |episode| &episode.log_probs);
        let loss = policy_loss(&new, &old, &joined(episodes, |e| &e.advantages), self.clip_range, n_tokens);
        let mut metrics = PpoMetrics {
            tokens: new.len() as f64,
            clipped: loss.clipped as f64,
            entropy: entropies.iter().map(|&x| f64::from(x)).sum(),
            policy_loss: loss.loss * n_tokens as f64,
            ..PpoMetrics::default()
        };
        for (new, old) in new.iter().zip(&old) {
            let d = f64::from(*new) - f64::from(*old);
            metrics.ratio += d.exp();
            metrics.approx_kl += d * d / 2.0;
        }
        let total = differentiable(&log_probs, &loss)?;
        let Some(((head, coef), values)) = self.values.as_ref().zip(values) else { return Ok((total, metrics)) };
        let (loss, more) = head.loss(&values, episodes, batch)?;
        metrics.add(more);
        Ok(((total + (differentiable(&values, &loss)? * *coef)?)?, metrics))
    }
}

impl Objective for Policy {
    type Batch = Minibatch;
    type Metrics = PpoMetrics;

    fn rows(&self, batch: &Minibatch) -> usize {
        batch.episodes.len() + batch.text.as_ref().map_or(0, |text| text.rows)
    }

    fn loss(&self, batch: &Minibatch, rows: Range<usize>, pass: Pass) -> Result<(Tensor, PpoMetrics)> {
        let n = batch.episodes.len();
        let episodes = &batch.episodes[rows.start.min(n)..rows.end.min(n)];
        let windows = rows.start.max(n) - n..rows.end.max(n) - n;
        let ppo = match episodes {
            [] => None,
            episodes => Some(self.ppo_loss(episodes, batch, pass)?),
        };
        let Some(text) = batch.text.as_ref().filter(|_| !windows.is_empty()) else {
            let nothing = Tensor::zeros((), candle_core::DType::F32, self.gpt().device())?;
            return Ok(ppo.unwrap_or((nothing, PpoMetrics::default())));
        };
        let loss = self.language.weighted(text, windows, pass, self.ptx_coef)?;
        let text_loss = f64::from(loss.to_scalar::<f32>()?) / self.ptx_coef;
        Ok(match ppo {
            // Both losses are differentiated without scaling them, as the language model's must be.
            Some((ppo, metrics)) => ((ppo + loss)?, PpoMetrics { text_loss, ..metrics }),
            None => (loss, PpoMetrics { text_loss, ..PpoMetrics::default() }),
        })
    }
}

/// The numbers of all of `episodes`, one after the other.
fn joined(episodes: &[Episode], of: impl Fn(&Episode) -> &Vec<f32>) -> Vec<f32> {
    episodes.iter().flat_map(|episode| of(episode).iter().copied()).collect()
}

/// What is expected after each token: a head on a model.
#[derive(Debug)]
pub(crate) struct ValueHead {
    pub(crate) head: ClassHead,
    pub(crate) clip_range: Option<f64>,
}

impl ValueHead {
    /// Values before each token of the answers of `choosing`, `[N]`.
    fn values(&self, choosing: &Choosing, pass: Pass) -> Result<Tensor> {
        Ok(self.head.forward(&choosing.states, 1, 0.0, pass)?.squeeze(1)?)
    }

    /// Value loss over the tokens of `episodes`, which are part of `batch`; `values` has one value a token.
    fn loss(&self, values: &Tensor, episodes: &[Episode], batch: &Minibatch) -> Result<(Loss, PpoMetrics)> {
        let n_tokens = batch.n_tokens();
        let clip_range = self.clip_range.filter(|_| !batch.unclipped_values);
        let (old, returns) = (joined(episodes, |e| &e.values), joined(episodes, |e| &e.returns));
        let loss = value_loss(&values.to_vec1::<f32>()?, &old, &returns, clip_range, n_tokens);
        let metrics = PpoMetrics {
            value_loss: loss.loss * n_tokens as f64,
            value_clipped: loss.clipped as f64,
            ..PpoMetrics::default()
        };
        Ok((loss, metrics))
    }
}

/// A separate value network.
#[derive(Debug)]
pub(crate) struct Values {
    pub(crate) gpt: Gpt,
    pub(crate) head: ValueHead,
}

impl Values {
    /// Values before each token of `answers`, one after the other, `[N]`.
    ///
    /// # Errors
    /// As [`Choosing::of`].
    pub(crate) fn read<'a>(&self, answers: impl IntoIterator<Item = &'a Answer>, pass: Pass) -> Result<Tensor> {
        self.head.values(&Choosing::of(&self.gpt, answers, pass)?, pass)
    }
}

impl Objective for Values {
    type Batch = Minibatch;
    type Metrics = PpoMetrics;

    fn rows(&self, batch: &Minibatch) -> usize {
        batch.episodes.len()
    }

    fn loss(&self, batch: &Minibatch, rows: Range<usize>, pass: Pass) -> Result<(Tensor, PpoMetrics)> {
        let episodes = &batch.episodes[rows];
        let values = self.read(episodes.iter().map(|episode| &episode.answer), pass)?;
        let (loss, metrics) = self.head.loss(&values, episodes, batch)?;
        Ok((differentiable(&values, &loss)?, metrics))
    }
}
