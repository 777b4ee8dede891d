//! Each operation of a device beside what it computes in candle's operations on the CPU, on a few numbers: without a GPU in
//! the gate, that is what a user can go by.

use super::attention::{attend, attend_backward};
use super::attention_shape::{AttentionShape, Visibility};
use super::gpu::{keep_freed_memory, set_ready};
use super::kernels::{
    add_residual, bias_gelu, gelu_backward, normalize, normalize_backward, residual_backward, row_log_probs,
    row_log_probs_backward, row_losses, squares,
};
use super::products::{add_rows, product};
use super::sums::add_column_sums;
use crate::adamw::{Adam, adamw};
use crate::attention::Mask;
use crate::cross_entropy::IGNORE;
use crate::dropout::{Dropout, dropout};
use crate::layer_norm::Norm;
use crate::parameter::Parameter;
use crate::sequences::Sequences;
use candle_core::{CudaDevice, DType, Device, Result, Tensor, Var, bail};
use gptkit_rng::keyed::{Draw, Key, normals};
use std::sync::Arc;

/// Readies an NVIDIA GPU: freed memory is kept for the next allocation, and each operation is compared with the CPU's.
///
/// # Errors
/// When one computes something else, by its name.
pub fn ready_gpu(device: &CudaDevice) -> Result<()> {
    keep_freed_memory(device)?;
    let gpu = Device::Cuda(device.clone());
    let mut wrong = Vec::new();
    for dtype in [DType::F32, DType::BF16] {
        let all = differences(&gpu, dtype)?.into_iter();
        let apart = all.filter(|(_, difference, limit)| difference.is_nan() || difference > limit);
        wrong.extend(apart.map(|(name, difference, _)| format!("{name} in {dtype:?} ({difference:.1e})")));
    }
    if !wrong.is_empty() {
        bail!(
            "this GPU computes other results than the CPU; use --device cpu, and report this GPU: {}",
            wrong.join(", ")
        );
    }
    set_ready();
    Ok(())
}

/// Standard normal numbers.
fn drawn(seed: u64, shape: &[usize], device: &Device) -> Result<Tensor> {
    let key = Key { seed, draw: Draw::Init { parameter: 0 } };
    Tensor::from_vec(normals(key, shape.iter().product()), shape, device)
}

/// Compares each operation on `device` with the CPU. Returns its name, the difference of the results relative to their size,
/// and the largest difference that is allowed.
pub(crate) fn differences(device: &Device, dtype: DType) -> Result<Vec<(&'static str, f64, f64)>> {
    let (here, expected) = (results(device, dtype)?, results(&Device::Cpu, dtype)?);
    // A result of bf16 may be rounded to the other side; what follows from it differs by as much.
    let limit = if dtype == DType::BF16 { 1e-2 } else { 2e-5 };
    let compared = here.into_iter().zip(expected).map(|((name, here), (_, expected))| {
        let here: Vec<f32> = here.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let expected: Vec<f32> = expected.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        if here.len() != expected.len() {
            bail!("{name} has {} numbers on the GPU, {} on the CPU", here.len(), expected.len());
        }
        let sum = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| f64::from(x).powi(2)).sum::<f64>();
        let apart = sum(&mut here.iter().zip(&expected).map(|(a, b)| a - b));
        Ok((name, (apart / sum(&mut expected.iter().copied()).max(1e-30)).sqrt(), limit))
    });
    compared.collect()
}

/// The results of all operations on `device`.
fn results(device: &Device, dtype: DType) -> Result<Vec<(&'static str, Tensor)>> {
    const B: usize = 2;
    const T: usize = 150;
    const H: usize = 3;
    const D: usize = 48;
    const N: usize = B * T;
    let draw = |seed: u64, shape: &[usize]| drawn(seed, shape, device);
    let as_read = |seed: u64, shape: &[usize]| draw(seed, shape)?.to_dtype(dtype);
    let parameter =
        |seed: u64, shape: &[usize]| Ok::<_, candle_core::Error>(Arc::new(Parameter::new(&draw(seed, shape)?)?));
    let drop = Dropout { p: 0.3, seed: 7, site: 3, first_row: 2 };
    let mut found = Vec::new();

    found.push(("products", product(&as_read(1, &[N, D])?, &as_read(2, &[D, 2 * D])?, dtype)?));
    let (a, b) = (as_read(1, &[N, D])?, as_read(2, &[N, 2 * D])?);
    found.push(("transposed products", product(&a.t()?, &b, DType::F32)?));
    let weight = parameter(3, &[D, 2 * D])?;
    weight.add_tensor_product(&a, &b)?;
    weight.add_tensor_product(&b.narrow(1, 0, D)?.contiguous()?, &b)?;
    found.push(("sums of products", gradient(&weight)?));

    let norm = Norm { gain: parameter(4, &[D])?, bias: parameter(5, &[D])?, eps: 1e-5 };
    let x = draw(6, &[N, D])?;
    let (y, stats) = normalize(&x, &norm, dtype)?;
    found.push(("layer norms", y));
    let dx = normalize_backward(&as_read(7, &[N, D])?, &x, &stats, &norm, Some(&draw(8, &[N, D])?))?;
    found.extend([("gradients of layer norms", dx), ("gradients of gains", gradient(&norm.gain)?)]);
    found.push(("gradients of biases", gradient(&norm.bias)?));
    let columns = as_read(9, &[N, D])?;
    found.push(("sums of columns", add_column_sums(Some(add_column_sums(None, &columns)?), &columns)?));

    let (wide, active) = bias_gelu(as_read(10, &[N, 4 * D])?, &draw(11, &[4 * D])?)?;
    found.push(("GELU", active));
    found.push(("gradients of GELU", gelu_backward(&wide, &as_read(12, &[N, 4 * D])?)?));

    let (stream, y) = (draw(13, &[B, T, D])?, as_read(14, &[N, D])?);
    for at in [None, Some(drop)] {
        found.push(("residual sums", add_residual(&stream, &y, &draw(15, &[D])?, at)?));
        found.push(("gradients of residual sums", residual_backward(&stream, at, dtype)?));
    }
    found.push(("dropout", dropout(&stream, drop)?));

    // Heads of more than 64 numbers go through another kernel where operands are bf16.
    const WIDE: usize = 72;
    let windows = Sequences::windows(1, T);
    let sees = Visibility::of(&windows, device)?;
    let shape = AttentionShape { n_head: 1, mask: Mask::Causal, sequences: &windows, sees: &sees, drop: Some(drop) };
    let attended = attend(&as_read(25, &[T, 3 * WIDE])?, &draw(26, &[3 * WIDE])?, &shape)?;
    found.push(("attention of wide heads", attended.mixed.clone()));
    let dqkv = attend_backward(&as_read(27, &[T, WIDE])?, &attended, &shape)?;
    found.push(("gradients of attention of wide heads", dqkv));

    let packed = Sequences::packed(T, [&[0u32, 40, 41][..], &[0]])?;
    let branching = Sequences::branching([(20, &[30usize, 50][..]), (0, &[10, 20]), (60, &[110])])?;
    for sequences in [Sequences::windows(B, T), packed, branching] {
        for mask in [Mask::Causal, Mask::Banded { width: 7 }, Mask::Full] {
            if mask == Mask::Full && sequences.are_branching() {
                continue;
            }
            for drop in [None, Some(drop)] {
                let sees = Visibility::of(&sequences, device)?;
                let shape = AttentionShape { n_head: H, mask, sequences: &sequences, sees: &sees, drop };
                let attended = attend(&as_read(16, &[N, 3 * D])?, &draw(17, &[3 * D])?, &shape)?;
                found.push(("attention", attended.mixed.clone()));
                found.push(("gradients of attention", attend_backward(&as_read(18, &[N, D])?, &attended, &shape)?));
            }
        }
    }

    let ids: Vec<u32> = (0..N as u32).map(|n| n * n % 13).collect();
    let ids = Tensor::new(ids, device)?;
    found.push(("sums of rows", add_rows(draw(19, &[13, D])?, &ids, &draw(20, &[N, D])?)?));

    let targets: Vec<u32> = (0..N as u32).map(|n| if n % 5 == 0 { IGNORE } else { n % 101 }).collect();
    let (targets, scores) = (Tensor::new(targets, device)?, (draw(21, &[N, 101])? * 3.0)?);
    let (losses, gradient_of_scores) = row_losses(&scores, &targets, &Tensor::new(&[0.25f32], device)?, Some(dtype))?;
    found.push(("losses", losses));
    let first = |x: Tensor| x.narrow(1, 0, 101)?.contiguous();
    if let Some(gradient) = gradient_of_scores {
        found.push(("gradients of losses", first(gradient)?));
    }
    found.push(("log-probabilities", row_log_probs(&scores, &ids, 0.7)?));
    let gradient_of_scores = row_log_probs_backward(&scores, &ids, &draw(22, &[2, N])?, 0.7, dtype)?;
    found.push(("gradients of log-probabilities", first(gradient_of_scores)?));

    let (mean, square) =
        (Var::from_tensor(&draw(23, &[D, 2 * D])?)?, Var::from_tensor(&draw(24, &[D, 2 * D])?.sqr()?)?);
    let adam = Adam { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step: 3 };
    adamw(&weight, 0, &mean, &square, 0.01, &adam)?;
    found.push(("updates of weights", weight.tensor(false).copy()?));
    found.push(("updates of moments", Tensor::stack(&[mean.as_tensor(), square.as_tensor()], 0)?));
    let sums: Vec<f32> = squares(&[x, scores])?.into_iter().map(|sum| sum as f32).collect();
    found.push(("sums of squares", Tensor::new(sums, device)?));
    Ok(found)
}

fn gradient(parameter: &Parameter) -> Result<Tensor> {
    match parameter.gradient() {
        Some(gradient) => Ok(gradient),
        None => bail!("a parameter has no gradient"),
    }
}

#[cfg(all(test, feature = "cuda"))]
mod tests {
    use super::*;

    /// Where there is a GPU; `scripts/check_gpu.sh` runs it.
    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn every_operation_of_the_gpu_agrees_with_the_cpu() {
        let gpu = Device::new_cuda(0).unwrap();
        let mut wrong = 0;
        for dtype in [DType::F32, DType::BF16] {
            for (name, difference, limit) in differences(&gpu, dtype).unwrap() {
                let agrees = difference <= limit;
                println!("{dtype:?} {name}: {difference:.2e}{}", if agrees { "" } else { ", WRONG" });
                wrong += usize::from(!agrees);
            }
        }
        assert_eq!(wrong, 0);
    }
}
