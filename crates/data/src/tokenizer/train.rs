//! Training: byte-level pairs, or one token a character.

use super::Tokenizer;
use super::config::{DEFAULT_VOCAB, FEWEST};
use super::merges::{LearnedMerges, learn};
use super::special::{add_end_of_text, byte_level};
use super::words::words;
use crate::folder_tokens::FolderTokens;
use crate::outline;
use ahash::AHashMap;
use anyhow::{Result, anyhow, ensure};
use rayon::prelude::*;
use std::collections::BTreeSet;
use tokenizers::Tokenizer as Inner;
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::models::bpe::BPE;

/// How often each word occurs in the texts that a vocabulary is learned from.
#[derive(Debug, Default)]
pub(crate) struct WordCounts {
    counts: AHashMap<Box<str>, u64>,
    /// Whether there are words of more than [`LONGEST_LEARNED_WORD`] characters, which are counted in parts.
    pub(crate) has_long_words: bool,
}

impl WordCounts {
    /// Counts the words of `texts` on all threads.
    pub(crate) fn of(texts: impl Iterator<Item = String> + Send) -> Self {
        texts.par_bridge().fold(Self::default, Self::with).reduce(Self::default, Self::merged)
    }

    fn with(mut self, text: String) -> Self {
        for (i, part) in in_short_words(&text).enumerate() {
            self.has_long_words |= i > 0;
            for word in words(part) {
                match self.counts.get_mut(word) {
                    Some(n) => *n += 1,
                    None => drop(self.counts.insert(word.into(), 1)),
                }
            }
        }
        self
    }

    fn merged(mut self, other: Self) -> Self {
        if self.counts.len() < other.counts.len() {
            return other.merged(self);
        }
        self.has_long_words |= other.has_long_words;
        for (word, n) in other.counts {
            *self.counts.entry(word).or_default() += n;
        }
        self
    }
}

impl Tokenizer {
    /// Learns byte-level pairs from words until the vocabulary has `vocab_size` entries, the end of text among them; fewer
    /// when the words have no more pairs. The merges are those that the tokenizers library learns from the same texts.
    ///
    /// # Errors
    /// When the library fails.
    pub(crate) fn train_bpe(vocab_size: Option<usize>, words: WordCounts) -> Result<Self> {
        let vocab_size = vocab_size.unwrap_or(DEFAULT_VOCAB).clamp(FEWEST, outline::MOST_ENTRIES);
        // The end of text is added after training, so that its id is the last, as GPT-2's is.
        let LearnedMerges { tokens, merges } = learn(words.counts, vocab_size - 1);
        let token = |id: u32| tokens[id as usize].clone();
        let merges = merges.into_iter().map(|(left, right)| (token(left), token(right))).collect();
        let vocab: tokenizers::models::bpe::Vocab = tokens.iter().cloned().zip(0..).collect();
        let model = BPE::builder().vocab_and_merges(vocab, merges).build().map_err(|e| anyhow!("{e}"))?;
        let mut inner = Inner::new(model);
        inner.with_pre_tokenizer(Some(byte_level())).with_decoder(Some(ByteLevelDecoder::default()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::SyntheticStories;
    use crate::tokenizer::structure::byte_characters;
    use tokenizers::models::TrainerWrapper;
    use tokenizers::models::bpe::BpeTrainerBuilder;

    #[test]
    fn merges_are_those_that_the_library_learns() {
        let stories = SyntheticStories::new(3);
        let mut texts: Vec<String> = (0..60).map(|i| stories.story(i)).collect();
        texts.push(
            "naïve cafés, 中文 中文字 ‘quoted’ \t\t tabs\r\n  two  spaces; don't, we'll, 1234 12 ½ 🙂🙂".repeat(20),
        );
        for vocab_size in [300, 1500] {
            let mut library = Inner::new(BPE::default());
            library.with_pre_tokenizer(Some(byte_level()));
            let mut trainer: TrainerWrapper = BpeTrainerBuilder::new()
                .show_progress(false)
                .vocab_size(vocab_size - 1)
                .initial_alphabet(byte_characters().into())
                .build()
                .into();
            library.train(&mut trainer, texts.iter()).unwrap();
            let own = Tokenizer::train_bpe(Some(vocab_size), WordCounts::of(texts.clone().into_iter())).unwrap();
            let model = |inner: &Inner| serde_json::to_string(inner.get_model()).unwrap();
            assert_eq!(model(&own.inner), model(&library));
        }
    }
}
