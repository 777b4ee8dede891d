//! Keys and values of past tokens, so that each new token costs one token's work.

use candle_core::{DType, Device, Result, Tensor, bail};
use ops::{Around, Drops, Pasts, Precision, Trunk};

/// The past of a batch of `B` sequences of equal length.
#[derive(Debug)]
pub struct Cache {
    layers: Layers,
    len: usize,
    context: usize,
}

#[derive(Debug)]
enum Layers {
    Cpu(Pasts),
    /// Of other devices.
    Tensors(Vec<LayerCache>),
}

/// One layer's past: `[B, H, C, K]` each, of which the first [`Cache::len`] positions are filled; none before the first
/// token.
#[derive(Debug, Default)]
struct LayerCache {
    keys_values: Option<(Tensor, Tensor)>,
}

impl Cache {
    /// An empty past of a model with `n_layer` layers, for at most `context` tokens.
    pub(crate) fn new(n_layer: usize, context: usize, precision: Precision, device: &Device) -> Self {
        let layers = match device {
            Device::Cpu => Layers::Cpu(Pasts::new(n_layer, context, precision)),
            _ => Layers::Tensors((0..n_layer).map(|_| LayerCache::default()).collect()),
        };
        Self { layers, len: 0, context }
    }

    /// Tokens held for each sequence.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets all but the first `len` tokens of each sequence.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        match &mut self.layers {
            Layers::Cpu(pasts) => pasts.truncate(len),
            // What lies past `len` is written over before it is read; of nothing, another batch may come.
            Layers::Tensors(layers) if len == 0 => layers.iter_mut().for_each(|layer| *layer = LayerCache::default()),
            Layers::Tensors(_) => {}
        }
    }

    /// Keeps only the sequences of the given numbers, in that order (a number may come twice).
    ///
    /// # Errors
    /// When a number is not below `B`.
    pub fn keep(&mut self, rows: &[u32], device: &Device) -> Result<()> {
        match &mut self.layers {
            Layers::Cpu(_) if self.len == 0 => Ok(()),
            Layers::Cpu(pasts) => pasts.keep(rows),
            Layers::Tensors(layers) => {
                let rows = Tensor::new(rows, device)?;
                for layer in layers {
                    if let Some((keys, values)) = &layer.keys_values {
                        layer.keys_values = Some((keys.index_select(&rows, 0)?, values.index_select(&rows, 0)?));
                    }
                }
                Ok(())
            }
        }
    }

    /// `x`: what the first block of `trunk` reads, `[B, T, D]`, after the tokens that are held. Returns what the trunk
    /// gives, and holds `T` tokens more.
    pub(crate) fn run(&mut self, trunk: &Trunk, x: &Tensor) -> Result<Tensor> {
        let (_, t, _) = x.dims3()?;
        let (len, context) = (self.len, self.context);
        let y = match &mut self.layers {
            Layers::Cpu(pasts) => trunk.step(x, pasts)?,
            Layers::Tensors(layers) => {
                let mut x = x.clone();
                for (block, layer) in trunk.blocks.iter().zip(layers) {
                    let mut extend = |keys: &Tensor, values: &Tensor| layer.extend(keys, values, len, context);
                    x = block.plain(&x, Drops::default(), false, Around::Past(&mut extend))?;
                }
                trunk.finish(&x, false)?
            }
        };
        self.len += t;
        Ok(y)
    }
}

impl LayerCache {
    /// Adds `keys` and `values` (`[B, H, T, K]`) after `len` tokens; returns all so far, `[B, H, len + T, K]`.
    fn extend(&mut self, keys: &Tensor, values: &Tensor, len: usize, context: usize) -> Result<(Tensor, Tensor)> {
        let (b, h, t, k) = keys.dims4()?;
        if len + t > context {
            bail!("a cache for {context} tokens cannot take {t} after {len}");
        }
        let empty = || Tensor::zeros((b, h, context, k), DType::F32, keys.device());
        let (all_keys, all_values) = match self.keys_values.take() {
            Some(held) => held,
            None => (empty()?, empty()?),
        };
        all_keys.slice_set(&keys.contiguous()?, 2, len)?;
        all_values.slice_set(&values.contiguous()?, 2, len)?;
        let so_far = (all_keys.narrow(2, 0, len + t)?, all_values.narrow(2, 0, len + t)?);
        self.keys_values = Some((all_keys, all_values));
        Ok(so_far)
    }
}
