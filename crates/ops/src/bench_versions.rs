//! Operations that the Criterion benches measure and `gptkit bench` does not, and the plain versions of operations.

use crate::attention::Mask;
use crate::bench::{BenchCase, BenchRun, BenchShape, draw, parameter};
use crate::cross_entropy::cross_entropy;
use crate::dropout::Dropout;
use crate::embedding::Embedding;
use crate::gelu;
use crate::head::logits;
use crate::layer_norm::Norm;
use crate::linear::Linear;
use crate::lstm::{LstmLayer, LstmStack};
use crate::path::Precision;
use crate::self_attention::self_attention;
use crate::sequences::Sequences;
use crate::token_log_probs::token_log_probs;
use candle_core::{Device, Result, Tensor, Var};
use std::sync::Arc;

fn ids(n: usize, vocab_size: usize) -> Vec<u32> {
    (0..n).map(|i| (i * 7919 % vocab_size) as u32).collect()
}

fn tensor(seed: u64, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(draw(seed, shape.iter().product()), shape, &Device::Cpu)
}

fn lstm(d: usize) -> Result<Arc<LstmStack>> {
    let input = Linear { weight: parameter(1, &[d, 4 * d])?, bias: parameter(2, &[4 * d])? };
    Ok(Arc::new(LstmStack { layers: vec![LstmLayer { input, hidden: parameter(3, &[d, 4 * d])? }] }))
}

fn embedding(shape: BenchShape) -> Result<Embedding> {
    let BenchShape { len, width, vocab_size, .. } = shape;
    Ok(Embedding { tokens: parameter(4, &[vocab_size, width])?, positions: Some(parameter(5, &[len, width])?) })
}

/// Operations that [`crate::bench::cases`] leaves out, forward and backward: the embeddings, dropout, and those of other
/// stages and of the baseline.
///
/// # Errors
/// When memory does not suffice.
pub fn more_cases(shape: BenchShape, precision: Precision) -> Result<Vec<BenchCase>> {
    let BenchShape { batch, len, width: d, vocab_size: v, .. } = shape;
    let n = batch * len;
    let mut cases = Vec::new();
    let mut add = |name, run: BenchRun| cases.push(BenchCase { name, flops: 0.0, run });

    let (tables, tokens) = (embedding(shape)?, Tensor::from_vec(ids(n, v), (batch, len), &Device::Cpu)?);
    let positions: Vec<u32> = (0..n).map(|i| (i % len) as u32).collect();
    let run = move || tables.forward(&tokens, positions.clone(), true)?.sum_all()?.backward().map(|_| ());
    add("embedding", Box::new(run));

    let mut values = draw(6, n * d);
    let site = Dropout { p: 0.1, seed: 1, site: 0, first_row: 0 };
    let run = move || {
        site.apply(&mut values, batch);
        Ok(())
    };
    add("dropout", Box::new(run));

    let (table, hidden) = (parameter(7, &[v, d])?, Var::from_tensor(&tensor(8, &[n, d])?)?);
    let tokens = ids(n, v);
    let run = move || {
        let log_probs = token_log_probs(hidden.as_tensor(), &table, &tokens, 1.0, precision, true)?;
        log_probs.sum_all()?.backward().map(|_| ())
    };
    add("token_log_probs", Box::new(run));

    let (stack, x) = (lstm(d)?, Var::from_tensor(&tensor(9, &[batch, len, d])?)?);
    let windows = Arc::new(Sequences::windows(batch, len));
    let run = move || stack.forward(x.as_tensor(), &windows, precision, &[], true)?.sum_all()?.backward().map(|_| ());
    add("lstm", Box::new(run));
    Ok(cases)
}

/// The plain versions, in candle's differentiable operations, of cases with the same names.
///
/// # Errors
/// When memory does not suffice.
pub fn plain_cases(shape: BenchShape) -> Result<Vec<BenchCase>> {
    let BenchShape { batch, len, width: d, n_head, vocab_size: v } = shape;
    let n = batch * len;
    let mut cases = Vec::new();
    let mut add = |name, run: BenchRun| cases.push(BenchCase { name, flops: 0.0, run });

    let linear = Linear { weight: parameter(1, &[d, 4 * d])?, bias: parameter(2, &[4 * d])? };
    let x = tensor(3, &[n, d])?;
    add("linear_gelu", Box::new(move || gelu::gelu(&linear.plain(&x, false)?).map(|_| ())));

    let (qkv, windows) = (tensor(5, &[batch, len, 3 * d])?, Sequences::windows(batch, len));
    let (projected, sequences) = (qkv.clone(), windows.clone());
    let run = move || self_attention(&projected, n_head, Mask::Causal, &sequences, None).map(|_| ());
    add("attention", Box::new(run));
    let mixed = self_attention(Var::from_tensor(&qkv)?.as_tensor(), n_head, Mask::Causal, &windows, None)?.sum_all()?;
    add("attention_gradient", Box::new(move || mixed.backward().map(|_| ())));

    let norm = Norm { gain: parameter(6, &[d])?, bias: parameter(7, &[d])?, eps: 1e-5 };
    let stream = tensor(8, &[n, d])?;
    let (one, input) = (norm.clone(), stream.clone());
    add("layer_norm", Box::new(move || one.plain(&input, false).map(|_| ())));
    let normalized = norm.plain(Var::from_tensor(&stream)?.as_tensor(), true)?.sum_all()?;
    add("layer_norm_gradient", Box::new(move || normalized.backward().map(|_| ())));

    let (table, targets) = (parameter(9, &[v, d])?, Tensor::from_vec(ids(n, v), n, &Device::Cpu)?);
    let hidden = Var::from_tensor(&stream)?;
    let run = move || {
        let scores = logits(hidden.as_tensor(), &table, Precision::F32, true)?;
        cross_entropy(&scores, &targets)?.backward().map(|_| ())
    };
    add("head_and_loss", Box::new(run));

    let (tables, tokens) = (embedding(shape)?, Tensor::from_vec(ids(n, v), (batch, len), &Device::Cpu)?);
    let positions: Vec<u32> = (0..n).map(|i| (i % len) as u32).collect();
    add("embedding", Box::new(move || tables.plain(&tokens, &positions, true)?.sum_all()?.backward().map(|_| ())));

    let (stack, x) = (lstm(d)?, Var::from_tensor(&tensor(9, &[batch, len, d])?)?);
    let run = move || stack.plain(x.as_tensor(), &windows, &[], true)?.sum_all()?.backward().map(|_| ());
    add("lstm", Box::new(run));
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_runs() {
        let shape = BenchShape { batch: 2, len: 5, width: 8, n_head: 2, vocab_size: 11 };
        for precision in [Precision::F32, Precision::Bf16] {
            more_cases(shape, precision).unwrap().iter_mut().for_each(|case| (case.run)().unwrap());
        }
        plain_cases(shape).unwrap().iter_mut().for_each(|case| (case.run)().unwrap());
    }
}
