//! Tokenizers in the metadata of GGUF files, both ways.
//!
//! llama.cpp has one tokenizer that does what gptkit's do: byte-level pairs with GPT-2's pattern. Characters are written as
//! byte-level pairs that build each character from its bytes and nothing else. The whole `tokenizer.json` lies in the file
//! too, under the name that GGUF's specification has for it, so that gptkit reads back what it wrote.

use super::llama::{CONTROL, LlamaVocabulary, MERGES, NORMAL, TOKENS, TYPES, UNUSED, USER_DEFINED};
use super::structure::{TokenEncoding, byte_characters};
use super::{Tokenizer, load};
use crate::folder_tokens::{FolderTemplates, FolderTokens};
use anyhow::{Context, Result, bail, ensure};
use gptkit_gguf::{GgufFile, GgufValue, Metadata};
use serde_json::{Map, Value, json};
use std::path::Path;

const MODEL: &str = "tokenizer.ggml.model";
const PATTERN: &str = "tokenizer.ggml.pre";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const TEMPLATE: &str = "tokenizer.chat_template";
const TEMPLATES: &str = "tokenizer.chat_templates";
const WHOLE: &str = "tokenizer.huggingface.json";
/// Uses of special tokens, and their names in the metadata.
const USES: [(&str, &str); 7] = [
    ("bos_token", "tokenizer.ggml.bos_token_id"),
    ("eos_token", "tokenizer.ggml.eos_token_id"),
    ("unk_token", "tokenizer.ggml.unknown_token_id"),
    ("sep_token", "tokenizer.ggml.seperator_token_id"), // misspelt in llama.cpp
    ("pad_token", "tokenizer.ggml.padding_token_id"),
    ("cls_token", "tokenizer.ggml.cls_token_id"),
    ("mask_token", "tokenizer.ggml.mask_token_id"),
];
/// Names of GPT-2's pattern; files of old versions have none.
const PATTERNS: [&str; 3] = ["gpt-2", "gpt2", "default"];
/// A merge for vocabularies without any, which llama.cpp does not read: the byte FF twice, which no UTF-8 has.
const NO_MERGE: &str = "ÿ ÿ";

/// The token that llama.cpp takes for the end of a text where the metadata names none.
const DEFAULT_EOS: usize = 11;
/// Lines whose tokens are compared.
const LINES: &str = include_str!("gguf_lines.txt");

impl Tokenizer {
    /// The metadata of a GGUF file with this tokenizer, for a model of `rows` rows.
    ///
    /// # Errors
    /// When llama.cpp has no tokenizer that gives the same tokens.
    pub fn to_gguf(&self, rows: usize) -> Result<Metadata> {
        let whole: Value = serde_json::from_str(&self.to_json()?)?;
        let is_char = self.kind == TokenEncoding::Char;
        ensure!(!self.frame_space, "it is the tokenizer of a classifier, with special tokens around each text");
        if !is_char {
            must_be_byte_level(&whole)?;
        }
        ensure!(self.size <= rows, "it has {} entries, but the model has {rows} embedding rows", self.size);
        let mut tokens: Vec<String> = (0..rows).map(|id| format!("[PAD{id}]")).collect();
        let mut types = vec![UNUSED; rows];
        let mut merges: Vec<String> = Vec::new();
        for (token, id) in self.inner.get_vocab(false) {
            let token = if is_char { bytes_as_characters(&token) } else { token };
            if is_char {
                merges.extend(merges_of(&token));
            }
            (tokens[id as usize], types[id as usize]) = (token, NORMAL);
        }
        for (id, token) in self.inner.get_added_tokens_decoder() {
            let kind = if token.special { CONTROL } else { USER_DEFINED };
            (tokens[id as usize], types[id as usize]) = (token.content, kind);
        }
        if is_char {
            merges.sort();
            merges.dedup();
        } else {
            merges = merges_in(&whole)?;
        }
        if merges.is_empty() {
            merges.push(NO_MERGE.to_owned());
        }
        let mut metadata = Metadata::default();
        metadata.add(MODEL, GgufValue::Text("gpt2".to_owned()));
        metadata.add(PATTERN, GgufValue::Text(PATTERNS[0].to_owned()));
        metadata.add(TOKENS, GgufValue::Texts(tokens));
        metadata.add(TYPES, GgufValue::Integers(types));
        metadata.add(MERGES, GgufValue::Texts(merges));
        for (name, key) in USES {
            if let Some(id) = self.special_token(name).and_then(|token| self.token_id(token)) {
                metadata.add(key, GgufValue::Integer(id.into()));
            }
        }
        ensure!(
            metadata.get(USES[1].1).is_some() || rows <= DEFAULT_EOS,
            "it has no token that ends a text; llama.cpp would take token {DEFAULT_EOS} for it"
        );
        let (begins, ends) = self.puts_around()?;
        metadata.add(ADD_BOS, GgufValue::Bool(begins));
        metadata.add(ADD_EOS, GgufValue::Bool(ends));
        let others: Vec<String> = self.other_templates().map(str::to_owned).collect();
        if let Some(template) = self.chat_template() {
            metadata.add(TEMPLATE, GgufValue::Text(template.to_owned()));
        }
        if !others.is_empty() {
            for (name, template) in &self.settings.templates.others {
                metadata.add(&format!("{TEMPLATE}.{name}"), GgufValue::Text(template.clone()));
            }
            metadata.add(TEMPLATES, GgufValue::Texts(others));
        }
        metadata.add(WHOLE, GgufValue::Text(whole.to_string()));
        Ok(metadata)
    }

    /// Whether a text that a model continues begins with `bos_token`, and ends with `eos_token`.
    ///
    /// # Errors
    /// When other tokens are put around it.
    fn puts_around(&self) -> Result<(bool, bool)> {
        let text = self.sample();
        let (plain, prompt) = (self.encode(&text)?, self.encode_prompt(&text)?);
        let (bos, eos) = (self.bos(), self.special_token("eos_token").and_then(|token| self.token_id(token)));
        for (begins, ends) in [(false, false), (true, false), (false, true), (true, true)] {
            let [first, last] = [(begins, bos), (ends, eos)].map(|(wanted, id)| id.filter(|_| wanted));
            let framed: Vec<u32> = first.into_iter().chain(plain.iter().copied()).chain(last).collect();
            if framed == prompt {
                return Ok((begins, ends));
            }
        }
        bail!("it puts tokens around texts that are not bos_token and eos_token, which llama.cpp cannot do")
    }

    /// A short text that has tokens.
    fn sample(&self) -> String {
        "an example, for instance".chars().filter(|&c| self.has(c)).collect()
    }

    /// Whether the character has a token, as far as that is a question.
    fn has(&self, c: char) -> bool {
        self.kind != TokenEncoding::Char || self.token_id(c.encode_utf8(&mut [0; 4])).is_some()
    }

    /// Compares the tokens that llama.cpp gives texts by `metadata` with those of this tokenizer: lines in many scripts, each
    /// token of the vocabulary, alone and with its neighbor, and each special token within text.
    ///
    /// # Errors
    /// Names the first text that gets other tokens.
    pub fn must_agree_with_gguf(&self, metadata: &Metadata) -> Result<()> {
        let theirs = LlamaVocabulary::of(metadata);
        let agree = |text: &str, ids: &[u32], with_control: bool| {
            ensure!(theirs.encode(text, with_control) == ids, "llama.cpp would read {text:?} as other tokens");
            Ok(())
        };
        let same = |text: &str| {
            agree(text, &self.encode_document(text)?, false)?;
            agree(text, &self.encode(text)?, true)
        };
        let known = |text: &str| text.chars().filter(|&c| self.has(c)).collect::<String>();
        for line in LINES.lines() {
            same(&known(&line.replace("\\n", "\n").replace("\\t", "\t")))?;
        }
        let text = |id: u32| self.decode(&[id]).ok().filter(|text| !text.contains('\u{FFFD}') && !self.is_special(id));
        let mut before = String::new();
        for text in (0..self.size as u32).filter_map(text) {
            same(&text)?;
            same(&(before + &text))?;
            before = text;
        }
        let sample = self.sample();
        for token in self.inner.get_added_tokens_decoder().into_values() {
            let text = format!("{sample}{0}{1}{sample}{0}{0}", token.content, known(" "));
            agree(&text, &self.encode(&text)?, true)?;
        }
        Ok(())
    }

    /// Reads the tokenizer of the GGUF file at `path`.
    ///
    /// # Errors
    /// When it is of a kind that is not supported, or damaged.
    pub(super) fn load_gguf(path: &Path) -> Result<Self> {
        let metadata = GgufFile::open(path)?.metadata;
        let read = || -> Result<Self> {
            let tokens = FolderTokens::of_uses(uses(&metadata)?, templates(&metadata, path), frames(&metadata));
            let inner = match metadata.text(WHOLE) {
                Some(whole) => load::parse(whole)?,
                None => {
                    let mut inner = load::parse(&rebuilt(&metadata)?)?;
                    tokens.frame(&mut inner)?;
                    inner
                }
            };
            load::with_tokens(inner, tokens)
        };
        read().with_context(|| format!("cannot load the tokenizer in {}", path.display()))
    }
}

/// # Errors
/// When the tokenizer with this `tokenizer.json` has no counterpart in llama.cpp.
fn must_be_byte_level(whole: &Value) -> Result<()> {
    let (model, split) = (&whole["model"], &whole["pre_tokenizer"]);
    if !model["end_of_word_suffix"].as_str().unwrap_or_default().is_empty() {
        bail!("it marks the ends of words (</w>), as GPT-1's does, which llama.cpp cannot do");
    }
    let name = model["type"].as_str().unwrap_or("an unnamed type");
    ensure!(name == "BPE", "it is of the type {name}; llama.cpp reads GPT-2 models with byte-level BPE only");
    let plain = ["continuing_subword_prefix", "unk_token"]
        .iter()
        .all(|key| model[*key].as_str().unwrap_or_default().is_empty());
    let plain = plain && model["byte_fallback"] != true && model["ignore_merges"] != true;
    let splits = split["type"] == "ByteLevel" && split["add_prefix_space"] == false && split["use_regex"] == true;
    ensure!(
        plain && splits && whole["normalizer"].is_null(),
        "it does not divide text as GPT-2's does, and llama.cpp reads GPT-2 models with GPT-2's division only"
    );
    Ok(())
}

/// The text of a token that stands for `text`.
fn bytes_as_characters(text: &str) -> String {
    let characters = byte_characters();
    text.bytes().map(|byte| characters[usize::from(byte)]).collect()
}

/// The merges that build `token` from the left. The parts of a character are parts of no other, or of one that begins alike.
fn merges_of(token: &str) -> Vec<String> {
    let ends = token.char_indices().skip(1);
    ends.map(|(at, c)| format!("{} {c}", &token[..at])).collect()
}

/// The merges of a `tokenizer.json`.
fn merges_in(whole: &Value) -> Result<Vec<String>> {
    let merge = |merge: &Value| match merge {
        Value::String(merge) => Some(merge.clone()),
        Value::Array(parts) => match parts.as_slice() {
            [Value::String(left), Value::String(right)] if !left.contains(' ') => Some(format!("{left} {right}")),
            _ => None,
        },
        _ => None,
    };
    let merges = whole["model"]["merges"].as_array().map_or(&[][..], Vec::as_slice);
    merges.iter().map(|one| merge(one).with_context(|| format!("the merge {one} has no form in GGUF"))).collect()
}

/// Uses of special tokens, and their texts.
fn uses(metadata: &Metadata) -> Result<Vec<(String, String)>> {
    let tokens = metadata.texts(TOKENS);
    let mut uses = Vec::new();
    for (name, key) in USES {
        if let Some(id) = metadata.size(key)? {
            let token =
                tokens.get(id).with_context(|| format!("{key} is {id}, but there are {} tokens", tokens.len()))?;
            uses.push((name.to_owned(), token.clone()));
        }
    }
    Ok(uses)
}

fn frames(metadata: &Metadata) -> (bool, bool) {
    (metadata.flag(ADD_BOS) == Some(true), metadata.flag(ADD_EOS) == Some(true))
}

fn templates(metadata: &Metadata, path: &Path) -> FolderTemplates {
    let named = |name: &String| Some((name.clone(), metadata.text(&format!("{TEMPLATE}.{name}"))?.to_owned()));
    FolderTemplates {
        default: metadata.text(TEMPLATE).map(str::to_owned),
        place: format!("{TEMPLATE} of {}", path.display()),
        others: metadata.texts(TEMPLATES).iter().filter_map(named).collect(),
    }
}

/// A `tokenizer.json` with the tokens and merges of `metadata`.
fn rebuilt(metadata: &Metadata) -> Result<String> {
    let kind = metadata.text(MODEL).with_context(|| format!("the file has no tokenizer ({MODEL} is missing)"))?;
    ensure!(kind == "gpt2", "its tokenizer is of the kind {kind}; supported: gpt2");
    let pattern = metadata.text(PATTERN).unwrap_or(PATTERNS[0]);
    ensure!(PATTERNS.contains(&pattern), "its tokenizer divides text as {pattern} does; supported: {}", PATTERNS[0]);
    let (tokens, types) = (metadata.texts(TOKENS), metadata.integers(TYPES));
    ensure!(!tokens.is_empty(), "{TOKENS} is missing");
    ensure!(
        types.is_empty() || types.len() == tokens.len(),
        "there are {} tokens, but {TYPES} has {} entries",
        tokens.len(),
        types.len()
    );
    let mut vocabulary = Map::new();
    let mut added = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        let kind = types.get(id).copied().unwrap_or(NORMAL);
        if kind == UNUSED {
            continue;
        }
        ensure!(vocabulary.insert(token.clone(), json!(id)).is_none(), "it has two tokens {token:?}");
        if matches!(kind, CONTROL | USER_DEFINED) {
            added.push(json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                "special": kind == CONTROL,
            }));
        }
    }
    let merges = metadata.texts(MERGES).iter().filter(|merge| *merge != NO_MERGE);
    let merges: Option<Vec<Value>> = merges.map(|merge| merge.split_once(' ').map(|(a, b)| json!([a, b]))).collect();
    let merges = merges.with_context(|| format!("{MERGES} has an entry without a space"))?;
    let level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let whole = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges,
        },
    });
    Ok(whole.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gptkit_testing::golden_path;

    fn agree(tokenizer: &Tokenizer) -> Metadata {
        let metadata = tokenizer.to_gguf(tokenizer.vocab_size() + 2).unwrap();
        tokenizer.must_agree_with_gguf(&metadata).unwrap();
        metadata
    }

    #[test]
    fn byte_level_pairs_and_characters_have_the_same_tokens_there() {
        let gpt2 = Tokenizer::load(&golden_path("tokenizers/gpt2")).unwrap();
        let metadata = agree(&gpt2);
        let rebuilt = load::parse(&rebuilt(&metadata).unwrap()).unwrap();
        for line in LINES.lines() {
            let ids = rebuilt.encode(line, false).unwrap().get_ids().to_vec();
            assert_eq!(ids, gpt2.encode(line).unwrap(), "{line:?}");
        }
        let mut characters = Tokenizer::of_characters(&"aä\n é日本👋🏽 the quick, brown".chars().collect()).unwrap();
        characters.add_special_tokens(&["<|user|>", "<|endoftext|>"]).unwrap();
        let metadata = agree(&characters);
        let ids = LlamaVocabulary::of(&metadata).encode("日本 👋xä", false);
        assert_eq!(ids, characters.encode("日本 👋ä").unwrap(), "unknown characters have no token");
    }

    #[test]
    fn a_vocabulary_without_merges_has_one_that_cannot_occur() {
        let tokenizer = Tokenizer::of_characters(&"abc ".chars().collect()).unwrap();
        assert_eq!(agree(&tokenizer).texts(MERGES), [NO_MERGE]);
    }

    #[test]
    fn tokens_that_would_differ_are_found() {
        let tokenizer = Tokenizer::load(&golden_path("tokenizers/gpt2")).unwrap();
        let metadata = tokenizer.to_gguf(tokenizer.vocab_size()).unwrap();
        let mut changed = Metadata::default();
        for (key, value) in metadata.iter() {
            let value = match value {
                GgufValue::Texts(merges) if key == MERGES => GgufValue::Texts(merges[1..].to_vec()),
                other => other.clone(),
            };
            changed.add(key, value);
        }
        let error = tokenizer.must_agree_with_gguf(&changed).unwrap_err().to_string();
        assert!(error.contains("llama.cpp would read"), "{error}");
    }

    #[test]
    fn tokenizers_without_a_counterpart_are_refused() {
        let refused = |path: &str| {
            let tokenizer = Tokenizer::load(&golden_path(path)).unwrap();
            let metadata = tokenizer.to_gguf(tokenizer.vocab_size());
            metadata.and_then(|metadata| tokenizer.must_agree_with_gguf(&metadata)).map_err(|e| e.to_string())
        };
        assert!(refused("tokenizers/gpt1").unwrap_err().contains("</w>"));
        let folder = golden_path("conformance/tokenizers");
        let mut accepted = Vec::new();
        for entry in folder.read_dir().unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if refused(&format!("conformance/tokenizers/{name}")).is_ok() {
                accepted.push(name);
            }
        }
        accepted.sort();
        // Dropout is switched off when a file is read. The others of byte level have no token that ends a text.
        assert_eq!(accepted, ["byte-level", "characters", "dropout"]);
        assert!(
            refused("conformance/tokenizers/truncation-padding").unwrap_err().contains("no token that ends a text")
        );
    }
}
