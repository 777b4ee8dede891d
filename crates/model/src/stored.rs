//! The weights of a model folder by the names of [`crate::layout::layout`], however the folder names them and lays them out.

use crate::config::ModelConfig;
use crate::folder::{WEIGHTS, read_json};
use crate::layout::{OUTPUT, WeightSlot, embedding_names, is_linear, layout};
use crate::packing::Packing;
use crate::params::Params;
use crate::tensor_files::{TensorFiles, must_be_finite, must_be_real};
use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use gptkit_ops::Parameter;
use safetensors::tensor::TensorInfo;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The file that names the parts of weights.
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// Most files that a model's weights may lie in; published ones lie in up to 200.
const MOST_FILES: usize = 1000;

/// What wrappers of PyTorch put before a name where they stand anywhere in it.
const WRAPPERS: [&str; 3] = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];
/// What wrappers put before all names.
const PREFIXES: [&str; 3] = ["module.", "model.", "base_model."];

/// Weights on disk.
pub(crate) struct StoredWeights {
    folder: PathBuf,
    files: TensorFiles,
    /// The name in [`crate::layout::layout`] → the name in the files.
    names: BTreeMap<String, String>,
}

impl StoredWeights {
    /// Opens the weights in `folder`.
    ///
    /// # Errors
    /// When a file is missing or damaged, or two weights have one name.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let files = TensorFiles::open(&weight_files(folder)?)?;
        let stored: Vec<&str> = files.tensors().map(|(name, _)| name).collect();
        let mut names = BTreeMap::new();
        for (plain, name) in plain_names(&stored) {
            if let Some(other) = names.insert(plain, name.to_owned()) {
                bail!(
                    "{} has the weights {other} and {name}, which are two names of the same weight",
                    folder.display()
                );
            }
        }
        Ok(Self { folder: folder.to_owned(), files, names })
    }

    /// Whether the output layer has weights that are not the token embeddings of a model of shape `config`.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(crate) fn has_own_output(&self, config: &ModelConfig) -> Result<bool> {
        let (tokens, _) = embedding_names(config.kind);
        match (self.names.get(tokens), self.names.get(OUTPUT)) {
            (Some(tokens), Some(output)) => Ok(!self.files.are_equal(tokens, output)?),
            _ => Ok(false),
        }
    }

    /// Type and shape of the weight `name`.
    pub(crate) fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.names.get(name).and_then(|stored| self.files.info(stored))
    }

    /// Reads the weight `name`.
    ///
    /// # Errors
    /// When it is missing, or the file cannot be read.
    pub(crate) fn load(&self, name: &str, device: &Device) -> candle_core::Result<Tensor> {
        self.files.load(self.names.get(name).map_or(name, String::as_str), device)
    }

    /// All weights of a model of shape `config`, ready to be read. With `biases_may_lack`, biases that are not there are
    /// zeros.
    ///
    /// # Errors
    /// When weights are missing, left over, or no real numbers.
    pub(crate) fn ready(mut self, config: &ModelConfig, biases_may_lack: bool) -> Result<ReadyWeights> {
        let wanted = layout(config);
        self.take_output_for_tokens(config);
        self.must_be_complete(config.n_layer, &wanted, biases_may_lack)?;
        self.must_have_places(&wanted)?;
        let turned = self.are_transposed(&wanted)?;
        Ok(ReadyWeights { stored: self, turned, shapes: wanted.into_iter().map(|s| (s.name, s.shape)).collect() })
    }

    /// Tied weights may be stored under the output layer's name alone.
    fn take_output_for_tokens(&mut self, config: &ModelConfig) {
        let (tokens, _) = embedding_names(config.kind);
        if let Some(output) = self.names.get(OUTPUT).filter(|_| config.tie_word_embeddings) {
            let output = output.clone();
            self.names.entry(tokens.to_owned()).or_insert(output);
        }
    }

    fn must_be_complete(&self, n_layer: usize, wanted: &[WeightSlot], biases_may_lack: bool) -> Result<()> {
        let may_lack = |name: &str| biases_may_lack && name.ends_with(".bias");
        let absent = wanted.iter().map(|slot| slot.name.as_str());
        let absent: Vec<&str> = absent.filter(|name| !self.names.contains_key(*name) && !may_lack(name)).collect();
        if absent.is_empty() {
            return Ok(());
        }
        let there: Vec<&str> = self.names.values().map(String::as_str).collect();
        bail!(
            "{} lacks {} of {} weights: {}; its files contain {}: {}{}",
            self.folder.display(),
            absent.len(),
            wanted.len(),
            some_of(&absent),
            there.len(),
            some_of(&there),
            self.hint(n_layer, wanted, &absent)
        );
    }

    /// What to do about the weights in `absent`, if that is known.
    fn hint(&self, n_layer: usize, wanted: &[WeightSlot], absent: &[&str]) -> String {
        let is_bias = |name: &str| name.ends_with(".bias");
        let biases = wanted.iter().filter(|slot| is_bias(&slot.name)).count();
        let layers = self.n_layers();
        if absent.len() == biases && absent.iter().all(|name| is_bias(name)) {
            "\n  hint: if the model was trained without biases (nanoGPT's bias = False), add \"bias\": false to its \
             config.json; the biases are then zero"
                .to_owned()
        } else if absent == [OUTPUT] {
            "\n  hint: config.json has tie_word_embeddings = false; if the output layer shares the token embeddings, \
             set it to true"
                .to_owned()
        } else if self.names.keys().any(|name| name.ends_with(".qweight")) {
            "\n  hint: they are quantized, which is not supported; use the model's unquantized weights".to_owned()
        } else if 0 < layers && layers < n_layer {
            format!("\n  hint: config.json has n_layer = {n_layer}, but the weights have {layers} layers")
        } else {
            String::new()
        }
    }

    /// Layers that have weights.
    fn n_layers(&self) -> usize {
        let number = |name: &String| name.strip_prefix("transformer.h.")?.split('.').next()?.parse().ok();
        self.names.keys().filter_map(number).collect::<BTreeSet<usize>>().len()
    }

    fn must_have_places(&self, wanted: &[WeightSlot]) -> Result<()> {
        let places: BTreeSet<&str> = wanted.iter().map(|slot| slot.name.as_str()).collect();
        let left: Vec<&str> =
            self.names.keys().map(String::as_str).filter(|name| !is_known(name) && !places.contains(name)).collect();
        if !left.is_empty() {
            bail!(
                "{} has {} weights that do not belong to the model in its config.json: {}",
                self.folder.display(),
                left.len(),
                some_of(&left)
            );
        }
        for (name, stored) in self.names.iter().filter(|(name, _)| places.contains(name.as_str())) {
            let info = self.info(name).with_context(|| format!("{stored} is missing"))?;
            must_be_real(stored, info.dtype).with_context(|| format!("in {}", self.folder.display()))?;
        }
        Ok(())
    }

    /// Whether the layers' matrices lie as `torch.nn.Linear` has them, `[out, in]`, instead of `[in, out]`. Square ones lie as
    /// the others do.
    fn are_transposed(&self, wanted: &[WeightSlot]) -> Result<bool> {
        let (mut straight, mut turned) = (None, None);
        for WeightSlot { name, shape } in
            wanted.iter().filter(|slot| is_linear(&slot.name) && slot.shape[0] != slot.shape[1])
        {
            match self.info(name).map(|info| info.shape.as_slice()) {
                Some(found) if found == shape => straight = straight.or(Some(name)),
                Some([a, b]) if [*b, *a] == **shape => turned = turned.or(Some(name)),
                _ => {} // reported with its shape when it is read
            }
        }
        if let (Some(straight), Some(turned)) = (straight, turned) {
            bail!(
                "in {}, {straight} has the layout [in, out] and {turned} [out, in]; save the model again with one \
                 layout",
                self.folder.display()
            );
        }
        Ok(turned.is_some())
    }
}

/// The weights of a model, all of which are there.
pub(crate) struct ReadyWeights {
    stored: StoredWeights,
    /// Whether matrices lie as `[out, in]`.
    turned: bool,
    /// The shape of each weight by its name.
    shapes: BTreeMap<String, Vec<usize>>,
}

impl ReadyWeights {
    /// Reads the weight `name`, as [`layout`] has it.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn load(&self, name: &str, device: &Device) -> candle_core::Result<Tensor> {
        if !self.stored.names.contains_key(name) {
            return Tensor::zeros(self.shapes[name].as_slice(), DType::F32, device);
        }
        let tensor = self.stored.load(name, device)?;
        if self.turned && is_linear(name) { tensor.t()?.contiguous() } else { Ok(tensor) }
    }

    /// Reads all weights of a model of shape `config`. With `packing`, each weight is packed as soon as it is read, so that no
    /// two whole copies are in memory.
    ///
    /// # Errors
    /// When a shape is another, a value is not finite, or a weight cannot be packed.
    pub(crate) fn read(&self, config: &ModelConfig, device: &Device, packing: Option<Packing>) -> Result<Params> {
        let make = |name: &str, values: &Tensor| {
            must_be_finite(name, values)?;
            packing.map_or_else(|| Parameter::new(values), |packing| packing.parameter(config, name, values))
        };
        let params = Params::gather_as(config, |name| self.load(name, device), make);
        params.with_context(|| format!("in {}", self.stored.folder.display()))
    }
}

/// Entries that no language model reads: tied output weights, old versions' attention masks, and the head of
/// [`crate::heads`].
fn is_known(name: &str) -> bool {
    name == OUTPUT || name == "score.weight" || name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias")
}

/// `names` as `transformers` writes them, each with the name that it came from: without what wrappers of PyTorch add, and
/// with the prefix that OpenAI's own uploads leave out.
fn plain_names<'a>(names: &[&'a str]) -> Vec<(String, &'a str)> {
    let unwrapped = |name: &&'a str| {
        let parts: Vec<&str> = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
        (parts.join("."), *name)
    };
    let mut plain: Vec<(String, &str)> = names.iter().map(unwrapped).collect();
    while let Some(prefix) = PREFIXES.iter().find(|p| !plain.is_empty() && plain.iter().all(|(n, _)| n.starts_with(*p)))
    {
        plain.iter_mut().for_each(|(name, _)| *name = name[prefix.len()..].to_owned());
    }
    plain.iter_mut().for_each(|(name, _)| {
        if !["transformer.", "lm_head.", "score."].iter().any(|prefix| name.starts_with(prefix)) {
            *name = format!("transformer.{name}");
        }
    });
    plain
}

/// A few of `names`, and how many more there are.
pub(crate) fn some_of<N: AsRef<str>>(names: &[N]) -> String {
    const MOST: usize = 4;
    let shown: Vec<&str> = names.iter().take(MOST).map(AsRef::as_ref).collect();
    let more = names.len().saturating_sub(MOST);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    if shown.is_empty() { "none".to_owned() } else { shown.join(", ") + &more }
}

/// Whether `folder` has weights.
pub(crate) fn exists(folder: &Path) -> bool {
    folder.join(WEIGHTS).exists() || folder.join(INDEX).exists()
}

fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let single = folder.join(WEIGHTS);
    if single.exists() {
        return Ok(vec![single]);
    }
    let index = folder.join(INDEX);
    if !index.exists() {
        bail!("{} has no {WEIGHTS}{}", folder.display(), other_weights(folder)?);
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
        ensure!(plain, "{} refers to the file {file}, which is not in the same folder", index.display());
        files.insert(name.to_owned());
        ensure!(files.len() <= MOST_FILES, "{} refers to more than {MOST_FILES} files", index.display());
    }
    let absent: Vec<&String> = files.iter().filter(|name| !folder.join(name).exists()).collect();
    ensure!(
        absent.is_empty(),
        "{} refers to {} files, of which {} are missing: {}\n  hint: download them again",
        index.display(),
        files.len(),
        absent.len(),
        some_of(&absent)
    );
    Ok(files.iter().map(|name| folder.join(name)).collect())
}

/// What to do about weights in `folder` that are not in safetensors' format.
fn other_weights(folder: &Path) -> Result<String> {
    const PICKLED: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
    const ENDINGS: [&str; 7] = ["bin", "pt", "pth", "ckpt", "h5", "msgpack", "gguf"];
    let shown = folder.display();
    if let Some(name) = PICKLED.iter().find(|name| folder.join(name).exists()) {
        return Ok(format!(
            "; {name} is a pickle, which can contain code\n  hint: convert it with transformers: python -c \"from \
             transformers import AutoModelForCausalLM; \
             AutoModelForCausalLM.from_pretrained('{shown}').save_pretrained('{shown}')\""
        ));
    }
    let mut others = Vec::new();
    for entry in folder.read_dir().with_context(|| format!("{shown} cannot be read"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if ENDINGS.iter().any(|ending| Path::new(&name).extension().is_some_and(|e| e == *ending)) {
            others.push(name);
        }
    }
    others.sort();
    Ok(match others.first() {
        Some(name) => format!(
            "; gptkit does not read {name}\n  hint: save the weights as safetensors (save_pretrained of transformers)"
        ),
        None => "; a run writes the model at its first validation".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(names: &[&str]) -> Vec<String> {
        plain_names(names).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn names_lose_what_wrappers_add_and_get_the_prefix_that_is_left_out() {
        let full = ["transformer.h.0.ln_1.weight", "lm_head.weight"];
        for wrapped in [
            ["h.0.ln_1.weight", "lm_head.weight"],
            full,
            ["_orig_mod.transformer.h.0.ln_1.weight", "_orig_mod.lm_head.weight"],
            ["module._orig_mod.transformer.h.0.ln_1.weight", "module._orig_mod.lm_head.weight"],
            ["_orig_mod.module.transformer.h.0.ln_1.weight", "_orig_mod.module.lm_head.weight"],
            ["model.transformer.h.0._orig_mod.ln_1.weight", "model.lm_head.weight"],
            ["base_model.model.transformer.h.0.ln_1.weight", "base_model.model.lm_head.weight"],
        ] {
            assert_eq!(plain(&wrapped), full, "{wrapped:?}");
        }
        // A prefix that not all have is part of the names.
        assert_eq!(plain(&["module.h.0.ln_1.weight", "wte.weight"])[0], "transformer.module.h.0.ln_1.weight");
        assert!(plain(&[]).is_empty());
    }

    #[test]
    fn a_few_names_stand_for_many() {
        assert_eq!(some_of::<&str>(&[]), "none");
        assert_eq!(some_of(&["a", "b"]), "a, b");
        assert_eq!(some_of(&["a", "b", "c", "d", "e", "f"]), "a, b, c, d and 2 more");
    }
}
