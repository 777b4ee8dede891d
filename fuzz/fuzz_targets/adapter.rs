//! Any `adapter_config.json` and any `adapter_model.safetensors` make a model with their base, or are refused.
#![no_main]

use candle_core::Device;
use libfuzzer_sys::fuzz_target;
use model::folder::{load_model, save_description, save_weights};
use model::{Kind, ModelConfig, Params};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

/// A sound base model.
static BASE: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let config = ModelConfig {
        kind: Kind::Gpt2,
        n_layer: 1,
        n_head: 1,
        d_model: 2,
        context: 2,
        vocab_size: 3,
        band: None,
        embedding_dropout: 0.0,
        attention_dropout: 0.0,
        residual_dropout: 0.0,
        layer_norm_eps: 1e-5,
        n_inner: None,
        tie_word_embeddings: true,
    };
    let tokenizer = data::tokenizer::Tokenizer::of_characters(&['a', 'b'].into()).unwrap();
    save_description(folder.path(), &config, &tokenizer).unwrap();
    save_weights(folder.path(), &Params::init(&config, 1, &Device::Cpu).unwrap()).unwrap();
    folder
});

fn description(base: &Path) -> serde_json::Value {
    serde_json::json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": 1, "lora_alpha": 2.0,
        "lora_dropout": 0.0, "target_modules": ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"],
        "fan_in_fan_out": true, "bias": "none", "inference_mode": true, "trainable_token_indices": null,
    })
}

fuzz_target!(|parts: (u8, &str, &[u8])| {
    let (which, json, weights) = parts;
    let folder = tempfile::tempdir().unwrap();
    let mut file = description(BASE.path());
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
    fs::write(folder.path().join("adapter_model.safetensors"), weights).unwrap();
    let _ = load_model(folder.path(), &Device::Cpu);
});
