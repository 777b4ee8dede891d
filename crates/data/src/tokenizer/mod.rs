//! Text ↔ token ids, through Hugging Face's `tokenizers`.
//!
//! - [`config`]    where a model's tokens come from
//! - [`load`]      `tokenizer.json`, and the published files of GPT-1 and GPT-2
//! - [`train`]     byte-level pairs, or characters
//! - [`merges`]    the pairs that are learned
//! - [`encode`]    text → ids
//! - [`byte_pairs`] the same for GPT-2's kind of vocabulary, many times faster
//! - [`words`]     the words of GPT-2's pattern
//! - [`decode`]    ids → text; a stream of ids is decoded by [`crate::decoder`]
//! - [`mod@special`] the end of a text, the frame of a classifier's texts
//! - [`mod@gguf`] tokenizers in the metadata of GGUF files; [`llama`] the tokens that llama.cpp gives by it
//! - [`structure`] what follows from the parts of a tokenizer
//! - [`unsettled`] what a decoder may still change of a text that grows

mod byte_pairs;
mod config;
mod decode;
pub(crate) mod encode;
mod gguf;
mod llama;
mod load;
mod merges;
pub(crate) mod special;
mod structure;
#[cfg(test)]
mod tests;
pub(crate) mod train;
pub(crate) mod unsettled;
mod words;

use crate::disk;
use crate::folder_tokens::{CONFIG, FolderTokens, TextSettings};
use crate::losses::Losses;
use crate::quiet::{Panicked, quietly};
use crate::text::CutPoint;
use anyhow::{Context, Result, anyhow, bail, ensure};
use byte_pairs::BytePairs;
use serde_json::{Map, Value, json};
use special::{byte_level_with_space, special, take_frame_space, usual_names};
use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use structure::{Derived, Structure, TokenEncoding, WORD_SIGN, derived, kind, switch_dropout_off};
use tokenizers::Tokenizer as Inner;
use tokenizers::processors::template::TemplateProcessing;
use unsettled::Unsettled;

pub use config::{TokenizerConfig, TokenizerKind};
pub use special::{END_OF_TEXT, FRAME};

/// A tokenizer.
pub struct Tokenizer {
    inner: Inner,
    /// The same, but for text that is nothing but text: `<|endoftext|>` in a document is thirteen characters, so that
    /// no document can fake its own end. Made when it is first needed.
    plain: OnceLock<Inner>,
    /// The encoder that takes the library's place, where there is one; made when the first text is encoded.
    byte_pairs: OnceLock<Option<BytePairs>>,
    /// Texts of special tokens by id.
    signs: HashMap<u32, String>,
    kind: TokenEncoding,
    /// Bytes of each token, where the decoder joins bytes and does nothing else.
    bytes: Option<Vec<Vec<u8>>>,
    /// What the decoder may still change of a text that grows.
    unsettled: Unsettled,
    /// Whether text can be cut before white space without a change of its tokens.
    cuts_at_words: bool,
    /// Whether there may be characters without a token.
    may_lose: bool,
    /// The unknown token, which replaces text that the vocabulary lacks.
    unknown: Option<u32>,
    /// The token of SentencePiece's white space.
    word_sign: Option<u32>,
    /// Characters that have no token, as far as they were looked up.
    dropped: Mutex<HashMap<char, bool>>,
    /// Characters that [`Tokenizer::encode`] and [`Tokenizer::encode_document`] lost.
    losses: Mutex<Losses>,
    /// One more than the largest id.
    size: usize,
    end_of_text: Option<u32>,
    /// Whether framed texts are read with a space before them.
    frame_space: bool,
    /// Rows that the model has for tokens.
    rows: usize,
    /// Special tokens by use, chat templates, and the settings that [`Tokenizer::save`] writes again.
    settings: TextSettings,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokenizer({:?}, {} entries)", self.kind, self.vocab_size())
    }
}

/// Names that end a text, where nothing names it; the first that the vocabulary has counts.
const KNOWN_ENDS: [&str; 4] = [END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>"];

impl Tokenizer {
    fn new(mut inner: Inner, tokens: FolderTokens) -> Result<Self> {
        let padding = inner.get_padding().map(|padding| padding.pad_token.clone());
        // A file may hold them for other uses; here they would silently cut or lengthen text.
        inner.with_truncation(None).map_err(|e| anyhow!("{e}"))?.with_padding(None);
        switch_dropout_off(&mut inner);
        let frame_space = take_frame_space(&mut inner);
        let kind = kind(&inner);
        let mut settings = tokens.settings(|token| inner.token_to_id(token).is_some());
        if let Some(token) = padding.filter(|token| inner.token_to_id(token).is_some()) {
            settings.name_if_unnamed("pad_token", &token);
        }
        let named_end = settings.names.iter().find(|(name, _)| name == "eos_token").map(|(_, token)| token.as_str());
        let end = named_end.into_iter().chain(KNOWN_ENDS).find_map(|token| inner.token_to_id(token));
        ensure!(inner.get_vocab_size(true) > 0, "has no entries");
        if settings.names.is_empty() && settings.templates.default.is_none() {
            settings.names = usual_names(&inner, kind, end);
        }
        let structure = Structure::of(&inner)?;
        let Derived { signs, bytes, size } = quietly(|| derived(&inner, &structure))??;
        Ok(Self {
            unsettled: Unsettled::of(&structure.decoder),
            cuts_at_words: matches!(kind, TokenEncoding::ByteLevel | TokenEncoding::Words) && !structure.adds_phrases(),
            may_lose: kind != TokenEncoding::Char && structure.may_lose(&inner),
            unknown: structure.unknown(&inner),
            word_sign: inner.token_to_id(WORD_SIGN),
            dropped: Mutex::default(),
            losses: Mutex::default(),
            inner,
            plain: OnceLock::new(),
            byte_pairs: OnceLock::new(),
            signs,
            kind,
            bytes,
            size,
            rows: usize::MAX,
            end_of_text: end,
            frame_space,
            settings,
        })
    }

    /// Adds special tokens after the last entry, and gives the ids of all. One that the vocabulary has keeps its id, and
    /// is special from now on.
    ///
    /// # Errors
    /// When one is empty, or the vocabulary's ids have gaps.
    pub fn add_special_tokens(&mut self, tokens: &[&str]) -> Result<Vec<u32>> {
        ensure!(tokens.iter().all(|token| !token.is_empty()), "a special token is empty");
        let mut inner = quietly(|| self.inner.clone())?;
        quietly(|| inner.add_special_tokens(tokens.iter().map(|token| special(token))))?.map_err(|e| anyhow!("{e}"))?;
        let old = self.vocab_size() as u32;
        let ids: Option<Vec<u32>> = tokens.iter().map(|token| inner.token_to_id(token)).collect();
        let ids = ids.context("the special tokens could not be added")?;
        for (token, id) in tokens.iter().zip(&ids) {
            // The library counts entries, and would give an id twice where they have gaps.
            let before = self.token_id(token);
            ensure!(
                before.map_or(*id >= old, |before| before == *id),
                "{token} cannot be added: the ids of the vocabulary have gaps"
            );
        }
        let structure = Structure::of(&inner)?;
        Derived { signs: self.signs, bytes: self.bytes, size: self.size } = quietly(|| derived(&inner, &structure))??;
        self.end_of_text = self.end_of_text.or(inner.token_to_id(END_OF_TEXT));
        self.inner = inner;
        (self.plain, self.byte_pairs) = (OnceLock::new(), OnceLock::new());
        Ok(ids)
    }

    /// The id of a token, by its name in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The text of the special token for the use `name`, such as `bos_token`.
    pub fn special_token(&self, name: &str) -> Option<&str> {
        self.special_tokens().find(|(own, _)| *own == name).map(|(_, token)| token)
    }

    /// Uses and texts of special tokens, as templates see them.
    pub fn special_tokens(&self) -> impl Iterator<Item = (&str, &str)> {
        self.settings.names.iter().map(|(name, token)| (name.as_str(), token.as_str()))
    }

    /// The token that texts begin with, where the tokenizer names one.
    pub fn bos(&self) -> Option<u32> {
        self.token_id(self.special_token("bos_token")?)
    }

    /// The token that fills batches, where the tokenizer names one.
    pub fn pad(&self) -> Option<u32> {
        self.token_id(self.special_token("pad_token")?)
    }

    /// What the folder's `generation_config.json` says; empty where there is none.
    pub fn generation(&self) -> &Map<String, Value> {
        &self.settings.generation
    }

    /// How a dialogue is written, in Jinja; [`Tokenizer::save`] keeps it.
    pub fn chat_template(&self) -> Option<&str> {
        self.settings.templates.default.as_deref()
    }

    /// Where the chat template was found, for messages.
    pub(crate) fn template_place(&self) -> &str {
        match self.settings.templates.place.as_str() {
            "" => "the chat template",
            place => place,
        }
    }

    /// Names of the chat templates that are not the default.
    pub(crate) fn other_templates(&self) -> impl Iterator<Item = &str> {
        self.settings.templates.others.keys().map(String::as_str)
    }

    /// Sets how a dialogue is written.
    pub fn set_chat_template(&mut self, template: Option<String>) {
        self.settings.templates.default = template;
    }

    /// Has texts with tokens from `rows` on be refused: the model has no row for them.
    ///
    /// # Errors
    /// When the vocabulary itself, without what was added to it, has more entries.
    pub fn limit_to(&mut self, rows: usize) -> Result<()> {
        self.must_fit(rows)?;
        self.rows = rows;
        Ok(())
    }

    /// Refuses a model of `rows` rows that is not this tokenizer's.
    ///
    /// # Errors
    /// As [`Tokenizer::limit_to`].
    pub fn must_fit(&self, rows: usize) -> Result<()> {
        let own = self.inner.get_vocab(false).into_values().max().map_or(0, |id| id as usize + 1);
        ensure!(
            own <= rows,
            "the tokenizer has {own} entries, but the model has only {rows} embedding rows; use the tokenizer of this \
             model"
        );
        Ok(())
    }

    /// Refuses tokens for which the model has no row.
    fn must_have_rows(&self, ids: &[u32]) -> Result<()> {
        let Some(&id) = ids.iter().find(|&&id| id as usize >= self.rows) else { return Ok(()) };
        bail!(
            "the text contains the token {} ({id}), but the model has only {} embedding rows: the token was added to \
             the tokenizer after training; `gptkit sft` adds a row for it",
            self.inner.id_to_token(id).unwrap_or_default(),
            self.rows
        )
    }

    /// Has the file that [`Tokenizer::save`] writes put a text, or two, between the tokens of [`FRAME`], which the vocabulary
    /// has, for other libraries; [`Tokenizer::encode`] does not. Byte-level pairs read each text with a space before it from
    /// now on, there and in [`Tokenizer::encode_framed`], so that a word has the same tokens at a text's start and inside it.
    ///
    /// # Errors
    /// When the vocabulary lacks a token of the frame.
    pub fn set_frame(&mut self) -> Result<()> {
        let [start, delimiter, extract] = FRAME;
        let tokens: Option<Vec<(String, u32)>> =
            FRAME.iter().map(|&t| Some((t.to_owned(), self.token_id(t)?))).collect();
        let frame = TemplateProcessing::builder()
            .try_single(format!("{start} $A {extract}"))
            .and_then(|builder| builder.try_pair(format!("{start} $A {delimiter} $B {extract}")))
            .map_err(|e| anyhow!("{e}"))?
            .special_tokens(tokens.context("the vocabulary lacks a token of the input template")?)
            .build()
            .map_err(|e| anyhow!("{e}"))?;
        self.inner.with_post_processor(Some(frame));
        self.frame_space = self.kind == TokenEncoding::ByteLevel;
        Ok(())
    }

    /// What the decoder may still change of a text that grows.
    pub(crate) fn unsettled(&self) -> Unsettled {
        self.unsettled
    }

    /// Entries, special tokens included; ids are below it.
    pub fn vocab_size(&self) -> usize {
        // Ids need not be dense: what a model must have room for is one more than the largest.
        self.size
    }

    /// The token that ends a text, if there is one.
    pub fn end_of_text(&self) -> Option<u32> {
        self.end_of_text
    }

    /// Whether a token is a sign, not text.
    pub fn is_special(&self, id: u32) -> bool {
        self.signs.contains_key(&id)
    }

    /// The token between documents: the end of text, or the line break that GPT-1's vocabulary has
    /// (BooksCorpus's documents are whole books, and the paper names no separator).
    pub fn document_end(&self) -> Option<u32> {
        self.end_of_text.or_else(|| self.inner.token_to_id("\n</w>"))
    }

    /// Where documents are cut into pieces.
    pub(crate) fn cut(&self) -> CutPoint {
        if self.kind == TokenEncoding::Char { CutPoint::Anywhere } else { CutPoint::Words }
    }

    /// Whether such pieces have by themselves the tokens that they have in the document; see [`crate::stitch`].
    pub(crate) fn cuts_surely(&self) -> bool {
        self.kind == TokenEncoding::Char || self.cuts_at_words
    }

    /// The library's tokenizer, which takes the names of special tokens for these tokens, or for text like any other.
    fn library(&self, reads_special: bool) -> Result<&Inner> {
        if reads_special {
            return Ok(&self.inner);
        }
        if let Some(plain) = self.plain.get() {
            return Ok(plain);
        }
        let mut plain = quietly(|| self.inner.clone())?;
        plain.set_encode_special_tokens(true);
        Ok(self.plain.get_or_init(|| plain))
    }

    /// Makes what encodes texts now, and not when the first text is encoded.
    pub fn make_encoder(&self) {
        self.byte_pairs();
    }

    /// The encoder that gives the ids of the library in less time, for the kinds of tokenizers that it can.
    fn byte_pairs(&self) -> Option<&BytePairs> {
        let make = || (self.kind == TokenEncoding::ByteLevel).then(|| BytePairs::of(&self.inner)).flatten();
        self.byte_pairs.get_or_init(make).as_ref()
    }

    /// Whether a vocabulary may lack characters.
    pub(crate) fn may_lose(&self) -> bool {
        self.may_lose
    }

    /// Whether all ids that both have belong to the same token; a stage may have added some to one of them.
    pub fn agrees_with(&self, other: &Self) -> bool {
        let both = self.vocab_size().min(other.vocab_size()) as u32;
        (0..both).all(|id| self.inner.id_to_token(id) == other.inner.id_to_token(id))
    }

    /// `tokenizer.json`, in one line.
    fn to_json(&self) -> Result<String> {
        quietly(|| self.inner.to_string(false))?.map_err(|e| anyhow!("{e}"))
    }

    /// The same for tokenizers that do the same, whatever file they came from.
    ///
    /// # Errors
    /// When the tokenizer has no form as JSON.
    pub fn fingerprint(&self) -> Result<String> {
        let json = self.to_json()?;
        let text = format!("{json} {:?}", self.document_end());
        Ok(blake3::hash(text.as_bytes()).to_hex()[..16].to_owned())
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json`, chat templates and special tokens in it, into `folder`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let json = quietly(|| match self.frame_space {
            true => self.inner.clone().with_pre_tokenizer(Some(byte_level_with_space())).to_string(true),
            false => self.inner.to_string(true),
        })?;
        let json = json.map_err(|e| anyhow!("{e}"))?;
        disk::write(&folder.join("tokenizer.json"), json.as_bytes())?;
        let mut config = self.settings.to_json();
        if self.frame_space {
            config["add_prefix_space"] = json!(true); // transformers goes by this, not by tokenizer.json
        }
        disk::write_json(&folder.join(CONFIG), &config)
    }
}

/// Why the library failed on a text.
fn failed(panicked: &Panicked) -> anyhow::Error {
    let words = panicked.to_string();
    if words.contains("limit") {
        return anyhow!(
            "a regular expression of the tokenizer takes too long on the text; use another tokenizer ({words})"
        );
    }
    anyhow!("the tokenizer failed on the text; its tokenizer.json is damaged ({words})")
}
