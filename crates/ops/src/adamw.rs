//! One update of AdamW (Loshchilov & Hutter 2019, algorithm 2, with ε outside the root as in PyTorch).

use crate::slices::{f32s, f32s_mut};
use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, Tensor, Var};
use rayon::prelude::*;

/// What an update is made with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of their squares.
    pub beta2: f64,
    /// Added to the root of the mean of squares.
    pub eps: f64,
    /// Decoupled weight decay, relative to `lr`.
    pub weight_decay: f64,
    /// Number of this update, from 1: corrects the bias of the means.
    pub step: u64,
}

impl Adam {
    /// 1 − β₁ᵗ and 1 − β₂ᵗ.
    fn corrections(&self) -> (f64, f64) {
        let power = |beta: f64| 1.0 - beta.powf(self.step as f64);
        (power(self.beta1), power(self.beta2))
    }
}

/// Updates `weights` and its moments `mean` and `square` in place with `gradient · scale`; all of one shape.
///
/// # Errors
/// When the shapes differ or the device has no such operation.
pub fn adamw(weights: &Var, mean: &Var, square: &Var, gradient: &Tensor, scale: f64, adam: &Adam) -> Result<()> {
    let gradient = gradient.contiguous()?;
    if !weights.device().is_cpu() {
        return plain(weights, mean, square, &gradient, scale, adam);
    }
    let scale = scale as f32;
    mean.inplace_op2(&gradient, &Average { beta: adam.beta1 as f32, term: |g, s| g * s, scale })?;
    square.inplace_op2(&gradient, &Average { beta: adam.beta2 as f32, term: |g, s| (g * s) * (g * s), scale })?;
    weights.inplace_op3(mean, square, &Update(*adam))
}

/// The definition of right, in candle's operations.
fn plain(weights: &Var, mean: &Var, square: &Var, gradient: &Tensor, scale: f64, adam: &Adam) -> Result<()> {
    let g = (gradient * scale)?;
    mean.set(&((mean.as_tensor() * adam.beta1)? + (&g * (1.0 - adam.beta1))?)?)?;
    square.set(&((square.as_tensor() * adam.beta2)? + (g.sqr()? * (1.0 - adam.beta2))?)?)?;
    let (c1, c2) = adam.corrections();
    let direction = (mean.as_tensor() / c1)?.div(&((square.as_tensor() / c2)?.sqrt()? + adam.eps)?)?;
    let decayed = (weights.as_tensor() * (1.0 - adam.lr * adam.weight_decay))?;
    weights.set(&(decayed - (direction * adam.lr)?)?.detach())
}

const CHUNK: usize = 16 * 1024;

/// average ← β·average + (1 − β)·term(gradient, scale)
struct Average {
    beta: f32,
    term: fn(f32, f32) -> f32,
    scale: f32,
}

impl InplaceOp2 for Average {
    fn name(&self) -> &'static str {
        "adamw-average"
    }

    fn cpu_fwd(&self, s1: &mut CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<()> {
        let average = f32s_mut(s1, l1, self.name())?;
        let gradient = f32s(s2, l2, self.name())?;
        average.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK)).for_each(|(average, gradient)| {
            for (a, &g) in average.iter_mut().zip(gradient) {
                *a = self.beta * *a + (1.0 - self.beta) * (self.term)(g, self.scale);
            }
        });
        Ok(())
    }
}

/// weights ← weights·(1 − lr·decay) − lr·(mean/c₁)/(√(square/c₂) + ε)
struct Update(Adam);

impl InplaceOp3 for Update {
    fn name(&self) -> &'static str {
        "adamw-update"
    }

    fn cpu_fwd(
        &self,
        s1: &mut CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<()> {
        let weights = f32s_mut(s1, l1, self.name())?;
        let (mean, square) = (f32s(s2, l2, self.name())?, f32s(s3, l3, self.name())?);
        let Adam { lr, eps, weight_decay, .. } = self.0;
        let (c1, c2) = self.0.corrections();
        let (keep, rate, root, eps) =
            ((1.0 - lr * weight_decay) as f32, (lr / c1) as f32, (1.0 / c2.sqrt()) as f32, eps as f32);
        let chunks = weights.par_chunks_mut(CHUNK).zip(mean.par_chunks(CHUNK)).zip(square.par_chunks(CHUNK));
        chunks.for_each(|((weights, mean), square)| {
            for ((w, &m), &s) in weights.iter_mut().zip(mean).zip(square) {
                *w = keep * *w - rate * m / (s.sqrt() * root + eps);
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_close, draw};
    use candle_core::{DType, Device};

    type Step = fn(&Var, &Var, &Var, &Tensor, f64, &Adam) -> Result<()>;

    fn three_steps(step: Step) -> Tensor {
        let weights = Var::from_tensor(&draw(1, &[5, 7])).unwrap();
        let zeros = || Var::zeros((5, 7), DType::F32, &Device::Cpu).unwrap();
        let (mean, square) = (zeros(), zeros());
        for i in 1..=3 {
            let adam = Adam { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step: i };
            step(&weights, &mean, &square, &draw(10 + i, &[5, 7]), 0.5, &adam).unwrap();
        }
        weights.as_tensor().copy().unwrap()
    }

    #[test]
    fn the_update_in_place_agrees_with_the_plain_one() {
        assert_close("weights", &three_steps(adamw), &three_steps(plain), 1e-6);
    }

    #[test]
    fn the_first_step_moves_each_weight_by_the_learning_rate() {
        let weights = Var::from_tensor(&draw(1, &[9])).unwrap();
        let before = weights.as_tensor().copy().unwrap();
        let zeros = || Var::zeros(9, DType::F32, &Device::Cpu).unwrap();
        let adam = Adam { lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-12, weight_decay: 0.0, step: 1 };
        let gradient = draw(2, &[9]);
        adamw(&weights, &zeros(), &zeros(), &gradient, 1.0, &adam).unwrap();
        let expected = (before - (gradient.sign().unwrap() * 0.01).unwrap()).unwrap();
        assert_close("weights", weights.as_tensor(), &expected, 1e-6);
    }
}
