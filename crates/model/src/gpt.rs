//! Embeddings → blocks → logits or loss.

use crate::block::{block, norm};
use crate::config::ModelConfig;
use crate::input::Input;
use crate::layout::{OUTPUT, block_name, embedding_names};
use crate::params::Params;
use crate::pass::Pass;
use candle_core::{Device, Result, Tensor, bail};
use gptkit_ops::{
    AttentionInput, Block, Cache, DropoutSites, Embedding, Linear, LstmLayer, LstmStack, Precision, Trunk, dropout,
    language_model_loss, logits, token_log_probs,
};
use std::sync::Arc;

/// A language model: a transformer, or the LSTM that GPT-1's ablation puts in its place (Radford et al. 2018, §5). It sees
/// every change of the weights that it was made of.
#[derive(Debug)]
pub struct Gpt {
    config: ModelConfig,
    precision: Precision,
    embedding: Embedding,
    layers: Layers,
    /// Weights of the output layer, `[V, D]`: the token embeddings unless it has its own.
    output: Arc<gptkit_ops::Parameter>,
}

/// The layers between the embeddings and the output layer.
#[derive(Debug)]
enum Layers {
    /// Blocks of attention.
    Blocks(Arc<Trunk>),
    /// Recurrent ones, which read a sequence from a state of zeros, as a transformer sees nothing before its window.
    Recurrent(Arc<LstmStack>),
}

/// Number of the first place of dropout before adapters: more than a model has others.
const ADAPTER_SITES: u32 = 1 << 20;

impl Gpt {
    /// A model with these weights that writes texts and says how likely they are. Its products are of `precision`.
    ///
    /// # Errors
    /// When its kind does not write, or `params` are not those of a model of this shape.
    pub fn new(config: &ModelConfig, params: &Params, precision: Precision) -> Result<Self> {
        config.must_write()?;
        Self::reader(config, params, precision)
    }

    /// The same of any kind, to be pretrained, or to have a head read what [`Gpt::hidden`] gives.
    ///
    /// # Errors
    /// When `params` are not those of a model of this shape, or it is an LSTM of bf16 on a GPU.
    pub fn reader(config: &ModelConfig, params: &Params, precision: Precision) -> Result<Self> {
        let (tokens, positions) = embedding_names(config.kind);
        if !config.kind.attends() && precision != Precision::F32 && !params.get(tokens)?.var().device().is_cpu() {
            bail!("an LSTM computes in f32 only on a GPU: use dtype f32, or the device cpu");
        }
        let output = if config.tie_word_embeddings { tokens } else { OUTPUT };
        Ok(Self {
            output: Arc::clone(params.get(output)?),
            embedding: Embedding {
                tokens: Arc::clone(params.get(tokens)?),
                positions: match config.kind.attends() {
                    true => Some(Arc::clone(params.get(positions)?)),
                    false => None,
                },
            },
            layers: match config.kind.attends() {
                true => Layers::Blocks(Arc::new(Trunk::new(
                    (0..config.n_layer).map(|layer| block(config, params, layer)).collect::<Result<_>>()?,
                    match config.kind.norms_sums() {
                        true => None,
                        false => Some(norm(config, params, "transformer.ln_f")?),
                    },
                ))),
                false => Layers::Recurrent(Arc::new(LstmStack {
                    layers: (0..config.n_layer).map(|layer| lstm_layer(params, layer)).collect::<Result<_>>()?,
                })),
            },
            config: config.clone(),
            precision,
        })
    }

    /// Frees the packed weights of the blocks' products, after a forward pass that is the last before the weights change. The
    /// next pass packs them again.
    pub fn free_packed(&self) {
        let linears = self.blocks().iter().flat_map(|block| block.linears());
        linears.for_each(|linear| linear.weight.free_panels());
    }

    /// Keeps the weights of the blocks' products in packed form alone, on the CPU: for a model that is only read from now on,
    /// and whose weights nothing else reads.
    ///
    /// # Errors
    /// When a weight is missing because of an earlier call for another model of the same weights.
    pub fn keep_packed_only(&self) -> Result<()> {
        let linears = self.blocks().iter().flat_map(|block| block.linears());
        linears.map(|linear| &linear.weight).try_for_each(|weight| weight.keep_panels_only(self.precision))
    }

    /// A transformer's blocks; none of an LSTM.
    fn blocks(&self) -> &[Block] {
        match &self.layers {
            Layers::Blocks(trunk) => &trunk.blocks,
            Layers::Recurrent(_) => &[],
        }
    }

    /// Its shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What its products read.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Where its weights lie.
    pub fn device(&self) -> &Device {
        self.embedding.tokens.var().device()
    }

    /// Returns the last layer's output, `[B, T, D]`, as part of a graph when `pass` trains.
    ///
    /// # Errors
    /// When a sequence is over the context, or a token is not below `V`.
    pub fn hidden(&self, input: &Input, pass: Pass) -> Result<Tensor> {
        let Input { tokens, sequences } = input;
        fits(&self.config, sequences.longest())?;
        let x = self.embed(tokens, sequences.positions(), pass)?;
        match &self.layers {
            Layers::Blocks(trunk) => trunk.forward(&x, sequences, self.precision, &self.drops(pass), pass.saves()),
            Layers::Recurrent(stack) => {
                let drop = |layer: usize| pass.dropout(self.config.residual_dropout, 1 + layer as u32);
                let drops: Vec<_> = (0..self.config.n_layer).map(drop).collect();
                stack.forward(&x, sequences, self.precision, &drops, pass.trains())
            }
        }
    }

    /// Returns `[B, T, V]`.
    ///
    /// # Errors
    /// As [`Gpt::hidden`].
    pub fn logits(&self, input: &Input, pass: Pass) -> Result<Tensor> {
        let (b, t) = input.tokens.dims2()?;
        self.unembed(&self.hidden(input, pass)?, pass)?.reshape((b, t, self.config.vocab_size))
    }

    /// `weight` times the mean loss in nats over the targets that count. To be differentiated as it is, when `pass`
    /// trains.
    ///
    /// `targets`: `[B, T]`, u32: the token that follows, or [`gptkit_ops::IGNORE`]. Returns a scalar.
    ///
    /// # Errors
    /// As [`Gpt::hidden`], or when a target is not below `V`.
    pub fn loss(&self, input: &Input, targets: &Tensor, pass: Pass, weight: f64) -> Result<Tensor> {
        self.loss_of_hidden(&self.hidden(input, pass)?, targets, pass, weight)
    }

    /// [`Gpt::loss`] from what [`Gpt::hidden`] gave, for stages that read it too.
    ///
    /// # Errors
    /// When a target is not below `V`.
    pub fn loss_of_hidden(&self, hidden: &Tensor, targets: &Tensor, pass: Pass, weight: f64) -> Result<Tensor> {
        let hidden = hidden.reshape(((), self.config.d_model))?;
        let targets = targets.flatten_all()?;
        language_model_loss(&hidden, &self.output, &targets, self.precision, weight, pass.trains())
    }

    /// Of `states`, `[N, D]`, some of what [`Gpt::hidden`] gave: the log-probability of each one's next token, one of
    /// `tokens`, and the entropy around it, when logits are divided by `temperature`. Returns `[2, N]`, nats, part of a graph
    /// when `pass` trains.
    ///
    /// # Errors
    /// When there are not as many tokens, or one is not below `V`.
    pub fn token_log_probs(&self, states: &Tensor, tokens: &[u32], temperature: f32, pass: Pass) -> Result<Tensor> {
        token_log_probs(states, &self.output, tokens, temperature, self.precision, pass.trains())
    }

    /// Logits after each of `states`, `[N, D]`, some of what [`Gpt::hidden`] gave without a graph. Returns `[N, V]`.
    ///
    /// # Errors
    /// When the shape is another.
    pub fn logits_of_hidden(&self, states: &Tensor) -> Result<Tensor> {
        self.unembed(states, Pass::Eval)
    }

    /// Logits of the token after each sequence of `input`, `[B, V]`. The sequences go on from those that `cache` holds, row
    /// by row, and are added to it.
    ///
    /// # Errors
    /// When they are not as many, a sequence is over the context with its past, or a token is not below `V`.
    pub fn next_logits(&self, input: &Input, cache: &mut Cache) -> Result<Tensor> {
        let hidden = self.hidden_after(input, cache)?;
        let sequences = &input.sequences;
        if sequences.longest() == 1 {
            return self.unembed(&hidden, Pass::Eval);
        }
        let last: Vec<u32> = sequences.iter().map(|sequence| sequence.end as u32 - 1).collect();
        self.unembed(&hidden.index_select(&Tensor::new(last, self.device())?, 0)?, Pass::Eval)
    }

    /// As [`Gpt::next_logits`], but after each token of `input`, `[N, V]`.
    ///
    /// # Errors
    /// As [`Gpt::next_logits`].
    pub fn all_logits(&self, input: &Input, cache: &mut Cache) -> Result<Tensor> {
        self.unembed(&self.hidden_after(input, cache)?, Pass::Eval)
    }

    /// The last layer's output, `[N, D]`, of sequences that go on from those that `cache` holds.
    fn hidden_after(&self, input: &Input, cache: &mut Cache) -> Result<Tensor> {
        let Input { tokens, sequences } = input;
        let lens = cache.lens().iter().chain(std::iter::repeat(&0));
        let places = sequences.iter().zip(lens).map(|(new, &len)| len as u32..(len + new.len()) as u32);
        let positions: Vec<u32> = places.flatten().collect();
        fits(&self.config, positions.iter().max().map_or(0, |&last| last as usize + 1))?;
        let x = self.embed(tokens, positions, Pass::Eval)?;
        let hidden = match &self.layers {
            Layers::Blocks(trunk) => trunk.step(&x, sequences, cache)?,
            Layers::Recurrent(stack) => stack.step(&x, sequences, self.precision, cache)?,
        };
        hidden.reshape(((), self.config.d_model))
    }

    /// An empty past for [`Gpt::next_logits`].
    pub fn cache(&self) -> Cache {
        match &self.layers {
            Layers::Blocks(_) => Cache::new(self.config.n_layer, self.config.context, self.precision, self.device()),
            Layers::Recurrent(_) => Cache::of_states(self.config.n_layer, self.config.context),
        }
    }

    /// What the tokens of a window look at: of each layer, `[B, H, T, T]`, how much the token of a row takes of that of a
    /// column; rows sum to 1. `tokens`: `[B, T]`, u32.
    ///
    /// # Errors
    /// As [`Gpt::hidden`], or when it is an LSTM.
    pub fn attention(&self, tokens: &Tensor) -> Result<Vec<Tensor>> {
        self.config.must_attend()?;
        let Input { tokens, sequences } = Input::windows(tokens)?;
        fits(&self.config, sequences.longest())?;
        let mut x = self.embed(&tokens, sequences.positions(), Pass::Eval)?; // [B, T, D]
        let mut weights = Vec::with_capacity(self.config.n_layer);
        for block in self.blocks() {
            weights.push(block.attention_weights(&x)?);
            x = block.plain(&x, DropoutSites::default(), false, AttentionInput::Sequences(&sequences))?;
        }
        Ok(weights)
    }

    /// `tokens`: `[B, T]`, at `positions`. Returns what the first block reads, `[B, T, D]`.
    fn embed(&self, tokens: &Tensor, positions: Vec<u32>, pass: Pass) -> Result<Tensor> {
        let x = self.embedding.forward(tokens, positions, pass.trains())?;
        match pass.dropout(self.config.embedding_dropout, 0) {
            Some(at) => dropout(&x, at),
            None => Ok(x),
        }
    }

    /// Where each block drops, the places of adapters from [`ADAPTER_SITES`]; place 0 of the model is the embeddings'.
    fn drops(&self, pass: Pass) -> Vec<DropoutSites> {
        let (attention, residual) = (self.config.attention_dropout, self.config.residual_dropout);
        let adapters = |layer: u32| {
            let Some(block) = self.blocks().get(layer as usize) else { return [None; 4] };
            let p = block.linears().map(|linear| linear.weight.adapter_dropout());
            std::array::from_fn(|i| pass.dropout(f64::from(p[i]), ADAPTER_SITES + 4 * layer + i as u32))
        };
        (0..self.config.n_layer as u32)
            .map(|layer| DropoutSites {
                attention: pass.dropout(attention, 1 + 3 * layer),
                attended: pass.dropout(residual, 2 + 3 * layer),
                mlp: pass.dropout(residual, 3 + 3 * layer),
                adapters: adapters(layer),
            })
            .collect()
    }

    /// `[.., D]` → `[N, V]`.
    fn unembed(&self, hidden: &Tensor, pass: Pass) -> Result<Tensor> {
        let hidden = hidden.reshape(((), self.config.d_model))?;
        logits(&hidden, &self.output, self.precision, pass.trains())
    }
}

fn lstm_layer(params: &Params, layer: usize) -> Result<LstmLayer> {
    let get = |part: &str| params.get(&format!("{}.{part}", block_name(layer))).map(Arc::clone);
    Ok(LstmLayer { input: Linear { weight: get("weight_ih")?, bias: get("bias")? }, hidden: get("weight_hh")? })
}

/// # Errors
/// When a window of `tokens` is over the model's context.
fn fits(config: &ModelConfig, tokens: usize) -> Result<()> {
    if tokens > config.context {
        bail!("a window of {tokens} tokens is longer than the context of {}", config.context);
    }
    Ok(())
}

#[cfg(test)]
mod lstm_tests;
#[cfg(test)]
mod same_bits_tests;
#[cfg(test)]
mod tests;
