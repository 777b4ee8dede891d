//! AdamW over all parameters of a model.

use crate::config::TrainConfig;
use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Tensor, Var, bail};
use model::Params;
use ops::{Adam, adamw, sum_of_squares};

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
    sums: Vec<Option<Tensor>>,
}

impl Gradients {
    /// Adds those that `store` holds.
    ///
    /// # Errors
    /// When a sum cannot be made.
    pub fn add(&mut self, params: &Params, store: &mut GradStore) -> Result<()> {
        self.sums.resize_with(params.iter().count(), || None);
        for (sum, (_, var)) in self.sums.iter_mut().zip(params.iter()) {
            // Taken out, so that the sum takes its place and not place beside it.
            if let Some(gradient) = store.remove(var) {
                *sum = Some(match sum.take() {
                    Some(sum) => (sum + gradient)?,
                    None => gradient,
                });
            }
        }
        Ok(())
    }

    /// Each parameter's gradient, in their order.
    fn iter(&self) -> impl Iterator<Item = &Tensor> {
        self.sums.iter().flatten()
    }

    /// Euclidean norm over all of them.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn norm(&self) -> Result<f64> {
        let squares = self.iter().map(sum_of_squares).collect::<Result<Vec<f64>>>()?;
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

    /// One update with learning rate `lr`, after scaling the gradients to a norm of at most `config.clip`; none when that
    /// norm is not finite. Returns the norm before.
    ///
    /// # Errors
    /// When a parameter has no gradient: it would silently never train.
    pub fn update(&mut self, gradients: &Gradients, lr: f64, config: &TrainConfig) -> Result<f64> {
        if let Some((slot, _)) = self.slots.iter().zip(&gradients.sums).find(|(_, gradient)| gradient.is_none()) {
            bail!("no gradient reaches {}", slot.name);
        }
        let norm = gradients.norm()?;
        if !norm.is_finite() {
            return Ok(norm);
        }
        // The 1e-6 is PyTorch's `clip_grad_norm_`.
        let scale = config.clip.map_or(1.0, |clip| (clip / (norm + 1e-6)).min(1.0));
        self.n_updates += 1;
        for (slot, gradient) in self.slots.iter().zip(gradients.iter()) {
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
