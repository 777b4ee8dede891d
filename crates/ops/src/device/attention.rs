//! Attention on a device. On an NVIDIA GPU, operands of bf16 go through one kernel ([`FusedAttention`]); others have their
//! scores in memory, some queries at a time. Elsewhere it is written in candle's operations.

use super::attention_shape::AttentionShape;
use super::fused_attention::FusedAttention;
use super::gpu::{KernelArgument as Arg, KernelGrid, launch, multiply_into, unwritten};
use super::kernels::bias_add;
use super::products::{f32s, gpu, product};
use super::sums::of_type;
use crate::attention::{Mask, attention};
use crate::self_attention::{merge_heads, split_heads};
use candle_core::{CudaDevice, DType, Result, Tensor, Var};
use std::ops::Range;

/// Bytes of the scores of attention that exist at a time.
const SCORES: usize = 256 << 20;

impl AttentionShape<'_> {
    /// Queries whose scores are made together, and the keys that one of them may see.
    fn chunks(&self) -> Vec<Chunk> {
        const ROWS: usize = 256;
        let (b, t) = self.batch();
        let sequences: Vec<_> = self.sequences.iter().collect();
        let (mut chunks, mut first) = (Vec::new(), 0);
        while first < t {
            let fit = |keys: usize| (SCORES / (size_of::<f32>() * b * self.n_head * keys).max(1)) / 64 * 64;
            let mut rows = ROWS.min(t - first);
            let mut keys = self.seen(&sequences, first, rows);
            if fit(keys.len()) < rows {
                rows = fit(keys.len()).max(64).min(rows);
                keys = self.seen(&sequences, first, rows);
            }
            chunks.push(Chunk { first, rows, low: keys.start, keys: keys.len() });
            first += rows;
        }
        chunks
    }

    /// The keys that queries `first .. first + rows` of a window may see, in whichever window sees most; a multiple of four
    /// where the window has one, since kernels read four at a time.
    fn seen(&self, sequences: &[Range<usize>], first: usize, rows: usize) -> Range<usize> {
        let (b, t) = self.batch();
        let of = |token: usize| sequences[sequences.partition_point(|sequence| sequence.end <= token)].clone();
        let within = |at: usize, window: usize| at - window * t;
        let low = (0..b).map(|window| within(of(window * t + first).start, window)).min().unwrap_or(0);
        let low = match self.mask {
            Mask::Banded { width } if !self.sequences.are_branching() => low.max((first + 1).saturating_sub(width)),
            _ => low,
        };
        let last = first + rows;
        let high = match self.mask {
            Mask::Full => (0..b).map(|window| within(of(window * t + last - 1).end, window)).max().unwrap_or(t),
            _ => last,
        };
        let low = low / 4 * 4;
        let high = (low + (high - low).next_multiple_of(4)).min(t);
        low.saturating_sub((4 - (high - low) % 4) % 4)..high
    }

    /// The kernel `name` for rows of so many keys.
    fn kernel(name: &str, keys: usize, dtype: DType) -> String {
        let size = match keys {
            _ if !keys.is_multiple_of(4) => "any",
            ..=1024 => "1024",
            1025..=2048 => "2048",
            _ => "any",
        };
        of_type(&format!("{name}_{size}"), dtype)
    }

    /// The attention weights of a chunk of queries, and what dropout leaves of them. `heads`: queries, keys and values.
    fn weights(
        &self,
        device: &CudaDevice,
        [queries, keys, _]: &[Tensor; 3],
        chunk: &Chunk,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (heads, _, k) = queries.dims3()?;
        let (rows, seen, dtype) = (chunk.rows, chunk.keys, queries.dtype());
        let scores = product(&chunk.queries(queries)?, &chunk.seen(keys)?.transpose(1, 2)?, DType::F32)?;
        let weights = unwritten((heads, rows, seen), dtype, queries)?;
        let after = self.drop.map(|_| unwritten((heads, rows, seen), dtype, queries)).transpose()?;
        launch(
            device,
            &Self::kernel("attention_weights", seen, dtype),
            KernelGrid::warps(heads * rows),
            &[
                Arg::Tensor(&scores),
                Arg::Tensor(&self.sees.tokens),
                Arg::Tensor(&weights),
                after.as_ref().map_or(Arg::Null, Arg::Tensor),
                Arg::U32((heads * rows) as u32),
                Arg::U32(rows as u32),
                Arg::U32(seen as u32),
                Arg::U32(chunk.first as u32),
                Arg::U32(chunk.low as u32),
                Arg::U32(self.batch().1 as u32),
                Arg::U32(self.n_head as u32),
                Arg::F32(1.0 / (k as f32).sqrt()),
                Arg::U32(self.kind().0),
                Arg::U32(self.kind().1),
                Arg::Drop(self.dropout()),
            ],
        )?;
        Ok((weights, after))
    }

    /// In candle's operations, tracked. `heads`: `[3, B, H, T, K]` f32.
    fn plain(&self, heads: &Tensor) -> Result<Tensor> {
        let (q, k, v) = (heads.get(0)?, heads.get(1)?, heads.get(2)?);
        merge_heads(&attention(&q, &k, &v, self.mask, Some(self.sequences), self.drop)?)
    }
}

/// Queries whose scores are made together, and the keys that they may see, all in each window.
struct Chunk {
    first: usize,
    rows: usize,
    low: usize,
    keys: usize,
}

impl Chunk {
    /// The queries of `x`, `[B·H, T, K]`.
    fn queries(&self, x: &Tensor) -> Result<Tensor> {
        x.narrow(1, self.first, self.rows)
    }

    /// The keys of `x`, `[B·H, T, K]`.
    fn seen(&self, x: &Tensor) -> Result<Tensor> {
        x.narrow(1, self.low, self.keys)
    }
}

/// What attention mixed, and what its backward pass reads.
#[derive(Debug)]
pub(crate) struct Attended {
    /// `[B·T, D]`.
    pub(crate) mixed: Tensor,
    /// Queries, keys and values: `[B·T, 3·D]` where one kernel computed it, otherwise `[3, B, H, T, K]`.
    heads: Tensor,
    /// log₂ Σ 2^score of each query, `[B·H, T]` f32, where one kernel computed it.
    logs: Option<Tensor>,
}

/// Attention of `qkv + bias`, `[B·T, 3·D]`. Results are of the type of `qkv`.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn attend(qkv: &Tensor, bias: &Tensor, shape: &AttentionShape) -> Result<Attended> {
    let ((b, t), (_, width)) = (shape.batch(), qkv.dims2()?);
    let (dtype, k) = (qkv.dtype(), width / 3 / shape.n_head);
    let Some(device) = gpu(qkv) else {
        let qkv = bias_add(qkv, bias)?.reshape((b, t, width))?;
        let heads = Tensor::stack(&split_heads(&qkv, shape.n_head)?, 0)?.contiguous()?;
        let mixed = shape.plain(&f32s(&heads)?)?.reshape((b * t, width / 3))?.to_dtype(dtype)?;
        return Ok(Attended { mixed, heads, logs: None });
    };
    if FusedAttention::fits(qkv, shape.n_head) {
        let heads = bias_add(qkv, bias)?;
        let (mixed, logs) = FusedAttention::new(device, &heads, shape)?.forward()?;
        return Ok(Attended { mixed, heads, logs: Some(logs) });
    }
    let heads = split(device, qkv, Some(bias), 3, shape)?;
    let parts = [matrices(&heads, 0)?, matrices(&heads, 1)?, matrices(&heads, 2)?];
    let mixed = unwritten((b * shape.n_head, t, k), dtype, qkv)?;
    for chunk in shape.chunks() {
        let (weights, after) = shape.weights(device, &parts, &chunk)?;
        multiply_into(device, &after.unwrap_or(weights), &chunk.seen(&parts[2])?, &chunk.queries(&mixed)?, false)?;
    }
    Ok(Attended { mixed: join(device, &mixed, 1, shape)?, heads, logs: None })
}

/// The gradient of `qkv + bias`, `[B·T, 3·D]`, from that of what [`attend`] mixed, `[B·T, D]`.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn attend_backward(dmixed: &Tensor, attended: &Attended, shape: &AttentionShape) -> Result<Tensor> {
    let Attended { mixed, heads, logs } = attended;
    let ((b, t), dtype) = (shape.batch(), heads.dtype());
    let Some(device) = gpu(heads) else {
        let var = Var::from_tensor(&f32s(heads)?)?;
        let mixed = shape.plain(var.as_tensor())?;
        let sum = (&mixed * f32s(dmixed)?.reshape(mixed.shape())?)?.sum_all()?;
        let dheads = sum.backward()?.remove(&var).map_or_else(|| var.zeros_like(), Ok)?; // [3, B, H, T, K]
        let (_, _, h, _, k) = dheads.dims5()?;
        return dheads.permute((1, 3, 0, 2, 4))?.reshape((b * t, 3 * h * k))?.to_dtype(dtype);
    };
    if let Some(logs) = logs {
        return FusedAttention::new(device, heads, shape)?.backward(mixed, logs, dmixed);
    }
    let dmixed = split(device, dmixed, None, 1, shape)?.squeeze(0)?.flatten(0, 1)?; // [B·H, T, K]
    let parts = [matrices(heads, 0)?, matrices(heads, 1)?, matrices(heads, 2)?];
    let dheads = unwritten(heads.shape(), dtype, heads)?;
    let dparts = [matrices(&dheads, 0)?, matrices(&dheads, 1)?, matrices(&dheads, 2)?];
    // Keys and values have gradients from several chunks of queries; their sums are f32.
    let zeros = || Tensor::zeros(parts[0].shape(), DType::F32, heads.device());
    let sums = [zeros()?, zeros()?];
    let scale = 1.0 / (parts[0].dim(2)? as f32).sqrt();
    for chunk in shape.chunks() {
        let (weights, after) = shape.weights(device, &parts, &chunk)?;
        let dmixed = chunk.queries(&dmixed)?;
        let mixing = after.as_ref().unwrap_or(&weights);
        multiply_into(device, &mixing.transpose(1, 2)?, &dmixed, &chunk.seen(&sums[1])?, true)?;
        let dscores = product(&dmixed, &chunk.seen(&parts[2])?.transpose(1, 2)?, dtype)?;
        let rows = weights.dim(0)? * chunk.rows;
        let kernel = AttentionShape::kernel("attention_weights_backward", chunk.keys, dtype);
        launch(
            device,
            &kernel,
            KernelGrid::warps(rows),
            &[
                Arg::Tensor(&weights),
                Arg::Tensor(&dscores),
                Arg::U32(rows as u32),
                Arg::U32(chunk.rows as u32),
                Arg::U32(chunk.keys as u32),
                Arg::U32(chunk.first as u32),
                Arg::U32(chunk.low as u32),
                Arg::U32(t as u32),
                Arg::F32(scale),
                Arg::U32(shape.kind().0),
                Arg::Drop(shape.dropout()),
            ],
        )?;
        multiply_into(device, &dscores, &chunk.seen(&parts[1])?, &chunk.queries(&dparts[0])?, false)?;
        multiply_into(device, &dscores.transpose(1, 2)?, &chunk.queries(&parts[0])?, &chunk.seen(&sums[0])?, true)?;
    }
    for (sum, place) in sums.iter().zip([1, 2]) {
        dheads.slice_set(&sum.to_dtype(dtype)?.reshape(heads.narrow(0, 0, 1)?.shape())?, 0, place)?;
    }
    join(device, &dheads, 3, shape)
}

/// Matrices of queries (0), keys (1) or values (2) of `heads`, `[3, B, H, T, K]`: `[B·H, T, K]`.
fn matrices(heads: &Tensor, part: usize) -> Result<Tensor> {
    heads.get(part)?.flatten(0, 1)
}

/// `x`, `[B·T, parts·D]`, plus a bias, as `[parts, B, H, T, K]`.
fn split(
    device: &CudaDevice,
    x: &Tensor,
    bias: Option<&Tensor>,
    parts: usize,
    shape: &AttentionShape,
) -> Result<Tensor> {
    let ((b, t), (n, width), h) = (shape.batch(), x.dims2()?, shape.n_head);
    let k = width / parts / h;
    let y = unwritten((parts, b, h, t, k), x.dtype(), x)?;
    launch(
        device,
        &of_type("split_heads", x.dtype()),
        KernelGrid::rows(n, width),
        &[
            Arg::Tensor(x),
            bias.map_or(Arg::Null, Arg::Tensor),
            Arg::Tensor(&y),
            Arg::U32(width as u32),
            Arg::U32(b as u32),
            Arg::U32(h as u32),
            Arg::U32(t as u32),
            Arg::U32(k as u32),
        ],
    )?;
    Ok(y)
}

/// The way back: `[B·T, parts·D]`.
fn join(device: &CudaDevice, x: &Tensor, parts: usize, shape: &AttentionShape) -> Result<Tensor> {
    let ((b, t), h) = (shape.batch(), shape.n_head);
    let width = x.elem_count() / (b * t).max(1);
    let y = unwritten((b * t, width), x.dtype(), x)?;
    launch(
        device,
        &of_type("join_heads", x.dtype()),
        KernelGrid::rows(b * t, width),
        &[
            Arg::Tensor(x),
            Arg::Tensor(&y),
            Arg::U32(width as u32),
            Arg::U32(b as u32),
            Arg::U32(h as u32),
            Arg::U32(t as u32),
            Arg::U32((width / parts / h) as u32),
        ],
    )?;
    Ok(y)
}
