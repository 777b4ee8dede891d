//! Special tokens with a meaning of their own, and the settings of byte-level vocabularies.

use super::structure::TokenEncoding;
use anyhow::{Result, anyhow};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, PostProcessorWrapper, Tokenizer as Inner};

/// The token between documents, as GPT-2 calls it.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Special tokens around the texts that a classifier reads (Radford et al. 2018, §3.3): before the first text, between two,
/// and after the last, where the head reads.
pub const FRAME: [&str; 3] = ["<|start|>", "<|delimiter|>", "<|extract|>"];
pub(super) fn byte_level() -> ByteLevel {
    ByteLevel::new(false, true, true)
}

/// The same with a space before each text that has none.
pub(super) fn byte_level_with_space() -> ByteLevel {
    ByteLevel::new(true, true, true)
}

/// Whether `inner` reads texts between the tokens of [`FRAME`] with a space before them, as a classifier's does. The space
/// is taken from `inner`, since text of other kinds is read without it.
pub(super) fn take_frame_space(inner: &mut Inner) -> bool {
    let framed = matches!(inner.get_post_processor(), Some(PostProcessorWrapper::Template(_)));
    let spaced =
        matches!(inner.get_pre_tokenizer(), Some(PreTokenizerWrapper::ByteLevel(b)) if *b == byte_level_with_space());
    let found = framed && spaced && FRAME.iter().all(|token| inner.token_to_id(token).is_some());
    if found {
        inner.with_pre_tokenizer(Some(byte_level()));
    }
    found
}

pub(super) fn special(token: &str) -> AddedToken {
    AddedToken::from(token, true)
}

pub(super) fn add_end_of_text(inner: &mut Inner) -> Result<()> {
    inner.add_special_tokens([special(END_OF_TEXT)]).map_err(|e| anyhow!("{e}"))?;
    Ok(())
}

/// The uses of special tokens in a tokenizer that names none.
pub(super) fn usual_names(inner: &Inner, kind: TokenEncoding, end: Option<u32>) -> Vec<(String, String)> {
    let end = end.and_then(|id| inner.id_to_token(id));
    let of_end = end.iter().flat_map(|end| ["bos_token", "eos_token", "pad_token"].map(|name| (name, end.clone())));
    let unknown = (kind == TokenEncoding::Words).then(|| ("unk_token", "<unk>".to_owned()));
    of_end.chain(unknown).map(|(name, token)| (name.to_owned(), token)).collect()
}
