//! Training: byte-level pairs, or one token a character.

use super::Tokenizer;
use super::config::{DEFAULT_VOCAB, FEWEST};
use super::special::{add_end_of_text, byte_level};
use super::structure::byte_characters;
use crate::folder_tokens::FolderTokens;
use crate::outline;
use anyhow::{Result, anyhow, ensure};
use std::collections::BTreeSet;
use tokenizers::Tokenizer as Inner;
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};

impl Tokenizer {
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
}

/// Longest word that a vocabulary is learned from, in characters. Each merge looks at whole words, so that the time for one
/// word grows with the square of its length.
pub(crate) const LONGEST_LEARNED_WORD: usize = 256;

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
