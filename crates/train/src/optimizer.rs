//! AdamW over all parameters of a model.

use crate::config::{EpsPlacement, TrainConfig};
use candle_core::{Device, Result, Tensor, Var, bail};
use gptkit_model::Params;
use gptkit_ops::{Adam, Parameter, adamw, gradient_squares};
use std::sync::Arc;

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
    parameter: Arc<Parameter>,
    mean: Var,
    square: Var,
}

impl Optimizer {
    /// Moments of zero for every parameter that is not frozen.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub fn new(params: &Params) -> Result<Self> {
        let slot = |(name, parameter): (&str, &Arc<Parameter>)| {
            let zeros = || Var::from_tensor(&parameter.var().as_tensor().zeros_like()?.detach());
            Ok(Slot { name: name.to_owned(), parameter: Arc::clone(parameter), mean: zeros()?, square: zeros()? })
        };
        let trained = params.iter().filter(|(_, parameter)| !parameter.is_frozen());
        Ok(Self { slots: trained.map(slot).collect::<Result<_>>()?, n_updates: 0 })
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

    /// Goes on from the moments that [`Self::moments`] gave after `n_updates` updates, which `find` reads by name.
    ///
    /// # Errors
    /// When one is missing or has another shape.
    pub fn restore(&mut self, find: impl Fn(&str, &Device) -> Result<Tensor>, n_updates: u64) -> Result<()> {
        for slot in &self.slots {
            for (kind, var) in [("mean", &slot.mean), ("square", &slot.square)] {
                let name = format!("{kind}.{}", slot.name);
                let moment = find(&name, var.device())?;
                if moment.dims() != var.dims() {
                    bail!("{name} has shape {:?}, its parameter {:?}", moment.dims(), var.dims());
                }
                var.set(&moment)?;
            }
        }
        self.n_updates = n_updates;
        Ok(())
    }

    /// Euclidean norm over the gradients of all parameters.
    ///
    /// # Errors
    /// When a parameter has no gradient: it would silently never train.
    pub fn gradient_norm(&self) -> Result<f64> {
        let squares = |slot: &Slot| {
            gradient_squares(&slot.parameter).map_err(|e| e.context(format!("gradient of {}", slot.name)))
        };
        Ok(self.slots.iter().map(squares).collect::<Result<Vec<f64>>>()?.iter().sum::<f64>().sqrt())
    }

    /// One update with learning rate `lr`, after scaling the gradients to a norm of at most `config.clip`; none when that
    /// norm is not finite. Returns the norm before.
    ///
    /// # Errors
    /// When a parameter has no gradient.
    pub fn update(&mut self, lr: f64, config: &TrainConfig) -> Result<f64> {
        let norm = self.gradient_norm()?;
        if !norm.is_finite() {
            return Ok(norm);
        }
        // The 1e-6 is PyTorch's `clip_grad_norm_`.
        let scale = config.clip.map_or(1.0, |clip| (clip / (norm + 1e-6)).min(1.0));
        self.n_updates += 1;
        let eps = match config.eps_placement {
            EpsPlacement::PyTorch => config.eps,
            // √(v̂) + ε̂ / √(1 − β₂ᵗ) is (√v + ε̂) / √(1 − β₂ᵗ).
            EpsPlacement::TensorFlow => config.eps / (1.0 - config.beta2.powf(self.n_updates as f64)).sqrt(),
        };
        for slot in &self.slots {
            let adam = Adam {
                lr,
                beta1: config.beta1,
                beta2: config.beta2,
                eps,
                weight_decay: if decays(slot.parameter.var()) { config.weight_decay } else { 0.0 },
                step: self.n_updates,
            };
            adamw(&slot.parameter, &slot.mean, &slot.square, scale, &adam)
                .map_err(|e| e.context(format!("update of {}", slot.name)))?;
        }
        Ok(norm)
    }
}

/// Matrices and embeddings decay; biases and gains do not.
fn decays(weights: &Var) -> bool {
    weights.rank() >= 2
}
