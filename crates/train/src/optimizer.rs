//! AdamW over all parameters of a model.

use crate::config::TrainConfig;
use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var, bail};
use model::Params;
use ops::{Adam, adamw, sum_of_squares};
use std::collections::HashMap;

/// The optimizer's state, in the parameters' order.
#[derive(Debug)]
pub struct Optimizer {
    slots: Vec<Slot>,
    n_updates: u64,
}

/// One parameter with its moments.
#[derive(Debug)]
struct Slot {
    name: String,
    weights: Var,
    mean: Var,
    square: Var,
}

/// Gradients of all parameters, in their order, added up over micro-batches.
#[derive(Debug, Default)]
pub struct Gradients {
    sums: Vec<Tensor>,
}

impl Gradients {
    /// Adds the gradients in `store`.
    ///
    /// # Errors
    /// When a parameter has none: it would silently never train.
    pub fn add(&mut self, params: &Params, store: &GradStore) -> Result<()> {
        let first = self.sums.is_empty();
        for (i, (name, var)) in params.iter().enumerate() {
            let Some(gradient) = store.get(var) else { bail!("no gradient reaches {name}") };
            if first {
                self.sums.push(gradient.clone());
            } else {
                self.sums[i] = (&self.sums[i] + gradient)?;
            }
        }
        Ok(())
    }

    /// Euclidean norm over all of them.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn norm(&self) -> Result<f64> {
        let squares = self.sums.iter().map(sum_of_squares).collect::<Result<Vec<f64>>>()?;
        Ok(squares.iter().sum::<f64>().sqrt())
    }
}

impl Optimizer {
    /// Moments of zero for every parameter.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub fn new(params: &Params) -> Result<Self> {
        let slot = |(name, weights): (&str, &Var)| {
            let zeros = || Var::from_tensor(&weights.as_tensor().zeros_like()?.detach());
            Ok(Slot { name: name.to_owned(), weights: weights.clone(), mean: zeros()?, square: zeros()? })
        };
        Ok(Self { slots: params.iter().map(slot).collect::<Result<_>>()?, n_updates: 0 })
    }

    /// Updates made.
    pub fn n_updates(&self) -> u64 {
        self.n_updates
    }

    /// Moments by name: `mean.NAME` and `square.NAME`.
    pub fn moments(&self) -> impl Iterator<Item = (String, &Tensor)> {
        self.slots.iter().flat_map(|slot| {
            [
                (format!("mean.{}", slot.name), slot.mean.as_tensor()),
                (format!("square.{}", slot.name), slot.square.as_tensor()),
            ]
        })
    }

    /// Goes on from moments that [`Self::moments`] gave after `n_updates` updates.
    ///
    /// # Errors
    /// When one is missing or has another shape.
    pub fn restore(&mut self, moments: &HashMap<String, Tensor>, n_updates: u64) -> Result<()> {
        for slot in &self.slots {
            for (kind, var) in [("mean", &slot.mean), ("square", &slot.square)] {
                let name = format!("{kind}.{}", slot.name);
                let Some(tensor) = moments.get(&name) else { bail!("no moment is called {name}") };
                var.set(&tensor.to_device(var.device())?)?;
            }
        }
        self.n_updates = n_updates;
        Ok(())
    }

    /// One update with learning rate `lr`, after scaling the gradients to a norm of at most `config.clip`; none when that
    /// norm is not finite. Returns the norm before.
    ///
    /// # Errors
    /// When the gradients are not those of the parameters.
    pub fn update(&mut self, gradients: &Gradients, lr: f64, config: &TrainConfig) -> Result<f64> {
        let norm = gradients.norm()?;
        if !norm.is_finite() {
            return Ok(norm);
        }
        // The 1e-6 is PyTorch's `clip_grad_norm_`.
        let scale = config.clip.map_or(1.0, |clip| (clip / (norm + 1e-6)).min(1.0));
        self.n_updates += 1;
        for (slot, gradient) in self.slots.iter().zip(&gradients.sums) {
            let adam = Adam {
                lr,
                beta1: config.beta1,
                beta2: config.beta2,
                eps: config.eps,
                weight_decay: if decays(&slot.weights) { config.weight_decay } else { 0.0 },
                step: self.n_updates,
            };
            adamw(&slot.weights, &slot.mean, &slot.square, gradient, scale, &adam)
                .map_err(|e| e.context(format!("update of {}", slot.name)))?;
        }
        Ok(norm)
    }
}

/// Matrices and embeddings decay; biases and gains do not.
fn decays(weights: &Var) -> bool {
    weights.rank() >= 2
}
