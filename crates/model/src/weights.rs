//! A model's weights, and the one way to update them.

use crate::folder::save_weights;
use crate::lora::Adapters;
use crate::params::Params;
use anyhow::Result;
use candle_core::Tensor;
use std::path::Path;

/// A model's weights, and which numbers are trained: all of them, or adapters.
#[derive(Debug, Clone)]
pub struct Weights {
    params: Params,
    adapters: Option<Adapters>,
}

impl From<Params> for Weights {
    /// All weights are trained.
    fn from(params: Params) -> Self {
        Self { params, adapters: None }
    }
}

impl Weights {
    /// The adapters are trained, and nothing else.
    pub fn adapted(params: Params, adapters: Adapters) -> Self {
        Self { params, adapters: Some(adapters) }
    }

    /// The weights with the adapters merged into them, all of which can be trained.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub fn merged(self) -> Result<Params> {
        self.params.iter().try_for_each(|(_, parameter)| parameter.merge())?;
        Ok(self.params)
    }

    /// The weights that the model reads; products add adapters to them.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The parameters that the optimizer changes.
    pub fn trained(&self) -> &Params {
        self.adapters.as_ref().map_or(&self.params, Adapters::trained)
    }

    /// Begins an update with gradients of zero.
    pub fn begin_update(&mut self) -> WeightUpdate<'_> {
        self.clear_gradients();
        WeightUpdate { weights: self }
    }

    fn clear_gradients(&self) {
        self.params.clear_gradients();
        self.trained().clear_gradients();
    }

    /// Has `change` set what is trained.
    ///
    /// # Errors
    /// The one of `change`, or when memory does not suffice.
    pub fn change<T>(&mut self, change: impl FnOnce(&Params) -> Result<T>) -> Result<T> {
        let result = change(self.trained());
        self.adapters.as_ref().map_or(Ok(()), |adapters| adapters.write_rows(&self.params)).and(result)
    }

    /// Runs `f` while the model reads its weights without adapters; `None` where there are none.
    ///
    /// # Errors
    /// The first one of `f`.
    pub fn unadapted<T>(&self, f: impl FnOnce() -> Result<T>) -> Option<Result<T>> {
        Some(self.adapters.as_ref()?.switched_off(f))
    }

    /// # Errors
    /// When adapters cannot be trained further without losing a part of them.
    pub(crate) fn must_be_trainable(&self) -> Result<()> {
        self.adapters.as_ref().map_or(Ok(()), Adapters::must_be_trainable)
    }

    /// Writes what is trained: a model's weights, or adapters.
    ///
    /// # Errors
    /// When a file cannot be written; the one that was there stays whole.
    pub fn save(&self, folder: &Path) -> Result<()> {
        match &self.adapters {
            Some(adapters) => adapters.save(folder),
            None => save_weights(folder, &self.params),
        }
    }
}

/// Gradients that are added up over the parts of a batch, and then change the weights. Gradients are zero when it is made;
/// dropping it leaves the weights as they are.
#[derive(Debug)]
pub struct WeightUpdate<'a> {
    weights: &'a mut Weights,
}

impl WeightUpdate<'_> {
    /// Runs the forward pass `loss`, which returns a scalar, and adds its gradients. The forward pass runs in here because
    /// [`gptkit_ops::language_model_loss`] adds the gradient of its table then. Returns the loss.
    ///
    /// # Errors
    /// Those of `loss` and of its backward pass.
    pub fn backward<E: Into<anyhow::Error>>(&mut self, loss: impl FnOnce() -> Result<Tensor, E>) -> Result<Tensor> {
        let loss = loss().map_err(Into::into)?;
        let mut gradients = loss.backward()?;
        self.weights.params.accumulate_gradients(&mut gradients)?;
        if self.weights.adapters.is_some() {
            self.weights.trained().accumulate_gradients(&mut gradients)?;
        }
        Ok(loss)
    }

    /// Has `update` change what is trained by its gradients, whose memory is free afterwards.
    ///
    /// # Errors
    /// When a weight has no gradient, or the one of `update`.
    pub fn apply<T>(self, update: impl FnOnce(&Params) -> Result<T>) -> Result<T> {
        let result = self.weights.change(update);
        self.weights.clear_gradients();
        result
    }
}
