//! How a model that is only read keeps its weights: as products read them, and no other way.

use crate::config::ModelConfig;
use crate::layout::{OUTPUT, embedding_names, is_linear};
use candle_core::{Device, Result, Tensor, bail};
use gptkit_ops::{Parameter, Precision, Quantized};

/// What products read.
#[derive(Debug, Clone, Copy)]
pub struct Packing {
    /// Of products.
    pub precision: Precision,
    /// A type of few bits for the weights of blocks and of the output layer.
    pub quantized: Option<Quantized>,
}

impl Packing {
    /// `packing`, if there is one and it applies to a model of shape `config` on `device`.
    ///
    /// # Errors
    /// As [`Packing::applies`].
    pub(crate) fn that_applies(packing: Option<Self>, config: &ModelConfig, device: &Device) -> Result<Option<Self>> {
        match packing {
            Some(packing) if packing.applies(config, device)? => Ok(Some(packing)),
            _ => Ok(None),
        }
    }

    /// Whether a model of shape `config` on `device` is packed: a transformer on the CPU.
    ///
    /// # Errors
    /// When the weights cannot be of few bits there.
    pub(crate) fn applies(&self, config: &ModelConfig, device: &Device) -> Result<bool> {
        if self.quantized.is_some() {
            config.must_attend()?;
            if !device.is_cpu() {
                bail!("quantized weights work only on the CPU: use --device cpu");
            }
        }
        Ok(config.kind.attends() && device.is_cpu())
    }

    /// The parameter `name` of a model of shape `config` to which this applies, packed if products read it.
    ///
    /// # Errors
    /// When its width does not divide into blocks.
    pub(crate) fn parameter(&self, config: &ModelConfig, name: &str, values: &Tensor) -> Result<Parameter> {
        match PackedUse::of(config, name) {
            Some(of) if self.rounds(config, of) => Parameter::new(values),
            Some(of) => Parameter::packed(values, self.precision, self.quantized, of == PackedUse::Table),
            None => Parameter::new(values),
        }
    }

    /// Whether packing f32 for `packed_use` would round embeddings: tokens are read from a tied table in f32, as in training,
    /// and rounded to bf16 they would give other results.
    pub(crate) fn rounds(&self, config: &ModelConfig, packed_use: PackedUse) -> bool {
        let is_read = packed_use == PackedUse::Table && config.tie_word_embeddings;
        is_read && self.precision == Precision::Bf16 && self.quantized.is_none()
    }
}

/// What products read a weight as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PackedUse {
    /// The output layer, `[V, D]`, from whose rows tokens are read too where it is tied.
    Table,
    /// A matrix of a block, `[in, out]`.
    Matrix,
}

impl PackedUse {
    /// That of the weight `name` in a model of shape `config`; none where no product reads it.
    pub(crate) fn of(config: &ModelConfig, name: &str) -> Option<Self> {
        let output = if config.tie_word_embeddings { embedding_names(config.kind).0 } else { OUTPUT };
        if name == output && config.must_write().is_ok() {
            return Some(Self::Table);
        }
        is_linear(name).then_some(Self::Matrix)
    }
}
