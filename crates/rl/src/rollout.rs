//! Prompts → episodes: the policy answers, and each token gets what it was worth then: its log-probability under policy and
//! reference, what was expected, and at the end the score.

use crate::advantage::AdvantageConfig;
use crate::answers::{Answer, Choosing, in_batches};
use crate::config::RolloutConfig;
use crate::prompts::Prompt;
use crate::shaping::ShapingConfig;
use anyhow::Result;
use data::tokenizer::Tokenizer;
use model::generate::{Completion, Finish};
use model::generate_all::{Requests, generate_all};
use model::sampler::Sampling;
use model::{ClassHead, Gpt, Pass};
use reward::model::RewardModel;
use std::ops::ControlFlow;

/// A prompt, its answer, and what each token of that was worth. Lists have a number for each token of the answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Episode {
    /// Both as tokens.
    pub answer: Answer,
    /// What was said.
    pub text: String,
    /// Whether it has its end.
    pub ended: bool,
    /// As the policy was when it spoke, from a pass over the whole answer.
    pub log_probs: Vec<f32>,
    /// The same as they were while it spoke.
    pub spoken: Vec<f32>,
    /// Of the frozen policy.
    pub reference: Vec<f32>,
    /// What was expected before each token.
    pub values: Vec<f32>,
    /// What the reward model says.
    pub score: f32,
    /// Of each token.
    pub rewards: Vec<f32>,
    /// How much better than expected.
    pub advantages: Vec<f32>,
    /// What there was to expect.
    pub returns: Vec<f32>,
    /// The score behind the world's labelers, where the prompt is of the world.
    pub gold: Option<f64>,
}

impl Episode {
    /// Σ ln π − ln π_ref over the answer, nats.
    pub fn kl(&self) -> f64 {
        self.log_probs.iter().zip(&self.reference).map(|(a, b)| f64::from(*a) - f64::from(*b)).sum()
    }
}

/// Who says what answers are worth.
pub trait Rewarder {
    /// A score for each of `answers`.
    ///
    /// # Errors
    /// When one cannot be scored.
    fn scores(&self, answers: &[Answer]) -> Result<Vec<f32>>;
}

impl Rewarder for RewardModel {
    fn scores(&self, answers: &[Answer]) -> Result<Vec<f32>> {
        let sequences: Vec<Vec<u32>> = answers.iter().map(|answer| answer.tokens.clone()).collect();
        self.rewards(&sequences)
    }
}

/// How a policy speaks.
#[derive(Debug)]
pub struct Speaking<'a> {
    /// Its tokens.
    pub tokenizer: &'a Tokenizer,
    /// Tokens that end an answer.
    pub ends: &'a [u32],
    /// The rest.
    pub config: &'a RolloutConfig,
}

impl Speaking<'_> {
    /// Has `policy` answer `prompts`, of which the first is number `first` of all that `seed` draws answers for; the likeliest
    /// answers when `greedy`. `on_done` is called for each.
    ///
    /// # Errors
    /// When a prompt does not fit the model.
    pub fn answer(
        &self,
        policy: &Gpt,
        prompts: &[Prompt],
        (seed, first): (u64, u32),
        greedy: bool,
        on_done: &dyn Fn(),
    ) -> Result<Vec<Episode>> {
        let temperature = if greedy { 0.0 } else { self.config.temperature as f32 };
        let requests = Requests {
            prompts: prompts.iter().map(|prompt| prompt.tokens.clone()).collect(),
            first_prompt: first,
            n_samples: 1,
            max_new_tokens: self.config.max_new_tokens,
            end_after: self.config.end_after,
            most_rows: self.config.rows,
            stop: Vec::new(),
            log_probs: Some(0),
            sampling: Sampling { temperature, seed, ..Sampling::default() },
        };
        let mut episodes = vec![Episode::default(); prompts.len()];
        generate_all(policy, self.tokenizer, self.ends, &requests, |number, _, completion| {
            episodes[number] = episode(&prompts[number], completion);
            on_done();
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(episodes)
    }
}

fn episode(prompt: &Prompt, completion: Completion) -> Episode {
    let Completion { text, tokens, log_probs, end, finish } = completion;
    let said = tokens.into_iter().chain(end.iter().map(|end| end.id));
    Episode {
        answer: Answer { tokens: prompt.tokens.iter().copied().chain(said).collect(), prompt: prompt.tokens.len() },
        ended: finish == Finish::EndOfText,
        spoken: log_probs.iter().chain(&end).map(|one| one.log_prob).collect(),
        gold: prompt.instruction().map(|instruction| instruction.gold(&text)),
        text,
        ..Episode::default()
    }
}

/// What `head` on `gpt` expects before each token of each of `answers`.
///
/// # Errors
/// As [`Choosing::of`].
pub(crate) fn values(gpt: &Gpt, head: &ClassHead, answers: &[Answer]) -> Result<Vec<Vec<f32>>> {
    in_batches(answers, |batch| {
        let choosing = Choosing::of(gpt, batch.iter().copied(), Pass::Eval)?;
        Ok(head.forward(&choosing.states, 1, 0.0, Pass::Eval)?.squeeze(1)?.to_vec1()?)
    })
}

/// From log-probabilities, values and scores to rewards, advantages and returns of all `episodes` of an iteration.
pub(crate) fn judge(episodes: &mut [Episode], shaping: &ShapingConfig, advantage: &AdvantageConfig, kl_coef: f64) {
    for episode in &mut *episodes {
        let score = shaping.score(episode.score, episode.ended);
        episode.rewards = shaping.rewards(&episode.log_probs, &episode.reference, kl_coef, score);
    }
    shaping.whitening.apply_to_all(&mut episodes.iter_mut().map(|episode| &mut episode.rewards).collect::<Vec<_>>());
    for episode in &mut *episodes {
        (episode.advantages, episode.returns) = advantage.estimate(&episode.rewards, &episode.values);
    }
    let mut advantages: Vec<&mut Vec<f32>> = episodes.iter_mut().map(|episode| &mut episode.advantages).collect();
    advantage.whitening.apply_to_all(&mut advantages);
}
