//! Any file of records or text becomes shards, or is refused with its line.
#![no_main]

use gptkit_data::prepare::prepare;
use gptkit_data::progress::Silent;
use gptkit_data::source::{DataConfig, OnBadRecord, SourceConfig};
use gptkit_data::tokenizer::{TokenizerConfig, TokenizerKind};
use libfuzzer_sys::fuzz_target;
use std::fs;

fuzz_target!(|parts: (u8, &[u8])| {
    let (which, bytes) = parts;
    let folder = tempfile::tempdir().unwrap();
    let names = ["a.jsonl", "a.txt", "a.jsonl.gz", "a.txt.zst", "a.json", "a.csv", "a.tsv.gz", "a.parquet"];
    let name = names[usize::from(which % 8)];
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    let data = DataConfig {
        sources: vec![SourceConfig { path: path.to_string_lossy().into_owned(), weight: None }],
        on_bad_record: if which & 8 == 0 { OnBadRecord::Fail } else { OnBadRecord::Skip },
        shards: folder.path().join("shards"),
        ..DataConfig::default()
    };
    let tokenizer = TokenizerConfig { train: Some(TokenizerKind::Char), ..TokenizerConfig::default() };
    let _ = prepare(&data, &tokenizer, None, &Silent);
});
