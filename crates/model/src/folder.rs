//! Hugging Face model folders: read wherever `--model` or `--init` stands, and written so that `transformers` loads them.
//!
//! A folder holds `config.json`, `model.safetensors` (or the parts that `model.safetensors.index.json` names),
//! `tokenizer.json` and `generation_config.json`. GPT-3's kind has no class there: its folder says `gpt2`, whose
//! computation is the same for windows within the band, and `window_size` besides, which tells it apart here. The
//! baselines have types of our own, which `transformers` refuses instead of misreading them.

use crate::config::{Kind, ModelConfig};
use crate::lora;
use crate::params::{Params, layout, weights_of_a_layer};
use crate::tensor_files::TensorFiles;
use ::config::{Check, Problems};
use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use data::disk;
use data::tokenizer::Tokenizer;
use safetensors::Dtype;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};

/// Where a run keeps its outcome below its own folder when `model.safetensors` is not there.
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Most files that a model's weights may lie in; published ones lie in up to 200.
const MOST_FILES: usize = 1000;

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
        let end_of_text = end_of_text(folder)?.or(tokenizer.end_of_text().map(|id| vec![id])).unwrap_or_default();
        Ok(Self { config, params, tokenizer, end_of_text })
    }
}

/// Reads shape and weights alone; of a folder of adapters those of its base with the adapters merged into them.
///
/// # Errors
/// As [`ModelFolder::load`].
pub fn load_model(folder: &Path, device: &Device) -> Result<(ModelConfig, Params)> {
    if !lora::is_adapter(folder) {
        check(folder)?;
        let config = load_config(folder)?;
        let params = read_weights(folder, &config, device)?;
        return Ok((config, params));
    }
    Ok((load_config(folder)?, lora::Weights::load_adapted(folder, device)?.merged()))
}

/// Reads the shape alone.
///
/// # Errors
/// When `config.json` is missing or damaged, or describes a model that is neither GPT-2's nor GPT-1's kind.
pub fn load_config(folder: &Path) -> Result<ModelConfig> {
    ensure!(folder.is_dir(), "{} is not a folder; name one with config.json and {WEIGHTS}", folder.display());
    if lora::is_adapter(folder) {
        return Ok(lora::load_adapted_config(folder)?.0);
    }
    let path = folder.join("config.json");
    parse_config(&read_json(&path)?).with_context(|| format!("in {}", path.display()))
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
    disk::check_seal(folder).is_ok() && (folder.join(WEIGHTS).exists() || lora::is_adapter(folder))
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
        if id.is_some() || generation.get(key).is_none() {
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
        "tie_word_embeddings": true,
        "dtype": "float32",
    });
    // GPT-1's "gelu" and GPT-2's "gelu_new" are the same function there.
    json[activation] = json!(match config.kind {
        Kind::Gpt1 | Kind::Bert => "gelu",
        Kind::Gpt2 | Kind::Gpt3 => "gelu_new",
        Kind::Lstm => "tanh",
    });
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
    n_positions: usize,
    n_embd: usize,
    n_layer: usize,
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
    let activation = hf.activation_function.or(hf.afn);
    let known = match kind {
        Kind::Gpt1 | Kind::Bert => ["gelu", "gelu_new", "gelu_pytorch_tanh"].as_slice(),
        Kind::Gpt2 | Kind::Gpt3 => &["gelu_new", "gelu_pytorch_tanh"],
        Kind::Lstm => &["tanh"],
    };
    if let Some(name) = activation.filter(|name| !known.contains(&name.as_str())) {
        bail!("activation \"{name}\" is none that this kind of model computes: {}", known.join(", "));
    }
    ensure!(
        hf.n_inner.is_none_or(|n| Some(n) == hf.n_embd.checked_mul(4)),
        "n_inner {:?} is not four times n_embd",
        hf.n_inner
    );
    ensure!(hf.scale_attn_weights != Some(false), "scale_attn_weights = false is not computed");
    ensure!(hf.scale_attn_by_inverse_layer_idx != Some(true), "scale_attn_by_inverse_layer_idx is not computed");
    ensure!(hf.tie_word_embeddings != Some(false), "untied embeddings are not computed");
    ensure!(hf.add_cross_attention != Some(true), "cross-attention is not computed");
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
    };
    let mut problems = Problems::default();
    config.check(&mut problems);
    problems.require(config.vocab_size > 0, "vocab_size", "is not positive", "");
    match problems.iter().next() {
        Some(problem) => bail!("{problem}"),
        None => Ok(config),
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

fn read_weights(folder: &Path, config: &ModelConfig, device: &Device) -> Result<Params> {
    let stored = TensorFiles::open(&weight_files(folder)?)?;
    let names: HashMap<String, &str> = stored.tensors().map(|(name, _)| (full_name(name), name)).collect();
    // What config.json says is believed only as far as there are weights for it.
    let layers = names.len() / weights_of_a_layer(config.kind);
    ensure!(
        config.n_layer <= layers,
        "{} has weights for {layers} layers at most, and its config.json says {}",
        folder.display(),
        config.n_layer
    );
    let wanted = layout(config);
    let missing: Vec<&str> = wanted.iter().map(|s| s.name.as_str()).filter(|n| !names.contains_key(*n)).collect();
    if let Some(first) = missing.first() {
        bail!("{} lacks {} of {} weights, first {first}", folder.display(), missing.len(), wanted.len());
    }
    let places: HashSet<&str> = wanted.iter().map(|slot| slot.name.as_str()).collect();
    let unknown: Vec<&String> = names.keys().filter(|n| !is_known(n) && !places.contains(n.as_str())).collect();
    if let Some(first) = unknown.iter().min() {
        bail!(
            "{} has {} weights that its config.json leaves no place for, such as {first}",
            folder.display(),
            unknown.len()
        );
    }
    for (name, tensor) in stored.tensors() {
        if places.contains(full_name(name).as_str()) {
            must_be_real(name, tensor.dtype).with_context(|| format!("in {}", folder.display()))?;
        }
    }
    let params = Params::gather(config, |name| stored.load(names[name], device));
    let params = params.with_context(|| format!("in {}", folder.display()))?;
    for (name, parameter) in params.iter() {
        must_be_finite(name, parameter.var().as_tensor()).with_context(|| format!("in {}", folder.display()))?;
    }
    Ok(params)
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
    let sum = ops::sum_of_squares(tensor)?;
    ensure!(sum.is_finite(), "{name} holds values that are no numbers: NaN or infinite");
    Ok(())
}

/// The entry `name` of the weights in `folder`, which no language model reads; nothing where it is absent.
///
/// # Errors
/// When the weights cannot be read.
pub(crate) fn load_extra(folder: &Path, name: &str) -> Result<Option<Tensor>> {
    let stored = TensorFiles::open(&weight_files(folder)?)?;
    let Some((_, found)) = stored.tensors().find(|(stored, _)| *stored == name) else { return Ok(None) };
    must_be_real(name, found.dtype).with_context(|| format!("in {}", folder.display()))?;
    let tensor = stored.load(name, &Device::Cpu).with_context(|| format!("in {}", folder.display()))?;
    Ok(Some(tensor.to_dtype(candle_core::DType::F32)?))
}

fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let single = folder.join(WEIGHTS);
    if single.exists() {
        return Ok(vec![single]);
    }
    let index = folder.join(INDEX);
    if !index.exists() {
        let pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json"].iter().any(|f| folder.join(f).exists());
        let hint = if pickled {
            "; its pickled weights can hold code: convert them to safetensors first"
        } else {
            "; a run writes it at its first validation"
        };
        bail!("{} has no {WEIGHTS}{hint}", folder.display());
    }
    let json = read_json(&index)?;
    let map: &Map<String, Value> = json
        .get("weight_map")
        .and_then(Value::as_object)
        .with_context(|| format!("{} has no weight_map", index.display()))?;
    let mut files = BTreeSet::new();
    for file in map.values() {
        let name = file.as_str().unwrap_or_default();
        // A name with a folder in it could lead anywhere.
        let plain = Path::new(name).file_name().is_some_and(|f| f == name);
        ensure!(plain, "{} names the file {file}, which is not one beside it", index.display());
        files.insert(folder.join(name));
        ensure!(files.len() <= MOST_FILES, "{} names more than {MOST_FILES} files", index.display());
    }
    Ok(files.into_iter().collect())
}

/// OpenAI's own uploads leave the prefix out.
fn full_name(stored: &str) -> String {
    if ["transformer.", "lm_head.", "score."].iter().any(|prefix| stored.starts_with(prefix)) {
        stored.to_owned()
    } else {
        format!("transformer.{stored}")
    }
}

/// Entries that repeat what is known, the tied output weights and old versions' attention masks; and the head of
/// [`crate::heads`].
fn is_known(name: &str) -> bool {
    name == "lm_head.weight"
        || name == "score.weight"
        || name.ends_with(".attn.bias")
        || name.ends_with(".attn.masked_bias")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::tiny;

    #[test]
    fn a_config_comes_back_as_it_was_written() {
        for kind in [Kind::Gpt1, Kind::Gpt2, Kind::Gpt3, Kind::Lstm, Kind::Bert] {
            let config = ModelConfig { residual_dropout: 0.25, layer_norm_eps: 1e-6, ..tiny(kind) };
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
                ops::check::assert_close(name, again.var().as_tensor(), weights.var().as_tensor(), 0.0);
            }
        }
    }

    #[test]
    fn models_that_compute_otherwise_are_refused() {
        for (key, value, says) in [
            ("model_type", json!("llama"), "llama"),
            ("activation_function", json!("relu"), "relu"),
            ("n_inner", json!(8), "n_inner"),
            ("scale_attn_weights", json!(false), "scale_attn_weights"),
            ("tie_word_embeddings", json!(false), "untied"),
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
        write_json(&folder.path().join(INDEX), &json!({ "weight_map": map })).unwrap();
        assert!(error(folder.path()).contains("names more than 1000 files"), "{}", error(folder.path()));
    }

    #[test]
    fn names_without_the_prefix_are_the_same_weights() {
        assert_eq!(full_name("h.0.ln_1.weight"), "transformer.h.0.ln_1.weight");
        assert_eq!(full_name("transformer.h.0.ln_1.weight"), "transformer.h.0.ln_1.weight");
        assert_eq!(full_name("lm_head.weight"), "lm_head.weight");
    }
}
