//! Keys and values of past tokens, so that each new token costs one token's work.

use candle_core::{DType, Device, Result, Tensor, bail};

/// The past of a batch of `B` sequences of equal length.
#[derive(Debug)]
pub struct Cache {
    layers: Vec<LayerCache>,
    len: usize,
    context: usize,
}

/// One layer's past: `[B, H, C, K]` each, of which the first [`Cache::len`] positions are filled; none before the first
/// token.
#[derive(Debug, Default)]
pub(crate) struct LayerCache {
    keys_values: Option<(Tensor, Tensor)>,
}

impl Cache {
    /// An empty past of a model with `n_layer` layers, for at most `context` tokens.
    pub fn new(n_layer: usize, context: usize) -> Self {
        Self { layers: (0..n_layer).map(|_| LayerCache::default()).collect(), len: 0, context }
    }

    /// Tokens held for each sequence.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keeps only the sequences of the given numbers, in that order (a number may come twice).
    ///
    /// # Errors
    /// When a number is not below `B`.
    pub fn keep(&mut self, rows: &[u32], device: &Device) -> Result<()> {
        let rows = Tensor::new(rows, device)?;
        for layer in &mut self.layers {
            if let Some((keys, values)) = &layer.keys_values {
                layer.keys_values = Some((keys.index_select(&rows, 0)?, values.index_select(&rows, 0)?));
            }
        }
        Ok(())
    }

    /// Runs `f` on layer number `layer` and the count of tokens it holds.
    pub(crate) fn layer(&mut self, layer: usize) -> (&mut LayerCache, usize, usize) {
        (&mut self.layers[layer], self.len, self.context)
    }

    /// Says that `n` more tokens are held by every layer.
    pub(crate) fn advance(&mut self, n: usize) {
        self.len += n;
    }
}

impl LayerCache {
    /// Adds `keys` and `values` (`[B, H, T, K]`) after `len` tokens; returns all so far, `[B, H, len + T, K]`.
    pub(crate) fn extend(
        &mut self,
        keys: &Tensor,
        values: &Tensor,
        len: usize,
        context: usize,
    ) -> Result<(Tensor, Tensor)> {
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
