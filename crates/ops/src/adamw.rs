//! One update of AdamW (Loshchilov & Hutter 2019, algorithm 2, with ε outside the root as in PyTorch).

use crate::cpu::vectorized;
use crate::device::gpu::{KernelArgument as Arg, KernelGrid, launch};
use crate::parameter::{Parameter, flat_view};
use crate::slices::with_f32s_mut;
use candle_core::{CudaDevice, Device, Result, Tensor, Var, bail};
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

/// Updates the weights of `parameter` from number `from` on and their moments `mean` and `square`, of as many numbers, in place
/// with its gradient times `scale`, in one pass over memory on the CPU and on NVIDIA GPUs.
///
/// # Errors
/// When the shapes differ, no gradient reaches the parameter, or another device is to update a part of the weights.
pub fn adamw(parameter: &Parameter, from: usize, mean: &Var, square: &Var, scale: f64, adam: &Adam) -> Result<()> {
    let part = from..from + mean.elem_count();
    parameter.with_gradient(
        |gradient| {
            parameter.change(|weights| {
                let (weights, gradient) = (&mut weights[part.clone()], &gradient[part]);
                with_f32s_mut(mean, |mean| {
                    with_f32s_mut(square, |square| update(weights, mean, square, gradient, scale as f32, adam))
                })
            })??
        },
        |gradient| {
            match gradient.device() {
                Device::Cuda(device) => {
                    let weights = flat_view(parameter.var())?.narrow(0, from, mean.elem_count())?;
                    let gradient = gradient.flatten_all()?.narrow(0, from, mean.elem_count())?;
                    launched(device, &weights, mean, square, &gradient, scale, adam)?;
                }
                _ if mean.dims() != parameter.var().dims() => bail!("this device can update only all of a parameter"),
                _ => plain(parameter.var(), mean, square, gradient, scale, adam)?,
            }
            parameter.changed();
            Ok(())
        },
    )
}

fn update(weights: &mut [f32], mean: &mut [f32], square: &mut [f32], gradient: &[f32], scale: f32, adam: &Adam) {
    const CHUNK: usize = 16 * 1024;
    let parts = weights.par_chunks_mut(CHUNK).zip(mean.par_chunks_mut(CHUNK)).zip(square.par_chunks_mut(CHUNK));
    parts.zip(gradient.par_chunks(CHUNK)).for_each(|(((weights, mean), square), gradient)| {
        update_part(weights, mean, square, gradient, scale, adam);
    });
}

vectorized! {
    /// mean ← β₁·mean + (1 − β₁)·g; square ← β₂·square + (1 − β₂)·g²;
    /// weights ← weights·(1 − lr·decay) − lr·(mean/c₁)/(√(square/c₂) + ε)
    fn update_part(
        weights: &mut [f32],
        mean: &mut [f32],
        square: &mut [f32],
        gradient: &[f32],
        scale: f32,
        adam: &Adam,
    ) {
        let (c1, c2) = adam.corrections();
        let (beta1, beta2, eps) = (adam.beta1 as f32, adam.beta2 as f32, adam.eps as f32);
        let (keep, rate) = ((1.0 - adam.lr * adam.weight_decay) as f32, (adam.lr / c1) as f32);
        let root = (1.0 / c2.sqrt()) as f32;
        for (((w, m), s), g) in weights.iter_mut().zip(mean).zip(square).zip(gradient) {
            let g = g * scale;
            *m = beta1 * *m + (1.0 - beta1) * g;
            *s = beta2 * *s + (1.0 - beta2) * (g * g);
            *w = keep * *w - rate * *m / (s.sqrt() * root + eps);
        }
    }
}

fn launched(
    device: &CudaDevice,
    weights: &Tensor,
    mean: &Var,
    square: &Var,
    gradient: &Tensor,
    scale: f64,
    adam: &Adam,
) -> Result<()> {
    let (n, (c1, c2)) = (gradient.elem_count(), adam.corrections());
    launch(
        device,
        "adamw",
        KernelGrid::elements(n),
        &[
            Arg::Tensor(weights),
            Arg::Tensor(mean),
            Arg::Tensor(square),
            Arg::Tensor(gradient),
            Arg::U64(n as u64),
            Arg::F32(scale as f32),
            Arg::F32(adam.beta1 as f32),
            Arg::F32(adam.beta2 as f32),
            Arg::F32(adam.eps as f32),
            Arg::F32((1.0 - adam.lr * adam.weight_decay) as f32),
            Arg::F32((adam.lr / c1) as f32),
            Arg::F32((1.0 / c2.sqrt()) as f32),
        ],
    )
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_close, draw};
    use candle_core::DType;

    type Step = fn(&Parameter, &Var, &Var, &Tensor, f64, &Adam);

    fn fast(parameter: &Parameter, mean: &Var, square: &Var, gradient: &Tensor, scale: f64, adam: &Adam) {
        let numbers: Vec<f32> = gradient.flatten_all().unwrap().to_vec1().unwrap();
        parameter.clear_gradient();
        parameter.add_gradient(|sums, _| sums.copy_from_slice(&numbers));
        adamw(parameter, 0, mean, square, scale, adam).unwrap();
    }

    fn slow(parameter: &Parameter, mean: &Var, square: &Var, gradient: &Tensor, scale: f64, adam: &Adam) {
        plain(parameter.var(), mean, square, gradient, scale, adam).unwrap();
    }

    fn three_steps(step: Step) -> Tensor {
        let parameter = Parameter::new(&draw(1, &[5, 7])).unwrap();
        let zeros = || Var::zeros((5, 7), DType::F32, &Device::Cpu).unwrap();
        let (mean, square) = (zeros(), zeros());
        for i in 1..=3 {
            let adam = Adam { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step: i };
            step(&parameter, &mean, &square, &draw(10 + i, &[5, 7]), 0.5, &adam);
        }
        parameter.var().as_tensor().copy().unwrap()
    }

    #[test]
    fn the_update_in_place_agrees_with_the_plain_one() {
        assert_close("weights", &three_steps(fast), &three_steps(slow), 1e-6);
    }

    #[test]
    fn the_first_step_moves_each_weight_by_the_learning_rate() {
        let parameter = Parameter::new(&draw(1, &[9])).unwrap();
        let before = parameter.var().as_tensor().copy().unwrap();
        let zeros = || Var::zeros(9, DType::F32, &Device::Cpu).unwrap();
        let adam = Adam { lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-12, weight_decay: 0.0, step: 1 };
        let gradient = draw(2, &[9]);
        fast(&parameter, &zeros(), &zeros(), &gradient, 1.0, &adam);
        let expected = (before - (gradient.sign().unwrap() * 0.01).unwrap()).unwrap();
        assert_close("weights", parameter.var().as_tensor(), &expected, 1e-6);
    }
}
