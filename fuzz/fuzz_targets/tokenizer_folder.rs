//! Any `tokenizer.json` and `tokenizer_config.json` make a tokenizer that encodes and decodes text, or are refused.
#![no_main]

use gptkit_data::text::TextPiece;
use gptkit_data::stitch::Stitcher;
use gptkit_data::tokenizer::Tokenizer;
use libfuzzer_sys::fuzz_target;
use std::fs;

/// A sound file, of which the input replaces one part, so that the library comes to look at this one.
const SOUND: &str = r##"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},"post_processor":null,
"decoder":null,"model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,
"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"ignore_merges":false,
"vocab":{"a":0,"b":1,"Ġ":2,"ab":3,"aa":4},"merges":[["a","b"],["a","a"]]}}"##;
const PARTS: [&str; 5] = ["normalizer", "pre_tokenizer", "decoder", "model", "added_tokens"];

/// Encodes a document that comes in pieces.
fn stitched(tokenizer: &Tokenizer) -> Option<()> {
    let mut stitcher = Stitcher::new(tokenizer);
    let text = "aaab ab bbb a\n".repeat(300);
    for (first, last) in [(true, false), (false, false), (false, true)] {
        let parts = stitcher.push(vec![TextPiece { text: text.clone(), first, last }]).ok()?;
        for part in parts {
            assert!(part.ids.len() == part.bytes.len() && part.ids.len() == part.characters.len());
        }
    }
    Some(())
}

fuzz_target!(|parts: (u8, &str, &str)| {
    let (which, json, config) = parts;
    let folder = tempfile::tempdir().unwrap();
    let text = match PARTS.get(usize::from(which) % (PARTS.len() + 1)) {
        None => json.to_owned(),
        Some(part) => {
            let Ok(value) = serde_json::from_str::<serde_json::Value>(json) else { return };
            let mut file: serde_json::Value = serde_json::from_str(SOUND).unwrap();
            file[part] = value;
            file.to_string()
        }
    };
    fs::write(folder.path().join("tokenizer.json"), text).unwrap();
    fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
    let Ok(tokenizer) = Tokenizer::load(folder.path()) else { return };
    for text in ["aaab ab bbb", "a text of two lines,\nwith ümlauts 12 345\u{2122}"] {
        let Ok(ids) = tokenizer.encode(text) else { continue };
        let _ = tokenizer.decode(&ids);
        let mut decoder = tokenizer.decoder(&ids);
        for id in ids {
            let _ = decoder.push(id);
        }
        let _ = decoder.flush();
    }
    let _ = stitched(&tokenizer);
    let _ = tokenizer.fingerprint();
});
