//! `hf:NAME` on the command line, in configuration files and in `--set`: models and files of data sets of the hub are
//! downloaded, and their places in the cache replace their names, before they are used.

use crate::data_args::quoted;
use crate::env;
use crate::ui::{Ui, Usage, unusable};
use anyhow::Result;
use gptkit_data::format::needed_bytes;
use gptkit_hub::cache::{model_name, origin};
use gptkit_hub::hub::ModelChecks;
use gptkit_hub::name::{PREFIX, is_repository};
use gptkit_hub::{Hub, HubName, HubSettings};
use gptkit_model::load::load_config;
use gptkit_train::machine::memory;
use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Flags that name the folder of a model, some after `NAME=`.
const MODEL_FLAGS: [&str; 9] =
    ["--model", "--init", "--reward", "--reference", "--a", "--b", "--judge", "--finetuned", "--tokenizer"];
/// Flags that name a file of records or text, some after `NAME=`.
const DATA_FLAGS: [&str; 9] = [
    "--data",
    "--val",
    "--test",
    "--prompts",
    "--prompt-file",
    "--instructions",
    "--comparisons",
    "--contamination",
    "--task",
];
/// Last parts of the keys of configurations that name text or records: one name, a list of names, or of tables with a `path`.
const DATA_KEYS: [&str; 4] = ["sources", "validation", "test", "references"];
/// Published models whose names have no owner.
const WITHOUT_OWNER: [&str; 7] =
    ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2", "openai-gpt", "openai-community"];

/// The kind of thing that a flag or a key refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NamedBy {
    Model,
    Data,
}

/// A value of a flag in the arguments.
#[derive(Debug, PartialEq, Eq)]
struct FlagValue<'a> {
    /// Number of the argument.
    index: usize,
    /// What stands before the value in that argument: nothing, `--flag=`, `NAME=`, or both.
    before: &'a str,
    value: &'a str,
    kind: NamedBy,
    flag: &'a str,
}

/// The values of [`MODEL_FLAGS`] and [`DATA_FLAGS`] in `arguments`.
fn values(arguments: &[OsString]) -> Vec<FlagValue<'_>> {
    let words: Vec<&str> = arguments.iter().map(|argument| argument.to_str().unwrap_or_default()).collect();
    let kind = |flag: &str| match flag {
        _ if MODEL_FLAGS.contains(&flag) => Some(NamedBy::Model),
        _ if DATA_FLAGS.contains(&flag) => Some(NamedBy::Data),
        _ => None,
    };
    let mut values = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let joined = word.split_once('=').filter(|(flag, _)| kind(flag).is_some());
        let (flag, start) = match (joined, index.checked_sub(1)) {
            (Some((flag, _)), _) => (flag, flag.len() + 1),
            (None, Some(before)) => (words[before], 0),
            (None, None) => continue,
        };
        let Some(kind) = kind(flag) else { continue };
        let name = word[start..].find(&format!("={PREFIX}")).map_or(start, |at| start + at + 1);
        values.push(FlagValue { index, before: &word[..name], value: &word[name..], kind, flag });
    }
    values
}

/// `arguments` with places in the cache instead of names of the hub; nothing where there are none.
///
/// # Errors
/// When there is no such model or file, it cannot be used here, or it cannot be downloaded.
pub(crate) fn resolved(arguments: &[OsString], ui: &Ui) -> Result<Option<Vec<OsString>>> {
    let mut resolved = arguments.to_vec();
    let settings = env::hub();
    let hub = Hub::new(&settings, ui);
    let is_server = arguments.get(1).is_some_and(|command| command == "serve");
    let mut found = false;
    for FlagValue { index, before, value, kind, flag } in values(arguments) {
        let Some(name) = value.strip_prefix(PREFIX) else { continue };
        found = true;
        let place = match kind {
            NamedBy::Model => {
                let folder = place(&hub, kind, name, ui)?;
                let is_named = !is_server || !before.trim_start_matches(flag).trim_matches('=').is_empty();
                if is_named { folder.to_string_lossy().into_owned() } else { with_name(&folder) }
            }
            NamedBy::Data => {
                let weight =
                    name.rsplit_once('@').filter(|(_, weight)| flag == "--data" && weight.parse::<f64>().is_ok());
                let (name, weight) = weight.map_or((name, None), |(name, weight)| (name, Some(weight)));
                let path = place(&hub, kind, name, ui)?;
                path.to_string_lossy().into_owned() + &weight.map(|weight| format!("@{weight}")).unwrap_or_default()
            }
        };
        resolved[index] = format!("{before}{place}").into();
    }
    Ok(found.then_some(resolved))
}

/// The place in the cache of the model or the file `name`, downloaded if need be.
fn place(hub: &Hub, kind: NamedBy, name: &str, ui: &Ui) -> Result<PathBuf> {
    match kind {
        NamedBy::Model => {
            let name = HubName::model(name).map_err(unusable)?;
            hub.model(&name, &LocalChecks { name: &name, ui, only_warns: false })
        }
        NamedBy::Data => {
            let (name, file) = HubName::dataset_file(name).map_err(unusable)?;
            hub.dataset_file(&name, &file)
        }
    }
}

/// The kind of thing that a configuration key refers to; `keys` are the parts of its path without the indices of elements.
fn named_by_key(keys: &[&str]) -> Option<NamedBy> {
    match keys {
        [.., "tokenizer", "path"] => Some(NamedBy::Model),
        [.., last] | [.., last, "path"] if DATA_KEYS.contains(last) => Some(NamedBy::Data),
        _ => None,
    }
}

/// A name of the hub in the text of a configuration.
struct HubValue {
    /// Bytes of the text that the value takes, with its quotes.
    span: Range<usize>,
    kind: NamedBy,
    /// The name without [`PREFIX`].
    name: String,
}

/// Adds the names of the hub in `value`, whose key is `keys`, to `found`.
fn find_names<'a>(value: &'a Spanned<DeValue>, keys: &mut Vec<&'a str>, found: &mut Vec<HubValue>) {
    match value.get_ref() {
        DeValue::String(text) => {
            let name = text.strip_prefix(PREFIX).zip(named_by_key(keys));
            found.extend(name.map(|(name, kind)| HubValue { span: value.span(), kind, name: name.to_owned() }));
        }
        DeValue::Array(list) => list.iter().for_each(|element| find_names(element, keys, found)),
        DeValue::Table(table) => find_names_in_table(table, keys, found),
        _ => {}
    }
}

fn find_names_in_table<'a>(table: &'a DeTable, keys: &mut Vec<&'a str>, found: &mut Vec<HubValue>) {
    for (key, value) in table {
        keys.push(key.get_ref());
        find_names(value, keys, found);
        keys.pop();
    }
}

/// The TOML `text` with places in the cache instead of names of the hub; its lines keep their numbers.
///
/// # Errors
/// As [`resolved`].
pub(crate) fn in_toml(text: &str, ui: &Ui) -> Result<String> {
    let mut found = Vec::new();
    // A text that is not valid TOML is reported where it is read.
    if let Ok(table) = DeTable::parse(text) {
        find_names_in_table(table.get_ref(), &mut Vec::new(), &mut found);
    }
    let mut resolved = text.to_owned();
    if found.is_empty() {
        return Ok(resolved);
    }
    let hub = Hub::new(&env::hub(), ui);
    found.sort_by_key(|value| std::cmp::Reverse(value.span.start));
    for HubValue { span, kind, name } in found {
        resolved.replace_range(span, &quoted(&place(&hub, kind, &name, ui)?.to_string_lossy()));
    }
    Ok(resolved)
}

/// The settings `set` in the form of `--set`, with places in the cache instead of names of the hub.
///
/// # Errors
/// As [`resolved`].
pub(crate) fn in_settings(set: &[String], ui: &Ui) -> Result<Vec<String>> {
    let resolved = set.iter().map(|setting| {
        // A text may be written without quotes.
        let bare = setting.split_once('=').filter(|(_, value)| value.trim().starts_with(PREFIX));
        match bare {
            Some((key, value)) => in_toml(&format!("{key}={}", quoted(value.trim())), ui),
            None => in_toml(setting, ui),
        }
    });
    resolved.collect()
}

/// `NAME=DIR` for a folder of the cache, which a server would call by its commit; `folder` elsewhere.
pub(crate) fn with_name(folder: &Path) -> String {
    let folder_text = folder.to_string_lossy();
    match origin(folder) {
        Some(_) => format!("{}={folder_text}", model_name(folder)),
        None => folder_text.into_owned(),
    }
}

/// What to write instead, if an argument that names no folder here looks like a model of the hub.
pub(crate) fn hint(arguments: &[OsString]) -> Option<String> {
    let is_meant = |value: &str| {
        let name = value.split('@').next().unwrap_or(value);
        let owner = name.split_once('/').map(|(owner, _)| owner);
        let is_published =
            owner.map_or(WITHOUT_OWNER.contains(&name), |owner| owner != "runs" && !Path::new(owner).exists());
        is_published && is_repository(name) && !Path::new(value).exists()
    };
    let values = values(arguments).into_iter().filter(|value| value.kind == NamedBy::Model);
    let meant = values.into_iter().find(|value| is_meant(value.value))?;
    Some(format!("for the model of that name on the Hugging Face hub, write {} {PREFIX}{}", meant.flag, meant.value))
}

/// Whether this machine can use a model.
pub(crate) struct LocalChecks<'a> {
    pub(crate) name: &'a HubName,
    pub(crate) ui: &'a Ui,
    /// Whether a model that does not fit into memory may be downloaded all the same.
    pub(crate) only_warns: bool,
}

impl ModelChecks for LocalChecks<'_> {
    fn check_description(&self, folder: &Path) -> Result<()> {
        if folder.join("adapter_config.json").is_file() {
            return Ok(()); // the base model's description counts
        }
        let Err(e) = load_config(folder) else { return Ok(()) };
        let hint =
            format!("only its description was downloaded; `gptkit pull {} --file GLOB` downloads more", self.name);
        Err(Usage::new(format!("{} cannot be used: {e:#}", self.name)).hint(hint).into())
    }

    fn check_size(&self, bytes: u64) -> Result<()> {
        let memory = memory();
        if bytes <= memory {
            return Ok(());
        }
        let (needed, here) = (needed_bytes(bytes), needed_bytes(memory));
        let what = format!("the weights of {} need {needed} of memory, and this machine has {here}", self.name);
        if self.only_warns {
            gptkit_data::progress::Progress::warn(self.ui, &what);
            return Ok(());
        }
        Err(Usage::new(what).hint("use a smaller model; `gptkit pull` downloads this one all the same").into())
    }
}

/// The settings of the environment; offline where a flag asks for it.
pub(crate) fn settings(is_offline: bool) -> HubSettings {
    let settings = env::hub();
    HubSettings { offline: settings.offline || is_offline, ..settings }
}

/// Copies files of the cache into a new folder.
///
/// # Errors
/// When it is not empty, has no room for them or cannot be written.
pub(crate) fn copy(from: &Path, files: &[PathBuf], out: &Path) -> Result<()> {
    let taken = out.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    if taken {
        let hint = "choose another folder with --out";
        return Err(Usage::new(format!("{} is not empty", out.display())).hint(hint).into());
    }
    let sizes = files.iter().map(|file| Ok(from.join(file).metadata()?.len()));
    let parent = gptkit_data::disk::parent(out);
    gptkit_data::disk::create_dir(parent)?;
    gptkit_hub::hub::check_room(parent, sizes.sum::<std::io::Result<u64>>()?)?;
    gptkit_data::disk::folder_with(out, |made| {
        for file in files {
            let path = made.join(file);
            gptkit_data::disk::create_dir(gptkit_data::disk::parent(&path))?;
            std::fs::copy(from.join(file), path)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cli;
    use crate::config_keys::KeysOf;
    use clap::{Command, CommandFactory, ValueEnum};

    fn arguments(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn values_of_flags_are_found_in_all_forms() {
        let line = arguments("gptkit eval --model hf:a/b --task=x=hf:o/d/f --prompt hf:no --model m=hf:c --data");
        let found: Vec<_> = values(&line).iter().map(|v| (v.index, v.before, v.value, v.kind)).collect();
        let (model, data) = (NamedBy::Model, NamedBy::Data);
        assert_eq!(found, [(3, "", "hf:a/b", model), (4, "--task=x=", "hf:o/d/f", data), (8, "m=", "hf:c", model)]);
    }

    /// A flag that takes a folder is one of a model, or is known to be another.
    #[test]
    fn all_flags_of_models_and_data_are_known() {
        const OTHERS: [&str; 8] =
            ["out", "resume", "runs", "feedback", "csv", "api-key-file", "demonstrations", "text"];
        fn flags(command: &Command, all: &mut Vec<String>) {
            command.get_subcommands().for_each(|command| flags(command, all));
            for flag in command.get_arguments().filter(|argument| !argument.is_positional()) {
                let names = flag.get_value_names().unwrap_or_default();
                let is_place =
                    |name: &clap::builder::Str| ["DIR", "PATH", "FILE"].iter().any(|word| name.ends_with(word));
                all.extend(flag.get_long().filter(|_| names.iter().any(is_place)).map(str::to_owned));
            }
        }
        let mut all = Vec::new();
        flags(&Cli::command(), &mut all);
        assert!(all.len() > 20, "{all:?}");
        for flag in all {
            let name = format!("--{flag}");
            let is_known = MODEL_FLAGS.contains(&name.as_str()) || DATA_FLAGS.contains(&name.as_str());
            let is_other = OTHERS.contains(&flag.as_str()) || ["config", "against", "eval"].contains(&flag.as_str());
            assert!(is_known != is_other, "--{flag}");
        }
    }

    /// A key whose value is text names data or a tokenizer, or is known to name something else.
    #[test]
    fn all_keys_of_models_and_data_are_known() {
        const OTHERS: [&str; 11] = [
            "choices",
            "description",
            "end",
            "label",
            "name",
            "prompts",
            "shards",
            "target_modules",
            "text",
            "text_b",
            "text_key",
        ];
        let (mut n_known, mut wrong) = (0, Vec::new());
        for command in KeysOf::value_variants() {
            // The data of `gptkit lineage` are arguments of its stages, which are resolved there.
            for key in command.keys().iter().filter(|key| !matches!(command, KeysOf::Lineage) && !key.is_section()) {
                let parts: Vec<&str> = key.path.split('.').filter(|part| *part != "N").collect();
                let is_known = named_by_key(&parts).is_some();
                n_known += usize::from(is_known);
                let is_text = ["text", "list of texts"].contains(&key.kind.as_str());
                if is_text && is_known == parts.last().is_some_and(|last| OTHERS.contains(last)) {
                    wrong.push(format!("{}: {}", command.name(), key.path));
                }
            }
        }
        assert!(wrong.is_empty() && n_known > 15, "{n_known}\n{}", wrong.join("\n"));
    }

    #[test]
    fn names_in_a_configuration_are_found_with_their_places() {
        let text = "description = \"hf:a\"\n[data]\nsources = [{ path = \"hf:o/d/f\", weight = 1.0 }, { path = 'hf:e/f' }]\n\
                    validation = [\"hf:v/f\", \"world\"]\n[[ptx.sources]]\npath = \"hf:p/f\"\n[tokenizer]\npath = \"hf:m\"\n";
        let table = DeTable::parse(text).unwrap();
        let mut found = Vec::new();
        find_names_in_table(table.get_ref(), &mut Vec::new(), &mut found);
        let mut found: Vec<_> = found.iter().map(|v| (&text[v.span.clone()], v.kind, v.name.as_str())).collect();
        found.sort_by_key(|(written, ..)| text.find(written));
        let (model, data) = (NamedBy::Model, NamedBy::Data);
        assert_eq!(
            found,
            [
                ("\"hf:o/d/f\"", data, "o/d/f"),
                ("'hf:e/f'", data, "e/f"),
                ("\"hf:v/f\"", data, "v/f"),
                ("\"hf:p/f\"", data, "p/f"),
                ("\"hf:m\"", model, "m"),
            ]
        );
    }

    #[test]
    fn names_that_are_no_folders_here_get_a_hint() {
        let of = |value: &str| hint(&arguments(&format!("gptkit sample --model {value}")));
        assert_eq!(
            of("openai-community/gpt2").as_deref(),
            Some("for the model of that name on the Hugging Face hub, write --model hf:openai-community/gpt2")
        );
        assert!(of("gpt2").is_some() && of("gpt2@v1").is_some());
        for other in ["nowhere", "runs/x", "src/x", "./a/b", "/a/b", "a/b/c", "hf:a/b", "http://a/b"] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
