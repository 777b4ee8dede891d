//! Token ids, one at a time → text. The pieces add up to what the library's `decode` gives for all ids at once: text that a
//! later token may still change is held back until it is settled.

use crate::tokenizer::Tokenizer;
use crate::tokenizer::unsettled::Unsettled;
use anyhow::Result;

/// The byte of a token of the form `<0x0A>`.
pub(crate) fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// Tokens, one at a time → text, in whole characters.
pub struct Decoder<'a> {
    tokenizer: &'a Tokenizer,
    state: DecoderState,
}

enum DecoderState {
    /// Every token stands for bytes, and those of a character may be spread over several tokens.
    Bytes { pending: Vec<u8> },
    /// The library's decoder, which looks at several tokens.
    Library(DecodingWindow),
}

/// The newest tokens, enough of them for the library to decode the next as it would in the whole.
struct DecodingWindow {
    ids: Vec<u32>,
    /// How many of `ids` were handed out, or belong to the prompt.
    n_given: usize,
    /// The text of these.
    given: String,
}

impl Tokenizer {
    /// Decodes token by token what follows `prompt`.
    pub fn decoder(&self, prompt: &[u32]) -> Decoder<'_> {
        Decoder::new(self, prompt)
    }
}

/// Tokens of a prompt that decide how the text after it begins.
const LAST_OF_PROMPT: usize = 64;

impl<'a> Decoder<'a> {
    /// Decodes what follows `prompt`.
    pub(crate) fn new(tokenizer: &'a Tokenizer, prompt: &[u32]) -> Self {
        let state = if tokenizer.joins_bytes() {
            DecoderState::Bytes { pending: Vec::new() }
        } else {
            let text_of = |ids: &[u32]| tokenizer.library_text(ids).unwrap_or_default();
            let mut ids = prompt[prompt.len().saturating_sub(LAST_OF_PROMPT)..].to_vec();
            if text_of(&ids).is_empty() {
                ids = prompt.to_vec();
            }
            DecoderState::Library(DecodingWindow { n_given: ids.len(), given: text_of(&ids), ids })
        };
        Self { tokenizer, state }
    }

    /// The text that is settled with `id`; it may be empty.
    ///
    /// # Errors
    /// When the library's decoder fails.
    pub fn push(&mut self, id: u32) -> Result<String> {
        match &mut self.state {
            DecoderState::Bytes { pending } => {
                pending.extend(self.tokenizer.bytes_of(id));
                Ok(whole_characters(pending))
            }
            DecoderState::Library(window) => {
                window.ids.push(id);
                window.settled(self.tokenizer)
            }
        }
    }

    /// The text that was held back, at the end: bytes that never became a character are U+FFFD.
    ///
    /// # Errors
    /// When the library's decoder fails.
    pub fn flush(&mut self) -> Result<String> {
        match &mut self.state {
            DecoderState::Bytes { pending } => Ok(String::from_utf8_lossy(&std::mem::take(pending)).into_owned()),
            DecoderState::Library(window) => {
                let text = window.fresh(self.tokenizer)?;
                window.give(self.tokenizer)?;
                Ok(text)
            }
        }
    }
}

impl DecodingWindow {
    /// Hands out the text that no later token changes.
    fn settled(&mut self, tokenizer: &Tokenizer) -> Result<String> {
        let Unsettled { byte_runs, replacement, all } = tokenizer.unsettled();
        let in_byte_run =
            || self.ids.last().and_then(|&id| tokenizer.token_name(id)).is_some_and(|t| fallback_byte(&t).is_some());
        if all || byte_runs && in_byte_run() {
            return Ok(String::new());
        }
        let text = self.fresh(tokenizer)?;
        if text.is_empty() || replacement && text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        self.give(tokenizer)?;
        Ok(text)
    }

    /// The text of the tokens that were not handed out.
    fn fresh(&self, tokenizer: &Tokenizer) -> Result<String> {
        let whole = tokenizer.library_text(&self.ids)?;
        match whole.strip_prefix(self.given.as_str()) {
            Some(fresh) => Ok(fresh.to_owned()),
            // The text before has changed: bytes after a prompt that ends in bytes.
            None => tokenizer.library_text(&self.ids[self.n_given..]),
        }
    }

    /// Counts all tokens as handed out, and forgets those that no longer matter.
    fn give(&mut self, tokenizer: &Tokenizer) -> Result<()> {
        let newest = tokenizer.library_text(&self.ids[self.n_given..])?;
        // A decoder may treat the first characters of a text in its own way: some must stand before the next token.
        if newest.is_empty() {
            self.given = tokenizer.library_text(&self.ids)?;
        } else {
            self.ids.drain(..self.n_given);
            self.given = newest;
        }
        self.n_given = self.ids.len();
        Ok(())
    }
}

/// Takes from `pending` all but a character that is still incomplete; bytes that can become none are U+FFFD.
fn whole_characters(pending: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut incomplete = 0;
    for chunk in pending.utf8_chunks() {
        text.push_str(chunk.valid());
        if chunk.invalid().is_empty() {
            continue;
        }
        let at_end = chunk.invalid().as_ptr_range().end == pending.as_ptr_range().end;
        let may_grow = std::str::from_utf8(chunk.invalid()).is_err_and(|e| e.error_len().is_none());
        if at_end && may_grow {
            incomplete = chunk.invalid().len();
        } else {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    pending.drain(..pending.len() - incomplete);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tokenizer;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// Tokenizers of many kinds, made by scripts/conformance/tokenizer_kinds.py.
    const KINDS: [&str; 9] = [
        "byte-level",
        "split-bytes-nfc",
        "metaspace-bytes",
        "sentencepiece-bytes",
        "unigram-bytes",
        "word-piece",
        "gpt1",
        "ctc",
        "late-replace",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn pieces_add_up_to_the_decoding_of_all(
            kind in 0..KINDS.len(),
            ids in prop::collection::vec(any::<prop::sample::Index>(), 1..40),
            n_prompt in any::<prop::sample::Index>(),
        ) {
            let tokenizer = tokenizer(KINDS[kind]);
            let ids: Vec<u32> = ids.iter().map(|id| id.index(tokenizer.vocab_size()) as u32).collect();
            let (prompt, rest) = ids.split_at(n_prompt.index(ids.len()));
            let (whole, before) = (tokenizer.decode(&ids).unwrap(), tokenizer.decode(prompt).unwrap());
            prop_assume!(whole.starts_with(&before) && !before.ends_with(char::REPLACEMENT_CHARACTER));
            let mut decoder = tokenizer.decoder(prompt);
            let mut streamed: String = rest.iter().map(|&id| decoder.push(id).unwrap()).collect();
            streamed += &decoder.flush().unwrap();
            prop_assert_eq!(before + &streamed, whole, "{}", KINDS[kind]);
        }
    }

    #[test]
    fn bytes_of_no_character_neither_end_the_text_nor_come_too_early() {
        let tokenizer = tokenizer("sentencepiece-bytes");
        let id = |token: &str| tokenizer.token_id(token).unwrap();
        let mut decoder = tokenizer.decoder(&tokenizer.encode("The").unwrap());
        let mut push = |token: &str| decoder.push(id(token)).unwrap();
        assert_eq!([push("<0xE3>"), push("<0x81>")], ["", ""]);
        assert_eq!(push("▁"), "\u{fffd}\u{fffd} ");
        assert_eq!([push("<0xE3>"), push("<0x81>"), push("<0x82>")], ["", "", ""]);
        assert_eq!(push("a"), "あa");
        assert_eq!(push("<0x0A>"), "");
        assert_eq!(decoder.flush().unwrap(), "\n");
    }

    #[test]
    fn the_form_of_a_decoder_says_what_it_may_change() {
        let replace = |pattern: &str| json!({ "type": "Replace", "pattern": { "String": pattern }, "content": " " });
        let fuse = json!({ "type": "Fuse" });
        let of = |steps: Value| Unsettled::of(&json!({ "type": "Sequence", "decoders": steps }));
        assert_eq!(of(json!([replace("__"), fuse, replace("_")])), Unsettled::default());
        assert!(of(json!([fuse, replace("__")])).all);
        assert!(of(json!([{ "type": "ByteFallback" }, fuse])).byte_runs);
        assert!(of(json!([{ "type": "ByteLevel" }, replace("_")])).replacement);
        assert_eq!(Unsettled::of(&Value::Null), Unsettled::default());
        assert_eq!((fallback_byte("<0x0A>"), fallback_byte("<0x0>"), fallback_byte("a")), (Some(10), None, None));
    }
}
