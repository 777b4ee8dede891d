//! Single operations at the sizes of a model, for `gptkit bench` to time, and the most that the processor multiplies.

use crate::attention::Mask;
use crate::cpu::element::{Element, bf16};
use crate::cpu::kernel::Kernel;
use crate::gelu;
use crate::head::language_model_loss;
use crate::layer_norm::{Norm, Normalized};
use crate::linear::{Linear, round};
use crate::parameter::Parameter;
use crate::path::{Path, Precision, with_kernel};
use crate::product::tile;
use crate::self_attention::SelfAttention;
use crate::sequences::Sequences;
use crate::{Adam, adamw, gradient_squares};
use aligned_vec::AVec;
use candle_core::{Device, Result, Tensor, Var};
use gptkit_rng::keyed::{Draw, Key, normals};
use std::sync::Arc;
use std::time::Instant;

/// Sizes of a batch and of the model that reads it.
#[derive(Debug, Clone, Copy)]
pub struct BenchShape {
    /// Sequences.
    pub batch: usize,
    /// Tokens of each.
    pub len: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Attention heads.
    pub n_head: usize,
    /// Entries of the vocabulary.
    pub vocab_size: usize,
}

/// One run of an operation.
pub(crate) type BenchRun = Box<dyn FnMut() -> Result<()>>;

/// An operation that can be timed.
pub struct BenchCase {
    /// What it is.
    pub name: &'static str,
    /// Operations of a run, a multiplication and an addition being two; none where memory is what counts.
    pub flops: f64,
    /// One run.
    pub run: BenchRun,
}

/// Operations a second of products that read nothing beyond the first-level cache, on all cores: what no product exceeds.
/// Each thread counts its fastest of many short runs, so that other processes do not lower the result.
pub fn peak(precision: Precision) -> f64 {
    with_kernel!(Path::of(precision), K => peak_of::<K>(2_000, 200))
}

/// As [`peak`], from some milliseconds: enough for an estimate.
pub fn rough_peak(precision: Precision) -> f64 {
    with_kernel!(Path::of(precision), K => peak_of::<K>(200, 10))
}

/// The peak from `runs` runs of so many `products`.
fn peak_of<K: Kernel>(products: usize, runs: usize) -> f64 {
    const DEEP: usize = 128;
    let of_threads = rayon::broadcast(|_| {
        let zeros = |n| AVec::<K::Left>::from_iter(64, (0..n).map(|_| K::Left::default()));
        let left = zeros(DEEP * K::ROWS);
        let right = AVec::<K::Right>::from_iter(64, (0..DEEP * K::COLUMNS).map(|_| K::Right::default()));
        let mut sums = AVec::<f32>::from_iter(64, (0..K::ROWS * K::COLUMNS).map(|_| 0.0));
        let mut seconds = || {
            let begun = Instant::now();
            for _ in 0..products {
                tile::<K, K::Right>(K::ROWS, &left, &right, DEEP, (&mut sums, K::COLUMNS), false);
            }
            std::hint::black_box(&sums);
            begun.elapsed().as_secs_f64()
        };
        let fastest = (0..runs).map(|_| seconds()).fold(f64::INFINITY, f64::min);
        2.0 * (DEEP * K::ROWS * K::COLUMNS * products) as f64 / fastest
    });
    of_threads.into_iter().sum()
}

/// The operations of a training step on the CPU whose name `is_wanted` accepts.
///
/// # Errors
/// When memory does not suffice.
pub fn cases(shape: BenchShape, precision: Precision, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<BenchCase>> {
    match precision {
        Precision::F32 => cases_of::<f32>(shape, precision, is_wanted),
        Precision::Bf16 => cases_of::<bf16>(shape, precision, is_wanted),
    }
}

/// `n` standard normal numbers.
pub(crate) fn draw(seed: u64, n: usize) -> Vec<f32> {
    normals(Key { seed, draw: Draw::Init { parameter: 0 } }, n)
}

/// A parameter of small drawn weights.
pub(crate) fn parameter(seed: u64, shape: &[usize]) -> Result<Arc<Parameter>> {
    let values = draw(seed, shape.iter().product()).into_iter().map(|x| 0.02 * x).collect();
    Ok(Arc::new(Parameter::new(&Tensor::from_vec(values, shape, &Device::Cpu)?)?))
}

fn attend(sequences: &Sequences, n_head: usize) -> SelfAttention<'_> {
    SelfAttention { sequences, n_head, mask: Mask::Causal, drop: None }
}

/// Names and numbers of operations, and what runs them; made together, because they read the same numbers.
type CaseGroup = (&'static [&'static str], fn(BenchShape, Precision) -> Result<Vec<(f64, BenchRun)>>);

fn cases_of<E: Element>(
    shape: BenchShape,
    precision: Precision,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<Vec<BenchCase>> {
    let groups: [CaseGroup; 4] = [
        (&["linear_gelu", "linear_input_gradient", "linear_weight_gradient"], linear::<E>),
        (&["attention", "attention_gradient"], attention::<E>),
        (&["layer_norm", "layer_norm_gradient"], layer_norm::<E>),
        (&["head_and_loss", "gradient_norm", "adamw"], head_and_update),
    ];
    let mut cases = Vec::new();
    for (names, make) in groups.into_iter().filter(|(names, _)| names.iter().any(|name| is_wanted(name))) {
        let made = names.iter().zip(make(shape, precision)?).map(|(name, (flops, run))| BenchCase { name, flops, run });
        cases.extend(made.filter(|case| is_wanted(case.name)));
    }
    Ok(cases)
}

/// `n` drawn numbers.
fn numbers<E: Element>(seed: u64, n: usize) -> Vec<E> {
    let mut rounded = vec![E::default(); n];
    round::<E>(&draw(seed, n), &mut rounded);
    rounded
}

/// The MLP's first layer with GELU, and its gradients.
fn linear<E: Element>(shape: BenchShape, precision: Precision) -> Result<Vec<(f64, BenchRun)>> {
    let BenchShape { batch, len, width: d, .. } = shape;
    let n = batch * len;
    let flops = 2.0 * (n * d * 4 * d) as f64;
    let linear = Linear { weight: parameter(1, &[d, 4 * d])?, bias: parameter(2, &[4 * d])? };
    let (x, dy) = (numbers::<E>(3, n * d), numbers::<E>(4, n * 4 * d));
    let (one, input, mut wide, mut active) = (linear.clone(), x.clone(), dy.clone(), dy.clone());
    let forward = move || {
        one.forward(precision, &input, (&mut wide[..], &mut active[..]), |_, sums, bias, (wide, active)| {
            gelu::forward::<E>(sums, bias, wide, active);
        })
    };
    let (one, gradient, mut out) = (linear.clone(), dy.clone(), vec![0.0; n * d]);
    let of_input = move || one.backward(precision, &gradient, &mut out[..], |sums, out| out.copy_from_slice(sums));
    let of_weight = move || linear.add_weight_gradients(precision, &x, &dy);
    Ok(vec![(flops, Box::new(forward)), (flops, Box::new(of_input)), (flops, Box::new(of_weight))])
}

/// Causal attention, and its gradient.
fn attention<E: Element>(shape: BenchShape, precision: Precision) -> Result<Vec<(f64, BenchRun)>> {
    let BenchShape { batch, len, width: d, n_head, .. } = shape;
    let (n, seen) = (batch * len, (1..=len).sum::<usize>());
    let scores = 2.0 * (batch * seen * d) as f64;
    let sequences = Sequences::windows(batch, len);
    let qkv = numbers::<E>(5, n * 3 * d);
    let (mut mixed, mut sums) = (vec![E::default(); n * d], vec![0.0; batch * n_head * len]);
    attend(&sequences, n_head).forward(precision, &qkv, &mut mixed, &mut sums);
    let windows = sequences.clone();
    let (projected, mut out, mut logs) = (qkv.clone(), mixed.clone(), sums.clone());
    let forward = move || {
        attend(&windows, n_head).forward(precision, &projected, &mut out, &mut logs);
        Ok(())
    };
    let (dmixed, mut dqkv) = (numbers::<E>(3, n * d), qkv.clone());
    let backward = move || {
        attend(&sequences, n_head).backward(precision, &qkv, (&mixed, &dmixed), &sums, &mut dqkv);
        Ok(())
    };
    Ok(vec![(2.0 * scores, Box::new(forward)), (5.0 * scores, Box::new(backward))])
}

/// A norm, and its gradient.
fn layer_norm<E: Element>(shape: BenchShape, _: Precision) -> Result<Vec<(f64, BenchRun)>> {
    let (n, d) = (shape.batch * shape.len, shape.width);
    let norm = Norm { gain: parameter(6, &[d])?, bias: parameter(7, &[d])?, eps: 1e-5 };
    let (stream, mut out, mut kept) = (draw(8, n * d), vec![E::default(); n * d], Normalized::<E>::default());
    norm.forward(&stream, &mut out, Some(&mut kept))?;
    let (one, input, mut normal) = (norm.clone(), stream.clone(), Normalized::<E>::default());
    let forward = move || one.forward(&input, &mut out, Some(&mut normal));
    let mut dx = vec![0.0; n * d];
    let backward = move || norm.backward(Some(&stream), &kept, &mut dx);
    Ok(vec![(0.0, Box::new(forward)), (0.0, Box::new(backward))])
}

/// The loss with its gradient, and the norm and the update of the embedding table.
fn head_and_update(shape: BenchShape, precision: Precision) -> Result<Vec<(f64, BenchRun)>> {
    let BenchShape { batch, len, width: d, vocab_size: v, .. } = shape;
    let n = batch * len;
    let table = parameter(9, &[v, d])?;
    let hidden = Var::from_vec(draw(8, n * d), (n, d), &Device::Cpu)?;
    let targets = Tensor::from_vec((0..n).map(|i| (i * 7919 % v) as u32).collect::<Vec<_>>(), n, &Device::Cpu)?;
    let one = Arc::clone(&table);
    let loss =
        move || language_model_loss(hidden.as_tensor(), &one, &targets, precision, 1.0, true)?.backward().map(|_| ());
    let (mean, square) = (Var::zeros((v, d), candle_core::DType::F32, &Device::Cpu)?, table.var().as_tensor().sqr()?);
    let square = Var::from_tensor(&square)?;
    table.add_gradient(|sums, _| sums.fill(1e-3));
    let one = Arc::clone(&table);
    let norm = move || gradient_squares(std::slice::from_ref(&one)).map(|_| ());
    let adam = Adam { lr: 1e-6, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step: 1 };
    let update = move || adamw(&table, 0, &mean, &square, 1.0, &adam);
    Ok(vec![(6.0 * (n * d * v) as f64, Box::new(loss)), (0.0, Box::new(norm)), (0.0, Box::new(update))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_runs() {
        let shape = BenchShape { batch: 2, len: 5, width: 8, n_head: 2, vocab_size: 11 };
        for precision in [Precision::F32, Precision::Bf16] {
            let mut cases = cases(shape, precision, |_| true).unwrap();
            assert_eq!(cases.len(), 10);
            cases.iter_mut().for_each(|case| (case.run)().unwrap());
        }
    }

    #[test]
    fn a_processor_multiplies() {
        assert!(peak(Precision::F32) > 1e8);
    }
}
