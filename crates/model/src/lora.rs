//! Low-rank adapters (Hu et al. 2021, §4.1): training a few numbers in addition to frozen weights, and the weights that result.
//!
//! A frozen matrix `W` of `[in, out]` becomes `W + α/r·(B·A)ᵀ`, with `A` `[r, in]` drawn and `B` `[out, r]` zero at first.
//! Products read that sum, packed again after each update ([`gptkit_ops::LowRank`]); the gradient of `W` is never made.
//! Tokens that were added to the vocabulary are trained as rows of its tables. On disk it is PEFT's format, of which
//! [`crate::adapter_folder`] reads more than is trained here.

use crate::config::{LARGEST, ModelConfig};
use crate::folder::{save_tensors, seal, write_json};
use crate::layout::{WeightSlot, layout, vocabulary_tables};
use crate::params::Params;
use anyhow::{Result, bail, ensure};
use candle_core::Tensor;
use gptkit_config::{Check, Problems};
use gptkit_data::adapter::DESCRIPTION;
use gptkit_ops::{LowRank, Trained, TrainedRows};
use gptkit_rng::keyed::{Draw, Key, uniform};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use gptkit_data::adapter::is_adapter;

/// File of an adapter's numbers.
pub(crate) const WEIGHTS: &str = "adapter_model.safetensors";

/// The matrices of a block, which can have adapters in training.
const TARGETS: [&str; 4] = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"];

/// Largest α that is read; usual ones are up to twice the rank.
const LARGEST_ALPHA: f64 = 1e6;

/// LoRA adapters (Hu et al. 2021); TOML section `[lora]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LoraConfig {
    /// Rank r of the adapters.
    pub rank: usize,
    /// Scale α of the adapters: their product is multiplied by α / r.
    #[serde(default = "alpha")]
    pub alpha: f64,
    /// Dropout probability of the input of the adapters in training. Above 0, training uses slower general operations.
    #[serde(default)]
    pub dropout: f64,
    /// Matrices that get adapters, named as in PEFT by the end of their names: `attn.c_attn`, `attn.c_proj`, `mlp.c_fc` and
    /// `mlp.c_proj`; all four when left out.
    #[serde(default = "all_targets")]
    pub target_modules: Vec<String>,
}

fn all_targets() -> Vec<String> {
    TARGETS.map(str::to_owned).to_vec()
}

fn alpha() -> f64 {
    16.0
}

impl Check for LoraConfig {
    fn check(&self, problems: &mut Problems) {
        problems.require(self.rank > 0, "rank", "must be positive", "use 8");
        problems.at_most(self.rank, LARGEST, "rank");
        let in_range = (0.0..1.0).contains(&self.dropout);
        problems.require(in_range, "dropout", "must be at least 0 and below 1", "use 0.05, or 0 for none");
        let sound = self.alpha > 0.0 && self.alpha <= LARGEST_ALPHA;
        problems.require(sound, "alpha", "must be positive and not extremely large", "use twice the rank");
        problems.require(
            !self.target_modules.is_empty(),
            "target_modules",
            "is empty",
            "remove the key to adapt all matrices",
        );
        let known = |name: &String| TARGETS.iter().any(|target| ends_with(target, name));
        for (i, _) in self.target_modules.iter().enumerate().filter(|(_, name)| !known(name)) {
            let what = "is not a weight matrix of a transformer block";
            problems.add(&format!("target_modules.{i}"), what, format!("choose from {}", TARGETS.join(", ")));
        }
    }
}

impl LoraConfig {
    /// Adapters of all matrices.
    pub fn new(rank: usize, alpha: f64) -> Self {
        Self { rank, alpha, dropout: 0.0, target_modules: all_targets() }
    }

    /// Count of the numbers that adapters of a model of shape `config` train.
    pub fn n_trained(&self, config: &ModelConfig) -> u64 {
        let widths = |slot: WeightSlot| slot.shape.iter().map(|&n| n as u64).sum::<u64>();
        let adapted = layout(config).into_iter().filter(|slot| self.adapts(&slot.name));
        adapted.map(widths).sum::<u64>().saturating_mul(self.rank as u64)
    }

    /// Whether the weight `name` has adapters in training.
    fn adapts(&self, name: &str) -> bool {
        let Some(module) = name.strip_suffix(".weight") else { return false };
        TARGETS.iter().any(|target| ends_with(module, target))
            && self.target_modules.iter().any(|target| ends_with(module, target))
    }

    /// What `B·A` is multiplied with.
    fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }
}

/// The adapters of a model.
#[derive(Debug, Clone)]
pub struct Adapters {
    /// `adapter_config.json`.
    description: Value,
    /// Names of tables in the model, and their rows that are trained.
    rows: Vec<(String, TrainedRows)>,
    /// All that is trained, by name in PEFT's file.
    trained: Params,
    /// What was put into the model besides, and cannot be trained further.
    fixed: Option<String>,
    /// Whether products read the adapted matrices; if not, the frozen ones.
    are_on: Arc<AtomicBool>,
}

/// What adapters are made of, before they are put onto a model.
pub(crate) struct AdapterParts {
    /// `adapter_config.json`.
    pub(crate) description: Value,
    /// Names of the adapted matrices in the model, and what `B·A` is multiplied with.
    pub(crate) matrices: Vec<(String, f64)>,
    /// Names of tables in the model, and their rows that are trained.
    pub(crate) rows: Vec<(String, Vec<u32>)>,
    /// All that is trained, by name in PEFT's file.
    pub(crate) trained: Params,
    /// What was put into the model besides.
    pub(crate) fixed: Option<String>,
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
        ensure!((1..=most).contains(&config.rank), "lora.rank = {} must be between 1 and {most}", config.rank);
        let (mut tensors, mut matrices) = (Vec::new(), Vec::new());
        for (number, (name, parameter)) in params.iter().filter(|(name, _)| config.adapts(name)).enumerate() {
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
            matrices.push((name.to_owned(), config.scale()));
        }
        let mut rows = Vec::new();
        for table in vocabulary_tables(model).into_iter().filter(|_| !new_tokens.is_empty()) {
            let at = Tensor::new(new_tokens, params.get(table)?.var().device())?;
            tensors.push((rows_name(table), params.get(table)?.tensor(false).index_select(&at, 0)?));
            rows.push((table.to_owned(), new_tokens.to_vec()));
        }
        let description = description(config, base, &rows);
        let trained = Params::of(tensors.into_iter().map(Ok))?;
        Self::of(params, AdapterParts { description, matrices, rows, trained, fixed: None })
    }

    /// Puts adapters of `parts` onto `params`, which are frozen but for them.
    ///
    /// # Errors
    /// When they do not fit each other.
    pub(crate) fn of(params: &Params, parts: AdapterParts) -> Result<Self> {
        let AdapterParts { description, matrices, rows, trained, fixed } = parts;
        let dropout = description["lora_dropout"].as_f64().unwrap_or(0.0);
        ensure!(
            (0.0..1.0).contains(&dropout),
            "{DESCRIPTION}: lora_dropout must be at least 0 and below 1, but is {dropout}"
        );
        let dropout = dropout as f32;
        let are_on = Arc::new(AtomicBool::new(true));
        params.iter().for_each(|(_, parameter)| parameter.freeze());
        for (name, scale) in matrices {
            let part = |part| Ok::<_, candle_core::Error>(Arc::clone(trained.get(&peft_name(&name, part))?));
            let (a, b, is_on) = (part("lora_A")?, part("lora_B")?, Arc::clone(&are_on));
            params.get(&name)?.train(Trained::LowRank(LowRank { a, b, scale, dropout, is_on }));
        }
        let rows = rows.into_iter().map(|(table, ids)| {
            let values = Arc::clone(trained.get(&rows_name(&table))?);
            let rows = TrainedRows::new(&ids, values);
            params.get(&table)?.train(Trained::Rows(rows.clone()));
            Ok((table, rows))
        });
        let rows = rows.collect::<Result<Vec<_>>>()?;
        let adapters = Self { description, rows, trained, fixed, are_on };
        adapters.write_rows(params)?;
        Ok(adapters)
    }

    /// Writes the rows that are trained into the tables in `params`.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub(crate) fn write_rows(&self, params: &Params) -> Result<()> {
        self.rows.iter().try_for_each(|(table, rows)| Ok(rows.write_to(params.get(table)?)?))
    }

    /// Runs `f` while products read the frozen matrices without adapters; rows of new tokens stay.
    pub(crate) fn switched_off<T>(&self, f: impl FnOnce() -> T) -> T {
        self.are_on.store(false, Ordering::Relaxed);
        let result = f();
        self.are_on.store(true, Ordering::Relaxed);
        result
    }

    /// Count of the numbers that are trained.
    pub fn n_trained(&self) -> u64 {
        self.trained.iter().map(|(_, parameter)| parameter.var().elem_count() as u64).sum()
    }

    /// What is trained, by name in PEFT's file.
    pub(crate) fn trained(&self) -> &Params {
        &self.trained
    }

    /// Writes adapters and their description as PEFT does.
    ///
    /// # Errors
    /// When a file cannot be written, or training them further would lose a part of them.
    pub(crate) fn save(&self, folder: &Path) -> Result<()> {
        self.must_be_trainable()?;
        write_json(&folder.join(DESCRIPTION), &self.description)?;
        save_tensors(&folder.join(WEIGHTS), self.trained.iter().map(|(name, p)| (name, p.var().as_tensor())))?;
        seal(folder)
    }

    /// # Errors
    /// When training them further would lose a part of them.
    pub(crate) fn must_be_trainable(&self) -> Result<()> {
        match &self.fixed {
            Some(what) => bail!(
                "these adapters contain {what}, which gptkit cannot train further\n  hint: merge them into a model \
                 with `gptkit merge`"
            ),
            None => Ok(()),
        }
    }
}

/// What `adapter_config.json` says about adapters of the size `config` that also train `rows`.
fn description(config: &LoraConfig, base: &Path, rows: &[(String, Vec<u32>)]) -> Value {
    let module = |table: &str| table.trim_start_matches("transformer.").trim_end_matches(".weight").to_owned();
    let tokens: Map<String, Value> = rows.iter().map(|(table, ids)| (module(table), json!(ids))).collect();
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": config.target_modules,
        "fan_in_fan_out": true, // matrices lie as [in, out]
        "bias": "none",
        "inference_mode": true,
        "trainable_token_indices": if tokens.is_empty() { Value::Null } else { Value::Object(tokens) },
    })
}

/// Whether `end` is `module`, or its end after a dot.
fn ends_with(module: &str, end: &str) -> bool {
    module.strip_suffix(end).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// A number's name in PEFT's file: `transformer.h.0.attn.c_attn.weight` → `base_model.model.….lora_A.weight`.
pub(crate) fn peft_name(weight: &str, part: &str) -> String {
    format!("base_model.model.{}.{part}.weight", weight.trim_end_matches(".weight"))
}

/// Name of the rows of a table in PEFT's file.
pub(crate) fn rows_name(table: &str) -> String {
    format!("base_model.model.{}.token_adapter.trainable_tokens_delta", table.trim_end_matches(".weight"))
}

#[cfg(test)]
mod tests;
