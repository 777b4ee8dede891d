//! Text → token ids, with the characters that are lost on the way.

use super::special::FRAME;
use super::structure::{TokenEncoding, WORD_SIGN};
use super::{Tokenizer, failed};
use crate::losses::Losses;
use crate::progress::Progress;
use crate::quiet::quietly;
use anyhow::{Context, Result, anyhow, bail};
use std::ops::Range;
use std::sync::PoisonError;
use tokenizers::{
    NormalizedString, Normalizer, OffsetReferential, OffsetType, PostProcessor, PreTokenizedString, PreTokenizer,
    Tokenizer as Inner,
};

impl Tokenizer {
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
        self.encode_with(true, text)
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
        self.encode_with(false, text)
    }

    /// Tokens of a rendered dialogue, each with its place in `text`, in bytes. Names of special tokens within `contents`, which
    /// are in order, are nothing but text.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub(crate) fn encode_dialogue(&self, text: &str, contents: &[Range<usize>]) -> Result<Vec<(u32, Range<usize>)>> {
        let tokens = self.encode_places(true, text)?;
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
            let between = self.encode_places(false, &text[from..to])?;
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

    fn encode_places(&self, reads_special: bool, text: &str) -> Result<Vec<(u32, Range<usize>)>> {
        let tokens = spans(self.library(reads_special)?, text)?;
        let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
        self.must_know(text, &ids)?;
        if self.may_lose {
            let losses = self.losses_in(reads_special, text, &ids)?;
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
                let id =
                    id.with_context(|| format!("byte {byte:#04x} is not UTF-8, and this tokenizer cannot encode it"))?;
                ids.push(id as u32);
            }
        }
        Ok(ids)
    }

    /// Tokens of `text`, in which names of special tokens become these tokens where `reads_special`.
    fn encode_with(&self, reads_special: bool, text: &str) -> Result<Vec<u32>> {
        if let Some(byte_pairs) = self.byte_pairs() {
            // A folder may say that names of special tokens are text everywhere.
            let ids = byte_pairs.encode(text, reads_special && !self.inner.get_encode_special_tokens());
            self.must_have_rows(&ids)?;
            return Ok(ids);
        }
        let inner = self.library(reads_special)?;
        let encoding = quietly(|| inner.encode_fast(text, false)).map_err(|panicked| failed(&panicked))?;
        let ids = encoding.map_err(|e| anyhow!("text cannot be encoded: {e}"))?.get_ids().to_vec();
        self.must_know(text, &ids)?;
        if self.may_lose {
            let losses = self.losses_in(reads_special, text, &ids)?;
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
                "the character {:?} is not in the vocabulary of this character tokenizer ({} entries)",
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
        let tokens = spans(self.library(false)?, text)?;
        self.must_know(text, &tokens.iter().map(|token| token.id).collect::<Vec<_>>())?;
        Ok(tokens)
    }

    /// Characters of `text`, a part of a document with the tokens `ids`, that have no token.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub(crate) fn losses_in_document(&self, text: &str, ids: &[u32]) -> Result<Losses> {
        self.losses_in(false, text, ids)
    }

    fn losses_in(&self, reads_special: bool, text: &str, ids: &[u32]) -> Result<Losses> {
        let mut losses = Losses { of: text.chars().count() as u64, ..Losses::default() };
        let is_whole = self.unknown.is_some_and(|unknown| !ids.contains(&unknown));
        if !self.may_lose || is_whole {
            return Ok(losses);
        }
        let mut covered = 0;
        for Spanned { id, start, end } in spans(self.library(reads_special)?, text)? {
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
