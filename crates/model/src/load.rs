//! Loads a model from where it lies: a Hugging Face folder, a folder of adapters with its base model, or a GGUF file.

use crate::adapter_folder::AdapterFolder;
use crate::config::ModelConfig;
use crate::folder::{WEIGHTS, check, read_json};
use crate::gguf::GgufModel;
use crate::hf_config::parse_config;
use crate::packing::Packing;
use crate::params::Params;
use crate::stored::{self, ReadyWeights, StoredWeights};
use crate::tensor_files::{TensorFiles, must_be_real};
use crate::weights::Weights;
use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use gptkit_data::adapter::{base_of, is_adapter, must_end};
use gptkit_data::disk;
use gptkit_data::tokenizer::Tokenizer;
use gptkit_gguf::is_gguf;
use serde_json::{Value, json};
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
    /// Reads the model, its weights as f32, and its tokenizer from `folder`, which may be a GGUF file.
    ///
    /// # Errors
    /// When a file is missing or damaged, or describes a model that is neither GPT-2's nor GPT-1's kind.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        Self::load_as(folder, device, None)
    }

    /// The same for a model that is only read: its weights are kept as products read them, where `packing` applies to it.
    ///
    /// # Errors
    /// As [`ModelFolder::load`], or when a weight cannot be packed.
    pub fn load_packed(folder: &Path, device: &Device, packing: Packing) -> Result<Self> {
        Self::load_as(folder, device, Some(packing))
    }

    fn load_as(folder: &Path, device: &Device, packing: Option<Packing>) -> Result<Self> {
        // Before the weights, which then take the memory that is free again after it was made.
        let tokenizer = Tokenizer::load(folder);
        let make_encoder = || {
            if let (Ok(tokenizer), Some(_)) = (&tokenizer, packing) {
                tokenizer.make_encoder();
            }
        };
        let ((), model) = rayon::join(make_encoder, || load_model_as(folder, device, packing));
        let (config, params) = model?;
        let mut tokenizer = tokenizer?;
        tokenizer.limit_to(config.vocab_size).with_context(|| folder.display().to_string())?;
        let end_of_text = end_tokens(folder, &tokenizer)?;
        Ok(Self { config, params, tokenizer, end_of_text })
    }
}

/// Reads shape and weights alone; of a folder of adapters those of its base with the adapters merged into them.
///
/// # Errors
/// As [`ModelFolder::load`].
pub fn load_model(folder: &Path, device: &Device) -> Result<(ModelConfig, Params)> {
    load_model_as(folder, device, None)
}

fn load_model_as(folder: &Path, device: &Device, packing: Option<Packing>) -> Result<(ModelConfig, Params)> {
    if is_gguf(folder) {
        return GgufModel::open(folder)?.load(device, packing);
    }
    check(folder)?;
    let config = load_config(folder)?;
    let packing = Packing::that_applies(packing, &config, device)?;
    if is_adapter(folder) {
        let params = load_adapters(open_adapters(folder)?, device)?.merged()?;
        let params = packing.map(|packing| params.packed(&config, packing)).transpose()?.unwrap_or(params);
        return Ok((config, params));
    }
    let params = ready_weights(folder, &config)?.read(&config, device, packing)?;
    Ok((config, params))
}

/// Reads the shape alone.
///
/// # Errors
/// When `config.json` is missing or damaged, or describes a model that is neither GPT-2's nor GPT-1's kind.
pub fn load_config(folder: &Path) -> Result<ModelConfig> {
    if is_gguf(folder) {
        return Ok(GgufModel::open(folder)?.config);
    }
    ensure!(folder.is_dir(), "{} is not a folder; use a folder with config.json and {WEIGHTS}", folder.display());
    if is_adapter(folder) {
        return Ok(open_adapters(folder)?.config);
    }
    let path = folder.join("config.json");
    ensure!(path.exists(), "{}", no_model(folder));
    let mut config = parse_config(&read_json(&path)?).with_context(|| format!("in {}", path.display()))?;
    // Weights that differ are not tied, whatever config.json says: transformers decides so too.
    if config.can_untie() && config.tie_word_embeddings && stored::exists(folder) {
        config.tie_word_embeddings = !StoredWeights::open(folder)?.has_own_output(&config)?;
    }
    Ok(config)
}

/// What to say of a folder without a model: the model folders in it, or the one that it belongs to.
fn no_model(folder: &Path) -> String {
    const SHOWN: usize = 6;
    let shown = folder.display();
    let is_model = |path: &Path| path.join("config.json").exists() || is_adapter(path);
    if let Some(parent) = folder.ancestors().skip(1).find(|parent| is_model(parent) && parent.parent().is_some()) {
        return format!("{shown} is part of a run; the model is {}", parent.display());
    }
    let entries = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    let mut models: Vec<String> =
        entries.filter(|path| is_model(path)).map(|path| path.display().to_string()).collect();
    models.sort();
    let more = if models.len() > SHOWN { ", …" } else { "" };
    models.truncate(SHOWN);
    match models.is_empty() {
        true => format!("{shown} is not a model folder: it has no config.json"),
        false => format!("{shown} is not a model folder; it contains these models: {}{more}", models.join(", ")),
    }
}

/// The weights in `folder` to be trained further: all of them, or adapters where the folder holds these.
///
/// # Errors
/// When they are damaged, or cannot be trained further.
pub fn load_trained_weights(folder: &Path, device: &Device) -> Result<Weights> {
    match is_adapter(folder) {
        true => load_adapted_weights(folder, device),
        false => Ok(load_model(folder, device)?.1.into()),
    }
}

/// The adapters in `folder` on the weights of their base, to be trained further.
///
/// # Errors
/// When they are damaged, belong to another shape, or cannot be trained further.
pub fn load_adapted_weights(folder: &Path, device: &Device) -> Result<Weights> {
    check(folder)?;
    let weights = load_adapters(open_adapters(folder)?, device)?;
    weights.must_be_trainable().with_context(|| folder.display().to_string())?;
    Ok(weights)
}

/// The adapters in `folder`, whose base may be adapters too.
fn open_adapters(folder: &Path) -> Result<AdapterFolder> {
    must_end(folder)?;
    let base = base_of(folder)?;
    let config = load_config(&base)
        .with_context(|| format!("{} requires its base model in {}", folder.display(), base.display()))?;
    AdapterFolder::open(folder, base, &config)
}

/// The weights of the base of `adapters` with the adapters on them.
fn load_adapters(adapters: AdapterFolder, device: &Device) -> Result<Weights> {
    let (_, base) = load_model(&adapters.base, device)?;
    adapters.load(base, device)
}

/// Number of the weights in the folder's `model.safetensors`; `None` where there is none.
///
/// # Errors
/// When the file cannot be read.
pub fn n_params(folder: &Path) -> Result<Option<u64>> {
    let path = folder.join(WEIGHTS);
    if !path.exists() {
        return Ok(None);
    }
    let files = TensorFiles::open(&[path])?;
    Ok(Some(files.tensors().map(|(_, info)| info.shape.iter().map(|&n| n as u64).product::<u64>()).sum()))
}

/// The tokens that end a text of the model in `folder`, whose tokenizer is `tokenizer`; empty where nothing names one.
///
/// # Errors
/// When a description of the model cannot be read.
pub fn end_tokens(folder: &Path, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    Ok(ends(folder)?.or(tokenizer.end_of_text().map(|id| vec![id])).unwrap_or_default())
}

/// [`end_of_text`] of the model in `folder`; of adapters that say nothing of it, their base's.
fn ends(folder: &Path) -> Result<Option<Vec<u32>>> {
    if is_gguf(folder) {
        return GgufModel::open(folder)?.ends();
    }
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
        return ids.map(Some).with_context(|| format!("eos_token_id in {} is not a token id", path.display()));
    }
    Ok(None)
}

/// The weights in `folder`, whose configuration is `config`, ready to be read.
pub(crate) fn ready_weights(folder: &Path, config: &ModelConfig) -> Result<ReadyWeights> {
    // nanoGPT's key: the model was trained without biases.
    let biases_may_lack = read_json(&folder.join("config.json"))?["bias"] == json!(false);
    StoredWeights::open(folder)?.ready(config, biases_may_lack)
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

/// Fingerprint of the weights in `folder`, which tells whether a model is still the one that it was.
///
/// # Errors
/// When the weights cannot be read, there are none, or the model does not generate text.
pub fn weights_fingerprint(folder: &Path) -> Result<String> {
    load_config(folder)?.must_write().with_context(|| folder.display().to_string())?;
    stored_fingerprint(folder)
}

/// The same for any model, whatever it is for.
///
/// # Errors
/// When the weights cannot be read.
pub fn stored_fingerprint(folder: &Path) -> Result<String> {
    if is_gguf(folder) { disk::file_hash(folder) } else { disk::fingerprint(folder, ".safetensors") }
}

/// Whether `path` is what a model may lie in: a folder, or a GGUF file.
pub fn may_be_model(path: &Path) -> bool {
    path.is_dir() || is_gguf(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::config::tests::tiny;
    use crate::folder::{save_description, save_tensors, save_weights, write_json};
    use serde_json::{Map, Value};
    use std::collections::HashMap;

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
        gptkit_data::disk::write(&path, &bytes).unwrap();
        assert!(error(folder.path()).contains("the maximum is 8388608"), "{}", error(folder.path()));
        std::fs::remove_file(&path).unwrap();
        let map: Map<String, Value> =
            (0..40_000).map(|i| (format!("w{i}"), json!(format!("{i}.safetensors")))).collect();
        write_json(&folder.path().join(stored::INDEX), &json!({ "weight_map": map })).unwrap();
        assert!(error(folder.path()).contains("refers to more than 1000 files"), "{}", error(folder.path()));
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
        assert!(message.contains("its files contain 21: transformer.h.0.attn.c_attn.weight"), "{message}");
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
        assert!(error(&folder).contains("has the layout [in, out] and"), "{}", error(&folder));
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
        assert!(error(&folder).contains("are two names of the same weight"), "{}", error(&folder));
        let (folder, _) = changed(|all| drop(all.insert("module.odd".to_owned(), all[TABLE].clone())), |_| {});
        assert!(error(&folder).contains("has 1 weights that do not belong to the model"), "{}", error(&folder));
    }

    #[test]
    fn weights_in_other_formats_say_what_to_do() {
        let folder = with_weights(|_| Vec::new());
        std::fs::remove_file(folder.path().join(WEIGHTS)).unwrap();
        assert!(error(&folder).contains("a run writes the model at its first validation"), "{}", error(&folder));
        gptkit_data::disk::write(&folder.path().join("ckpt.pt"), b"").unwrap();
        assert!(error(&folder).contains("gptkit does not read ckpt.pt"), "{}", error(&folder));
        gptkit_data::disk::write(&folder.path().join("pytorch_model.bin"), b"").unwrap();
        let message = error(&folder);
        assert!(message.contains("AutoModelForCausalLM.from_pretrained('"), "{message}");
        let map = json!({ "weight_map": { "a": "1.safetensors", "b": "2.safetensors" } });
        write_json(&folder.path().join(stored::INDEX), &map).unwrap();
        let message = error(&folder);
        assert!(
            message.contains("refers to 2 files, of which 2 are missing: 1.safetensors, 2.safetensors"),
            "{message}"
        );
    }
}
