//! Any pair of GPT-2's tokenizer files is a tokenizer that gives text back, or is refused.
#![no_main]

use gptkit_data::tokenizer::Tokenizer;
use libfuzzer_sys::fuzz_target;
use std::fs;

fuzz_target!(|parts: (bool, &str, &str)| {
    let (first, vocabulary, merges) = parts;
    let folder = tempfile::tempdir().unwrap();
    let names = if first { ["vocab.json", "merges.txt"] } else { ["encoder_bpe_40000.json", "vocab_40000.bpe"] };
    fs::write(folder.path().join(names[0]), vocabulary).unwrap();
    fs::write(folder.path().join(names[1]), merges).unwrap();
    let Ok(tokenizer) = Tokenizer::load(folder.path()) else { return };
    if let Ok(ids) = tokenizer.encode("a text of two lines,\nwith ümlauts") {
        let _ = tokenizer.decode(&ids);
    }
});
