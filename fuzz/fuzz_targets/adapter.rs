//! Any `adapter_config.json` and any `adapter_model.safetensors` make a model with their base, or are refused.
#![no_main]

use candle_core::Device;
use libfuzzer_sys::fuzz_target;
use gptkit_model::folder::{save_description, save_weights};
use gptkit_model::load::{load_model};
use gptkit_model::{ModelConfig, Params};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

/// A sound base model.
static BASE: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let config = serde_json::json!({
        "kind": "gpt2", "n_layer": 1, "n_head": 1, "d_model": 2, "context": 2, "vocab_size": 3,
    });
    let config: ModelConfig = serde_json::from_value(config).unwrap();
    let tokenizer = gptkit_data::tokenizer::Tokenizer::of_characters(&['a', 'b'].into()).unwrap();
    save_description(folder.path(), &config, &tokenizer).unwrap();
    save_weights(folder.path(), &Params::init(&config, 1, &Device::Cpu).unwrap()).unwrap();
    folder
});

/// Descriptions that are sound, each with other keys.
fn description(base: &Path, which: u8) -> serde_json::Value {
    let mut description = serde_json::json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": 1, "lora_alpha": 2.0,
        "lora_dropout": 0.0, "target_modules": ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"],
        "fan_in_fan_out": true, "bias": "none", "inference_mode": true, "trainable_token_indices": null,
    });
    let more = [
        serde_json::json!({}),
        serde_json::json!({ "target_modules": ".*\\.h\\.0\\.(attn|mlp)\\.c_proj", "use_rslora": true }),
        serde_json::json!({ "target_modules": "all-linear", "rank_pattern": { "c_.*": 2 }, "alpha_pattern": { "h\\.0.*": 3 } }),
        serde_json::json!({ "target_modules": ["c_attn"], "modules_to_save": ["wte", "ln_f"], "exclude_modules": ".*mlp.*" }),
        serde_json::json!({ "target_modules": ["c_attn", "wte", "lm_head"], "lora_bias": true }),
        serde_json::json!({ "target_modules": ["c_attn"], "trainable_token_indices": { "wte": [0, 3], "lm_head": [1] } }),
        serde_json::json!({ "target_modules": ["c_fc"], "use_dora": true, "layers_to_transform": [0], "layers_pattern": "h" }),
        serde_json::json!({ "target_modules": ["c_attn"], "bias": "all", "trainable_token_indices": [0, 2] }),
    ];
    for (key, value) in more[usize::from(which) % more.len()].as_object().unwrap() {
        description[key] = value.clone();
    }
    description
}

/// A safetensors file whose names and shapes are drawn from those of adapters by `choices`, two bytes a tensor.
fn weights(choices: &[u8]) -> Vec<u8> {
    const MODULES: [&str; 8] = [
        "transformer.h.0.attn.c_attn",
        "transformer.h.0.attn.c_proj",
        "transformer.h.0.mlp.c_fc",
        "transformer.h.0.mlp.c_proj",
        "transformer.wte",
        "transformer.wpe",
        "transformer.ln_f",
        "lm_head",
    ];
    const PARTS: [&str; 10] = [
        "lora_A.weight",
        "lora_B.weight",
        "lora_B.bias",
        "lora_magnitude_vector",
        "lora_embedding_A",
        "lora_embedding_B",
        "token_adapter.trainable_tokens_delta",
        "weight",
        "base_layer.bias",
        "bias",
    ];
    const SHAPES: [&[usize]; 12] =
        [&[1, 2], &[2, 1], &[6, 1], &[8, 1], &[1, 8], &[1, 3], &[3, 2], &[2], &[6], &[4, 2], &[2, 8], &[0]];
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for pair in choices.chunks_exact(2) {
        let (module, part) = (MODULES[usize::from(pair[0]) % 8], PARTS[usize::from(pair[0] / 8) % 10]);
        let shape = SHAPES[usize::from(pair[1]) % 12];
        let end = at + 4 * shape.iter().product::<usize>();
        let tensor = serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [at, end] });
        if header.insert(format!("base_model.model.{module}.{part}"), tensor).is_none() {
            at = end;
        } else {
            return Vec::new();
        }
    }
    let header = serde_json::Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; at]].concat()
}

fuzz_target!(|parts: (u8, &str, &[u8])| {
    let (which, json, bytes) = parts;
    let folder = tempfile::tempdir().unwrap();
    let mut file = description(BASE.path(), which / 4);
    match which % 4 {
        // The input is all of the description, or fields of a sound one, or the weights beside it.
        0 => {
            fs::write(folder.path().join("adapter_config.json"), json).unwrap();
        }
        1 | 2 => {
            let Ok(serde_json::Value::Object(fields)) = serde_json::from_str(json) else { return };
            for (key, value) in fields {
                // `.` stands for the folder itself.
                file[&key] = if value == "." { serde_json::json!(folder.path()) } else { value };
            }
            fs::write(folder.path().join("adapter_config.json"), file.to_string()).unwrap();
        }
        _ => fs::write(folder.path().join("adapter_config.json"), file.to_string()).unwrap(),
    }
    let drawn = if bytes.first().is_some_and(|byte| byte % 2 == 0) { weights(&bytes[1..]) } else { bytes.to_vec() };
    fs::write(folder.path().join("adapter_model.safetensors"), drawn).unwrap();
    let _ = load_model(folder.path(), &Device::Cpu);
});
