//! Any manifest beside a small token file opens and gives windows, or is refused.
#![no_main]

use gptkit_data::batch::Windows;
use gptkit_data::shard::{Corpus, Manifest};
use libfuzzer_sys::fuzz_target;
use std::fs;
use std::sync::Arc;

fuzz_target!(|manifest: &[u8]| {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("manifest.json"), manifest).unwrap();
    fs::write(folder.path().join("0-train-000.bin"), [7; 64]).unwrap();
    fs::write(folder.path().join("0-val-000.bin"), [7; 16]).unwrap();
    let Ok(manifest) = Manifest::read(folder.path()) else { return };
    manifest.fingerprint();
    let Ok(corpus) = Corpus::open(folder.path(), &manifest) else { return };
    let Ok(windows) = Windows::new(Arc::new(corpus), 4, 1) else { return };
    windows.batch(u64::from(manifest.token_bytes == 2), 8);
});
