//! The weights of a model, in the order of [`crate::layout`].

use crate::config::ModelConfig;
use crate::init;
use crate::layout::{OUTPUT, WeightSlot, layout, vocabulary_tables};
use crate::packing::Packing;
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Tensor, bail};
use gptkit_ops::Parameter;
use gptkit_rng::keyed::{Draw, Key, normals};
use std::collections::HashMap;
use std::sync::Arc;

/// The weights of one model, which training changes in place.
#[derive(Debug, Clone)]
pub struct Params {
    entries: Vec<(String, Arc<Parameter>)>,
    by_name: HashMap<String, usize>,
}

impl Params {
    /// First values drawn from `seed` as published for the model's generation.
    ///
    /// # Errors
    /// When memory on the device does not suffice.
    pub fn init(config: &ModelConfig, seed: u64, device: &Device) -> Result<Self> {
        let draw = |(number, slot): (usize, WeightSlot)| {
            let values = init::values(config, &slot, number as u32, seed);
            Ok((slot.name, Tensor::from_vec(values, slot.shape, device)?))
        };
        Self::of(layout(config).into_iter().enumerate().map(draw))
    }

    /// The weights of a model of shape `config`, looked up by name.
    ///
    /// # Errors
    /// When `find` has none of that name, or its shape is another.
    pub fn gather(config: &ModelConfig, find: impl FnMut(&str) -> Result<Tensor>) -> Result<Self> {
        Self::gather_as(config, find, |_, values| Parameter::new(values))
    }

    /// The same, with each parameter made by `make` of its name and its values, before the next one is looked up.
    ///
    /// # Errors
    /// As [`Params::gather`], and those of `make`.
    pub(crate) fn gather_as(
        config: &ModelConfig,
        mut find: impl FnMut(&str) -> Result<Tensor>,
        make: impl Fn(&str, &Tensor) -> Result<Parameter>,
    ) -> Result<Self> {
        Self::build(config, |slot| {
            let tensor = find(&slot.name)?;
            if tensor.dims() != slot.shape {
                bail!("{} has shape {:?}, but the configuration requires {:?}", slot.name, tensor.dims(), slot.shape);
            }
            make(&slot.name, &tensor.to_dtype(DType::F32)?)
        })
    }

    /// The weights of a model of shape `config`, each made by `make`.
    ///
    /// # Errors
    /// Those of `make`.
    pub(crate) fn build(config: &ModelConfig, mut make: impl FnMut(&WeightSlot) -> Result<Parameter>) -> Result<Self> {
        let make = |slot: WeightSlot| make(&slot).map(|parameter| (slot.name, Arc::new(parameter)));
        Self::named(layout(config).into_iter().map(make))
    }

    /// Parameters with these names and values.
    ///
    /// # Errors
    /// The first one of `tensors`.
    pub(crate) fn of(tensors: impl Iterator<Item = Result<(String, Tensor)>>) -> Result<Self> {
        let parameter = |entry: Result<(String, Tensor)>| {
            let (name, tensor) = entry?;
            Ok((name, Arc::new(Parameter::new(&tensor.to_dtype(DType::F32)?)?)))
        };
        Self::named(tensors.map(parameter))
    }

    fn named(entries: impl Iterator<Item = Result<(String, Arc<Parameter>)>>) -> Result<Self> {
        let entries = entries.collect::<Result<Vec<_>>>()?;
        let by_name = entries.iter().enumerate().map(|(i, (name, _))| (name.clone(), i)).collect();
        Ok(Self { entries, by_name })
    }

    /// These weights as a model of shape `config` that is only read keeps them.
    ///
    /// # Errors
    /// When `packing` does not apply to the model, or a width does not divide into blocks.
    pub fn packed(&self, config: &ModelConfig, packing: Packing) -> Result<Self> {
        if !packing.applies(config, &self.device())? {
            return Ok(self.clone());
        }
        let pack = |(name, parameter): (&str, &Arc<Parameter>)| {
            Ok((name.to_owned(), Arc::new(packing.parameter(config, name, &parameter.tensor(false))?)))
        };
        Self::named(self.iter().map(pack))
    }

    /// Adds a parameter of a stage's own after those of [`layout`].
    ///
    /// # Errors
    /// When there is one of that name, or memory does not suffice.
    pub(crate) fn add(&mut self, name: &str, values: &Tensor) -> Result<()> {
        if self.by_name.contains_key(name) {
            bail!("the parameter {name} already exists");
        }
        self.by_name.insert(name.to_owned(), self.entries.len());
        self.entries.push((name.to_owned(), Arc::new(Parameter::new(&values.to_dtype(DType::F32)?)?)));
        Ok(())
    }

    /// These weights with initial values for the rows of the vocabulary of `config` that the tables lack: normal around the
    /// mean of the rows with the published deviation, so that a new token is neither likely nor impossible.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub fn extend_vocabulary(&self, config: &ModelConfig, seed: u64) -> Result<Self> {
        let tables = vocabulary_tables(config);
        let extend = |(name, parameter): (&str, &Arc<Parameter>)| {
            let tensor = parameter.tensor(false);
            if !tables.contains(&name) || tensor.dim(0)? >= config.vocab_size {
                return Ok((name.to_owned(), tensor));
            }
            let n_new = config.vocab_size - tensor.dim(0)?;
            let draws = normals(Key { seed, draw: Draw::Init { parameter: u32::MAX } }, n_new * config.d_model);
            let draws = Tensor::from_vec(draws, (n_new, config.d_model), tensor.device())?;
            let rows = (draws * config.first_std())?.broadcast_add(&tensor.mean_keepdim(0)?)?;
            Ok((name.to_owned(), Tensor::cat(&[&tensor, &rows], 0)?))
        };
        Self::of(self.iter().map(extend))
    }

    /// The parameter called `name`.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, name: &str) -> Result<&Arc<Parameter>> {
        match self.by_name.get(name) {
            Some(&i) => Ok(&self.entries[i].1),
            None => bail!("there is no parameter {name}"),
        }
    }

    /// Freezes an output layer of its own, for training that reads hidden states alone: no gradient reaches it there.
    pub fn freeze_output(&self) {
        if let Ok(output) = self.get(OUTPUT) {
            output.freeze();
        }
    }

    /// Where they lie.
    pub(crate) fn device(&self) -> Device {
        self.entries.first().map_or(Device::Cpu, |(_, parameter)| parameter.var().device().clone())
    }

    /// Number of elements of all parameters.
    pub fn n_elements(&self) -> u64 {
        self.iter().map(|(_, parameter)| parameter.var().elem_count() as u64).sum()
    }

    /// Names and parameters, in the order of [`layout`]; a stage's own come last.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<Parameter>)> {
        self.entries.iter().map(|(name, parameter)| (name.as_str(), parameter))
    }

    /// Adds the gradients in `store` to those of the parameters.
    ///
    /// # Errors
    /// When a sum cannot be made.
    pub(crate) fn accumulate_gradients(&self, store: &mut GradStore) -> Result<()> {
        self.iter().try_for_each(|(_, parameter)| parameter.collect(store))
    }

    /// Sets all gradients to zero.
    pub(crate) fn clear_gradients(&self) {
        self.iter().for_each(|(_, parameter)| parameter.clear_gradient());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::config::tests::tiny;
    use gptkit_ops::check::assert_close;

    #[test]
    fn new_tokens_stand_around_the_mean_of_the_old() {
        let smaller = ModelConfig { init_std: Some(0.02), ..tiny(Kind::Gpt2) };
        let config = ModelConfig { vocab_size: 20, ..smaller.clone() };
        let old = Params::init(&smaller, 1, &Device::Cpu).unwrap();
        let new = old.extend_vocabulary(&config, 1).unwrap();
        let (old, new) = (
            old.get("transformer.wte.weight").unwrap().tensor(false),
            new.get("transformer.wte.weight").unwrap().tensor(false),
        );
        assert_eq!(new.dims(), [20, 8]);
        assert_close("old rows", &new.narrow(0, 0, 17).unwrap(), &old, 0.0);
        let mean = old.mean_keepdim(0).unwrap().broadcast_as((3, 8)).unwrap();
        assert_close("new rows", &new.narrow(0, 17, 3).unwrap(), &mean, 0.1);
    }
}
