//! Text ↔ token ids: load, train, encode, decode, through Hugging Face's `tokenizers`.

use crate::decoder::{self, Unsettled};
use crate::folder_tokens::{CONFIG, Class, FolderTokens, TextSettings};
use crate::losses::Losses;
use crate::progress::Progress;
use crate::quiet::{Panicked, quietly};
use crate::text::CutPoint;
use crate::{adapter, disk, outline};
use anyhow::{Context, Result, anyhow, bail, ensure};
use gptkit_config::{Check, Problems};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, Once, PoisonError};
use tokenizers::decoders::bpe::BPEDecoder;
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::models::{ModelWrapper, TrainerWrapper};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{
    AddedToken, Model, NormalizedString, Normalizer, OffsetReferential, OffsetType, PostProcessor,
    PostProcessorWrapper, PreTokenizedString, PreTokenizer, Tokenizer as Inner,
};

pub use crate::decoder::Decoder;

/// The token between documents, as GPT-2 calls it.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Special tokens around the texts that a classifier reads (Radford et al. 2018, §3.3): before the first text, between two,
/// and after the last, where the head reads.
pub const FRAME: [&str; 3] = ["<|start|>", "<|delimiter|>", "<|extract|>"];
/// Entries of a trained byte-level vocabulary where the configuration leaves them open.
const DEFAULT_VOCAB: usize = 8192;
/// The fewest a byte-level vocabulary can have: each byte, and the end of a text.
const FEWEST: usize = 257;

/// Where a model's tokens come from; TOML section `[tokenizer]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenizerConfig {
    /// A tokenizer to load: `tokenizer.json`, or a folder with it or with GPT-1's or GPT-2's own files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// What to train on the text when none is loaded; byte-level pairs when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<TokenizerKind>,
    /// Entries of a trained vocabulary; not for characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocab_size: Option<usize>,
}

/// What can be trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenizerKind {
    /// Byte-level pair encoding (Radford et al. 2019, §2.2).
    Bpe,
    /// One token a character.
    Char,
}

impl FromStr for TokenizerKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "bpe" => Ok(Self::Bpe),
            "char" => Ok(Self::Char),
            _ => Err("use bpe or char".to_owned()),
        }
    }
}

impl TokenizerConfig {
    /// The tokenizer that lies at `path`.
    pub fn load_from(path: &Path) -> Self {
        Self { path: Some(path.to_owned()), ..Self::default() }
    }

    /// What is trained when none is loaded.
    pub fn kind(&self) -> TokenizerKind {
        self.train.unwrap_or(TokenizerKind::Bpe)
    }
}

impl Check for TokenizerConfig {
    fn check(&self, problems: &mut Problems) {
        if let Some(path) = &self.path {
            problems.require(path.exists(), "path", "does not exist", "name a tokenizer.json, or a folder with one");
            problems.require(self.train.is_none(), "train", "stands beside a path", "keep one of them");
            problems.require(self.vocab_size.is_none(), "vocab_size", "stands beside a path", "it is the file's");
        }
        match (self.kind(), self.vocab_size) {
            (TokenizerKind::Char, Some(_)) => {
                problems.add("vocab_size", "is as large as the text has characters", "remove it")
            }
            (_, Some(n)) if n > outline::MOST_ENTRIES => {
                let most = outline::MOST_ENTRIES;
                problems.add("vocab_size", "is larger than any vocabulary", format!("use at most {most}"));
            }
            (TokenizerKind::Bpe, Some(n)) if n < FEWEST => {
                problems.add(
                    "vocab_size",
                    "has no room for 256 bytes and the end of text",
                    format!("use {FEWEST} or more"),
                );
            }
            _ => {}
        }
    }
}

/// How tokens stand for text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenEncoding {
    /// Pieces of bytes, GPT-2's way: any bytes have tokens, and come back exactly.
    ByteLevel,
    /// Single characters.
    Char,
    /// Words cut at white space and punctuation, GPT-1's way.
    Words,
    /// Any other `tokenizer.json`.
    Other,
}

/// A tokenizer.
pub struct Tokenizer {
    inner: Inner,
    /// The same, but for text that is nothing but text: `<|endoftext|>` in a document is thirteen characters, so that
    /// no document can fake its own end.
    plain: Inner,
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
    /// The token in the place of what the vocabulary lacks.
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
    /// Reads the tokenizer at `path`: a `tokenizer.json`, or a folder that has it, or GPT-2's files (`vocab.json` and
    /// `merges.txt`, or `encoder.json` and `vocab.bpe`), or GPT-1's (the same as GPT-2's first two where the folder says that
    /// it is GPT-1's, or `encoder_bpe_40000.json` and `vocab_40000.bpe`). Special tokens, their uses and chat templates are
    /// those of the files beside it, as transformers reads them.
    ///
    /// # Errors
    /// When no such file is there, or one is damaged.
    pub fn load(path: &Path) -> Result<Self> {
        let path = adapter::tokenizer_folder(path)?; // of adapters without a tokenizer, their base's
        let path = path.as_path();
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
        let tokens = FolderTokens::read(folder)?;
        let mut inner = read_vocabulary(path, folder, &tokens)?;
        let tokenizer = quietly(|| tokens.add_to(&mut inner))?.and_then(|()| {
            inner.set_encode_special_tokens(tokens.split_special_tokens);
            Self::new(inner, tokens)
        });
        tokenizer.with_context(|| format!("the tokenizer in {}", path.display()))
    }

    /// Learns byte-level pairs from `texts` until the vocabulary has `vocab_size` entries, the end of text among them;
    /// fewer when the texts have no more pairs.
    ///
    /// # Errors
    /// When the texts hold nothing.
    pub fn train_bpe(vocab_size: Option<usize>, texts: impl Iterator<Item = String> + Send) -> Result<Self> {
        let vocab_size = vocab_size.unwrap_or(DEFAULT_VOCAB).clamp(FEWEST, outline::MOST_ENTRIES);
        let mut inner = Inner::new(BPE::default());
        inner.with_pre_tokenizer(Some(byte_level())).with_decoder(Some(ByteLevelDecoder::default()));
        let mut trainer: TrainerWrapper = BpeTrainerBuilder::new()
            .show_progress(false)
            // The end of text is added after training, so that its id is the last, as GPT-2's is.
            .vocab_size(vocab_size - 1)
            .initial_alphabet(byte_characters().into())
            .build()
            .into();
        let texts = texts.flat_map(|text| in_short_words(&text).map(str::to_owned).collect::<Vec<_>>());
        inner.train(&mut trainer, texts).map_err(|e| anyhow!("training a tokenizer: {e}"))?;
        add_end_of_text(&mut inner)?;
        Self::new(inner, FolderTokens::default())
    }

    /// One token for each of `characters`, in their order, and the end of text.
    ///
    /// # Errors
    /// When there is none.
    pub fn of_characters(characters: &BTreeSet<char>) -> Result<Self> {
        ensure!(!characters.is_empty(), "the text has no characters");
        let vocab: tokenizers::models::bpe::Vocab =
            characters.iter().enumerate().map(|(i, c)| (c.to_string(), i as u32)).collect();
        let model = BPE::builder().vocab_and_merges(vocab, Vec::new()).build();
        let mut inner = Inner::new(model.map_err(|e| anyhow!("{e}"))?);
        inner.with_decoder(Some(Fuse::new()));
        add_end_of_text(&mut inner)?;
        Self::new(inner, FolderTokens::default())
    }

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
        let Derived { plain, signs, bytes, size } = quietly(|| derived(&inner, &structure))??;
        Ok(Self {
            unsettled: Unsettled::of(&structure.decoder),
            cuts_at_words: matches!(kind, TokenEncoding::ByteLevel | TokenEncoding::Words) && !structure.adds_phrases(),
            may_lose: kind != TokenEncoding::Char && structure.may_lose(&inner),
            unknown: structure.unknown(&inner),
            word_sign: inner.token_to_id(WORD_SIGN),
            dropped: Mutex::default(),
            losses: Mutex::default(),
            inner,
            plain,
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
        let ids = ids.context("special tokens were not added")?;
        for (token, id) in tokens.iter().zip(&ids) {
            // The library counts entries, and would give an id twice where they have gaps.
            let before = self.token_id(token);
            ensure!(
                before.map_or(*id >= old, |before| before == *id),
                "{token} cannot be added: the vocabulary's ids have gaps"
            );
        }
        let structure = Structure::of(&inner)?;
        Derived { plain: self.plain, signs: self.signs, bytes: self.bytes, size: self.size } =
            quietly(|| derived(&inner, &structure))??;
        self.end_of_text = self.end_of_text.or(inner.token_to_id(END_OF_TEXT));
        self.inner = inner;
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
        ensure!(own <= rows, "the tokenizer has {own} entries, the model only {rows}; the two do not belong together");
        Ok(())
    }

    /// Refuses tokens for which the model has no row.
    fn must_have_rows(&self, ids: &[u32]) -> Result<()> {
        let Some(&id) = ids.iter().find(|&&id| id as usize >= self.rows) else { return Ok(()) };
        bail!(
            "the text has the token {} ({id}), and the model has only {} rows: the token was added to the tokenizer, and the \
             model was never trained with it; gptkit sft gives it a row",
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
            .special_tokens(tokens.context("the vocabulary lacks a token of the frame")?)
            .build()
            .map_err(|e| anyhow!("{e}"))?;
        self.inner.with_post_processor(Some(frame));
        self.frame_space = self.kind == TokenEncoding::ByteLevel;
        Ok(())
    }

    /// Tokens of one of the texts that stand between the tokens of [`FRAME`]; special tokens' names in it are nothing but
    /// text.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_framed(&self, text: &str) -> Result<Vec<u32>> {
        if self.frame_space && !text.starts_with(' ') {
            return self.encode_document(&format!(" {text}"));
        }
        self.encode_document(text)
    }

    /// Tokens of `text`, as the reference gives them: names of special tokens in it become those tokens.
    ///
    /// # Errors
    /// When a character has no token in a vocabulary of characters.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_with(&self.inner, text)
    }

    /// Tokens of a text that a model goes on with, as transformers' tokenizer gives them: with what the tokenizer puts around
    /// a text, such as the token that begins it. What stands around the texts of a classifier is not for this.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        let framed = FRAME.iter().all(|token| self.token_id(token).is_some());
        if framed || !matches!(self.inner.get_post_processor(), Some(processor) if processor.added_tokens(false) > 0) {
            return self.encode(text);
        }
        let encoding = quietly(|| self.inner.encode_fast(text, true)).map_err(|panicked| failed(&panicked))?;
        let ids = encoding.map_err(|e| anyhow!("text cannot be encoded: {e}"))?.get_ids().to_vec();
        self.must_have_rows(&ids)?;
        Ok(ids)
    }

    /// Tokens of `text` as part of a document: special tokens' names in it are nothing but text.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_document(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_with(&self.plain, text)
    }

    /// Tokens of a rendered dialogue, each with its place in `text`, in bytes. Names of special tokens within `contents`, which
    /// are in order, are nothing but text.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub(crate) fn encode_dialogue(&self, text: &str, contents: &[Range<usize>]) -> Result<Vec<(u32, Range<usize>)>> {
        let tokens = self.encode_places(&self.inner, text)?;
        let sign = |(id, place): &(u32, Range<usize>)| -> Option<Range<usize>> {
            let name = self.signs.get(id)?;
            let start = place.start + text.get(place.clone())?.find(name.as_str())?; // it may have taken spaces around it
            Some(start..start + name.len())
        };
        let is_said = |sign: &Range<usize>| {
            let at = contents.partition_point(|range| range.end <= sign.start);
            contents.get(at).is_some_and(|range| range.start < sign.end)
        };
        let (said, written): (Vec<_>, Vec<_>) =
            tokens.iter().filter_map(|token| Some((token, sign(token)?))).partition(|(_, sign)| is_said(sign));
        if said.is_empty() {
            return Ok(tokens);
        }
        // Between the signs that the template wrote, all is text.
        let mut all = Vec::new();
        let mut at = 0;
        let add_text = |all: &mut Vec<(u32, Range<usize>)>, from: usize, to: usize| -> Result<()> {
            let between = self.encode_places(&self.plain, &text[from..to])?;
            all.extend(between.into_iter().map(|(id, place)| (id, place.start + from..place.end + from)));
            Ok(())
        };
        for (token, _) in written {
            add_text(&mut all, at, token.1.start)?;
            all.push(token.clone());
            at = token.1.end;
        }
        add_text(&mut all, at, text.len())?;
        Ok(all)
    }

    fn encode_places(&self, inner: &Inner, text: &str) -> Result<Vec<(u32, Range<usize>)>> {
        let tokens = spans(inner, text)?;
        let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
        self.must_know(text, &ids)?;
        if self.may_lose {
            let losses = self.losses_in(inner, text, &ids)?;
            self.losses.lock().unwrap_or_else(PoisonError::into_inner).merge(&losses);
        }
        Ok(tokens.into_iter().map(|Spanned { id, start, end }| (id, start..end)).collect())
    }

    /// Tokens of any bytes. What is not UTF-8 has tokens in the byte-level kind only, one a byte.
    ///
    /// # Errors
    /// When a byte has no token.
    pub fn encode_bytes(&self, bytes: &[u8]) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for chunk in bytes.utf8_chunks() {
            ids.extend(self.encode(chunk.valid())?);
            for &byte in chunk.invalid() {
                let id = self.bytes.iter().flatten().position(|b| b == &[byte]);
                let id = id.with_context(|| {
                    format!("byte {byte:#04x} is not UTF-8, and this tokenizer has no token for it")
                })?;
                ids.push(id as u32);
            }
        }
        Ok(ids)
    }

    fn encode_with(&self, inner: &Inner, text: &str) -> Result<Vec<u32>> {
        let encoding = quietly(|| inner.encode_fast(text, false)).map_err(|panicked| failed(&panicked))?;
        let ids = encoding.map_err(|e| anyhow!("text cannot be encoded: {e}"))?.get_ids().to_vec();
        self.must_know(text, &ids)?;
        if self.may_lose {
            let losses = self.losses_in(inner, text, &ids)?;
            self.losses.lock().unwrap_or_else(PoisonError::into_inner).merge(&losses);
        }
        Ok(ids)
    }

    /// Refuses characters that have no token in a vocabulary of characters, and tokens for which the model has no row.
    fn must_know(&self, text: &str, ids: &[u32]) -> Result<()> {
        if self.kind == TokenEncoding::Char && self.decode(ids)?.len() != text.len() {
            // The library drops characters that it does not know.
            let unknown = text.chars().find(|c| self.inner.token_to_id(c.encode_utf8(&mut [0; 4])).is_none());
            bail!(
                "the character {:?} is not among the {} that this tokenizer was made from",
                unknown.unwrap_or_default(),
                self.vocab_size()
            );
        }
        self.must_have_rows(ids)
    }

    /// Tokens of `text` as [`Tokenizer::encode_document`] gives them, with the bytes that they stand for.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub(crate) fn encode_spans(&self, text: &str) -> Result<Vec<Spanned>> {
        let tokens = spans(&self.plain, text)?;
        self.must_know(text, &tokens.iter().map(|token| token.id).collect::<Vec<_>>())?;
        Ok(tokens)
    }

    /// Characters of `text`, a part of a document with the tokens `ids`, that have no token.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub(crate) fn losses_in_document(&self, text: &str, ids: &[u32]) -> Result<Losses> {
        self.losses_in(&self.plain, text, ids)
    }

    fn losses_in(&self, inner: &Inner, text: &str, ids: &[u32]) -> Result<Losses> {
        let mut losses = Losses { of: text.chars().count() as u64, ..Losses::default() };
        let is_whole = self.unknown.is_some_and(|unknown| !ids.contains(&unknown));
        if !self.may_lose || is_whole {
            return Ok(losses);
        }
        let mut covered = 0;
        for Spanned { id, start, end } in spans(inner, text)? {
            let gap = text.get(covered..start).unwrap_or_default();
            losses.add(self.lost_in(gap, id, text.get(start..end).unwrap_or_default()), 0);
            covered = covered.max(end);
        }
        losses.add(self.dropped_from(text.get(covered..).unwrap_or_default()), 0);
        Ok(losses)
    }

    /// Characters that are lost in `gap`, which no token stands for, and in the token `id`, which stands for `own`.
    pub(crate) fn lost_in(&self, gap: &str, id: u32, own: &str) -> Vec<char> {
        let mut lost = self.dropped_from(gap);
        // The sign of a word's beginning has the place of the word's first character, even if that one has no token.
        if self.word_sign == Some(id) {
            lost.extend(self.dropped_from(own));
        }
        if self.unknown == Some(id) {
            lost.extend(own.chars().filter(|c| !c.is_whitespace()));
        }
        lost
    }

    /// Characters of `gap`, which no token stands for, that the vocabulary lacks. Others were left out on purpose, as white
    /// space is that only divides words.
    pub(crate) fn dropped_from(&self, gap: &str) -> Vec<char> {
        if !self.may_lose || gap.is_empty() {
            return Vec::new();
        }
        let mut known = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        let is_dropped = |c: &char| *known.entry(*c).or_insert_with(|| lacks(&self.inner, *c).unwrap_or(false));
        gap.chars().filter(is_dropped).collect()
    }

    /// Characters that were lost in the texts encoded since the last call; `what` they were is said in a warning.
    pub fn warn_of_losses(&self, what: &str, progress: &dyn Progress) {
        self.take_losses().warn(what, progress);
    }

    /// The same for texts that a model is trained on.
    ///
    /// # Errors
    /// When more than half of their characters were lost.
    pub fn check_losses(&self, what: &str, progress: &dyn Progress) -> Result<()> {
        self.take_losses().check(what, progress)
    }

    /// Characters that were lost in the texts encoded since the last call.
    pub fn take_losses(&self) -> Losses {
        std::mem::take(&mut *self.losses.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The bytes that `ids` stand for, exactly those that were encoded where tokens stand for bytes.
    ///
    /// # Errors
    /// When an id is not in the vocabulary.
    pub fn decode_bytes(&self, ids: &[u32]) -> Result<Vec<u8>> {
        if let Some(id) = ids.iter().find(|&&id| self.inner.id_to_token(id).is_none()) {
            bail!("{id} is not a token: the vocabulary has {} entries", self.vocab_size());
        }
        match &self.bytes {
            Some(bytes) => Ok(ids.iter().flat_map(|&id| &bytes[id as usize]).copied().collect()),
            None => Ok(self.library_text(ids)?.into_bytes()),
        }
    }

    /// The text that `ids` stand for, with U+FFFD where their bytes are none.
    ///
    /// # Errors
    /// When an id is not in the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.decode_bytes(ids)?).into_owned())
    }

    /// What one token stands for, to be looked at.
    pub fn token_text(&self, id: u32) -> String {
        match self.bytes.as_ref().and_then(|bytes| bytes.get(id as usize)) {
            Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            None => self.token_name(id).unwrap_or_default(),
        }
    }

    /// Decodes token by token what follows `prompt`.
    pub fn decoder(&self, prompt: &[u32]) -> Decoder<'_> {
        Decoder::new(self, prompt)
    }

    /// The text that the library gives for `ids`, of which those without a token are left out.
    pub(crate) fn library_text(&self, ids: &[u32]) -> Result<String> {
        if ids.iter().all(|&id| self.inner.id_to_token(id).is_none()) {
            return Ok(String::new()); // GPT-1's decoder subtracts one from nothing
        }
        let text = quietly(|| self.inner.decode(ids, false)).map_err(|panicked| failed(&panicked))?;
        text.map_err(|e| anyhow!("tokens cannot be decoded: {e}"))
    }

    /// The name of a token in the vocabulary.
    pub fn token_name(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether each token stands for bytes, whatever stands beside it.
    pub(crate) fn joins_bytes(&self) -> bool {
        self.bytes.is_some()
    }

    /// The bytes of a token, where it [stands for bytes](Tokenizer::joins_bytes).
    pub(crate) fn bytes_of(&self, id: u32) -> &[u8] {
        self.bytes.as_ref().and_then(|bytes| bytes.get(id as usize)).map_or(&[], Vec::as_slice)
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

    /// The token that stands between documents: the end of text, or the line break that GPT-1's vocabulary has
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

    /// Whether a vocabulary may lack characters.
    pub(crate) fn may_lose(&self) -> bool {
        self.may_lose
    }

    /// Whether all ids that both have stand for the same token; a stage may have added some to one of them.
    pub fn agrees_with(&self, other: &Self) -> bool {
        let both = self.vocab_size().min(other.vocab_size()) as u32;
        (0..both).all(|id| self.inner.id_to_token(id) == other.inner.id_to_token(id))
    }

    /// The same for tokenizers that do the same, whatever file they came from.
    ///
    /// # Errors
    /// When the tokenizer has no form as JSON.
    pub fn fingerprint(&self) -> Result<String> {
        let json = quietly(|| self.inner.to_string(false))?.map_err(|e| anyhow!("{e}"))?;
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
        let text = serde_json::to_string_pretty(&config)? + "\n";
        disk::write(&folder.join(CONFIG), text.as_bytes())
    }
}

/// A token and the bytes of the text that it stands for, from `start` to before `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spanned {
    pub(crate) id: u32,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

fn spans(inner: &Inner, text: &str) -> Result<Vec<Spanned>> {
    let encoding = quietly(|| inner.encode(text, false)).map_err(|panicked| failed(&panicked))?;
    let encoding = encoding.map_err(|e| anyhow!("text cannot be encoded: {e}"))?;
    let tokens = encoding.get_ids().iter().zip(encoding.get_offsets());
    Ok(tokens.map(|(&id, &(start, end))| Spanned { id, start, end }).collect())
}

/// What stands for white space in SentencePiece's vocabularies.
const WORD_SIGN: &str = "\u{2581}";

/// Whether the model is given `c` and has no token for it, nor for what the normalizer makes of it.
fn lacks(inner: &Inner, c: char) -> Result<bool> {
    let mut text = NormalizedString::from(c.to_string());
    quietly(|| inner.get_normalizer().map_or(Ok(()), |n| n.normalize(&mut text)))?.map_err(|e| anyhow!("{e}"))?;
    let mut text = PreTokenizedString::from(text);
    quietly(|| inner.get_pre_tokenizer().map_or(Ok(()), |p| p.pre_tokenize(&mut text)))?.map_err(|e| anyhow!("{e}"))?;
    let left = text.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
    let left: Vec<char> = left.iter().flat_map(|(text, _, _)| text.chars()).collect();
    // The sign of a word's beginning is put before any character.
    let own: Vec<char> = left.iter().copied().filter(|&c| !WORD_SIGN.contains(c) && c != ' ').collect();
    let given = if own.is_empty() { left } else { own };
    let has_token = |c: &char| inner.token_to_id(c.encode_utf8(&mut [0; 4])).is_some();
    Ok(!given.is_empty() && !given.iter().any(has_token))
}

/// Has every text get the same tokens each time: a dropout of merges is for training other models than ours.
fn switch_dropout_off(inner: &mut Inner) {
    if let ModelWrapper::BPE(model) = inner.get_model()
        && model.dropout.is_some()
    {
        let mut model = model.clone();
        model.dropout = None;
        inner.with_model(model);
    }
}

/// The parts of a tokenizer as `tokenizer.json` has them.
struct Structure {
    pre_tokenizer: Value,
    model: Value,
    decoder: Value,
    added: Vec<AddedToken>,
}

impl Structure {
    fn of(inner: &Inner) -> Result<Self> {
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
    fn adds_phrases(&self) -> bool {
        let inside = |text: &str| text.trim_start().contains(char::is_whitespace);
        self.added.iter().any(|token| !token.special && (token.rstrip || inside(&token.content)))
    }

    /// Whether there may be characters without a token.
    fn may_lose(&self, inner: &Inner) -> bool {
        let last = decoder::steps(&self.pre_tokenizer, "pretokenizers").last().copied();
        let of_bytes = last.is_some_and(|step| step["type"] == "ByteLevel");
        let falls_back = self.model["byte_fallback"] == true;
        let has_byte = |byte: u8| inner.token_to_id(&format!("<0x{byte:02X}>")).is_some();
        !(of_bytes && has_all_bytes(inner) || falls_back && (0..=255).all(has_byte))
    }

    fn unknown(&self, inner: &Inner) -> Option<u32> {
        let named = self.model["unk_token"].as_str().and_then(|token| inner.token_to_id(token));
        named.or_else(|| self.model["unk_id"].as_u64().map(|id| id as u32))
    }
}

fn has_all_bytes(inner: &Inner) -> bool {
    byte_characters().iter().all(|c| inner.get_model().token_to_id(c.encode_utf8(&mut [0; 4])).is_some())
}

/// What follows from a tokenizer.
struct Derived {
    /// The same for text that is nothing but text.
    plain: Inner,
    /// Texts of special tokens by id.
    signs: HashMap<u32, String>,
    /// Bytes of each token.
    bytes: Option<Vec<Vec<u8>>>,
    /// One more than the largest id.
    size: usize,
}

fn derived(inner: &Inner, structure: &Structure) -> Result<Derived> {
    let mut plain = inner.clone();
    plain.set_encode_special_tokens(true);
    let entries = inner.get_vocab(true);
    let largest = entries.iter().max_by_key(|(_, id)| **id);
    if let Some((entry, &id)) = largest {
        outline::within("an entry", u64::from(id), entry)?;
    }
    let size = largest.map_or(0, |(_, &id)| id as usize + 1);
    let bytes = decoder::joins_bytes(&structure.decoder).then(|| token_bytes(entries, size));
    let added = inner.get_added_tokens_decoder().into_iter();
    let signs = added.filter(|(_, token)| inner.get_added_vocabulary().is_special_token(&token.content));
    let signs = signs.map(|(id, token)| (id, token.content)).collect();
    Ok(Derived { plain, signs, bytes, size })
}

/// Why the library failed on a text.
fn failed(panicked: &Panicked) -> anyhow::Error {
    let words = panicked.to_string();
    if words.contains("limit") {
        return anyhow!("a pattern of the tokenizer takes too long on the text; use another tokenizer ({words})");
    }
    anyhow!("the tokenizer fails on the text; its tokenizer.json is damaged ({words})")
}

fn byte_level() -> ByteLevel {
    ByteLevel::new(false, true, true)
}

/// The same with a space before each text that has none.
fn byte_level_with_space() -> ByteLevel {
    ByteLevel::new(true, true, true)
}

/// Whether `inner` reads texts between the tokens of [`FRAME`] with a space before them, as a classifier's does. The space
/// is taken from `inner`, since text of other kinds is read without it.
fn take_frame_space(inner: &mut Inner) -> bool {
    let framed = matches!(inner.get_post_processor(), Some(PostProcessorWrapper::Template(_)));
    let spaced =
        matches!(inner.get_pre_tokenizer(), Some(PreTokenizerWrapper::ByteLevel(b)) if *b == byte_level_with_space());
    let found = framed && spaced && FRAME.iter().all(|token| inner.token_to_id(token).is_some());
    if found {
        inner.with_pre_tokenizer(Some(byte_level()));
    }
    found
}

fn special(token: &str) -> AddedToken {
    AddedToken::from(token, true)
}

fn add_end_of_text(inner: &mut Inner) -> Result<()> {
    inner.add_special_tokens([special(END_OF_TEXT)]).map_err(|e| anyhow!("{e}"))?;
    Ok(())
}

fn read_json(path: &Path) -> Result<Inner> {
    ensure!(path.exists(), "{} does not exist", path.display());
    let text = disk::read_description(path)?;
    limit_patterns();
    let read = outline::check(&text).and_then(|()| {
        let read = quietly(|| Inner::from_str(&text)).map_err(|panicked| anyhow!("it is damaged ({panicked})"))?;
        read.map_err(|e| anyhow!("{e}"))
    });
    read.with_context(|| format!("{} is not a tokenizer", path.display()))
}

/// Has every pattern of a tokenizer end in an error where it would take minutes on a word, or gigabytes.
pub(crate) fn limit_patterns() {
    /// Times that a pattern may go back and try again at one place; 10 million in the library.
    const RETRIES: std::ffi::c_ulong = 1_000_000;
    /// Places that it may remember to go back to, of about 50 bytes each: more than the longest piece of text has.
    const PLACES: std::ffi::c_uint = 4_000_000;
    /// Brackets in brackets; 4096 in the library, whose parser then overflows a thread's stack.
    const DEPTH: std::ffi::c_uint = 250;
    static ONCE: Once = Once::new();
    // SAFETY: each call sets a number that the library reads when a match begins; nothing else of ours sets them.
    ONCE.call_once(|| unsafe {
        onig_sys::onig_set_retry_limit_in_match(RETRIES);
        onig_sys::onig_set_match_stack_limit_size(PLACES);
        onig_sys::onig_set_parse_depth_limit(DEPTH);
    });
}

/// Longest word that a vocabulary is learned from, in characters. Each merge looks at whole words, so that the time for one
/// word grows with the square of its length.
pub const LONGEST_LEARNED_WORD: usize = 256;

/// `text` in parts: whole where all words are short, else cut within each word that is longer than
/// [`LONGEST_LEARNED_WORD`]. A word here is a run of letters, of digits, of white space or of other signs, as GPT-2's
/// pattern has them.
pub(crate) fn in_short_words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let at = first_cut(rest).unwrap_or(rest.len());
        let part;
        (part, rest) = rest.split_at(at);
        (!part.is_empty()).then_some(part)
    })
}

/// Where the first word of `text` that is too long is cut.
fn first_cut(text: &str) -> Option<usize> {
    let (mut last, mut length) = (None, 0);
    for (at, c) in text.char_indices() {
        let kind = (c.is_alphabetic(), c.is_numeric(), c.is_whitespace());
        length = if last == Some(kind) { length + 1 } else { 1 };
        last = Some(kind);
        if length > LONGEST_LEARNED_WORD {
            return Some(at);
        }
    }
    None
}

/// The vocabulary at `path`, in the first of the forms that [`Tokenizer::load`] names.
fn read_vocabulary(path: &Path, folder: &Path, tokens: &FolderTokens) -> Result<Inner> {
    let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
    let named = |vocab: &str, merges: &str| {
        let files = (folder.join(vocab), folder.join(merges));
        // A path that names one of the two files means both.
        let meant = path.is_dir() || path == files.0 || path == files.1;
        (meant && (files.0.exists() || files.1.exists())).then_some(files)
    };
    if path.is_dir() && file.exists() {
        return with_prefix_space(read_json(&file)?, tokens);
    }
    if let Some((vocab, merges)) = named("vocab.json", "merges.txt") {
        return if tokens.class == Class::Gpt1 { gpt1(&vocab, &merges) } else { gpt2(&vocab, &merges, tokens) };
    }
    if let Some((vocab, merges)) = named("encoder.json", "vocab.bpe") {
        return gpt2(&vocab, &merges, tokens);
    }
    if let Some((vocab, merges)) = named("encoder_bpe_40000.json", "vocab_40000.bpe") {
        return gpt1(&vocab, &merges);
    }
    ensure!(
        file.exists(),
        "{} holds no tokenizer: tokenizer.json, vocab.json with merges.txt, encoder.json with vocab.bpe, or \
         encoder_bpe_40000.json with vocab_40000.bpe",
        path.display()
    );
    with_prefix_space(read_json(&file)?, tokens)
}

/// The same, with a space before each text where the class of the folder's tokenizer decides it, and not its file.
fn with_prefix_space(mut inner: Inner, tokens: &FolderTokens) -> Result<Inner> {
    if let (Class::Gpt2, Some(PreTokenizerWrapper::ByteLevel(pre))) = (tokens.class, inner.get_pre_tokenizer()) {
        let pre = ByteLevel::new(tokens.add_prefix_space, pre.trim_offsets, pre.use_regex);
        inner.with_pre_tokenizer(Some(pre));
    }
    Ok(inner)
}

/// GPT-2's vocabulary and merges.
fn gpt2(vocab: &Path, merges: &Path, tokens: &FolderTokens) -> Result<Inner> {
    let mut inner = Inner::new(bpe(vocab, merges, |builder| builder)?);
    inner
        .with_pre_tokenizer(Some(ByteLevel::new(tokens.add_prefix_space, true, true)))
        .with_post_processor(Some(ByteLevel::new(true, false, true)))
        .with_decoder(Some(ByteLevelDecoder::default()));
    // Where a folder names its own end, another one would be an entry that its model has no row for.
    if inner.token_to_id(END_OF_TEXT).is_some() || !tokens.names_an_end() {
        add_end_of_text(&mut inner)?;
    }
    tokens.frame(&mut inner)?;
    Ok(inner)
}

/// GPT-1's vocabulary and merges: lower case, accents taken off, punctuation apart, words end in `</w>`.
fn gpt1(vocab: &Path, merges: &Path) -> Result<Inner> {
    let model =
        bpe(vocab, merges, |builder| builder.unk_token("<unk>".to_owned()).end_of_word_suffix("</w>".to_owned()))?;
    let mut inner = Inner::new(model);
    inner.with_normalizer(Some(BertNormalizer::default())).map_err(|e| anyhow!("{e}"))?;
    inner.with_pre_tokenizer(Some(BertPreTokenizer)).with_decoder(Some(BPEDecoder::new("</w>".to_owned())));
    inner.add_special_tokens([special("<unk>")]).map_err(|e| anyhow!("{e}"))?;
    Ok(inner)
}

fn bpe(
    vocab: &Path,
    merges: &Path,
    settings: impl FnOnce(tokenizers::models::bpe::BpeBuilder) -> tokenizers::models::bpe::BpeBuilder,
) -> Result<BPE> {
    for path in [vocab, merges] {
        ensure!(path.exists(), "{} does not exist; it goes with {}", path.display(), vocab.display());
        disk::open(path)?;
    }
    let (vocab_text, merges_text) = (vocab.to_string_lossy(), merges.to_string_lossy());
    let checked = outline::check_vocabulary(&disk::read_description(vocab)?);
    let read = checked.and_then(|()| {
        let read = quietly(|| settings(BPE::from_file(&vocab_text, &merges_text)).build());
        read.map_err(|panicked| anyhow!("they are damaged ({panicked})"))?.map_err(|e| anyhow!("{e}"))
    });
    read.with_context(|| format!("{} and {} are not a vocabulary and its merges", vocab.display(), merges.display()))
}

/// The uses of special tokens in a tokenizer that names none.
fn usual_names(inner: &Inner, kind: TokenEncoding, end: Option<u32>) -> Vec<(String, String)> {
    let end = end.and_then(|id| inner.id_to_token(id));
    let of_end = end.iter().flat_map(|end| ["bos_token", "eos_token", "pad_token"].map(|name| (name, end.clone())));
    let unknown = (kind == TokenEncoding::Words).then(|| ("unk_token", "<unk>".to_owned()));
    of_end.chain(unknown).map(|(name, token)| (name.to_owned(), token)).collect()
}

fn kind(inner: &Inner) -> TokenEncoding {
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
    let byte_of: HashMap<char, u8> = byte_characters().into_iter().zip(0..=255).collect();
    let mut bytes = vec![Vec::new(); n];
    for (token, id) in entries {
        let mapped = token.chars().map(|c| byte_of.get(&c).copied()).collect::<Option<Vec<u8>>>();
        bytes[id as usize] = mapped.unwrap_or_else(|| token.into_bytes());
    }
    bytes
}

/// The character that stands for each byte: itself where it is printable in Latin-1, else the next from U+0100 on.
fn byte_characters() -> [char; 256] {
    let mut spare = 0x100..;
    std::array::from_fn(|byte| {
        let printable = matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
        let code = if printable { byte as u32 } else { spare.next().unwrap_or_default() };
        char::from_u32(code).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Made by scripts/golden.py with the reference tokenizers.
    const GOLDEN: &str = include_str!("../../../tests/golden/tokenizers.json");

    fn real(name: &str) -> Option<Tokenizer> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/tokenizers").join(name);
        if !folder.is_dir() {
            eprintln!("skipped: {} is absent", folder.display());
            return None;
        }
        Some(Tokenizer::load(&folder).unwrap())
    }

    fn trained(vocab_size: usize) -> Tokenizer {
        let text = "the cat sat on the mat, and the dog sat on the log.\n\nThe end of the story: don't you see?\n\
                    Nobody knows which of them went home first, but everybody remembers who stayed behind.";
        Tokenizer::train_bpe(Some(vocab_size), std::iter::repeat_n(text.to_owned(), 5)).unwrap()
    }

    fn ids(value: &Value) -> Vec<u32> {
        value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    }

    fn golden() -> Vec<Value> {
        match serde_json::from_str(GOLDEN).unwrap() {
            Value::Array(all) => all,
            other => other["texts"].as_array().unwrap().clone(),
        }
    }

    /// And the library reads the saved file as gptkit reads the texts.
    #[test]
    fn a_framed_text_has_the_same_tokens_at_its_start_and_inside() {
        let folder = tempfile::tempdir().unwrap();
        let mut tokenizer = trained(320);
        tokenizer.add_special_tokens(&FRAME).unwrap();
        assert_eq!(tokenizer.encode_framed("the cat").unwrap(), tokenizer.encode("the cat").unwrap(), "no frame yet");
        tokenizer.set_frame().unwrap();
        let (the, inside) = (tokenizer.encode_framed("the").unwrap(), tokenizer.encode("sat the").unwrap());
        assert!(inside.ends_with(&the), "{the:?} in {inside:?}");
        assert_ne!(the, tokenizer.encode("the").unwrap(), "which reads text as it is");
        assert_eq!(tokenizer.encode_framed(" the").unwrap(), the);

        tokenizer.save(folder.path()).unwrap();
        let library = Inner::from_file(folder.path().join("tokenizer.json")).unwrap();
        let again = Tokenizer::load(folder.path()).unwrap();
        let [start, delimiter, extract] = FRAME.map(|token| again.token_id(token).unwrap());
        for (a, b) in [("the cat sat", "the dog"), (" the cat", "dog"), ("don't", "The end\n"), ("\nthe", "—é")] {
            let [a_ids, b_ids] = [a, b].map(|text| again.encode_framed(text).unwrap());
            let expected = [&[start][..], &a_ids, &[delimiter], &b_ids, &[extract]].concat();
            assert_eq!(library.encode((a, b), true).unwrap().get_ids(), expected, "{a:?}, {b:?}");
            assert_eq!(library.encode(a, true).unwrap().get_ids(), [&[start][..], &a_ids, &[extract]].concat());
            assert_eq!(again.encode(a).unwrap(), trained(320).encode(a).unwrap(), "other text is read as it is");
        }
        assert!(
            again.cut() == CutPoint::Words && again.decode(&again.encode("the cat").unwrap()).unwrap() == "the cat"
        );
        let config = std::fs::read_to_string(folder.path().join("tokenizer_config.json")).unwrap();
        assert!(config.contains("\"add_prefix_space\": true"), "{config}");

        // Characters have no word to keep whole, and a file of an earlier version says nothing of a space.
        let mut characters = Tokenizer::of_characters(&BTreeSet::from(['a', 'b'])).unwrap();
        characters.add_special_tokens(&FRAME).unwrap();
        characters.set_frame().unwrap();
        assert_eq!(characters.encode_framed("ab").unwrap(), characters.encode("ab").unwrap());
        let path = folder.path().join("tokenizer.json");
        let earlier = std::fs::read_to_string(&path)
            .unwrap()
            .replace("\"add_prefix_space\": true", "\"add_prefix_space\": false");
        disk::write(&path, earlier.as_bytes()).unwrap();
        let earlier = Tokenizer::load(folder.path()).unwrap();
        assert_eq!(earlier.encode_framed("the").unwrap(), earlier.encode("the").unwrap());
    }

    #[test]
    fn gpt1_and_gpt2_ids_are_those_of_the_reference() {
        for name in ["gpt2", "gpt1"] {
            let Some(tokenizer) = real(name) else { continue };
            for case in golden() {
                let (text, expected) = (case["text"].as_str().unwrap(), ids(&case[name]));
                assert_eq!(tokenizer.encode(text).unwrap(), expected, "{name}: {text:?}");
                let ordinary = case.get(format!("{name}_ordinary")).map_or(expected.clone(), ids);
                assert_eq!(tokenizer.encode_document(text).unwrap(), ordinary, "{name}: {text:?} as text");
                let decoded = case.get(format!("{name}_decoded")).and_then(Value::as_str);
                if name == "gpt2" || decoded.is_some() {
                    assert_eq!(tokenizer.decode(&expected).unwrap(), decoded.unwrap_or(text), "{name}: {text:?} back");
                }
            }
        }
    }

    #[test]
    fn the_published_vocabularies_have_their_sizes_and_ends() {
        if let Some(gpt2) = real("gpt2") {
            assert_eq!((gpt2.vocab_size(), gpt2.end_of_text()), (50_257, Some(50_256)));
        }
        if let Some(gpt1) = real("gpt1") {
            assert_eq!((gpt1.vocab_size(), gpt1.end_of_text(), gpt1.document_end()), (40_478, None, Some(40_477)));
        }
    }

    #[test]
    fn training_gives_the_size_that_was_asked_for() {
        let tokenizer = trained(300);
        assert_eq!((tokenizer.vocab_size(), tokenizer.end_of_text()), (300, Some(299)));
        assert!(trained(5000).vocab_size() < 5000, "the text has no such many pairs");
        assert_eq!(tokenizer.kind, TokenEncoding::ByteLevel);
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let tokenizer = trained(280);
            let ids = tokenizer.encode_bytes(&bytes).unwrap();
            prop_assert_eq!(tokenizer.decode_bytes(&ids).unwrap(), bytes);
        }

        #[test]
        fn streamed_text_is_the_text_at_once(text in "\\PC{0,30}") {
            let tokenizer = trained(300);
            let ids = tokenizer.encode_document(&text).unwrap();
            let mut decoder = tokenizer.decoder(&[]);
            let mut streamed: String = ids.iter().map(|&id| decoder.push(id).unwrap()).collect();
            streamed += &decoder.flush().unwrap();
            prop_assert_eq!(streamed, text);
        }
    }

    /// Many short pieces, so that a cut stands at every place that allows one.
    fn in_pieces(text: &str) -> Vec<String> {
        let mut pieces = vec![String::new()];
        let mut last = ' ';
        for c in text.chars() {
            if matches!(c, ' ' | '\n') && !last.is_whitespace() && !last.is_control() {
                pieces.push(String::new());
            }
            pieces.last_mut().unwrap().push(c);
            last = c;
        }
        pieces
    }

    #[test]
    fn pieces_have_the_tokens_of_the_whole() {
        for name in ["gpt2", "gpt1"] {
            let Some(tokenizer) = real(name) else { continue };
            assert_eq!(tokenizer.cut(), CutPoint::Words);
            let all: String =
                golden().iter().map(|case| case["text"].as_str().unwrap()).collect::<Vec<_>>().join("\n ");
            let whole = tokenizer.encode_document(&all).unwrap();
            let parts = in_pieces(&all);
            assert!(parts.len() > 100);
            let parts: Vec<u32> = parts.iter().flat_map(|p| tokenizer.encode_document(p).unwrap()).collect();
            assert_eq!(parts, whole, "{name}");
        }
    }

    #[test]
    fn characters_come_back_and_strangers_are_named() {
        let tokenizer = Tokenizer::of_characters(&"hello wörld\n".chars().collect()).unwrap();
        assert_eq!((tokenizer.vocab_size(), tokenizer.kind), (11, TokenEncoding::Char));
        let ids = tokenizer.encode("hello\nwörld").unwrap();
        assert_eq!(ids.len(), 11);
        assert_eq!(tokenizer.decode(&ids).unwrap(), "hello\nwörld");
        let error = tokenizer.encode("hello, w").unwrap_err().to_string();
        assert!(error.contains("','"), "{error}");
    }

    #[test]
    fn a_saved_tokenizer_is_the_same_when_it_is_loaded() {
        let characters = Tokenizer::of_characters(&('a'..='z').collect()).unwrap();
        for tokenizer in [Some(trained(290)), Some(characters), real("gpt1"), real("gpt2")].into_iter().flatten() {
            let folder = tempfile::tempdir().unwrap();
            tokenizer.save(folder.path()).unwrap();
            let loaded = Tokenizer::load(folder.path()).unwrap();
            assert_eq!(loaded.fingerprint().unwrap(), tokenizer.fingerprint().unwrap());
            assert_eq!((loaded.kind, loaded.end_of_text()), (tokenizer.kind, tokenizer.end_of_text()));
        }
    }

    #[test]
    fn text_cannot_fake_the_end_of_its_document() {
        let tokenizer = trained(300);
        assert_eq!(tokenizer.encode("a<|endoftext|>").unwrap().last(), Some(&299));
        let ids = tokenizer.encode_document("a<|endoftext|>").unwrap();
        assert!(!ids.contains(&299));
        assert_eq!(tokenizer.decode(&ids).unwrap(), "a<|endoftext|>");
    }

    #[test]
    fn added_special_tokens_are_one_token_in_templates_and_text_in_documents() {
        let characters = Tokenizer::of_characters(&"<|endusr>a b".chars().collect()).unwrap();
        for mut tokenizer in [Some(trained(300)), Some(characters), real("gpt1"), real("gpt2")].into_iter().flatten() {
            let (before, end) = (tokenizer.vocab_size() as u32, tokenizer.end_of_text());
            let ids = tokenizer.add_special_tokens(&["<|user|>", "<|end|>"]).unwrap();
            assert_eq!(ids, [before, before + 1], "{tokenizer:?}");
            assert_eq!((tokenizer.vocab_size() as u32, tokenizer.end_of_text()), (before + 2, end));
            assert!(ids.iter().all(|&id| tokenizer.is_special(id)));
            assert_eq!(tokenizer.token_id("<|end|>"), Some(ids[1]));
            assert_eq!(tokenizer.token_text(ids[1]), "<|end|>");
            let text = "<|user|>a b<|end|>";
            let encoded = tokenizer.encode(text).unwrap();
            assert_eq!((encoded.first(), encoded.last()), (Some(&ids[0]), Some(&ids[1])), "{tokenizer:?}");
            assert_eq!(encoded.iter().filter(|id| ids.contains(id)).count(), 2);
            assert!(tokenizer.encode_document(text).unwrap().iter().all(|id| !ids.contains(id)), "{tokenizer:?}");
            if tokenizer.kind != TokenEncoding::Words {
                assert_eq!(tokenizer.decode(&encoded).unwrap(), text);
                let document = tokenizer.encode_document(text).unwrap();
                assert_eq!(tokenizer.decode(&document).unwrap(), text);
                let mut decoder = tokenizer.decoder(&[]);
                let streamed: String = encoded.iter().map(|&id| decoder.push(id).unwrap()).collect();
                assert_eq!(streamed, text);
            }
            let again = tokenizer.add_special_tokens(&["<|end|>", "<|new|>"]).unwrap();
            assert_eq!(again, [before + 1, before + 2]);
        }
        assert!(trained(300).add_special_tokens(&[""]).is_err());
    }

    #[test]
    fn added_tokens_and_the_chat_template_are_saved() {
        let folder = tempfile::tempdir().unwrap();
        let mut tokenizer = trained(290);
        let ids = tokenizer.add_special_tokens(&["<|user|>", "<|end|>"]).unwrap();
        tokenizer.set_chat_template(Some("{{ messages }}".to_owned()));
        tokenizer.save(folder.path()).unwrap();
        let loaded = Tokenizer::load(folder.path()).unwrap();
        assert_eq!(loaded.fingerprint().unwrap(), tokenizer.fingerprint().unwrap());
        assert_eq!((loaded.kind, loaded.end_of_text()), (TokenEncoding::ByteLevel, Some(289)));
        assert_eq!(loaded.encode("<|user|><|end|>").unwrap(), ids);
        assert_eq!(loaded.chat_template(), Some("{{ messages }}"));
        // Newer folders have it in a file of its own, which counts.
        disk::write(&folder.path().join("chat_template.jinja"), b"new").unwrap();
        assert_eq!(Tokenizer::load(folder.path()).unwrap().chat_template(), Some("new"));
        assert_eq!(trained(290).chat_template(), None);
    }

    #[test]
    fn a_missing_or_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let message = || format!("{:#}", Tokenizer::load(folder.path()).unwrap_err());
        assert!(message().contains("holds no tokenizer"));
        disk::write(&folder.path().join("vocab.json"), b"{\"a\": 0}").unwrap();
        assert!(message().contains("merges.txt does not exist"), "{}", message());
        disk::write(&folder.path().join("merges.txt"), b"#version: 0.2\na b\n").unwrap();
        assert!(message().contains("are not a vocabulary and its merges"), "{}", message());
        disk::write(&folder.path().join("tokenizer.json"), b"{\"version\": ").unwrap();
        assert!(message().contains("tokenizer.json is not a tokenizer"), "{}", message());
    }

    /// A trained tokenizer's file, changed by `change`, read again.
    fn changed(change: impl Fn(&mut Value)) -> Result<Tokenizer> {
        let folder = tempfile::tempdir().unwrap();
        trained(300).save(folder.path()).unwrap();
        let path = folder.path().join("tokenizer.json");
        let mut json: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        change(&mut json);
        disk::write(&path, json.to_string().as_bytes()).unwrap();
        Tokenizer::load(folder.path())
    }

    #[test]
    fn patterns_that_take_for_ever_are_errors_in_words() {
        let text = format!("{}b", "a".repeat(40));
        for pattern in ["(a+)+$", "(?:a|aa)+$", "(x+x+)+y", "(a*)*c", "(.*)*(.*)*c", "(?<n>a|\\g<n>\\g<n>)+$"] {
            let regex = json!({ "Regex": pattern });
            let split = json!({ "type": "Split", "pattern": regex, "behavior": "Isolated", "invert": false });
            let replace = json!({ "type": "Replace", "pattern": regex, "content": "b" });
            for (part, value) in [("pre_tokenizer", &split), ("normalizer", &replace), ("decoder", &replace)] {
                let Ok(tokenizer) = changed(|json| json[part] = value.clone()) else { continue };
                let text = if pattern.contains('x') { text.replace('a', "x") } else { text.clone() };
                let encoded = tokenizer.encode(&text);
                if let Err(e) = encoded {
                    let message = e.to_string();
                    assert!(message.starts_with("a pattern of the tokenizer takes too long on the text"), "{message}");
                }
            }
        }
        let split =
            json!({ "type": "Split", "pattern": { "Regex": "(a+)+$" }, "behavior": "Isolated", "invert": false });
        assert!(changed(|json| json["pre_tokenizer"] = split.clone()).unwrap().encode(&text).is_err());
        for pattern in ["(".repeat(4000) + "a" + &")".repeat(4000), "(?:".repeat(3000) + "a" + &"){99}".repeat(3000)] {
            let split =
                json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
            let error = format!("{:#}", changed(|json| json["pre_tokenizer"] = split.clone()).unwrap_err());
            assert!(error.contains("tokenizer.json is not a tokenizer: "), "{error}");
        }
    }

    #[test]
    fn damaged_tokenizers_are_errors_in_words() {
        let sequence = |depth: usize| {
            (0..depth).fold(json!({ "type": "NFC" }), |inner, _| json!({ "type": "Sequence", "normalizers": [inner] }))
        };
        type Change = Box<dyn Fn(&mut Value)>;
        let changes: [(&str, Change); 11] = [
            ("id", Box::new(|json| json["model"]["vocab"]["zzzz"] = json!(u32::MAX))),
            ("large id", Box::new(|json| json["model"]["vocab"]["zzzz"] = json!(1_000_000_000))),
            ("added id", Box::new(|json| json["added_tokens"][0]["id"] = json!(u32::MAX))),
            ("FixedLength", Box::new(|json| json["pre_tokenizer"] = json!({ "type": "FixedLength", "length": 0 }))),
            (
                "charsmap",
                Box::new(|json| {
                    json["normalizer"] = json!({ "type": "Precompiled", "precompiled_charsmap": "AAAAAAAA////" })
                }),
            ),
            (
                "charsmap",
                Box::new(|json| {
                    json["normalizer"] = json!({ "type": "Precompiled", "precompiled_charsmap": "////////////" })
                }),
            ),
            (
                "merges",
                Box::new(|json| {
                    json["model"]["vocab"] = json!({ "a": 0, "b": 1, "aa": 2 });
                    json["model"]["merges"] = json!([["a", "a"], ["aa", "a"]]);
                }),
            ),
            ("merges", Box::new(|json| json["model"]["merges"] = json!([["a"]]))),
            ("prefix", Box::new(|json| json["model"]["continuing_subword_prefix"] = json!("######"))),
            ("nested", Box::new(move |json| json["normalizer"] = sequence(60))),
            ("unigram", Box::new(|json| json["model"] = json!({ "type": "Unigram", "vocab": [], "unk_id": 0 }))),
        ];
        for (what, change) in changes {
            let refused = changed(&change).and_then(|tokenizer| tokenizer.encode("a text aaab"));
            assert!(refused.is_err() || what == "nested", "{what}");
        }
        // Gaps between ids are nothing bad.
        let with_gap = changed(|json| json["model"]["vocab"]["zzzz"] = json!(5000)).unwrap();
        assert_eq!(with_gap.vocab_size(), 5001);
    }

    #[test]
    fn endless_words_are_cut_for_training() {
        let long = "ACGT".repeat(1000);
        let parts: Vec<&str> = in_short_words(&long).collect();
        assert_eq!(parts.concat(), long);
        assert!(parts.len() == 16 && parts.iter().all(|part| part.len() <= LONGEST_LEARNED_WORD));
        let usual = "short words, 3 of them\n".repeat(100);
        assert_eq!(in_short_words(&usual).collect::<Vec<_>>(), [&usual]);
        // A text without a space, in which no part comes twice: with uncut words its time is quadratic.
        let mut state = 1u32;
        let letter = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ['A', 'C', 'G', 'T'][(state >> 30) as usize]
        };
        let genome: String = (0..200_000).map(letter).collect();
        let tokenizer = Tokenizer::train_bpe(Some(600), std::iter::once(genome.clone())).unwrap();
        assert_eq!(tokenizer.vocab_size(), 600);
        let ids = tokenizer.encode(&genome[..10_000]).unwrap();
        assert!(ids.len() < 4_000 && tokenizer.decode(&ids).unwrap() == genome[..10_000]);
    }

    #[test]
    fn stored_truncation_does_not_cut_text() {
        let folder = tempfile::tempdir().unwrap();
        let mut inner = trained(300).inner;
        let cut = tokenizers::TruncationParams { max_length: 4, ..Default::default() };
        inner.with_truncation(Some(cut)).unwrap();
        inner.save(folder.path().join("tokenizer.json"), false).unwrap();
        let ids =
            Tokenizer::load(folder.path()).unwrap().encode_document("the cat sat on the mat, and the dog").unwrap();
        assert!(ids.len() > 4);
    }
}
