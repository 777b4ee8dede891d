//! What follows from the parts of a tokenizer: the kind of its tokens, their bytes, and what may be lost.

use super::unsettled::{joins_bytes, steps};
use crate::outline;
use crate::quiet::quietly;
use anyhow::{Result, bail};
use serde_json::{Value, json};
use std::collections::HashMap;
use tokenizers::models::ModelWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{AddedToken, Model, Tokenizer as Inner};

/// The character for white space in SentencePiece's vocabularies.
pub(super) const WORD_SIGN: &str = "\u{2581}";

/// How tokens represent text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenEncoding {
    /// Pieces of bytes, GPT-2's way: any bytes have tokens, and come back exactly.
    ByteLevel,
    /// Single characters.
    Char,
    /// Words cut at white space and punctuation, GPT-1's way.
    Words,
    /// Any other `tokenizer.json`.
    Other,
}

/// Has every text get the same tokens each time: a dropout of merges is for training other models than ours.
pub(super) fn switch_dropout_off(inner: &mut Inner) {
    if let ModelWrapper::BPE(model) = inner.get_model()
        && model.dropout.is_some()
    {
        let mut model = model.clone();
        model.dropout = None;
        inner.with_model(model);
    }
}

/// The parts of a tokenizer as `tokenizer.json` has them.
pub(super) struct Structure {
    pre_tokenizer: Value,
    model: Value,
    pub(super) decoder: Value,
    added: Vec<AddedToken>,
}

impl Structure {
    pub(super) fn of(inner: &Inner) -> Result<Self> {
        let mut model = serde_json::Map::new();
        match inner.get_model() {
            ModelWrapper::BPE(bpe) => {
                model.insert("byte_fallback".to_owned(), json!(bpe.byte_fallback));
                model.insert("unk_token".to_owned(), json!(bpe.unk_token));
            }
            ModelWrapper::WordPiece(words) => drop(model.insert("unk_token".to_owned(), json!(words.unk_token))),
            ModelWrapper::WordLevel(words) => drop(model.insert("unk_token".to_owned(), json!(words.unk_token))),
            // Its fields are private.
            ModelWrapper::Unigram(_) => {
                let Value::Object(mut all) = quietly(|| serde_json::to_value(inner.get_model()))?? else {
                    bail!("the model cannot be written as JSON")
                };
                model.extend(["byte_fallback", "unk_id"].map(|key| (key.to_owned(), all[key].take())));
            }
        }
        let added = inner.get_added_tokens_decoder().into_values().collect();
        Ok(Self {
            pre_tokenizer: serde_json::to_value(inner.get_pre_tokenizer())?,
            model: Value::Object(model),
            decoder: serde_json::to_value(inner.get_decoder())?,
            added,
        })
    }

    /// Whether a token that is no special one stands for several words, or takes in the white space behind it.
    pub(super) fn adds_phrases(&self) -> bool {
        let inside = |text: &str| text.trim_start().contains(char::is_whitespace);
        self.added.iter().any(|token| !token.special && (token.rstrip || inside(&token.content)))
    }

    /// Whether there may be characters without a token.
    pub(super) fn may_lose(&self, inner: &Inner) -> bool {
        let last = steps(&self.pre_tokenizer, "pretokenizers").last().copied();
        let of_bytes = last.is_some_and(|step| step["type"] == "ByteLevel");
        let falls_back = self.model["byte_fallback"] == true;
        let has_byte = |byte: u8| inner.token_to_id(&format!("<0x{byte:02X}>")).is_some();
        !(of_bytes && has_all_bytes(inner) || falls_back && (0..=255).all(has_byte))
    }

    pub(super) fn unknown(&self, inner: &Inner) -> Option<u32> {
        let named = self.model["unk_token"].as_str().and_then(|token| inner.token_to_id(token));
        named.or_else(|| self.model["unk_id"].as_u64().map(|id| id as u32))
    }
}

fn has_all_bytes(inner: &Inner) -> bool {
    byte_characters().iter().all(|c| inner.get_model().token_to_id(c.encode_utf8(&mut [0; 4])).is_some())
}

/// What follows from a tokenizer.
pub(super) struct Derived {
    /// Texts of special tokens by id.
    pub(super) signs: HashMap<u32, String>,
    /// Bytes of each token.
    pub(super) bytes: Option<Vec<Vec<u8>>>,
    /// One more than the largest id.
    pub(super) size: usize,
}

/// # Errors
/// When an id is out of bounds.
pub(super) fn derived(inner: &Inner, structure: &Structure) -> Result<Derived> {
    let entries = inner.get_vocab(true);
    let largest = entries.iter().max_by_key(|(_, id)| **id);
    if let Some((entry, &id)) = largest {
        outline::within("an entry", u64::from(id), entry)?;
    }
    let size = largest.map_or(0, |(_, &id)| id as usize + 1);
    let bytes = joins_bytes(&structure.decoder).then(|| token_bytes(entries, size));
    let added = inner.get_added_tokens_decoder().into_iter();
    let signs = added.filter(|(_, token)| inner.get_added_vocabulary().is_special_token(&token.content));
    let signs = signs.map(|(id, token)| (id, token.content)).collect();
    Ok(Derived { signs, bytes, size })
}

/// The kind of a tokenizer's tokens, by its parts.
pub(super) fn kind(inner: &Inner) -> TokenEncoding {
    let ModelWrapper::BPE(model) = inner.get_model() else { return TokenEncoding::Other };
    match (inner.get_pre_tokenizer(), inner.get_normalizer()) {
        (Some(PreTokenizerWrapper::ByteLevel(b)), None) if !b.add_prefix_space && b.use_regex => {
            if has_all_bytes(inner) { TokenEncoding::ByteLevel } else { TokenEncoding::Other }
        }
        (Some(PreTokenizerWrapper::BertPreTokenizer(_)), _) if model.end_of_word_suffix.is_some() => {
            TokenEncoding::Words
        }
        (None, None) if model.get_vocab().keys().all(|token| token.chars().count() == 1) => TokenEncoding::Char,
        _ => TokenEncoding::Other,
    }
}

/// The bytes of each token: byte-level vocabularies write each byte as a printable character. A token with other characters
/// stands for itself, as the library has it.
fn token_bytes(entries: HashMap<String, u32>, n: usize) -> Vec<Vec<u8>> {
    let byte_of = bytes_by_character();
    let mut bytes = vec![Vec::new(); n];
    for (token, id) in entries {
        bytes[id as usize] = bytes_of(&token, &byte_of).unwrap_or_else(|| token.into_bytes());
    }
    bytes
}

/// The bytes of the characters of `token`; `None` if one of them represents no byte.
pub(super) fn bytes_of(token: &str, byte_of: &HashMap<char, u8>) -> Option<Vec<u8>> {
    token.chars().map(|c| byte_of.get(&c).copied()).collect()
}

/// The byte of each of [`byte_characters`].
pub(super) fn bytes_by_character() -> HashMap<char, u8> {
    byte_characters().into_iter().zip(0..=255).collect()
}

/// The character that stands for each byte: itself where it is printable in Latin-1, else the next from U+0100 on.
pub(super) fn byte_characters() -> [char; 256] {
    let mut spare = 0x100..;
    std::array::from_fn(|byte| {
        let printable = matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
        let code = if printable { byte as u32 } else { spare.next().unwrap_or_default() };
        char::from_u32(code).unwrap_or_default()
    })
}
