//! AdamW and Muon over all parameters of a model.

use crate::config::{EpsPlacement, OptimizerKind, TrainConfig};
use candle_core::{Device, Result, Tensor, Var, bail};
use gptkit_model::{Params, n_matrices};
use gptkit_ops::{Adam, Muon, Parameter, adamw, gradient_squares, muon};
use rayon::prelude::*;
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
    /// Running mean of the gradients.
    mean: Var,
    rule: UpdateRule,
}

/// How a parameter is changed.
#[derive(Debug)]
enum UpdateRule {
    AdamW {
        /// Mean of the gradients' squares.
        square: Var,
    },
    Muon {
        /// Matrices side by side in the parameter.
        n_matrices: usize,
    },
}

impl Optimizer {
    /// Moments of zero for every parameter that is not frozen.
    ///
    /// # Errors
    /// When Muon is asked for and no matrix of a layer is trained, or memory does not suffice.
    pub fn new(params: &Params, kind: OptimizerKind) -> Result<Self> {
        let slot = |(name, parameter): (&str, &Arc<Parameter>)| {
            let zeros = || Var::from_tensor(&parameter.var().as_tensor().zeros_like()?.detach());
            let rule = match n_matrices(name) {
                Some(n_matrices) if kind == OptimizerKind::Muon => UpdateRule::Muon { n_matrices },
                _ => UpdateRule::AdamW { square: zeros()? },
            };
            Ok(Slot { name: name.to_owned(), parameter: Arc::clone(parameter), mean: zeros()?, rule })
        };
        let trained = params.iter().filter(|(_, parameter)| !parameter.is_frozen());
        let slots = trained.map(slot).collect::<Result<Vec<_>>>()?;
        if kind == OptimizerKind::Muon && !slots.iter().any(|slot| matches!(slot.rule, UpdateRule::Muon { .. })) {
            bail!(
                "train.optimizer = \"muon\" updates weight matrices of layers, but none of them is trained\n  hint: \
                 use train.optimizer = \"adamw\""
            );
        }
        Ok(Self { slots, n_updates: 0 })
    }

    /// Updates made.
    pub fn n_updates(&self) -> u64 {
        self.n_updates
    }

    /// Moments by name: `mean.NAME` of every parameter, and `square.NAME` of those that AdamW changes.
    pub fn moments(&self) -> impl Iterator<Item = (String, &Tensor)> {
        self.slots.iter().flat_map(Slot::moments).map(|(name, var)| (name, var.as_tensor()))
    }

    /// Goes on from the moments that [`Self::moments`] gave after `n_updates` updates, which `find` reads by name.
    ///
    /// # Errors
    /// When one is missing or has another shape.
    pub fn restore(&mut self, find: impl Fn(&str, &Device) -> Result<Tensor>, n_updates: u64) -> Result<()> {
        for (name, var) in self.slots.iter().flat_map(Slot::moments) {
            let moment = find(&name, var.device())?;
            if moment.dims() != var.dims() {
                bail!("{name} has shape {:?}, but its parameter has {:?}", moment.dims(), var.dims());
            }
            var.set(&moment)?;
        }
        self.n_updates = n_updates;
        Ok(())
    }

    /// Euclidean norm over the gradients of all parameters.
    ///
    /// # Errors
    /// When a parameter has no gradient: it would silently never train.
    pub fn gradient_norm(&self) -> Result<f64> {
        let parameters: Vec<_> = self.slots.iter().map(|slot| Arc::clone(&slot.parameter)).collect();
        let mut sum = 0.0;
        for (slot, squares) in self.slots.iter().zip(gradient_squares(&parameters)?) {
            let Some(squares) = squares else { bail!("gradient of {}: the parameter has no gradient", slot.name) };
            sum += squares;
        }
        Ok(sum.sqrt())
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
        let (step, precision) = (self.n_updates, config.dtype.precision());
        let of_matrices = Muon {
            lr: lr / config.lr * config.muon_lr(),
            momentum: config.muon_momentum(),
            weight_decay: config.weight_decay,
        };
        // Parameters side by side: each of a small model is too little work for several threads.
        self.slots.par_iter().try_for_each(|slot| {
            let Slot { name, parameter, mean, rule } = slot;
            let updated = match rule {
                UpdateRule::AdamW { square } => {
                    let weight_decay = if decays(parameter.var()) { config.weight_decay } else { 0.0 };
                    let adam = Adam { lr, beta1: config.beta1, beta2: config.beta2, eps, weight_decay, step };
                    adamw(parameter, mean, square, scale, &adam)
                }
                UpdateRule::Muon { n_matrices } => muon(parameter, mean, *n_matrices, scale, precision, &of_matrices),
            };
            updated.map_err(|e| e.context(format!("update of {name}")))
        })?;
        Ok(norm)
    }
}

impl Slot {
    /// Names and values.
    fn moments(&self) -> impl Iterator<Item = (String, &Var)> {
        let square = match &self.rule {
            UpdateRule::AdamW { square } => Some((format!("square.{}", self.name), square)),
            UpdateRule::Muon { .. } => None,
        };
        std::iter::once((format!("mean.{}", self.name), &self.mean)).chain(square)
    }
}

/// Matrices and embeddings decay; biases and gains do not.
fn decays(weights: &Var) -> bool {
    weights.rank() >= 2
}
