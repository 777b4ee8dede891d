//! What a decoder may still change of a text that grows.

use serde_json::Value;

/// The part of the decoded text that a decoder may still change when more tokens come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Unsettled {
    /// A run of byte tokens (`<0xE3>`): one that is no UTF-8 becomes U+FFFD as a whole.
    pub(crate) byte_runs: bool,
    /// U+FFFD at the end: the beginning of a character whose other bytes may follow.
    pub(crate) replacement: bool,
    /// All of the text: a pattern is replaced in it after its tokens were joined.
    pub(crate) all: bool,
}

/// Steps of a decoder, or of a pre-tokenizer, as `tokenizer.json` has them; those of a sequence one by one.
pub(crate) fn steps<'a>(json: &'a Value, of_sequence: &str) -> Vec<&'a Value> {
    match json.get(of_sequence).and_then(Value::as_array) {
        Some(inner) => inner.iter().flat_map(|step| steps(step, of_sequence)).collect(),
        None if json.is_null() => Vec::new(),
        None => vec![json],
    }
}

impl Unsettled {
    /// Reads it from a decoder's JSON.
    pub(crate) fn of(decoder: &Value) -> Self {
        let (mut found, mut joined) = (Self::default(), false);
        for step in steps(decoder, "decoders") {
            match step["type"].as_str().unwrap_or_default() {
                "Fuse" => joined = true,
                "ByteLevel" => (joined, found.replacement) = (true, true),
                "ByteFallback" => found.byte_runs |= !joined,
                "Replace" => {
                    let pattern = step["pattern"]["String"].as_str();
                    found.all |= joined && pattern.is_none_or(|pattern| pattern.chars().count() > 1);
                }
                "BPEDecoder" | "WordPiece" | "CTC" => found.all |= joined,
                _ => {}
            }
        }
        found
    }
}

/// Whether a decoder joins the bytes of tokens and does nothing else, as GPT-2's does.
pub(crate) fn joins_bytes(decoder: &Value) -> bool {
    matches!(steps(decoder, "decoders")[..], [only] if only["type"] == "ByteLevel")
}
