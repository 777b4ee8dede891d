//! Checks the claims of a `tokenizer.json` before its library takes memory for them.
//!
//! The library trusts the file: an id of four billion asks for a table of four billion rows, and ten normalizers that
//! replace a letter by a thousand make a terabyte of one word.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::fmt;

/// Most entries of a vocabulary, and the first id beyond all; published vocabularies have up to 262,144.
pub(crate) const MOST_ENTRIES: usize = 1 << 20;
/// Longest entry, in bytes.
const LONGEST_ENTRY: usize = 1 << 16;
/// Most values in the file's parts around the model.
const MOST_VALUES: usize = 100_000;
/// Most text in these, in bytes; published tables of characters have 400,000.
const MOST_TEXT: usize = 8 << 20;
/// Longest text that is put into or taken off a word, in bytes.
const LONGEST_PART: usize = 1000;
/// Most that a chain of replacements may make of a byte.
const LARGEST_FACTOR: f64 = 64.0;
/// Most steps of a normalizer, a pre-tokenizer or a decoder; published ones have up to 20.
const MOST_STEPS: usize = 100;
/// Longest text that SentencePiece's table may put in the place of a character, in bytes; published ones have 33.
const LONGEST_REPLACEMENT: usize = 100;
/// Longest word that WordPiece may look up, in characters: its time is quadratic. The usual setting is 100.
const LONGEST_WORD: u64 = 1000;

/// Whether the `tokenizer.json` in `text` stays within what memory and time allow.
///
/// # Errors
/// Says which part does not.
pub(crate) fn check(text: &str) -> Result<()> {
    let outline: Outline = serde_json::from_str(text)?;
    if let Some(model) = &outline.model {
        model.check()?;
    }
    for token in outline.added_tokens.iter().flatten() {
        within("an added token", token.id, &token.content)?;
    }
    let around = [outline.normalizer, outline.pre_tokenizer, outline.post_processor, outline.decoder];
    let mut all = ValueSize::default();
    for part in around.into_iter().flatten() {
        all.add(part);
    }
    ensure!(
        all.values <= MOST_VALUES,
        "it has {} values outside of its model; the maximum is {MOST_VALUES}",
        all.values
    );
    ensure!(
        all.text <= MOST_TEXT,
        "it has {} bytes of text outside of its model; the maximum is {MOST_TEXT}",
        all.text
    );
    let parts: OutlineParts = serde_json::from_str(text)?;
    let parts = [("normalizer", parts.normalizer), ("pre_tokenizer", parts.pre_tokenizer), ("decoder", parts.decoder)];
    for (name, part) in parts {
        let mut steps = 0;
        let factor = growth(&part, &mut steps).with_context(|| format!("its {name}"))?;
        ensure!(steps <= MOST_STEPS, "its {name} has {steps} steps; the maximum is {MOST_STEPS}");
        ensure!(factor <= LARGEST_FACTOR, "its {name} makes text up to {factor:.0} times as long");
    }
    Ok(())
}

/// Whether the `vocab.json` in `text` stays within the same bounds.
///
/// # Errors
/// Says which entry does not.
pub(crate) fn check_vocabulary(text: &str) -> Result<()> {
    serde_json::from_str::<Vocabulary>(text)?;
    Ok(())
}

/// Whether an id and its entry are of a size that a vocabulary has.
///
/// # Errors
/// When they are not.
pub(crate) fn within(what: &str, id: u64, entry: &str) -> Result<()> {
    ensure!(id < MOST_ENTRIES as u64, "{what} has the id {id}; ids must be below {MOST_ENTRIES}");
    ensure!(entry.len() <= LONGEST_ENTRY, "{what} has {} bytes; the maximum is {LONGEST_ENTRY}", entry.len());
    Ok(())
}

#[derive(Deserialize)]
struct Outline {
    #[serde(default)]
    model: Option<OutlineModel>,
    #[serde(default)]
    added_tokens: Option<Vec<Added>>,
    #[serde(default)]
    normalizer: Option<ValueSize>,
    #[serde(default)]
    pre_tokenizer: Option<ValueSize>,
    #[serde(default)]
    post_processor: Option<ValueSize>,
    #[serde(default)]
    decoder: Option<ValueSize>,
}

#[derive(Deserialize)]
struct Added {
    #[serde(default)]
    id: u64,
    #[serde(default)]
    content: String,
}

#[derive(Deserialize)]
struct OutlineParts {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
}

#[derive(Deserialize)]
struct OutlineModel {
    #[serde(default)]
    vocab: Option<Vocabulary>,
    #[serde(default)]
    merges: Option<Merges>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    max_input_chars_per_word: Option<u64>,
}

impl OutlineModel {
    fn check(&self) -> Result<()> {
        let affixes = [&self.continuing_subword_prefix, &self.end_of_word_suffix];
        for affix in affixes.into_iter().flatten() {
            ensure!(affix.len() <= LONGEST_PART, "an affix has {} bytes; the maximum is {LONGEST_PART}", affix.len());
        }
        let longest = self.max_input_chars_per_word.unwrap_or(0);
        ensure!(longest <= LONGEST_WORD, "max_input_chars_per_word is {longest}; the maximum is {LONGEST_WORD}");
        // The library cuts the prefix off the second part of each merge without looking.
        let prefix = self.continuing_subword_prefix.as_ref().map_or(0, String::len);
        if let (Some(Merges(merges)), 1..) = (&self.merges, prefix) {
            for (_, second) in merges {
                ensure!(second.is_char_boundary(prefix), "the merge with {second:?} does not begin with the prefix");
            }
        }
        let entries = self.vocab.as_ref().map_or(0, |vocabulary| vocabulary.entries);
        ensure!(entries <= MOST_ENTRIES, "it has more than {MOST_ENTRIES} entries");
        Ok(())
    }
}

/// A vocabulary, of which nothing is kept.
#[derive(Default)]
struct Vocabulary {
    entries: usize,
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vocabulary;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a vocabulary")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
                let mut entries = 0;
                while let Some((entry, id)) = map.next_entry::<String, u64>()? {
                    let shown: String = entry.chars().take(40).collect();
                    within(&format!("the entry {shown:?}"), id, &entry).map_err(A::Error::custom)?;
                    entries += 1;
                    if entries > MOST_ENTRIES {
                        return Err(A::Error::custom(format!("the vocabulary has more than {MOST_ENTRIES} entries")));
                    }
                }
                Ok(Vocabulary { entries })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vocabulary, A::Error> {
                let mut entries = 0;
                while let Some((entry, _)) = list.next_element::<(String, f64)>()? {
                    within("an entry", entries as u64, &entry).map_err(A::Error::custom)?;
                    entries += 1;
                }
                Ok(Vocabulary { entries })
            }
        }
        deserializer.deserialize_any(Entries)
    }
}

/// Pairs of entries; an older form writes each as one text.
struct Merges(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Merge {
            Pair((String, String)),
            Text(String),
        }
        let merges = Vec::<Merge>::deserialize(deserializer)?.into_iter().map(|merge| match merge {
            Merge::Pair(pair) => pair,
            Merge::Text(text) => match text.split_once(' ') {
                Some((first, second)) => (first.to_owned(), second.to_owned()),
                None => (text, String::new()), // the library refuses it
            },
        });
        Ok(Self(merges.collect()))
    }
}

/// How many values something holds, and how much text.
#[derive(Debug, Default, Clone, Copy)]
struct ValueSize {
    values: usize,
    text: usize,
}

impl ValueSize {
    fn add(&mut self, other: Self) {
        self.values += other.values;
        self.text += other.text;
    }
}

impl<'de> Deserialize<'de> for ValueSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut counted = Self::default();
        Count(&mut counted).deserialize(deserializer)?;
        Ok(counted)
    }
}

struct Count<'a>(&'a mut ValueSize);

impl<'de> DeserializeSeed<'de> for Count<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Count<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.0.values += 1;
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.0.values += 1;
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.0.values += 1;
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.0.values += 1;
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.0.values += 1;
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.0.values += 1;
        self.0.text += text.len();
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        self.0.values += 1;
        while list.next_element_seed(Count(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.0.values += 1;
        while map.next_key::<IgnoredAny>()?.is_some() {
            map.next_value_seed(Count(self.0))?;
        }
        Ok(())
    }
}

/// How many times as long a part and those in it may make a text; counts them.
fn growth(part: &Value, steps: &mut usize) -> Result<f64> {
    let mut factor = 1.0;
    match part {
        Value::Array(all) => {
            for one in all {
                factor *= growth(one, steps)?;
            }
        }
        Value::Object(fields) => {
            *steps += usize::from(fields.contains_key("type"));
            if fields.get("type").is_some_and(|kind| kind == "ByteLevel") {
                factor *= 2.0; // each byte becomes a character of up to two
            }
            for (key, value) in fields {
                match (key.as_str(), value) {
                    ("precompiled_charsmap", Value::String(map)) => check_character_map(map)?,
                    ("content" | "prepend" | "replacement" | "suffix" | "prefix", Value::String(text)) => {
                        let n = text.len();
                        ensure!(n <= LONGEST_PART, "has a {key} of {n} bytes; the maximum is {LONGEST_PART}");
                        let replaced = match fields.get("pattern").and_then(|pattern| pattern.get("String")) {
                            Some(Value::String(pattern)) => pattern.len().max(1),
                            _ => 1,
                        };
                        if key == "content" {
                            factor *= (n as f64 / replaced as f64).max(1.0);
                        }
                    }
                    ("length", Value::Number(n)) if n.as_u64() == Some(0) => {
                        bail!("splits words into parts of length 0")
                    }
                    _ => factor *= growth(value, steps)?,
                }
            }
        }
        _ => {}
    }
    Ok(factor)
}

/// SentencePiece's table of replaced characters, in base64: the size of a trie, the trie, and the texts that replace,
/// each with a zero after it.
fn check_character_map(map: &str) -> Result<()> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(u32::from(byte - b'A')),
        b'a'..=b'z' => Some(u32::from(byte - b'a') + 26),
        b'0'..=b'9' => Some(u32::from(byte - b'0') + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits: Option<Vec<u32>> = map.trim_end_matches('=').bytes().map(digit).collect();
    let digits = digits.context("has a precompiled_charsmap that is not base64")?;
    let bytes: Vec<u8> = digits
        .chunks(4)
        .flat_map(|chunk| {
            let bits = chunk.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - chunk.len()));
            bits.to_be_bytes().into_iter().skip(1).take(chunk.len() - 1)
        })
        .collect();
    let damaged = "has a damaged precompiled_charsmap";
    let (size, rest) = bytes.split_first_chunk().context(damaged)?;
    let texts = rest.get(u32::from_le_bytes(*size) as usize..).context(damaged)?;
    let longest = texts.split(|&byte| byte == 0).map(<[u8]>::len).max().unwrap_or(0);
    ensure!(longest <= LONGEST_REPLACEMENT, "{damaged}: a character has a replacement of {longest} bytes");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(file: Value) -> String {
        check(&file.to_string()).map_or_else(|e| format!("{e:#}"), |()| "accepted".to_owned())
    }

    #[test]
    fn usual_files_are_accepted_and_huge_claims_are_not() {
        let replace =
            |from: &str, to: String| json!({ "type": "Replace", "pattern": { "String": from }, "content": to });
        let sequence = |all: Vec<Value>| json!({ "type": "Sequence", "normalizers": all });
        let entries: serde_json::Map<String, Value> =
            (0..MOST_ENTRIES + 1).map(|i| (i.to_string(), json!(1))).collect();
        for (file, says) in [
            (json!({ "model": { "vocab": { "a": 0, "b": 7 }, "merges": [["a", "b"], "a b"] } }), "accepted"),
            (json!({ "model": { "vocab": [["a", -1.5], ["b", 0]], "unk_id": 0 }, "added_tokens": [] }), "accepted"),
            (json!({ "normalizer": sequence(vec![replace(" ", "▁".into()), replace("``", "\"".into())]) }), "accepted"),
            (json!({ "normalizer": null, "pre_tokenizer": null, "decoder": null, "model": null }), "accepted"),
            (json!({ "model": { "vocab": { "zzzz": 4294967295u64 } } }), "the entry \"zzzz\" has the id 4294967295"),
            (
                json!({ "model": { "vocab": { "z": 1u64 << 40 } } }),
                "has the id 1099511627776; ids must be below 1048576",
            ),
            (json!({ "model": { "vocab": { "z": -1 } } }), "invalid value: integer `-1`"),
            (json!({ "model": { "vocab": entries } }), "the vocabulary has more than 1048576 entries"),
            (json!({ "model": { "vocab": { "a".repeat(100_000): 1 } } }), "has 100000 bytes"),
            (
                json!({ "added_tokens": [{ "id": 4000000000u64, "content": "x" }] }),
                "an added token has the id 4000000000",
            ),
            (
                json!({ "model": { "continuing_subword_prefix": "é", "merges": [["a", "bé"]] } }),
                "does not begin with the prefix",
            ),
            (json!({ "model": { "max_input_chars_per_word": 1000000 } }), "max_input_chars_per_word is 1000000"),
            (
                json!({ "normalizer": sequence(vec![replace("a", "a".repeat(60)), replace("a", "aa".into())]) }),
                "120 times as long",
            ),
            (
                json!({ "decoder": { "type": "Replace", "pattern": { "Regex": "." }, "content": "a".repeat(65) } }),
                "65 times as long",
            ),
            (
                json!({ "normalizer": { "type": "Prepend", "prepend": "a".repeat(5000) } }),
                "its normalizer: has a prepend of 5000 bytes",
            ),
            (
                json!({ "pre_tokenizer": { "type": "Sequence", "pretokenizers": vec![json!({ "type": "ByteLevel" }); 7] } }),
                "128 times",
            ),
            (
                json!({ "pre_tokenizer": { "type": "Sequence", "pretokenizers": vec![json!({ "type": "Digits" }); 101] } }),
                "102 steps",
            ),
            (
                json!({ "pre_tokenizer": { "type": "FixedLength", "length": 0 } }),
                "its pre_tokenizer: splits words into parts of length 0",
            ),
            (json!({ "decoder": vec![0; 200_000] }), "200001 values outside of its model"),
            (json!({ "normalizer": { "type": "Precompiled", "precompiled_charsmap": "AAAAAAAA////" } }), "accepted"),
            (
                json!({ "normalizer": { "type": "Precompiled", "precompiled_charsmap": "/////wAA" } }),
                "damaged precompiled_charsmap",
            ),
            (
                json!({ "normalizer": { "type": "Precompiled", "precompiled_charsmap": "AAA" } }),
                "damaged precompiled_charsmap",
            ),
            (json!({ "normalizer": { "type": "Precompiled", "precompiled_charsmap": "ö" } }), "not base64"),
            (
                json!({ "normalizer": { "type": "Precompiled", "precompiled_charsmap": format!("AAAAAA{}", "YWFh".repeat(50)) } }),
                "a replacement of 150 bytes",
            ),
        ] {
            let said = refused(file.clone());
            assert!(said.contains(says), "{}: {said}", file.to_string().chars().take(120).collect::<String>());
        }
    }
}
