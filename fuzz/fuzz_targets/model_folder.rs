//! Any `config.json` and any weights file make a model, or are refused before memory is taken for them.
#![no_main]

use candle_core::Device;
use libfuzzer_sys::fuzz_target;
use gptkit_model::load::load_model;
use std::fs;

fuzz_target!(|parts: (u8, &str, &[u8])| {
    let (which, json, weights) = parts;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    // The other file is a sound one, so that the reader comes to look at this one.
    let config = r#"{"model_type":"gpt2","vocab_size":3,"n_positions":2,"n_embd":2,"n_layer":1,"n_head":1}"#;
    fs::write(path("config.json"), if which % 3 == 0 { json } else { config }).unwrap();
    if which % 3 == 1 {
        fs::write(path("model.safetensors.index.json"), json).unwrap();
        fs::write(path("part.safetensors"), weights).unwrap();
    } else {
        fs::write(path("model.safetensors"), weights).unwrap();
    }
    let _ = load_model(folder.path(), &Device::Cpu);
});
