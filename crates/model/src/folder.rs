//! Hugging Face model folders: read wherever `--model` or `--init` stands, and written so that `transformers` loads them.
//!
//! A folder holds `config.json`, `model.safetensors` (or the parts that `model.safetensors.index.json` names),
//! `tokenizer.json` and `generation_config.json`. GPT-3's kind has no class there: its folder says `gpt2`, whose
//! computation is the same for windows within the band, and `window_size` besides, which tells it apart here. The
//! baselines have types of our own, which `transformers` refuses instead of misreading them.

use crate::config::{Kind, ModelConfig};
use crate::lora;
use crate::params::Params;
use crate::stored::{self, StoredWeights, WEIGHTS};
use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use gptkit_config::{Check, Problems};
use gptkit_data::adapter::{base_of, is_adapter};
use gptkit_data::disk;
use gptkit_data::tokenizer::Tokenizer;
use safetensors::Dtype;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fmt::Display;
use std::path::Path;

/// A model as it lies on disk.
#[derive(Debug)]
pub struct ModelFolder {
    /// Its shape.
    pub config: ModelConfig,
    /// Its weights.
    pub params: Params,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Tokens that end a text.
    pub end_of_text: Vec<u32>,
}

impl ModelFolder {
    /// Reads the model, its weights as f32, and its tokenizer from `folder`.
    ///
    /// # Errors
    /// When a file is missing or damaged, or describes a model that is neither GPT-2's nor GPT-1's kind.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        let (config, params) = load_model(folder, device)?;
        let mut tokenizer = Tokenizer::load(folder)?;
        tokenizer.limit_to(config.vocab_size).with_context(|| folder.display().to_string())?;
        let end_of_text = ends(folder)?.or(tokenizer.end_of_text().map(|id| vec![id])).unwrap_or_default();
        Ok(Self { config, params, tokenizer, end_of_text })
    }
}

/// Reads shape and weights alone; of a folder of adapters those of its base with the adapters merged into them.
///
/// # Errors
/// As [`ModelFolder::load`].
pub fn load_model(folder: &Path, device: &Device) -> Result<(ModelConfig, Params)> {
    if !is_adapter(folder) {
        check(folder)?;
        let config = load_config(folder)?;
        let params = read_weights(folder, &config, device)?;
        return Ok((config, params));
    }
    lora::load_merged(folder, device)
}

/// Reads the shape alone.
///
/// # Errors
/// When `config.json` is missing or damaged, or describes a model that is neither GPT-2's nor GPT-1's kind.
pub fn load_config(folder: &Path) -> Result<ModelConfig> {
    ensure!(folder.is_dir(), "{} is not a folder; name one with config.json and {WEIGHTS}", folder.display());
    if is_adapter(folder) {
        return lora::load_adapted_config(folder);
    }
    let path = folder.join("config.json");
    let mut config = parse_config(&read_json(&path)?).with_context(|| format!("in {}", path.display()))?;
    // Weights that differ are not tied, whatever config.json says: transformers decides so too.
    if config.can_untie() && config.tie_word_embeddings && stored::exists(folder) {
        config.tie_word_embeddings = !StoredWeights::open(folder)?.has_own_output(&config)?;
    }
    Ok(config)
}

/// Whether a file called `name` is part of a model.
pub fn is_of_model(name: &str) -> bool {
    const OTHERS: [&str; 6] = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "adapter_config.json",
        "adapter_model.safetensors",
    ];
    name == WEIGHTS || OTHERS.contains(&name)
}

/// Whether the model in `folder` is as gptkit wrote it, where it wrote checksums.
///
/// # Errors
/// Says which file was damaged or edited.
pub(crate) fn check(folder: &Path) -> Result<()> {
    disk::check_files(folder, &is_of_model)
}

/// Whether `folder` holds weights, and those that gptkit wrote checksums of.
pub fn is_whole(folder: &Path) -> bool {
    disk::check_seal(folder).is_ok() && (folder.join(WEIGHTS).exists() || is_adapter(folder))
}

/// Fingerprint of the weights in `folder`, which tells whether a model is still the one that it was.
///
/// # Errors
/// When the weights cannot be read, there are none, or the model does not generate text.
pub fn weights_fingerprint(folder: &Path) -> Result<String> {
    load_config(folder)?.must_write().with_context(|| folder.display().to_string())?;
    disk::fingerprint(folder, ".safetensors")
}

/// Writes the checksums of the model in `folder`.
///
/// # Errors
/// When a file cannot be read, or the checksums written.
pub fn seal(folder: &Path) -> Result<()> {
    disk::seal_files(folder, &is_of_model)
}

/// Writes all of a model's folder but the weights: what does not change while it is trained.
///
/// # Errors
/// When a file cannot be written.
pub fn save_description(folder: &Path, config: &ModelConfig, tokenizer: &Tokenizer) -> Result<()> {
    disk::create_dir(folder)?;
    disk::unseal(folder)?;
    tokenizer.save(folder)?;
    let uses = [
        ("bos_token_id", tokenizer.bos()),
        ("eos_token_id", tokenizer.end_of_text()),
        ("pad_token_id", tokenizer.pad()),
    ];
    let mut description = config_json(config);
    let mut generation = Value::Object(tokenizer.generation().clone());
    for (key, id) in uses {
        description[key] = json!(id);
        if generation.get(key).is_none_or(Value::is_null) {
            generation[key] = json!(id);
        }
    }
    write_json(&folder.join("config.json"), &description)?;
    write_json(&folder.join("generation_config.json"), &generation)
}

/// Writes the tokens at which a text, or an answer, ends.
///
/// # Errors
/// When the file cannot be written.
pub fn save_ends(folder: &Path, ends: &[u32]) -> Result<()> {
    let path = folder.join("generation_config.json");
    let mut generation = read_json(&path)?;
    generation["eos_token_id"] = json!(ends);
    write_json(&path, &generation)
}

/// Writes the weights, and the checksums of the model; the file that was there stays whole until the new one is.
///
/// # Errors
/// When the file cannot be written.
pub fn save_weights(folder: &Path, params: &Params) -> Result<()> {
    disk::unseal(folder)?;
    save_tensors(&folder.join(WEIGHTS), params.iter().map(|(name, parameter)| (name, parameter.var().as_tensor())))?;
    seal(folder)
}

/// Writes tensors by name; the file that was there stays whole until the new one is.
///
/// # Errors
/// When the file cannot be written.
pub fn save_tensors<'a, N: AsRef<str> + Ord + Display>(
    path: &Path,
    tensors: impl Iterator<Item = (N, &'a Tensor)>,
) -> Result<()> {
    let tensors: Vec<(N, &Tensor)> = tensors.collect();
    // `transformers` reads no file without this entry.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    disk::write_with(path, |path| {
        safetensors::serialize_to_file(tensors, Some(metadata), path).context("the tensors cannot be written")
    })
}

/// Writes a description of a model, whose checksums no longer hold then.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<()> {
    disk::unseal(disk::parent(path))?;
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    disk::write(path, text.as_bytes())?;
    Ok(())
}

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
        "initializer_range": 0.02,
        "tie_word_embeddings": config.tie_word_embeddings,
        "dtype": "float32",
    });
    // GPT-1's "gelu" and GPT-2's "gelu_new" are the same function there.
    json[activation] = json!(match config.kind {
        Kind::Gpt1 | Kind::Bert => "gelu",
        Kind::Gpt2 | Kind::Gpt3 => "gelu_new",
        Kind::Lstm => "tanh",
    });
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

fn parse_config(json: &Value) -> Result<ModelConfig> {
    let kind = match json.get("model_type").and_then(Value::as_str) {
        Some("openai-gpt") => Kind::Gpt1,
        Some("gpt2") if json.get("window_size").is_some_and(|w| !w.is_null()) => Kind::Gpt3,
        Some("gpt2") => Kind::Gpt2,
        Some(LSTM) => Kind::Lstm,
        Some(BERT) => Kind::Bert,
        Some(other) => bail!("model_type \"{other}\" is none that gptkit runs: openai-gpt and gpt2"),
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
    };
    let mut problems = Problems::default();
    config.check(&mut problems);
    problems.require(config.vocab_size > 0, "vocab_size", "is not positive", "");
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
        bail!("the activation \"{name}\" is not computed by gptkit, which has {}", known.join(", "));
    }
    for (wrong, key) in [
        (hf.scale_attn_weights == Some(false), "scale_attn_weights = false"),
        (hf.scale_attn_by_inverse_layer_idx == Some(true), "scale_attn_by_inverse_layer_idx = true"),
        (hf.add_cross_attention == Some(true), "add_cross_attention = true"),
        (hf.pruned_heads.as_ref().is_some_and(|heads| !heads.is_empty()), "pruned_heads"),
    ] {
        ensure!(!wrong, "{key} is not computed by gptkit");
    }
    if let Some(quantization) = &hf.quantization_config {
        let method = quantization["quant_method"].as_str().unwrap_or("an unnamed method");
        bail!(
            "the weights are quantized (quantization_config: {method}), which gptkit does not read; use the unquantized model"
        );
    }
    Ok(())
}

/// [`end_of_text`] of the model in `folder`; of adapters that say nothing of it, their base's.
fn ends(folder: &Path) -> Result<Option<Vec<u32>>> {
    match end_of_text(folder)? {
        None if is_adapter(folder) => ends(&base_of(folder)?),
        found => Ok(found),
    }
}

/// `eos_token_id` of `generation_config.json`, else of `config.json`: a number or a list.
fn end_of_text(folder: &Path) -> Result<Option<Vec<u32>>> {
    for name in ["generation_config.json", "config.json"] {
        let path = folder.join(name);
        if !path.exists() {
            continue;
        }
        let ids = match read_json(&path)?.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.clone(),
            Some(id @ Value::Number(_)) => vec![id.clone()],
            _ => continue,
        };
        let ids = ids.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()));
        let ids: Option<Vec<u32>> = ids.collect();
        return ids.map(Some).with_context(|| format!("eos_token_id in {} is not a token", path.display()));
    }
    Ok(None)
}

pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let text = disk::read_description(path)?;
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))
}

/// The weights in `folder`, whose configuration is `config`.
fn read_weights(folder: &Path, config: &ModelConfig, device: &Device) -> Result<Params> {
    // nanoGPT's key: the model was trained without biases.
    let biases_may_lack = read_json(&folder.join("config.json"))?["bias"] == json!(false);
    StoredWeights::open(folder)?.read(config, biases_may_lack, device)
}

/// Weights are real numbers; whole ones are another thing, such as quantized weights whose scale lies elsewhere.
pub(crate) fn must_be_real(name: &str, dtype: Dtype) -> Result<()> {
    let is_real = matches!(dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64);
    ensure!(is_real, "{name} has the data type {dtype:?}; weights are read as F16, BF16, F32 or F64");
    Ok(())
}

/// # Errors
/// When a value is NaN or infinite.
pub(crate) fn must_be_finite(name: &str, tensor: &Tensor) -> Result<()> {
    let sum = gptkit_ops::sum_of_squares(tensor)?;
    ensure!(sum.is_finite(), "{name} holds values that are no numbers: NaN or infinite");
    Ok(())
}

/// The entry `name` of the weights in `folder`, which no language model reads; nothing where it is absent.
///
/// # Errors
/// When the weights cannot be read.
pub(crate) fn load_extra(folder: &Path, name: &str) -> Result<Option<Tensor>> {
    if is_adapter(folder) {
        return Ok(None);
    }
    let stored = StoredWeights::open(folder)?;
    let Some(info) = stored.info(name) else { return Ok(None) };
    must_be_real(name, info.dtype).with_context(|| format!("in {}", folder.display()))?;
    let tensor = stored.load(name, &Device::Cpu).with_context(|| format!("in {}", folder.display()))?;
    Ok(Some(tensor.to_dtype(candle_core::DType::F32)?))
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
    fn baselines_lie_in_folders_as_the_others_do() {
        for kind in [Kind::Lstm, Kind::Bert] {
            let folder = tempfile::tempdir().unwrap();
            let (config, tokenizer) = (tiny(kind), Tokenizer::of_characters(&('a'..='p').collect()).unwrap());
            let params = Params::init(&config, 1, &Device::Cpu).unwrap();
            save_description(folder.path(), &config, &tokenizer).unwrap();
            save_weights(folder.path(), &params).unwrap();
            let read = ModelFolder::load(folder.path(), &Device::Cpu).unwrap();
            assert_eq!(read.config, config);
            for ((name, weights), (other, again)) in params.iter().zip(read.params.iter()) {
                assert_eq!(name, other);
                gptkit_ops::check::assert_close(name, again.var().as_tensor(), weights.var().as_tensor(), 0.0);
            }
        }
    }

    #[test]
    fn models_that_compute_otherwise_are_refused() {
        for (key, value, says) in [
            ("model_type", json!("llama"), "llama"),
            ("activation_function", json!("relu"), "relu"),
            ("activation_function", json!("gelu"), "the activation \"gelu\" is not computed"),
            ("n_inner", json!(0), "n_inner is not positive"),
            ("scale_attn_weights", json!(false), "scale_attn_weights = false is not computed"),
            ("scale_attn_by_inverse_layer_idx", json!(true), "scale_attn_by_inverse_layer_idx = true is not computed"),
            ("add_cross_attention", json!(true), "add_cross_attention = true is not computed"),
            ("pruned_heads", json!({ "0": [1] }), "pruned_heads is not computed"),
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

    /// A folder with a model whose weights are `tensors` beside its own.
    fn with_weights(tensors: impl Fn(&Params) -> Vec<(String, Tensor)>) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let (config, tokenizer) = (tiny(Kind::Gpt2), Tokenizer::of_characters(&('a'..='p').collect()).unwrap());
        save_description(folder.path(), &config, &tokenizer).unwrap();
        let params = Params::init(&config, 1, &Device::Cpu).unwrap();
        let mut all: HashMap<String, Tensor> =
            params.iter().map(|(name, p)| (name.to_owned(), p.var().as_tensor().clone())).collect();
        all.extend(tensors(&params));
        save_tensors(&folder.path().join(WEIGHTS), all.iter()).unwrap();
        folder
    }

    #[test]
    fn whole_numbers_are_no_weights() {
        let name = "transformer.h.0.ln_1.weight";
        for dtype in [candle_core::DType::I64, candle_core::DType::U8, candle_core::DType::U32] {
            let folder = with_weights(|_| vec![(name.to_owned(), Tensor::ones(8, dtype, &Device::Cpu).unwrap())]);
            let error = format!("{:#}", load_model(folder.path(), &Device::Cpu).unwrap_err());
            let expected = format!("{name} has the data type {}", format!("{dtype:?}").to_uppercase());
            assert!(error.contains(&expected), "{error}");
        }
        // Old versions' attention masks are no weights.
        let mask = "transformer.h.0.attn.bias".to_owned();
        let mask = |_: &Params| vec![(mask.clone(), Tensor::ones(8, candle_core::DType::U8, &Device::Cpu).unwrap())];
        assert!(load_model(with_weights(mask).path(), &Device::Cpu).is_ok());
    }

    #[test]
    fn huge_headers_and_indices_are_refused() {
        let error = |folder: &Path| format!("{:#}", load_model(folder, &Device::Cpu).unwrap_err());
        let folder = with_weights(|_| Vec::new());
        let path = folder.path().join(WEIGHTS);
        let header: String = (0..130_000).fold("{".to_owned(), |all, i| {
            let comma = if i > 0 { "," } else { "" };
            all + &format!("{comma}\"transformer.{i}\":{{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}")
        });
        let header = header + "}";
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
        disk::write(&path, &bytes).unwrap();
        assert!(error(folder.path()).contains("at most 8388608 are read"), "{}", error(folder.path()));
        std::fs::remove_file(&path).unwrap();
        let map: Map<String, Value> =
            (0..40_000).map(|i| (format!("w{i}"), json!(format!("{i}.safetensors")))).collect();
        write_json(&folder.path().join(stored::INDEX), &json!({ "weight_map": map })).unwrap();
        assert!(error(folder.path()).contains("names more than 1000 files"), "{}", error(folder.path()));
    }

    /// The model of [`with_weights`] with `change` made to its tensors and its `config.json`, and its own weights.
    fn changed(
        change: impl Fn(&mut HashMap<String, Tensor>),
        configure: impl Fn(&mut Value),
    ) -> (tempfile::TempDir, Params) {
        let folder = with_weights(|_| Vec::new());
        let params = Params::init(&tiny(Kind::Gpt2), 1, &Device::Cpu).unwrap();
        let mut all: HashMap<String, Tensor> =
            params.iter().map(|(name, p)| (name.to_owned(), p.var().as_tensor().clone())).collect();
        change(&mut all);
        save_tensors(&folder.path().join(WEIGHTS), all.iter()).unwrap();
        let path = folder.path().join("config.json");
        let mut json = read_json(&path).unwrap();
        configure(&mut json);
        write_json(&path, &json).unwrap();
        (folder, params)
    }

    const TABLE: &str = "transformer.wte.weight";
    const OUTPUT: &str = "lm_head.weight";

    fn read(folder: &tempfile::TempDir) -> (ModelConfig, Params) {
        load_model(folder.path(), &Device::Cpu).unwrap()
    }

    fn error(folder: &tempfile::TempDir) -> String {
        format!("{:#}", load_model(folder.path(), &Device::Cpu).unwrap_err())
    }

    fn assert_same(read: &Params, expected: &Params) {
        for (name, parameter) in expected.iter() {
            let found = read.get(name).unwrap();
            gptkit_ops::check::assert_close(name, found.var().as_tensor(), parameter.var().as_tensor(), 0.0);
        }
    }

    #[test]
    fn an_output_layer_is_tied_when_its_weights_are_the_token_embeddings() {
        let as_it_is = |_: &mut Value| {};
        let (folder, params) = changed(|all| drop(all.insert(OUTPUT.to_owned(), all[TABLE].clone())), as_it_is);
        let (config, found) = read(&folder);
        assert!(config.tie_word_embeddings && found.get(OUTPUT).is_err());
        assert_same(&found, &params);
        let (folder, params) = changed(
            |all| {
                let table = all.remove(TABLE).unwrap();
                all.insert(OUTPUT.to_owned(), table);
            },
            as_it_is,
        );
        let (config, found) = read(&folder);
        assert!(config.tie_word_embeddings);
        assert_same(&found, &params);
    }

    #[test]
    fn an_output_layer_of_other_weights_is_its_own() {
        let output = |all: &mut HashMap<String, Tensor>| {
            let other = (&all[TABLE] + 1.0).unwrap();
            all.insert(OUTPUT.to_owned(), other);
        };
        for tie in [json!(null), json!(true), json!(false)] {
            let (folder, params) = changed(output, |json| json["tie_word_embeddings"] = tie.clone());
            let (config, found) = read(&folder);
            assert!(!config.tie_word_embeddings);
            assert_same(&found, &params);
            let expected = (params.get(TABLE).unwrap().tensor(false) + 1.0).unwrap();
            gptkit_ops::check::assert_close("output", found.get(OUTPUT).unwrap().var().as_tensor(), &expected, 0.0);
            // It comes back from the folder that is written.
            let again = tempfile::tempdir().unwrap();
            let tokenizer = Tokenizer::load(folder.path()).unwrap();
            save_description(again.path(), &config, &tokenizer).unwrap();
            save_weights(again.path(), &found).unwrap();
            let (config_again, found_again) = read(&again);
            assert_eq!(config_again, config);
            assert_same(&found_again, &found);
        }
        let (folder, _) = changed(|_| {}, |json| json["tie_word_embeddings"] = json!(false));
        let message = error(&folder);
        assert!(message.contains("lacks 1 of 41 weights: lm_head.weight") && message.contains("hint"), "{message}");
    }

    #[test]
    fn models_without_biases_are_read_when_they_say_so() {
        let drop_biases = |all: &mut HashMap<String, Tensor>| all.retain(|name, _| !name.ends_with(".bias"));
        let (folder, _) = changed(drop_biases, |_| {});
        let message = error(&folder);
        assert!(message.contains("lacks 19 of 40 weights: transformer.h.0.ln_1.bias"), "{message}");
        assert!(message.contains("its files have 21: transformer.h.0.attn.c_attn.weight"), "{message}");
        assert!(message.contains("add \"bias\": false to its config.json"), "{message}");
        let (folder, params) = changed(drop_biases, |json| json["bias"] = json!(false));
        assert_same(&read(&folder).1, &params); // first biases are zeros
        let (folder, _) = changed(|all| drop(all.remove(TABLE)), |json| json["bias"] = json!(false));
        assert!(error(&folder).contains("lacks 1 of 40 weights: transformer.wte.weight"), "{}", error(&folder));
    }

    #[test]
    fn matrices_of_linear_layers_are_turned() {
        let turn = |all: &mut HashMap<String, Tensor>, ends: &[&str]| {
            for (_, tensor) in all.iter_mut().filter(|(name, _)| ends.iter().any(|end| name.ends_with(end))) {
                *tensor = tensor.t().unwrap().contiguous().unwrap();
            }
        };
        let all = ["c_attn.weight", "c_proj.weight", "c_fc.weight"];
        let (folder, params) = changed(|tensors| turn(tensors, &all), |_| {});
        assert_same(&read(&folder).1, &params);
        let (folder, _) = changed(|tensors| turn(tensors, &all[2..]), |_| {});
        assert!(error(&folder).contains("lies as [in, out] and"), "{}", error(&folder));
        let (folder, _) = changed(|_| {}, |json| json["n_inner"] = json!(12));
        assert!(error(&folder).contains("mlp.c_fc.weight has shape [8, 32]"), "{}", error(&folder));
    }

    #[test]
    fn names_of_wrapped_models_are_the_same_weights() {
        for wrapper in ["_orig_mod.", "module.", "module._orig_mod.", "model."] {
            let wrap = |all: &mut HashMap<String, Tensor>| {
                *all = all.drain().map(|(name, tensor)| (format!("{wrapper}{name}"), tensor)).collect();
            };
            let (folder, params) = changed(wrap, |_| {});
            assert_same(&read(&folder).1, &params);
        }
        let (folder, _) = changed(|all| drop(all.insert("h.0.ln_1.bias".to_owned(), all[TABLE].clone())), |_| {});
        assert!(error(&folder).contains("are one and the same"), "{}", error(&folder));
        let (folder, _) = changed(|all| drop(all.insert("module.odd".to_owned(), all[TABLE].clone())), |_| {});
        assert!(
            error(&folder).contains("has 1 weights that its config.json leaves no place for"),
            "{}",
            error(&folder)
        );
    }

    #[test]
    fn weights_in_other_formats_say_what_to_do() {
        let folder = with_weights(|_| Vec::new());
        std::fs::remove_file(folder.path().join(WEIGHTS)).unwrap();
        assert!(error(&folder).contains("a run writes it at its first validation"), "{}", error(&folder));
        disk::write(&folder.path().join("ckpt.pt"), b"").unwrap();
        assert!(error(&folder).contains("gptkit does not read ckpt.pt"), "{}", error(&folder));
        disk::write(&folder.path().join("pytorch_model.bin"), b"").unwrap();
        let message = error(&folder);
        assert!(message.contains("AutoModelForCausalLM.from_pretrained('"), "{message}");
        let map = json!({ "weight_map": { "a": "1.safetensors", "b": "2.safetensors" } });
        write_json(&folder.path().join(stored::INDEX), &map).unwrap();
        let message = error(&folder);
        assert!(message.contains("names 2 files, of which 2 are missing: 1.safetensors, 2.safetensors"), "{message}");
    }
}
