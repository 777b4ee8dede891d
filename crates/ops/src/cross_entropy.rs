//! The loss of a language model.

use crate::exp::exp;
use crate::slices::{f32s, max, rows_at_a_time, sum, u32s};
use candle_core::{CpuStorage, CustomOp2, D, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// A target that does not count in the loss.
pub const IGNORE: u32 = u32::MAX;

/// Mean of −log softmax(logits)\[target\], in nats, over the targets that are not [`IGNORE`]; 0 when none counts.
///
/// `logits`: `[N, V]`; `targets`: `[N]`, u32, each below `V` or [`IGNORE`]. Returns a scalar.
///
/// # Errors
/// When the shapes do not fit or a target is not below `V`.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let (n, _) = logits.dims2()?;
    if targets.dims() != [n] {
        bail!("cross_entropy of {n} rows with targets {:?}", targets.dims());
    }
    if logits.device().is_cpu() {
        logits.contiguous()?.apply_op2(&targets.contiguous()?, CrossEntropy)
    } else {
        plain(logits, targets)
    }
}

/// The definition of right, in candle's differentiable operations.
fn plain(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let counts = targets.ne(IGNORE)?; // [N], u8
    let zeros = targets.zeros_like()?;
    let safe = counts.where_cond(targets, &zeros)?;
    let log_probs = candle_nn::ops::log_softmax(logits, D::Minus1)?;
    let picked = log_probs.gather(&safe.unsqueeze(1)?, 1)?.squeeze(1)?; // [N]
    let weights = counts.to_dtype(DType::F32)?;
    let n = weights.sum_all()?.to_scalar::<f32>()?.max(1.0);
    (picked * weights)?.sum_all()?.neg()? / f64::from(n)
}

/// Largest logit of a row, and the sum of exponentials relative to it.
fn softmax_sums(row: &[f32]) -> (f32, f32) {
    let max = max(row);
    (max, sum(row, |v| exp(v - max)))
}

struct CrossEntropy;

impl CustomOp2 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (logits, targets) = (f32s(s1, l1, self.name())?, u32s(s2, l2, self.name())?);
        let vocab = l1.dims()[1];
        if let Some(target) = targets.iter().find(|&&t| t != IGNORE && t as usize >= vocab) {
            bail!("target {target} is not below the vocabulary of {vocab}");
        }
        let loss = |(row, &target): (&[f32], &u32)| {
            if target == IGNORE {
                return 0.0;
            }
            let (max, sum) = softmax_sums(row);
            f64::from(max - row[target as usize]) + f64::from(sum).ln()
        };
        let losses: Vec<f64> = logits.par_chunks(vocab).zip(targets).map(loss).collect();
        let n = counted(targets).max(1) as f64;
        Ok((CpuStorage::F32(vec![(losses.iter().sum::<f64>() / n) as f32]), Shape::from(())))
    }

    fn bwd(
        &self,
        logits: &Tensor,
        targets: &Tensor,
        _loss: &Tensor,
        dloss: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let scale = dloss.to_scalar::<f32>()?;
        Ok((Some(logits.apply_op2_no_bwd(targets, &LogitsGradient { scale })?), None))
    }
}

fn counted(targets: &[u32]) -> usize {
    targets.iter().filter(|&&t| t != IGNORE).count()
}

/// `(logits, targets)` → `scale`·(softmax − one-hot)/n, 0 where the target does not count.
struct LogitsGradient {
    scale: f32,
}

impl CustomOp2 for LogitsGradient {
    fn name(&self) -> &'static str {
        "cross-entropy-gradient"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (logits, targets) = (f32s(s1, l1, self.name())?, u32s(s2, l2, self.name())?);
        let vocab = l1.dims()[1];
        let share = self.scale / counted(targets).max(1) as f32;
        let mut gradient = vec![0.0; logits.len()];
        let rows = gradient.par_chunks_mut(vocab).zip(logits.par_chunks(vocab)).zip(targets);
        rows.with_min_len(rows_at_a_time(vocab)).for_each(|((gradient, row), &target)| {
            if target == IGNORE {
                return;
            }
            let (max, sum) = softmax_sums(row);
            let scale = share / sum;
            for (g, &v) in gradient.iter_mut().zip(row) {
                *g = exp(v - max) * scale;
            }
            gradient[target as usize] -= share;
        });
        Ok((CpuStorage::F32(gradient), l1.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_close, assert_gradient, draw};
    use candle_core::Device;

    fn targets(ids: &[u32]) -> Tensor {
        Tensor::new(ids, &Device::Cpu).unwrap()
    }

    #[test]
    fn the_custom_operation_agrees_with_the_plain_one() {
        let logits = (draw(1, &[5, 11]) * 6.0).unwrap();
        for ids in [[0, 10, 3, 3, 7], [0, IGNORE, 3, IGNORE, 7], [IGNORE; 5]] {
            let t = targets(&ids);
            let fast = cross_entropy(&logits, &t).unwrap();
            assert_close("cross_entropy", &fast, &plain(&logits, &t).unwrap(), 1e-6);
        }
    }

    #[test]
    fn cross_entropy_has_the_gradient_of_finite_differences() {
        let t = targets(&[2, IGNORE, 0, 4]);
        assert_gradient(&[draw(1, &[4, 5])], 1e-3, |x| cross_entropy(&x[0], &t));
    }

    #[test]
    fn equal_logits_cost_the_logarithm_of_the_vocabulary() {
        let logits = Tensor::zeros((3, 50), DType::F32, &Device::Cpu).unwrap();
        let loss = cross_entropy(&logits, &targets(&[1, 2, 3])).unwrap().to_scalar::<f32>().unwrap();
        assert!((loss - 50f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn huge_logits_stay_finite() {
        let logits = Tensor::new(&[[1e30f32, -1e30, 0.0]], &Device::Cpu).unwrap();
        assert_eq!(cross_entropy(&logits, &targets(&[0])).unwrap().to_scalar::<f32>().unwrap(), 0.0);
    }

    #[test]
    fn a_target_outside_the_vocabulary_is_refused() {
        let error = cross_entropy(&draw(1, &[1, 5]), &targets(&[5])).unwrap_err();
        assert!(error.to_string().contains("target 5"), "{error}");
    }
}
