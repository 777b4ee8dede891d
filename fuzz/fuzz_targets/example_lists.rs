//! Any bytes, and any under a right hash, are examples or refused.
#![no_main]

use gptkit_data::examples::Examples;
use libfuzzer_sys::fuzz_target;
use std::fs;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("examples");
    let mut hashed = [b"gptkitE1", bytes].concat();
    hashed.extend(blake3::hash(&hashed).as_bytes());
    for file in [bytes, &hashed] {
        fs::write(&path, file).unwrap();
        if let Ok(examples) = Examples::open(&path) {
            for i in 0..examples.len() {
                assert_eq!(examples.get(i).len(), examples.length(i));
            }
        }
    }
});
