//! `gptkit sample --best-of`: the answer that a reward model likes best (Stiennon et al. 2020, §4.2).

use crate::device::ComputeArgs;
use crate::ui::{Ui, Usage};
use anyhow::{Context, Result};
use gptkit_data::dialogue::{Message, Role};
use gptkit_data::template::{Template, encode};
use gptkit_model::Gpt;
use gptkit_model::generate::{Completion, GenerationOptions, LateEnds};
use gptkit_model::generate_batch::{BatchRequest, generate_batch};
use gptkit_model::load::ModelFolder;
use gptkit_model::sampler::Sampling;
use gptkit_reward::model::Scorer;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

/// What is asked of whom.
pub(crate) struct BestOf<'a> {
    /// Answers to choose from.
    pub(crate) n: usize,
    /// The reward model's folder.
    pub(crate) reward: &'a Path,
    /// The model's folder.
    pub(crate) model: &'a Path,
    /// What the user says.
    pub(crate) prompt: &'a str,
    /// Longest answer, in tokens.
    pub(crate) max_new_tokens: usize,
    /// Answers end before these.
    pub(crate) stop: Vec<String>,
    /// How tokens are chosen.
    pub(crate) sampling: Sampling,
    /// All answers as JSON, best first, instead of the best.
    pub(crate) json: bool,
    /// Whether the best is written byte for byte.
    pub(crate) raw: bool,
}

/// Answers written at once.
const ROWS: usize = 32;

impl BestOf<'_> {
    pub(crate) fn run(self, compute: &ComputeArgs, ui: &Ui) -> Result<()> {
        let (folder, gpt) = compute.load(self.model)?;
        let template = Template::of(&folder.tokenizer)?.with_context(|| {
            let name = self.model.display();
            format!(
                "{name} has no chat template, and a reward model judges answers: give a model that `gptkit sft` made"
            )
        })?;
        let (files, rewarder) = compute.load(self.reward)?;
        let scorer = Scorer::new(self.reward, files, rewarder)?;
        if !scorer.reads_as(&folder.tokenizer, &template) {
            let (reward, model) = (self.reward.display(), self.model.display());
            let what = format!("--reward {reward}: it has another tokenizer or chat template than {model}");
            return Err(Usage(format!("{what}\n  hint: train a reward model with --init {model}")).into());
        }
        if self.prompt.trim().is_empty() {
            return Err(Usage("--best-of answers a prompt: give one".to_owned()).into());
        }
        let asked = [Message::new(Role::User, self.prompt)];
        let prompt: Vec<u32> =
            encode(&template.prompt(&asked)?, &folder.tokenizer)?.into_iter().map(|(id, _)| id).collect();
        let begun = Instant::now();
        let mut answers = self.answers(&prompt, &folder, &gpt)?;
        let n_tokens: usize = answers.iter().map(|answer| answer.tokens.len()).sum();
        let sequences = scorer.sequences(answers.iter().map(|answer| (prompt.as_slice(), answer)))?;
        let rewards = scorer.model.rewards(&sequences)?;
        let mut order: Vec<usize> = (0..answers.len()).collect();
        order.sort_by(|&a, &b| rewards[b].total_cmp(&rewards[a]));
        if self.json {
            for &i in &order {
                let mut object = crate::sample::object(self.prompt, &prompt, &answers[i])?;
                object["reward"] = serde_json::json!(rewards[i]);
                ui.json(&(object.to_string() + "\n"))?;
            }
        } else if let Some(&best) = order.first() {
            ui.text(&(std::mem::take(&mut answers[best].text) + "\n"), self.raw)?;
        }
        let mean = rewards.iter().sum::<f32>() / rewards.len().max(1) as f32;
        let at = |place: Option<&usize>| place.map_or(f32::NAN, |&i| rewards[i]);
        let seconds = begun.elapsed().as_secs_f64();
        ui.say(&format!(
            "best of {}: reward {:.3}; mean {mean:.3}, worst {:.3} · {n_tokens} tokens in {seconds:.1} s",
            answers.len(),
            at(order.first()),
            at(order.last())
        ));
        Ok(())
    }

    fn answers(&self, prompt: &[u32], folder: &ModelFolder, gpt: &Gpt) -> Result<Vec<Completion>> {
        let requests = BatchRequest {
            prompts: vec![prompt.to_vec()],
            first_prompt: 0,
            late_ends: LateEnds::default(),
            max_rows: ROWS,
            options: GenerationOptions {
                n_samples: self.n,
                max_new_tokens: self.max_new_tokens,
                stop: self.stop.clone(),
                log_probs: None,
                sampling: self.sampling.clone(),
            },
        };
        let mut answers: Vec<Option<Completion>> = (0..self.n).map(|_| None).collect();
        generate_batch(gpt, &folder.tokenizer, &folder.end_of_text, &requests, |_, sample, completion| {
            answers[sample] = Some(completion);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(answers.into_iter().flatten().collect())
    }
}
