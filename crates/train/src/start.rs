//! What a fine-tuning starts from: a model folder, its vocabulary extended where the stage needs new special tokens.

use anyhow::Result;
use candle_core::Device;
use gptkit_config::Usage;
use gptkit_model::load::ModelFolder;
use gptkit_model::lora::is_adapter;
use gptkit_model::{Adapters, LoraConfig, ModelConfig, Params, Weights};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

use gptkit_config::{Check, Problems};
use gptkit_data::prepare::{Prepared, prepare};
use gptkit_data::progress::Progress;
use gptkit_data::source::DataConfig;
use gptkit_data::template::Template;
use gptkit_data::tokenizer::{Tokenizer, TokenizerConfig};

/// Dropout probabilities that replace the model's own; TOML section `[dropout]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DropoutConfig {
    /// Dropout probability of the sum of the embeddings; the model's own when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<f64>,
    /// Dropout probability of attention weights; the model's own when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention: Option<f64>,
    /// Dropout probability of the outputs of sublayers; the model's own when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residual: Option<f64>,
}

impl DropoutConfig {
    /// The same, with none where nothing is said.
    pub fn or_zero(&self) -> Self {
        let said = |p: Option<f64>| Some(p.unwrap_or(0.0));
        Self { embedding: said(self.embedding), attention: said(self.attention), residual: said(self.residual) }
    }

    /// Sets what is said of `model`.
    pub fn apply(&self, model: &mut ModelConfig) {
        model.embedding_dropout = self.embedding.unwrap_or(model.embedding_dropout);
        model.attention_dropout = self.attention.unwrap_or(model.attention_dropout);
        model.residual_dropout = self.residual.unwrap_or(model.residual_dropout);
    }
}

impl Check for DropoutConfig {
    fn check(&self, problems: &mut Problems) {
        for (key, p) in [("embedding", self.embedding), ("attention", self.attention), ("residual", self.residual)] {
            let sound = p.is_none_or(|p| (0.0..1.0).contains(&p));
            problems.require(sound, key, "must be at least 0 and below 1", "use 0.1");
        }
    }
}

/// A model before it is fine-tuned.
pub struct Start {
    /// Absolute path.
    pub folder: PathBuf,
    /// Its shape.
    pub config: ModelConfig,
    /// Its weights.
    pub params: Params,
    /// Its tokens.
    pub tokenizer: Tokenizer,
    /// Tokens that end a text.
    pub end_of_text: Vec<u32>,
    /// Tokens whose rows are the stage's own.
    pub new_tokens: Vec<u32>,
}

/// The model in `folder` is of a kind that the command does not support.
fn unsuited(folder: &Path, why: &candle_core::Error) -> Usage {
    Usage::new(format!("{}: {why}", folder.display()))
}

impl Start {
    /// Reads the model in `folder`, which is to write.
    ///
    /// # Errors
    /// As [`ModelFolder::load`], or when models of its kind do not write.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        let start = Self::load_reader(folder, device)?;
        start.config.must_write().map_err(|e| unsuited(folder, &e))?;
        Ok(start)
    }

    /// Reads the transformer in `folder`, which is to write: adapters are for its matrices, and what learns from comparisons
    /// reads several answers of one prompt as branches, which an LSTM cannot.
    ///
    /// # Errors
    /// As [`Start::load`], or when it is no transformer.
    pub fn load_transformer(folder: &Path, device: &Device) -> Result<Self> {
        let start = Self::load(folder, device)?;
        start.config.must_attend().map_err(|e| unsuited(folder, &e))?;
        Ok(start)
    }

    /// Reads the model in `folder`, which a head is to read.
    ///
    /// # Errors
    /// As [`ModelFolder::load`].
    pub fn load_reader(folder: &Path, device: &Device) -> Result<Self> {
        let ModelFolder { config, params, tokenizer, end_of_text } = ModelFolder::load(folder, device)?;
        let folder = std::path::absolute(folder)?;
        Ok(Self { folder, config, params, tokenizer, end_of_text, new_tokens: Vec::new() })
    }

    /// Adds special tokens that the vocabulary lacks, with first values drawn from `seed`.
    ///
    /// # Errors
    /// When the tokenizer cannot take them.
    pub fn add_tokens(&mut self, tokens: &[&str], seed: u64) -> Result<()> {
        let before = self.tokenizer.vocab_size() as u32;
        let ids = self.tokenizer.add_special_tokens(tokens)?;
        // A model may have spare rows, which nothing was learned in either.
        self.new_tokens.extend(ids.into_iter().filter(|&id| id >= before && (id as usize) < self.config.vocab_size));
        self.add_rows(seed)
    }

    /// How it writes dialogues, which its tokenizer will tell from now on: the template that it brings, or ours, whose signs
    /// the vocabulary then gets.
    ///
    /// # Errors
    /// When its template is damaged, or the tokenizer cannot take the signs.
    pub fn template(&mut self, seed: u64) -> Result<Template> {
        if let Some(template) = Template::of(&self.tokenizer)? {
            self.add_rows(seed)?;
            return Ok(template);
        }
        self.add_tokens(&Template::special_tokens(), seed)?;
        let template = Template::default_for_chat();
        self.tokenizer.set_chat_template(Some(template.source().to_owned()));
        Ok(template)
    }

    /// Rows for tokens that the tokenizer has and the model lacks, with first values drawn from `seed`.
    fn add_rows(&mut self, seed: u64) -> Result<()> {
        let lacking = self.config.vocab_size as u32..self.tokenizer.vocab_size() as u32;
        if lacking.is_empty() {
            return Ok(());
        }
        self.new_tokens.extend(lacking);
        self.config.vocab_size = self.tokenizer.vocab_size();
        self.params = self.params.extend_vocabulary(&self.config, seed)?;
        self.tokenizer.limit_to(self.config.vocab_size)
    }

    /// Tokens at which it stops: where a turn of `template` ends, and where a text does.
    ///
    /// # Errors
    /// When the template cannot be rendered.
    pub fn ends(&self, template: &Template) -> Result<Vec<u32>> {
        let mark = template.end_token(&self.tokenizer)?;
        let others = self.end_of_text.iter().copied().filter(|&id| Some(id) != mark);
        Ok(mark.into_iter().chain(others).collect())
    }

    /// What is trained: all, or adapters of the size `lora`. Warns `progress` of adapters on adapters, which PEFT does not
    /// load.
    ///
    /// # Errors
    /// When the adapters cannot be made.
    pub fn weights(&self, lora: Option<&LoraConfig>, seed: u64, progress: &dyn Progress) -> Result<Weights> {
        let Some(lora) = lora else { return Ok(self.params.clone().into()) };
        if is_adapter(&self.folder) {
            progress.warn(&format!(
                "{} contains adapters: gptkit puts the new adapters on top of them, but PEFT would load only the new \
                 ones; if PEFT must read the result, merge them first with `gptkit merge`",
                self.folder.display()
            ));
        }
        let adapters = Adapters::new(lora, &self.config, &self.params, &self.folder, &self.new_tokens, seed)?;
        Ok(Weights::adapted(self.params.clone(), adapters))
    }
}

/// Pretraining text in the tokens of `tokenizer`.
///
/// # Errors
/// When it cannot be read or prepared.
pub fn prepared_text(text: &DataConfig, tokenizer: &Tokenizer, progress: &dyn Progress) -> Result<Prepared> {
    let aside = tempfile::tempdir()?;
    tokenizer.save(aside.path())?;
    prepare(text, &TokenizerConfig::load_from(aside.path()), None, progress)
}
