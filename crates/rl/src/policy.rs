//! The policy, and what it learns from: episodes by the clipped loss, text by the language model's.

use crate::answers::Choosing;
use crate::loss::{Loss, differentiable, policy_loss, value_loss};
use crate::rollout::Episode;
use anyhow::Result;
use candle_core::Tensor;
use gptkit_data::batch::Batch;
use gptkit_model::{ClassHead, Gpt, Pass};
use gptkit_train::objective::{LanguageModeling, Objective};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What an update of the policy is made from. Its rows are the episodes, then the windows of text.
#[derive(Debug, Default)]
pub(crate) struct Minibatch {
    pub(crate) episodes: Vec<Episode>,
    /// Windows of pretraining text.
    pub(crate) text: Option<Batch>,
    /// Whether values may move from the old ones as far as they like.
    pub(crate) unclipped_values: bool,
}

impl Minibatch {
    /// Tokens of all answers.
    pub(crate) fn n_tokens(&self) -> usize {
        self.episodes.iter().map(|episode| episode.answer.said().len()).sum()
    }
}

/// What updates found, summed over the tokens of their answers.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Tally {
    pub(crate) tokens: f64,
    /// Of ratios π/π_old.
    pub(crate) ratio: f64,
    /// Of (Δ ln π)²/2.
    pub(crate) approx_kl: f64,
    pub(crate) clipped: f64,
    pub(crate) entropy: f64,
    pub(crate) policy_loss: f64,
    pub(crate) value_loss: f64,
    pub(crate) value_clipped: f64,
    pub(crate) text_loss: f64,
}

impl Tally {
    /// Sums of both.
    pub(crate) fn add(&mut self, other: &Self) {
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
}

/// What an update found, as it is added up over micro-batches.
#[derive(Debug, Default)]
pub(crate) struct Found(Mutex<Tally>);

impl Found {
    fn held(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was found since the last time.
    pub(crate) fn take(&self) -> Tally {
        std::mem::take(&mut *self.held())
    }
}

/// A policy in training.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) model: LanguageModeling,
    pub(crate) temperature: f32,
    pub(crate) clip_range: f64,
    /// Values of its own, and what their loss counts.
    pub(crate) values: Option<(ValueHead, f64)>,
    /// What the text's loss counts.
    pub(crate) ptx_coef: f64,
    pub(crate) found: Found,
}

impl Policy {
    pub(crate) fn gpt(&self) -> &Gpt {
        &self.model.0
    }

    /// What `episodes`, which are part of `batch`, say.
    fn ppo_loss(&self, episodes: &[Episode], batch: &Minibatch, pass: Pass) -> Result<Tensor> {
        let n_tokens = batch.n_tokens();
        let choosing = Choosing::of(self.gpt(), episodes.iter().map(|episode| &episode.answer), pass)?;
        let found = choosing.log_probs(self.gpt(), self.temperature, pass)?; // [2, N]
        let log_probs = found.get(0)?; // [N]
        let entropies: Vec<f32> = found.get(1)?.to_vec1()?;
        let new: Vec<f32> = log_probs.to_vec1()?;
        let old = joined(episodes, |episode| &episode.log_probs);
        let loss = policy_loss(&new, &old, &joined(episodes, |e| &e.advantages), self.clip_range, n_tokens);
        {
            let mut tally = self.found.held();
            tally.tokens += new.len() as f64;
            for (new, old) in new.iter().zip(&old) {
                let d = f64::from(*new) - f64::from(*old);
                tally.ratio += d.exp();
                tally.approx_kl += d * d / 2.0;
            }
            tally.clipped += loss.clipped as f64;
            tally.entropy += entropies.iter().map(|&x| f64::from(x)).sum::<f64>();
            tally.policy_loss += loss.loss * n_tokens as f64;
        }
        let total = differentiable(&log_probs, &loss)?;
        let Some((head, coef)) = &self.values else { return Ok(total) };
        let values = head.head.forward(&choosing.states, 1, 0.0, pass)?.squeeze(1)?; // [N]
        let loss = head.loss(&values, episodes, batch, &self.found)?;
        Ok((total + (differentiable(&values, &loss)? * *coef)?)?)
    }
}

impl Objective for Policy {
    type Batch = Minibatch;

    fn rows(&self, batch: &Minibatch) -> usize {
        batch.episodes.len() + batch.text.as_ref().map_or(0, |text| text.rows)
    }

    fn loss(&self, batch: &Minibatch, rows: Range<usize>, pass: Pass) -> Result<Tensor> {
        let n = batch.episodes.len();
        let episodes = &batch.episodes[rows.start.min(n)..rows.end.min(n)];
        let windows = rows.start.max(n) - n..rows.end.max(n) - n;
        let ppo = match episodes {
            [] => None,
            episodes => Some(self.ppo_loss(episodes, batch, pass)?),
        };
        let Some(text) = batch.text.as_ref().filter(|_| !windows.is_empty()) else {
            return Ok(ppo.unwrap_or(Tensor::zeros((), candle_core::DType::F32, self.gpt().device())?));
        };
        let loss = self.model.weighted(text, windows, pass, self.ptx_coef)?;
        self.found.held().text_loss += f64::from(loss.to_scalar::<f32>()?) / self.ptx_coef;
        Ok(match ppo {
            // Both losses are differentiated as they are, as the language model's must be.
            Some(ppo) => (ppo + loss)?,
            None => loss,
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
    /// Value loss over the tokens of `episodes`, which are part of `batch`; `values` has one value a token.
    fn loss(&self, values: &Tensor, episodes: &[Episode], batch: &Minibatch, found: &Found) -> Result<Loss> {
        let n_tokens = batch.n_tokens();
        let clip_range = self.clip_range.filter(|_| !batch.unclipped_values);
        let (old, returns) = (joined(episodes, |e| &e.values), joined(episodes, |e| &e.returns));
        let loss = value_loss(&values.to_vec1::<f32>()?, &old, &returns, clip_range, n_tokens);
        let mut tally = found.held();
        tally.value_loss += loss.loss * n_tokens as f64;
        tally.value_clipped += loss.clipped as f64;
        Ok(loss)
    }
}

/// A value network of its own.
#[derive(Debug)]
pub(crate) struct Values {
    pub(crate) gpt: Gpt,
    pub(crate) head: ValueHead,
    pub(crate) found: Found,
}

impl Objective for Values {
    type Batch = Minibatch;

    fn rows(&self, batch: &Minibatch) -> usize {
        batch.episodes.len()
    }

    fn loss(&self, batch: &Minibatch, rows: Range<usize>, pass: Pass) -> Result<Tensor> {
        let episodes = &batch.episodes[rows];
        let choosing = Choosing::of(&self.gpt, episodes.iter().map(|episode| &episode.answer), pass)?;
        let values = self.head.head.forward(&choosing.states, 1, 0.0, pass)?.squeeze(1)?; // [N]
        let loss = self.head.loss(&values, episodes, batch, &self.found)?;
        Ok(differentiable(&values, &loss)?)
    }
}
