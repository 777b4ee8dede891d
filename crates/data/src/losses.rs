//! Characters that a vocabulary has no token for: the library leaves them out, or puts the unknown token in their place.

use crate::progress::{Progress, grouped};
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// Characters of texts that were lost in tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// How many.
    pub characters: u64,
    /// All characters of these texts.
    pub of: u64,
    /// The first that was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub example: Option<char>,
}

impl Losses {
    /// Whether nothing was lost.
    pub fn is_none(&self) -> bool {
        self.characters == 0
    }

    /// Counts `lost` characters of a text of `of`.
    pub(crate) fn add(&mut self, lost: impl IntoIterator<Item = char>, of: u64) {
        self.of += of;
        for c in lost {
            self.characters += 1;
            self.example.get_or_insert(c);
        }
    }

    /// Adds what was counted elsewhere.
    pub fn merge(&mut self, other: &Self) {
        self.characters += other.characters;
        self.of += other.of;
        self.example = self.example.or(other.example);
    }

    /// Describes them; `what` are the texts.
    fn describe(&self, what: &str) -> String {
        let percent = 100.0 * self.characters as f64 / self.of.max(1) as f64;
        let example = self.example.unwrap_or(char::REPLACEMENT_CHARACTER);
        format!(
            "{what}: {} of {} characters ({percent:.2}%) are not in the tokenizer's vocabulary; they are dropped or \
             become the unknown token; the first is {example:?} (U+{:04X})",
            grouped(self.characters),
            grouped(self.of),
            u32::from(example)
        )
    }

    /// Warns of them, if there are any; `what` are the texts.
    pub fn warn(&self, what: &str, progress: &dyn Progress) {
        if !self.is_none() {
            progress.warn(&self.describe(what));
        }
    }

    /// [`Losses::warn`] for texts that a model is trained on.
    ///
    /// # Errors
    /// When more than half of the characters are lost: what is left is another text.
    pub fn check(&self, what: &str, progress: &dyn Progress) -> Result<()> {
        if 2 * self.characters > self.of {
            bail!("{}; use a tokenizer that covers this text", self.describe(what));
        }
        self.warn(what, progress);
        Ok(())
    }
}
