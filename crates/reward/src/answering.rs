//! Prompts → what a model answers, many at once.

use crate::choices::Item;
use anyhow::{Context, Result, ensure};
use data::dialogue::Message;
use data::template::{Template, encode};
use data::tokenizer::Tokenizer;
use model::folder::ModelFolder;
use model::generate::Completion;
use model::generate_all::{Requests, generate_all};
use model::sampler::Sampling;
use model::{Gpt, HeadDescription};
use std::ops::ControlFlow;
use std::path::Path;

/// Answers that are written at once.
const ROWS: usize = 32;

/// A model that answers.
#[derive(Debug)]
pub struct Answerer<'a> {
    /// It.
    pub gpt: &'a Gpt,
    /// Its tokens.
    pub tokenizer: &'a Tokenizer,
    /// How it reads dialogues.
    pub template: Template,
    /// Tokens that end an answer.
    ends: Vec<u32>,
}

/// How answers are written.
#[derive(Debug, Clone)]
pub struct Manner {
    /// Answers to each prompt.
    pub n_samples: usize,
    /// Longest answer, in tokens.
    pub max_new_tokens: usize,
    /// Ends of answers besides the model's own.
    pub stop: Vec<String>,
    /// As [`Requests::log_probs`].
    pub log_probs: Option<usize>,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

impl<'a> Answerer<'a> {
    /// The one in `folder`; `files` is what was read of it, and `gpt` its model.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn new(folder: &Path, files: &'a ModelFolder, gpt: &'a Gpt) -> Result<Self> {
        let template = template_of(folder)?;
        let mut ends = files.end_of_text.clone();
        ends.extend(template.end_token(&files.tokenizer)?);
        Ok(Self { gpt, tokenizer: &files.tokenizer, template, ends })
    }

    /// Tokens of a dialogue that it is to go on with.
    ///
    /// # Errors
    /// When the template refuses the messages.
    pub fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        Ok(encode(&self.template.prompt(messages)?, self.tokenizer)?.into_iter().map(|(id, _)| id).collect())
    }

    /// Has it answer `items`, whose numbers follow each other, and gives `on_done` each answer, with its number among those
    /// of the prompt, as soon as it is there. Answers depend on `manner`, prompt and number alone, not on what is asked
    /// beside.
    ///
    /// # Errors
    /// As [`generate_all`].
    pub fn write(
        &self,
        items: &[Item],
        manner: &Manner,
        mut on_done: impl FnMut(&Item, usize, Completion) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let Some(first) = items.first() else { return Ok(()) };
        let Manner { n_samples, max_new_tokens, stop, log_probs, sampling } = manner.clone();
        let requests = Requests {
            prompts: items.iter().map(|item| self.prompt(&item.prompt)).collect::<Result<_>>()?,
            first_prompt: first.number as u32,
            n_samples,
            max_new_tokens,
            end_after: 0,
            most_rows: ROWS,
            stop,
            log_probs,
            sampling,
        };
        generate_all(self.gpt, self.tokenizer, &self.ends, &requests, |prompt, sample, completion| {
            on_done(&items[prompt], sample, completion)
        })
    }
}

/// How the model in `folder` writes dialogues.
///
/// # Errors
/// When it does not answer.
pub(crate) fn template_of(folder: &Path) -> Result<Template> {
    let what = folder.display();
    ensure!(
        HeadDescription::load(folder).is_err(),
        "{what} labels or rewards texts, and does not answer; name the model that it was made from, or another that answers"
    );
    let template = Template::load(folder)?;
    template.with_context(|| {
        format!(
            "{what} has no chat template: it was not trained to answer; make it answer with `gptkit sft --init {what}`"
        )
    })
}
