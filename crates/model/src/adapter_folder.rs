//! Folders of adapters in PEFT's format, and the model that they and their base model form.
//!
//! Besides the pairs `A` and `B` of the blocks' matrices, which [`crate::lora`] also trains, a folder may have whole weights
//! (`modules_to_save`, biases, embeddings of a larger vocabulary), rows of tables (`trainable_token_indices`), and adapters of
//! embeddings and of the output layer. All are computed as PEFT 0.21 computes them. A tensor that has no place is an error.

use crate::config::ModelConfig;
use crate::folder::read_json;
use crate::layout::{OUTPUT, embedding_names, layout, vocabulary_tables};
use crate::lora::{AdapterParts, Adapters, WEIGHTS, peft_name, rows_name};
use crate::params::Params;
use crate::peft::PeftConfig;
use crate::peft_modules::{AdaptedLayer, modules};
use crate::stored::some_of;
use crate::tensor_files::{TensorFiles, must_be_finite, must_be_real};
use crate::weights::Weights;
use anyhow::{Context, Result, bail, ensure};
use candle_core::{D, DType, Device, Tensor};
use gptkit_data::adapter::DESCRIPTION;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What PEFT puts before the names of a model's weights.
const PREFIX: &str = "base_model.model.";

/// Adapters in a folder, and what they change, before their numbers are read.
pub(crate) struct AdapterFolder {
    folder: PathBuf,
    /// Folder of the base model.
    pub(crate) base: PathBuf,
    /// Of the model that results.
    pub(crate) config: ModelConfig,
    peft: PeftConfig,
    stored: TensorFiles,
    /// Modules with pairs of `A` and `B`.
    targets: Vec<(String, AdaptedLayer)>,
    /// Tables and their rows that are replaced.
    rows: Vec<(String, Vec<u32>)>,
    /// Weights that are replaced whole, and the tensors that take their places.
    replaced: BTreeMap<String, String>,
}

impl AdapterFolder {
    /// Opens the adapters in `folder` of the model in the folder `base`, whose shape is `base_config`.
    ///
    /// # Errors
    /// When the adapters are damaged or not of a kind that gptkit computes.
    pub(crate) fn open(folder: &Path, base: PathBuf, base_config: &ModelConfig) -> Result<Self> {
        let peft = PeftConfig::read(folder)?;
        let within = || format!("in {}", folder.join(DESCRIPTION).display());
        let stored = open_weights(folder)?;
        let modules = modules(base_config);
        peft.must_be_few(modules.len()).with_context(within)?;
        let targets = peft.targets(base_config, &modules).with_context(within)?;
        ensure!(!targets.is_empty(), "{}: target_modules matches no module of the base model", within());
        let rows = peft.rows(base_config, &modules).with_context(within)?;
        let saved: BTreeSet<&str> = peft.saved(&modules).into_iter().collect();
        let config = untied(base_config, &peft, &targets, &rows, &saved).with_context(within)?;
        let replaced = replaced(&stored, base_config, &config, &saved)?;
        let mut opened = Self { folder: folder.to_owned(), base, config, peft, stored, targets, rows, replaced };
        opened.must_have_saved(&saved)?;
        opened.config.vocab_size = opened.vocab_size(base_config.vocab_size)?;
        Ok(opened)
    }

    /// Every weight of a module that is replaced whole must be there.
    fn must_have_saved(&self, saved: &BTreeSet<&str>) -> Result<()> {
        for slot in layout(&self.config).iter().filter(|slot| !self.replaced.contains_key(&slot.name)) {
            let mut parents = slot.name.match_indices('.').map(|(at, _)| &slot.name[..at]);
            if let Some(module) = parents.rfind(|parent| saved.contains(parent)) {
                bail!(
                    "modules_to_save contains {module}, but {} lacks {PREFIX}{}",
                    self.folder.join(WEIGHTS).display(),
                    slot.name
                );
            }
        }
        Ok(())
    }

    /// Entries of the vocabulary, of which the base has `n`: adapters may bring more.
    fn vocab_size(&self, n: usize) -> Result<usize> {
        let tables = vocabulary_tables(&self.config);
        let whole =
            |table: &str| self.replaced.get(table).and_then(|name| self.stored.info(name)?.shape.first().copied());
        let largest = tables.iter().flat_map(|table| self.rows_of(table)).max().map_or(0, |&id| id as usize + 1);
        let size = tables.iter().filter_map(|table| whole(table)).chain([n, largest]).max().unwrap_or(n);
        for table in tables {
            let known = whole(table).unwrap_or(n);
            // New tokens follow those that are there, without gaps.
            let new = self.rows_of(table).iter().filter(|&&id| id as usize >= known).count();
            ensure!(
                known + new >= size,
                "{} has {size} tokens including those of the adapters in {}, but {table} has only {} of them",
                self.base.display(),
                self.folder.display(),
                known + new
            );
        }
        Ok(size)
    }

    /// Rows of the weight `table` that are replaced.
    fn rows_of(&self, table: &str) -> &[u32] {
        let rows = self.rows.iter().find(|(module, _)| table.strip_suffix(".weight") == Some(module));
        rows.map_or(&[], |(_, ids)| ids)
    }

    /// The weights `base` of the base model with the adapters on them, on `device`.
    ///
    /// # Errors
    /// When the adapters are damaged, or base and adapters do not belong together.
    pub(crate) fn load(self, base: Params, device: &Device) -> Result<Weights> {
        let params = with_output(base, &self.config)?.extend_vocabulary(&self.config, 0)?;
        let mut reader = TensorReader::new(&self.stored, self.folder.join(WEIGHTS), device);
        let mut fixed = self.replace(&params, &mut reader)?;
        let mut trained = Vec::new();
        let matrices = self.take_pairs(&params, &mut reader, &mut trained, &mut fixed)?;
        let rows = self.take_rows(&params, &mut reader, &mut trained)?;
        reader.must_be_empty()?;
        let mut description = read_json(&self.folder.join(DESCRIPTION))?;
        description["base_model_name_or_path"] = json!(std::path::absolute(&self.base)?);
        let trained = Params::of(trained.into_iter().map(Ok))?;
        let adapters = Adapters::of(&params, AdapterParts { description, matrices, rows, trained, fixed })?;
        Ok(Weights::adapted(params, adapters))
    }

    /// Reads the pairs `A` and `B`. Those of matrices go to `trained`, and the names and scales of the matrices are returned;
    /// others are merged into `params`, and `fixed` says so.
    fn take_pairs(
        &self,
        params: &Params,
        reader: &mut TensorReader,
        trained: &mut Vec<(String, Tensor)>,
        fixed: &mut Option<String>,
    ) -> Result<Vec<(String, f64)>> {
        let mut matrices = Vec::new();
        for (module, layer) in &self.targets {
            let Some(pair) = self.pair(module, *layer, params, reader)? else { continue };
            let weight = format!("{module}.weight");
            if *layer == AdaptedLayer::Matrix && !self.peft.dora && !self.peft.lora_bias {
                trained.push((peft_name(&weight, "lora_A"), pair.a));
                trained.push((peft_name(&weight, "lora_B"), pair.b));
                matrices.push((weight, pair.scale));
            } else {
                self.merge(module, *layer, &pair, params, reader)?;
                fixed.get_or_insert(format!(
                    "adapters of {module} that are not plain LoRA matrices of a transformer block"
                ));
            }
        }
        let found = !matrices.is_empty() || fixed.is_some();
        ensure!(found, "{} contains no adapters for {}", reader.path.display(), self.targets[0].0);
        Ok(matrices)
    }

    /// Reads rows of tables to `trained`; returns the names of the tables and the numbers of the rows.
    fn take_rows(
        &self,
        params: &Params,
        reader: &mut TensorReader,
        trained: &mut Vec<(String, Tensor)>,
    ) -> Result<Vec<(String, Vec<u32>)>> {
        let mut rows = Vec::new();
        for (module, ids) in &self.rows {
            let (table, name) = (format!("{module}.weight"), rows_name(module));
            let most = params.get(&table)?.var().dim(0)?;
            ensure!(
                ids.iter().all(|&id| (id as usize) < most),
                "trainable_token_indices in {} contains a row that {module} does not have; it has {most} rows",
                self.folder.join(DESCRIPTION).display()
            );
            trained.push((name.clone(), reader.take(&name, &[ids.len(), self.config.d_model])?));
            rows.push((table, ids.clone()));
        }
        Ok(rows)
    }

    /// Puts whole weights into `params`, and says what they are.
    fn replace(&self, params: &Params, reader: &mut TensorReader) -> Result<Option<String>> {
        for (weight, name) in &self.replaced {
            let Ok(parameter) = params.get(weight) else {
                reader.left.remove(name.as_str()); // tied output weights, equal to the token embeddings
                continue;
            };
            parameter.set(&reader.take(name, parameter.var().dims())?)?;
        }
        Ok(self.replaced.keys().next().map(|weight| format!("full weights such as {weight}")))
    }

    /// `A` and `B` of `module`; nothing when both are absent, which PEFT takes for zeros.
    fn pair(
        &self,
        module: &str,
        layer: AdaptedLayer,
        params: &Params,
        reader: &mut TensorReader,
    ) -> Result<Option<LoraPair>> {
        let rank = self.peft.rank(module)?;
        let weight = format!("{module}.weight");
        let (rows, columns) = params.get(&weight)?.var().dims2()?;
        let (names, [wide, out]) = match layer {
            AdaptedLayer::Embedding => (
                ["lora_embedding_A", "lora_embedding_B"].map(|part| format!("{PREFIX}{module}.{part}")),
                [rows, columns],
            ),
            AdaptedLayer::Output => (["lora_A", "lora_B"].map(|part| peft_name(&weight, part)), [columns, rows]),
            AdaptedLayer::Matrix | AdaptedLayer::Other => {
                (["lora_A", "lora_B"].map(|part| peft_name(&weight, part)), [rows, columns])
            }
        };
        if names.iter().all(|name| self.stored.info(name).is_none()) {
            ensure!(!self.peft.is_random, "{} lacks {}", reader.path.display(), names[0]);
            return Ok(None);
        }
        let a = reader.take(&names[0], &[rank, wide])?;
        let b = reader.take(&names[1], &[out, rank])?;
        Ok(Some(LoraPair { a, b, scale: self.peft.scale(module)? }))
    }

    /// Puts the sum of the weight of `module` and its `pair` into `params`.
    fn merge(
        &self,
        module: &str,
        layer: AdaptedLayer,
        pair: &LoraPair,
        params: &Params,
        reader: &mut TensorReader,
    ) -> Result<()> {
        let parameter = params.get(&format!("{module}.weight"))?;
        let more = (pair.b.matmul(&pair.a)? * pair.scale)?; // [out, in]
        let turned = layer != AdaptedLayer::Output; // all but the output layer lie as [in, out]
        let more = if turned { more.t()? } else { more };
        let mut sum = (parameter.tensor(false) + more)?;
        if self.peft.dora {
            ensure!(
                layer != AdaptedLayer::Embedding,
                "use_dora is not supported for {module}; merge the adapters with PEFT"
            );
            let out = pair.b.dim(0)?;
            let lengths = reader.take(&format!("{PREFIX}{module}.lora_magnitude_vector"), &[out])?;
            let along = if turned { D::Minus2 } else { D::Minus1 }; // over what the layer reads
            let lengths = if turned { lengths.unsqueeze(0)? } else { lengths.unsqueeze(1)? };
            let norms = sum.sqr()?.sum_keepdim(along)?.sqrt()?;
            sum = sum.broadcast_mul(&(lengths / norms)?)?;
        }
        must_be_finite(module, &sum)?; // a column of zeros has no length to scale
        parameter.set(&sum)?;
        if self.peft.lora_bias {
            ensure!(layer == AdaptedLayer::Matrix, "lora_bias is not supported for {module}, which has no bias itself");
            let bias = params.get(&format!("{module}.bias"))?;
            let more = reader.take(&format!("{PREFIX}{module}.lora_B.bias"), bias.var().dims())?;
            bias.set(&(bias.tensor(false) + (more * pair.scale)?)?)?;
        }
        Ok(())
    }
}

/// The adapters of a module.
struct LoraPair {
    /// `[r, in]`
    a: Tensor,
    /// `[out, r]`
    b: Tensor,
    /// What their product is multiplied with.
    scale: f64,
}

/// Tensors of a file that are read one by one, so that those left over are known.
struct TensorReader<'a> {
    stored: &'a TensorFiles,
    path: PathBuf,
    device: &'a Device,
    left: BTreeSet<&'a str>,
}

impl<'a> TensorReader<'a> {
    fn new(stored: &'a TensorFiles, path: PathBuf, device: &'a Device) -> Self {
        Self { stored, path, device, left: stored.tensors().map(|(name, _)| name).collect() }
    }

    /// Reads the tensor `name`, which is to have `shape`, as f32.
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let path = self.path.display();
        let Some(info) = self.stored.info(name) else { bail!("{path} lacks {name}") };
        must_be_real(name, info.dtype).with_context(|| format!("in {path}"))?;
        let own = &info.shape;
        ensure!(own == shape, "{name} in {path} has shape {own:?}; {DESCRIPTION} and the base model require {shape:?}");
        self.left.remove(name);
        let tensor = self.stored.load(name, self.device)?.to_dtype(DType::F32)?;
        must_be_finite(name, &tensor).with_context(|| format!("in {path}"))?;
        Ok(tensor)
    }

    fn must_be_empty(&self) -> Result<()> {
        let left: Vec<&str> = self.left.iter().copied().collect();
        ensure!(
            left.is_empty(),
            "{} has {} tensors that match neither {DESCRIPTION} nor the base model: {}",
            self.path.display(),
            left.len(),
            some_of(&left)
        );
        Ok(())
    }
}

fn open_weights(folder: &Path) -> Result<TensorFiles> {
    let path = folder.join(WEIGHTS);
    ensure!(
        path.exists() || !folder.join("adapter_model.bin").exists(),
        "{} has no {WEIGHTS}; adapter_model.bin is a pickle, which can contain code\n  hint: convert it with PEFT: \
         load it with PeftModel.from_pretrained and save it with save_pretrained",
        folder.display()
    );
    TensorFiles::open(&[path])
}

/// The shape of the base with a separate output layer where adapters change only one of two tied tables, as PEFT does.
fn untied(
    base: &ModelConfig,
    peft: &PeftConfig,
    targets: &[(String, AdaptedLayer)],
    rows: &[(String, Vec<u32>)],
    saved: &BTreeSet<&str>,
) -> Result<ModelConfig> {
    let tables = [embedding_names(base.kind).0, OUTPUT].map(|name| name.trim_end_matches(".weight"));
    let is_changed = |table: &&str| saved.contains(table) || targets.iter().any(|(name, _)| name == table);
    let changed = tables.iter().find(|table| is_changed(table));
    for (name, _) in rows {
        let twice = saved.contains(name.as_str()) || targets.iter().any(|(target, _)| target == name);
        ensure!(!twice, "{name} is in trainable_token_indices and also in target_modules or modules_to_save");
    }
    let apart = changed.is_some() || rows.iter().any(|(name, _)| name == tables[1]);
    if let Some(table) = changed.filter(|_| base.tie_word_embeddings && peft.ensures_tying) {
        bail!("ensure_weight_tying is not supported with adapters of {table}; merge them with PEFT");
    }
    Ok(ModelConfig { tie_word_embeddings: base.tie_word_embeddings && !apart, ..base.clone() })
}

/// `params` with a separate output layer, equal to the token embeddings at first, if `config` has one and they do not.
fn with_output(params: Params, config: &ModelConfig) -> Result<Params> {
    if config.tie_word_embeddings || params.get(OUTPUT).is_ok() {
        return Ok(params);
    }
    let (tokens, _) = embedding_names(config.kind);
    let output = params.get(tokens)?.tensor(false).copy()?;
    let all = params.iter().map(|(name, parameter)| Ok((name.to_owned(), parameter.tensor(false))));
    Ok(Params::of(all.chain([Ok((OUTPUT.to_owned(), output))]))?)
}

/// Weights of a model of shape `config` that tensors of `stored` replace whole. A tied table of the base stands for both.
fn replaced(
    stored: &TensorFiles,
    base: &ModelConfig,
    config: &ModelConfig,
    saved: &BTreeSet<&str>,
) -> Result<BTreeMap<String, String>> {
    let weights: BTreeSet<String> =
        layout(config).into_iter().map(|slot| slot.name).chain([OUTPUT.to_owned()]).collect();
    let mut found = BTreeMap::new();
    for (name, _) in stored.tensors() {
        let Some(weight) = name.strip_prefix(PREFIX) else { continue };
        let weight = weight.replace(".base_layer.", ".");
        if weights.contains(&weight) {
            found.insert(weight, name.to_owned());
        }
    }
    let tables = [embedding_names(base.kind).0, OUTPUT];
    let is_shared = |table: &&str| base.tie_word_embeddings && !saved.contains(table.trim_end_matches(".weight"));
    let shared: Vec<String> = tables.iter().filter(|t| is_shared(t)).filter_map(|t| found.get(*t).cloned()).collect();
    if let [one, other] = &*shared {
        ensure!(stored.are_equal(one, other)?, "{one} and {other} differ, but the base model uses one weight for both");
    }
    if let Some(name) = shared.first() {
        for table in tables.iter().filter(|table| is_shared(table)) {
            found.entry((*table).to_owned()).or_insert_with(|| name.clone());
        }
    }
    Ok(found)
}
