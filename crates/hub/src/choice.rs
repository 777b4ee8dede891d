//! Which files of a model a GPT needs.

use crate::listing::RemoteFile;
use crate::name::HubName;
use anyhow::{Context, Result, bail};
use gptkit_data::disk;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// Descriptions of the model, its tokenizer and how texts are generated with it, in any of their forms.
const DESCRIPTIONS: [&str; 17] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "encoder.json",
    "vocab.bpe",
    "encoder_bpe_40000.json",
    "vocab_40000.bpe",
    "chat_template.jinja",
    "adapter_config.json",
    "checksums.json",
    "provenance.json",
    "reference.json",
];
/// The weights in one file.
const WEIGHTS: &str = "model.safetensors";
/// The list of the files of weights that are split.
const INDEX: &str = "model.safetensors.index.json";
/// The card of a model. `push` writes its own.
const CARD: &str = "README.md";
/// The weights of adapters.
const ADAPTER: &str = "adapter_model.safetensors";
/// Endings of files that run code when they are loaded.
const PICKLES: [&str; 5] = [".bin", ".pt", ".pth", ".ckpt", ".pkl"];

/// The files that describe a model and its tokenizer, and the card, which states its license.
pub fn descriptions(files: &[RemoteFile]) -> Vec<&RemoteFile> {
    let is_one = |path: &str| DESCRIPTIONS.contains(&path) || [INDEX, CARD].contains(&path);
    files.iter().filter(|file| is_one(&file.path)).collect()
}

/// The weights of the model `name`, whose [`descriptions`] are in `folder`.
///
/// # Errors
/// When there are none that can be read without running code.
pub fn weights<'a>(files: &'a [RemoteFile], folder: &Path, name: &HubName) -> Result<Vec<&'a RemoteFile>> {
    let find = |wanted: &str| files.iter().find(|file| file.path == wanted);
    if let Some(whole) = find(WEIGHTS).or_else(|| find(ADAPTER)) {
        return Ok(vec![whole]);
    }
    if find(INDEX).is_some() {
        let part = |part: String| find(&part).with_context(|| format!("{name} has no {part}, which its {INDEX} names"));
        return parts(&folder.join(INDEX))?.into_iter().map(part).collect();
    }
    let pickles: Vec<&str> = files.iter().map(|file| file.path.as_str()).filter(|path| is_pickle(path)).collect();
    match pickles.first() {
        Some(pickle) => bail!(
            "{name} has its weights only as {pickle}, a pickle, which may run any code when it is loaded\n  hint: use \
             a revision with {WEIGHTS}, or convert it where you trust it: in Python, \
             AutoModelForCausalLM.from_pretrained({:?}).save_pretrained(\"folder\")",
            name.repository
        ),
        None => bail!("{name} has no {WEIGHTS}\n  hint: `gptkit pull {name} --file GLOB` downloads other files"),
    }
}

fn is_pickle(path: &str) -> bool {
    !path.contains('/') && PICKLES.iter().any(|ending| path.ends_with(ending))
}

/// The files that an index of weights names.
fn parts(index: &Path) -> Result<BTreeSet<String>> {
    let json: Value = serde_json::from_str(&disk::read_description(index)?)
        .with_context(|| format!("{} is not JSON", index.display()))?;
    let map = json["weight_map"].as_object().with_context(|| format!("{} has no weight_map", index.display()))?;
    let name = |value: &Value| Some(value.as_str()?.to_owned());
    map.values().map(name).collect::<Option<_>>().with_context(|| format!("{} is damaged", index.display()))
}

/// Whether `folder` has all that is loaded of a model.
pub fn is_complete(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    let described = has("config.json") || has("adapter_config.json");
    let split = || parts(&folder.join(INDEX)).is_ok_and(|parts| parts.iter().all(|part| has(part)));
    described && (has(WEIGHTS) || has(ADAPTER) || split())
}

/// The files of the model in `folder` that are uploaded: its descriptions and weights, in that order, without what names
/// other folders of the machine.
///
/// # Errors
/// When it has no weights of its own.
pub fn to_upload(folder: &Path) -> Result<Vec<String>> {
    let has = |name: &str| folder.join(name).is_file();
    let kept = DESCRIPTIONS.iter().filter(|name| !matches!(**name, "provenance.json" | "reference.json"));
    let mut files: Vec<String> = kept.filter(|name| has(name)).map(|name| (*name).to_owned()).collect();
    match (has(WEIGHTS), has(INDEX)) {
        (true, _) => files.push(WEIGHTS.to_owned()),
        (false, true) => {
            files.push(INDEX.to_owned());
            files.extend(parts(&folder.join(INDEX))?);
        }
        (false, false) => bail!("{} has no {WEIGHTS}", folder.display()),
    }
    Ok(files)
}

/// The files whose paths match one of `patterns`.
///
/// # Errors
/// When a pattern is invalid or matches nothing.
pub fn matching<'a>(files: &'a [RemoteFile], patterns: &[String], name: &HubName) -> Result<Vec<&'a RemoteFile>> {
    let mut chosen = BTreeSet::new();
    for pattern in patterns {
        let parsed = glob::Pattern::new(pattern).with_context(|| format!("--file {pattern} is not a pattern"))?;
        let found: Vec<usize> = (0..files.len()).filter(|&i| parsed.matches(&files[i].path)).collect();
        if found.is_empty() {
            let some: Vec<&str> = files.iter().take(8).map(|file| file.path.as_str()).collect();
            let more = if files.len() > some.len() { ", …" } else { "" };
            bail!("{name} has no file {pattern}\n  hint: its files are {}{more}", some.join(", "));
        }
        chosen.extend(found);
    }
    Ok(chosen.into_iter().map(|i| &files[i]).collect())
}
