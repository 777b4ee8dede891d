//! Writes a GPT-2 as a GGUF file, one tensor at a time, and refuses what llama.cpp would run wrongly.

use crate::config::{Kind, ModelConfig};
use crate::folder::{check, read_json, save_description, save_ends, save_weights};
use crate::gguf::{
    ARCHITECTURE, CONTEXT, D_MLP, D_MODEL, EOT, EPSILON, GPT2, N_HEAD, N_LAYER, OWN_CONTEXT, OWN_ENDS, POSITIONS,
    gguf_name, is_turned,
};
use crate::heads::HeadDescription;
use crate::layout::layout;
use crate::license::license;
use crate::load::{ModelFolder, end_tokens, load_config, load_model, ready_weights, stored_fingerprint};
use crate::params::Params;
use crate::stored::ReadyWeights;
use crate::tensor_files::must_be_finite;
use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use gptkit_config::Usage;
use gptkit_data::adapter::is_adapter;
use gptkit_data::disk;
use gptkit_data::tokenizer::Tokenizer;
use gptkit_gguf::format::that_fits;
use gptkit_gguf::{GgmlDType, GgufFile, GgufValue, GgufWriter, TensorPlan, WeightFormat, is_gguf};
use std::collections::BTreeMap;
use std::io::BufWriter;
use std::path::Path;

/// llama.cpp rounds the context up to a multiple of this, and aborts beyond the last position.
const CONTEXT_STEP: usize = 256;

/// How a model is written.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportOptions {
    /// The data types of its weights.
    pub format: WeightFormat,
    /// Positions that are kept; all when nothing says otherwise.
    pub context: Option<usize>,
    /// Whether banded attention is written as if it were dense, which changes what the model computes.
    pub as_dense: bool,
    /// What the model is called.
    pub name: String,
}

/// A data type that did not fit, and the one that was taken instead.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplacedType {
    /// The type that the format asks for.
    pub wanted: GgmlDType,
    /// The type that was written.
    pub written: GgmlDType,
    /// Weights of a row.
    pub columns: usize,
    /// Tensors.
    pub n: usize,
}

/// What was written.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportedModel {
    /// Its shape.
    pub config: ModelConfig,
    /// Tensors.
    pub n_tensors: usize,
    /// Positions in the file, of which those beyond the context are copies of the last.
    pub positions: usize,
    /// Data types that did not fit.
    pub replaced: Vec<ReplacedType>,
    /// Bytes of the file.
    pub bytes: u64,
}

/// The shape of the GPT-2 that llama.cpp would run as the model in `folder`, whose shape is `config`.
///
/// # Errors
/// When there is none, with the reason.
pub fn exported_config(folder: &Path, config: &ModelConfig, options: &ExportOptions) -> Result<ModelConfig> {
    let refuse = |why: &str, hint: &str| -> Result<ModelConfig> {
        Err(Usage::new(format!("{} cannot be exported as GGUF: {why}", folder.display())).hint(hint).into())
    };
    let writes = "export a language model of kind gpt2, or a policy of `gptkit sft`, `ppo` or `dpo` trained from one";
    match config.kind {
        Kind::Gpt1 => {
            return refuse(
                "it is a GPT-1, and llama.cpp has no model with layer norms after the sums, as GPT-1 has",
                writes,
            );
        }
        Kind::Lstm => return refuse("it is an LSTM, which llama.cpp does not have", writes),
        Kind::Bert => {
            return refuse(
                "it is a masked model that does not generate text, and llama.cpp would read it as another",
                writes,
            );
        }
        Kind::Gpt2 | Kind::Gpt3 => {}
    }
    if HeadDescription::load(folder).is_ok_and(|head| head.task != HeadDescription::REWARD) {
        return refuse("it is a classifier, and llama.cpp's GPT-2 has no head for labels", writes);
    }
    if is_scorer(folder)? {
        return refuse("it is a reward model, and llama.cpp's GPT-2 has no head for scores", writes);
    }
    let context = options.context.unwrap_or(config.context);
    if context == 0 || context > config.context {
        let what = format!("--context {context}: the model has {} positions", config.context);
        return Err(Usage::new(what).hint("choose a smaller context").into());
    }
    if let Some(band) = config.band.filter(|&band| band < context && !options.as_dense) {
        return refuse(
            &format!(
                "every second layer of this GPT-3 sees only {band} tokens, and llama.cpp's GPT-2 would see all {context}"
            ),
            &format!(
                "use --context {band}, within which the two are the same, or --as-dense --data FILE, which measures the \
                 difference"
            ),
        );
    }
    Ok(ModelConfig { kind: Kind::Gpt2, band: None, context, ..config.clone() })
}

/// Whether the model in `folder` scores texts.
fn is_scorer(folder: &Path) -> Result<bool> {
    if is_gguf(folder) || is_adapter(folder) {
        return Ok(false);
    }
    let class = read_json(&folder.join("config.json"))?["architectures"][0].clone();
    Ok(class.as_str().is_some_and(|class| class.ends_with("ForSequenceClassification")))
}

/// Weights by their names in [`layout`].
enum WeightSource {
    /// On disk.
    Stored(ReadyWeights),
    /// In memory: adapters are merged there.
    Loaded(Params),
}

impl WeightSource {
    fn of(folder: &Path, config: &ModelConfig) -> Result<Self> {
        if is_adapter(folder) || is_gguf(folder) {
            return Ok(Self::Loaded(load_model(folder, &Device::Cpu)?.1));
        }
        check(folder)?;
        Ok(Self::Stored(ready_weights(folder, config)?))
    }

    fn load(&self, name: &str) -> Result<Tensor> {
        Ok(match self {
            Self::Stored(stored) => stored.load(name, &Device::Cpu)?,
            Self::Loaded(params) => params.get(name)?.tensor(false),
        })
    }
}

/// Writes the model in `folder` to `out`, and compares the tokens that llama.cpp gives texts by it with those of the model's
/// tokenizer.
///
/// # Errors
/// When llama.cpp would run the model wrongly or give other tokens, or the file cannot be written; what was at `out` is then
/// as it was.
pub fn export(folder: &Path, out: &Path, options: &ExportOptions) -> Result<ExportedModel> {
    let stored = load_config(folder)?;
    let config = exported_config(folder, &stored, options)?;
    let mut tokenizer = Tokenizer::load(folder)?;
    tokenizer.limit_to(config.vocab_size).with_context(|| folder.display().to_string())?;
    let unlike = || format!("{} cannot be exported as GGUF because of its tokenizer", folder.display());
    let of_tokens = tokenizer.to_gguf(config.vocab_size).with_context(unlike)?;
    let positions = config.context.next_multiple_of(CONTEXT_STEP);
    let mut metadata = gptkit_gguf::Metadata::default();
    let mut text = |key: &str, text: &str| metadata.add(key, GgufValue::Text(text.to_owned()));
    text(ARCHITECTURE, GPT2);
    text("general.name", &options.name);
    text("gptkit.version", env!("CARGO_PKG_VERSION"));
    text("gptkit.weights", &stored_fingerprint(folder)?);
    license(folder)?.iter().for_each(|(key, value)| text(key, value));
    for (key, size) in [
        (N_LAYER, config.n_layer),
        (CONTEXT, positions),
        (OWN_CONTEXT, config.context),
        (D_MODEL, config.d_model),
        (D_MLP, config.d_mlp()),
        (N_HEAD, config.n_head),
    ] {
        metadata.add(key, GgufValue::Integer(size as i64));
    }
    metadata.add("general.file_type", GgufValue::Integer(options.format.file_type()));
    metadata.add("general.quantization_version", GgufValue::Integer(2));
    metadata.add(EPSILON, GgufValue::Float(config.layer_norm_eps));
    of_tokens.iter().for_each(|(key, value)| metadata.add(key, value.clone()));
    let ends = end_tokens(folder, &tokenizer)?;
    if let Some(&turn) = ends.iter().find(|&&id| Some(id) != tokenizer.end_of_text()) {
        metadata.add(EOT, GgufValue::Integer(turn.into()));
    }
    metadata.add(OWN_ENDS, GgufValue::Integers(ends.iter().map(|&id| id as i32).collect()));

    let slots = layout(&config);
    let mut plans = Vec::new();
    let mut replaced: BTreeMap<(&str, &str, usize), ReplacedType> = BTreeMap::new();
    for slot in &slots {
        let name = gguf_name(&slot.name).with_context(|| format!("{} has no name in GGUF", slot.name))?;
        let mut shape = slot.shape.clone();
        if is_turned(&name) {
            shape.reverse();
        }
        if name == POSITIONS {
            shape[0] = positions;
        }
        let columns = shape.last().copied().unwrap_or(0);
        let wanted = options.format.dtype(&name, config.n_layer, config.tie_word_embeddings);
        let dtype = that_fits(wanted, columns);
        if dtype != wanted {
            let key = (gptkit_gguf::dtype::name(wanted), gptkit_gguf::dtype::name(dtype), columns);
            replaced.entry(key).or_insert(ReplacedType { wanted, written: dtype, columns, n: 0 }).n += 1;
        }
        plans.push(TensorPlan { name, shape, dtype });
    }
    let source = WeightSource::of(folder, &stored)?;
    disk::write_with(out, |aside| {
        let mut writer = GgufWriter::begin(BufWriter::new(disk::append(aside)?), &metadata, plans.clone())?;
        for (slot, plan) in slots.iter().zip(&plans) {
            let tensor = source.load(&slot.name)?;
            must_be_finite(&slot.name, &tensor)?;
            let tensor = if plan.name == POSITIONS { lengthened(&tensor, config.context, positions)? } else { tensor };
            let tensor = if is_turned(&plan.name) { tensor.t()?.contiguous()? } else { tensor };
            writer.write(&tensor)?;
        }
        writer.finish()?;
        tokenizer.must_agree_with_gguf(&GgufFile::open(aside)?.metadata).with_context(unlike)
    })?;
    Ok(ExportedModel {
        config,
        n_tensors: plans.len(),
        positions,
        replaced: replaced.into_values().collect(),
        bytes: out.metadata()?.len(),
    })
}

/// The first `context` of the position embeddings `table`, and the last of them again up to `n`.
fn lengthened(table: &Tensor, context: usize, n: usize) -> Result<Tensor> {
    let kept = table.narrow(0, 0, context)?;
    if n == context {
        return Ok(kept);
    }
    let last = kept.narrow(0, context - 1, 1)?;
    Ok(Tensor::cat(&[&kept, &last.repeat((n - context, 1))?], 0)?)
}

/// Makes a model folder of the GGUF file at `path`.
///
/// # Errors
/// When the file cannot be read, or the folder not written.
pub fn import(path: &Path, out: &Path) -> Result<ModelConfig> {
    if !is_gguf(path) {
        bail!("{} is not a GGUF file", path.display());
    }
    let taken = out.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    ensure!(!taken, "{} is not empty; choose another folder with --out", out.display());
    let ModelFolder { config, params, tokenizer, end_of_text } = ModelFolder::load(path, &Device::Cpu)?;
    disk::create_dir(disk::parent(out))?;
    disk::folder_with(out, |made| {
        save_description(made, &config, &tokenizer)?;
        if !end_of_text.is_empty() {
            save_ends(made, &end_of_text)?;
        }
        save_weights(made, &params)
    })?;
    Ok(config)
}
