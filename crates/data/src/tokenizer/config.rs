//! Where a model's tokens come from.

use crate::outline;
use gptkit_config::{Check, Problems};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Entries of a trained byte-level vocabulary where the configuration leaves them open.
pub(super) const DEFAULT_VOCAB: usize = 8192;
/// The fewest a byte-level vocabulary can have: each byte, and the end of a text.
pub(super) const FEWEST: usize = 257;

/// The tokenizer to load or to train; TOML section `[tokenizer]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TokenizerConfig {
    /// File or folder of a tokenizer to load: `tokenizer.json`, or a folder with it or with the files of GPT-1 or GPT-2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Kind of tokenizer to train on the text if none is loaded; bpe when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<TokenizerKind>,
    /// Size of the vocabulary of a tokenizer to be trained; not for kind char.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocab_size: Option<usize>,
}

/// Kinds of tokenizers that can be trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TokenizerKind {
    /// Byte-level pair encoding (Radford et al. 2019, §2.2).
    Bpe,
    /// One token per character.
    Char,
}

impl FromStr for TokenizerKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "bpe" => Ok(Self::Bpe),
            "char" => Ok(Self::Char),
            _ => Err("must be bpe or char".to_owned()),
        }
    }
}

impl TokenizerConfig {
    /// The tokenizer that lies at `path`.
    pub fn load_from(path: &Path) -> Self {
        Self { path: Some(path.to_owned()), ..Self::default() }
    }

    /// What is trained when none is loaded.
    pub fn kind(&self) -> TokenizerKind {
        self.train.unwrap_or(TokenizerKind::Bpe)
    }
}

impl Check for TokenizerConfig {
    fn check(&self, problems: &mut Problems) {
        if let Some(path) = &self.path {
            problems.require(
                path.exists(),
                "path",
                "does not exist",
                "use a tokenizer.json, or a folder that contains one",
            );
            problems.require(
                self.train.is_none(),
                "train",
                "cannot be combined with tokenizer.path",
                "remove one of the two",
            );
            problems.require(
                self.vocab_size.is_none(),
                "vocab_size",
                "cannot be combined with tokenizer.path",
                "remove it; the file determines the size",
            );
        }
        match (self.kind(), self.vocab_size) {
            (TokenizerKind::Char, Some(_)) => {
                problems.add("vocab_size", "cannot be set for a character tokenizer", "remove it")
            }
            (_, Some(n)) if n > outline::MOST_ENTRIES => {
                let most = outline::MOST_ENTRIES;
                problems.add("vocab_size", "is too large", format!("use at most {most}"));
            }
            (TokenizerKind::Bpe, Some(n)) if n < FEWEST => {
                problems.add(
                    "vocab_size",
                    "is too small for 256 bytes and the end-of-text token",
                    format!("use {FEWEST} or more"),
                );
            }
            _ => {}
        }
    }
}
