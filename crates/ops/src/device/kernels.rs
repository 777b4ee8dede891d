//! The operations that a device's path is made of: outside of candle's graph, so that nothing is saved but what the callers
//! keep. On an NVIDIA GPU each is a kernel or a product of cuBLAS; elsewhere it is written in candle's operations, which say
//! what it computes. Rows are f32; operands of matrix products are f32 or bf16.

use super::gpu::{KernelArgument as Arg, KernelDropout, KernelGrid, launch, multiply_into, unwritten};
use super::products::{aligned_rows, f32s, gpu, in_aligned_rows, product};
use crate::attention::{Mask, attention};
use crate::cross_entropy::IGNORE;
use crate::dropout::{Dropout, dropout};
use crate::layer_norm::Norm;
use crate::self_attention::{merge_heads, split_heads};
use crate::sequences::Sequences;
use candle_core::{CudaDevice, D, DType, Device, Result, Tensor, Var};
use std::f64::consts::FRAC_2_PI;
use std::ops::Range;

/// The kernel `name` for elements of this type.
fn of_type(name: &str, dtype: DType) -> String {
    format!("{name}_{}", if dtype == DType::BF16 { "bf16" } else { "f32" })
}

/// Rows of `x`, `[N, D]` f32, normalized, `[N, D]` of type `dtype`; and the mean and 1/σ of each, `[N, 2]`.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn normalize(x: &Tensor, norm: &Norm, dtype: DType) -> Result<(Tensor, Tensor)> {
    let (n, d) = x.dims2()?;
    let (gain, bias) = (norm.gain.tensor(false), norm.bias.tensor(false));
    if let Some(device) = gpu(x) {
        let (y, stats) = (unwritten((n, d), dtype, x)?, unwritten((n, 2), DType::F32, x)?);
        launch(
            device,
            &of_type("norm_forward", dtype),
            KernelGrid::rows(n, d),
            &[
                Arg::Tensor(x),
                Arg::Tensor(&gain),
                Arg::Tensor(&bias),
                Arg::Tensor(&y),
                Arg::Tensor(&stats),
                Arg::U32(d as u32),
                Arg::F32(norm.eps),
            ],
        )?;
        return Ok((y, stats));
    }
    let mean = x.mean_keepdim(1)?;
    let centered = x.broadcast_sub(&mean)?;
    let scale = (centered.sqr()?.mean_keepdim(1)? + f64::from(norm.eps))?.sqrt()?.recip()?;
    let y = centered.broadcast_mul(&scale)?.broadcast_mul(&gain)?.broadcast_add(&bias)?.to_dtype(dtype)?;
    Ok((y, Tensor::cat(&[mean, scale], 1)?))
}

/// `add` plus the gradient of the rows `x` that [`normalize`] gave with `stats`, from that of its result: `[N, D]` f32. Adds
/// the gradients of gain and bias.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn normalize_backward(
    dy: &Tensor,
    x: &Tensor,
    stats: &Tensor,
    norm: &Norm,
    add: Option<&Tensor>,
) -> Result<Tensor> {
    let (n, d) = x.dims2()?;
    let gain = norm.gain.tensor(false);
    let is_trained = !norm.gain.is_frozen() || !norm.bias.is_frozen();
    if let Some(device) = gpu(x) {
        let dx = unwritten((n, d), DType::F32, x)?;
        launch(
            device,
            &of_type("norm_backward", dy.dtype()),
            KernelGrid::rows(n, d),
            &[
                Arg::Tensor(dy),
                Arg::Tensor(x),
                Arg::Tensor(&gain),
                Arg::Tensor(stats),
                add.map_or(Arg::Null, Arg::Tensor),
                Arg::Tensor(&dx),
                Arg::U32(d as u32),
            ],
        )?;
        if is_trained {
            let parts = parts(n);
            let partials = unwritten((parts, 2 * d), DType::F32, x)?;
            launch(
                device,
                &of_type("norm_parameters", dy.dtype()),
                columns(parts, d),
                &[
                    Arg::Tensor(dy),
                    Arg::Tensor(x),
                    Arg::Tensor(stats),
                    Arg::Tensor(&partials),
                    Arg::U32(n as u32),
                    Arg::U32(d as u32),
                ],
            )?;
            let sums = add_partials(device, &partials)?;
            norm.gain.accumulate(&sums.narrow(0, 0, d)?)?;
            norm.bias.accumulate(&sums.narrow(0, d, d)?)?;
        }
        return Ok(dx);
    }
    let (mean, scale) = (stats.narrow(1, 0, 1)?, stats.narrow(1, 1, 1)?);
    let (dy, normal) = (f32s(dy)?, x.broadcast_sub(&mean)?.broadcast_mul(&scale)?);
    if is_trained {
        norm.gain.accumulate(&(&dy * &normal)?.sum(0)?)?;
        norm.bias.accumulate(&dy.sum(0)?)?;
    }
    let g = dy.broadcast_mul(&gain)?;
    let along = (&g * &normal)?.mean_keepdim(1)?;
    let dx = g.broadcast_sub(&g.mean_keepdim(1)?)?.sub(&normal.broadcast_mul(&along)?)?.broadcast_mul(&scale)?;
    add.map_or(Ok(dx.clone()), |add| add + dx)
}

/// Blocks that share the rows of a sum over `n` rows.
fn parts(n: usize) -> usize {
    n.div_ceil(64).clamp(1, 64)
}

/// A grid of blocks of 32 columns and 8 rows.
fn columns(parts: usize, width: usize) -> KernelGrid {
    KernelGrid { blocks: (width.div_ceil(32), parts), threads: (32, 8) }
}

/// Sums of the columns of `partials`, `[P, M]`, in order: `[M]`.
fn add_partials(device: &CudaDevice, partials: &Tensor) -> Result<Tensor> {
    let (n, m) = partials.dims2()?;
    let out = unwritten(m, DType::F32, partials)?;
    launch(
        device,
        "add_partials",
        KernelGrid::elements(m),
        &[Arg::Tensor(partials), Arg::Tensor(&out), Arg::U32(n as u32), Arg::U32(m as u32)],
    )?;
    Ok(out)
}

/// Sums of the columns of `x`, `[N, M]`: `[M]` f32.
///
/// # Errors
/// When the shape is another.
pub(crate) fn column_sums(x: &Tensor) -> Result<Tensor> {
    let (n, m) = x.dims2()?;
    let Some(device) = gpu(x) else { return f32s(x)?.sum(0) };
    let parts = parts(n);
    let partials = unwritten((parts, m), DType::F32, x)?;
    launch(
        device,
        &of_type("column_sums", x.dtype()),
        columns(parts, m),
        &[Arg::Tensor(x), Arg::Tensor(&partials), Arg::U32(n as u32), Arg::U32(m as u32)],
    )?;
    add_partials(device, &partials)
}

/// `x + bias`, of the type of `x`, `[N, M]`.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn bias_add(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (n, m) = x.dims2()?;
    let Some(device) = gpu(x) else { return f32s(x)?.broadcast_add(bias)?.to_dtype(x.dtype()) };
    let y = unwritten((n, m), x.dtype(), x)?;
    launch(
        device,
        &of_type("bias_add", x.dtype()),
        KernelGrid::rows(n, m),
        &[Arg::Tensor(x), Arg::Tensor(bias), Arg::Tensor(&y), Arg::U32(m as u32)],
    )?;
    Ok(y)
}

/// `x + bias`, `[N, M]`, and its GELU; both of the type of `x`, which may be changed.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn bias_gelu(x: Tensor, bias: &Tensor) -> Result<(Tensor, Tensor)> {
    let (n, m) = x.dims2()?;
    let Some(device) = gpu(&x) else {
        let sum = bias_add(&x, bias)?;
        let y = f32s(&sum)?.gelu()?.to_dtype(x.dtype())?;
        return Ok((sum, y));
    };
    let y = unwritten((n, m), x.dtype(), &x)?;
    launch(
        device,
        &of_type("bias_gelu", x.dtype()),
        KernelGrid::rows(n, m),
        &[Arg::Tensor(&x), Arg::Tensor(bias), Arg::Tensor(&y), Arg::U32(m as u32)],
    )?;
    Ok((x, y))
}

/// The gradient of GELU's input `x` from that of its output; of their type.
///
/// # Errors
/// When the shapes differ.
pub(crate) fn gelu_backward(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    if let Some(device) = gpu(x) {
        let dx = unwritten(x.shape(), x.dtype(), x)?;
        let n = x.elem_count();
        launch(
            device,
            &of_type("gelu_backward", x.dtype()),
            KernelGrid::elements(n),
            &[Arg::Tensor(x), Arg::Tensor(dy), Arg::Tensor(&dx), Arg::U64(n as u64)],
        )?;
        return Ok(dx);
    }
    let (v, root) = (f32s(x)?, FRAC_2_PI.sqrt());
    let t = ((&v + (v.sqr()? * &v)?.affine(0.044_715, 0.0)?)? * root)?.tanh()?;
    let inner = (v.sqr()?.affine(3.0 * 0.044_715, 1.0)? * root)?;
    let slope = ((t.affine(0.5, 0.5)?) + ((&v * 0.5)? * t.sqr()?.affine(-1.0, 1.0)?)?.mul(&inner)?)?;
    (f32s(dy)? * slope)?.to_dtype(x.dtype())
}

/// `x`, `[B, T, D]` f32, plus what `at` leaves of `y + bias`; `y`: `[B·T, D]`.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn add_residual(x: &Tensor, y: &Tensor, bias: &Tensor, at: Option<Dropout>) -> Result<Tensor> {
    let (b, t, d) = x.dims3()?;
    let Some(device) = gpu(x) else {
        let more = f32s(y)?.broadcast_add(bias)?.reshape((b, t, d))?;
        return x + at.map_or(Ok(more.clone()), |at| dropout(&more, at))?;
    };
    let out = unwritten((b, t, d), DType::F32, x)?;
    launch(
        device,
        &of_type("add_residual", y.dtype()),
        KernelGrid::rows(b * t, d),
        &[
            Arg::Tensor(x),
            Arg::Tensor(y),
            Arg::Tensor(bias),
            Arg::Tensor(&out),
            Arg::U32(d as u32),
            Arg::Drop(Dropout::kernel(at, t * d)),
        ],
    )?;
    Ok(out)
}

/// The gradient of `y` in [`add_residual`], `[B·T, D]` of type `dtype`, from that of the sum, `[B, T, D]`.
///
/// # Errors
/// When the shape is another.
pub(crate) fn residual_backward(dout: &Tensor, at: Option<Dropout>, dtype: DType) -> Result<Tensor> {
    let (b, t, d) = dout.dims3()?;
    let Some(device) = gpu(dout) else {
        let kept = at.map_or(Ok(dout.clone()), |at| dropout(dout, at))?;
        return kept.to_dtype(dtype)?.reshape((b * t, d));
    };
    let (dy, n) = (unwritten((b * t, d), dtype, dout)?, dout.elem_count());
    launch(
        device,
        &of_type("residual_backward", dtype),
        KernelGrid::elements(n),
        &[Arg::Tensor(dout), Arg::Tensor(&dy), Arg::U64(n as u64), Arg::Drop(Dropout::kernel(at, t * d))],
    )?;
    Ok(dy)
}

/// Who attends to whom.
#[derive(Debug, Clone)]
pub(crate) struct AttentionShape<'a> {
    pub(crate) n_head: usize,
    pub(crate) mask: Mask,
    pub(crate) sequences: &'a Sequences,
    /// [`sees`] of the sequences.
    pub(crate) sees: &'a Tensor,
    /// Dropout of the attention weights.
    pub(crate) drop: Option<Dropout>,
}

/// For each token: start and end of its segment in the window, start and end of its stem, and its position. `[B·T, 5]`, u32.
///
/// # Errors
/// When memory does not suffice.
pub(crate) fn sees(sequences: &Sequences, device: &Device) -> Result<Tensor> {
    let window = sequences.window();
    let tokens = sequences.surroundings().into_iter().zip(sequences.positions()).enumerate();
    let numbers = tokens.flat_map(|(n, ((own, stem), position))| {
        let first = n / window.max(1) * window;
        let within = |at: usize| at.saturating_sub(first) as u32;
        [within(own.start), within(own.end), within(stem.start), within(stem.end), position]
    });
    Tensor::from_vec(numbers.collect::<Vec<u32>>(), (sequences.n_tokens(), 5), device)
}

/// Bytes of the scores of attention that exist at a time.
const SCORES: usize = 256 << 20;

impl AttentionShape<'_> {
    /// B, T.
    fn batch(&self) -> (usize, usize) {
        (self.sequences.n_windows(), self.sequences.window())
    }

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
                Arg::Tensor(self.sees),
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

    /// The mask's number in kernels, and its width.
    fn kind(&self) -> (u32, u32) {
        match self.mask {
            Mask::Full => (0, 0),
            Mask::Causal => (1, 0),
            Mask::Banded { width } => (2, u32::try_from(width).unwrap_or(u32::MAX / 2)),
        }
    }

    fn dropout(&self) -> KernelDropout {
        let (_, t) = self.batch();
        Dropout::kernel(self.drop, self.n_head * t * t)
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

/// What attention mixes of `qkv + bias`, `[B·T, 3·D]`: `[B·T, D]`; and queries, keys and values, `[3, B, H, T, K]`, for the
/// backward pass. All of the type of `qkv`.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn attend(qkv: &Tensor, bias: &Tensor, shape: &AttentionShape) -> Result<(Tensor, Tensor)> {
    let ((b, t), (_, width)) = (shape.batch(), qkv.dims2()?);
    let (dtype, k) = (qkv.dtype(), width / 3 / shape.n_head);
    let Some(device) = gpu(qkv) else {
        let qkv = bias_add(qkv, bias)?.reshape((b, t, width))?;
        let heads = Tensor::stack(&split_heads(&qkv, shape.n_head)?, 0)?.contiguous()?;
        let mixed = shape.plain(&f32s(&heads)?)?.reshape((b * t, width / 3))?.to_dtype(dtype)?;
        return Ok((mixed, heads));
    };
    let heads = split(device, qkv, Some(bias), 3, shape)?;
    let parts = [matrices(&heads, 0)?, matrices(&heads, 1)?, matrices(&heads, 2)?];
    let mixed = unwritten((b * shape.n_head, t, k), dtype, qkv)?;
    for chunk in shape.chunks() {
        let (weights, after) = shape.weights(device, &parts, &chunk)?;
        multiply_into(device, &after.unwrap_or(weights), &chunk.seen(&parts[2])?, &chunk.queries(&mixed)?, false)?;
    }
    Ok((join(device, &mixed, 1, shape)?, heads))
}

/// The gradient of `qkv + bias`, `[B·T, 3·D]`, from that of what [`attend`] mixed, `[B·T, D]`. `heads`: what it gave.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn attend_backward(dmixed: &Tensor, heads: &Tensor, shape: &AttentionShape) -> Result<Tensor> {
    let ((b, t), dtype) = (shape.batch(), heads.dtype());
    let Some(device) = gpu(heads) else {
        let var = Var::from_tensor(&f32s(heads)?)?;
        let mixed = shape.plain(var.as_tensor())?;
        let sum = (&mixed * f32s(dmixed)?.reshape(mixed.shape())?)?.sum_all()?;
        let dheads = sum.backward()?.remove(&var).map_or_else(|| var.zeros_like(), Ok)?; // [3, B, H, T, K]
        let (_, _, h, _, k) = dheads.dims5()?;
        return dheads.permute((1, 3, 0, 2, 4))?.reshape((b * t, 3 * h * k))?.to_dtype(dtype);
    };
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

/// Of rows of scores, `[N, V]` f32: −log softmax(row)\[target\], `[N]`, 0 where the target is [`IGNORE`]; and with `dtype`,
/// `share`·(softmax − one-hot) of it, `[N, V]`, zeros there. `share`: `[1]` f32.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn row_losses(
    scores: &Tensor,
    targets: &Tensor,
    share: &Tensor,
    dtype: Option<DType>,
) -> Result<(Tensor, Option<Tensor>)> {
    let (n, v) = scores.dims2()?;
    if let Some(device) = gpu(scores) {
        let scores = in_aligned_rows(scores)?;
        let losses = unwritten(n, DType::F32, &scores)?;
        let gradient = dtype.map(|dtype| aligned_rows(n, v, dtype, &scores)).transpose()?;
        // As many scores as the threads of a block hold in registers.
        let kernel = if (8193..=50 * 1024).contains(&v) { "loss_rows_once" } else { "loss_rows" };
        launch(
            device,
            &of_type(kernel, dtype.unwrap_or(DType::F32)),
            KernelGrid::rows(n, v),
            &[
                Arg::Rows(&scores),
                Arg::Tensor(targets),
                Arg::Tensor(share),
                Arg::Tensor(&losses),
                gradient.as_ref().map_or(Arg::Null, Arg::Rows),
                Arg::U32(v as u32),
                Arg::U32(scores.stride()[0] as u32),
            ],
        )?;
        return Ok((losses, gradient));
    }
    let counts = targets.ne(IGNORE)?; // [N], u8
    let safe = counts.where_cond(targets, &targets.zeros_like()?)?.unsqueeze(1)?;
    let counts = f32s(&counts)?;
    let log_probs = candle_nn::ops::log_softmax(scores, D::Minus1)?;
    let losses = (log_probs.gather(&safe, 1)?.squeeze(1)?.neg()? * &counts)?;
    let Some(dtype) = dtype else { return Ok((losses, None)) };
    let one_hot = log_probs.zeros_like()?.scatter_add(&safe, &Tensor::ones((n, 1), DType::F32, scores.device())?, 1)?;
    let scale = counts.broadcast_mul(share)?.unsqueeze(1)?;
    Ok((losses, Some((log_probs.exp()? - one_hot)?.broadcast_mul(&scale)?.to_dtype(dtype)?)))
}

/// Of softmax(`per_score`·row) of rows of scores, `[N, V]` f32: the log-probability of the row's token, and the entropy,
/// `[2, N]`.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn row_log_probs(scores: &Tensor, tokens: &Tensor, per_score: f32) -> Result<Tensor> {
    let (n, v) = scores.dims2()?;
    if let Some(device) = gpu(scores) {
        let scores = in_aligned_rows(scores)?;
        let found = unwritten((2, n), DType::F32, &scores)?;
        launch(
            device,
            "log_prob_rows",
            KernelGrid::rows(n, v),
            &[
                Arg::Rows(&scores),
                Arg::Tensor(tokens),
                Arg::Tensor(&found),
                Arg::U32(v as u32),
                Arg::U32(scores.stride()[0] as u32),
                Arg::U32(n as u32),
                Arg::F32(per_score),
            ],
        )?;
        return Ok(found);
    }
    let log_probs = candle_nn::ops::log_softmax(&(scores * f64::from(per_score))?, D::Minus1)?;
    let chosen = log_probs.gather(&tokens.unsqueeze(1)?, 1)?.squeeze(1)?;
    Tensor::stack(&[chosen, (log_probs.exp()? * &log_probs)?.sum(1)?.neg()?], 0)
}

/// The gradient of the scores, `[N, V]` of type `dtype`, from that of what [`row_log_probs`] found.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn row_log_probs_backward(
    scores: &Tensor,
    tokens: &Tensor,
    dfound: &Tensor,
    per_score: f32,
    dtype: DType,
) -> Result<Tensor> {
    let (n, v) = scores.dims2()?;
    if let Some(device) = gpu(scores) {
        let scores = in_aligned_rows(scores)?;
        let gradient = aligned_rows(n, v, dtype, &scores)?;
        launch(
            device,
            &of_type("log_prob_rows_backward", dtype),
            KernelGrid::rows(n, v),
            &[
                Arg::Rows(&scores),
                Arg::Tensor(tokens),
                Arg::Tensor(&dfound.contiguous()?),
                Arg::Rows(&gradient),
                Arg::U32(v as u32),
                Arg::U32(scores.stride()[0] as u32),
                Arg::U32(n as u32),
                Arg::F32(per_score),
            ],
        )?;
        return Ok(gradient);
    }
    let var = Var::from_tensor(scores)?;
    let sum = (row_log_probs(var.as_tensor(), tokens, per_score)? * dfound)?.sum_all()?;
    sum.backward()?.remove(&var).map_or_else(|| var.zeros_like(), Ok)?.to_dtype(dtype)
}

/// Σ x² of each of `tensors`, f32, in f64, with one wait for all.
///
/// # Errors
/// When a tensor is of another type.
pub(crate) fn squares(tensors: &[Tensor]) -> Result<Vec<f64>> {
    let Some(first) = tensors.first() else { return Ok(Vec::new()) };
    const PARTS: usize = 64;
    let Some(device) = gpu(first) else {
        let sums = tensors.iter().map(|x| f32s(x)?.sqr()?.sum_all()).collect::<Result<Vec<_>>>()?;
        return Ok(Tensor::stack(&sums, 0)?.to_vec1::<f32>()?.into_iter().map(f64::from).collect());
    };
    let partials = Tensor::zeros((tensors.len(), PARTS), DType::F64, first.device())?;
    for (n, x) in tensors.iter().enumerate() {
        let grid = KernelGrid { blocks: (PARTS, 1), threads: (256, 1) };
        launch(
            device,
            "squares",
            grid,
            &[Arg::Tensor(x), Arg::Tensor(&partials.get(n)?), Arg::U64(x.elem_count() as u64)],
        )?;
    }
    Ok(partials.to_vec2::<f64>()?.iter().map(|parts| parts.iter().sum()).collect())
}
