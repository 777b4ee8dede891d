//! The configuration of PPO. Every choice that affects the result is a separate key, with its source.

use crate::advantage::AdvantageConfig;
use crate::doctor::DoctorConfig;
use crate::shaping::ShapingConfig;
use gptkit_config::{Check, Problems};
use gptkit_data::source::{DataConfig, OnBadRecord};
use gptkit_data::sources::Sources;
use gptkit_model::LoraConfig;
use gptkit_train::config::{OfEpisodes, TrainConfig, default_seed};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Configuration of `gptkit ppo`; a preset `ppo-*`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PpoConfig {
    /// One line that says what the configuration is for.
    #[serde(default)]
    pub description: String,
    /// Seed of all random draws.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// The prompts.
    #[serde(default)]
    pub prompts: PromptConfig,
    /// How answers are sampled.
    #[serde(default)]
    pub rollout: RolloutConfig,
    /// How rewards are computed.
    #[serde(default)]
    pub reward: ShapingConfig,
    /// How advantages are estimated.
    #[serde(default)]
    pub advantage: AdvantageConfig,
    /// How the policy is updated.
    #[serde(default)]
    pub policy: PolicyConfig,
    /// The value network.
    #[serde(default)]
    pub value: ValueConfig,
    /// Pretraining text mixed into the updates (PPO-ptx).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ptx: Option<PtxConfig>,
    /// Checks of the health of the run.
    #[serde(default)]
    pub doctor: DoctorConfig,
    /// How the policy is trained. A step is an iteration; a row is an episode: a prompt and its answer.
    pub train: TrainConfig,
}

impl Check for PpoConfig {
    fn check(&self, problems: &mut Problems) {
        problems.section("prompts", &self.prompts);
        problems.section("rollout", &self.rollout);
        problems.section("reward", &self.reward);
        problems.section("advantage", &self.advantage);
        problems.section("policy", &self.policy);
        problems.section("value", &self.value);
        if let Some(ptx) = &self.ptx {
            problems.section("ptx", ptx);
            problems.section("ptx", &ptx.text);
        }
        problems.section("train", &OfEpisodes(&self.train));
        let (batch, parts) = (self.train.batch_size, self.policy.minibatches);
        if let Some(start) = self.train.batch_ramp_start.filter(|start| parts > 0 && !start.is_multiple_of(parts)) {
            let what = format!("must be a multiple of policy.minibatches = {parts}");
            problems.add("train.batch_ramp_start", what, format!("use {}", start.next_multiple_of(parts)));
        }
        if batch > 0 && parts > 0 && !batch.is_multiple_of(parts) {
            let what = format!("must divide the {batch} episodes of an iteration");
            problems.add("policy.minibatches", what, "use a power of two");
        }
        let micro = self.train.micro_batch;
        if parts > 0 && micro.is_some_and(|micro| micro > 0 && !(batch / parts).is_multiple_of(micro)) {
            let what = format!("must divide the minibatch of {}", batch / parts);
            problems.add("train.micro_batch", what, "use a power of two");
        }
        if self.value.shared && self.policy.lora.is_some() {
            let what = "cannot be combined with policy.lora, because adapters do not train the value head";
            problems.add("value.shared", what, "set value.shared = false");
        }
    }
}

/// The prompts; TOML section `[prompts]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PromptConfig {
    /// Files of prompts (one per line in .txt, else records), or `world`, `world:N` or `world:N:SEED` for built-in ones.
    pub sources: Vec<String>,
    /// Files of prompts for validation. Without any, `val_fraction` of the prompts are held out.
    pub validation: Vec<String>,
    /// Share of the prompts held out for validation. `world` has its own validation part.
    pub val_fraction: f64,
    /// What to do with records without a prompt.
    pub on_bad_record: OnBadRecord,
}

impl Default for PromptConfig {
    fn default() -> Self {
        Self {
            sources: vec!["world".to_owned()],
            validation: Vec::new(),
            val_fraction: 0.05,
            on_bad_record: OnBadRecord::Fail,
        }
    }
}

impl PromptConfig {
    pub(crate) fn sources(&self) -> Sources<'_> {
        let Self { sources, validation, val_fraction, .. } = self;
        Sources { sources, validation, test: &[], val_fraction: *val_fraction }
    }
}

impl Check for PromptConfig {
    fn check(&self, problems: &mut Problems) {
        self.sources().check(Self::default().val_fraction, problems);
    }
}

/// How answers are sampled; TOML section `[rollout]`. There is no top-k and no top-p, because PPO must update the
/// distribution that it sampled from (lm-human-preferences).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RolloutConfig {
    /// Maximum length of an answer in tokens; less if the context has no room for both prompt and answer. Prompts may always
    /// take half of the context.
    pub max_new_tokens: usize,
    /// Sampling temperature. It divides the logits in sampling and in all log-probabilities, the reference's included.
    pub temperature: f64,
    /// Text of a further token that ends an answer, in addition to the end of the chat template. The reward model reads the
    /// template's end after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// Minimum number of tokens before `end` ends an answer (lm-human-preferences, `truncate_after`).
    pub end_after: usize,
    /// Number of answers generated at the same time.
    pub rows: usize,
}

impl Default for RolloutConfig {
    fn default() -> Self {
        Self { max_new_tokens: 64, temperature: 1.0, end: None, end_after: 0, rows: 64 }
    }
}

impl Check for RolloutConfig {
    fn check(&self, problems: &mut Problems) {
        problems.require(self.max_new_tokens > 0, "max_new_tokens", "must be positive", "use 64");
        let t = self.temperature;
        problems.require(t > 0.0 && t.is_finite(), "temperature", "must be positive", "use 1");
        let room = self.end_after < self.max_new_tokens;
        problems.require(room, "end_after", "must be below max_new_tokens", "use 0");
        let used = self.end.is_some() || self.end_after == 0;
        problems.require(
            used,
            "end_after",
            "has no effect without rollout.end",
            "set rollout.end, or remove end_after",
        );
        problems.require(self.rows > 0, "rows", "must be positive", "use 64");
        problems.at_most(self.rows, 1 << 16, "rows");
        problems.at_most(self.max_new_tokens, 1 << 20, "max_new_tokens");
    }
}

/// How the policy is updated; TOML section `[policy]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PolicyConfig {
    /// Number of passes over the episodes of an iteration: 1 in InstructGPT, 4 in lm-human-preferences.
    pub epochs: usize,
    /// Number of minibatches, and so of updates, per pass.
    pub minibatches: usize,
    /// Clip range ε of the probability ratio (Schulman et al. 2017, eq. 7).
    pub clip_range: f64,
    /// Approximate KL divergence, ½ · mean (Δ ln π)², above which an iteration makes no further updates; no limit when left
    /// out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_approx_kl: Option<f64>,
    /// Decay per update of the exponential moving average of the weights, which is then the result; the newest weights are
    /// the result when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// LoRA adapters; the reference model is then the policy without them. All weights are trained when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
}

impl Default for PolicyConfig {
    fn default() -> Self {
        Self { epochs: 1, minibatches: 1, clip_range: 0.2, max_approx_kl: None, ema: None, lora: None }
    }
}

impl Check for PolicyConfig {
    fn check(&self, problems: &mut Problems) {
        problems.require(self.epochs > 0, "epochs", "must be positive", "use 1 to 4");
        problems.require(self.minibatches > 0, "minibatches", "must be positive", "use 1 or more");
        problems.at_most(self.epochs, 1 << 16, "epochs");
        problems.at_most(self.minibatches, 1 << 24, "minibatches");
        let clip = (0.0..1.0).contains(&self.clip_range) && self.clip_range > 0.0;
        problems.require(clip, "clip_range", "must be between 0 and 1", "use 0.2");
        problems.require(self.max_approx_kl.is_none_or(|x| x > 0.0), "max_approx_kl", "must be positive", "use 0.05");
        let decay = self.ema.is_none_or(|decay| (0.0..1.0).contains(&decay));
        problems.require(decay, "ema", "must be at least 0 and below 1", "use 0.992");
        if let Some(lora) = &self.lora {
            problems.section("lora", lora);
            let what = "would change the probabilities between sampling and update";
            problems.require(lora.dropout == 0.0, "lora.dropout", what, "leave it out");
        }
    }
}

/// Initial weights of the value network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ValueInit {
    /// The reward model (Ouyang et al. 2022, appendix C.4).
    Reward,
    /// The policy, with a head of zeros (lm-human-preferences).
    Policy,
}

/// The value network; TOML section `[value]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ValueConfig {
    /// Initial weights of a separate value network: reward or policy.
    pub init: ValueInit,
    /// Whether the value network is a head on the policy instead of a separate network.
    pub shared: bool,
    /// Peak learning rate of a separate value network; the policy's when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Weight of the value loss relative to the policy's loss, for a shared network.
    pub coef: f64,
    /// Clip range of values around the old values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_range: Option<f64>,
    /// Number of passes over the episodes of the first iteration in which a separate value network is trained before the
    /// policy's first update; not in the papers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_epochs: Option<usize>,
}

impl Default for ValueConfig {
    fn default() -> Self {
        let clip_range = Some(0.2);
        Self { init: ValueInit::Reward, shared: false, lr: None, coef: 0.1, clip_range, warmup_epochs: None }
    }
}

impl ValueConfig {
    /// Passes over the first iteration's episodes before the policy's first update: 4 where nothing is said. A reward model's
    /// head was trained at one position and is far off at all others: values of it explain less than nothing for iterations.
    /// A head on the policy cannot learn alone.
    pub fn warmup_epochs(&self) -> usize {
        if self.shared { 0 } else { self.warmup_epochs.unwrap_or(4) }
    }
}

impl Check for ValueConfig {
    fn check(&self, problems: &mut Problems) {
        let positive = |x: f64| x > 0.0 && x.is_finite();
        problems.require(self.lr.is_none_or(positive), "lr", "must be positive", "use 9e-6");
        problems.require(positive(self.coef), "coef", "must be positive", "use 0.1");
        problems.require(self.clip_range.is_none_or(positive), "clip_range", "must be positive", "use 0.2");
        let alone = !self.shared || self.warmup_epochs.is_none_or(|n| n == 0);
        let what = "cannot be combined with value.shared = true, because it would also change the policy";
        problems.require(alone, "warmup_epochs", what, "remove the key, or set value.shared = false");
        let most = self.warmup_epochs.is_none_or(|n| n <= 1000);
        problems.require(most, "warmup_epochs", "must be at most 1000", "use 4");
    }
}

/// Pretraining text mixed into the updates (PPO-ptx; Ouyang et al. 2022, eq. 2); TOML section `[ptx]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PtxConfig {
    /// Weight γ of the text's mean loss per token relative to PPO's loss; 0 only measures it.
    pub coef: f64,
    /// Number of windows of text per episode.
    #[serde(default = "per_episode")]
    pub per_episode: usize,
    /// The text, with the keys of `[data]` of `gptkit pretrain`.
    #[serde(flatten)]
    pub text: DataConfig,
}

fn per_episode() -> usize {
    8
}

impl Check for PtxConfig {
    fn check(&self, problems: &mut Problems) {
        problems.require(
            self.coef >= 0.0 && self.coef.is_finite(),
            "coef",
            "must be 0 or greater, and finite",
            "use 27.8",
        );
        problems.at_most(self.per_episode, 1 << 16, "per_episode");
        problems.require(self.per_episode > 0, "per_episode", "must be positive", "use 8, or coef = 0 to turn it off");
    }
}
