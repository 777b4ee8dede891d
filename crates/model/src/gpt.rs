//! Embeddings → blocks → logits or loss.

use crate::block::{Block, Norm};
use crate::cache::Cache;
use crate::config::{Kind, ModelConfig};
use crate::params::{Params, embedding_names};
use candle_core::backprop::GradStore;
use candle_core::{D, Device, Error, Result, Tensor, Var, bail};
use ops::{Dropout, cross_entropy, dropout};

/// Whether dropout acts in a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// It does not.
    Eval,
    /// It does, with masks that belong to the rows of the run.
    Train {
        /// Seed of the run.
        seed: u64,
        /// Number of the batch's first row among all rows of the run.
        first_row: u64,
    },
}

impl Pass {
    /// Dropout of probability `p` at place `site`, if there is any.
    pub(crate) fn dropout(self, p: f64, site: u32) -> Option<Dropout> {
        match self {
            Self::Train { seed, first_row } if p > 0.0 => Some(Dropout { p: p as f32, seed, site, first_row }),
            _ => None,
        }
    }
}

/// Weights as a forward pass reads them.
pub(crate) struct Weights<'a> {
    params: &'a Params,
    tracked: bool,
}

impl Weights<'_> {
    pub(crate) fn get(&self, name: &str) -> Result<Tensor> {
        let var = self.params.get(name)?;
        Ok(if self.tracked { var.as_tensor().clone() } else { var.as_detached_tensor() })
    }
}

/// A decoder-only transformer.
#[derive(Debug)]
pub struct Gpt {
    config: ModelConfig,
    tokens: Tensor,
    positions: Tensor,
    blocks: Vec<Block>,
    ln_f: Option<Norm>,
}

impl Gpt {
    /// A model whose loss can be differentiated with respect to `params`.
    ///
    /// # Errors
    /// When `params` are not those of a model of this shape.
    pub fn trainable(config: &ModelConfig, params: &Params) -> Result<Self> {
        Self::new(config, &Weights { params, tracked: true })
    }

    /// The same model for evaluation and sampling: no graph is kept. It sees every later change of `params`.
    ///
    /// # Errors
    /// As [`Gpt::trainable`].
    pub fn frozen(config: &ModelConfig, params: &Params) -> Result<Self> {
        Self::new(config, &Weights { params, tracked: false })
    }

    fn new(config: &ModelConfig, weights: &Weights) -> Result<Self> {
        let (tokens, positions) = embedding_names(config.kind);
        Ok(Self {
            tokens: weights.get(tokens)?,
            positions: weights.get(positions)?,
            blocks: (0..config.n_layer).map(|layer| Block::new(config, weights, layer)).collect::<Result<_>>()?,
            ln_f: match config.kind {
                Kind::Gpt1 => None,
                Kind::Gpt2 | Kind::Gpt3 => Some(Norm::new(weights, "transformer.ln_f", config)?),
            },
            config: config.clone(),
        })
    }

    /// Its shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where its weights lie.
    pub fn device(&self) -> &Device {
        self.tokens.device()
    }

    /// `tokens`: `[B, T]`, u32. Returns the last layer's output, `[B, T, D]`.
    ///
    /// # Errors
    /// When `T` is over the context, or a token is not below `V`.
    pub fn hidden(&self, tokens: &Tensor, pass: Pass) -> Result<Tensor> {
        self.run(tokens, pass, None)
    }

    /// `tokens`: `[B, T]`, u32. Returns `[B, T, V]`.
    ///
    /// # Errors
    /// As [`Gpt::hidden`].
    pub fn logits(&self, tokens: &Tensor, pass: Pass) -> Result<Tensor> {
        let (b, t) = tokens.dims2()?;
        self.unembed(&self.hidden(tokens, pass)?)?.reshape((b, t, self.config.vocab_size))
    }

    /// Mean loss in nats over the targets that count.
    ///
    /// `tokens`, `targets`: `[B, T]`, u32; a target is the token that follows, or [`ops::IGNORE`]. Returns a scalar.
    ///
    /// # Errors
    /// As [`Gpt::hidden`], or when a target is not below `V`.
    pub fn loss(&self, tokens: &Tensor, targets: &Tensor, pass: Pass) -> Result<Tensor> {
        let hidden = self.hidden(tokens, pass)?;
        cross_entropy(&self.unembed(&hidden)?, &targets.flatten_all()?)
    }

    /// The loss of [`Gpt::loss`], with the memory of one block's activations instead of all blocks': `frozen`, the same
    /// model without a graph, runs forward and keeps each block's input; then, last to first, each block runs again with
    /// a graph (Chen et al. 2016, with a segment a block). Gradients of `weight` × the loss are given to `take` part by
    /// part; a parameter's gradient is the sum of what it gets. They are the same as without.
    ///
    /// # Errors
    /// As [`Gpt::loss`], or when `take` fails.
    pub fn recomputed_loss(
        &self,
        frozen: &Self,
        (tokens, targets): (&Tensor, &Tensor),
        pass: Pass,
        weight: f64,
        mut take: impl FnMut(&mut GradStore) -> Result<()>,
    ) -> Result<Tensor> {
        let mut inputs = vec![frozen.embed(tokens, pass, 0)?]; // of each block, and of what follows the last
        for block in &frozen.blocks {
            inputs.push(block.forward(&inputs[inputs.len() - 1], pass, None)?);
        }
        // Backward through one segment; returns the gradient of what it reads.
        let mut back = |x: &Var, loss: &Tensor| {
            let mut gradients = loss.backward()?;
            take(&mut gradients)?;
            gradients.remove(x).ok_or_else(|| Error::msg("no gradient reaches the input of a block"))
        };
        let mut input = || match inputs.pop() {
            Some(x) => Var::from_tensor(&x),
            None => bail!("a block has no input"),
        };
        let x = input()?;
        let loss = cross_entropy(&self.unembed(&self.finish(x.as_tensor())?)?, &targets.flatten_all()?)?;
        let mut dx = back(&x, &(&loss * weight)?)?;
        for block in self.blocks.iter().rev() {
            let x = input()?;
            // The gradient of Σ y·dx with respect to y is dx.
            dx = back(&x, &(block.forward(x.as_tensor(), pass, None)? * dx)?.sum_all()?)?;
        }
        take(&mut (self.embed(tokens, pass, 0)? * dx)?.sum_all()?.backward()?)?;
        Ok(loss.detach())
    }

    /// Logits of the token after `tokens` (`[B, T]`, u32), which follow what `cache` holds and are added to it.
    /// Returns `[B, V]`.
    ///
    /// # Errors
    /// When the cache is full, or a token is not below `V`.
    pub fn next_logits(&self, tokens: &Tensor, cache: &mut Cache) -> Result<Tensor> {
        let (_, t) = tokens.dims2()?;
        let hidden = self.run(tokens, Pass::Eval, Some(cache))?;
        cache.advance(t);
        self.unembed(&hidden.narrow(1, t - 1, 1)?)
    }

    /// What the tokens of a window look at: of each layer, `[B, H, T, T]`, how much the token of a row takes of that of a
    /// column; rows sum to 1. `tokens`: `[B, T]`, u32.
    ///
    /// # Errors
    /// As [`Gpt::hidden`].
    pub fn attention(&self, tokens: &Tensor) -> Result<Vec<Tensor>> {
        let (_, t) = tokens.dims2()?;
        if t > self.config.context {
            bail!("a window of {t} tokens is over the context of {}", self.config.context);
        }
        let mut x = self.embed(tokens, Pass::Eval, 0)?; // [B, T, D]
        let mut weights = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            weights.push(block.attention_weights(&x)?);
            x = block.forward(&x, Pass::Eval, None)?;
        }
        Ok(weights)
    }

    fn run(&self, tokens: &Tensor, pass: Pass, mut cache: Option<&mut Cache>) -> Result<Tensor> {
        let (_, t) = tokens.dims2()?;
        let past = cache.as_ref().map_or(0, |c| c.len());
        if past + t > self.config.context {
            bail!("a window of {} tokens is over the context of {}", past + t, self.config.context);
        }
        let mut x = self.embed(tokens, pass, past)?; // [B, T, D]
        for block in &self.blocks {
            x = block.forward(&x, pass, cache.as_deref_mut())?; // [B, T, D]
        }
        self.finish(&x)
    }

    /// `tokens`: `[B, T]`, at positions from `past`. Returns what the first block reads, `[B, T, D]`.
    fn embed(&self, tokens: &Tensor, pass: Pass, past: usize) -> Result<Tensor> {
        let (b, t) = tokens.dims2()?;
        let embedded = self.tokens.index_select(&tokens.flatten_all()?, 0)?.reshape((b, t, self.config.d_model))?;
        let x = embedded.broadcast_add(&self.positions.narrow(0, past, t)?)?; // [B, T, D]
        match pass.dropout(self.config.embedding_dropout, 0) {
            Some(at) => dropout(&x, at),
            None => Ok(x),
        }
    }

    /// The last block's output → what is unembedded; both `[B, T, D]`.
    fn finish(&self, x: &Tensor) -> Result<Tensor> {
        match &self.ln_f {
            Some(norm) => norm.forward(x),
            None => Ok(x.clone()),
        }
    }

    /// `[.., D]` → `[N, V]`: the token embeddings are also the output's weights.
    fn unembed(&self, hidden: &Tensor) -> Result<Tensor> {
        let d = hidden.dim(D::Minus1)?;
        hidden.reshape(((), d))?.matmul(&self.tokens.t()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::tiny;
    use ops::check::assert_close;

    const KINDS: [Kind; 3] = [Kind::Gpt1, Kind::Gpt2, Kind::Gpt3];

    fn tokens(rows: u32, t: u32) -> Tensor {
        let ids: Vec<u32> = (0..rows * t).map(|i| (i * 7 + i / 5) % 17).collect();
        Tensor::from_vec(ids, (rows as usize, t as usize), &Device::Cpu).unwrap()
    }

    fn params(config: &ModelConfig) -> Params {
        Params::init(config, 1, &Device::Cpu).unwrap()
    }

    #[test]
    fn every_parameter_receives_a_gradient() {
        // One that gets none is a layer that silently never trains.
        for kind in KINDS {
            let config =
                ModelConfig { embedding_dropout: 0.1, attention_dropout: 0.1, residual_dropout: 0.1, ..tiny(kind) };
            let params = params(&config);
            let model = Gpt::trainable(&config, &params).unwrap();
            let pass = Pass::Train { seed: 1, first_row: 0 };
            let loss = model.loss(&tokens(2, 12), &tokens(2, 12), pass).unwrap();
            let grads = loss.backward().unwrap();
            for (name, var) in params.iter() {
                let grad = grads.get(var).unwrap_or_else(|| panic!("{kind:?}: no gradient reaches {name}"));
                let largest = grad.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(largest > 0.0, "{kind:?}: {name} has a gradient of zeros");
            }
        }
    }

    #[test]
    fn recomputed_blocks_give_the_same_loss_and_gradients() {
        for kind in KINDS {
            let config =
                ModelConfig { embedding_dropout: 0.1, attention_dropout: 0.1, residual_dropout: 0.1, ..tiny(kind) };
            let params = params(&config);
            let model = Gpt::trainable(&config, &params).unwrap();
            let frozen = Gpt::frozen(&config, &params).unwrap();
            let (ids, pass) = (tokens(2, 12), Pass::Train { seed: 1, first_row: 0 });
            let loss = model.loss(&ids, &ids, pass).unwrap();
            let whole = (&loss * 0.5).unwrap().backward().unwrap();
            let mut sums: Vec<Option<Tensor>> = params.iter().map(|_| None).collect();
            let recomputed = model.recomputed_loss(&frozen, (&ids, &ids), pass, 0.5, |part| {
                for (sum, (_, var)) in sums.iter_mut().zip(params.iter()) {
                    if let Some(more) = part.remove(var) {
                        *sum = Some(match sum.take() {
                            Some(sum) => (sum + more)?,
                            None => more,
                        });
                    }
                }
                Ok(())
            });
            assert_close("loss", &recomputed.unwrap(), &loss, 0.0);
            for (sum, (name, var)) in sums.iter().zip(params.iter()) {
                let sum = sum.as_ref().unwrap_or_else(|| panic!("{kind:?}: no gradient reaches {name}"));
                assert_close(&format!("{kind:?} {name}"), sum, whole.get(var).unwrap(), 1e-6);
            }
        }
    }

    #[test]
    fn a_frozen_model_agrees_and_keeps_no_graph() {
        let config = tiny(Kind::Gpt2);
        let params = params(&config);
        let logits = |model: Gpt| model.logits(&tokens(2, 5), Pass::Eval).unwrap();
        let frozen = logits(Gpt::frozen(&config, &params).unwrap());
        assert_close("logits", &frozen, &logits(Gpt::trainable(&config, &params).unwrap()), 0.0);
        assert!(!frozen.track_op());
    }

    #[test]
    fn attention_to_the_past_sums_to_one_and_keeps_within_the_band() {
        for kind in KINDS {
            let config = tiny(kind);
            let model = Gpt::frozen(&config, &params(&config)).unwrap();
            let layers = model.attention(&tokens(1, 12)).unwrap();
            assert_eq!(layers.len(), 3);
            for (layer, weights) in layers.iter().enumerate() {
                let heads: Vec<Vec<Vec<f32>>> = weights.squeeze(0).unwrap().to_vec3().unwrap();
                for (i, row) in heads.iter().flat_map(|head| head.iter().enumerate()) {
                    assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
                    let seen = config.mask(layer).visible(i);
                    assert!(
                        row.iter().enumerate().all(|(j, &w)| seen.contains(&j) == (w > 0.0)),
                        "{kind:?} {layer} {i}"
                    );
                }
            }
        }
    }

    #[test]
    fn logits_with_a_cache_equal_those_without() {
        for kind in KINDS {
            let config = tiny(kind);
            let model = Gpt::frozen(&config, &params(&config)).unwrap();
            let ids = tokens(2, 12);
            let whole = model.logits(&ids, Pass::Eval).unwrap();
            let mut cache = Cache::new(config.n_layer, config.context);
            let mut at = 0;
            for n in [5, 1, 1, 4, 1] {
                let next = model.next_logits(&ids.narrow(1, at, n).unwrap(), &mut cache).unwrap();
                at += n;
                let expected = whole.narrow(1, at - 1, 1).unwrap().squeeze(1).unwrap();
                assert_close(&format!("{kind:?} after {at}"), &next, &expected, 1e-5);
            }
        }
    }

    #[test]
    fn the_cache_keeps_the_rows_it_is_told_to() {
        let config = tiny(Kind::Gpt2);
        let model = Gpt::frozen(&config, &params(&config)).unwrap();
        let ids = tokens(3, 6);
        let mut cache = Cache::new(config.n_layer, config.context);
        model.next_logits(&ids.narrow(1, 0, 5).unwrap(), &mut cache).unwrap();
        cache.keep(&[2, 0], &Device::Cpu).unwrap();
        let rows = Tensor::new(&[2u32, 0], &Device::Cpu).unwrap();
        let picked = ids.index_select(&rows, 0).unwrap();
        let next = model.next_logits(&picked.narrow(1, 5, 1).unwrap().contiguous().unwrap(), &mut cache).unwrap();
        let whole = model.logits(&picked, Pass::Eval).unwrap().narrow(1, 5, 1).unwrap().squeeze(1).unwrap();
        assert_close("rows 2 and 0", &next, &whole, 1e-5);
    }

    #[test]
    fn a_window_over_the_context_is_refused() {
        let config = tiny(Kind::Gpt2);
        let model = Gpt::frozen(&config, &params(&config)).unwrap();
        let error = model.logits(&tokens(1, 13), Pass::Eval).unwrap_err();
        assert!(error.to_string().contains("13 tokens is over the context of 12"), "{error}");
    }

    #[test]
    fn a_fresh_model_knows_nothing() {
        // The loss of first weights is near the logarithm of the vocabulary, but for a token's own repetition: tied
        // embeddings make that a little likelier.
        let ids: Vec<Vec<u32>> = tokens(3, 12).to_vec2().unwrap();
        let others: Vec<u32> = ids.concat().iter().map(|id| (id + 7) % 17).collect();
        let targets = Tensor::from_vec(others, (3, 12), &Device::Cpu).unwrap();
        for kind in KINDS {
            let config = tiny(kind);
            let model = Gpt::frozen(&config, &params(&config)).unwrap();
            let loss = model.loss(&tokens(3, 12), &targets, Pass::Eval).unwrap().to_scalar::<f32>().unwrap();
            assert!((loss - 17f32.ln()).abs() < 0.1, "{kind:?}: {loss}");
        }
    }

    #[test]
    fn dropout_belongs_to_the_row_not_to_the_batch() {
        let config = ModelConfig { attention_dropout: 0.3, residual_dropout: 0.3, ..tiny(Kind::Gpt2) };
        let model = Gpt::frozen(&config, &params(&config)).unwrap();
        let ids = tokens(4, 6);
        let logits = |from: usize, n: usize| {
            let pass = Pass::Train { seed: 3, first_row: 10 + from as u64 };
            model.logits(&ids.narrow(0, from, n).unwrap(), pass).unwrap()
        };
        assert_close("rows 2 and 3", &logits(2, 2), &logits(0, 4).narrow(0, 2, 2).unwrap(), 1e-6);
    }
}
