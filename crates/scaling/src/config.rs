//! Configuration of a family.

use gptkit_config::{Check, Problems};
use gptkit_data::source::DataConfig;
use gptkit_data::tokenizer::TokenizerConfig;
use gptkit_model::{Kind, ModelConfig, PositionInit};
use gptkit_train::PretrainConfig;
use gptkit_train::config::TrainConfig;
use gptkit_train::samples::SamplesConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Configuration of `gptkit scaling`; a preset `scaling-*`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScalingConfig {
    /// One line that says what the configuration is for.
    #[serde(default)]
    pub description: String,
    /// Seed of all random draws.
    #[serde(default = "seed")]
    pub seed: u64,
    /// The models of the family.
    pub family: FamilyConfig,
    /// The tokenizer.
    #[serde(default)]
    pub tokenizer: TokenizerConfig,
    /// The training text.
    #[serde(default)]
    pub data: DataConfig,
    /// How the models are trained: all in the same way, except for the learning rate.
    pub train: TrainConfig,
}

fn seed() -> u64 {
    1
}

/// Models that differ only in size; TOML section `[family]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FamilyConfig {
    /// Architecture of the models.
    pub kind: Kind,
    /// Context length in tokens.
    pub context: usize,
    /// Number of tokens that attention sees in every second layer; kind gpt3 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub band: Option<usize>,
    /// Share of a run whose losses are left out of the fit, because they depend on the start.
    #[serde(default = "fit_from")]
    pub fit_from: f64,
    /// The models, in the order in which they are trained.
    pub sizes: Vec<SizeConfig>,
}

fn fit_from() -> f64 {
    0.05
}

/// A model of the family; an element of `family.sizes`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SizeConfig {
    /// Name of the model's folder.
    pub name: String,
    /// Number of transformer blocks.
    pub n_layer: usize,
    /// Number of attention heads; it must divide `d_model`.
    pub n_head: usize,
    /// Width of the model.
    pub d_model: usize,
    /// Peak learning rate of this model, instead of `train.lr`; `train.min_lr` changes by the same factor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Whether the loss of this model is predicted from those of the others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub predict: bool,
}

/// Fewest sizes that a law is fitted to.
const FEWEST: usize = 3;
/// Longest name of a member.
const LONGEST_NAME: usize = 64;

impl ScalingConfig {
    /// The configuration of the run of the member `size`.
    pub fn member(&self, size: &SizeConfig) -> PretrainConfig {
        let lr = size.lr.unwrap_or(self.train.lr);
        PretrainConfig {
            mask_rate: None,
            description: format!("{} of a family of {} sizes", size.name, self.family.sizes.len()),
            seed: self.seed,
            model: self.family.shape(size),
            tokenizer: self.tokenizer.clone(),
            data: self.data.clone(),
            samples: SamplesConfig::off(),
            train: TrainConfig { lr, min_lr: self.train.min_lr * (lr / self.train.lr), ..self.train.clone() },
        }
    }
}

impl FamilyConfig {
    /// The model of the member `size`; its vocabulary is not known yet.
    fn shape(&self, size: &SizeConfig) -> ModelConfig {
        ModelConfig {
            kind: self.kind,
            n_layer: size.n_layer,
            n_head: size.n_head,
            d_model: size.d_model,
            context: self.context,
            vocab_size: 0,
            band: self.band,
            embedding_dropout: 0.0,
            attention_dropout: 0.0,
            residual_dropout: 0.0,
            layer_norm_eps: 1e-5,
            n_inner: None,
            tie_word_embeddings: true,
            init_std: None,
            position_init: PositionInit::Random,
        }
    }

    fn check_sizes(&self, problems: &mut Problems) {
        let (mut names, mut sound) = (BTreeSet::new(), Vec::new());
        for (i, size) in self.sizes.iter().enumerate() {
            let key = |name: &str| format!("sizes.{i}.{name}");
            let wrong = found(&self.shape(size));
            for problem in wrong.iter().filter(|p| !OF_ALL.contains(&p.key.as_str())) {
                problems.add(&key(&problem.key), problem.what.clone(), problem.hint.clone());
            }
            if wrong.is_empty() {
                sound.push(size); // its weights can be counted
            }
            let name = &size.name;
            let plain = !name.is_empty()
                && name.len() <= LONGEST_NAME
                && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
            problems.require(plain, &key("name"), "is not a valid folder name", "use letters, digits, - and _");
            let new = names.insert(name.to_ascii_lowercase()); // some disks know no case
            problems.require(new, &key("name"), "is also the name of another size", "give each size a different name");
            let positive = size.lr.is_none_or(|lr| lr.is_finite() && lr > 0.0);
            problems.require(positive, &key("lr"), "is not positive", "use for instance 3e-3");
        }
        if sound.len() < self.sizes.len() {
            return;
        }
        let fitted = sound.into_iter().filter(|size| !size.predict);
        let fitted: BTreeSet<u64> = fitted.map(|size| non_embedding(&self.shape(size))).collect();
        let n = fitted.len();
        if n < FEWEST {
            let what = format!(
                "has {n} different size{} to fit, but a law needs at least {FEWEST}",
                if n == 1 { "" } else { "s" }
            );
            problems.add("sizes", what, "add sizes, or remove predict = true from one");
        }
    }
}

/// Keys of a model that are the family's.
const OF_ALL: [&str; 2] = ["context", "band"];

fn found(section: &impl Check) -> Vec<gptkit_config::Problem> {
    let mut problems = Problems::default();
    section.check(&mut problems);
    problems.iter().cloned().collect()
}

/// Number of weights of a model without its token and position embeddings and without an untied output layer (Kaplan et
/// al. 2020, §2.1).
pub fn non_embedding(model: &ModelConfig) -> u64 {
    let positions = if model.kind == Kind::Lstm { 0 } else { model.context };
    let tables = if model.tie_word_embeddings { 1 } else { 2 };
    let embeddings = (model.vocab_size as u64)
        .saturating_mul(tables)
        .saturating_add(positions as u64)
        .saturating_mul(model.d_model as u64);
    model.n_params().saturating_sub(embeddings)
}

impl Check for FamilyConfig {
    fn check(&self, problems: &mut Problems) {
        let from = (0.0..0.9).contains(&self.fit_from);
        problems.require(from, "fit_from", "must be between 0 and 0.9", "use 0.05");
        let any = SizeConfig { name: String::new(), n_layer: 1, n_head: 1, d_model: 1, lr: None, predict: false };
        for problem in found(&self.shape(&any)).iter().filter(|p| OF_ALL.contains(&p.key.as_str())) {
            problems.add(&problem.key, problem.what.clone(), problem.hint.clone());
        }
        self.check_sizes(problems);
    }
}

impl Check for ScalingConfig {
    fn check(&self, problems: &mut Problems) {
        problems.section("family", &self.family);
        problems.section("tokenizer", &self.tokenizer);
        problems.section("data", &self.data);
        problems.section("train", &self.train);
        let patience = self.train.patience.is_none();
        problems.require(
            patience,
            "train.patience",
            "would stop the models after different numbers of tokens",
            "remove it",
        );
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn family(sizes: serde_json::Value) -> ScalingConfig {
        serde_json::from_value(serde_json::json!({
            "family": { "kind": "gpt2", "context": 16, "sizes": sizes },
            "train": { "length": "40 steps", "batch_size": 2, "lr": 2e-3, "min_lr": 2e-4 },
        }))
        .unwrap()
    }

    #[test]
    fn a_member_is_a_run_like_any_other_with_its_own_rate() {
        let config = family(serde_json::json!([
            { "name": "a", "n_layer": 1, "n_head": 1, "d_model": 8, "lr": 6e-3 },
            { "name": "b", "n_layer": 1, "n_head": 1, "d_model": 8 },
        ]));
        let [a, b] = [0, 1].map(|i| config.member(&config.family.sizes[i]).train);
        assert!((a.lr - 6e-3).abs() < 1e-12 && (a.min_lr - 6e-4).abs() < 1e-12);
        assert_eq!(b, config.train);
    }

    #[test]
    fn impossible_sizes_are_problems() {
        let size = |n_layer: u64| serde_json::json!({ "name": format!("m{n_layer}"), "n_layer": n_layer, "n_head": 1, "d_model": 8 });
        let config = family(serde_json::json!([size(1), size(2), size(1 << 63), size(100_000)]));
        let problems: Vec<String> = found(&config.family).iter().map(|p| p.key.clone()).collect();
        assert_eq!(problems, ["sizes.2.n_layer", "sizes.3.n_layer"]);
    }

    /// Kaplan et al. 2020, table 1: 12·n_layer·d_model² but for biases and gains; with a vocabulary or without.
    #[test]
    fn sizes_are_counted_without_embeddings() {
        let config = family(serde_json::json!([{ "name": "a", "n_layer": 3, "n_head": 1, "d_model": 64 }]));
        let shape = config.family.shape(&config.family.sizes[0]);
        let n = non_embedding(&shape);
        assert_eq!(n, 3 * (12 * 64 * 64 + 13 * 64) + 2 * 64);
        assert_eq!(non_embedding(&ModelConfig { vocab_size: 1024, ..shape }), n);
    }
}
