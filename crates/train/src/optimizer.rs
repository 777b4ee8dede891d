//! AdamW and Muon over all parameters of a model.
//!
//! Of several ranks each keeps the moments of a slice of all weights, and updates that slice (Rajbhandari et al. 2020, ZeRO stage
//! 1). Slices consist of whole units, so that norms are the same sums, and Muon has whole matrices, on any number of
//! ranks.

use crate::config::{EpsPlacement, OptimizerKind, TrainConfig};
use crate::gradient_sums::{JoinedNumbers, JoinedOf};
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
    parameters: Vec<Arc<Parameter>>,
    /// The number of each parameter's first weight, and of the end.
    starts: Vec<usize>,
    /// Where the slices of the ranks begin, and the end.
    bounds: Vec<usize>,
    ranks: Ranks,
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
    /// When Muon is asked for and no matrix of a layer is trained, or memory does not suffice.
    pub fn new(params: &Params, kind: OptimizerKind, ranks: &Ranks) -> Result<Self> {
        let trained = params.iter().filter(|(_, parameter)| !parameter.is_frozen());
        let trained: Vec<(&str, &Arc<Parameter>)> = trained.collect();
        let matrices = |name: &str| n_matrices(name).filter(|_| kind == OptimizerKind::Muon);
        if kind == OptimizerKind::Muon && !trained.iter().any(|(name, _)| matrices(name).is_some()) {
            bail!(
                "train.optimizer = \"muon\" updates weight matrices of layers, but none of them is trained\n  hint: \
                 use train.optimizer = \"adamw\""
            );
        }
        let mut starts = vec![0];
        let mut units = Vec::new();
        for (name, parameter) in &trained {
            let (start, n) = (starts[starts.len() - 1], parameter.var().elem_count());
            let unit = if matrices(name).is_some() { n.max(1) } else { NORM_CHUNK };
            units.extend((0..n).step_by(unit).map(|first| start + first));
            starts.push(start + n);
        }
        let bounds = slice_bounds(&units, starts[trained.len()], ranks.size());
        let slice = slice_of(ranks.rank(), ranks.size());
        let own = bounds[slice]..bounds[slice + 1];
        let slot = |((name, parameter), bounds): (&(&str, &Arc<Parameter>), &[usize])| {
            let (start, end) = (bounds[0], bounds[1]);
            let own = own.start.clamp(start, end) - start..own.end.clamp(start, end) - start;
            let zeros = || match ranks.is_alone() {
                true => Var::from_tensor(&parameter.var().as_tensor().zeros_like()?.detach()),
                false => Var::zeros(own.len(), DType::F32, parameter.var().device()),
            };
            let rule = match matrices(name) {
                Some(n_matrices) => UpdateRule::Muon { n_matrices },
                None => UpdateRule::AdamW { square: zeros()? },
            };
            let mean = zeros()?;
            Ok(Slot { name: (*name).to_owned(), parameter: Arc::clone(parameter), own, mean, rule })
        };
        let slots = trained.iter().zip(starts.windows(2)).map(slot).collect::<Result<Vec<_>>>()?;
        let parameters = trained.iter().map(|(_, parameter)| Arc::clone(parameter)).collect();
        Ok(Self { slots, parameters, starts, bounds, ranks: ranks.clone(), n_updates: 0 })
    }

    /// The parameters that are updated.
    pub(crate) fn parameters(&self) -> &[Arc<Parameter>] {
        &self.parameters
    }

    /// Adds the gradients of all ranks. Afterwards each has the sums of its slice, which [`Optimizer::update`] reads.
    ///
    /// # Errors
    /// When a rank has ended or does not answer, or a parameter has no gradient.
    pub(crate) fn sum_gradients(&self) -> anyhow::Result<()> {
        let mut gradients =
            JoinedNumbers { parameters: &self.parameters, starts: &self.starts, of: JoinedOf::Gradients };
        self.ranks.scatter_sum(&mut gradients, &self.bounds)
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
        let mut all = Vec::new();
        for slot in &self.slots {
            for (name, var) in slot.moments() {
                if self.ranks.is_alone() {
                    all.push((name, var.as_tensor().clone()));
                    continue;
                }
                let of_ranks = self.ranks.gather(&var.to_vec1::<f32>()?)?;
                if self.ranks.is_first() {
                    let slices = (0..self.ranks.size()).map(|slice| slice_of(slice, self.ranks.size()));
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
                match self.ranks.is_alone() {
                    true => var.set(&moment)?,
                    false => var.set(&moment.flatten_all()?.narrow(0, slot.own.start, slot.own.len())?)?,
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
        let mut sum = 0.0;
        if self.ranks.is_alone() {
            for (slot, squares) in self.slots.iter().zip(gradient_squares(&self.parameters)?) {
                sum += squares.with_context(|| format!("gradient of {}: the parameter has no gradient", slot.name))?;
            }
            return Ok(sum.sqrt());
        }
        let mut own = Vec::new();
        for slot in &self.slots {
            let parts = gradient_square_parts(&slot.parameter, slot.own.clone());
            own.extend(parts.with_context(|| format!("gradient of {}", slot.name))?);
        }
        let of_ranks = self.ranks.gather(&own)?;
        let slices = (0..self.ranks.size()).map(|slice| slice_of(slice, self.ranks.size()));
        let mut parts = slices.flat_map(|rank| of_ranks[rank].iter());
        for parameter in &self.parameters {
            sum += parts.by_ref().take(parameter.var().elem_count().div_ceil(NORM_CHUNK)).sum::<f64>();
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
        let mut weights = JoinedNumbers { parameters: &self.parameters, starts: &self.starts, of: JoinedOf::Weights };
        self.ranks.gather_slices(&mut weights, &self.bounds)?;
        Ok(norm)
    }
}

/// Where each of `size` slices begins, and the `end`: each at the first of `units` that is not before its share.
fn slice_bounds(units: &[usize], end: usize, size: usize) -> Vec<usize> {
    let bound = |slice: usize| {
        let share = end / size * slice + end % size * slice / size;
        units.get(units.partition_point(|&unit| unit < share)).copied().unwrap_or(end)
    };
    (0..size).map(bound).chain([end]).collect()
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
