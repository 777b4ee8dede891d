//! GPT-2 in GGUF files, as llama.cpp has it (`src/models/gpt2.cpp`): the names of its tensors, and a model that is read.

use crate::config::{Kind, ModelConfig, PositionInit};
use crate::layout::{WeightSlot, layout};
use crate::packing::{PackedUse, Packing};
use crate::params::Params;
use crate::tensor_files::must_be_finite;
use anyhow::{Context, Result, bail, ensure};
use candle_core::quantized::GgmlDType;
use candle_core::{Device, Tensor};
use gptkit_config::{Check, Problems};
use gptkit_gguf::{GgufFile, GgufTensor};
use gptkit_ops::{Parameter, Quantized, StoredMatrix, StoredType};
use std::collections::BTreeSet;
use std::path::Path;

/// Keys of the metadata.
pub(crate) const ARCHITECTURE: &str = "general.architecture";
pub(crate) const N_LAYER: &str = "gpt2.block_count";
pub(crate) const CONTEXT: &str = "gpt2.context_length";
pub(crate) const D_MODEL: &str = "gpt2.embedding_length";
pub(crate) const D_MLP: &str = "gpt2.feed_forward_length";
pub(crate) const N_HEAD: &str = "gpt2.attention.head_count";
pub(crate) const EPSILON: &str = "gpt2.attention.layer_norm_epsilon";
pub(crate) const EOS: &str = "tokenizer.ggml.eos_token_id";
pub(crate) const EOT: &str = "tokenizer.ggml.eot_token_id";
/// Positions that were trained, where [`CONTEXT`] has more.
pub(crate) const OWN_CONTEXT: &str = "gptkit.context";
/// The tokens that end a text or an answer.
pub(crate) const OWN_ENDS: &str = "gptkit.end_token_ids";

/// The architecture that is read and written.
pub(crate) const GPT2: &str = "gpt2";
pub(crate) const TOKENS: &str = "token_embd.weight";
pub(crate) const POSITIONS: &str = "position_embd.weight";
const OUTPUT: &str = "output.weight";

/// The name in GGUF of the weight `name` of [`layout`].
pub(crate) fn gguf_name(name: &str) -> Option<String> {
    let plain = match name {
        "transformer.wte.weight" => TOKENS,
        "transformer.wpe.weight" => POSITIONS,
        "transformer.ln_f.weight" => "output_norm.weight",
        "transformer.ln_f.bias" => "output_norm.bias",
        crate::layout::OUTPUT => OUTPUT,
        _ => {
            let (layer, part) = name.strip_prefix("transformer.h.")?.split_once('.')?;
            let (part, kind) = part.rsplit_once('.')?;
            let part = match part {
                "ln_1" => "attn_norm",
                "ln_2" => "ffn_norm",
                "attn.c_attn" => "attn_qkv",
                "attn.c_proj" => "attn_output",
                "mlp.c_fc" => "ffn_up",
                "mlp.c_proj" => "ffn_down",
                _ => return None,
            };
            return Some(format!("blk.{layer}.{part}.{kind}"));
        }
    };
    Some(plain.to_owned())
}

/// Whether the weight called `name` in GGUF lies there as `[out, in]`, and in [`layout`] as `[in, out]`.
pub(crate) fn is_turned(name: &str) -> bool {
    name.starts_with("blk.") && name.ends_with(".weight") && !name.contains("_norm")
}

/// A model in a GGUF file.
#[derive(Debug)]
pub(crate) struct GgufModel {
    file: GgufFile,
    /// Its shape.
    pub(crate) config: ModelConfig,
}

impl GgufModel {
    /// # Errors
    /// When the file is damaged, or holds another model than GPT-2.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = GgufFile::open_without_tokens(path)?;
        let config = config(&file).with_context(|| format!("in {}", path.display()))?;
        Ok(Self { file, config })
    }

    /// Reads its weights as f32, or for `packing` as products read them: those of few bits as they are in the file, if products
    /// read that type ([`Quantized`]) and no other one is wanted.
    ///
    /// # Errors
    /// When tensors are missing, left over, of another shape, or have values that are not finite.
    pub(crate) fn load(self, device: &Device, packing: Option<Packing>) -> Result<(ModelConfig, Params)> {
        let Self { file, config } = self;
        let packing = Packing::that_applies(packing, &config, device)?;
        let names: BTreeSet<String> = layout(&config).iter().filter_map(|slot| gguf_name(&slot.name)).collect();
        let is_left = |tensor: &&GgufTensor| !names.contains(&tensor.name) && tensor.name != OUTPUT;
        let read = || -> Result<Params> {
            if let Some(left) = file.tensors.iter().find(is_left) {
                bail!("the tensor {} does not belong to a GPT-2 of {} layers", left.name, config.n_layer);
            }
            let make = |slot: &WeightSlot| -> Result<Parameter> {
                if let Some(parameter) = packing.and_then(|packing| packed(&file, &config, slot, packing)) {
                    return parameter;
                }
                let values = find(&file, &config, &slot.name, device)?;
                if values.dims() != slot.shape {
                    let (is, wanted) = (values.dims(), &slot.shape);
                    bail!("{} has shape {is:?}, but the configuration requires {wanted:?}", slot.name);
                }
                must_be_finite(&slot.name, &values)?;
                match packing {
                    Some(packing) => Ok(packing.parameter(&config, &slot.name, &values)?),
                    None => Ok(Parameter::new(&values)?),
                }
            };
            // The library's function takes the library's errors.
            Ok(Params::build(&config, |slot| make(slot).map_err(|e| candle_core::Error::msg(format!("{e:#}"))))?)
        };
        let params = read().with_context(|| format!("in {}", file.path().display()))?;
        Ok((config, params))
    }

    /// The tokens that end a text or an answer; nothing where the file names none.
    ///
    /// # Errors
    /// When one is not a token.
    pub(crate) fn ends(&self) -> Result<Option<Vec<u32>>> {
        let metadata = &self.file.metadata;
        let own = metadata.integers(OWN_ENDS).iter().map(|&id| i64::from(id));
        let mut ends: Vec<i64> = own.collect();
        if ends.is_empty() {
            for key in [EOT, EOS] {
                ends.extend(metadata.size(key)?.map(|id| id as i64));
            }
            ends.dedup();
        }
        let id = |id: i64| u32::try_from(id).ok().filter(|&id| (id as usize) < self.config.vocab_size);
        let ends: Option<Vec<u32>> = ends.into_iter().map(id).collect();
        let ends = ends.with_context(|| format!("{} names an end that is not a token", self.file.path().display()))?;
        Ok(Some(ends).filter(|ends| !ends.is_empty()))
    }
}

/// The weight of `slot` packed straight from the file's numbers or blocks, without a copy in f32, if products read it so.
fn packed(file: &GgufFile, config: &ModelConfig, slot: &WeightSlot, packing: Packing) -> Option<Result<Parameter>> {
    let packed_use = PackedUse::of(config, &slot.name).filter(|_| packing.quantized.is_none())?;
    let is_table = packed_use == PackedUse::Table;
    let tensor = file.tensor(&gguf_name(&slot.name)?)?;
    // A file has all matrices as `[out, in]`.
    let &[outputs, inputs] = tensor.shape.as_slice() else { return None };
    if slot.shape != (if is_table { [outputs, inputs] } else { [inputs, outputs] }) {
        return None;
    }
    let kind = match tensor.dtype {
        GgmlDType::BF16 => StoredType::Bf16,
        GgmlDType::F32 if packing.rounds(config, packed_use) => return None,
        GgmlDType::F32 => StoredType::F32,
        dtype => StoredType::Quantized(Quantized::of_dtype(dtype)?),
    };
    let read = |rows| file.rows(tensor, rows).map_err(|e| candle_core::Error::msg(format!("{e:#}")));
    let stored = StoredMatrix { kind, read: &read };
    let parameter = Parameter::packed_as_stored(&stored, (inputs, outputs), packing.precision, is_table);
    Some(parameter.with_context(|| format!("in {}", slot.name)))
}

/// The weight `name` of [`layout`], in the shape that it has there.
fn find(file: &GgufFile, config: &ModelConfig, name: &str, device: &Device) -> Result<Tensor> {
    let stored = gguf_name(name).with_context(|| format!("{name} has no name in GGUF"))?;
    let tensor = file.tensor(&stored).with_context(|| format!("the tensor {stored} is missing"))?;
    let tensor = file.load(tensor, device)?;
    if stored == POSITIONS && tensor.dim(0)? > config.context {
        return Ok(tensor.narrow(0, 0, config.context)?.contiguous()?);
    }
    Ok(if is_turned(&stored) && tensor.rank() == 2 { tensor.t()?.contiguous()? } else { tensor })
}

/// The shape that the metadata describes.
fn config(file: &GgufFile) -> Result<ModelConfig> {
    let metadata = &file.metadata;
    let architecture = metadata.text(ARCHITECTURE).with_context(|| format!("{ARCHITECTURE} is missing"))?;
    ensure!(architecture == GPT2, "its architecture is {architecture}; gptkit reads {GPT2}");
    let size = |key: &str| metadata.size(key)?.with_context(|| format!("{key} is missing"));
    let tokens = file.tensor(TOKENS).with_context(|| format!("the tensor {TOKENS} is missing"))?;
    let d_model = size(D_MODEL)?;
    let d_mlp = metadata.size(D_MLP)?;
    let epsilon = metadata.float(EPSILON).with_context(|| format!("{EPSILON} is missing"))?;
    let tie_word_embeddings = match file.tensor(OUTPUT) {
        Some(output) => file.are_equal(tokens, output)?,
        None => true,
    };
    let config = ModelConfig {
        kind: Kind::Gpt2,
        n_layer: size(N_LAYER)?,
        n_head: size(N_HEAD)?,
        d_model,
        n_inner: d_mlp.filter(|&n| Some(n) != d_model.checked_mul(4)),
        context: metadata.size(OWN_CONTEXT)?.map_or_else(|| size(CONTEXT), Ok)?,
        vocab_size: tokens.shape[0],
        band: None,
        embedding_dropout: 0.0,
        attention_dropout: 0.0,
        residual_dropout: 0.0,
        init_std: None,
        position_init: PositionInit::default(),
        // The shortest number that is the same in 32 bits: 1e-5, not 9.999999747378752e-6.
        layer_norm_eps: (epsilon as f32).to_string().parse()?,
        tie_word_embeddings,
    };
    let mut problems = Problems::default();
    config.check(&mut problems);
    match problems.iter().next() {
        Some(problem) => bail!("{problem}"),
        None => Ok(config),
    }
}
