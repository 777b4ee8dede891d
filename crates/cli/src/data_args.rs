//! Arguments of every command that reads text. They are short ways to write settings, so that one check serves all.

use clap::Args;
use gptkit_data::printable::printable_json;
use gptkit_data::source::{OnBadRecord, SourceConfig};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// Text to read
#[derive(Debug, Args)]
pub(crate) struct DataArgs {
    /// Text file, folder, JSONL, JSON, CSV or TSV (each may be .gz or .zst), Parquet, - for stdin, `world` for the built-in stories,
    /// `world-patterns` for the built-in patterns, or a folder written by `prepare`; repeatable, with weights for a mixture
    #[arg(long, value_name = "PATH[@WEIGHT]")]
    data: Vec<SourceConfig>,
    /// Column of the text in records [default: text, or content]
    #[arg(long = "text-column", alias = "text-key", value_name = "NAME")]
    text_key: Option<String>,
    /// What to do with invalid UTF-8, empty documents and malformed lines
    #[arg(long, value_name = "fail|skip")]
    on_bad_record: Option<OnBadRecord>,
}

/// Configuration and tokenizer
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Preset or TOML file, for instance gpt2-small
    #[arg(long, value_name = "NAME|FILE", default_value = "small")]
    pub(crate) config: String,
    /// Change one setting, for instance train.lr=3e-4 (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Tokenizer: a tokenizer.json file, or a folder with that file or with GPT-1's or GPT-2's files [default: train
    /// one]
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
    #[command(flatten)]
    data: DataArgs,
}

impl DataArgs {
    /// The flags as settings in the form of `--set`.
    pub(crate) fn settings(&self) -> Vec<String> {
        let mut set = Vec::new();
        if !self.data.is_empty() {
            let source = |s: &SourceConfig| match s.weight {
                Some(weight) => format!("{{ path = {}, weight = {weight:?} }}", quoted(&s.path)),
                None => format!("{{ path = {} }}", quoted(&s.path)),
            };
            let sources: Vec<String> = self.data.iter().map(source).collect();
            set.push(format!("data.sources=[{}]", sources.join(", ")));
        }
        if let Some(key) = &self.text_key {
            set.push(format!("data.text_key={}", quoted(key)));
        }
        if let Some(choice) = &self.on_bad_record {
            set.push(format!("data.on_bad_record={}", serde_json::json!(choice)));
        }
        set
    }
}

impl ConfigArgs {
    /// As [`ConfigArgs::settings`], for stages that read records and start from a model.
    pub(crate) fn record_settings(&self) -> Vec<String> {
        let mut set = self.set.clone();
        let paths: Vec<String> = self.data.data.iter().map(|source| quoted(&source.path)).collect();
        if !paths.is_empty() {
            set.push(format!("data.sources=[{}]", paths.join(", ")));
        }
        if let Some(choice) = &self.data.on_bad_record {
            set.push(format!("data.on_bad_record={}", serde_json::json!(choice)));
        }
        set
    }

    /// Whether anything but `--config` and `--set` is given.
    pub(crate) fn names_text(&self) -> bool {
        self.settings().len() > self.set.len()
    }

    /// `--set` and all that is short for it.
    pub(crate) fn settings(&self) -> Vec<String> {
        let mut set = self.set.clone();
        set.extend(self.data.settings());
        if let Some(path) = &self.tokenizer {
            set.push(format!("tokenizer={{ path = {} }}", quoted(&path.to_string_lossy())));
        }
        set
    }
}

/// A string as TOML writes it: JSON's form is one of TOML's, where DEL is escaped too.
pub(crate) fn quoted(text: &str) -> String {
    printable_json(&serde_json::Value::from(text).to_string()).into_owned()
}

/// A path as a word of a shell's command line.
pub(crate) fn shell(path: &Path) -> String {
    let text = path.display().to_string();
    let quoted = shlex::try_quote(&text).map(Cow::into_owned);
    quoted.unwrap_or(text) // no path has a NUL
}
