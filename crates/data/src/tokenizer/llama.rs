//! The tokens that llama.cpp gives a text, by the metadata of a GGUF file: `llm_tokenizer_bpe_session::tokenize` and
//! `tokenizer_st_partition` in llama.cpp's `src/llama-vocab.cpp`, in plain loops. An exported tokenizer is compared with it.

use super::structure::byte_characters;
use super::words::words;
use gptkit_gguf::Metadata;
use std::collections::HashMap;

/// Types of tokens.
pub(super) const NORMAL: i32 = 1;
pub(super) const CONTROL: i32 = 3;
pub(super) const USER_DEFINED: i32 = 4;
pub(super) const UNUSED: i32 = 5;

/// Names in the metadata.
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(super) const TYPES: &str = "tokenizer.ggml.token_type";
pub(super) const MERGES: &str = "tokenizer.ggml.merges";

/// Tokens and merges as llama.cpp keeps them.
pub(super) struct LlamaVocabulary<'a> {
    ids: HashMap<&'a str, u32>,
    /// The number of a merge, by its two parts.
    ranks: HashMap<(&'a str, &'a str), usize>,
    /// Tokens that are found in the text before it is divided into words: text, id, and whether it is a control token. The
    /// longest come first.
    marks: Vec<(&'a str, u32, bool)>,
}

/// A part of a text.
enum Fragment<'t> {
    Text(&'t str),
    Token(u32),
}

impl<'a> LlamaVocabulary<'a> {
    pub(super) fn of(metadata: &'a Metadata) -> Self {
        let (tokens, types) = (metadata.texts(TOKENS), metadata.integers(TYPES));
        let mut ids = HashMap::new();
        let mut marks = Vec::new();
        for (id, (token, kind)) in (0..).zip(tokens.iter().zip(types)) {
            ids.insert(token.as_str(), id);
            if matches!(*kind, CONTROL | USER_DEFINED) {
                marks.push((token.as_str(), id, *kind == CONTROL));
            }
        }
        marks.sort_by_key(|(token, _, _)| std::cmp::Reverse(token.len()));
        let parts = metadata.texts(MERGES).iter().enumerate().filter_map(|(rank, merge)| {
            let (left, right) = merge.split_once(' ')?;
            Some(((left, right), rank))
        });
        Self { ids, ranks: parts.collect(), marks }
    }

    /// Tokens of `text`; names of control tokens in it become those tokens where `with_control` says so.
    pub(super) fn encode(&self, text: &str, with_control: bool) -> Vec<u32> {
        let mut fragments = vec![Fragment::Text(text)];
        for &(mark, id, _) in self.marks.iter().filter(|(_, _, is_control)| with_control || !is_control) {
            fragments = fragments.into_iter().flat_map(|fragment| divided(fragment, mark, id)).collect();
        }
        let mut tokens = Vec::new();
        for fragment in fragments {
            match fragment {
                Fragment::Token(id) => tokens.push(id),
                Fragment::Text(text) => words(text).for_each(|word| self.add_word(word, &mut tokens)),
            }
        }
        tokens
    }

    fn add_word(&self, word: &str, tokens: &mut Vec<u32>) {
        let mut symbols: Vec<String> =
            word.bytes().map(|byte| byte_characters()[usize::from(byte)].to_string()).collect();
        let rank = |pair: &[String]| self.ranks.get(&(pair[0].as_str(), pair[1].as_str())).copied();
        while let Some((_, at)) = symbols.windows(2).enumerate().filter_map(|(at, pair)| Some((rank(pair)?, at))).min()
        {
            let right = symbols.remove(at + 1);
            symbols[at] += &right;
        }
        for symbol in symbols {
            match self.ids.get(symbol.as_str()) {
                Some(&id) => tokens.push(id),
                // Each byte of its name is looked up.
                None => tokens.extend(symbol.chars().filter_map(|c| {
                    let byte = c.is_ascii().then_some(c)?;
                    self.ids.get(&*byte.encode_utf8(&mut [0; 4])).copied()
                })),
            }
        }
    }
}

/// A fragment without the text `mark` in it.
fn divided<'t>(fragment: Fragment<'t>, mark: &str, id: u32) -> Vec<Fragment<'t>> {
    let Fragment::Text(text) = fragment else { return vec![fragment] };
    let mut parts = Vec::new();
    for (i, part) in text.split(mark).enumerate() {
        if i > 0 {
            parts.push(Fragment::Token(id));
        }
        if !part.is_empty() {
            parts.push(Fragment::Text(part));
        }
    }
    parts
}
