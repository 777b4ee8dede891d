//! Every weight by name, in one fixed order.

use crate::config::{Kind, ModelConfig};
use crate::init;
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Tensor, bail};
use gptkit_ops::Parameter;
use std::collections::HashMap;
use std::sync::Arc;

/// A weight that a model has: its name in a Hugging Face folder and its shape there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// For instance `transformer.h.0.ln_1.weight`.
    pub name: String,
    /// Matrices are `[in, out]`, as the references store them.
    pub shape: Vec<usize>,
}

/// The weights that a model of this shape has, embeddings first, then block by block.
pub fn layout(config: &ModelConfig) -> Vec<Slot> {
    let (d, v) = (config.d_model, config.vocab_size);
    let (tokens, positions) = embedding_names(config.kind);
    let mut slots = Vec::with_capacity(5 + 12 * config.n_layer);
    let mut add = |name: String, shape: &[usize]| slots.push(Slot { name, shape: shape.to_vec() });
    add(tokens.to_owned(), &[v, d]);
    if config.kind == Kind::Lstm {
        for layer in 0..config.n_layer {
            add(format!("{}.weight_ih", block_name(layer)), &[d, 4 * d]);
            add(format!("{}.bias", block_name(layer)), &[4 * d]);
            add(format!("{}.weight_hh", block_name(layer)), &[d, 4 * d]);
        }
        return slots;
    }
    add(positions.to_owned(), &[config.context, d]);
    for layer in 0..config.n_layer {
        for (part, width_in, width_out) in [
            ("ln_1", None, d),
            ("attn.c_attn", Some(d), 3 * d),
            ("attn.c_proj", Some(d), d),
            ("ln_2", None, d),
            ("mlp.c_fc", Some(d), config.d_mlp()),
            ("mlp.c_proj", Some(config.d_mlp()), d),
        ] {
            let weight: Vec<usize> = width_in.into_iter().chain([width_out]).collect();
            add(format!("{}.{part}.weight", block_name(layer)), &weight);
            add(format!("{}.{part}.bias", block_name(layer)), &[width_out]);
        }
    }
    if !config.kind.norms_sums() {
        add("transformer.ln_f.weight".to_owned(), &[d]);
        add("transformer.ln_f.bias".to_owned(), &[d]);
    }
    if !config.tie_word_embeddings {
        add(OUTPUT.to_owned(), &[v, d]);
    }
    slots
}

/// Name of the output layer's weights, `[V, D]`, where they are not the token embeddings.
pub(crate) const OUTPUT: &str = "lm_head.weight";

/// Names of the token and position embeddings; an LSTM has none of positions.
pub(crate) fn embedding_names(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Gpt1 | Kind::Bert => ("transformer.tokens_embed.weight", "transformer.positions_embed.weight"),
        Kind::Gpt2 | Kind::Gpt3 | Kind::Lstm => ("transformer.wte.weight", "transformer.wpe.weight"),
    }
}

pub(crate) fn block_name(layer: usize) -> String {
    format!("transformer.h.{layer}")
}

/// Tables that have a row for each token of the vocabulary.
pub(crate) fn vocabulary_tables(config: &ModelConfig) -> Vec<&'static str> {
    let (tokens, _) = embedding_names(config.kind);
    std::iter::once(tokens).chain((!config.tie_word_embeddings).then_some(OUTPUT)).collect()
}

/// The bias of a transformer's last layer norm: what is added to the last layer's output.
pub(crate) fn last_norm_bias(config: &ModelConfig) -> String {
    match config.kind.norms_sums() {
        true => format!("transformer.h.{}.ln_2.bias", config.n_layer - 1),
        false => "transformer.ln_f.bias".to_owned(),
    }
}

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
        let draw = |(number, slot): (usize, Slot)| {
            let values = init::values(config, &slot, number as u32, seed);
            Ok((slot.name, Tensor::from_vec(values, slot.shape, device)?))
        };
        Self::of(layout(config).into_iter().enumerate().map(draw))
    }

    /// The weights of a model of shape `config`, looked up by name.
    ///
    /// # Errors
    /// When `find` has none of that name, or its shape is another.
    pub fn gather(config: &ModelConfig, mut find: impl FnMut(&str) -> Result<Tensor>) -> Result<Self> {
        let check = |slot: Slot| {
            let tensor = find(&slot.name)?;
            if tensor.dims() != slot.shape {
                bail!("{} has shape {:?}; the configuration says {:?}", slot.name, tensor.dims(), slot.shape);
            }
            Ok((slot.name, tensor))
        };
        Self::of(layout(config).into_iter().map(check))
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
        let entries = tensors.map(parameter).collect::<Result<Vec<_>>>()?;
        let by_name = entries.iter().enumerate().map(|(i, (name, _))| (name.clone(), i)).collect();
        Ok(Self { entries, by_name })
    }

    /// Adds a parameter of a stage's own after those of [`layout`].
    ///
    /// # Errors
    /// When there is one of that name, or memory does not suffice.
    pub(crate) fn add(&mut self, name: &str, values: &Tensor) -> Result<()> {
        if self.by_name.contains_key(name) {
            bail!("there is a parameter {name} already");
        }
        self.by_name.insert(name.to_owned(), self.entries.len());
        self.entries.push((name.to_owned(), Arc::new(Parameter::new(&values.to_dtype(DType::F32)?)?)));
        Ok(())
    }

    /// The parameter called `name`.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, name: &str) -> Result<&Arc<Parameter>> {
        match self.by_name.get(name) {
            Some(&i) => Ok(&self.entries[i].1),
            None => bail!("no parameter is called {name}"),
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

    /// Adds the gradients that candle found to those of the parameters.
    ///
    /// # Errors
    /// When a sum cannot be made.
    pub fn collect(&self, store: &mut GradStore) -> Result<()> {
        self.iter().try_for_each(|(_, parameter)| parameter.collect(store))
    }

    /// Begins new sums of gradients.
    pub fn clear_gradients(&self) {
        self.iter().for_each(|(_, parameter)| parameter.clear_gradient());
    }
}
