//! Any bytes are records, and records any dialogues, comparisons or prompts, or refused, in each of the forms.
#![no_main]

use gptkit_data::comparison::read_comparisons;
use gptkit_data::dialogue::{Role, read_dialogues};
use gptkit_data::progress::Silent;
use gptkit_data::prompt::read_prompts;
use gptkit_data::source::OnBadRecord;
use libfuzzer_sys::fuzz_target;
use std::fs;
use std::ops::ControlFlow;

fuzz_target!(|bytes: &[u8]| {
    let Some((&which, bytes)) = bytes.split_first() else { return };
    let folder = tempfile::tempdir().unwrap();
    let ending = ["jsonl", "csv", "tsv", "csv.gz", "jsonl.zst", "json", "parquet"][usize::from(which) % 7];
    let path = folder.path().join(format!("records.{ending}"));
    fs::write(&path, bytes).unwrap();
    let _ = read_dialogues(&path, OnBadRecord::Skip, &Silent, &mut |dialogue| {
        assert!(dialogue.messages.len() >= 2);
        assert!(dialogue.messages.last().unwrap().role == Role::Assistant);
        Ok(ControlFlow::Continue(()))
    });
    let _ = read_comparisons(&path, OnBadRecord::Skip, &Silent, &mut |comparison| {
        assert!(comparison.prompt.last().unwrap().role == Role::User);
        assert_eq!(comparison.completions.len(), comparison.places.len());
        let begins_with_an_answer = |turns: &Vec<gptkit_data::dialogue::Message>| turns[0].role == Role::Assistant;
        assert!(comparison.completions.iter().all(begins_with_an_answer));
        Ok(ControlFlow::Continue(()))
    });
    let _ = read_prompts(&path, OnBadRecord::Skip, &Silent, &mut |prompt| {
        assert!(prompt.messages.last().unwrap().role == Role::User);
        Ok(ControlFlow::Continue(()))
    });
});
