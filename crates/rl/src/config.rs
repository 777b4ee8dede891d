//! What a user may set of PPO. Every choice that decides whether it works is a key of its own, with its source.

use crate::advantage::AdvantageConfig;
use crate::doctor::DoctorConfig;
use crate::shaping::ShapingConfig;
use gptkit_config::{Check, Problems};
use gptkit_data::source::{DataConfig, OnBadRecord};
use gptkit_data::sources::Sources;
use gptkit_model::LoraConfig;
use gptkit_train::config::{OfEpisodes, TrainConfig, default_seed};
use serde::{Deserialize, Serialize};

/// Configuration of `gptkit ppo`; a file `configs/ppo-*.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PpoConfig {
    /// What it is, in a line.
    #[serde(default)]
    pub description: String,
    /// Random seed.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// What is answered.
    #[serde(default)]
    pub prompts: PromptConfig,
    /// How it is answered.
    #[serde(default)]
    pub rollout: RolloutConfig,
    /// What an answer is worth.
    #[serde(default)]
    pub reward: ShapingConfig,
    /// How much better than expected that is.
    #[serde(default)]
    pub advantage: AdvantageConfig,
    /// What the policy makes of it.
    #[serde(default)]
    pub policy: PolicyConfig,
    /// What is expected.
    #[serde(default)]
    pub value: ValueConfig,
    /// Pretraining text that the policy must not forget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ptx: Option<PtxConfig>,
    /// What is watched for.
    #[serde(default)]
    pub doctor: DoctorConfig,
    /// The training. A step is an iteration, a row an episode: a prompt and its answer.
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
            let what = format!("is not a multiple of policy.minibatches = {parts}");
            problems.add("train.batch_ramp_start", what, format!("use {}", start.next_multiple_of(parts)));
        }
        if batch > 0 && parts > 0 && !batch.is_multiple_of(parts) {
            let what = format!("does not divide the {batch} episodes of an iteration");
            problems.add("policy.minibatches", what, "use a power of two");
        }
        let micro = self.train.micro_batch;
        if parts > 0 && micro.is_some_and(|micro| micro > 0 && !(batch / parts).is_multiple_of(micro)) {
            let what = format!("does not divide the minibatch of {}", batch / parts);
            problems.add("train.micro_batch", what, "use a power of two");
        }
        if self.value.shared && self.policy.lora.is_some() {
            let what = "needs a head that is trained, and adapters train nothing else";
            problems.add("value.shared", what, "set value.shared = false");
        }
    }
}

/// Prompts; TOML section `[prompts]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PromptConfig {
    /// Files of prompts (a line each in .txt, else records), or `world`, `world:N`, `world:N:SEED`.
    pub sources: Vec<String>,
    /// The same, to validate on; a share of the sources' when there is none.
    pub validation: Vec<String>,
    /// That share. The world has prompts of its own for it.
    pub val_fraction: f64,
    /// What becomes of records that hold no prompt.
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

/// Sampling; TOML section `[rollout]`. There is no top-k and no top-p: the policy that is improved must be the one that
/// spoke (lm-human-preferences).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RolloutConfig {
    /// Longest answer, in tokens; less where the context window has no room for it beside the prompts. Prompts may take half
    /// of the window at least.
    pub max_new_tokens: usize,
    /// Divides the logits, here and wherever a log-probability is taken, the reference's included.
    pub temperature: f64,
    /// Text of a token that ends an answer, besides the chat template's end. The reward model reads the template's end after
    /// it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// Tokens of an answer before which `end` does not end it (lm-human-preferences, `truncate_after`).
    pub end_after: usize,
    /// Answers that are written at once.
    pub rows: usize,
}

impl Default for RolloutConfig {
    fn default() -> Self {
        Self { max_new_tokens: 64, temperature: 1.0, end: None, end_after: 0, rows: 64 }
    }
}

impl Check for RolloutConfig {
    fn check(&self, problems: &mut Problems) {
        problems.require(self.max_new_tokens > 0, "max_new_tokens", "is not positive", "use 64");
        let t = self.temperature;
        problems.require(t > 0.0 && t.is_finite(), "temperature", "is not positive", "use 1");
        let room = self.end_after < self.max_new_tokens;
        problems.require(room, "end_after", "is not below max_new_tokens", "use 0");
        let used = self.end.is_some() || self.end_after == 0;
        problems.require(
            used,
            "end_after",
            "has no effect without rollout.end",
            "set rollout.end, or leave end_after out",
        );
        problems.require(self.rows > 0, "rows", "is not positive", "use 64");
        problems.at_most(self.rows, 1 << 16, "rows");
        problems.at_most(self.max_new_tokens, 1 << 20, "max_new_tokens");
    }
}

/// TOML section `[policy]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyConfig {
    /// Passes over the episodes of an iteration: 1 in InstructGPT, 4 in lm-human-preferences.
    pub epochs: usize,
    /// Updates of a pass.
    pub minibatches: usize,
    /// How far a token's probability ratio may leave 1 before there is nothing more to gain (Schulman et al. 2017).
    pub clip_range: f64,
    /// ½·mean (Δ ln π)² at which an iteration makes no further update; never when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_approx_kl: Option<f64>,
    /// Decay of the average of the weights that is the outcome, an update; the newest weights are when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// Adapters, when only they are trained: the reference is then the policy without them.
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
        problems.require(self.epochs > 0, "epochs", "is not positive", "use 1 to 4");
        problems.require(self.minibatches > 0, "minibatches", "is not positive", "use 1 or more");
        problems.at_most(self.epochs, 1 << 16, "epochs");
        problems.at_most(self.minibatches, 1 << 24, "minibatches");
        let clip = (0.0..1.0).contains(&self.clip_range) && self.clip_range > 0.0;
        problems.require(clip, "clip_range", "is not between 0 and 1", "use 0.2");
        problems.require(self.max_approx_kl.is_none_or(|x| x > 0.0), "max_approx_kl", "is not positive", "use 0.05");
        let decay = self.ema.is_none_or(|decay| (0.0..1.0).contains(&decay));
        problems.require(decay, "ema", "is not in [0, 1)", "use 0.992");
        if let Some(lora) = &self.lora {
            problems.section("lora", lora);
        }
    }
}

/// What the value network begins as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ValueInit {
    /// The reward model (Ouyang et al. 2022, appendix C.4).
    Reward,
    /// The policy, with a head of zeros (lm-human-preferences).
    Policy,
}

/// TOML section `[value]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ValueConfig {
    /// What the network begins as, where it is one of its own.
    pub init: ValueInit,
    /// Whether it is a head on the policy instead of a network of its own.
    pub shared: bool,
    /// Highest learning rate of a network of its own; that of the policy when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// What its loss counts beside the policy's, where it is a head on that.
    pub coef: f64,
    /// How far a value may leave the old one before there is nothing more to gain; no limit when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_range: Option<f64>,
    /// Passes over the episodes of the first iteration in which a network of its own learns alone, before the policy's first
    /// update; see [`ValueConfig::warmup_epochs`]. No paper has them.
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
        problems.require(self.lr.is_none_or(positive), "lr", "is not positive", "use 9e-6");
        problems.require(positive(self.coef), "coef", "is not positive", "use 0.1");
        problems.require(self.clip_range.is_none_or(positive), "clip_range", "is not positive", "use 0.2");
        let alone = !self.shared || self.warmup_epochs.is_none_or(|n| n == 0);
        let what = "would move the policy, on which the values are a head";
        problems.require(alone, "warmup_epochs", what, "leave it out, or set value.shared = false");
        let most = self.warmup_epochs.is_none_or(|n| n <= 1000);
        problems.require(most, "warmup_epochs", "is over 1000", "use 4");
    }
}

/// PPO-ptx (Ouyang et al. 2022, eq. 2); TOML section `[ptx]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PtxConfig {
    /// γ, what the text's mean loss a token counts beside PPO's; 0 measures it and learns nothing from it.
    pub coef: f64,
    /// Windows of text for each episode.
    #[serde(default = "per_episode")]
    pub per_episode: usize,
    /// The text, as in `[data]` of pretraining.
    #[serde(flatten)]
    pub text: DataConfig,
}

fn per_episode() -> usize {
    8
}

impl Check for PtxConfig {
    fn check(&self, problems: &mut Problems) {
        problems.require(self.coef >= 0.0 && self.coef.is_finite(), "coef", "is negative or not finite", "use 27.8");
        problems.at_most(self.per_episode, 1 << 16, "per_episode");
        problems.require(self.per_episode > 0, "per_episode", "is not positive", "use 8; coef = 0 turns it off");
    }
}
