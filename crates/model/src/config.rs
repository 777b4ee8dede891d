//! The shape of a model.

use candle_core::{Device, Result, bail};
use gptkit_config::{Check, Problems};
use gptkit_ops::{Mask, Precision};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The architecture of a model. The differences are all in this file and in [`crate::init`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Layer norm after each sublayer's sum, no final layer norm (Radford et al. 2018).
    Gpt1,
    /// Layer norm before each sublayer, and a final layer norm (Radford et al. 2019, §2.3).
    Gpt2,
    /// GPT-2 with dense and banded attention in alternate layers (Brown et al. 2020, §2.1).
    Gpt3,
    /// An LSTM, the baseline of GPT-1's ablation (Radford et al. 2018, §5). It has no position embeddings and no heads, and
    /// ignores `n_head`, `attention_dropout`, `layer_norm_eps` and `train.recompute`.
    Lstm,
    /// GPT-1's blocks without a causal mask, trained to predict masked tokens (Devlin et al. 2019, §3.1).
    Bert,
}

impl Kind {
    /// Whether sublayers' sums are normalized, and there is no norm after the last block.
    pub(crate) fn norms_sums(self) -> bool {
        matches!(self, Self::Gpt1 | Self::Bert)
    }

    /// Whether it is a transformer.
    pub(crate) fn attends(self) -> bool {
        self != Self::Lstm
    }
}

/// Precision of the operands of matrix products. Weights, sums and all other numbers are f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// bf16 if the processor or the GPU has fast bf16 products, else f32.
    #[default]
    Auto,
    /// f32.
    F32,
    /// bf16; the activations that the backward pass reads then take half the memory.
    Bf16,
    /// f32 with a fraction of 10 bits, on an NVIDIA GPU only.
    Tf32,
}

impl Dtype {
    /// The data type of `auto` on this machine.
    pub fn settled(self) -> Self {
        match (self, self.precision()) {
            (Self::Auto, Precision::F32) => Self::F32,
            (Self::Auto, Precision::Bf16) => Self::Bf16,
            (other, _) => other,
        }
    }

    /// On this machine.
    pub fn precision(self) -> Precision {
        match self {
            Self::Auto => Precision::fastest(),
            Self::F32 | Self::Tf32 => Precision::F32,
            Self::Bf16 => Precision::Bf16,
        }
    }

    /// Has products on `device` follow it. To be called before the first.
    ///
    /// # Errors
    /// When the device has no such type.
    pub fn apply(self, device: &Device) -> Result<()> {
        if self == Self::Tf32 && !device.is_cuda() {
            bail!("tf32 works only on an NVIDIA GPU: use dtype f32 or bf16");
        }
        gptkit_ops::allow_tf32(self == Self::Tf32);
        Ok(())
    }
}

/// Architecture of a model; TOML section `[model]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelConfig {
    /// Architecture: gpt1, gpt2, gpt3, bert or lstm.
    pub kind: Kind,
    /// Number of transformer blocks, or of LSTM layers.
    pub n_layer: usize,
    /// Number of attention heads; it must divide `d_model`.
    pub n_head: usize,
    /// Width of the residual stream, or of an LSTM's layers.
    pub d_model: usize,
    /// Width of the MLP's hidden layer, kinds gpt2 and gpt3 only; 4 · `d_model` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_inner: Option<usize>,
    /// Context length in tokens; for an LSTM, the length of backpropagation through time.
    pub context: usize,
    /// Size of the vocabulary; 0 means the tokenizer's size (plus one for the mask of kind bert).
    #[serde(default)]
    pub vocab_size: usize,
    /// Number of tokens, the current one included, that attention sees in every second layer; kind gpt3 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub band: Option<usize>,
    /// Dropout probability of the sum of token and position embeddings.
    #[serde(default)]
    pub embedding_dropout: f64,
    /// Dropout probability of attention weights.
    #[serde(default)]
    pub attention_dropout: f64,
    /// Dropout probability of the outputs of sublayers, or of LSTM layers.
    #[serde(default)]
    pub residual_dropout: f64,
    /// Standard deviation of the initial weights of a transformer; when left out 0.02, for widths below 768 times √(768 / `d_model`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_std: Option<f64>,
    /// Initial values of the position embeddings, which are trained in both cases.
    #[serde(default, skip_serializing_if = "is_default")]
    pub position_init: PositionInit,
    /// Number added to the variance in each layer norm.
    #[serde(default = "layer_norm_eps")]
    pub layer_norm_eps: f64,
    /// Whether the output layer shares the weights of the token embeddings. Kinds bert and lstm always share them.
    #[serde(default = "tied", skip_serializing_if = "is_true")]
    pub tie_word_embeddings: bool,
}

/// Initial values of position embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PositionInit {
    /// Random, as in the GPT papers.
    #[default]
    Random,
    /// Sines and cosines of the position (Vaswani et al. 2017, §3.5), of wavelengths up to 2π times the context. Which
    /// positions are near each other then need not be learned first.
    Sinusoidal,
}

/// First weights of GPT-1, GPT-2 and GPT-3, and the width that GPT-1 chose them for.
const PUBLISHED_STD: f64 = 0.02;
const PUBLISHED_WIDTH: f64 = 768.0;

fn layer_norm_eps() -> f64 {
    1e-5
}

fn tied() -> bool {
    true
}

fn is_default(value: &PositionInit) -> bool {
    *value == PositionInit::default()
}

fn is_true(value: &bool) -> bool {
    *value
}

impl ModelConfig {
    /// What the tokens of layer `layer` see. GPT-3's first layer is dense, its second banded, and so on.
    pub fn mask(&self, layer: usize) -> Mask {
        match self.band {
            Some(width) if layer % 2 == 1 => Mask::Banded { width },
            _ if self.kind == Kind::Bert => Mask::Full,
            _ => Mask::Causal,
        }
    }

    /// Whether models of this kind may have an output layer of their own.
    pub(crate) fn can_untie(&self) -> bool {
        matches!(self.kind, Kind::Gpt1 | Kind::Gpt2 | Kind::Gpt3)
    }

    /// Standard deviation of a transformer's first weights: [`ModelConfig::init_std`], else that of Radford et al. 2018
    /// (§4.1), 0.02 at their width of 768, kept for all wider models as GPT-2 and GPT-3 do. A narrower model has larger
    /// weights, so that its products have the variance of theirs.
    pub fn first_std(&self) -> f64 {
        self.init_std.unwrap_or(PUBLISHED_STD * (PUBLISHED_WIDTH / self.d_model as f64).sqrt().max(1.0))
    }

    /// Width of the MLP.
    pub fn d_mlp(&self) -> usize {
        self.n_inner.unwrap_or(4 * self.d_model)
    }

    /// # Errors
    /// When the model is no transformer.
    pub fn must_attend(&self) -> Result<()> {
        if !self.kind.attends() {
            bail!(
                "this command does not support kind = \"lstm\", a baseline without attention; use a model of kind \
                 gpt1, gpt2 or gpt3 (lstm works with `gptkit pretrain`, `finetune`, `sft`, `eval`, `sample` and `chat`)"
            );
        }
        Ok(())
    }

    /// # Errors
    /// When models of this kind neither write texts nor say how likely one is.
    pub fn must_write(&self) -> Result<()> {
        if self.kind == Kind::Bert {
            bail!(
                "this command does not support kind = \"bert\", a masked language model that does not generate text; \
                 use a model of kind gpt1, gpt2 or gpt3 (bert works with `gptkit finetune` and `gptkit predict`)"
            );
        }
        Ok(())
    }
}

/// Of each size; no product of them then is more than 64 bits hold.
pub(crate) const LARGEST: usize = 1 << 20;
/// Most layers: a list of all weights then is small. GPT-3 has 96.
const MOST_LAYERS: usize = 10_000;

impl Check for ModelConfig {
    fn check(&self, problems: &mut Problems) {
        let (d, h) = (self.d_model, self.n_head);
        for (key, value) in [("n_layer", self.n_layer), ("n_head", h), ("d_model", d), ("context", self.context)] {
            problems.require(value > 0, key, "must be positive", "use 1 or more");
        }
        for (key, value, most) in [
            ("n_layer", self.n_layer, MOST_LAYERS),
            ("n_head", h, LARGEST),
            ("d_model", d, LARGEST),
            ("context", self.context, LARGEST),
            ("vocab_size", self.vocab_size, LARGEST),
            ("band", self.band.unwrap_or(0), LARGEST),
            ("n_inner", self.n_inner.unwrap_or(0), LARGEST),
        ] {
            problems.at_most(value, most, key);
        }
        if self.kind.attends() && h > 0 && !d.is_multiple_of(h) {
            problems.add(
                "d_model",
                format!("cannot be divided into {h} heads of equal width"),
                format!("use {}", d.checked_next_multiple_of(h).unwrap_or(h)),
            );
        }
        for (key, p) in [
            ("embedding_dropout", self.embedding_dropout),
            ("attention_dropout", self.attention_dropout),
            ("residual_dropout", self.residual_dropout),
        ] {
            problems.require((0.0..1.0).contains(&p), key, "must be at least 0 and below 1", "use 0.1");
        }
        problems.require(
            self.layer_norm_eps > 0.0 && self.layer_norm_eps < 1.0,
            "layer_norm_eps",
            "must be between 0 and 1",
            "use 1e-5",
        );
        if let Some(std) = self.init_std {
            problems.require(std > 0.0 && std <= 1.0, "init_std", "must be between 0 and 1", "use 0.02");
            problems.require(self.kind.attends(), "init_std", "is only for transformer models", "remove it");
        }
        let two_or_three = matches!(self.kind, Kind::Gpt2 | Kind::Gpt3);
        problems.require(self.n_inner != Some(0), "n_inner", "must be positive", "use four times d_model");
        let sound = self.n_inner.is_none() || two_or_three;
        problems.require(sound, "n_inner", "is only for kind = \"gpt2\" and \"gpt3\"", "remove it");
        let sound = self.tie_word_embeddings || self.can_untie();
        problems.require(
            sound,
            "tie_word_embeddings",
            "can only be false for kind = \"gpt1\", \"gpt2\" and \"gpt3\"",
            "remove it",
        );
        match (self.kind, self.band) {
            (Kind::Gpt3, None) => {
                problems.add("band", "is missing", "set the width of GPT-3's banded layers, for instance 256")
            }
            (Kind::Gpt3, Some(0)) => problems.add("band", "must be positive", "use 256"),
            (Kind::Gpt3, Some(_)) | (_, None) => {}
            (_, Some(_)) => problems.add("band", "is only for kind = \"gpt3\"", "remove it, or set kind = \"gpt3\""),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A model small enough to test everything with.
    pub(crate) fn tiny(kind: Kind) -> ModelConfig {
        ModelConfig {
            kind,
            n_layer: 3,
            n_head: 2,
            d_model: 8,
            context: 12,
            vocab_size: 17,
            band: (kind == Kind::Gpt3).then_some(4),
            embedding_dropout: 0.0,
            attention_dropout: 0.0,
            residual_dropout: 0.0,
            layer_norm_eps: layer_norm_eps(),
            n_inner: None,
            tie_word_embeddings: true,
            init_std: None,
            position_init: PositionInit::Random,
        }
    }

    fn sized(kind: Kind, n_layer: usize, d_model: usize, context: usize, vocab_size: usize) -> u64 {
        ModelConfig { n_layer, d_model, context, vocab_size, ..tiny(kind) }.n_params()
    }

    /// Published counts: GPT-1's and GPT-2's released weights.
    #[test]
    fn parameter_counts_equal_the_published_ones() {
        assert_eq!(sized(Kind::Gpt1, 12, 768, 512, 40_478), 116_534_784);
        assert_eq!(sized(Kind::Gpt2, 12, 768, 1024, 50_257), 124_439_808);
        assert_eq!(sized(Kind::Gpt2, 24, 1024, 1024, 50_257), 354_823_168);
        assert_eq!(sized(Kind::Gpt2, 36, 1280, 1024, 50_257), 774_030_080);
        assert_eq!(sized(Kind::Gpt2, 48, 1600, 1024, 50_257), 1_557_611_200);
    }

    #[test]
    fn an_mlp_of_another_width_and_an_own_output_layer_are_counted() {
        let config = tiny(Kind::Gpt2); // D = 8, V = 17, three layers
        let narrow = ModelConfig { n_inner: Some(12), ..config.clone() };
        assert_eq!(config.n_params() - narrow.n_params(), 3 * (32 - 12) * (8 + 1 + 8));
        let untied = ModelConfig { tie_word_embeddings: false, ..config.clone() };
        assert_eq!(untied.n_params() - config.n_params(), 17 * 8);
    }

    /// By the formulas: 4·(D·D + D·D + D) a layer; GPT-1's for the masked model.
    #[test]
    fn baselines_have_the_parameters_of_their_formulas() {
        assert_eq!(sized(Kind::Lstm, 2, 64, 128, 500), 500 * 64 + 2 * 4 * (64 * 64 + 64 * 64 + 64));
        assert_eq!(sized(Kind::Bert, 2, 64, 128, 500), sized(Kind::Gpt1, 2, 64, 128, 500));
    }

    #[test]
    fn layers_alternate_dense_and_banded_in_gpt3_only() {
        let masks = |kind| (0..3).map(|l| tiny(kind).mask(l)).collect::<Vec<_>>();
        assert_eq!(masks(Kind::Gpt3), [Mask::Causal, Mask::Banded { width: 4 }, Mask::Causal]);
        assert_eq!(masks(Kind::Gpt2), [Mask::Causal; 3]);
        assert_eq!(masks(Kind::Bert), [Mask::Full; 3]);
    }

    #[test]
    fn impossible_shapes_are_problems() {
        let problems = |config: ModelConfig| {
            let mut problems = Problems::default();
            config.check(&mut problems);
            problems.iter().map(|p| p.key.clone()).collect::<Vec<_>>()
        };
        assert!(problems(tiny(Kind::Gpt3)).is_empty());
        assert_eq!(problems(ModelConfig { d_model: 9, ..tiny(Kind::Gpt1) }), ["d_model"]);
        assert!(problems(ModelConfig { d_model: 9, ..tiny(Kind::Lstm) }).is_empty());
        assert_eq!(problems(ModelConfig { n_head: 0, context: 0, ..tiny(Kind::Gpt1) }), ["n_head", "context"]);
        assert_eq!(problems(ModelConfig { residual_dropout: 1.0, ..tiny(Kind::Gpt1) }), ["residual_dropout"]);
        for huge in [MOST_LAYERS + 1, usize::MAX] {
            assert_eq!(problems(ModelConfig { n_layer: huge, ..tiny(Kind::Gpt1) }), ["n_layer"]);
            assert_eq!(problems(ModelConfig { n_head: huge.max(LARGEST + 1), ..tiny(Kind::Lstm) }), ["n_head"]);
        }
        assert_eq!(problems(ModelConfig { n_head: usize::MAX, ..tiny(Kind::Gpt1) }), ["n_head", "d_model"]);
        assert_eq!(problems(ModelConfig { band: Some(usize::MAX), ..tiny(Kind::Gpt3) }), ["band"]);
        assert_eq!(problems(ModelConfig { band: None, ..tiny(Kind::Gpt3) }), ["band"]);
        assert_eq!(problems(ModelConfig { band: Some(4), ..tiny(Kind::Gpt2) }), ["band"]);
        assert!(problems(ModelConfig { n_inner: Some(12), tie_word_embeddings: false, ..tiny(Kind::Gpt3) }).is_empty());
        assert_eq!(problems(ModelConfig { n_inner: Some(12), ..tiny(Kind::Gpt1) }), ["n_inner"]);
        assert_eq!(problems(ModelConfig { n_inner: Some(0), ..tiny(Kind::Gpt2) }), ["n_inner"]);
        assert_eq!(problems(ModelConfig { n_inner: Some(usize::MAX), ..tiny(Kind::Gpt2) }), ["n_inner"]);
        for kind in [Kind::Lstm, Kind::Bert] {
            let problems = problems(ModelConfig { tie_word_embeddings: false, ..tiny(kind) });
            assert_eq!(problems, ["tie_word_embeddings"]);
        }
    }
}
