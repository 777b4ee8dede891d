//! `gptkit tokenizer`.

use super::{gptkit, output, run};
use std::path::Path;

/// Emoji, Japanese, tabs, control characters, a lone surrogate's bytes, every byte.
fn anything() -> Vec<u8> {
    let mut bytes =
        "tabs\t\tand  spaces \n\r\n\u{0}\u{7} 日本語のテキスト 👩‍👩‍👧 é e\u{301} <|endoftext|>".as_bytes().to_vec();
    bytes.extend([0xed, 0xa0, 0x80]);
    bytes.extend(0..=255);
    bytes
}

fn decode(folder: &Path, tokenizer: &str, ids: &str) -> Vec<u8> {
    output(folder, &["tokenizer", "decode", "--raw", "--tokenizer", tokenizer], ids.as_bytes()).stdout
}

#[test]
fn a_byte_level_tokenizer_gives_any_bytes_back() {
    let folder = tempfile::tempdir().unwrap();
    gptkit(folder.path(), "tokenizer train --data world:200 --vocab-size 400 --out bpe").ok();
    let ids = run(folder.path(), &["tokenizer", "encode", "--tokenizer", "bpe"], &anything()).ok().out;
    assert!(ids.split_whitespace().all(|id| id.parse::<u32>().unwrap() < 400));
    assert_eq!(decode(folder.path(), "bpe", &ids), anything());
}

#[test]
fn a_character_tokenizer_names_the_character_it_lacks() {
    let folder = tempfile::tempdir().unwrap();
    gptkit(folder.path(), "tokenizer train --kind char --data world:200 --out chars").ok();
    let encode = |text: &[u8]| run(folder.path(), &["tokenizer", "encode", "--tokenizer", "chars"], text);
    let ids = encode(b"a fox met an otter").ok().out;
    assert_eq!(decode(folder.path(), "chars", &ids), b"a fox met an otter");
    let refused = encode("a 狐 met an otter".as_bytes());
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains('狐'), "{}", refused.err);
}
