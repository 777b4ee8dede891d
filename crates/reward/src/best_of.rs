//! Best of N: N completions of a prompt, ordered by reward (Stiennon et al. 2020, §4.2).

use crate::model::Scorer;
use anyhow::Result;
use gptkit_data::dialogue::{Message, Role};
use gptkit_data::template::{Template, encode};
use gptkit_model::Gpt;
use gptkit_model::generate::{Completion, GenerationOptions, LateEnds};
use gptkit_model::generate_batch::{BatchRequest, generate_batch};
use gptkit_model::load::ModelFolder;
use gptkit_model::sampler::Sampling;
use std::ops::ControlFlow;

/// Completions generated at a time.
const MAX_ROWS: usize = 32;

/// A model that answers, and the reward model that scores its answers.
#[derive(Debug)]
pub struct BestOf<'a> {
    /// Folder of the model that answers.
    pub folder: &'a ModelFolder,
    /// The model that answers.
    pub gpt: &'a Gpt,
    /// Its chat template, which must be the reward model's too ([`Scorer::reads_as`]).
    pub template: &'a Template,
    /// The reward model.
    pub scorer: &'a Scorer,
    /// Number of completions.
    pub n: usize,
    /// Longest completion, in tokens.
    pub max_new_tokens: usize,
    /// A completion ends before the first of these in its text.
    pub stop: Vec<String>,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

/// The completions of one prompt.
#[derive(Debug)]
pub struct RankedCompletions {
    /// Tokens of the prompt.
    pub prompt: Vec<u32>,
    /// Completions with their rewards, best first.
    pub completions: Vec<(Completion, f32)>,
}

impl RankedCompletions {
    /// The mean reward; 0 of no completions.
    pub fn mean_reward(&self) -> f32 {
        self.completions.iter().map(|(_, reward)| reward).sum::<f32>() / self.completions.len().max(1) as f32
    }
}

impl BestOf<'_> {
    /// Generates completions of the user message `question` and orders them by reward.
    ///
    /// # Errors
    /// When the template refuses the message, the prompt is over the context, or a model's numbers are damaged.
    pub fn rank(&self, question: &str) -> Result<RankedCompletions> {
        let messages = [Message::new(Role::User, question)];
        let prompt = encode(&self.template.prompt(&messages)?, &self.folder.tokenizer)?;
        let prompt: Vec<u32> = prompt.into_iter().map(|(id, _)| id).collect();
        let completions = self.generate(&prompt)?;
        let sequences = self.scorer.sequences(completions.iter().map(|completion| (prompt.as_slice(), completion)))?;
        let rewards = self.scorer.model.rewards(&sequences)?;
        let mut completions: Vec<(Completion, f32)> = completions.into_iter().zip(rewards).collect();
        completions.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        Ok(RankedCompletions { prompt, completions })
    }

    fn generate(&self, prompt: &[u32]) -> Result<Vec<Completion>> {
        let options = GenerationOptions {
            n_samples: self.n,
            max_new_tokens: self.max_new_tokens,
            stop: self.stop.clone(),
            log_probs: None,
            sampling: self.sampling.clone(),
        };
        let requests = BatchRequest {
            prompts: vec![prompt.to_vec()],
            first_prompt: 0,
            late_ends: LateEnds::default(),
            max_rows: MAX_ROWS,
            options,
        };
        let mut completions: Vec<Option<Completion>> = (0..self.n).map(|_| None).collect();
        let (tokenizer, end_of_text) = (&self.folder.tokenizer, &self.folder.end_of_text);
        generate_batch(self.gpt, tokenizer, end_of_text, &requests, |_, sample, completion| {
            completions[sample] = Some(completion);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(completions.into_iter().flatten().collect())
    }
}
