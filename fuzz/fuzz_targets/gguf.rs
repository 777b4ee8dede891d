//! Any GGUF file is a model with a tokenizer, or is refused.
#![no_main]

use candle_core::{Device, Tensor};
use gptkit_data::tokenizer::Tokenizer;
use gptkit_gguf::{GgmlDType, GgufFile, GgufValue, GgufWriter, Metadata, TensorPlan};
use gptkit_model::load::{ModelFolder, load_config};
use libfuzzer_sys::fuzz_target;
use std::fs;
use std::sync::LazyLock;

/// A sound file of a model with a layer and a vocabulary of three tokens.
static SOUND: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut metadata = Metadata::default();
    for (key, text) in [("general.architecture", "gpt2"), ("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", "gpt-2")] {
        metadata.add(key, GgufValue::Text(text.to_owned()));
    }
    for (key, size) in [
        ("gpt2.block_count", 1),
        ("gpt2.context_length", 4),
        ("gpt2.embedding_length", 2),
        ("gpt2.feed_forward_length", 8),
        ("gpt2.attention.head_count", 1),
        ("tokenizer.ggml.eos_token_id", 2),
    ] {
        metadata.add(key, GgufValue::Integer(size));
    }
    metadata.add("gpt2.attention.layer_norm_epsilon", GgufValue::Float(1e-5));
    metadata.add("tokenizer.ggml.tokens", GgufValue::Texts(["a", "b", "ab"].map(str::to_owned).to_vec()));
    metadata.add("tokenizer.ggml.token_type", GgufValue::Integers(vec![1, 1, 1]));
    metadata.add("tokenizer.ggml.merges", GgufValue::Texts(vec!["a b".to_owned()]));
    let plan = |name: &str, shape: &[usize]| TensorPlan { name: name.to_owned(), shape: shape.to_vec(), dtype: GgmlDType::F32 };
    let mut plans = vec![plan("token_embd.weight", &[3, 2]), plan("position_embd.weight", &[4, 2])];
    for (part, shape) in [("attn_qkv", [6, 2]), ("attn_output", [2, 2]), ("ffn_up", [8, 2]), ("ffn_down", [2, 8])] {
        plans.push(plan(&format!("blk.0.{part}.weight"), &shape));
        plans.push(plan(&format!("blk.0.{part}.bias"), &shape[..1]));
    }
    for norm in ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"] {
        plans.extend(["weight", "bias"].map(|kind| plan(&format!("{norm}.{kind}"), &[2])));
    }
    let mut bytes = Vec::new();
    let mut writer = GgufWriter::begin(&mut bytes, &metadata, plans.clone()).unwrap();
    for plan in plans {
        writer.write(&Tensor::ones(plan.shape, candle_core::DType::F32, &Device::Cpu).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    bytes
});

fuzz_target!(|parts: (bool, Vec<(u16, u8)>, &[u8])| {
    let (is_sound, changes, bytes) = parts;
    // The input is all of the file, or bytes of a sound one.
    let mut file = if is_sound { SOUND.clone() } else { bytes.to_vec() };
    for (at, byte) in changes {
        let n = file.len().max(1);
        if let Some(place) = file.get_mut(usize::from(at) % n) {
            *place = byte;
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, &file).unwrap();
    if let Ok(opened) = GgufFile::open(&path) {
        for tensor in &opened.tensors {
            assert!(tensor.range.end <= file.len() as u64);
            let _ = opened.load(tensor, &Device::Cpu);
        }
    }
    let _ = load_config(&path);
    if let Ok(tokenizer) = Tokenizer::load(&path)
        && let Ok(ids) = tokenizer.encode("a text of two lines,\nab")
    {
        let _ = tokenizer.decode(&ids);
    }
    let _ = ModelFolder::load(&path, &Device::Cpu);
});
