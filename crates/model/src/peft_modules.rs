//! The modules of a model by the names that PEFT matches, and how `adapter_config.json` selects them.

use crate::config::ModelConfig;
use crate::layout::{OUTPUT, embedding_names, layout};
use anyhow::{Context, Result};
use gptkit_data::pattern::Pattern;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A layer that adapters can extend, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AdaptedLayer {
    /// A block's matrix, `[in, out]`.
    Matrix,
    /// A table of tokens or positions.
    Embedding,
    /// The output layer.
    Output,
    /// Anything else.
    Other,
}

/// The modules of a model of shape `config`, by the names that PEFT matches.
pub(crate) fn modules(config: &ModelConfig) -> Vec<(String, AdaptedLayer)> {
    let (tokens, positions) = embedding_names(config.kind);
    let mut modules = vec![("transformer".to_owned(), AdaptedLayer::Other)];
    for slot in layout(config) {
        let Some(name) = slot.name.strip_suffix(".weight") else { continue };
        let layer = match slot.name.as_str() {
            name if name == tokens || name == positions => AdaptedLayer::Embedding,
            OUTPUT => continue, // added below, tied or not
            _ if slot.shape.len() == 2 => AdaptedLayer::Matrix,
            _ => AdaptedLayer::Other,
        };
        modules.push((name.to_owned(), layer));
    }
    for layer in 0..config.n_layer {
        let inner = ["", ".attn", ".attn.attn_dropout", ".attn.resid_dropout", ".mlp", ".mlp.act", ".mlp.dropout"];
        modules.extend(inner.map(|part| (format!("transformer.h.{layer}{part}"), AdaptedLayer::Other)));
    }
    modules.extend(["transformer.drop", "transformer.h"].map(|name| (name.to_owned(), AdaptedLayer::Other)));
    modules.push((OUTPUT.trim_end_matches(".weight").to_owned(), AdaptedLayer::Output));
    modules
}

/// Modules by name.
#[derive(Debug)]
pub(crate) enum ModulePattern {
    /// By the ends of their names.
    Ends(Vec<String>),
    /// By a regular expression for the whole name.
    Pattern(Pattern),
    /// All matrices of the blocks.
    AllLinear,
}

impl ModulePattern {
    /// The pattern in the key `key`; `None` where the key says nothing.
    ///
    /// # Errors
    /// When the value is neither a list of names nor a regular expression.
    pub(crate) fn of(value: &Value, key: &str) -> Result<Option<Self>> {
        Ok(match value {
            Value::Null => None,
            Value::String(text) if key == "target_modules" && text.eq_ignore_ascii_case("all-linear") => {
                Some(Self::AllLinear)
            }
            Value::String(text) if text.is_empty() && key != "target_modules" => None,
            Value::String(text) => Some(Self::Pattern(Pattern::new(text).with_context(|| format!("in {key}"))?)),
            _ => Some(Self::Ends(parse(value, key, "a list of names or a regular expression")?)),
        })
    }

    /// Whether the module `name` of the kind `layer` matches.
    ///
    /// # Errors
    /// When the comparison takes too long.
    pub(crate) fn matches(&self, name: &str, layer: AdaptedLayer) -> Result<bool> {
        match self {
            Self::Ends(ends) => Ok(ends.iter().any(|end| is_end(name, end))),
            Self::Pattern(pattern) => pattern.matches(name),
            Self::AllLinear => Ok(layer == AdaptedLayer::Matrix),
        }
    }
}

/// Whether `end` is all of `name`, or its last parts between dots.
fn is_end(name: &str, end: &str) -> bool {
    name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// `value` of the key `key`, which is to be `kind`.
///
/// # Errors
/// When it is something else.
pub(crate) fn parse<T: DeserializeOwned>(value: &Value, key: &str, kind: &str) -> Result<T> {
    serde_json::from_value(value.clone()).with_context(|| format!("{key} is {value}, which is not {kind}"))
}
