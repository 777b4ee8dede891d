//! Prompts that models answer: from a file, or from the embedded world's instructions.

use crate::answering::form_of;
use anyhow::{Result, ensure};
use gptkit_data::dialogue::{Message, key};
use gptkit_data::form::DialogueForm;
use gptkit_data::progress::{Progress, grouped};
use gptkit_data::prompt::read_prompts;
use gptkit_data::record::BadRecord;
use gptkit_data::source::{OnBadRecord, SourceLocation};
use gptkit_data::split::Split;
use gptkit_data::synthetic::SyntheticInstructions;
use gptkit_data::tokenizer::Tokenizer;
use gptkit_feedback::choices::Item;
use gptkit_model::load::load_config;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::Path;

/// Number of prompts of the source `world`, which names none.
const WORLD_PROMPTS: u64 = 300;

/// Where prompts are from.
#[derive(Debug, Clone, Copy)]
pub struct PromptSource<'a> {
    /// File, or `world`, `world:N`, `world:N:SEED`.
    pub source: &'a str,
    /// Only so many.
    pub count: Option<u64>,
    /// Of the embedded world's instructions.
    pub part: Split,
}

impl PromptSource<'_> {
    /// The embedded world's instructions, if the prompts are these.
    pub fn world(&self) -> Option<SyntheticInstructions> {
        match SourceLocation::of_records(self.source) {
            Ok(SourceLocation::World { seed, .. }) => Some(SyntheticInstructions::new(seed, self.part)),
            _ => None,
        }
    }

    /// Those that all of `models`, which are folders, can read, each once. Says what it left out.
    ///
    /// # Errors
    /// When they cannot be read, there are none, or a model does not answer.
    pub fn items(&self, models: &[&Path], on_bad: OnBadRecord, progress: &dyn Progress) -> Result<Vec<Item>> {
        let readers: Vec<PromptReader> = models.iter().map(|model| PromptReader::of(model)).collect::<Result<_>>()?;
        PromptCollector::new(*self, &readers).gather(on_bad, progress)
    }
}

/// Prompts while they are read.
struct PromptCollector<'a> {
    from: PromptSource<'a>,
    readers: &'a [PromptReader],
    items: Vec<Item>,
    seen: HashSet<u64>,
    repeated: u64,
    too_long: u64,
}

impl<'a> PromptCollector<'a> {
    fn new(from: PromptSource<'a>, readers: &'a [PromptReader]) -> Self {
        Self { from, readers, items: Vec::new(), seen: HashSet::new(), repeated: 0, too_long: 0 }
    }

    fn is_full(&self, most: u64) -> bool {
        self.items.len() as u64 >= self.from.count.unwrap_or(u64::MAX).min(most)
    }

    fn gather(mut self, on_bad: OnBadRecord, progress: &dyn Progress) -> Result<Vec<Item>> {
        let source = self.from.source;
        SourceLocation::shadowed(source).iter().for_each(|line| progress.warn(line));
        match SourceLocation::of_records(source).map_err(anyhow::Error::msg)? {
            SourceLocation::World { count, seed, .. } => {
                let most = if source == "world" { WORLD_PROMPTS } else { count };
                let instructions = SyntheticInstructions::new(seed, self.from.part);
                // Some come again, sums above all.
                for index in 0..most.saturating_mul(10) {
                    if self.is_full(most) {
                        break;
                    }
                    let prompt = instructions.instruction(index).prompt();
                    self.take(prompt, source.to_owned(), Some(index))?;
                }
            }
            _ => {
                let skipped = read_prompts(Path::new(source), on_bad, progress, &mut |prompt| {
                    if !self.is_full(u64::MAX) {
                        self.take(prompt.messages, prompt.place.to_string(), None)?;
                    }
                    Ok(ControlFlow::Continue(()))
                })?;
                skipped.warn(progress);
            }
        }
        let (n, too_long) = (self.items.len() as u64, self.too_long);
        ensure!(
            n > 0,
            "no prompt of {source} leaves room for an answer in the context window of {} tokens; use shorter prompts",
            self.readers.iter().map(|reader| reader.context).min().unwrap_or(0)
        );
        let repeated = match self.repeated {
            0 => String::new(),
            n => format!(" · duplicates removed: {}", grouped(n)),
        };
        progress.note(&format!("{source}: {} prompts{repeated}", grouped(n)));
        if too_long > 0 {
            progress.warn(&format!("prompts skipped because they leave no room for an answer: {}", grouped(too_long)));
        }
        Ok(self.items)
    }

    fn take(&mut self, prompt: Vec<Message>, place: String, world: Option<u64>) -> Result<()> {
        if !self.seen.insert(key(&prompt)) {
            self.repeated += 1;
            return Ok(());
        }
        for reader in self.readers {
            if !reader.takes(&prompt).map_err(|e| BadRecord::new(format!("{e:#}")))? {
                self.too_long += 1;
                return Ok(());
            }
        }
        self.items.push(Item { number: self.items.len() as u64, place, world, prompt });
        Ok(())
    }
}

/// How a model reads a prompt.
struct PromptReader {
    tokenizer: Tokenizer,
    form: DialogueForm,
    context: usize,
}

impl PromptReader {
    fn of(folder: &Path) -> Result<Self> {
        let context = load_config(folder)?.context;
        let tokenizer = Tokenizer::load(folder)?;
        Ok(Self { form: form_of(folder, &tokenizer)?, tokenizer, context })
    }

    /// Whether there is room for an answer.
    fn takes(&self, prompt: &[Message]) -> Result<bool> {
        Ok(self.form.prompt(&self.tokenizer, prompt)?.len() < self.context)
    }
}
