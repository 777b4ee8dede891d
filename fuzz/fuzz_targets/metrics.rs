//! Any `metrics.jsonl` is drawn or refused, and can be cut back to a step.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::fs;
use gptkit_train::curves::{Curves, svg};
use gptkit_train::run::{Run, locked};

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("metrics.jsonl"), bytes).unwrap();
    if let Ok(curves) = Curves::read(folder.path()) {
        svg(&[curves]).unwrap();
    }
    let _ = Run::resume(folder.path(), locked(folder.path()).unwrap(), 3);
});
