//! `config.json` as Hugging Face's classes have it, both ways.
//!
//! GPT-3's kind has no class there: its folder says `gpt2`, whose computation is the same for windows within the band, and
//! `window_size` besides, which tells it apart here. The baselines have types of our own, which `transformers` refuses
//! instead of misreading them.

use crate::config::{Kind, ModelConfig, PositionInit};
use anyhow::{Result, bail, ensure};
use gptkit_config::{Check, Problems};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// What `config.json` says of a model of shape `config`.
pub(crate) fn config_json(config: &ModelConfig) -> Value {
    let (model_type, class, activation) = match config.kind {
        Kind::Gpt1 => ("openai-gpt", "OpenAIGPTLMHeadModel", "afn"),
        Kind::Gpt2 | Kind::Gpt3 => ("gpt2", "GPT2LMHeadModel", "activation_function"),
        Kind::Lstm => (LSTM, "GptkitLstmModel", "activation_function"),
        Kind::Bert => (BERT, "GptkitBertForMaskedLM", "afn"),
    };
    let mut json = json!({
        "architectures": [class],
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "n_positions": config.context,
        "n_embd": config.d_model,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "embd_pdrop": config.embedding_dropout,
        "attn_pdrop": config.attention_dropout,
        "resid_pdrop": config.residual_dropout,
        "layer_norm_epsilon": config.layer_norm_eps,
        "initializer_range": config.first_std(),
        "tie_word_embeddings": config.tie_word_embeddings,
        "dtype": "float32",
    });
    // GPT-1's "gelu" and GPT-2's "gelu_new" are the same function there.
    json[activation] = json!(match config.kind {
        Kind::Gpt1 | Kind::Bert => "gelu",
        Kind::Gpt2 | Kind::Gpt3 => "gelu_new",
        Kind::Lstm => "tanh",
    });
    if matches!(config.kind, Kind::Gpt2 | Kind::Gpt3) {
        json["n_ctx"] = json!(config.context); // llama.cpp's converter reads this name
    }
    if config.position_init != PositionInit::default() {
        json["position_init"] = json!(config.position_init); // of gptkit alone, which goes on training by it
    }
    if let Some(n_inner) = config.n_inner {
        json["n_inner"] = json!(n_inner);
    }
    if let Some(band) = config.band {
        json["window_size"] = json!(band);
        json["attention_types"] = json!([[["global", "local"], config.n_layer.div_ceil(2)]]);
    }
    json
}

/// What gptkit reads of a `config.json`; names as in Hugging Face's classes.
#[derive(Deserialize)]
struct HfConfig {
    vocab_size: usize,
    #[serde(alias = "max_position_embeddings")]
    n_positions: usize,
    #[serde(alias = "hidden_size")]
    n_embd: usize,
    #[serde(alias = "num_hidden_layers")]
    n_layer: usize,
    #[serde(alias = "num_attention_heads")]
    n_head: usize,
    n_inner: Option<usize>,
    activation_function: Option<String>,
    afn: Option<String>,
    embd_pdrop: Option<f64>,
    attn_pdrop: Option<f64>,
    resid_pdrop: Option<f64>,
    layer_norm_epsilon: Option<f64>,
    window_size: Option<usize>,
    initializer_range: Option<f64>,
    position_init: Option<PositionInit>,
    scale_attn_weights: Option<bool>,
    scale_attn_by_inverse_layer_idx: Option<bool>,
    tie_word_embeddings: Option<bool>,
    add_cross_attention: Option<bool>,
    quantization_config: Option<Value>,
    pruned_heads: Option<Map<String, Value>>,
}

/// Types of the baselines.
const LSTM: &str = "gptkit-lstm";
const BERT: &str = "gptkit-bert";

/// The dropout that Hugging Face's classes have where their `config.json` is silent.
const HF_DROPOUT: f64 = 0.1;

/// The shape that the `config.json` with the content `json` describes.
///
/// # Errors
/// When it describes a model that is neither GPT-2's nor GPT-1's kind, or a size is unsound.
pub(crate) fn parse_config(json: &Value) -> Result<ModelConfig> {
    let kind = match json.get("model_type").and_then(Value::as_str) {
        Some("openai-gpt") => Kind::Gpt1,
        Some("gpt2") if json.get("window_size").is_some_and(|w| !w.is_null()) => Kind::Gpt3,
        Some("gpt2") => Kind::Gpt2,
        Some(LSTM) => Kind::Lstm,
        Some(BERT) => Kind::Bert,
        Some(other) => bail!("model_type \"{other}\" is not supported; gptkit supports openai-gpt and gpt2"),
        None => bail!("model_type is missing"),
    };
    let hf: HfConfig = serde_json::from_value(json.clone())?;
    must_be_computed(kind, &hf)?;
    let four_times = hf.n_embd.checked_mul(4);
    let config = ModelConfig {
        kind,
        n_layer: hf.n_layer,
        n_head: hf.n_head,
        d_model: hf.n_embd,
        context: hf.n_positions,
        vocab_size: hf.vocab_size,
        band: if kind == Kind::Gpt3 { hf.window_size } else { None },
        embedding_dropout: hf.embd_pdrop.unwrap_or(HF_DROPOUT),
        attention_dropout: hf.attn_pdrop.unwrap_or(HF_DROPOUT),
        residual_dropout: hf.resid_pdrop.unwrap_or(HF_DROPOUT),
        layer_norm_eps: hf.layer_norm_epsilon.unwrap_or(1e-5),
        // transformers' GPT-1 has no such key.
        n_inner: hf.n_inner.filter(|&n| matches!(kind, Kind::Gpt2 | Kind::Gpt3) && Some(n) != four_times),
        tie_word_embeddings: hf.tie_word_embeddings.unwrap_or(true),
        init_std: None,
        position_init: hf.position_init.unwrap_or_default(),
    };
    let stored_std = hf.initializer_range.filter(|&std| kind.attends() && std != config.first_std());
    let config = ModelConfig { init_std: stored_std, ..config };
    let mut problems = Problems::default();
    config.check(&mut problems);
    problems.require(config.vocab_size > 0, "vocab_size", "must be positive", "");
    match problems.iter().next() {
        Some(problem) => bail!("{problem}"),
        None => Ok(config),
    }
}

/// # Errors
/// When a key of `hf` asks for a computation that gptkit does not do.
fn must_be_computed(kind: Kind, hf: &HfConfig) -> Result<()> {
    // All but "gelu" are the approximation by tanh, which GPT-1's "gelu" is too.
    const TANH: [&str; 5] = ["gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate", "gelu"];
    let known = match kind {
        Kind::Gpt1 | Kind::Bert => TANH.as_slice(),
        Kind::Gpt2 | Kind::Gpt3 => &TANH[..4],
        Kind::Lstm => &["tanh"],
    };
    let activation = if matches!(kind, Kind::Gpt1 | Kind::Bert) { &hf.afn } else { &hf.activation_function };
    if let Some(name) = activation.as_ref().filter(|name| !known.contains(&name.as_str())) {
        bail!("the activation \"{name}\" is not supported; supported: {}", known.join(", "));
    }
    for (wrong, key) in [
        (hf.scale_attn_weights == Some(false), "scale_attn_weights = false"),
        (hf.scale_attn_by_inverse_layer_idx == Some(true), "scale_attn_by_inverse_layer_idx = true"),
        (hf.add_cross_attention == Some(true), "add_cross_attention = true"),
        (hf.pruned_heads.as_ref().is_some_and(|heads| !heads.is_empty()), "pruned_heads"),
    ] {
        ensure!(!wrong, "{key} is not supported");
    }
    if let Some(quantization) = &hf.quantization_config {
        let method = quantization["quant_method"].as_str().unwrap_or("an unnamed method");
        bail!(
            "the weights are quantized (quantization_config: {method}), which is not supported; use the unquantized \
             model"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::tiny;

    #[test]
    fn a_config_comes_back_as_it_was_written() {
        for kind in [Kind::Gpt1, Kind::Gpt2, Kind::Gpt3, Kind::Lstm, Kind::Bert] {
            let other = matches!(kind, Kind::Gpt2 | Kind::Gpt3);
            let config = ModelConfig {
                residual_dropout: 0.25,
                layer_norm_eps: 1e-6,
                n_inner: other.then_some(12),
                tie_word_embeddings: !other,
                ..tiny(kind)
            };
            assert_eq!(parse_config(&config_json(&config)).unwrap(), config);
        }
    }

    #[test]
    fn models_that_compute_otherwise_are_refused() {
        for (key, value, says) in [
            ("model_type", json!("llama"), "llama"),
            ("activation_function", json!("relu"), "relu"),
            ("activation_function", json!("gelu"), "the activation \"gelu\" is not supported"),
            ("n_inner", json!(0), "n_inner must be positive"),
            ("scale_attn_weights", json!(false), "scale_attn_weights = false is not supported"),
            ("scale_attn_by_inverse_layer_idx", json!(true), "scale_attn_by_inverse_layer_idx = true is not supported"),
            ("add_cross_attention", json!(true), "add_cross_attention = true is not supported"),
            ("pruned_heads", json!({ "0": [1] }), "pruned_heads is not supported"),
            ("quantization_config", json!({ "quant_method": "gptq" }), "quantized (quantization_config: gptq)"),
            ("n_head", json!(3), "n_head"),
            ("vocab_size", json!(0), "vocab_size"),
            ("n_embd", json!(-4), "invalid value"),
        ] {
            let mut json = config_json(&tiny(Kind::Gpt2));
            json[key] = value;
            let message = format!("{:#}", parse_config(&json).unwrap_err());
            let said = message.contains(says) || (key == "n_head" && message.contains("3 heads"));
            assert!(said, "{key}: {message}");
        }
    }

    #[test]
    fn keys_that_change_nothing_are_read_over() {
        let config = tiny(Kind::Gpt2);
        for (key, value) in [
            ("n_inner", json!(32)),
            ("n_inner", json!(null)),
            ("n_ctx", json!(1)),
            ("use_cache", json!(false)),
            ("reorder_and_upcast_attn", json!(true)),
            ("activation_function", json!("gelu_pytorch_tanh")),
            ("afn", json!("relu")), // GPT-1's key
            ("pruned_heads", json!({})),
            ("summary_type", json!("last")),
        ] {
            let mut json = config_json(&config);
            json[key] = value;
            assert_eq!(parse_config(&json).unwrap(), config, "{key}");
        }
        let mut json = config_json(&config);
        let object = json.as_object_mut().unwrap();
        let width = object.remove("n_embd").unwrap();
        object.insert("hidden_size".to_owned(), width);
        assert_eq!(parse_config(&json).unwrap(), config);
    }
}
