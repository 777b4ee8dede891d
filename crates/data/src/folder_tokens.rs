//! The special tokens and chat templates that a Hugging Face folder names, read as transformers 5 reads them.
//!
//! They lie in up to six files: `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` (which count only
//! where the first has no `added_tokens_decoder`), `chat_template.jinja`, the folder `additional_chat_templates`, and
//! `generation_config.json`. Reference: `PreTrainedTokenizerBase._from_pretrained` and `TokenizersBackend.__init__`.

use crate::{disk, outline};
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer as Inner};

/// The file with a tokenizer's settings.
pub(crate) const CONFIG: &str = "tokenizer_config.json";
/// The uses of special tokens that every tokenizer may name.
const USES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// Keys of `tokenizer_config.json` that are written anew, or hold only where the file lay.
const NOT_KEPT: [&str; 12] = [
    "tokenizer_class",
    "chat_template",
    "added_tokens_decoder",
    "additional_special_tokens",
    "extra_special_tokens",
    "tokenizer_file",
    "vocab_file",
    "merges_file",
    "name_or_path",
    "auto_map",
    "add_bos_token",
    "add_eos_token",
];

/// The class of transformers that a folder's tokenizer belongs to, as far as it decides how files are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Class {
    /// `OpenAIGPTTokenizer`.
    Gpt1,
    /// `GPT2Tokenizer`, whose special tokens have defaults.
    Gpt2,
    /// Any other.
    #[default]
    Other,
}

/// The use of a special token, and the token.
type NamedToken = (String, AddedToken);

/// Chat templates by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FolderTemplates {
    /// The one that is used.
    pub(crate) default: Option<String>,
    /// Where it was found, for messages.
    pub(crate) place: String,
    /// Others, such as `tool_use`.
    pub(crate) others: BTreeMap<String, String>,
}

/// The special tokens and templates of a folder; empty by default.
#[derive(Debug, Clone, Default)]
pub(crate) struct FolderTokens {
    pub(crate) class: Class,
    /// By use: `bos_token` and so on, then the tokenizer's own such as `image_token`.
    named: Vec<NamedToken>,
    /// Special tokens without a use.
    extra: Vec<AddedToken>,
    /// Added tokens, in the order of their ids.
    listed: BTreeMap<u32, AddedToken>,
    /// Whether texts begin with `bos_token`, and end with `eos_token`; for tokenizers without a `tokenizer.json`.
    pub(crate) frames: (bool, bool),
    /// Whether byte-level pairs read a text with a space before it.
    pub(crate) add_prefix_space: bool,
    templates: FolderTemplates,
    /// The other keys of `tokenizer_config.json`.
    settings: Map<String, Value>,
    /// `generation_config.json`.
    generation: Map<String, Value>,
    /// Whether names of special tokens in text are nothing but text.
    pub(crate) split_special_tokens: bool,
}

impl FolderTokens {
    /// Reads the files in `folder`; the result is empty where there are none.
    ///
    /// # Errors
    /// When one cannot be read or is no JSON, or a token in it is no text.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let mut config = object(&folder.join(CONFIG))?;
        let class = class(folder, &config)?;
        let listed = match config.get("added_tokens_decoder") {
            Some(Value::Object(tokens)) => tokens.iter().map(|(id, token)| entry(id.parse().ok(), token)).collect(),
            _ => legacy(folder, &mut config),
        };
        let listed: BTreeMap<u32, AddedToken> =
            listed.with_context(|| format!("invalid added tokens in {}", folder.display()))?;
        let templates = templates(folder, &config)?;
        let of_config = || format!("in {}", folder.join(CONFIG).display());
        let (named, extra) = special(&config, class, &listed).with_context(of_config)?;
        let flag = |key: &str| config.get(key) == Some(&Value::Bool(true));
        Ok(Self {
            class,
            frames: (flag("add_bos_token"), flag("add_eos_token")),
            add_prefix_space: flag("add_prefix_space"),
            split_special_tokens: flag("split_special_tokens"),
            named,
            extra,
            listed,
            templates,
            generation: object(&folder.join("generation_config.json"))?,
            settings: config
                .into_iter()
                .filter(|(key, value)| {
                    let is_token = key.ends_with("_token") && (value.is_string() || value.is_object());
                    !is_token && !NOT_KEPT.contains(&key.as_str())
                })
                .collect(),
        })
    }

    /// Special tokens by their uses, templates, and whether texts begin with `bos_token` and end with `eos_token`, where no
    /// folder has them.
    pub(crate) fn of_uses(uses: Vec<(String, String)>, templates: FolderTemplates, frames: (bool, bool)) -> Self {
        let named = uses.into_iter().map(|(name, token)| (name, AddedToken::from(token, true))).collect();
        Self { named, templates, frames, ..Self::default() }
    }

    /// The settings that a tokenizer keeps; named tokens for which `is_token` fails are left out.
    pub(crate) fn settings(self, is_token: impl Fn(&str) -> bool) -> TextSettings {
        let names = self.named.into_iter().map(|(name, token)| (name, token.content));
        TextSettings {
            names: names.filter(|(_, token)| is_token(token)).collect(),
            extra: self.extra.into_iter().map(|token| token.content).collect(),
            templates: self.templates,
            settings: self.settings,
            generation: self.generation,
        }
    }

    /// Whether it says itself which token ends a text.
    pub(crate) fn names_an_end(&self) -> bool {
        self.named
            .iter()
            .any(|(name, token)| name == "eos_token" && token.content != crate::tokenizer::special::END_OF_TEXT)
    }

    /// Has `tokenizer` put `bos_token` before texts and `eos_token` after them where the folder says so.
    ///
    /// # Errors
    /// When the tokens are named but not there.
    pub(crate) fn frame(&self, tokenizer: &mut Inner) -> Result<()> {
        let find = |name: &str, wanted: bool| {
            let token = self.named.iter().find(|(own, _)| own == name).map(|(_, token)| token.content.clone());
            token.filter(|_| wanted)
        };
        let (bos, eos) = (find("bos_token", self.frames.0), find("eos_token", self.frames.1));
        let tokens: Vec<String> = bos.iter().chain(&eos).cloned().collect();
        if tokens.is_empty() {
            return Ok(());
        }
        tokenizer
            .add_special_tokens(tokens.iter().map(|token| AddedToken::from(token.as_str(), true)))
            .map_err(|e| anyhow!("{e}"))?;
        let ids =
            tokens.iter().filter_map(|token| Some((token.clone(), tokenizer.token_to_id(token)?))).collect::<Vec<_>>();
        let text = |sequence: &str| {
            [bos.as_deref(), Some(sequence), eos.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(" ")
        };
        let frame = TemplateProcessing::builder()
            .try_single(text("$A"))
            .and_then(|builder| builder.try_pair(format!("{} {}", text("$A"), text("$B"))))
            .map_err(|e| anyhow!("{e}"))?
            .special_tokens(ids)
            .build()
            .map_err(|e| anyhow!("{e}"))?;
        tokenizer.with_post_processor(Some(frame));
        Ok(())
    }

    /// Adds to `tokenizer` those that it lacks, after its last entry, and has it read all of them as signs.
    ///
    /// # Errors
    /// When the library cannot take them.
    pub(crate) fn add_to(&self, tokenizer: &mut Inner) -> Result<()> {
        let by_default = |token: &AddedToken| {
            // A default that the vocabulary lacks is one that its author never wanted.
            self.class != Class::Other
                && *token == default_token(self.class)
                && tokenizer.token_to_id(&token.content).is_none()
        };
        let named = self.named.iter().map(|(_, token)| token).filter(|token| !by_default(token));
        let all: Vec<AddedToken> = self.listed.values().chain(named).chain(&self.extra).cloned().collect();
        ensure!(
            all.len() < outline::MOST_ENTRIES,
            "the folder defines {} special tokens, which is too many",
            all.len()
        );
        for token in &all {
            outline::within("a special token", 0, &token.content)?;
        }
        tokenizer.add_tokens(all).map_err(|e| anyhow!("special tokens cannot be added: {e}"))?;
        Ok(())
    }
}

/// The settings of a tokenizer in addition to its vocabulary, as [`FolderTokens`] read them, and writes when it is saved.
#[derive(Debug, Clone, Default)]
pub(crate) struct TextSettings {
    /// Texts of special tokens, by use.
    pub(crate) names: Vec<(String, String)>,
    /// Special tokens without a use.
    extra: Vec<String>,
    pub(crate) templates: FolderTemplates,
    /// The other keys of `tokenizer_config.json`.
    settings: Map<String, Value>,
    /// `generation_config.json`.
    pub(crate) generation: Map<String, Value>,
}

impl TextSettings {
    /// Says which token is for the use `name`, where nothing else says so.
    pub(crate) fn name_if_unnamed(&mut self, name: &str, token: &str) {
        if !self.names.iter().any(|(own, _)| own == name) {
            self.names.push((name.to_owned(), token.to_owned()));
        }
    }

    /// The settings as `tokenizer_config.json` has them.
    pub(crate) fn to_json(&self) -> Value {
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast", // the class that goes by tokenizer.json alone
            "clean_up_tokenization_spaces": false,
            "model_max_length": 1_000_000_000_000_000_000_u64,
        });
        for (key, value) in &self.settings {
            config[key] = value.clone();
        }
        for (name, token) in &self.names {
            config[name] = json!(token);
        }
        if !self.extra.is_empty() {
            config["additional_special_tokens"] = json!(self.extra); // the key that all versions of transformers read
        }
        let FolderTemplates { default, others, .. } = &self.templates;
        if let (Some(default), true) = (default, others.is_empty()) {
            config["chat_template"] = json!(default);
            return config;
        }
        let others = others.iter().map(|(name, source)| (name.as_str(), source));
        let all = default.iter().map(|source| ("default", source)).chain(others);
        let all: Vec<Value> = all.map(|(name, template)| json!({ "name": name, "template": template })).collect();
        if !all.is_empty() {
            config["chat_template"] = json!(all);
        }
        config
    }
}

/// The object in the JSON file at `path`; an empty one when there is no file.
fn object(path: &Path) -> Result<Map<String, Value>> {
    if !path.exists() {
        return Ok(Map::new());
    }
    let value = serde_json::from_str(&disk::read_description(path)?);
    match value.with_context(|| format!("{} is not JSON", path.display()))? {
        Value::Object(object) => Ok(object),
        Value::Null => Ok(Map::new()),
        _ => bail!("{} is not a JSON object", path.display()),
    }
}

fn class(folder: &Path, config: &Map<String, Value>) -> Result<Class> {
    let named = |name: &str| match name.trim_end_matches("Fast") {
        "GPT2Tokenizer" => Class::Gpt2,
        "OpenAIGPTTokenizer" => Class::Gpt1,
        _ => Class::Other,
    };
    if let Some(name) = config.get("tokenizer_class").and_then(Value::as_str) {
        return Ok(named(name));
    }
    let model = object(&folder.join("config.json"))?;
    if let Some(name) = model.get("tokenizer_class").and_then(Value::as_str) {
        return Ok(named(name));
    }
    Ok(match model.get("model_type").and_then(Value::as_str) {
        Some("gpt2") => Class::Gpt2,
        Some("openai-gpt") => Class::Gpt1,
        _ => Class::Other,
    })
}

/// Added tokens where `tokenizer_config.json` lists none: those of `added_tokens.json`. What `special_tokens_map.json` says
/// takes precedence over `config`.
fn legacy(folder: &Path, config: &mut Map<String, Value>) -> Result<BTreeMap<u32, AddedToken>> {
    for (key, value) in object(&folder.join("special_tokens_map.json"))? {
        let value = match (key.as_str(), value, config.get(&key)) {
            ("extra_special_tokens", Value::Array(more), Some(Value::Array(known))) => {
                let new: Vec<Value> = more.into_iter().filter(|token| !known.contains(token)).collect();
                Value::Array(known.iter().cloned().chain(new).collect())
            }
            (_, value, _) => value,
        };
        config.insert(key, value);
    }
    let path = folder.join("added_tokens.json");
    let added = object(&path)?;
    let special: Vec<String> = config
        .iter()
        .filter(|(key, _)| USES.contains(&key.as_str()))
        .map(|(_, value)| value)
        .chain(extra_of(config))
        .filter_map(|value| token(value, true).ok().map(|token| token.content))
        .collect();
    let listed = added.into_iter().map(|(content, id)| {
        let is_special = special.contains(&content);
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
        entry(id, &json!({ "content": content, "special": is_special, "normalized": !is_special }))
    });
    listed.collect::<Result<_>>().with_context(|| path.display().to_string())
}

fn entry(id: Option<u32>, value: &Value) -> Result<(u32, AddedToken)> {
    Ok((id.with_context(|| format!("the id of {value} is not a number"))?, token(value, false)?))
}

/// A token as JSON writes it: text, or an object with its settings.
fn token(value: &Value, special: bool) -> Result<AddedToken> {
    let (content, settings) = match value {
        Value::String(content) => (content.as_str(), None),
        Value::Object(settings) => match settings.get("content") {
            Some(Value::String(content)) => (content.as_str(), Some(settings)),
            _ => bail!("a special token has no \"content\": {value}"),
        },
        _ => bail!("a special token is neither a string nor an object: {value}"),
    };
    let flag = |key: &str| settings.and_then(|settings| settings.get(key)).and_then(Value::as_bool);
    let special = special || flag("special").unwrap_or(false);
    let token = AddedToken::from(content, special)
        .single_word(flag("single_word").unwrap_or(false))
        .lstrip(flag("lstrip").unwrap_or(false))
        .rstrip(flag("rstrip").unwrap_or(false))
        .normalized(flag("normalized").unwrap_or(!special));
    Ok(token)
}

/// Special tokens without a use, by either of their keys.
fn extra_of(config: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    let list = |key: &str| config.get(key).and_then(Value::as_array).filter(|list| !list.is_empty());
    list("extra_special_tokens").or_else(|| list("additional_special_tokens")).into_iter().flatten()
}

fn default_token(class: Class) -> AddedToken {
    AddedToken::from(if class == Class::Gpt1 { "<unk>" } else { crate::tokenizer::special::END_OF_TEXT }, true)
}

/// The special tokens that have a use, and those that have none.
fn special(
    config: &Map<String, Value>,
    class: Class,
    listed: &BTreeMap<u32, AddedToken>,
) -> Result<(Vec<NamedToken>, Vec<AddedToken>)> {
    let known = |value: &Value| -> Result<AddedToken> {
        let own = token(value, true)?;
        Ok(listed.values().find(|token| **token == own).cloned().map_or(own, |token| token.special(true)))
    };
    let defaults: &[&str] = match class {
        Class::Gpt1 => &["unk_token"],
        Class::Gpt2 => &["bos_token", "eos_token", "unk_token"],
        Class::Other => &[],
    };
    let mut named = Vec::new();
    for name in USES {
        match config.get(name) {
            Some(Value::Null) => {}
            Some(value) => named.push((name.to_owned(), known(value).with_context(|| name.to_owned())?)),
            None if defaults.contains(&name) => named.push((name.to_owned(), default_token(class))),
            None => {}
        }
    }
    let own = config.iter().filter(|(key, value)| {
        key.ends_with("_token")
            && !USES.contains(&key.as_str())
            && (value.is_string() || value.get("content").is_some())
    });
    let in_a_map = config.get("extra_special_tokens").and_then(Value::as_object);
    for (name, value) in own.chain(in_a_map.into_iter().flatten()) {
        named.push((name.clone(), known(value).with_context(|| name.clone())?));
    }
    let extra = extra_of(config).map(known).collect::<Result<_>>()?;
    Ok((named, extra))
}

/// The chat templates of `folder`: files go before what its `tokenizer_config.json` says.
fn templates(folder: &Path, config: &Map<String, Value>) -> Result<FolderTemplates> {
    let mut found = FolderTemplates::default();
    let file = folder.join("chat_template.jinja");
    if file.exists() {
        found = FolderTemplates {
            default: Some(disk::read_description(&file)?),
            place: file.display().to_string(),
            ..found
        };
    }
    let others = folder.join("additional_chat_templates");
    if others.is_dir() {
        for entry in others.read_dir().with_context(|| format!("{} cannot be read", others.display()))? {
            let path = entry?.path();
            if let (Some("jinja"), Some(name)) = (path.extension().and_then(|e| e.to_str()), path.file_stem()) {
                found.others.insert(name.to_string_lossy().into_owned(), disk::read_description(&path)?);
            }
        }
    }
    if found.default.is_some() || !found.others.is_empty() {
        return Ok(found);
    }
    found.place = format!("chat_template of {}", folder.join(CONFIG).display());
    let place = found.place.clone();
    let text = |value: Option<&Value>| match value {
        Some(Value::String(source)) => Ok(source.clone()),
        _ => bail!("{place} is neither a string nor a list of named templates"),
    };
    match config.get("chat_template") {
        None | Some(Value::Null) => {}
        Some(Value::Array(all)) => {
            for entry in all {
                found.others.insert(text(entry.get("name"))?, text(entry.get("template"))?);
            }
        }
        Some(Value::Object(all)) => {
            for (name, source) in all {
                found.others.insert(name.clone(), text(Some(source))?);
            }
        }
        value => found.default = Some(text(value)?),
    }
    if let Some(default) = found.others.remove("default") {
        found.default = Some(default);
    }
    Ok(found)
}
