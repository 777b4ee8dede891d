//! Blocks one after the other on a device, and their gradient block by block.

use super::attention::{Attended, attend, attend_backward};
use super::attention_shape::{AttentionShape, Visibility};
use super::computed::computed;
use super::kernels::{
    add_residual, bias_add, bias_gelu, gelu_backward, normalize, normalize_backward, residual_backward,
};
use super::products::product;
use crate::block::{Block, DropoutSites};
use crate::gradient_watch::GradientWatch;
use crate::linear::Linear;
use crate::path::Precision;
use crate::sequences::Sequences;
use crate::trunk::{SaveForBackward, Trunk};
use candle_core::{DType, Error, Result, Tensor, bail};
use std::sync::{Arc, Mutex, PoisonError};

/// As [`Trunk::forward`].
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn forward(
    trunk: &Arc<Trunk>,
    x: &Tensor,
    sequences: &Arc<Sequences>,
    precision: Precision,
    drops: &[DropoutSites],
    keep: SaveForBackward,
) -> Result<Tensor> {
    let batch = DeviceBatch {
        sequences: Arc::clone(sequences),
        sees: Visibility::of(sequences, x.device())?,
        dtype: precision.dtype(),
    };
    let drops_of = |layer: usize, drops: &[DropoutSites]| drops.get(layer).copied().unwrap_or_default();
    let mut kept = Vec::new();
    let mut stream = x.detach().contiguous()?;
    for (layer, block) in trunk.blocks.iter().enumerate() {
        let (next, activations) = batch.forward(block, &stream, drops_of(layer, drops))?;
        match keep {
            SaveForBackward::Nothing => {}
            SaveForBackward::All => kept.push((stream, Some(activations))),
            SaveForBackward::Inputs => kept.push((stream, None)),
        }
        stream = next;
    }
    let (y, last) = match &trunk.ln_f {
        Some(norm) => {
            let (y, stats) = normalize(&flat(&stream)?, norm, DType::F32)?;
            (y.reshape(stream.shape())?, Some((stream, stats)))
        }
        None => (stream, None),
    };
    if keep == SaveForBackward::Nothing {
        return Ok(y);
    }
    let (trunk, drops, kept) = (Arc::clone(trunk), drops.to_vec(), Mutex::new(kept));
    let watch = GradientWatch::pass_begins();
    computed(x, y, move |dy| {
        let mut dstream = match (&trunk.ln_f, &last) {
            (Some(norm), Some((x, stats))) => {
                let dx = normalize_backward(&flat(dy)?, &flat(x)?, stats, norm, None)?;
                dx.reshape(x.shape())?
            }
            _ => dy.clone(),
        };
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        for (layer, block) in trunk.blocks.iter().enumerate().rev() {
            let Some((x, activations)) = kept.pop() else {
                bail!("the gradient of a forward pass can be computed only once")
            };
            let drops = drops_of(layer, &drops);
            let activations = match activations {
                Some(activations) => activations,
                None => batch.forward(block, &x, drops)?.1,
            };
            dstream = batch.backward(block, &x, activations, &dstream, drops)?;
            watch.iter().for_each(|watch| watch.block_is_done(block));
        }
        watch.iter().for_each(|watch| watch.pass_ends());
        Ok(Some(dstream))
    })
}

/// A block of new tokens, whose attention to earlier ones is `past`. `x`: `[B, T, D]` f32; the result is too.
///
/// # Errors
/// When the shapes do not fit, or the past fails.
pub(crate) fn step(
    block: &Block,
    x: &Tensor,
    precision: Precision,
    past: &mut dyn FnMut(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let (b, t, d) = x.dims3()?;
    let dtype = precision.dtype();
    let mut attended = |rows: &Tensor| {
        let qkv = bias_add(&forward_product(&block.c_attn, rows)?, &block.c_attn.bias.tensor(false))?;
        let mixed = past(&qkv.reshape((b, t, 3 * d))?)?.reshape((b * t, d))?;
        forward_product(&block.attn_proj, &mixed)
    };
    let mlp = |rows: &Tensor| {
        let wide = bias_gelu(forward_product(&block.c_fc, rows)?, &block.c_fc.bias.tensor(false))?.1;
        forward_product(&block.mlp_proj, &wide)
    };
    let add = |x: &Tensor, y: &Tensor, linear: &Linear| add_residual(x, y, &linear.bias.tensor(false), None);
    let x = x.contiguous()?;
    if block.norm_first {
        let middle = add(&x, &attended(&normalize(&flat(&x)?, &block.ln_1, dtype)?.0)?, &block.attn_proj)?;
        add(&middle, &mlp(&normalize(&flat(&middle)?, &block.ln_2, dtype)?.0)?, &block.mlp_proj)
    } else {
        let sum = add(&x, &attended(&flat(&x)?.to_dtype(dtype)?)?, &block.attn_proj)?;
        let middle = normalize(&flat(&sum)?, &block.ln_1, DType::F32)?.0;
        let sum = add(&middle.reshape(x.shape())?, &mlp(&middle.to_dtype(dtype)?)?, &block.mlp_proj)?;
        normalize(&flat(&sum)?, &block.ln_2, DType::F32)?.0.reshape(x.shape())
    }
}

/// The norm after the last block. `x`: `[.., D]` f32; the result is too.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn finish(trunk: &Trunk, x: &Tensor) -> Result<Tensor> {
    match &trunk.ln_f {
        Some(norm) => normalize(&flat(&x.contiguous()?)?, norm, DType::F32)?.0.reshape(x.shape()),
        None => Ok(x.clone()),
    }
}

/// `[.., D]` as rows.
fn flat(x: &Tensor) -> Result<Tensor> {
    x.flatten_to(x.rank() - 2)
}

/// `x`, `[N, in]`, times the weight: `[N, out]` of the same type, without the bias.
fn forward_product(linear: &Linear, x: &Tensor) -> Result<Tensor> {
    product(x, &linear.weight.cast(x.dtype())?, x.dtype())
}

/// The gradient of `x` in [`forward_product`] from that of its result; adds those of weight and bias.
fn backward_product(linear: &Linear, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    linear.weight.add_tensor_product(x, dy)?;
    linear.bias.add_tensor_columns(dy)?;
    product(dy, &linear.weight.cast(x.dtype())?.t()?, x.dtype())
}

/// What a forward pass of several blocks has in common.
struct DeviceBatch {
    sequences: Arc<Sequences>,
    sees: Visibility,
    /// Of what products read.
    dtype: DType,
}

/// What the backward pass of a block reads. Of the type of products, but for sums and their norms.
struct DeviceActivations {
    /// What attention's projection reads, `[N, D]`.
    read: Tensor,
    attended: Attended,
    /// The residual sum after attention, `[B, T, D]`.
    middle: Tensor,
    /// Mean and 1/σ of what the first norm reads, and of what the second reads.
    stats: [Tensor; 2],
    /// What the MLP reads, `[N, D]`.
    mlp_read: Tensor,
    /// The input of GELU, `[N, 4·D]`, and its output.
    wide: [Tensor; 2],
    /// Where sums are normalized: the MLP's.
    last: Option<Tensor>,
}

impl DeviceBatch {
    fn shape<'a>(&'a self, block: &Block, drops: DropoutSites) -> AttentionShape<'a> {
        let (sequences, sees) = (&*self.sequences, &self.sees);
        AttentionShape { n_head: block.n_head, mask: block.mask, sequences, sees, drop: drops.attention }
    }

    /// `x`: `[B, T, D]`; the result is too.
    fn forward(&self, block: &Block, x: &Tensor, drops: DropoutSites) -> Result<(Tensor, DeviceActivations)> {
        let bias = |linear: &Linear| linear.bias.tensor(false);
        let (read, stats) = if block.norm_first {
            let (read, stats) = normalize(&flat(x)?, &block.ln_1, self.dtype)?;
            (read, Some(stats))
        } else {
            (flat(x)?.to_dtype(self.dtype)?, None)
        };
        let qkv = forward_product(&block.c_attn, &read)?;
        let attended = attend(&qkv, &bias(&block.c_attn), &self.shape(block, drops))?;
        let y = forward_product(&block.attn_proj, &attended.mixed)?;
        let middle = add_residual(x, &y, &bias(&block.attn_proj), drops.attended)?;
        let mlp = |read: &Tensor| {
            let (wide, active) = bias_gelu(forward_product(&block.c_fc, read)?, &bias(&block.c_fc))?;
            Ok::<_, Error>((forward_product(&block.mlp_proj, &active)?, [wide, active]))
        };
        if let Some(stats) = stats {
            let (mlp_read, second) = normalize(&flat(&middle)?, &block.ln_2, self.dtype)?;
            let (y, wide) = mlp(&mlp_read)?;
            let out = add_residual(&middle, &y, &bias(&block.mlp_proj), drops.mlp)?;
            let stats = [stats, second];
            return Ok((out, DeviceActivations { read, attended, middle, stats, mlp_read, wide, last: None }));
        }
        let (normal, stats) = normalize(&flat(&middle)?, &block.ln_1, DType::F32)?;
        let mlp_read = normal.to_dtype(self.dtype)?;
        let (y, wide) = mlp(&mlp_read)?;
        let last = add_residual(&normal.reshape(x.shape())?, &y, &bias(&block.mlp_proj), drops.mlp)?;
        let (out, second) = normalize(&flat(&last)?, &block.ln_2, DType::F32)?;
        let (out, stats, last) = (out.reshape(x.shape())?, [stats, second], Some(last));
        Ok((out, DeviceActivations { read, attended, middle, stats, mlp_read, wide, last }))
    }

    /// The gradient of the block's input `x` from that of its output, both `[B, T, D]`.
    fn backward(
        &self,
        block: &Block,
        x: &Tensor,
        kept: DeviceActivations,
        dout: &Tensor,
        drops: DropoutSites,
    ) -> Result<Tensor> {
        let DeviceActivations { read, attended, middle, stats, mlp_read, wide: [wide, active], last } = kept;
        let shape = x.shape();
        let mlp = |dy: &Tensor| {
            let dwide = gelu_backward(&wide, &backward_product(&block.mlp_proj, &active, dy)?)?;
            backward_product(&block.c_fc, &mlp_read, &dwide)
        };
        let attention = |dy: &Tensor| {
            let dmixed = backward_product(&block.attn_proj, &attended.mixed, dy)?;
            backward_product(&block.c_attn, &read, &attend_backward(&dmixed, &attended, &self.shape(block, drops))?)
        };
        if let Some(last) = last {
            let norm = |dy: &Tensor, x: &Tensor, which: usize| {
                let norm = if which == 0 { &block.ln_1 } else { &block.ln_2 };
                normalize_backward(&flat(dy)?, &flat(x)?, &stats[which], norm, None)?.reshape(shape)
            };
            let dlast = norm(dout, &last, 1)?;
            let dread =
                mlp(&residual_backward(&dlast, drops.mlp, self.dtype)?)?.to_dtype(DType::F32)?.reshape(shape)?;
            let dmiddle = norm(&(dlast + dread)?, &middle, 0)?;
            let dread = attention(&residual_backward(&dmiddle, drops.attended, self.dtype)?)?;
            return dmiddle + dread.to_dtype(DType::F32)?.reshape(shape)?;
        }
        let dread = mlp(&residual_backward(dout, drops.mlp, self.dtype)?)?;
        let dmiddle = normalize_backward(&dread, &flat(&middle)?, &stats[1], &block.ln_2, Some(&flat(dout)?))?;
        let dread = attention(&residual_backward(&dmiddle.reshape(shape)?, drops.attended, self.dtype)?)?;
        normalize_backward(&dread, &flat(x)?, &stats[0], &block.ln_1, Some(&dmiddle))?.reshape(shape)
    }
}
