//! What the story compares GPT-1 with: an LSTM in the transformer's place (Radford et al. 2018, §5), trained in the same
//! loop. The masked model (Devlin et al. 2019) is a [`Gpt`] whose tokens see both sides.

use crate::config::{Kind, ModelConfig};
use crate::gpt::{Gpt, fits};
use crate::input::Input;
use crate::layout::{block_name, embedding_names};
use crate::params::Params;
use crate::pass::Pass;
use candle_core::{Device, Result, Tensor};
use gptkit_ops::{Embedding, Linear, LstmLayer, Precision, dropout, language_model_loss};
use std::sync::Arc;

/// What can be pretrained: tokens → the loss of predicting tokens.
pub trait Predictor: Send {
    /// Its shape.
    fn config(&self) -> &ModelConfig;

    /// Where its weights lie.
    fn device(&self) -> &Device;

    /// `weight` times the mean loss in nats over the targets that count; as [`Gpt::loss`].
    ///
    /// # Errors
    /// When a sequence is over the context, or a token or target not below `V`.
    fn loss(&self, input: &Input, targets: &Tensor, pass: Pass, weight: f64) -> Result<Tensor>;
}

/// The model of shape `config` with these weights.
///
/// # Errors
/// When `params` are not those of such a model.
pub fn predictor(config: &ModelConfig, params: &Params, precision: Precision) -> Result<Box<dyn Predictor>> {
    Ok(match config.kind {
        Kind::Lstm => Box::new(Lstm::new(config, params, precision)?),
        Kind::Gpt1 | Kind::Gpt2 | Kind::Gpt3 | Kind::Bert => Box::new(Gpt::reader(config, params, precision)?),
    })
}

impl Predictor for Gpt {
    fn config(&self) -> &ModelConfig {
        self.config()
    }

    fn device(&self) -> &Device {
        self.device()
    }

    fn loss(&self, input: &Input, targets: &Tensor, pass: Pass, weight: f64) -> Result<Tensor> {
        self.loss(input, targets, pass, weight)
    }
}

impl Predictor for Box<dyn Predictor> {
    fn config(&self) -> &ModelConfig {
        (**self).config()
    }

    fn device(&self) -> &Device {
        (**self).device()
    }

    fn loss(&self, input: &Input, targets: &Tensor, pass: Pass, weight: f64) -> Result<Tensor> {
        (**self).loss(input, targets, pass, weight)
    }
}

/// A recurrent language model, whose token embeddings are also the output's weights. Each sequence begins with a state of
/// zeros, as a transformer sees nothing before its window. It sees every change of the weights that it was made of.
#[derive(Debug)]
pub struct Lstm {
    config: ModelConfig,
    precision: Precision,
    embedding: Embedding,
    layers: Arc<gptkit_ops::LstmStack>,
}

impl Lstm {
    /// A model with these weights, whose products are of `precision` on the CPU.
    ///
    /// # Errors
    /// When `params` are not those of a model of this shape.
    pub fn new(config: &ModelConfig, params: &Params, precision: Precision) -> Result<Self> {
        let (tokens, _) = embedding_names(config.kind);
        let layer = |layer: usize| -> Result<LstmLayer> {
            let get = |part: &str| params.get(&format!("{}.{part}", block_name(layer))).map(Arc::clone);
            Ok(LstmLayer { input: Linear { weight: get("weight_ih")?, bias: get("bias")? }, hidden: get("weight_hh")? })
        };
        Ok(Self {
            embedding: Embedding { tokens: Arc::clone(params.get(tokens)?), positions: None },
            layers: Arc::new(gptkit_ops::LstmStack { layers: (0..config.n_layer).map(layer).collect::<Result<_>>()? }),
            config: config.clone(),
            precision,
        })
    }

    /// Returns the last layer's output, `[B, T, D]`, as part of a graph when `pass` trains.
    ///
    /// # Errors
    /// As [`Predictor::loss`].
    pub fn hidden(&self, input: &Input, pass: Pass) -> Result<Tensor> {
        let Input { tokens, sequences } = input;
        fits(&self.config, sequences.longest())?;
        let mut x = self.embedding.forward(tokens, sequences.positions(), pass.trains())?; // [B, T, D]
        if let Some(at) = pass.dropout(self.config.embedding_dropout, 0) {
            x = dropout(&x, at)?;
        }
        let drop = |layer: usize| pass.dropout(self.config.residual_dropout, 1 + layer as u32);
        let drops: Vec<_> = (0..self.config.n_layer).map(drop).collect();
        self.layers.forward(&x, sequences, self.precision, &drops, pass.trains())
    }
}

impl Predictor for Lstm {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn device(&self) -> &Device {
        self.embedding.tokens.var().device()
    }

    fn loss(&self, input: &Input, targets: &Tensor, pass: Pass, weight: f64) -> Result<Tensor> {
        let hidden = self.hidden(input, pass)?.reshape(((), self.config.d_model))?; // [B·T, D]
        let (table, targets) = (&self.embedding.tokens, targets.flatten_all()?);
        language_model_loss(&hidden, table, &targets, self.precision, weight, pass.trains())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::tiny;
    use crate::weights::Weights;
    use gptkit_ops::check::assert_close;

    const TRAIN: Pass = Pass::Train { seed: 1, first_row: 0, recompute: false };

    fn lstm(dropout: f64) -> (Lstm, Params) {
        let config = ModelConfig { embedding_dropout: dropout, residual_dropout: dropout, ..tiny(Kind::Lstm) };
        let params = Params::init(&config, 1, &Device::Cpu).unwrap();
        (Lstm::new(&config, &params, Precision::F32).unwrap(), params)
    }

    fn tokens(rows: u32, t: u32) -> Tensor {
        let ids: Vec<u32> = (0..rows * t).map(|i| (i * 7 + i / 5) % 17).collect();
        Tensor::from_vec(ids, (rows as usize, t as usize), &Device::Cpu).unwrap()
    }

    #[test]
    fn every_parameter_receives_a_gradient() {
        let (lstm, params) = lstm(0.1);
        let ids = tokens(2, 12);
        let input = Input::windows(&ids).unwrap();
        Weights::from(params.clone()).begin_update().backward(|| lstm.loss(&input, &ids, TRAIN, 1.0)).unwrap();
        for (name, parameter) in params.iter() {
            let gradient = parameter.gradient().unwrap_or_else(|| panic!("no gradient reaches {name}"));
            let largest = gradient.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(largest > 0.0, "{name} has a gradient of zeros");
        }
    }

    /// Each sequence of a packed batch as if it stood alone, and no token as if it saw a later one.
    #[test]
    fn a_token_is_read_after_those_of_its_sequence_alone() {
        let (lstm, _) = lstm(0.0);
        let ids: Vec<u32> = tokens(1, 12).flatten_all().unwrap().to_vec1().unwrap();
        let hidden = |sequences: &[&[u32]]| {
            let input = Input::ragged(sequences.iter().copied(), &Device::Cpu).unwrap();
            lstm.hidden(&input, Pass::Eval).unwrap()
        };
        let packed = hidden(&[&ids[..5], &ids[5..]]);
        assert_close("first", &packed.narrow(1, 0, 5).unwrap(), &hidden(&[&ids[..5]]), 1e-6);
        assert_close("second", &packed.narrow(1, 5, 7).unwrap(), &hidden(&[&ids[5..]]), 1e-6);
        assert_close("cut", &hidden(&[&ids[..4]]), &packed.narrow(1, 0, 4).unwrap(), 1e-6);
    }

    #[test]
    fn dropout_belongs_to_the_row_not_to_the_batch() {
        let (lstm, _) = lstm(0.3);
        let ids = tokens(4, 6);
        let hidden = |from: usize, n: usize| {
            let pass = Pass::Train { seed: 3, first_row: 10 + from as u64, recompute: false };
            lstm.hidden(&Input::windows(&ids.narrow(0, from, n).unwrap()).unwrap(), pass).unwrap()
        };
        assert_close("rows 2 and 3", &hidden(2, 2), &hidden(0, 4).narrow(0, 2, 2).unwrap(), 1e-6);
    }

    #[test]
    fn a_transformer_is_not_made_of_it() {
        let (lstm, params) = lstm(0.0);
        for made in [Gpt::new, Gpt::reader] {
            let error = made(lstm.config(), &params, Precision::F32).unwrap_err().to_string();
            assert!(error.contains("kind lstm is a baseline"), "{error}");
        }
        let error = lstm.hidden(&Input::windows(&tokens(1, 13)).unwrap(), Pass::Eval).unwrap_err().to_string();
        assert!(error.contains("13 tokens is over the context of 12"), "{error}");
    }
}
