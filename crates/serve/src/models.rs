//! The models that are served, and what a request may know of them.

use anyhow::{Context, Result, ensure};
use gptkit_data::form::DialogueForm;
use gptkit_data::tokenizer::Tokenizer;
use gptkit_feedback::records::ModelIdentity;
use gptkit_model::load::ModelFolder;
use gptkit_model::{Gpt, Kind, ModelConfig};
use gptkit_ops::Cache;
use gptkit_preferences::answering::ModelNumbers;
use gptkit_reward::model::Scorer;
use std::path::{Path, PathBuf};

/// Full contexts of each model whose keys and values fit by default.
const CONTEXTS: usize = 16;
/// The least memory for keys and values by default, in bytes.
const LEAST_CACHE: usize = 256_000_000;

/// A language model that is served.
#[derive(Debug)]
pub struct ServedModel {
    /// The name by which requests ask for it.
    pub name: String,
    /// Where it lies.
    pub folder: PathBuf,
    /// Its weights.
    pub gpt: Gpt,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// How it reads dialogues.
    pub form: DialogueForm,
    /// Tokens that end a text.
    pub end_of_text: Vec<u32>,
    /// Its record beside stored answers.
    pub identity: ModelIdentity,
}

impl ServedModel {
    /// The model of `folder`, which was read as `files` and `gpt`, under `name`.
    ///
    /// # Errors
    /// When its chat template is damaged, or its weights cannot be read again.
    pub fn new(name: &str, folder: &Path, files: ModelFolder, gpt: Gpt, numbers: &ModelNumbers) -> Result<Self> {
        let ModelFolder { tokenizer, end_of_text, .. } = files;
        let form = DialogueForm::of(&tokenizer)?.with_today()?;
        let (name, folder) = (name.to_owned(), folder.to_owned());
        let identity = ModelIdentity { name: name.clone(), ..numbers.identity(&folder, &tokenizer, &form)? };
        Ok(Self { name, folder, gpt, tokenizer, form, end_of_text, identity })
    }

    /// Its shape.
    pub fn config(&self) -> &ModelConfig {
        self.gpt.config()
    }

    /// Tokens that it reads at once.
    pub fn context(&self) -> usize {
        self.config().context
    }

    /// Whether it was trained for dialogue.
    pub fn chats(&self) -> bool {
        matches!(self.form, DialogueForm::Template { .. })
    }

    /// Bytes that the keys and values of a sequence of `tokens` take.
    pub(crate) fn sequence_bytes(&self, tokens: usize) -> usize {
        Cache::room(tokens, self.gpt.device()) * self.token_bytes()
    }

    /// Bytes of a token's keys and values.
    fn token_bytes(&self) -> usize {
        let config = self.config();
        if config.kind == Kind::Lstm {
            return 2 * config.n_layer * config.d_model * 4;
        }
        // Heads lie in panels of so many columns.
        let head = (config.d_model / config.n_head).next_multiple_of(32);
        2 * config.n_layer * config.n_head * head * self.gpt.precision().bytes()
    }
}

/// A reward model that is served.
#[derive(Debug)]
pub struct ServedScorer {
    /// The name by which requests ask for it.
    pub name: String,
    /// Where it is.
    pub folder: PathBuf,
    /// The model.
    pub scorer: Scorer,
}

/// All that is served.
#[derive(Debug)]
pub struct Served {
    /// Language models; the first is the default of requests that name none.
    pub writers: Vec<ServedModel>,
    /// Reward models.
    pub scorers: Vec<ServedScorer>,
    /// Other names of the first language model, which many programs have built in.
    pub aliases: Vec<String>,
}

impl Served {
    /// Whether every name is there once.
    ///
    /// # Errors
    /// When two models have one name, or there is no language model.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.writers.is_empty(), "no language model is served");
        let mut names: Vec<&str> = self.names().collect();
        names.sort_unstable();
        let twice = names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
        match twice {
            Some(name) => Err(anyhow::anyhow!("two models are called {name}; name them: --model NAME=DIR")),
            None => Ok(()),
        }
    }

    /// Bytes for keys and values where nothing else is set: 16 full contexts of each model, and at least 256 MB.
    pub fn default_cache_bytes(&self) -> usize {
        let contexts: usize = self.writers.iter().map(|model| model.sequence_bytes(model.context())).sum();
        (CONTEXTS * contexts).max(LEAST_CACHE)
    }

    /// The names of all models, reward models and aliases.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let writers = self.writers.iter().map(|model| model.name.as_str());
        let scorers = self.scorers.iter().map(|model| model.name.as_str());
        writers.chain(scorers).chain(self.aliases.iter().map(String::as_str))
    }

    /// The number of the language model called `name`.
    pub(crate) fn writer(&self, name: &str) -> Option<usize> {
        let by_name = self.writers.iter().position(|model| model.name == name);
        by_name.or_else(|| self.aliases.iter().any(|alias| alias == name).then_some(0))
    }

    /// The folder of the model called `name`, a language model or a reward model.
    pub(crate) fn folder(&self, name: &str) -> Option<&Path> {
        let writer = self.writer(name).map(|number| self.writers[number].folder.as_path());
        writer.or_else(|| self.scorer(name).map(|number| self.scorers[number].folder.as_path()))
    }

    /// The number of the reward model called `name`.
    pub(crate) fn scorer(&self, name: &str) -> Option<usize> {
        self.scorers.iter().position(|model| model.name == name)
    }
}

/// `NAME=DIR`, or a folder, whose last part is the name.
///
/// # Errors
/// When no name can be made of it.
pub fn named_folder(text: &str) -> Result<(String, PathBuf)> {
    if let Some((name, folder)) = text.split_once('=')
        && !name.contains('/')
    {
        return Ok((name.to_owned(), folder.into()));
    }
    let folder = PathBuf::from(text);
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.clone());
    let name = whole.file_name().map(|name| name.to_string_lossy().into_owned());
    Ok((name.with_context(|| format!("{text} has no name; write NAME={text}"))?, folder))
}
