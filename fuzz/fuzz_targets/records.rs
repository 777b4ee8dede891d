//! Any bytes are records, and records any dialogues, or refused, in each of the forms.
#![no_main]

use data::dialogue::read_dialogues;
use data::progress::Silent;
use data::source::OnBadRecord;
use libfuzzer_sys::fuzz_target;
use std::fs;

fuzz_target!(|bytes: &[u8]| {
    let Some((&which, bytes)) = bytes.split_first() else { return };
    let folder = tempfile::tempdir().unwrap();
    let ending = ["jsonl", "csv", "tsv", "csv.gz", "jsonl.zst"][usize::from(which) % 5];
    let path = folder.path().join(format!("records.{ending}"));
    fs::write(&path, bytes).unwrap();
    let _ = read_dialogues(&path, OnBadRecord::Skip, &Silent, &mut |dialogue| {
        assert!(dialogue.messages.len() >= 2);
        Ok(())
    });
});
