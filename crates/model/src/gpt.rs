//! Embeddings → blocks → logits or loss.

use crate::block::{block, norm};
use crate::config::ModelConfig;
use crate::layout::{OUTPUT, embedding_names};
use crate::params::Params;
use candle_core::{Device, Result, Tensor, bail};
use gptkit_ops::{
    AttentionInput, Cache, Dropout, DropoutSites, Embedding, Precision, Quantized, SaveForBackward, Sequences, Trunk,
    dropout, language_model_loss, logits, token_log_probs,
};
use gptkit_rng::keyed::{Draw, Key, words};
use std::sync::Arc;

/// What a forward pass is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Its result alone: no dropout, no graph.
    Eval,
    /// Gradients: dropout acts, with masks that belong to the rows of the run.
    Train {
        /// Seed of the run.
        seed: u64,
        /// Number of the batch's first row among all rows of the run.
        first_row: u64,
        /// Whether blocks are run again in the backward pass, on the CPU, instead of keeping what it reads.
        recompute: bool,
    },
}

impl Pass {
    /// Dropout of probability `p` at place `site`, if there is any.
    pub(crate) fn dropout(self, p: f64, site: u32) -> Option<Dropout> {
        match self {
            Self::Train { seed, first_row, .. } if p > 0.0 => Some(Dropout { p: p as f32, seed, site, first_row }),
            _ => None,
        }
    }

    /// The same with dropout of its own for each part of a batch, for [`Input::ragged`] and [`Input::branching`]: end to end,
    /// sequences have no rows by which their masks could be told apart.
    pub fn of_part(self) -> Self {
        match self {
            Self::Eval => self,
            Self::Train { seed, first_row, recompute } => {
                let [a, b, ..] = words(Key { seed, draw: Draw::Dropout { site: u32::MAX - 1 } }, first_row);
                Self::Train { seed: u64::from(a) << 32 | u64::from(b), first_row: 0, recompute }
            }
        }
    }

    pub(crate) fn trains(self) -> bool {
        matches!(self, Self::Train { .. })
    }

    fn keep(self) -> SaveForBackward {
        match self {
            Self::Eval => SaveForBackward::Nothing,
            Self::Train { recompute: true, .. } => SaveForBackward::Inputs,
            Self::Train { recompute: false, .. } => SaveForBackward::All,
        }
    }
}

/// Tokens as a model reads them.
#[derive(Debug, Clone)]
pub struct Input {
    /// `[B, T]`, u32.
    pub tokens: Tensor,
    /// What they belong to.
    pub sequences: Arc<Sequences>,
}

impl Input {
    /// `tokens`: `[B, T]`, each window one sequence.
    ///
    /// # Errors
    /// When the shape is another.
    pub fn windows(tokens: &Tensor) -> Result<Self> {
        let (b, t) = tokens.dims2()?;
        Ok(Self { tokens: tokens.clone(), sequences: Arc::new(Sequences::windows(b, t)) })
    }

    /// Sequences of any lengths end to end, without padding, as one window.
    ///
    /// # Errors
    /// When one is empty, or there is none.
    pub fn ragged<'a>(sequences: impl IntoIterator<Item = &'a [u32]>, device: &Device) -> Result<Self> {
        let (mut tokens, mut starts) = (Vec::<u32>::new(), Vec::new());
        for sequence in sequences {
            starts.push(tokens.len() as u32);
            tokens.extend(sequence);
        }
        let sequences = Sequences::packed(tokens.len(), [&*starts])?;
        Self::window(tokens, sequences, device)
    }

    /// Groups of sequences that share their first `stem` tokens, as one window without padding: of each group the stem is
    /// read once, then what each goes on with, in their order.
    ///
    /// # Errors
    /// When a sequence is not longer than its stem, or there is none.
    pub fn branching<'a, S: AsRef<[u32]> + 'a>(
        groups: impl IntoIterator<Item = (usize, &'a [S])>,
        device: &Device,
    ) -> Result<Self> {
        let (mut tokens, mut shapes) = (Vec::<u32>::new(), Vec::new());
        for (stem, group) in groups {
            for (i, sequence) in group.iter().enumerate() {
                let sequence = sequence.as_ref();
                if sequence.len() <= stem {
                    bail!("a sequence of {} tokens has nothing after the {stem} that its group shares", sequence.len());
                }
                tokens.extend(&sequence[if i == 0 { 0 } else { stem }..]);
            }
            shapes.push((stem, group.iter().map(|sequence| sequence.as_ref().len() - stem).collect::<Vec<_>>()));
        }
        let sequences = Sequences::branching(shapes.iter().map(|(stem, lengths)| (*stem, lengths.as_slice())))?;
        Self::window(tokens, sequences, device)
    }

    fn window(tokens: Vec<u32>, sequences: Sequences, device: &Device) -> Result<Self> {
        let t = tokens.len();
        Ok(Self { tokens: Tensor::from_vec(tokens, (1, t), device)?, sequences: Arc::new(sequences) })
    }
}

/// A transformer. It sees every change of the weights that it was made of.
#[derive(Debug)]
pub struct Gpt {
    config: ModelConfig,
    precision: Precision,
    embedding: Embedding,
    trunk: Arc<Trunk>,
    /// Weights of the output layer, `[V, D]`: the token embeddings unless it has its own.
    output: Arc<gptkit_ops::Parameter>,
}

impl Gpt {
    /// A model with these weights that writes texts and says how likely they are. Its products are of `precision` on the
    /// CPU.
    ///
    /// # Errors
    /// When its kind does not write, or `params` are not those of a model of this shape.
    pub fn new(config: &ModelConfig, params: &Params, precision: Precision) -> Result<Self> {
        config.must_write()?;
        Self::reader(config, params, precision)
    }

    /// The same of any kind of transformer, to be pretrained, or to have a head read what [`Gpt::hidden`] gives.
    ///
    /// # Errors
    /// When it is none, or `params` are not those of a model of this shape.
    pub fn reader(config: &ModelConfig, params: &Params, precision: Precision) -> Result<Self> {
        config.must_attend()?;
        let (tokens, positions) = embedding_names(config.kind);
        let output = if config.tie_word_embeddings { tokens } else { OUTPUT };
        Ok(Self {
            output: Arc::clone(params.get(output)?),
            embedding: Embedding {
                tokens: Arc::clone(params.get(tokens)?),
                positions: Some(Arc::clone(params.get(positions)?)),
            },
            trunk: Arc::new(Trunk {
                blocks: (0..config.n_layer).map(|layer| block(config, params, layer)).collect::<Result<_>>()?,
                ln_f: match config.kind.norms_sums() {
                    true => None,
                    false => Some(norm(config, params, "transformer.ln_f")?),
                },
            }),
            config: config.clone(),
            precision,
        })
    }

    /// Has products read weights of few bits, for sampling on the CPU.
    ///
    /// # Errors
    /// When a width does not divide into blocks, or the model is on another device.
    pub fn quantize(&self, to: Quantized) -> Result<()> {
        if !self.device().is_cpu() {
            bail!("quantized weights are for the processor: use --device cpu");
        }
        for block in &self.trunk.blocks {
            for linear in [&block.c_attn, &block.attn_proj, &block.c_fc, &block.mlp_proj] {
                linear.weight.quantize(to, false, self.precision)?;
            }
        }
        self.output.quantize(to, true, self.precision)
    }

    /// Its shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
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
        self.trunk.forward(&x, sequences, self.precision, &self.drops(pass), pass.keep())
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
        let Input { tokens, sequences } = input;
        let lens = cache.lens().iter().chain(std::iter::repeat(&0));
        let places = sequences.iter().zip(lens).map(|(new, &len)| len as u32..(len + new.len()) as u32);
        let positions: Vec<u32> = places.flatten().collect();
        fits(&self.config, positions.iter().max().map_or(0, |&last| last as usize + 1))?;
        let x = self.embed(tokens, positions, Pass::Eval)?;
        let hidden = self.trunk.step(&x, sequences, cache)?.reshape(((), self.config.d_model))?;
        if sequences.longest() == 1 {
            return self.unembed(&hidden, Pass::Eval);
        }
        let last: Vec<u32> = sequences.iter().map(|sequence| sequence.end as u32 - 1).collect();
        self.unembed(&hidden.index_select(&Tensor::new(last, self.device())?, 0)?, Pass::Eval)
    }

    /// An empty past for [`Gpt::next_logits`].
    pub fn cache(&self) -> Cache {
        Cache::new(self.config.n_layer, self.config.context, self.precision, self.device())
    }

    /// What the tokens of a window look at: of each layer, `[B, H, T, T]`, how much the token of a row takes of that of a
    /// column; rows sum to 1. `tokens`: `[B, T]`, u32.
    ///
    /// # Errors
    /// As [`Gpt::hidden`].
    pub fn attention(&self, tokens: &Tensor) -> Result<Vec<Tensor>> {
        let Input { tokens, sequences } = Input::windows(tokens)?;
        fits(&self.config, sequences.longest())?;
        let mut x = self.embed(&tokens, sequences.positions(), Pass::Eval)?; // [B, T, D]
        let mut weights = Vec::with_capacity(self.trunk.blocks.len());
        for block in &self.trunk.blocks {
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

    /// Where each block drops; place 0 of the model is the embeddings'.
    fn drops(&self, pass: Pass) -> Vec<DropoutSites> {
        let (attention, residual) = (self.config.attention_dropout, self.config.residual_dropout);
        (0..self.config.n_layer as u32)
            .map(|layer| DropoutSites {
                attention: pass.dropout(attention, 1 + 3 * layer),
                attended: pass.dropout(residual, 2 + 3 * layer),
                mlp: pass.dropout(residual, 3 + 3 * layer),
            })
            .collect()
    }

    /// `[.., D]` → `[N, V]`.
    fn unembed(&self, hidden: &Tensor, pass: Pass) -> Result<Tensor> {
        let hidden = hidden.reshape(((), self.config.d_model))?;
        logits(&hidden, &self.output, self.precision, pass.trains())
    }
}

/// # Errors
/// When a window of `tokens` is over the model's context.
pub(crate) fn fits(config: &ModelConfig, tokens: usize) -> Result<()> {
    if tokens > config.context {
        bail!("a window of {tokens} tokens is over the context of {}", config.context);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::config::tests::tiny;
    use crate::weights::Weights;
    use gptkit_ops::check::assert_close;

    const KINDS: [Kind; 3] = [Kind::Gpt1, Kind::Gpt2, Kind::Gpt3];
    const TRANSFORMERS: [Kind; 4] = [Kind::Gpt1, Kind::Gpt2, Kind::Gpt3, Kind::Bert];

    fn windows(rows: u32, t: u32) -> Input {
        Input::windows(&tokens(rows, t)).unwrap()
    }

    fn tokens(rows: u32, t: u32) -> Tensor {
        let ids: Vec<u32> = (0..rows * t).map(|i| (i * 7 + i / 5) % 17).collect();
        Tensor::from_vec(ids, (rows as usize, t as usize), &Device::Cpu).unwrap()
    }

    fn params(config: &ModelConfig) -> Params {
        Params::init(config, 1, &Device::Cpu).unwrap()
    }

    fn model(config: &ModelConfig, params: &Params) -> Gpt {
        Gpt::reader(config, params, Precision::F32).unwrap()
    }

    const TRAIN: Pass = Pass::Train { seed: 1, first_row: 0, recompute: false };

    #[test]
    fn every_parameter_receives_a_gradient() {
        // One that gets none is a layer that silently never trains.
        for kind in TRANSFORMERS {
            let config = ModelConfig {
                embedding_dropout: 0.1,
                attention_dropout: 0.1,
                residual_dropout: 0.1,
                n_inner: (kind == Kind::Gpt2).then_some(12),
                tie_word_embeddings: kind == Kind::Bert,
                ..tiny(kind)
            };
            let params = params(&config);
            let loss = || model(&config, &params).loss(&windows(2, 12), &tokens(2, 12), TRAIN, 1.0);
            Weights::from(params.clone()).begin_update().backward(loss).unwrap();
            for (name, parameter) in params.iter() {
                let grad = parameter.gradient().unwrap_or_else(|| panic!("{kind:?}: no gradient reaches {name}"));
                let largest = grad.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(largest > 0.0, "{kind:?}: {name} has a gradient of zeros");
            }
        }
    }

    #[test]
    fn recomputed_blocks_give_the_same_loss_and_gradients() {
        for kind in TRANSFORMERS {
            let config =
                ModelConfig { embedding_dropout: 0.1, attention_dropout: 0.1, residual_dropout: 0.1, ..tiny(kind) };
            let params = params(&config);
            let model = model(&config, &params);
            let ids = tokens(2, 12);
            let run = |recompute| {
                let pass = Pass::Train { seed: 1, first_row: 0, recompute };
                let loss = || model.loss(&Input::windows(&ids)?, &ids, pass, 0.5);
                let loss = Weights::from(params.clone()).begin_update().backward(loss).unwrap();
                (loss, params.iter().map(|(_, parameter)| parameter.gradient().unwrap()).collect::<Vec<_>>())
            };
            let ((loss, whole), (again, recomputed)) = (run(false), run(true));
            assert_close("loss", &again, &loss, 0.0);
            for ((a, b), (name, _)) in recomputed.iter().zip(&whole).zip(params.iter()) {
                assert_close(&format!("{kind:?} {name}"), a, b, 0.0);
            }
        }
    }

    #[test]
    fn an_evaluation_keeps_no_graph() {
        let config = tiny(Kind::Gpt2);
        let logits = model(&config, &params(&config)).logits(&windows(2, 5), Pass::Eval).unwrap();
        assert!(!logits.track_op());
    }

    #[test]
    fn attention_sums_to_one_and_keeps_to_its_mask() {
        for kind in TRANSFORMERS {
            let config = tiny(kind);
            let model = model(&config, &params(&config));
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
            let model = model(&config, &params(&config));
            let ids = tokens(2, 12);
            let whole = model.logits(&Input::windows(&ids).unwrap(), Pass::Eval).unwrap();
            let mut cache = model.cache();
            let mut at = 0;
            for n in [5, 1, 1, 4, 1] {
                let new = Input::windows(&ids.narrow(1, at, n).unwrap()).unwrap();
                let next = model.next_logits(&new, &mut cache).unwrap();
                at += n;
                let expected = whole.narrow(1, at - 1, 1).unwrap().squeeze(1).unwrap();
                assert_close(&format!("{kind:?} after {at}"), &next, &expected, 1e-5);
            }
        }
    }

    /// Rows of `all` in a batch, and how many tokens of each it has read.
    type Rows = Vec<(usize, usize)>;

    /// Reads as many tokens more of `rows` as `counts` says, and compares with fresh passes over each row.
    fn step((what, tolerance): (&str, f32), model: &Gpt, cache: &mut Cache, rows: &mut Rows, counts: &[usize]) {
        let all: Vec<Vec<u32>> = tokens(4, 12).to_vec2().unwrap();
        let new = rows.iter().zip(counts).map(|(&(row, len), count)| &all[row][len..len + count]);
        let next = model.next_logits(&Input::ragged(new, &Device::Cpu).unwrap(), cache).unwrap();
        rows.iter_mut().zip(counts).for_each(|((_, len), count)| *len += count);
        assert_eq!(cache.lens(), rows.iter().map(|row| row.1).collect::<Vec<_>>(), "{what}");
        for (n, &(row, len)) in rows.iter().enumerate() {
            let whole = Input::ragged([&all[row][..len]], &Device::Cpu).unwrap();
            let whole = model.logits(&whole, Pass::Eval).unwrap().squeeze(0).unwrap();
            let (next, expected) = (next.narrow(0, n, 1).unwrap(), whole.narrow(0, len - 1, 1).unwrap());
            assert_close(&format!("{what}: row {row} after {len}"), &next, &expected, tolerance);
        }
    }

    fn check_unequal_rows(what: &str, tolerance: f32, model: &Gpt, empty: impl Fn() -> Cache) {
        let step = |cache: &mut _, rows: &mut _, counts: &[_]| step((what, tolerance), model, cache, rows, counts);
        let (mut cache, mut rows) = (empty(), vec![(0, 0), (1, 0), (2, 0)]);
        for counts in [[5, 2, 7], [1, 1, 1], [2, 1, 3], [1, 4, 1]] {
            step(&mut cache, &mut rows, &counts);
        }
        cache.keep(&[2, 0, 0]).unwrap();
        cache.truncate(10);
        let mut rows = vec![(2, 10), (0, 9), (0, 9)];
        step(&mut cache, &mut rows, &[1, 1, 3]);
        let (mut other, mut others) = (empty(), vec![(3, 0), (1, 0)]);
        step(&mut other, &mut others, &[4, 6]);
        cache.append(&other, &[1, 0]).unwrap();
        cache.keep(&[0, 1, 3, 4]).unwrap();
        let mut rows = vec![(2, 11), (0, 10), (1, 6), (3, 4)];
        step(&mut cache, &mut rows, &[1, 2, 1, 5]);
        let again = Input::ragged([&[1u32][..]; 4], &Device::Cpu).unwrap();
        let error = model.next_logits(&again, &mut cache).unwrap_err().to_string();
        assert!(error.contains("13 tokens is over the context of 12"), "{what}: {error}");
        let fewer = Input::ragged([&[1u32][..]], &Device::Cpu).unwrap();
        cache.truncate(3);
        let error = model.next_logits(&fewer, &mut cache).unwrap_err().to_string();
        assert!(error.contains("4 sequences cannot take tokens of 1"), "{what}: {error}");
        let error = cache.keep(&[4]).unwrap_err().to_string();
        assert!(error.contains("4 sequences is asked for number 4"), "{what}: {error}");
        cache.truncate(0);
        step(&mut cache, &mut vec![(1, 0)], &[1]);
    }

    #[test]
    fn a_cache_of_unequal_rows_equals_fresh_passes_on_every_device() {
        for kind in KINDS {
            let config = tiny(kind);
            let model = model(&config, &params(&config));
            check_unequal_rows(&format!("{kind:?}"), 1e-5, &model, || model.cache());
            let tensors = || Cache::of_tensors(config.n_layer, config.context);
            check_unequal_rows(&format!("{kind:?} in tensors"), 1e-5, &model, tensors);
        }
    }

    #[test]
    fn a_cache_of_unequal_rows_serves_quantized_weights() {
        let config = ModelConfig { d_model: 256, ..tiny(Kind::Gpt2) };
        let model = model(&config, &params(&config));
        model.quantize(Quantized::Q8_0).unwrap();
        // What products read is rounded to 8 bits too: the last bit of a sum may move it by one of them.
        check_unequal_rows("Q8_0", 0.02, &model, || model.cache());
    }

    #[test]
    fn quantized_weights_stay_near_and_refuse_other_widths() {
        let config = ModelConfig { d_model: 256, ..tiny(Kind::Gpt2) };
        let params = params(&config);
        let gpt = model(&config, &params);
        let exact = gpt.logits(&windows(2, 5), Pass::Eval).unwrap();
        let largest = exact.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        for (to, share) in [(Quantized::Q8_0, 0.03), (Quantized::Q4K, 0.3)] {
            gpt.quantize(to).unwrap();
            let near = gpt.logits(&windows(2, 5), Pass::Eval).unwrap();
            assert_close(&format!("{to:?}"), &near, &exact, share * largest);
            let off = (&near - &exact).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(off > 0.0, "{to:?} changed nothing");
        }
        let config = tiny(Kind::Gpt2);
        let error = model(&config, &Params::init(&config, 1, &Device::Cpu).unwrap()).quantize(Quantized::Q8_0);
        assert!(error.unwrap_err().to_string().contains("width of 8 does not divide into blocks of 32"));
    }

    #[test]
    fn the_cache_keeps_the_rows_it_is_told_to() {
        let config = tiny(Kind::Gpt2);
        let model = model(&config, &params(&config));
        let ids = tokens(3, 6);
        let mut cache = model.cache();
        model.next_logits(&Input::windows(&ids.narrow(1, 0, 5).unwrap()).unwrap(), &mut cache).unwrap();
        cache.keep(&[2, 0]).unwrap();
        let rows = Tensor::new(&[2u32, 0], &Device::Cpu).unwrap();
        let picked = ids.index_select(&rows, 0).unwrap();
        let new = Input::windows(&picked.narrow(1, 5, 1).unwrap()).unwrap();
        let next = model.next_logits(&new, &mut cache).unwrap();
        let whole = model
            .logits(&Input::windows(&picked).unwrap(), Pass::Eval)
            .unwrap()
            .narrow(1, 5, 1)
            .unwrap()
            .squeeze(1)
            .unwrap();
        assert_close("rows 2 and 0", &next, &whole, 1e-5);
    }

    #[test]
    fn a_window_over_the_context_is_refused() {
        let config = tiny(Kind::Gpt2);
        let model = model(&config, &params(&config));
        let error = model.logits(&windows(1, 13), Pass::Eval).unwrap_err();
        assert!(error.to_string().contains("13 tokens is over the context of 12"), "{error}");
    }

    #[test]
    fn only_a_masked_model_sees_later_tokens() {
        let ids: Vec<u32> = tokens(1, 12).flatten_all().unwrap().to_vec1().unwrap();
        let mut other = ids.clone();
        other[11] = (other[11] + 1) % 17;
        for kind in TRANSFORMERS {
            let config = tiny(kind);
            let model = model(&config, &params(&config));
            // Alone, and after another sequence of the same window, which nothing sees.
            for stem in [&[][..], &[3, 4]] {
                let first = |ids: &[u32]| {
                    let sequences = [stem, ids].into_iter().filter(|s| !s.is_empty());
                    let input = Input::ragged(sequences, &Device::Cpu).unwrap();
                    model.logits(&input, Pass::Eval).unwrap().narrow(1, 0, stem.len() + 5).unwrap()
                };
                let change = (first(&ids) - first(&other)).unwrap().abs().unwrap();
                let most = |x: Tensor| x.max_all().unwrap().to_scalar::<f32>().unwrap();
                assert_eq!(most(change.narrow(1, stem.len(), 5).unwrap()) > 1e-5, kind == Kind::Bert, "{kind:?}");
                if !stem.is_empty() {
                    assert_eq!(most(change.narrow(1, 0, stem.len()).unwrap()), 0.0, "{kind:?}");
                }
            }
        }
    }

    #[test]
    fn a_masked_model_does_not_write() {
        let config = tiny(Kind::Bert);
        let params = params(&config);
        let error = Gpt::new(&config, &params, Precision::F32).unwrap_err().to_string();
        assert!(error.contains("kind bert sees both sides"), "{error}");
        let model = model(&config, &params);
        let error = model.next_logits(&windows(1, 3), &mut model.cache()).unwrap_err().to_string();
        assert!(error.contains("see later ones"), "{error}");
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
            let model = model(&config, &params(&config));
            let loss = model.loss(&windows(3, 12), &targets, Pass::Eval, 1.0).unwrap().to_scalar::<f32>().unwrap();
            assert!((loss - 17f32.ln()).abs() < 0.1, "{kind:?}: {loss}");
        }
    }

    #[test]
    fn dropout_belongs_to_the_row_not_to_the_batch() {
        let config = ModelConfig { attention_dropout: 0.3, residual_dropout: 0.3, ..tiny(Kind::Gpt2) };
        let model = model(&config, &params(&config));
        let ids = tokens(4, 6);
        let logits = |from: usize, n: usize| {
            let pass = Pass::Train { seed: 3, first_row: 10 + from as u64, recompute: false };
            model.logits(&Input::windows(&ids.narrow(0, from, n).unwrap()).unwrap(), pass).unwrap()
        };
        assert_close("rows 2 and 3", &logits(2, 2), &logits(0, 4).narrow(0, 2, 2).unwrap(), 1e-6);
    }
}
