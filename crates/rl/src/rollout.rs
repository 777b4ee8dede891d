//! Prompts → episodes: the policy answers, and each token gets what it was worth then: its log-probability under policy and
//! reference, what was expected, and at the end the score.

use crate::advantage::AdvantageConfig;
use crate::answers::{Answer, TOKENS_AT_A_TIME};
use crate::config::RolloutConfig;
use crate::prompts::Prompt;
use crate::shaping::ShapingConfig;
use anyhow::{Result, ensure};
use gptkit_data::pack::like_lengths;
use gptkit_data::tokenizer::Tokenizer;
use gptkit_model::Gpt;
use gptkit_model::generate::{Completion, Finish, GenerationOptions, LateEnds};
use gptkit_model::generate_batch::{BatchRequest, generate_batch};
use gptkit_model::sampler::Sampling;
use gptkit_ranks::Ranks;
use gptkit_reward::model::RewardModel;
use serde::{Deserialize, Serialize};
use std::ops::{ControlFlow, Range};

/// A prompt, its answer, and what each token of that was worth. Lists have a number for each token of the answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Episode {
    /// Both as tokens.
    pub answer: Answer,
    /// The text of the answer.
    pub text: String,
    /// Whether it has its end.
    pub ended: bool,
    /// Log-probabilities of the tokens under the policy that sampled them, from a pass over the whole response, nats.
    pub log_probs: Vec<f32>,
    /// The same from the passes that sampled them, token by token.
    pub sampling_log_probs: Vec<f32>,
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

/// The `chosen` of `episodes` in batches of like lengths, which a model reads at a time.
pub(crate) fn batches(episodes: &[Episode], chosen: &[usize]) -> Vec<Vec<usize>> {
    let lengths: Vec<usize> = chosen.iter().map(|&i| episodes[i].answer.tokens.len()).collect();
    let numbers = |batch: Vec<usize>| batch.into_iter().map(|i| chosen[i]).collect();
    like_lengths(&lengths, TOKENS_AT_A_TIME).into_iter().map(numbers).collect()
}

/// The answers of the `chosen` of `episodes`.
pub(crate) fn answers_of<'a>(episodes: &'a [Episode], chosen: &'a [usize]) -> impl Iterator<Item = &'a Answer> {
    chosen.iter().map(|&i| &episodes[i].answer)
}

/// Splits `numbers`, one for each token of the answers of the `chosen` of `episodes`, among their lists `of`.
pub(crate) fn split_among(
    numbers: Vec<f32>,
    episodes: &mut [Episode],
    chosen: &[usize],
    of: impl Fn(&mut Episode) -> &mut Vec<f32>,
) {
    let mut numbers = numbers.into_iter();
    for &i in chosen {
        let n = episodes[i].answer.said().len();
        *of(&mut episodes[i]) = numbers.by_ref().take(n).collect();
    }
}

/// Tokens that end an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ends {
    /// The chat template's end of a turn, at which the reward model was trained to read; nothing where the template has none.
    pub template: Option<u32>,
    /// Those that end a text.
    pub of_text: Vec<u32>,
    /// That of `rollout.end`, which is part of the answer's text.
    pub configured: Option<u32>,
}

impl Ends {
    /// `episode` as the reward model was trained to read answers: with the template's end behind it. It takes the place of
    /// an end of text, and is added where the answer ended with `rollout.end` or was cut.
    fn as_trained(&self, episode: &Episode) -> Answer {
        let mut answer = episode.answer.clone();
        let Some(template) = self.template else { return answer };
        match answer.tokens.last_mut() {
            Some(last) if episode.ended && *last == template => {}
            Some(last) if episode.ended && self.of_text.contains(last) => *last = template,
            _ => answer.tokens.push(template),
        }
        answer
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

/// Samples responses of a policy.
#[derive(Debug)]
pub struct Sampler<'a> {
    /// Its tokens.
    pub tokenizer: &'a Tokenizer,
    /// Tokens that end an answer.
    pub ends: &'a Ends,
    /// The rest.
    pub config: &'a RolloutConfig,
}

impl Sampler<'_> {
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
        let requests = BatchRequest {
            prompts: prompts.iter().map(|prompt| prompt.tokens.clone()).collect(),
            first_prompt: first,
            late_ends: LateEnds { tokens: self.ends.configured.into_iter().collect(), after: self.config.end_after },
            max_rows: self.config.rows,
            options: GenerationOptions {
                n_samples: 1,
                max_new_tokens: self.config.max_new_tokens,
                stop: Vec::new(),
                log_probs: Some(0),
                sampling: Sampling { temperature, seed, ..Sampling::default() },
            },
        };
        let ends: Vec<u32> = self.ends.template.into_iter().chain(self.ends.of_text.iter().copied()).collect();
        let mut episodes = vec![Episode::default(); prompts.len()];
        generate_batch(policy, self.tokenizer, &ends, &requests, |number, _, completion| {
            episodes[number] = episode(&prompts[number], completion, self.ends.configured);
            on_done();
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(episodes)
    }
}

/// The answer of a policy, as ranks exchange it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct SampledAnswer {
    tokens: Vec<u32>,
    text: String,
    ended: bool,
    /// The bits of the log-probabilities of the tokens.
    log_probs: Vec<u32>,
}

impl SampledAnswer {
    fn of(episode: &Episode) -> Self {
        Self {
            tokens: episode.answer.said().to_vec(),
            text: episode.text.clone(),
            ended: episode.ended,
            log_probs: episode.sampling_log_probs.iter().map(|x| x.to_bits()).collect(),
        }
    }

    /// The episode that begins with `prompt`.
    fn episode(self, prompt: &Prompt) -> Episode {
        let tokens = prompt.tokens.iter().copied().chain(self.tokens).collect();
        Episode {
            answer: Answer { tokens, prompt: prompt.tokens.len() },
            ended: self.ended,
            sampling_log_probs: self.log_probs.into_iter().map(f32::from_bits).collect(),
            gold: prompt.instruction().map(|instruction| instruction.gold(&self.text)),
            text: self.text,
            ..Episode::default()
        }
    }
}

fn episode(prompt: &Prompt, completion: Completion, configured_end: Option<u32>) -> Episode {
    let Completion { mut text, tokens, log_probs, end, finish } = completion;
    // A period ends a sentence and is said; a special token is not.
    text.extend(end.iter().filter(|end| Some(end.id) == configured_end).map(|end| end.token.as_str()));
    let answer = SampledAnswer {
        tokens: tokens.into_iter().chain(end.iter().map(|end| end.id)).collect(),
        text,
        ended: finish == Finish::EndOfText,
        log_probs: log_probs.iter().chain(&end).map(|one| one.log_prob.to_bits()).collect(),
    };
    answer.episode(prompt)
}

/// The answers to all `prompts`, of which each of `ranks` has sampled some: `sample` samples those of a range.
///
/// # Errors
/// The one of `sample`, or when a rank has ended or does not answer.
pub(crate) fn shared_out(
    prompts: &[Prompt],
    ranks: &Ranks,
    sample: impl FnOnce(Range<usize>) -> Result<Vec<Episode>>,
) -> Result<Vec<Episode>> {
    if ranks.is_alone() {
        return sample(0..prompts.len());
    }
    let answers =
        ranks.share_records(prompts.len(), |own| Ok(sample(own)?.iter().map(SampledAnswer::of).collect::<Vec<_>>()))?;
    Ok(answers.into_iter().zip(prompts).map(|(answer, prompt)| answer.episode(prompt)).collect())
}

/// The score that `rewarder` gives each of `episodes`, which `ranks` share out.
///
/// # Errors
/// When one cannot be scored, or its score is not finite.
pub(crate) fn scores(rewarder: &dyn Rewarder, ends: &Ends, episodes: &[Episode], ranks: &Ranks) -> Result<Vec<f32>> {
    let answers: Vec<Answer> = episodes.iter().map(|episode| ends.as_trained(episode)).collect();
    let scores = ranks.share_parts(answers.len(), |own| rewarder.scores(&answers[own]))?;
    ensure!(
        scores.iter().all(|score| score.is_finite()),
        "the reward model returned NaN or an infinite score; its weights are damaged or its training diverged"
    );
    Ok(scores)
}

/// From log-probabilities, values and scores to rewards, advantages and returns of all `episodes` of an iteration.
pub(crate) fn assign_rewards(
    episodes: &mut [Episode],
    shaping: &ShapingConfig,
    advantage: &AdvantageConfig,
    kl_coef: f64,
) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reward_model_reads_every_answer_at_the_templates_end() {
        let ends = Ends { template: Some(9), of_text: vec![8], configured: Some(5) };
        let read = |tokens: &[u32], ended| {
            let answer = Answer { tokens: tokens.to_vec(), prompt: 1 };
            ends.as_trained(&Episode { answer, ended, ..Episode::default() }).tokens
        };
        assert_eq!(read(&[1, 2, 9], true), [1, 2, 9], "the template's own end");
        assert_eq!(read(&[1, 2, 8], true), [1, 2, 9], "the end of a text");
        assert_eq!(read(&[1, 2, 5], true), [1, 2, 5, 9], "rollout.end");
        assert_eq!(read(&[1, 2, 3], false), [1, 2, 3, 9], "cut for length");
        assert_eq!(read(&[1], false), [1, 9], "nothing said");
        let none = Ends { template: None, ..ends.clone() };
        let episode = Episode { answer: Answer { tokens: vec![1, 5], prompt: 1 }, ..Episode::default() };
        assert_eq!(none.as_trained(&episode), episode.answer);
    }
}
