//! From the last hidden state to a loss on a device, some rows of scores at a time.

use super::computed::computed;
use super::kernels::{row_log_probs, row_log_probs_backward, row_losses};
use super::products::{product, product_in_rows, product_of_common};
use crate::cross_entropy::IGNORE;
use crate::parameter::Parameter;
use crate::path::Precision;
use candle_core::{DType, Result, Tensor, bail};
use std::sync::Arc;

/// Bytes of scores that exist at a time; their gradient takes half as many more.
const SCORES: usize = 768 << 20;

/// Rows that are scored together at most, of `v` scores each.
fn rows_together(v: usize) -> usize {
    (SCORES / (size_of::<f32>() * v.max(1)) / 64 * 64).max(64)
}

/// Bytes of scores that exist at a time, with their gradient, where a GPU computes the loss of `n` tokens.
pub fn gpu_scores_bytes(n: usize, v: usize, precision: Precision) -> u64 {
    rows_together(v).min(n) as u64 * v as u64 * (size_of::<f32>() + precision.bytes()) as u64
}

/// Rows that are scored together: first and count of each part of `n`.
fn parts(n: usize, v: usize) -> impl Iterator<Item = (usize, usize)> {
    let rows = rows_together(v);
    (0..n).step_by(rows).map(move |first| (first, rows.min(n - first)))
}

/// Scores of rows of `hidden`, `[N, D]`, by the `table`, `[V, D]`: `[N, V]` f32.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn scores(hidden: &Tensor, table: &Parameter, precision: Precision) -> Result<Tensor> {
    let (dtype, v) = (precision.dtype(), table.var().dim(0)?);
    product(&hidden.contiguous()?.to_dtype(dtype)?, &table.cast_table(dtype)?.t()?, DType::F32)?
        .narrow(1, 0, v)?
        .contiguous()
}

/// As [`crate::language_model_loss`].
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn language_model_loss(
    hidden: &Tensor,
    table: &Arc<Parameter>,
    targets: &Tensor,
    precision: Precision,
    weight: f64,
    learn: bool,
) -> Result<Tensor> {
    let ((n, d), (v, width)) = (hidden.dims2()?, table.var().dims2()?);
    if targets.dims() != [n] || d != width {
        bail!("the loss has rows of shape {:?} but targets of shape {:?}", hidden.dims(), targets.dims());
    }
    if n == 0 {
        return Tensor::zeros((), DType::F32, hidden.device());
    }
    let counted = targets.ne(IGNORE)?.to_dtype(DType::F32)?.sum_all()?.reshape(1)?;
    let share = (counted.maximum(1f64)?.recip()? * weight)?; // [1]
    let type_of_gradient = precision.dtype();
    let rows = hidden.detach().contiguous()?.to_dtype(type_of_gradient)?;
    let cast = table.cast_table(type_of_gradient)?;
    let (mut losses, mut gradients) = (Vec::new(), Vec::new());
    for (first, count) in parts(n, v) {
        let (hidden, targets) = (rows.narrow(0, first, count)?, targets.narrow(0, first, count)?.contiguous()?);
        let scores = product_in_rows(&hidden, &cast.t()?, v)?;
        let (part, gradient) = row_losses(&scores, &targets, &share, learn.then_some(type_of_gradient))?;
        losses.push(part.sum_all()?);
        if let Some(gradient) = gradient {
            gradients.push(product_of_common(&gradient, &cast)?);
            table.add_tensor_product(&gradient.narrow(1, 0, v)?, &hidden)?;
        }
    }
    let loss = (Tensor::stack(&losses, 0)?.sum_all()? * share.squeeze(0)?)?;
    if !learn {
        return Ok(loss);
    }
    let (table, n_clears) = (Arc::clone(table), table.n_clears());
    let dhidden = Tensor::cat(&gradients, 0)?;
    computed(hidden, loss, move |dloss| {
        table.must_hold_gradient(dloss, n_clears)?;
        Ok(Some(dhidden.clone()))
    })
}

/// As [`crate::token_log_probs()`], of tokens that are below `V`.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn token_log_probs(
    hidden: &Tensor,
    table: &Arc<Parameter>,
    tokens: &[u32],
    temperature: f32,
    precision: Precision,
    learn: bool,
) -> Result<Tensor> {
    let (v, _) = table.var().dims2()?;
    let (dtype, per_score) = (precision.dtype(), 1.0 / temperature);
    let rows = hidden.detach().contiguous()?.to_dtype(dtype)?;
    let tokens = Tensor::new(tokens, hidden.device())?;
    let scored = move |table: &Parameter, rows: &Tensor, tokens: &Tensor, (first, count): (usize, usize)| {
        let (hidden, tokens) = (rows.narrow(0, first, count)?, tokens.narrow(0, first, count)?);
        Ok((product_in_rows(&hidden, &table.cast_table(dtype)?.t()?, v)?, hidden, tokens))
    };
    let n = rows.dim(0)?;
    let found = parts(n, v)
        .map(|part| {
            scored(table, &rows, &tokens, part).and_then(|(s, _, tokens)| row_log_probs(&s, &tokens, per_score))
        })
        .collect::<Result<Vec<_>>>()?;
    let found =
        if found.is_empty() { Tensor::zeros((2, 0), DType::F32, hidden.device())? } else { Tensor::cat(&found, 1)? };
    if !learn || n == 0 {
        return Ok(found);
    }
    let table = Arc::clone(table);
    computed(hidden, found, move |dfound| {
        let mut gradients = Vec::new();
        for part @ (first, count) in parts(n, v) {
            let (scores, hidden, tokens) = scored(&table, &rows, &tokens, part)?;
            let dfound = dfound.narrow(1, first, count)?;
            let gradient = row_log_probs_backward(&scores, &tokens, &dfound, per_score, dtype)?;
            gradients.push(product_of_common(&gradient, &table.cast_table(dtype)?)?);
            table.add_tensor_product(&gradient.narrow(1, 0, v)?, &hidden)?;
        }
        Ok(Some(Tensor::cat(&gradients, 0)?))
    })
}
