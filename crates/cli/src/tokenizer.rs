//! `gptkit tokenizer`

use crate::data_args::{DataArgs, shell};
use crate::presets::checked;
use crate::stdin;
use crate::ui::Ui;
use anyhow::{Context, Result};
use clap::Subcommand;
use gptkit_data::source::DataConfig;
use gptkit_data::tokenizer::{self, TokenizerConfig, TokenizerKind};
use std::path::{Path, PathBuf};

/// Train and use tokenizers
#[derive(Debug, Subcommand)]
pub(crate) enum TokenizerCommand {
    /// Train a tokenizer on text
    Train {
        #[command(flatten)]
        data: DataArgs,
        /// bpe: byte-level byte pair encoding, like GPT-2's; char: one token per character
        #[arg(long, value_name = "bpe|char", default_value = "bpe")]
        kind: TokenizerKind,
        /// Size of the vocabulary, including the end-of-text token; not for char
        #[arg(long, value_name = "N")]
        vocab_size: Option<usize>,
        /// Folder to write
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Encode text from stdin as token ids, separated by spaces, including the tokenizer's special tokens
    Encode {
        /// A tokenizer.json file, or a folder with that file or with GPT-1's or GPT-2's files
        #[arg(long, value_name = "PATH")]
        tokenizer: PathBuf,
    },
    /// Decode token ids from stdin
    Decode {
        /// A tokenizer.json file, or a folder with that file or with GPT-1's or GPT-2's files
        #[arg(long, value_name = "PATH")]
        tokenizer: PathBuf,
        /// Print the text unchanged; by default, control characters are printed as escapes such as \x1b
        #[arg(long)]
        raw: bool,
    },
}

impl TokenizerCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        match self {
            Self::Train { data, kind, vocab_size, out } => train(&data, kind, vocab_size, &out, ui),
            Self::Encode { tokenizer } => {
                let tokenizer = tokenizer::Tokenizer::load(&tokenizer)?;
                let bytes = stdin::bytes()?;
                let ids = match std::str::from_utf8(&bytes) {
                    Ok(text) => tokenizer.encode_prompt(text)?,
                    Err(_) => tokenizer.encode_bytes(&bytes)?,
                };
                let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
                ui.result(&(ids.join(" ") + "\n"))
            }
            Self::Decode { tokenizer, raw } => {
                let tokenizer = tokenizer::Tokenizer::load(&tokenizer)?;
                let text = stdin::text()?;
                let id =
                    |word: &str| word.parse::<u32>().with_context(|| format!("\"{word}\" on stdin is not a token id"));
                let ids = text.split_whitespace().map(id).collect::<Result<Vec<u32>>>()?;
                // Bytes, not text: a byte-level token need not be whole characters.
                let bytes = tokenizer.decode_bytes(&ids)?;
                if raw { ui.raw(&bytes) } else { ui.result(&String::from_utf8_lossy(&bytes)) }
            }
        }
    }
}

fn train(args: &DataArgs, kind: TokenizerKind, vocab_size: Option<usize>, out: &Path, ui: &Ui) -> Result<()> {
    let data: DataConfig = checked("data", &args.settings())?;
    let mut set = vec![format!("tokenizer.train={}", serde_json::json!(kind))];
    set.extend(vocab_size.map(|n| format!("tokenizer.vocab_size={n}")));
    let config: TokenizerConfig = checked("tokenizer", &set)?;
    let trained = gptkit_data::prepare::train_tokenizer(&data, &config, ui)?;
    gptkit_data::disk::create_dir(out)?;
    trained.save(out)?;
    ui.say(&format!("saved {} · {} entries", out.display(), trained.vocab_size()));
    ui.next(&format!("gptkit pretrain --tokenizer {}", shell(out)));
    Ok(())
}
