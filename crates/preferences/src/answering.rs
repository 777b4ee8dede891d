//! Prompts → what a model answers, many at once.

use anyhow::{Result, ensure};
use gptkit_data::dialogue::Message;
use gptkit_data::form::DialogueForm;
use gptkit_data::tokenizer::Tokenizer;
use gptkit_feedback::choices::Item;
use gptkit_feedback::records::ModelIdentity;
use gptkit_hub::cache::model_name;
use gptkit_model::generate::{Completion, GenerationOptions, LateEnds};
use gptkit_model::generate_batch::{BatchRequest, generate_batch};
use gptkit_model::load::{ModelFolder, weights_fingerprint};
use gptkit_model::sampler::Sampling;
use gptkit_model::{Gpt, HeadDescription};
use std::ops::ControlFlow;
use std::path::Path;

/// Answers that are written at once.
const ROWS: usize = 32;

/// A model that answers.
#[derive(Debug)]
pub struct CompletionWriter<'a> {
    /// It.
    pub gpt: &'a Gpt,
    /// Its tokens.
    pub tokenizer: &'a Tokenizer,
    /// How it reads dialogues.
    pub form: DialogueForm,
    /// Tokens that end an answer.
    ends: Vec<u32>,
}

/// How answers are written.
#[derive(Debug, Clone)]
pub struct DecodingSettings {
    /// Answers to each prompt.
    pub n_samples: usize,
    /// Longest answer, in tokens.
    pub max_new_tokens: usize,
    /// Ends of answers besides the model's own.
    pub stop: Vec<String>,
    /// As [`GenerationOptions::log_probs`].
    pub log_probs: Option<usize>,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

impl<'a> CompletionWriter<'a> {
    /// The one in `folder`; `files` is what was read of it, and `gpt` its model.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn new(folder: &Path, files: &'a ModelFolder, gpt: &'a Gpt) -> Result<Self> {
        let form = form_of(folder, &files.tokenizer)?;
        let mut ends = files.end_of_text.clone();
        ends.extend(form.end_of_turn());
        Ok(Self { gpt, tokenizer: &files.tokenizer, form, ends })
    }

    /// Tokens of a dialogue that it is to go on with.
    ///
    /// # Errors
    /// When the template refuses the messages.
    pub fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.form.prompt(self.tokenizer, messages)
    }

    /// Generates answers to `items`, which have consecutive numbers, and passes each answer to `on_done` with its
    /// number among those of the prompt. Answers depend only on `manner`, prompt and number, not on the other items.
    ///
    /// # Errors
    /// As [`generate_batch`].
    pub fn write(
        &self,
        items: &[Item],
        manner: &DecodingSettings,
        mut on_done: impl FnMut(&Item, usize, Completion) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let Some(first) = items.first() else { return Ok(()) };
        let DecodingSettings { n_samples, max_new_tokens, mut stop, log_probs, sampling } = manner.clone();
        stop.extend(self.form.stop().map(str::to_owned));
        let requests = BatchRequest {
            prompts: items.iter().map(|item| self.prompt(&item.prompt)).collect::<Result<_>>()?,
            first_prompt: first.number as u32,
            late_ends: LateEnds::default(),
            max_rows: ROWS,
            options: GenerationOptions { n_samples, max_new_tokens, stop, log_probs, sampling },
        };
        generate_batch(self.gpt, self.tokenizer, &self.ends, &requests, |prompt, sample, completion| {
            on_done(&items[prompt], sample, completion)
        })
    }
}

/// Data type and instructions of a model: with the weights, they decide the bits of its answers.
#[derive(Debug, Clone)]
pub struct ModelNumbers {
    /// The data type, as the command line names it.
    pub dtype: String,
    /// Data type and instructions.
    pub numbers: String,
}

impl ModelNumbers {
    /// The record of the model in `folder`.
    ///
    /// # Errors
    /// When its weights cannot be read.
    pub fn identity(&self, folder: &Path, tokenizer: &Tokenizer, form: &DialogueForm) -> Result<ModelIdentity> {
        let weights = weights_fingerprint(folder)?;
        let all = format!("{weights} {} {}", self.numbers, env!("CARGO_PKG_VERSION"));
        Ok(ModelIdentity {
            name: model_name(folder),
            folder: folder.to_string_lossy().into_owned(),
            weights,
            tokenizer: tokenizer.fingerprint()?,
            template: form.fingerprint(),
            fingerprint: format!("fp_{}", &blake3::hash(all.as_bytes()).to_hex()[..12]),
            dtype: self.dtype.clone(),
        })
    }
}

/// How the model in `folder`, whose tokens are `tokenizer`'s, reads dialogues.
///
/// # Errors
/// When it does not answer.
pub(crate) fn form_of(folder: &Path, tokenizer: &Tokenizer) -> Result<DialogueForm> {
    ensure!(
        HeadDescription::load(folder).is_err(),
        "{} is a classifier or a reward model and cannot generate answers; name a language model, such as the model \
         that it was trained from",
        folder.display()
    );
    DialogueForm::of(tokenizer)
}
