//! Low-rank adapters (Hu et al. 2021, §4.1): training a few numbers beside frozen weights, and the weights that result.
//!
//! A frozen matrix `W` of `[in, out]` becomes `W + α/r·(B·A)ᵀ`, with `A` `[r, in]` drawn and `B` `[out, r]` zero at first.
//! Products read that sum, which is made again after each update: what they compute and how fast is the same with adapters
//! as without, and a gradient of the sum gives those of `A` and `B`. Tokens that were added to the vocabulary are trained as
//! rows of its table. On disk it is PEFT's format.

use crate::config::ModelConfig;
use crate::folder::{check, load_config, load_model, read_json, save_tensors, seal, write_json};
use crate::params::{Params, embedding_names};
use ::config::{Check, Problems};
use anyhow::{Context, Result, bail, ensure};
use candle_core::backprop::GradStore;
use candle_core::safetensors::MmapedSafetensors;
use candle_core::{Device, Tensor};
use ops::Parameter;
use ops::rng::{Draw, Key, uniform};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// File of an adapter's numbers.
const WEIGHTS: &str = "adapter_model.safetensors";
/// File that describes an adapter.
const DESCRIPTION: &str = "adapter_config.json";

/// The matrices that have adapters, by the ending of their names.
const TARGETS: [&str; 4] = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"];

/// Size of the adapters; TOML section `[lora]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoraConfig {
    /// r: rows of `A`.
    pub rank: usize,
    /// α; the sum is scaled by α/r.
    #[serde(default = "alpha")]
    pub alpha: f64,
}

fn alpha() -> f64 {
    16.0
}

impl Check for LoraConfig {
    fn check(&self, problems: &mut Problems) {
        problems.require(self.rank > 0, "rank", "is not positive", "use 8");
        problems.require(self.alpha > 0.0, "alpha", "is not positive", "use twice the rank");
    }
}

impl LoraConfig {
    /// Count of the numbers that adapters of a model of shape `config` train.
    pub fn n_trained(&self, config: &ModelConfig) -> u64 {
        // Of each block D → 3D, D → D, D → 4D and 4D → D, inputs and outputs together.
        (16.0 * self.rank as f64 * config.d_model as f64 * config.n_layer as f64) as u64
    }

    /// What `B·A` is multiplied with.
    fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }
}

/// The adapters of a model.
#[derive(Debug, Clone)]
pub struct Adapters {
    config: LoraConfig,
    /// Folder of the model they belong to.
    base: PathBuf,
    matrices: Vec<Matrix>,
    rows: Option<Rows>,
    /// All that is trained, by name in PEFT's file.
    trained: Params,
}

/// An adapted matrix.
#[derive(Debug, Clone)]
struct Matrix {
    /// Of the weight in the model.
    name: String,
    /// W.
    frozen: Tensor,
    a: Arc<Parameter>,
    b: Arc<Parameter>,
}

/// Rows of the table of tokens that are trained whole.
#[derive(Debug, Clone)]
struct Rows {
    /// Of the table in the model.
    table: String,
    ids: Vec<u32>,
    values: Arc<Parameter>,
}

impl Adapters {
    /// New adapters for `params`, the weights of the model in the folder `base`; the rows of `new_tokens` are trained too.
    ///
    /// # Errors
    /// When the rank is 0 or over a matrix's width, or memory does not suffice.
    pub fn new(
        config: &LoraConfig,
        model: &ModelConfig,
        params: &Params,
        base: &Path,
        new_tokens: &[u32],
        seed: u64,
    ) -> Result<Self> {
        let most = model.d_model;
        ensure!((1..=most).contains(&config.rank), "lora.rank = {} is not between 1 and {most}", config.rank);
        let mut tensors = Vec::new();
        for (number, (name, parameter)) in targets(params).enumerate() {
            let (wide, out) = parameter.var().dims2()?;
            // PyTorch's default for a linear layer, which PEFT keeps: uniform within 1/√in.
            let bound = 1.0 / (wide as f32).sqrt();
            let key = Key { seed, draw: Draw::Init { parameter: number as u32 } };
            let draw = |n| (2.0 * uniform(key, n) - 1.0) * bound;
            let a: Vec<f32> = (0..(config.rank * wide) as u64).map(draw).collect();
            let device = parameter.var().device();
            tensors.push((peft_name(name, "lora_A"), Tensor::from_vec(a, (config.rank, wide), device)?));
            let zeros = Tensor::zeros((out, config.rank), candle_core::DType::F32, device)?;
            tensors.push((peft_name(name, "lora_B"), zeros));
        }
        if !new_tokens.is_empty() {
            let (table, _) = embedding_names(model.kind);
            let rows = Tensor::new(new_tokens, params.get(table)?.var().device())?;
            tensors.push((rows_name(table), params.get(table)?.tensor(false).index_select(&rows, 0)?));
        }
        Self::of(config, model, params, base, new_tokens, Params::of(tensors.into_iter().map(Ok))?)
    }

    /// Adapters of the numbers `trained`; freezes `params`.
    fn of(
        config: &LoraConfig,
        model: &ModelConfig,
        params: &Params,
        base: &Path,
        new_tokens: &[u32],
        trained: Params,
    ) -> Result<Self> {
        let matrix = |(name, parameter): (&str, &Arc<Parameter>)| {
            let part = |part| Ok::<_, candle_core::Error>(Arc::clone(trained.get(&peft_name(name, part))?));
            let frozen = parameter.tensor(false).copy()?;
            Ok(Matrix { name: name.to_owned(), frozen, a: part("lora_A")?, b: part("lora_B")? })
        };
        let matrices = targets(params).map(matrix).collect::<Result<Vec<Matrix>>>()?;
        let (table, _) = embedding_names(model.kind);
        let rows = match new_tokens {
            [] => None,
            ids => Some(Rows {
                table: table.to_owned(),
                ids: ids.to_vec(),
                values: Arc::clone(trained.get(&rows_name(table))?),
            }),
        };
        for (name, parameter) in params.iter() {
            let adapted = matrices.iter().any(|m| m.name == name) || rows.as_ref().is_some_and(|r| r.table == name);
            if !adapted {
                parameter.freeze();
            }
        }
        Ok(Self { config: config.clone(), base: base.to_owned(), matrices, rows, trained })
    }

    /// Reads those in `folder` and puts them onto `params`, the weights of their base.
    ///
    /// # Errors
    /// When they are damaged or belong to a model of another shape.
    fn load(folder: &Path, model: &ModelConfig, params: &Params) -> Result<Self> {
        let description = Description::read(folder)?;
        let path = folder.join(WEIGHTS);
        // SAFETY: the file is only read; one that another process shortens meanwhile would end this one, as with every
        // memory map, and no process of gptkit changes a weights file in place.
        let stored = unsafe { MmapedSafetensors::new(&path) };
        let stored = stored.with_context(|| format!("{} cannot be read", path.display()))?;
        let device = params.device();
        // In the order in which they are made, on which sums over all of them depend.
        let place = |name: &str| {
            let is_of = |weight: &str| ["lora_A", "lora_B"].iter().any(|part| name == peft_name(weight, part));
            (targets(params).position(|(weight, _)| is_of(weight)).unwrap_or(usize::MAX), name.to_owned())
        };
        let mut names: Vec<String> = stored.tensors().into_iter().map(|(name, _)| name).collect();
        names.sort_by_key(|name| place(name));
        let load = |name: String| Ok((name.clone(), stored.load(&name, &device)?));
        let trained = Params::of(names.into_iter().map(load));
        let trained = trained.with_context(|| format!("in {}", path.display()))?;
        let config = LoraConfig { rank: description.r, alpha: description.lora_alpha };
        let new_tokens = description.new_tokens();
        let adapters = Self::of(&config, model, params, &description.base_model_name_or_path, &new_tokens, trained);
        let adapters = adapters.with_context(|| format!("{} does not fit its base", folder.display()))?;
        adapters.apply(params)?;
        Ok(adapters)
    }

    /// Turns the gradients of the adapted weights in `params` into those of the adapters.
    fn take_gradients(&self, params: &Params) -> Result<()> {
        for Matrix { name, a, b, .. } in &self.matrices {
            let parameter = params.get(name)?;
            let Some(gradient) = parameter.gradient() else { bail!("no gradient reaches {name}") };
            parameter.clear_gradient();
            let gradient = (gradient * self.config.scale())?; // [in, out]
            a.accumulate(&gradient.matmul(&b.tensor(false))?.t()?.contiguous()?)?; // [r, in]
            b.accumulate(&gradient.t()?.matmul(&a.tensor(false).t()?)?)?; // [out, r]
        }
        if let Some(Rows { table, ids, values }) = &self.rows {
            let parameter = params.get(table)?;
            let Some(gradient) = parameter.gradient() else { bail!("no gradient reaches {table}") };
            parameter.clear_gradient();
            values.accumulate(&gradient.index_select(&Tensor::new(&**ids, gradient.device())?, 0)?)?;
        }
        Ok(())
    }

    /// Writes the sums of frozen weights and adapters to `params`.
    fn apply(&self, params: &Params) -> Result<()> {
        for Matrix { name, frozen, a, b } in &self.matrices {
            let more = a.tensor(false).t()?.matmul(&b.tensor(false).t()?)?; // [in, out]
            params.get(name)?.set(&(frozen + (more * self.config.scale())?)?)?;
        }
        if let Some(Rows { table, ids, values }) = &self.rows {
            let parameter = params.get(table)?;
            let at = Tensor::new(&**ids, values.var().device())?;
            let (n, d) = values.var().dims2()?;
            let at = at.unsqueeze(1)?.broadcast_as((n, d))?.contiguous()?;
            parameter.set(&parameter.tensor(false).scatter(&at, &values.tensor(false), 0)?)?;
        }
        Ok(())
    }

    /// Count of the numbers that are trained.
    pub fn n_trained(&self) -> u64 {
        self.trained.iter().map(|(_, parameter)| parameter.var().elem_count() as u64).sum()
    }

    /// Writes them as PEFT does.
    fn save(&self, folder: &Path) -> Result<()> {
        let description = Description {
            peft_type: "LORA".to_owned(),
            task_type: "CAUSAL_LM".to_owned(),
            base_model_name_or_path: self.base.clone(),
            r: self.config.rank,
            lora_alpha: self.config.alpha,
            lora_dropout: 0.0,
            target_modules: TARGETS.map(str::to_owned).to_vec(),
            fan_in_fan_out: true, // matrices lie as [in, out]
            bias: "none".to_owned(),
            inference_mode: true,
            trainable_token_indices: self.rows.as_ref().map(|Rows { table, ids, .. }| {
                let module = table.trim_start_matches("transformer.").trim_end_matches(".weight");
                json!({ module: ids })
            }),
        };
        write_json(&folder.join(DESCRIPTION), &serde_json::to_value(description)?)?;
        save_tensors(&folder.join(WEIGHTS), self.trained.iter().map(|(name, p)| (name, p.var().as_tensor())))?;
        seal(folder)
    }
}

/// The matrices that have adapters.
fn targets(params: &Params) -> impl Iterator<Item = (&str, &Arc<Parameter>)> {
    params.iter().filter(|(name, _)| TARGETS.iter().any(|target| name.ends_with(&format!("{target}.weight"))))
}

/// A number's name in PEFT's file: `transformer.h.0.attn.c_attn.weight` → `base_model.model.….lora_A.weight`.
fn peft_name(weight: &str, part: &str) -> String {
    format!("base_model.model.{}.{part}.weight", weight.trim_end_matches(".weight"))
}

fn rows_name(table: &str) -> String {
    format!("base_model.model.{}.token_adapter.trainable_tokens_delta", table.trim_end_matches(".weight"))
}

/// What `adapter_config.json` says.
#[derive(Serialize, Deserialize)]
struct Description {
    peft_type: String,
    task_type: String,
    base_model_name_or_path: PathBuf,
    r: usize,
    lora_alpha: f64,
    lora_dropout: f64,
    target_modules: Vec<String>,
    fan_in_fan_out: bool,
    bias: String,
    inference_mode: bool,
    #[serde(default)]
    trainable_token_indices: Option<serde_json::Value>,
}

impl Description {
    fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(DESCRIPTION);
        let description: Self = serde_json::from_value(read_json(&path)?)
            .with_context(|| format!("{} is not as PEFT writes it", path.display()))?;
        let Self { peft_type, bias, target_modules, r, .. } = &description;
        ensure!(peft_type == "LORA", "{} describes {peft_type}; gptkit runs LORA", path.display());
        ensure!(bias == "none" && *r > 0, "{} has trained biases or no rank", path.display());
        let ours =
            target_modules.len() == TARGETS.len() && TARGETS.iter().all(|t| target_modules.iter().any(|m| m == t));
        ensure!(ours, "{} adapts {target_modules:?}; gptkit runs {TARGETS:?}", path.display());
        Ok(description)
    }

    fn new_tokens(&self) -> Vec<u32> {
        let lists = self.trainable_token_indices.iter().flat_map(|map| map.as_object().into_iter().flatten());
        lists.flat_map(|(_, ids)| serde_json::from_value::<Vec<u32>>(ids.clone()).unwrap_or_default()).collect()
    }
}

/// Whether `folder` holds adapters rather than a model.
pub fn is_adapter(folder: &Path) -> bool {
    folder.join(DESCRIPTION).exists()
}

/// The shape of the model that the adapters in `folder` make, and the folder of their base.
///
/// # Errors
/// When the base is missing or no model.
pub(crate) fn load_adapted_config(folder: &Path) -> Result<(ModelConfig, PathBuf)> {
    let description = Description::read(folder)?;
    let base = description.base_model_name_or_path.clone();
    let mut config = load_config(&base)
        .with_context(|| format!("{} belongs to the model in {}", folder.display(), base.display()))?;
    let largest = description.new_tokens().into_iter().max().map_or(0, |id| id as usize + 1);
    config.vocab_size = config.vocab_size.max(largest);
    Ok((config, base))
}

/// A model's weights, and what of them is trained.
#[derive(Debug, Clone)]
pub struct Weights {
    params: Params,
    adapters: Option<Adapters>,
}

impl From<Params> for Weights {
    /// All are trained.
    fn from(params: Params) -> Self {
        Self { params, adapters: None }
    }
}

impl Weights {
    /// The adapters are trained, and nothing else.
    pub fn adapted(params: Params, adapters: Adapters) -> Self {
        Self { params, adapters: Some(adapters) }
    }

    /// The adapters in `folder` on the weights of their base, to be trained further.
    ///
    /// # Errors
    /// When they are damaged or belong to another shape.
    pub fn load_adapted(folder: &Path, device: &Device) -> Result<Self> {
        check(folder)?;
        let (config, base) = load_adapted_config(folder)?;
        let (_, params) = load_model(&base, device)?;
        let params = extend_vocabulary(&params, &config, 0)?; // the adapters hold the new rows
        let adapters = Adapters::load(folder, &config, &params)?;
        Ok(Self::adapted(params, adapters))
    }

    /// The weights as any other model's.
    pub fn merged(self) -> Params {
        self.params.iter().for_each(|(_, parameter)| parameter.thaw());
        self.params
    }

    /// What the model reads.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// What the optimizer changes.
    pub fn trained(&self) -> &Params {
        self.adapters.as_ref().map_or(&self.params, |adapters| &adapters.trained)
    }

    /// Begins new sums of gradients.
    pub fn clear_gradients(&self) {
        self.params.clear_gradients();
        self.trained().clear_gradients();
    }

    /// Adds the gradients that candle found.
    ///
    /// # Errors
    /// When a sum cannot be made.
    pub fn collect(&self, store: &mut GradStore) -> Result<()> {
        Ok(self.params.collect(store)?)
    }

    /// Once all gradients of a batch are there: makes those of what is trained.
    ///
    /// # Errors
    /// When a weight has none.
    pub fn pass_gradients_on(&self) -> Result<()> {
        self.adapters.as_ref().map_or(Ok(()), |adapters| adapters.take_gradients(&self.params))
    }

    /// Once what is trained has changed: has the model read it.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub fn follow(&self) -> Result<()> {
        self.adapters.as_ref().map_or(Ok(()), |adapters| adapters.apply(&self.params))
    }

    /// Runs `f` while the model reads its weights without adapters; nothing where there are none.
    ///
    /// # Errors
    /// When memory does not suffice, or the first one of `f`.
    pub fn unadapted<T>(&self, f: impl FnOnce() -> Result<T>) -> Option<Result<T>> {
        let adapters = self.adapters.as_ref()?;
        let without = || adapters.matrices.iter().try_for_each(|m| self.params.get(&m.name)?.set(&m.frozen));
        let found = without().map_err(Into::into).and_then(|()| f());
        Some(self.follow().and(found))
    }

    /// Writes what is trained: a model's weights, or adapters.
    ///
    /// # Errors
    /// When a file cannot be written; the one that was there stays whole.
    pub fn save(&self, folder: &Path) -> Result<()> {
        match &self.adapters {
            Some(adapters) => adapters.save(folder),
            None => crate::folder::save_weights(folder, &self.params),
        }
    }
}

/// `params` with first values for the rows of the vocabulary of `config` that they lack: their mean, and around it the
/// published deviation, so that a new token is neither likely nor impossible.
///
/// # Errors
/// When memory does not suffice.
pub fn extend_vocabulary(params: &Params, config: &ModelConfig, seed: u64) -> Result<Params> {
    let (table, _) = embedding_names(config.kind);
    let extend = |(name, parameter): (&str, &Arc<Parameter>)| {
        let tensor = parameter.tensor(false);
        if name != table || tensor.dim(0)? >= config.vocab_size {
            return Ok((name.to_owned(), tensor));
        }
        let more = config.vocab_size - tensor.dim(0)?;
        let draws = ops::rng::normals(Key { seed, draw: Draw::Init { parameter: u32::MAX } }, more * config.d_model);
        let draws = Tensor::from_vec(draws, (more, config.d_model), tensor.device())?;
        let rows = (draws * crate::init::STD)?.broadcast_add(&tensor.mean_keepdim(0)?)?;
        Ok((name.to_owned(), Tensor::cat(&[&tensor, &rows], 0)?))
    };
    Ok(Params::of(params.iter().map(extend))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::config::tests::tiny;
    use crate::{Gpt, Input, Pass};
    use ops::Precision;
    use ops::check::{assert_close, draw};

    const KINDS: [Kind; 3] = [Kind::Gpt1, Kind::Gpt2, Kind::Gpt3];
    const TRAIN: Pass = Pass::Train { seed: 1, first_row: 0, recompute: false };

    fn ids() -> Tensor {
        Tensor::from_vec((0..24u32).map(|i| i * 7 % 17).collect::<Vec<_>>(), (2, 12), &Device::Cpu).unwrap()
    }

    fn weights(kind: Kind) -> (ModelConfig, Weights) {
        let config = tiny(kind);
        let params = Params::init(&config, 1, &Device::Cpu).unwrap();
        let lora = LoraConfig { rank: 2, alpha: 3.0 };
        let adapters = Adapters::new(&lora, &config, &params, Path::new("base"), &[15, 16], 1).unwrap();
        (config, Weights::adapted(params, adapters))
    }

    fn loss(config: &ModelConfig, weights: &Weights, pass: Pass) -> Tensor {
        let gpt = Gpt::new(config, weights.params(), Precision::F32).unwrap();
        gpt.loss(&Input::windows(&ids()).unwrap(), &ids(), pass, 1.0).unwrap()
    }

    #[test]
    fn adapters_are_counted_before_they_are_made() {
        for kind in KINDS {
            let (config, params) = (tiny(kind), Params::init(&tiny(kind), 1, &Device::Cpu).unwrap());
            let lora = LoraConfig { rank: 2, alpha: 3.0 };
            let adapters = Adapters::new(&lora, &config, &params, Path::new("base"), &[], 1).unwrap();
            assert_eq!(lora.n_trained(&config), adapters.n_trained());
        }
    }

    #[test]
    fn fresh_adapters_change_nothing() {
        for kind in KINDS {
            let (config, weights) = weights(kind);
            let before = loss(&config, &weights, Pass::Eval);
            weights.follow().unwrap();
            assert_close("loss", &loss(&config, &weights, Pass::Eval), &before, 1e-6);
        }
    }

    /// Against finite differences of the loss, for the largest number of each adapter.
    #[test]
    fn adapters_have_the_gradient_of_finite_differences() {
        for kind in KINDS {
            let (config, weights) = weights(kind);
            for (i, (name, parameter)) in weights.trained().iter().enumerate() {
                if name.contains("lora_B") {
                    parameter.set(&(draw(i as u64, parameter.var().dims()) * 0.3).unwrap()).unwrap();
                }
            }
            weights.follow().unwrap();
            weights.clear_gradients();
            weights.collect(&mut loss(&config, &weights, TRAIN).backward().unwrap()).unwrap();
            weights.pass_gradients_on().unwrap();
            for (name, parameter) in weights.trained().iter() {
                let gradient: Vec<f32> = parameter.gradient().unwrap().flatten_all().unwrap().to_vec1().unwrap();
                let (at, largest) = gradient.iter().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).unwrap();
                let values: Vec<f32> = parameter.tensor(false).flatten_all().unwrap().to_vec1().unwrap();
                let moved = |by: f32| {
                    let mut values = values.clone();
                    values[at] += by;
                    parameter.set(&Tensor::from_vec(values, parameter.var().shape(), &Device::Cpu).unwrap()).unwrap();
                    weights.follow().unwrap();
                    loss(&config, &weights, Pass::Eval).to_scalar::<f32>().unwrap()
                };
                let measured = (moved(0.01) - moved(-0.01)) / 0.02;
                moved(0.0);
                assert!(
                    (measured - largest).abs() < 0.02 * largest.abs() + 2e-4,
                    "{kind:?} {name}: {measured}, {largest}"
                );
            }
        }
    }

    #[test]
    fn adapters_come_back_as_they_were_written() {
        let (config, weights) = weights(Kind::Gpt2);
        for (i, (_, parameter)) in weights.trained().iter().enumerate() {
            parameter.set(&draw(i as u64, parameter.var().dims())).unwrap();
        }
        weights.follow().unwrap();
        let folder = tempfile::tempdir().unwrap();
        weights.save(folder.path()).unwrap();
        assert!(is_adapter(folder.path()));
        let again = Params::init(&config, 1, &Device::Cpu).unwrap();
        Adapters::load(folder.path(), &config, &again).unwrap();
        assert_close("loss", &loss(&config, &again.into(), Pass::Eval), &loss(&config, &weights, Pass::Eval), 0.0);
    }

    #[test]
    fn new_tokens_stand_around_the_mean_of_the_old() {
        let config = ModelConfig { vocab_size: 20, ..tiny(Kind::Gpt2) };
        let old = Params::init(&tiny(Kind::Gpt2), 1, &Device::Cpu).unwrap();
        let new = extend_vocabulary(&old, &config, 1).unwrap();
        let (old, new) = (
            old.get("transformer.wte.weight").unwrap().tensor(false),
            new.get("transformer.wte.weight").unwrap().tensor(false),
        );
        assert_eq!(new.dims(), [20, 8]);
        assert_close("old rows", &new.narrow(0, 0, 17).unwrap(), &old, 0.0);
        let mean = old.mean_keepdim(0).unwrap().broadcast_as((3, 8)).unwrap();
        assert_close("new rows", &new.narrow(0, 17, 3).unwrap(), &mean, 0.1);
    }
}
