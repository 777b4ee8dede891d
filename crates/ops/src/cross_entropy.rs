//! The loss of a language model from its scores, in candle's differentiable operations: the definition of right.

use candle_core::{D, DType, Result, Tensor, bail};

/// A target that does not count in the loss.
pub const IGNORE: u32 = u32::MAX;

/// Mean of −log softmax(logits)\[target\], in nats, over the targets that are not [`IGNORE`]; 0 when none counts.
///
/// `logits`: `[N, V]`; `targets`: `[N]`, u32, each below `V` or [`IGNORE`]. Returns a scalar.
///
/// # Errors
/// When the shapes do not fit.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let (n, _) = logits.dims2()?;
    if targets.dims() != [n] {
        bail!("cross_entropy has {n} rows but targets of shape {:?}", targets.dims());
    }
    let counts = targets.ne(IGNORE)?; // [N], u8
    let zeros = targets.zeros_like()?;
    let safe = counts.where_cond(targets, &zeros)?;
    let log_probs = candle_nn::ops::log_softmax(logits, D::Minus1)?;
    let picked = log_probs.gather(&safe.unsqueeze(1)?, 1)?.squeeze(1)?; // [N]
    let weights = counts.to_dtype(DType::F32)?;
    let n = weights.sum_all()?.to_scalar::<f32>()?.max(1.0);
    (picked * weights)?.sum_all()?.neg()? / f64::from(n)
}

/// Targets that count.
pub(crate) fn counted(targets: &[u32]) -> usize {
    targets.iter().filter(|&&t| t != IGNORE).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_gradient, draw};
    use candle_core::Device;

    fn targets(ids: &[u32]) -> Tensor {
        Tensor::new(ids, &Device::Cpu).unwrap()
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
}
