//! Token ids → text.

use super::{Tokenizer, failed};
use crate::quiet::quietly;
use anyhow::{Result, anyhow, bail};

impl Tokenizer {
    /// Decodes `ids` to bytes: exactly the encoded ones where tokens represent bytes.
    ///
    /// # Errors
    /// When an id is not in the vocabulary.
    pub fn decode_bytes(&self, ids: &[u32]) -> Result<Vec<u8>> {
        if let Some(id) = ids.iter().find(|&&id| self.inner.id_to_token(id).is_none()) {
            bail!("{id} is not a token id: the vocabulary has {} entries", self.vocab_size());
        }
        match &self.bytes {
            Some(bytes) => Ok(ids.iter().flat_map(|&id| &bytes[id as usize]).copied().collect()),
            None => Ok(self.library_text(ids)?.into_bytes()),
        }
    }

    /// Decodes `ids` to text, with U+FFFD for bytes that are not UTF-8.
    ///
    /// # Errors
    /// When an id is not in the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.decode_bytes(ids)?).into_owned())
    }

    /// The text of one token, for display.
    pub fn token_text(&self, id: u32) -> String {
        match self.bytes.as_ref().and_then(|bytes| bytes.get(id as usize)) {
            Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            None => self.token_name(id).unwrap_or_default(),
        }
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

    /// Whether each token represents the same bytes in any context.
    pub(crate) fn joins_bytes(&self) -> bool {
        self.bytes.is_some()
    }

    /// The bytes of a token, where it [stands for bytes](Tokenizer::joins_bytes).
    pub(crate) fn bytes_of(&self, id: u32) -> &[u8] {
        self.bytes.as_ref().and_then(|bytes| bytes.get(id as usize)).map_or(&[], Vec::as_slice)
    }
}
