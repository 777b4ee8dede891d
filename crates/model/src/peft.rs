//! `adapter_config.json` as PEFT 0.21 reads it: which modules of a model have adapters, how large, and at what scale.
//!
//! Every key of PEFT's `LoraConfig` is computed, known to leave the result as it is, or refused by name. A key of another
//! version is refused unless its value is empty.

use crate::config::{LARGEST, ModelConfig};
use crate::folder::read_json;
use crate::layout::{OUTPUT, embedding_names};
use crate::lora::LoraConfig;
use crate::peft_modules::{AdaptedLayer, ModulePattern, parse};
use anyhow::{Context, Result, bail, ensure};
use gptkit_config::{Check, Problems};
use gptkit_data::adapter::DESCRIPTION;
use gptkit_data::pattern::Pattern;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Keys that are computed.
const COMPUTED: [&str; 18] = [
    "peft_type",
    "task_type",
    "base_model_name_or_path",
    "r",
    "lora_alpha",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "modules_to_save",
    "trainable_token_indices",
    "bias",
    "lora_bias",
    "use_dora",
    "ensure_weight_tying",
];

/// Keys that leave the result of a trained adapter as it is: how it was trained or initialized, and who wrote it. PEFT sets
/// `fan_in_fan_out` by the kind of layer.
const WITHOUT_EFFECT: [&str; 14] = [
    "auto_mapping",
    "corda_config",
    "eva_config",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
];

/// Most names and patterns in a description, times the modules of its base: a hundred of the largest GPT-3's 2,000 modules
/// would be 200,000.
const MOST_COMPARISONS: usize = 5_000_000;

/// Initializations that leave the base's weights as they are when PEFT loads the adapters.
const INITIALIZATIONS: [&str; 4] = ["gaussian", "eva", "orthogonal", "lora_ga"];

/// What `adapter_config.json` says about the result.
#[derive(Debug)]
pub(crate) struct PeftConfig {
    /// Rank and α of modules that no pattern names.
    size: LoraConfig,
    /// Whether B·A is scaled by α/√r instead of α/r.
    rank_stabilized: bool,
    ranks: Vec<(Pattern, usize)>,
    alphas: Vec<(Pattern, f64)>,
    targets: Option<ModulePattern>,
    excluded: Option<ModulePattern>,
    /// Layers that have adapters, where not all have.
    layers: Option<Vec<usize>>,
    /// What stands before a layer's number; anything when there is none.
    before_layer: Vec<Pattern>,
    /// Ends of the names of modules that are replaced whole.
    saved: Vec<String>,
    saved_or_within: Vec<Pattern>,
    /// Rows that are replaced, by the end of their table's name; nothing is the table of tokens.
    rows: Vec<(Option<String>, Vec<u32>)>,
    /// Whether `B` has a bias.
    pub(crate) lora_bias: bool,
    /// Whether the sum's columns have trained lengths.
    pub(crate) dora: bool,
    /// Whether adapters of tied tables are tied.
    pub(crate) ensures_tying: bool,
    /// Whether adapters that are not in the file would be random numbers.
    pub(crate) is_random: bool,
}

impl PeftConfig {
    /// Reads it from `folder`.
    ///
    /// # Errors
    /// When it is not as PEFT writes it, or asks for what gptkit does not compute.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(DESCRIPTION);
        Self::parse(&read_json(&path)?).with_context(|| format!("in {}", path.display()))
    }

    fn parse(json: &Value) -> Result<Self> {
        let map = json.as_object().context("it is not a JSON object")?;
        must_be_computed(map)?;
        let get = |key: &str| &json[key];
        let rank = parse(get("r"), "r", "a rank")?;
        let alpha = parse(get("lora_alpha"), "lora_alpha", "a number")?;
        let size = sized(rank, alpha)?;
        let targets = ModulePattern::of(get("target_modules"), "target_modules")?;
        let layers = layers(get("layers_to_transform"))?;
        let before = match get("layers_pattern") {
            Value::String(text) if !text.is_empty() => vec![text.clone()],
            Value::Null | Value::String(_) => Vec::new(),
            list => parse(list, "layers_pattern", "a name or a list of names")?,
        };
        let only_for_ends =
            matches!(targets, Some(ModulePattern::Pattern(_))) && (layers.is_some() || !before.is_empty());
        ensure!(!only_for_ends, "layers_to_transform and layers_pattern require target_modules to be a list of names");
        let saved: Vec<String> = match get("modules_to_save") {
            Value::Null => Vec::new(),
            list => parse(list, "modules_to_save", "a list of names")?,
        };
        Ok(Self {
            rank_stabilized: is_true(map, "use_rslora")?,
            ranks: patterns(get("rank_pattern"), "rank_pattern", |rank| Ok(sized(rank, size.alpha)?.rank))?,
            alphas: patterns(get("alpha_pattern"), "alpha_pattern", |alpha| Ok(sized(size.rank, alpha)?.alpha))?,
            excluded: ModulePattern::of(get("exclude_modules"), "exclude_modules")?,
            before_layer: compile(&before, |name| format!(r"(?:.*?\.)?(?:{name})\.\d+\..*"))?,
            saved_or_within: compile(&saved, |name| format!(r"(?:(?:^|.*\.){name}(?:$|\..*))"))?,
            rows: rows(get("trainable_token_indices"))?,
            lora_bias: is_true(map, "lora_bias")?,
            dora: is_true(map, "use_dora")?,
            ensures_tying: is_true(map, "ensure_weight_tying")?,
            is_random: get("init_lora_weights") == &Value::Bool(false),
            size,
            targets,
            layers,
            saved,
        })
    }

    /// # Errors
    /// When comparing all names and patterns with `n` modules would take too long.
    pub(crate) fn must_be_few(&self, n: usize) -> Result<()> {
        let names = |names: &Option<ModulePattern>| match names {
            Some(ModulePattern::Ends(ends)) => ends.len(),
            _ => 1,
        };
        let lists = [self.ranks.len(), self.alphas.len(), self.saved.len(), self.before_layer.len(), self.rows.len()];
        let all = lists.iter().sum::<usize>() + names(&self.targets) + names(&self.excluded);
        let few = all.saturating_mul(n) <= MOST_COMPARISONS;
        ensure!(few, "it has {all} names and patterns for {n} modules, which is too many");
        Ok(())
    }

    /// Rank of the adapters of `module`.
    pub(crate) fn rank(&self, module: &str) -> Result<usize> {
        Ok(first_match(&self.ranks, module)?.unwrap_or(self.size.rank))
    }

    /// What B·A of `module` is multiplied with.
    pub(crate) fn scale(&self, module: &str) -> Result<f64> {
        let alpha = first_match(&self.alphas, module)?.unwrap_or(self.size.alpha);
        let rank = self.rank(module)? as f64;
        Ok(alpha / if self.rank_stabilized { rank.sqrt() } else { rank })
    }

    /// The modules among `modules` of a model of shape `config` that have adapters.
    ///
    /// # Errors
    /// When one is no layer that adapters can extend.
    pub(crate) fn targets(
        &self,
        config: &ModelConfig,
        modules: &[(String, AdaptedLayer)],
    ) -> Result<Vec<(String, AdaptedLayer)>> {
        // PEFT knows the usual layers of GPT-2 alone.
        let usual = ModulePattern::Ends(vec!["c_attn".to_owned()]);
        let targets = match (&self.targets, config.kind) {
            (Some(targets), _) => targets,
            (None, crate::Kind::Gpt2 | crate::Kind::Gpt3) => &usual,
            (None, _) => bail!("target_modules is missing; list the modules that have adapters"),
        };
        let mut found = Vec::new();
        for (name, layer) in modules {
            let excluded = match &self.excluded {
                Some(names) => names.matches(name, *layer)?,
                None => false,
            };
            if excluded || self.is_within_saved(name)? || !targets.matches(name, *layer)? || !self.has_layer(name)? {
                continue;
            }
            ensure!(
                *layer != AdaptedLayer::Other,
                "target_modules contains {name}, a type of layer that cannot have adapters"
            );
            found.push((name.clone(), *layer));
        }
        Ok(found)
    }

    fn is_within_saved(&self, name: &str) -> Result<bool> {
        self.saved_or_within.iter().try_fold(false, |found, pattern| Ok(found || pattern.matches(name)?))
    }

    /// Whether `name` is in one of the layers that have adapters.
    fn has_layer(&self, name: &str) -> Result<bool> {
        let (Some(layers), Some(ModulePattern::Ends(ends))) = (&self.layers, &self.targets) else { return Ok(true) };
        if ends.iter().any(|end| end == name) {
            return Ok(true); // named in full
        }
        let numbered = name.strip_prefix("transformer.h.").and_then(|rest| rest.split('.').next());
        let Some(layer) = numbered.and_then(|number| number.parse().ok()) else { return Ok(false) };
        let mut known = self.before_layer.is_empty();
        for pattern in &self.before_layer {
            known = known || pattern.matches(name)?;
        }
        Ok(known && layers.contains(&layer))
    }

    /// The modules among `modules` that are replaced whole.
    pub(crate) fn saved<'a>(&self, modules: &'a [(String, AdaptedLayer)]) -> Vec<&'a str> {
        let is_saved = |name: &&str| self.saved.iter().any(|end| name.ends_with(end.as_str()));
        modules.iter().map(|(name, _)| name.as_str()).filter(is_saved).collect()
    }

    /// Tables among `modules` some rows of which are replaced, and the rows.
    ///
    /// # Errors
    /// When a name matches no table.
    pub(crate) fn rows(
        &self,
        config: &ModelConfig,
        modules: &[(String, AdaptedLayer)],
    ) -> Result<Vec<(String, Vec<u32>)>> {
        let (tokens, _) = embedding_names(config.kind);
        let mut found: Vec<(String, Vec<u32>)> = Vec::new();
        for (end, ids) in &self.rows {
            let is_named = |name: &str| match end {
                Some(end) => name.ends_with(end.as_str()),
                None => tokens.strip_suffix(".weight") == Some(name),
            };
            let mut tables = modules.iter().filter(|(name, _)| is_named(name));
            let (Some((name, layer)), None) = (tables.next(), tables.next()) else {
                bail!(
                    "trainable_token_indices contains {:?}, which does not match exactly one embedding table",
                    end.as_deref().unwrap_or_default()
                );
            };
            let is_table = matches!(layer, AdaptedLayer::Embedding | AdaptedLayer::Output);
            ensure!(is_table, "trainable_token_indices contains {name}, which is not an embedding table");
            ensure!(found.iter().all(|(other, _)| other != name), "trainable_token_indices contains {name} twice");
            found.push((name.clone(), ids.clone()));
        }
        // Tied tables are changed together where both are named with the same rows.
        let output = OUTPUT.trim_end_matches(".weight");
        let of = |name: &str| found.iter().find(|(other, _)| other == name).map(|(_, ids)| ids);
        if config.tie_word_embeddings && of(output).is_some() && of(tokens.trim_end_matches(".weight")) == of(output) {
            found.retain(|(name, _)| name != output);
        }
        Ok(found)
    }
}

/// # Errors
/// When a key of `map` asks for what gptkit does not compute.
fn must_be_computed(map: &Map<String, Value>) -> Result<()> {
    const HINT: &str = "\n  hint: merge the adapters with PEFT (merge_and_unload), save the model and use that";
    match map.get("peft_type").and_then(Value::as_str) {
        Some("LORA") => {}
        Some(other) => bail!("peft_type is {other}; only LORA is supported{HINT}"),
        None => bail!("peft_type is missing; only LORA is supported"),
    }
    match map.get("task_type").unwrap_or(&Value::Null) {
        Value::Null => {}
        Value::String(task) if task == "CAUSAL_LM" => {}
        other => bail!("task_type is {other}; only CAUSAL_LM is supported{HINT}"),
    }
    match map.get("bias").unwrap_or(&Value::Null) {
        Value::Null => {}
        Value::String(bias) if ["none", "all", "lora_only"].contains(&bias.as_str()) => {}
        other => bail!("bias is {other}; it must be none, all or lora_only"),
    }
    match map.get("init_lora_weights").unwrap_or(&Value::Null) {
        Value::Null | Value::Bool(_) => {}
        Value::String(name) if INITIALIZATIONS.contains(&name.to_lowercase().as_str()) => {}
        other => bail!("init_lora_weights is {other}, which changes the weights of the base model{HINT}"),
    }
    let computed = |key: &&String| COMPUTED.contains(&key.as_str()) || WITHOUT_EFFECT.contains(&key.as_str());
    for key in map.keys().filter(|key| !computed(key)) {
        let value = &map[key];
        ensure!(is_empty(value), "{key} is {}, which is not supported{HINT}", shortened(value));
    }
    Ok(())
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// A value for a message.
fn shortened(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = value.to_string();
    let end = text.char_indices().nth(LONGEST).map_or(text.len(), |(at, _)| at);
    if end < text.len() { format!("{} …", &text[..end]) } else { text }
}

fn is_true(map: &Map<String, Value>, key: &str) -> Result<bool> {
    match map.get(key).unwrap_or(&Value::Null) {
        Value::Null => Ok(false),
        value => parse(value, key, "true or false"),
    }
}

/// A rank and an α of usual sizes.
fn sized(rank: usize, alpha: f64) -> Result<LoraConfig> {
    let size = LoraConfig::new(rank, alpha);
    let mut problems = Problems::default();
    size.check(&mut problems);
    match problems.iter().next() {
        Some(problem) => bail!("{problem}"),
        None => Ok(size),
    }
}

fn layers(value: &Value) -> Result<Option<Vec<usize>>> {
    Ok(match value {
        Value::Null => None,
        Value::Number(_) => Some(vec![parse(value, "layers_to_transform", "a layer")?]),
        list => {
            Some(parse(list, "layers_to_transform", "a layer or a list of layers")?).filter(|l: &Vec<_>| !l.is_empty())
        }
    })
}

/// Most patterns in a list.
const MOST_PATTERNS: usize = 1000;

fn compile(names: &[String], pattern: impl Fn(&str) -> String) -> Result<Vec<Pattern>> {
    ensure!(names.len() <= MOST_PATTERNS, "it has a list of {} patterns; the maximum is {MOST_PATTERNS}", names.len());
    names.iter().map(|name| Pattern::new(&pattern(name))).collect()
}

/// Values by what names must match: the whole name, or its last parts between dots.
fn patterns<V: DeserializeOwned, T>(
    value: &Value,
    key: &str,
    read: impl Fn(V) -> Result<T>,
) -> Result<Vec<(Pattern, T)>> {
    let map: Map<String, Value> = match value {
        Value::Null => Map::new(),
        map => parse(map, key, "a map from names to numbers")?,
    };
    ensure!(map.len() <= MOST_PATTERNS, "{key} has {} patterns; the maximum is {MOST_PATTERNS}", map.len());
    let entry = |(name, value): (&String, &Value)| {
        Pattern::new(name)?; // alone
        let found = read(parse(value, key, "a map from names to numbers")?)?;
        Ok((Pattern::new(&format!(r"(?:.*\.)?(?:{name})"))?, found))
    };
    map.iter().map(entry).collect::<Result<_>>().with_context(|| format!("in {key}"))
}

fn first_match<T: Copy>(patterns: &[(Pattern, T)], name: &str) -> Result<Option<T>> {
    for (pattern, value) in patterns {
        if pattern.matches(name)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

fn rows(value: &Value) -> Result<Vec<(Option<String>, Vec<u32>)>> {
    const KEY: &str = "trainable_token_indices";
    let lists: Vec<(Option<String>, Vec<u32>)> = match value {
        Value::Null => Vec::new(),
        Value::Array(_) => vec![(None, parse(value, KEY, "a list of tokens")?)],
        _ => {
            let lists: HashMap<String, Vec<u32>> =
                parse(value, KEY, "a list of tokens, or a map from tables to lists")?;
            let mut lists: Vec<_> = lists.into_iter().map(|(table, ids)| (Some(table), ids)).collect();
            lists.sort();
            lists
        }
    };
    for ids in lists.iter().map(|(_, ids)| ids) {
        let mut seen = HashSet::new();
        for id in ids {
            ensure!((*id as usize) < LARGEST, "{KEY} contains the token id {id}, which is out of range");
            ensure!(seen.insert(id), "{KEY} contains the token id {id} twice");
        }
    }
    Ok(lists.into_iter().filter(|(_, ids)| !ids.is_empty()).collect())
}
