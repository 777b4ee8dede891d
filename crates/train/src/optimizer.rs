//! AdamW and Muon over all parameters of a model.
//!
//! Of several ranks each keeps the moments of a slice of all weights, and updates that slice (Rajbhandari et al. 2020, ZeRO stage
//! 1). Slices consist of whole units, so that norms are the same sums, and Muon has whole matrices, on any number of
//! ranks.

use crate::config::{EpsPlacement, OptimizerKind, TrainConfig};
use crate::exchange::Exchange;
use anyhow::Context;
use candle_core::{DType, Device, Result, Tensor, Var, bail};
use gptkit_model::{Params, n_matrices};
use gptkit_ops::{Adam, Muon, NORM_CHUNK, Parameter, adamw, gradient_square_parts, gradient_squares, muon};
use gptkit_ranks::{Ranks, slice_of};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// The optimizer's state, in the parameters' order.
#[derive(Debug)]
pub struct Optimizer {
    slots: Vec<Slot>,
    /// How ranks exchange the gradients and weights of the slots' parameters.
    exchange: Exchange,
    /// Whether gradients are sums of parts ([`TrainConfig::shards`]), with a norm that is the same on any number of ranks.
    has_parts: bool,
    n_updates: u64,
}

/// One parameter with its moments.
#[derive(Debug)]
struct Slot {
    name: String,
    parameter: Arc<Parameter>,
    /// The weights that this rank updates, of which it has the moments.
    own: Range<usize>,
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
    /// Moments of zero for every parameter that is not frozen; for the slice of this one of `ranks`.
    ///
    /// # Errors
    /// When Muon is asked for and no matrix of a layer is trained, memory does not suffice, or the GPUs of the ranks cannot be
    /// connected.
    pub fn new(params: &Params, config: &TrainConfig, ranks: &Ranks) -> anyhow::Result<Self> {
        let kind = config.optimizer;
        let trained = params.iter().filter(|(_, parameter)| !parameter.is_frozen());
        let trained: Vec<(&str, &Arc<Parameter>)> = trained.collect();
        let matrices = |name: &str| n_matrices(name).filter(|_| kind == OptimizerKind::Muon);
        if kind == OptimizerKind::Muon && !trained.iter().any(|(name, _)| matrices(name).is_some()) {
            anyhow::bail!(
                "train.optimizer = \"muon\" updates weight matrices of layers, but none of them is trained\n  hint: \
                 use train.optimizer = \"adamw\""
            );
        }
        let device = trained.first().map_or(&Device::Cpu, |(_, parameter)| parameter.var().device());
        let exchange = Exchange::new(&trained, |name| matrices(name).is_some(), &ranks.on(device)?);
        let slot = |(i, (name, parameter)): (usize, &(&str, &Arc<Parameter>))| {
            let own = exchange.own(i);
            let (weights, device) = (parameter.var(), parameter.var().device());
            let zeros = || match own.len() == weights.elem_count() {
                true => Var::from_tensor(&weights.as_tensor().zeros_like()?.detach()),
                // A GPU has no memory of no bytes.
                false => Var::zeros(own.len().max(1), DType::F32, device),
            };
            let rule = match matrices(name) {
                Some(n_matrices) => UpdateRule::Muon { n_matrices },
                None => UpdateRule::AdamW { square: zeros()? },
            };
            let mean = zeros()?;
            Ok(Slot { name: (*name).to_owned(), parameter: Arc::clone(parameter), own, mean, rule })
        };
        let slots = trained.iter().enumerate().map(slot).collect::<Result<Vec<_>>>()?;
        Ok(Self { slots, exchange, has_parts: config.shards() > 1, n_updates: 0 })
    }

    /// How ranks exchange the gradients of the parameters that are updated.
    pub(crate) fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    /// Updates made.
    pub fn n_updates(&self) -> u64 {
        self.n_updates
    }

    /// Moments by name, of all ranks together: `mean.NAME` of every parameter, and `square.NAME` of those that AdamW changes.
    /// Every rank must call it; only the first one gets them.
    ///
    /// # Errors
    /// When a rank has ended or does not answer.
    pub fn moments(&self) -> anyhow::Result<Vec<(String, Tensor)>> {
        let (mut all, ranks) = (Vec::new(), self.exchange.ranks());
        for slot in &self.slots {
            for (name, var) in slot.moments() {
                if ranks.is_alone() {
                    all.push((name, var.as_tensor().clone()));
                    continue;
                }
                let own = var.flatten_all()?.narrow(0, 0, slot.own.len())?;
                let of_ranks = ranks.gather(&own.to_vec1::<f32>()?)?;
                if ranks.is_first() {
                    let slices = (0..ranks.size()).map(|slice| slice_of(slice, ranks.size()));
                    let numbers: Vec<f32> = slices.flat_map(|rank| of_ranks[rank].iter().copied()).collect();
                    all.push((name, Tensor::from_vec(numbers, slot.parameter.var().shape(), var.device())?));
                }
            }
        }
        Ok(all)
    }

    /// Goes on from the moments that [`Self::moments`] gave after `n_updates` updates, which `find` reads by name.
    ///
    /// # Errors
    /// When one is missing or has another shape.
    pub fn restore(&mut self, find: impl Fn(&str, &Device) -> Result<Tensor>, n_updates: u64) -> Result<()> {
        for slot in &self.slots {
            for (name, var) in slot.moments() {
                let moment = find(&name, var.device())?;
                let expected = slot.parameter.var().dims();
                if moment.dims() != expected {
                    bail!("{name} has shape {:?}, but its parameter has {expected:?}", moment.dims());
                }
                if !slot.own.is_empty() {
                    let own = moment.flatten_all()?.narrow(0, slot.own.start, slot.own.len())?;
                    var.set(&own.reshape(var.shape())?)?;
                }
            }
        }
        self.n_updates = n_updates;
        Ok(())
    }

    /// Euclidean norm over the gradients of all parameters, each of which one of the ranks has.
    ///
    /// # Errors
    /// When a parameter has no gradient: it would silently never train. When a rank has ended or does not answer.
    pub fn gradient_norm(&self) -> anyhow::Result<f64> {
        let (mut sum, ranks) = (0.0, self.exchange.ranks());
        if ranks.is_alone() && !self.has_parts {
            for (slot, squares) in self.slots.iter().zip(gradient_squares(self.exchange.parameters())?) {
                sum += squares.with_context(|| format!("gradient of {}: the parameter has no gradient", slot.name))?;
            }
            return Ok(sum.sqrt());
        }
        let mut own = Vec::new();
        for slot in &self.slots {
            let parts = gradient_square_parts(&slot.parameter, slot.own.clone());
            own.extend(parts.with_context(|| format!("gradient of {}", slot.name))?);
        }
        let of_ranks = ranks.gather(&own)?;
        let mut left: Vec<&[f64]> = of_ranks.iter().map(Vec::as_slice).collect();
        for i in 0..self.slots.len() {
            let parts = (0..ranks.size()).flat_map(|slice| {
                let (n, rank) = (self.exchange.of_slice(i, slice).len(), slice_of(slice, ranks.size()));
                let (parts, rest) = left[rank].split_at(n.div_ceil(NORM_CHUNK));
                left[rank] = rest;
                parts
            });
            sum += parts.sum::<f64>();
        }
        Ok(sum.sqrt())
    }

    /// One update with learning rate `lr`, after scaling the gradients to a norm of at most `config.clip`; none when that
    /// norm is not finite. Returns the norm before. Each rank updates its slice, and then has the weights of all.
    ///
    /// # Errors
    /// When a parameter has no gradient, or a rank has ended or does not answer.
    pub fn update(&mut self, lr: f64, config: &TrainConfig) -> anyhow::Result<f64> {
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
            let Slot { name, parameter, own, mean, rule } = slot;
            if own.is_empty() {
                return Ok(());
            }
            let updated = match rule {
                UpdateRule::AdamW { square } => {
                    let weight_decay = if decays(parameter.var()) { config.weight_decay } else { 0.0 };
                    let adam = Adam { lr, beta1: config.beta1, beta2: config.beta2, eps, weight_decay, step };
                    adamw(parameter, own.start, mean, square, scale, &adam)
                }
                UpdateRule::Muon { n_matrices } => muon(parameter, mean, *n_matrices, scale, precision, &of_matrices),
            };
            updated.with_context(|| format!("update of {name}"))
        })?;
        self.exchange.gather_weights()?;
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
