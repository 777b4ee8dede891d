//! Regular expressions that come with other people's files, in Python's syntax, within limits of time and memory.

use crate::quiet::quietly;
use anyhow::{Result, anyhow, ensure};
use std::sync::Once;
use tokenizers::utils::SysRegex;

/// Longest regular expression that is read, in bytes.
const LONGEST: usize = 10_000;

/// A regular expression.
#[derive(Debug)]
pub struct Pattern {
    source: String,
    whole: SysRegex,
}

impl Pattern {
    /// The expression `source`, as Python's `re` reads it.
    ///
    /// # Errors
    /// When it is not a regular expression, or longer than any that is used.
    pub fn new(source: &str) -> Result<Self> {
        ensure!(source.len() <= LONGEST, "a regular expression has {} bytes; the maximum is {LONGEST}", source.len());
        limit_patterns();
        let inner = source.replace("(?P<", "(?<"); // Python's named groups
        let compile = |text: &str| {
            let compiled = quietly(|| SysRegex::new(text)).map_err(|panicked| anyhow!("{panicked}"))?;
            compiled.map_err(|e| anyhow!("{source:?} is not a valid regular expression: {e}"))
        };
        compile(&inner)?; // alone, so that a bracket in it cannot close the group around it
        Ok(Self { source: source.to_owned(), whole: compile(&format!(r"\A(?:{inner})\z"))? })
    }

    /// The expression as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the whole of `text` matches, as Python's `re.fullmatch` decides.
    ///
    /// # Errors
    /// When matching takes more time or memory than any text deserves.
    pub fn matches(&self, text: &str) -> Result<bool> {
        quietly(|| self.whole.find_iter(text).next().is_some())
            .map_err(|panicked| anyhow!("{:?} cannot be matched against {text:?}: {panicked}", self.source))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_text_matches_as_in_python() {
        for (pattern, text, expected) in [
            (r".*\.h\.[01]\.attn\.c_attn", "transformer.h.1.attn.c_attn", true),
            (r".*\.h\.[01]\.attn\.c_attn", "transformer.h.2.attn.c_attn", false),
            (r"c_attn", "transformer.h.1.attn.c_attn", false),
            (r"c_attn|.*c_fc", "transformer.h.1.mlp.c_fc", true),
            (r"^(?!.*mlp).*c_proj$", "transformer.h.1.attn.c_proj", true),
            (r"^(?!.*mlp).*c_proj$", "transformer.h.1.mlp.c_proj", false),
            (r".*\.(?P<layer>\d+)\.attn\..*", "transformer.h.1.attn.c_proj", true),
        ] {
            assert_eq!(Pattern::new(pattern).unwrap().matches(text).unwrap(), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn what_is_no_expression_or_never_ends_is_refused() {
        for source in ["(", "a)(b", "[", "*"] {
            let error = Pattern::new(source).unwrap_err().to_string();
            assert!(error.contains("is not a valid regular expression"), "{source}: {error}");
        }
        assert!(Pattern::new(&"a".repeat(LONGEST + 1)).is_err());
        let error = Pattern::new("(a*)*b").unwrap().matches(&"a".repeat(40)).map(|found| !found);
        assert!(error.is_err() || error.unwrap());
    }
}
