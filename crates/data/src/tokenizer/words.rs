//! Words of a text as GPT-2's pattern divides it (Radford et al. 2019, §2.2; `encoder.py`), without a pattern engine:
//!
//! ```text
//! 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//! ```

use regex_syntax::hir::{Class as HirClass, HirKind};
use std::sync::LazyLock;

/// Character classes of the pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CharacterClass {
    /// `[^\s\p{L}\p{N}]`
    Other,
    /// `\p{L}`
    Letter,
    /// `\p{N}`
    Number,
    /// `\s`
    Space,
}

/// Class of each character, by its code; those after the last entry are [`CharacterClass::Other`].
static CLASSES: LazyLock<Vec<CharacterClass>> = LazyLock::new(|| {
    let mut classes = Vec::new();
    for (pattern, class) in
        [(r"\p{L}", CharacterClass::Letter), (r"\p{N}", CharacterClass::Number), (r"\s", CharacterClass::Space)]
    {
        let Ok(parsed) = regex_syntax::parse(pattern) else { continue };
        let HirKind::Class(HirClass::Unicode(characters)) = parsed.kind() else { continue };
        for range in characters.iter() {
            let (first, last) = (range.start() as usize, range.end() as usize);
            if classes.len() <= last {
                classes.resize(last + 1, CharacterClass::Other);
            }
            classes[first..=last].fill(class);
        }
    }
    classes
});

/// Class of each ASCII character.
static ASCII: [CharacterClass; 128] = {
    let mut classes = [CharacterClass::Other; 128];
    let mut byte = 0;
    while byte < 128 {
        let c = byte as u8;
        if c.is_ascii_alphabetic() {
            classes[byte] = CharacterClass::Letter;
        } else if c.is_ascii_digit() {
            classes[byte] = CharacterClass::Number;
        } else if matches!(c, b' ' | 0x09..=0x0D) {
            classes[byte] = CharacterClass::Space;
        }
        byte += 1;
    }
    classes
};

/// Words of `text`, in order; together they are the text.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut start = 0;
    std::iter::from_fn(move || {
        (start < text.len()).then(|| {
            let end = word_end(text, start);
            let word = &text[start..end];
            start = end;
            word
        })
    })
}

/// Where the word ends that begins at the byte `start`, which is before the end of `text`.
fn word_end(text: &str, start: usize) -> usize {
    let bytes = text.as_bytes();
    let (class, after) = class_at(text, start);
    if bytes[start] == b'\''
        && let Some(length) = contraction(&bytes[after..])
    {
        return after + length;
    }
    if class != CharacterClass::Space {
        return run_end(text, after, class);
    }
    if bytes[start] == b' ' && after < text.len() {
        let (next, after_next) = class_at(text, after);
        if next != CharacterClass::Space {
            return run_end(text, after_next, next);
        }
    }
    // White space before other text leaves its last character to the next word, unless it has only one.
    let end = run_end(text, after, CharacterClass::Space);
    if end == text.len() {
        return end;
    }
    let last = text[start..end].char_indices().next_back().map_or(0, |(at, _)| at);
    if last == 0 { end } else { start + last }
}

/// Bytes of the contraction's letters that `rest`, the text behind an apostrophe, begins with.
fn contraction(rest: &[u8]) -> Option<usize> {
    match rest {
        [b's' | b't' | b'm' | b'd', ..] => Some(1),
        [b'r' | b'v', b'e', ..] | [b'l', b'l', ..] => Some(2),
        _ => None,
    }
}

/// Where the run of characters of `class` ends that continues at the byte `at`.
fn run_end(text: &str, mut at: usize, class: CharacterClass) -> usize {
    while at < text.len() {
        let (next, after) = class_at(text, at);
        if next != class {
            break;
        }
        at = after;
    }
    at
}

/// Class of the character at the byte `at`, and where the next character begins.
fn class_at(text: &str, at: usize) -> (CharacterClass, usize) {
    let byte = text.as_bytes()[at];
    if byte < 128 {
        return (ASCII[usize::from(byte)], at + 1);
    }
    let c = text[at..].chars().next().unwrap_or_default();
    (CLASSES.get(c as usize).copied().unwrap_or(CharacterClass::Other), at + c.len_utf8())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::special::byte_level;
    use proptest::prelude::*;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    /// Words of `text` as the tokenizers library divides it.
    fn of_library(text: &str) -> Vec<String> {
        let mut divided = PreTokenizedString::from(text);
        byte_level().pre_tokenize(&mut divided).unwrap();
        let words = divided.get_splits(OffsetReferential::Original, OffsetType::Byte);
        words.into_iter().map(|(_, (start, end), _)| text[start..end].to_owned()).collect()
    }

    fn check(text: &str) {
        let words: Vec<&str> = words(text).collect();
        assert_eq!(words, of_library(text), "{text:?}");
    }

    #[test]
    fn every_character_has_the_class_that_the_library_gives_it() {
        let all: Vec<char> = ('\0'..=char::MAX).collect();
        for some in all.chunks(1 << 14) {
            // A letter, a number, a sign and white space before each show to which of them it belongs.
            let text: String = some.iter().flat_map(|&c| ['a', c, '1', c, '-', c, '\n', c, c, 'a']).collect();
            assert!(words(&text).eq(of_library(&text)), "from {:?}", some[0]);
        }
    }

    #[test]
    fn words_at_the_edges_of_the_pattern() {
        for text in [
            "",
            " ",
            "  ",
            "\n",
            "a",
            " a",
            "  a",
            "\u{a0}a",
            " \u{a0}a",
            "a \u{3000} b",
            "'",
            "''s",
            " 's",
            "'S",
            "'re're",
            "'r",
            "'l",
            "'lla",
            "don't",
            "x've'd",
            "1st",
            "½ cup",
            "e\u{301}",
            "\u{301}",
            "a\r\n\r\nb",
            "\t\t",
            "a\t b",
            "…'s",
            "²³",
            "ª",
            "中文 字",
            "🙂🙂 🙂",
            "\u{85}",
            "\u{200b} \u{feff}x",
            "\0\0 \0",
            "a\u{2028}b",
            "\u{1680}1",
        ] {
            check(text);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn words_are_the_librarys(
            parts in prop::collection::vec("'|'s|'ll| |  |\n|\t|[a-c]{1,3}|[0-9]{1,2}|\\PC|\\p{L}|\\p{N}|\\p{Z}|\\p{M}|.|\u{85}", 0..40),
        ) {
            check(&parts.concat());
        }
    }
}
