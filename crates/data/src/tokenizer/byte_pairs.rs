//! Byte-level byte-pair encoding, as GPT-2's `encoder.py` and the tokenizers library compute it, with the ids of each word
//! computed once. The library takes most of its time for the pattern and for copies of each word; crates with another
//! algorithm (`bpe`, `tiktoken-rs`) keep a pattern engine, or assume that the order of ids is the order of merges.

use super::structure::{byte_characters, bytes_by_character, bytes_of};
use super::words::words;
use crate::quiet::quietly;
use ahash::AHashMap;
use aho_corasick::{AhoCorasick, MatchKind};
use serde::Deserialize;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Mutex, PoisonError};
use tokenizers::models::ModelWrapper;
use tokenizers::{AddedToken, Model, Tokenizer as Inner};

/// An encoder for tokenizers whose text is divided by GPT-2's pattern alone and whose vocabulary has all bytes.
pub(super) struct BytePairs {
    /// Id of the token of each byte.
    bytes: [u32; 256],
    /// Two neighboring ids → the rank of their merge, and the id that takes their place.
    merges: AHashMap<(u32, u32), (u32, u32)>,
    /// Ids of whole words that are not put together by merges, where the model has `ignore_merges`.
    whole: AHashMap<Vec<u8>, u32>,
    added: AddedTokens,
    /// Caches that no thread uses at the moment.
    caches: Mutex<Vec<WordCache>>,
}

/// The fields of the library's model that it has no functions for.
#[derive(Deserialize)]
struct ModelFields {
    ignore_merges: bool,
    merges: Vec<(String, String)>,
}

impl BytePairs {
    /// The encoder for `inner`, which is of the kind `ByteLevel`. `None` where it has settings that only the library obeys.
    pub(super) fn of(inner: &Inner) -> Option<Self> {
        let ModelWrapper::BPE(model) = inner.get_model() else { return None };
        if model.dropout.is_some() || model.continuing_subword_prefix.is_some() || model.end_of_word_suffix.is_some() {
            return None;
        }
        let added = AddedTokens::of(inner)?;
        let mut bytes = [0; 256];
        for (id, c) in bytes.iter_mut().zip(byte_characters()) {
            *id = model.token_to_id(c.encode_utf8(&mut [0; 4]))?;
        }
        let json = quietly(|| serde_json::to_vec(model)).ok()?.ok()?;
        let ModelFields { ignore_merges, merges } = serde_json::from_slice(&json).ok()?;
        let mut by_pair = AHashMap::with_capacity(merges.len());
        let mut joined = String::new();
        for (rank, (left, right)) in merges.iter().enumerate() {
            joined.clear();
            joined.push_str(left);
            joined.push_str(right);
            let id = |token: &str| model.token_to_id(token);
            by_pair.insert((id(left)?, id(right)?), (u32::try_from(rank).ok()?, id(&joined)?));
        }
        let mut whole = AHashMap::new();
        if ignore_merges {
            let byte_of = bytes_by_character();
            let vocabulary = model.get_vocab().into_iter();
            whole.extend(vocabulary.filter_map(|(token, id)| Some((bytes_of(&token, &byte_of)?, id))));
        }
        Some(Self { bytes, merges: by_pair, whole, added, caches: Mutex::default() })
    }

    /// Token ids of `text`. The names of special tokens in it become these tokens if `reads_special`, and are text like any
    /// other if not.
    pub(super) fn encode(&self, text: &str, reads_special: bool) -> Vec<u32> {
        let mut cache = self.lock().pop().unwrap_or_default();
        let mut ids = Vec::with_capacity(text.len() / 3);
        self.added.divide(text, reads_special, &mut |part| match part {
            TextPart::Token(id) => ids.push(id),
            TextPart::Text(text) => {
                words(text).for_each(|word| self.encode_word(word.as_bytes(), &mut cache, &mut ids))
            }
        });
        self.lock().push(cache);
        ids
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<WordCache>> {
        self.caches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn encode_word(&self, word: &[u8], cache: &mut WordCache, ids: &mut Vec<u32>) {
        if word.len() > LONGEST_CACHED {
            return ids.extend(self.merged(word));
        }
        if let Some(known) = cache.get(word) {
            return ids.extend_from_slice(known);
        }
        let new = self.merged(word);
        ids.extend_from_slice(&new);
        cache.insert(word, &new);
    }

    /// Ids of a word: of all neighbors that merge, those with the lowest rank do first, and of several the first. Takes time
    /// in proportion to n log n of its bytes.
    fn merged(&self, word: &[u8]) -> Vec<u32> {
        if let Some(&id) = self.whole.get(word) {
            return vec![id];
        }
        const NONE: usize = usize::MAX;
        // Ids by the place of their first byte, and the places before and after each; those merged away are never visited.
        let mut ids: Vec<u32> = word.iter().map(|&byte| self.bytes[usize::from(byte)]).collect();
        let mut before: Vec<usize> = (0..ids.len()).map(|at| at.wrapping_sub(1)).collect();
        let mut after: Vec<usize> = (1..ids.len()).chain([NONE]).collect();
        let mut is_merged = vec![false; ids.len()];
        let merge = |left: u32, right: u32| self.merges.get(&(left, right)).copied();
        let mut queue: BinaryHeap<Reverse<(u32, usize, u32)>> = ids
            .windows(2)
            .enumerate()
            .filter_map(|(at, pair)| merge(pair[0], pair[1]).map(|(rank, id)| Reverse((rank, at, id))))
            .collect();
        while let Some(Reverse((_, at, id))) = queue.pop() {
            let next = after[at];
            // A neighbor may have been merged since the entry was queued.
            if is_merged[at] || next == NONE || merge(ids[at], ids[next]).is_none_or(|(_, new)| new != id) {
                continue;
            }
            ids[at] = id;
            is_merged[next] = true;
            after[at] = after[next];
            if after[at] != NONE {
                before[after[at]] = at;
                queue.extend(merge(id, ids[after[at]]).map(|(rank, new)| Reverse((rank, at, new))));
            }
            if before[at] != NONE {
                queue.extend(merge(ids[before[at]], id).map(|(rank, new)| Reverse((rank, before[at], new))));
            }
        }
        ids.iter().zip(is_merged).filter(|(_, is_merged)| !is_merged).map(|(&id, _)| id).collect()
    }
}

/// Longest word that is kept in a cache, in bytes.
const LONGEST_CACHED: usize = 64;
/// Words that a cache keeps: about 10 MB.
const MOST_CACHED: usize = 1 << 17;

/// Ids of the words that were met last.
#[derive(Default)]
struct WordCache {
    /// Word → where its ids are in `ids`: the first and their number.
    places: AHashMap<Box<[u8]>, (u32, u32)>,
    ids: Vec<u32>,
}

impl WordCache {
    fn get(&self, word: &[u8]) -> Option<&[u32]> {
        let &(first, n) = self.places.get(word)?;
        Some(&self.ids[first as usize..(first + n) as usize])
    }

    fn insert(&mut self, word: &[u8], ids: &[u32]) {
        // Text changes: the words that it has now come back at once.
        if self.places.len() == MOST_CACHED {
            self.places.clear();
            self.ids.clear();
        }
        self.places.insert(word.into(), (self.ids.len() as u32, ids.len() as u32));
        self.ids.extend_from_slice(ids);
    }
}

/// Tokens that are found in the text before it is divided into words.
struct AddedTokens {
    /// The library looks for tokens that its normalizer leaves alone first, and for the others in what is left.
    passes: Vec<AddedPass>,
}

struct AddedPass {
    names: AhoCorasick,
    /// Id of the token with each name, and whether the token is special.
    tokens: Vec<(u32, bool)>,
}

enum TextPart<'a> {
    Token(u32),
    Text(&'a str),
}

impl AddedTokens {
    /// `None` where a token takes in the white space around it, or counts as a whole word only.
    fn of(inner: &Inner) -> Option<Self> {
        let all: Vec<(u32, AddedToken)> = inner.get_added_tokens_decoder().into_iter().collect();
        if all.iter().any(|(_, token)| token.lstrip || token.rstrip || token.single_word) {
            return None;
        }
        let pass = |normalized: bool| {
            let tokens: Vec<&(u32, AddedToken)> = all.iter().filter(|(_, t)| t.normalized == normalized).collect();
            let is_special = |token: &AddedToken| inner.get_added_vocabulary().is_special_token(&token.content);
            let names = tokens.iter().map(|(_, token)| &token.content);
            let names = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(names).ok()?;
            Some(AddedPass { names, tokens: tokens.iter().map(|(id, token)| (*id, is_special(token))).collect() })
        };
        let mut passes = vec![pass(false)?, pass(true)?];
        passes.retain(|pass| !pass.tokens.is_empty());
        Some(Self { passes })
    }

    /// Hands the parts of `text` to `sink`.
    fn divide<'a>(&self, text: &'a str, reads_special: bool, sink: &mut dyn FnMut(TextPart<'a>)) {
        let passes: Vec<&AddedPass> = self
            .passes
            .iter()
            .filter(|pass| pass.tokens.iter().any(|(_, special)| reads_special || !special))
            .collect();
        divide(&passes, text, reads_special, sink);
    }
}

fn divide<'a>(passes: &[&AddedPass], text: &'a str, reads_special: bool, sink: &mut dyn FnMut(TextPart<'a>)) {
    let Some((pass, others)) = passes.split_first() else { return sink(TextPart::Text(text)) };
    let mut start = 0;
    for found in pass.names.find_iter(text) {
        let (id, is_special) = pass.tokens[found.pattern().as_usize()];
        if is_special && !reads_special {
            continue;
        }
        divide(others, &text[start..found.start()], reads_special, sink);
        sink(TextPart::Token(id));
        start = found.end();
    }
    divide(others, &text[start..], reads_special, sink);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Tokenizer;
    use crate::tokenizer::train::WordCounts;
    use gptkit_testing::golden_path;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    fn trained(vocab_size: usize) -> Inner {
        let text = "the cat sat on the mat, and the dog sat on the log.\n\nThe end of the story: don't you see? \
                    aaaa aaab abab, abcabc; 12 1212 ----==== naïve café 中文中文";
        Tokenizer::train_bpe(Some(vocab_size), WordCounts::of(std::iter::repeat_n(text.to_owned(), 5))).unwrap().inner
    }

    fn published() -> Inner {
        Tokenizer::load(&golden_path("tokenizers/gpt2")).unwrap().inner
    }

    /// Tokens that begin and end alike, special and not, found before and after a normalizer.
    fn with_added(mut inner: Inner) -> Inner {
        let token =
            |name: &str, special: bool, normalized: bool| AddedToken::from(name, special).normalized(normalized);
        inner
            .add_special_tokens([token("<|a|>", true, false), token("<|ab|>", true, true), token("<|", true, true)])
            .unwrap();
        inner
            .add_tokens([token("cat", false, false), token("cat sat", false, true), token("|>", false, true)])
            .unwrap();
        inner
    }

    fn that_ignores_merges(inner: &Inner) -> Inner {
        let mut json = serde_json::to_value(inner).unwrap();
        json["model"]["ignore_merges"] = true.into();
        // A word that no merges lead to.
        let n = json["model"]["vocab"].as_object().unwrap().len();
        json["model"]["vocab"]["Ġstory:"] = n.into();
        json["model"]["vocab"]["xyz"] = (n + 1).into();
        serde_json::from_value(json).unwrap()
    }

    static TOKENIZERS: LazyLock<Vec<(Inner, BytePairs)>> = LazyLock::new(|| {
        let plain = [trained(257), trained(330), published()];
        let ignoring = plain.iter().map(that_ignores_merges);
        let all: Vec<Inner> = plain.iter().cloned().chain(ignoring).flat_map(|t| [with_added(t.clone()), t]).collect();
        all.into_iter().map(|inner| (BytePairs::of(&inner).unwrap(), inner)).map(|(own, inner)| (inner, own)).collect()
    });

    fn check(text: &str) {
        for (i, (inner, own)) in TOKENIZERS.iter().enumerate() {
            for reads_special in [true, false] {
                let mut inner = inner.clone();
                inner.set_encode_special_tokens(!reads_special);
                let expected = inner.encode_fast(text, false).unwrap().get_ids().to_vec();
                // The second time from the cache.
                for _ in 0..2 {
                    assert_eq!(own.encode(text, reads_special), expected, "tokenizer {i}, {reads_special}, {text:?}");
                }
            }
        }
    }

    #[test]
    fn long_words_and_names_of_tokens_have_the_librarys_ids() {
        let long =
            ["a".repeat(3000), "ab".repeat(1000), "abc".repeat(700), " ".repeat(500), "=".repeat(500), "é".repeat(300)];
        long.iter().for_each(|word| check(word));
        check(&long.concat());
        for text in [
            "",
            "<|endoftext|>",
            "a<|endoftext|><|a|>b",
            "<|<|ab|>|>",
            "a cat sat<|a|>cat",
            "cat sat on",
            "xyz story: xyzz",
        ] {
            check(text);
        }
    }

    #[test]
    fn a_cache_that_is_full_begins_anew() {
        let mut cache = WordCache::default();
        for n in 0..=MOST_CACHED as u32 {
            cache.insert(n.to_string().as_bytes(), &[n, n + 1]);
        }
        assert!(cache.places.len() == 1 && cache.ids.len() == 2);
        assert_eq!(
            (cache.get(MOST_CACHED.to_string().as_bytes()), cache.get(b"0")),
            (Some(&[131_072, 131_073][..]), None)
        );
    }

    /// Settings that only the library obeys.
    #[test]
    fn other_tokenizers_have_no_encoder() {
        let with = |token: AddedToken| {
            let mut inner = trained(300);
            inner.add_tokens([token]).unwrap();
            BytePairs::of(&inner).is_some()
        };
        assert!(with(AddedToken::from("x", false)));
        assert!(!with(AddedToken::from("x", false).lstrip(true)));
        assert!(!with(AddedToken::from("x", false).rstrip(true)));
        assert!(!with(AddedToken::from("x", false).single_word(true)));
        let mut json = serde_json::to_value(trained(300)).unwrap();
        json["model"]["end_of_word_suffix"] = "</w>".into();
        assert!(BytePairs::of(&serde_json::from_value(json).unwrap()).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn ids_are_the_librarys(
            parts in prop::collection::vec(
                "'|'s| |  |\n|[a-c]{1,9}|[0-9]{1,4}|\\PC{1,3}|\\p{L}|.| the| cat| sat|cat|<\\|a\\|>|<\\|ab\\|>|<\\||\\|>|<\\|endoftext\\|>|story:|xyz|[ -~]{1,8}",
                0..60,
            ),
        ) {
            check(&parts.concat());
        }
    }
}
