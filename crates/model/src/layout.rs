//! Every weight by name, in one fixed order.

use crate::config::{Kind, ModelConfig};

/// A weight that a model has: its name in a Hugging Face folder and its shape there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightSlot {
    /// For instance `transformer.h.0.ln_1.weight`.
    pub name: String,
    /// Matrices are `[in, out]`, as the references store them.
    pub shape: Vec<usize>,
}

/// The weights that a model of this shape has, embeddings first, then block by block.
pub fn layout(config: &ModelConfig) -> Vec<WeightSlot> {
    let (d, v) = (config.d_model, config.vocab_size);
    let (tokens, positions) = embedding_names(config.kind);
    let mut slots = Vec::with_capacity(5 + 12 * config.n_layer);
    let mut add = |name: String, shape: &[usize]| slots.push(WeightSlot { name, shape: shape.to_vec() });
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

/// Whether `name` is a matrix of a block, which `transformers` stores as `[in, out]`.
pub(crate) fn is_linear(name: &str) -> bool {
    ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"].iter().any(|end| name.ends_with(&format!("{end}.weight")))
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

/// The number of the layer that the weight called `name` belongs to. None of embeddings, the last norm, output layers and
/// adapters.
pub fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("transformer.h.")?.split_once('.')?.0.parse().ok()
}

/// How many matrices stand side by side in the weight called `name`, `[in, n·out]`, if it belongs to a layer: 3 in the
/// projection to queries, keys and values, 4 in those to the gates of an LSTM. None of embeddings, output layers, gains,
/// biases and adapters.
pub fn n_matrices(name: &str) -> Option<usize> {
    let part = name.strip_prefix("transformer.h.")?.split_once('.')?.1;
    match part {
        "attn.c_attn.weight" => Some(3),
        "weight_ih" | "weight_hh" => Some(4),
        "attn.c_proj.weight" | "mlp.c_fc.weight" | "mlp.c_proj.weight" => Some(1),
        _ => None,
    }
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

impl ModelConfig {
    /// Weights in all, tied embeddings counted once.
    pub fn n_params(&self) -> u64 {
        self.count(|_| true)
    }

    /// Weights of the layers: all but embeddings, the last norm and the output layer.
    pub fn n_layer_params(&self) -> u64 {
        self.count(|name| layer_of(name).is_some())
    }

    fn count(&self, counts: impl Fn(&str) -> bool) -> u64 {
        let slots = layout(self);
        let counted = slots.iter().filter(|slot| counts(&slot.name));
        counted.map(|slot| slot.shape.iter().map(|&n| n as u64).product::<u64>()).sum()
    }
}
