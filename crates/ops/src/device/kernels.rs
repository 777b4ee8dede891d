//! The operations that a device's path is made of: outside of candle's graph, so that nothing is saved but what the callers
//! keep. On an NVIDIA GPU each is a kernel or a product of cuBLAS; elsewhere it is written in candle's operations, which say
//! what it computes. Rows are f32; operands of matrix products are f32 or bf16.

use super::gpu::{KernelArgument as Arg, KernelGrid, launch, unwritten};
use super::products::{aligned, f32s, gpu, in_aligned_rows};
use super::sums::{add_partials, columns, of_type, parts};
use crate::cross_entropy::IGNORE;
use crate::dropout::{Dropout, dropout};
use crate::layer_norm::Norm;
use candle_core::{D, DType, Result, Tensor, Var};
use std::f64::consts::FRAC_2_PI;

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
            let sums = add_partials(device, None, &partials)?;
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

/// Of rows of scores, `[N, V]` f32: −log softmax(row)\[target\], `[N]`, 0 where the target is [`IGNORE`]; and with `dtype`,
/// `share`·(softmax − one-hot) of it, `[N, V]`, zeros there; on an NVIDIA GPU with columns of zeros behind. `share`: `[1]` f32.
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
        let gradient = dtype.map(|dtype| unwritten((n, aligned(v)), dtype, &scores)).transpose()?;
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

/// The gradient of the scores, `[N, V]` of type `dtype`, from that of what [`row_log_probs`] found; on an NVIDIA GPU with
/// columns of zeros behind.
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
        let gradient = unwritten((n, aligned(v)), dtype, &scores)?;
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
    const PARTS: usize = 256;
    let Some(device) = gpu(first) else {
        let sums = tensors.iter().map(|x| f32s(x)?.sqr()?.sum_all()).collect::<Result<Vec<_>>>()?;
        return Ok(Tensor::stack(&sums, 0)?.to_vec1::<f32>()?.into_iter().map(f64::from).collect());
    };
    let partials = Tensor::zeros((tensors.len(), PARTS), DType::F64, first.device())?;
    for (n, x) in tensors.iter().enumerate() {
        let blocks = x.elem_count().div_ceil(4096).clamp(1, PARTS);
        let grid = KernelGrid { blocks: (blocks, 1), threads: (256, 1), shared: 0 };
        launch(
            device,
            "squares",
            grid,
            &[Arg::Tensor(x), Arg::Tensor(&partials.get(n)?), Arg::U64(x.elem_count() as u64)],
        )?;
    }
    Ok(partials.to_vec2::<f64>()?.iter().map(|parts| parts.iter().sum()).collect())
}
