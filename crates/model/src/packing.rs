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
        let output = if config.tie_word_embeddings { embedding_names(config.kind).0 } else { OUTPUT };
        let is_output = name == output && config.must_write().is_ok();
        if !is_output && !is_linear(name) {
            return Parameter::new(values);
        }
        Parameter::packed(values, self.precision, self.quantized, is_output)
    }
}
