//! Any state under a right seal is read or refused, and so is any seal.
#![no_main]

use gptkit_data::disk;
use gptkit_data::progress::Silent;
use libfuzzer_sys::fuzz_target;
use std::fs;
use gptkit_train::checkpoint;

fuzz_target!(|bytes: &[u8]| {
    let Some((&which, bytes)) = bytes.split_first() else { return };
    let run = tempfile::tempdir().unwrap();
    let folder = run.path().join("checkpoints/step-000001");
    disk::create_dir(&folder).unwrap();
    fs::write(folder.join("state.json"), bytes).unwrap();
    if which % 2 == 0 {
        disk::seal(&folder).unwrap();
    } else {
        fs::write(folder.join("manifest.json"), bytes).unwrap();
    }
    let _ = checkpoint::newest(run.path(), &Silent);
});
