//! The keys of the configurations, explained.

use crate::ui::Usage;
use anyhow::Result;
use clap::ValueEnum;
use gptkit_config::{ConfigKey, is_at_or_below, keys, nearest, schema};
use gptkit_lineage::LineageConfig;
use gptkit_reward::RewardConfig;
use gptkit_rl::{DpoConfig, PpoConfig};
use gptkit_scaling::ScalingConfig;
use gptkit_sft::{FinetuneConfig, SftConfig};
use gptkit_train::PretrainConfig;
use serde_json::Value;
use std::fmt::Write;

/// A command that has a configuration.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum KeysOf {
    Pretrain,
    Finetune,
    Sft,
    TrainRm,
    Ppo,
    Dpo,
    Scaling,
    Lineage,
}

impl KeysOf {
    /// The keys of the configuration.
    pub(crate) fn keys(self) -> Vec<ConfigKey> {
        keys(&self.schema())
    }

    /// The JSON schema of the configuration.
    pub(crate) fn schema(self) -> Value {
        match self {
            Self::Pretrain => schema::<PretrainConfig>(),
            Self::Finetune => schema::<FinetuneConfig>(),
            Self::Sft => schema::<SftConfig>(),
            Self::TrainRm => schema::<RewardConfig>(),
            Self::Ppo => schema::<PpoConfig>(),
            Self::Dpo => schema::<DpoConfig>(),
            Self::Scaling => schema::<ScalingConfig>(),
            Self::Lineage => schema::<LineageConfig>(),
        }
    }

    /// The name of the command.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// The keys of `command` at `below` and below it, for the terminal; all of them when it is empty.
///
/// # Errors
/// When there is no such key.
pub(crate) fn text(command: KeysOf, below: &str) -> Result<String> {
    let all = command.keys();
    let is_shown = |key: &&ConfigKey| below.is_empty() || is_at_or_below(&key.path, below);
    let mut text = String::new();
    for key in all.iter().filter(is_shown) {
        let gap = if key.is_section() && !text.is_empty() { "\n" } else { "" };
        let head = if key.is_section() { format!("[{}]", key.path) } else { format!("{} ({})", key.path, value(key)) };
        let options = textwrap::Options::new(usize::from(console::Term::stdout().size().1).clamp(60, 120))
            .initial_indent("    ")
            .subsequent_indent("    ");
        writeln!(text, "{gap}{head}\n{}", textwrap::fill(&key.meaning.replace('`', ""), options))?;
    }
    if text.is_empty() {
        let near = nearest(below, all.iter().map(|key| key.path.as_str()));
        let hint = near
            .map_or_else(|| format!("gptkit config keys {}", command.name()), |near| format!("did you mean {near}?"));
        return Err(Usage::new(format!("{} has no key {below}", command.name())).hint(hint).into());
    }
    Ok(text)
}

/// The kind of value and the default.
fn value(key: &ConfigKey) -> String {
    match (&key.default, key.required) {
        (Some(default), _) => format!("{}; default {default}", key.kind),
        (None, true) => format!("{}; required", key.kind),
        (None, false) => key.kind.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_every_command_is_explained() {
        for command in KeysOf::value_variants() {
            for key in command.keys() {
                assert!(key.meaning.ends_with('.'), "{} {}: {:?}", command.name(), key.path, key.meaning);
            }
        }
        assert!(text(KeysOf::Ppo, "value").unwrap().contains("value.lr (number)"));
        assert!(text(KeysOf::Ppo, "values").unwrap_err().to_string().contains("no key"));
    }
}
