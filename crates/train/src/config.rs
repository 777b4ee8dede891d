//! What a user may set of training.

use crate::span::Span;
use anyhow::{Result, ensure};
use gptkit_config::{Check, Problems};
use gptkit_model::Dtype;
use gptkit_ranks::Ranks;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the learning rate decays after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// Along half a cosine wave.
    Cosine,
    /// Along a straight line.
    Linear,
    /// No decay.
    Constant,
}

/// Where Adam adds its ε. With a large ε, the first updates of the two variants differ by factors; PyTorch's are larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EpsPlacement {
    /// To the root of the bias-corrected mean square, as in PyTorch.
    PyTorch,
    /// To the root before bias correction, as in TensorFlow 1 (Kingma & Ba 2015, end of §2: ε̂).
    TensorFlow,
}

/// What changes the weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// AdamW (Loshchilov & Hutter 2019).
    #[default]
    AdamW,
    /// Muon for the matrices of layers, AdamW for all other weights (Jordan et al. 2024).
    Muon,
}

/// What to do with an update whose loss spikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnSpike {
    /// Apply the update, and say so.
    Report,
    /// Skip the update, and say so.
    Skip,
}

/// Activations that the backward pass recomputes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// None: all activations are kept.
    None,
    /// Those of each block, from its input (Chen et al. 2016): memory for one block's activations, a third more time.
    Blocks,
}

/// How a model is trained; TOML section `[train]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrainConfig {
    /// Length of the training: steps, tokens or epochs (PPO: steps, episodes or epochs).
    pub length: Span,
    /// Number of rows per update.
    pub batch_size: usize,
    /// Number of rows computed at a time, whose gradients are accumulated; the whole batch when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
    /// Parts of a batch, a power of two, whose gradients are added as a binary tree: the ranks of `mpirun` share them out, and
    /// the result has the same bits on any number of ranks that divides it. When left out: the number of ranks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<usize>,
    /// Batch size of the first update, if it grows to `batch_size` over `batch_ramp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_ramp_start: Option<usize>,
    /// Length of the linear growth of the batch (Brown et al. 2020, appendix B, in tokens).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_ramp: Option<Span>,
    /// Peak learning rate.
    pub lr: f64,
    /// Learning rate at the end of the decay.
    #[serde(default)]
    pub min_lr: f64,
    /// Length of the linear warm-up of the learning rate from 0.
    #[serde(default = "no_span")]
    pub warmup: Span,
    /// Shape of the decay: cosine, linear or constant.
    #[serde(default = "cosine")]
    pub decay: Decay,
    /// Start of the decay, counted from the start of the run; the end of the warm-up when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decay_start: Option<Span>,
    /// End of the decay, counted from the start of the run; `length` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decay_end: Option<Span>,
    /// The optimizer.
    #[serde(default)]
    pub optimizer: OptimizerKind,
    /// Peak learning rate of Muon, on the same schedule as `lr`; 10/3 of `lr` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub muon_lr: Option<f64>,
    /// Momentum of Muon; 0.95 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub muon_momentum: Option<f64>,
    /// β₁ of AdamW: decay of the mean of the gradients.
    #[serde(default = "beta1")]
    pub beta1: f64,
    /// β₂ of AdamW: decay of the mean of the squared gradients.
    #[serde(default = "beta2")]
    pub beta2: f64,
    /// ε of AdamW.
    #[serde(default = "eps")]
    pub eps: f64,
    /// Where ε is added: pytorch or tensorflow.
    #[serde(default = "pytorch")]
    pub eps_placement: EpsPlacement,
    /// Decoupled weight decay of matrices and embeddings; biases and gains do not decay.
    #[serde(default)]
    pub weight_decay: f64,
    /// Maximum norm of the gradient over all parameters; no limit when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// Precision of matrix products on the CPU: auto, f32 or bf16.
    #[serde(default)]
    pub dtype: Dtype,
    /// Activations that the backward pass recomputes to save memory: none or blocks.
    #[serde(default = "no_recompute")]
    pub recompute: Recompute,
    /// Number of recent losses with which a new loss is compared to find spikes.
    #[serde(default = "spike_window")]
    pub spike_window: usize,
    /// Standard deviations above the mean of recent losses at which a loss counts as a spike.
    #[serde(default = "spike_z")]
    pub spike_z: f64,
    /// What to do with the update of a spike: report or skip.
    #[serde(default = "on_spike")]
    pub on_spike: OnSpike,
    /// Number of newest checkpoints that are kept; the best weights are kept as well.
    #[serde(default = "keep_checkpoints")]
    pub keep_checkpoints: usize,
    /// Steps between validations, each of which saves a checkpoint. When left out: one epoch in stages that learn from
    /// records, else 250.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_every: Option<u64>,
    /// Number of validation rows measured, evenly spread over the validation part.
    #[serde(default = "eval_windows")]
    pub eval_windows: usize,
    /// Early stopping: number of validations without a better loss (PPO: a higher reward) after which training ends; never
    /// when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<u32>,
}

/// The seed of a run whose configuration sets none, in every stage.
pub fn default_seed() -> u64 {
    1
}

fn no_span() -> Span {
    Span::NONE
}
fn cosine() -> Decay {
    Decay::Cosine
}
fn beta1() -> f64 {
    0.9
}
fn beta2() -> f64 {
    0.95
}
fn eps() -> f64 {
    1e-8
}
fn pytorch() -> EpsPlacement {
    EpsPlacement::PyTorch
}
fn no_recompute() -> Recompute {
    Recompute::None
}
fn spike_window() -> usize {
    100
}
fn spike_z() -> f64 {
    6.0
}
fn on_spike() -> OnSpike {
    OnSpike::Report
}
fn keep_checkpoints() -> usize {
    2 // the newest, and one in case it is damaged
}
fn eval_windows() -> usize {
    256
}

/// Most windows, and steps that are looked back at.
const LARGEST: usize = 1 << 24;

impl TrainConfig {
    /// Windows in memory at a time.
    pub fn micro_batch(&self) -> usize {
        self.micro_batch_of(self.batch_size)
    }

    /// Rows in memory at a time of a batch of `n_rows`.
    pub fn micro_batch_of(&self, n_rows: usize) -> usize {
        self.micro_batch.unwrap_or(n_rows / self.shards().clamp(1, n_rows.max(1)))
    }

    /// Micro-batches of a batch.
    fn n_micro_batches(&self) -> usize {
        self.batch_size / self.micro_batch().max(1)
    }

    /// Parts of a batch whose gradients are added as a binary tree.
    pub fn shards(&self) -> usize {
        self.shards.unwrap_or(1)
    }

    /// The same for one of `ranks`, which computes its share of the parts of a batch.
    pub fn of_rank(&self, ranks: &Ranks) -> Self {
        let shards = self.shards.map(|shards| (shards / ranks.size()).max(1));
        Self { micro_batch: Some(self.micro_batch()), shards, ..self.clone() }
    }

    /// Compares the parts of a batch with the ranks that share them out.
    ///
    /// # Errors
    /// When the ranks cannot have as many parts each.
    pub fn check_ranks(&self, ranks: &Ranks) -> Result<()> {
        let (shards, size) = (self.shards(), ranks.size());
        ensure!(
            shards.is_multiple_of(size),
            "there are {size} ranks, but train.shards is {shards}: the ranks cannot share out the parts of a batch\n  \
             hint: start {} ranks or fewer, or begin a new run with train.shards = {size}",
            shards.min(size)
        );
        let n_micro = self.n_micro_batches();
        ensure!(
            shards <= n_micro.max(1),
            "there are {size} ranks, but a batch has {n_micro} micro-batches\n  hint: set train.micro_batch to {}, or \
             start fewer ranks",
            (self.batch_size / shards).max(1)
        );
        Ok(())
    }

    /// Steps between validations.
    pub fn eval_every(&self) -> u64 {
        self.eval_every.unwrap_or(250)
    }

    /// Muon's highest learning rate.
    pub fn muon_lr(&self) -> f64 {
        // Jordan's 0.02 at the learning rate that AdamW has best beside it in our small models, 6e-3. It follows `lr`, so that who
        // lowers that lowers both.
        self.muon_lr.unwrap_or(self.lr * (0.02 / 6e-3))
    }

    /// Muon's decay of the mean of gradients.
    pub fn muon_momentum(&self) -> f64 {
        self.muon_momentum.unwrap_or(0.95)
    }

    /// Decides what is left to the machine and to `ranks`, so that a run goes on elsewhere as it began.
    pub fn settle(&mut self, ranks: &Ranks) {
        self.dtype = self.dtype.settled();
        if !ranks.is_alone() {
            self.shards.get_or_insert(ranks.size());
        }
    }

    /// Has an epoch of so many rows end with a validation, where nothing else is said.
    pub fn validate_each_epoch(&mut self, rows_per_epoch: u64) {
        self.eval_every.get_or_insert(rows_per_epoch.div_ceil(self.batch_size as u64).max(1));
    }

    /// Every length that is set, by its key.
    fn spans(&self) -> impl Iterator<Item = (&'static str, Span)> {
        let all = [
            ("length", Some(self.length)),
            ("warmup", Some(self.warmup)),
            ("batch_ramp", self.batch_ramp),
            ("decay_start", self.decay_start),
            ("decay_end", self.decay_end),
        ];
        all.into_iter().filter_map(|(key, span)| Some((key, span?)))
    }

    /// Whether a length is counted in passes over the text, or of PPO over the prompts.
    pub fn depends_on_text(&self) -> bool {
        self.spans().any(|(_, span)| matches!(span, Span::Epochs(_)))
    }

    /// Refuses what needs a validation part where there is none.
    ///
    /// # Errors
    /// When `train.patience` is set and `has_validation` is false.
    pub fn check_validation(&self, has_validation: bool) -> Result<()> {
        ensure!(
            has_validation || self.patience.is_none(),
            "train.patience needs a validation set, but there is none\n  hint: add validation data with --val, or \
             remove train.patience"
        );
        Ok(())
    }

    fn check_units(&self, of_episodes: bool, problems: &mut Problems) {
        for (key, span) in self.spans() {
            match span {
                Span::Tokens(_) if of_episodes => problems.add(
                    key,
                    "is in tokens, but PPO counts episodes (a prompt and its completion)",
                    "use iterations or episodes, for instance \"100 steps\" or \"50k episodes\"",
                ),
                Span::Episodes(_) if !of_episodes => problems.add(
                    key,
                    "is in episodes, which only PPO supports",
                    "use, for instance, \"2000 steps\", \"10M tokens\" or \"3 epochs\"",
                ),
                _ => {}
            }
        }
    }

    fn check_values(&self, problems: &mut Problems) {
        problems.require(self.length.is_positive(), "length", "must be positive", "use, for instance, \"2000 steps\"");
        problems.require(self.batch_size > 0, "batch_size", "must be positive", "use 1 or more");
        for (value, key) in [
            (self.batch_size, "batch_size"),
            (self.micro_batch.unwrap_or(0), "micro_batch"),
            (self.shards(), "shards"),
            (self.eval_windows, "eval_windows"),
            (self.spike_window, "spike_window"),
        ] {
            problems.at_most(value, LARGEST, key);
        }
        let (micro, sound) = (self.micro_batch(), self.shards().is_power_of_two());
        if sound && (1..=LARGEST).contains(&self.batch_size) && (micro == 0 || !self.batch_size.is_multiple_of(micro)) {
            let near = (1..=micro.clamp(1, self.batch_size)).rev().find(|&m| self.batch_size.is_multiple_of(m));
            let what = format!("must divide the batch size of {}", self.batch_size);
            problems.add("micro_batch", what, format!("use {}", near.unwrap_or(1)));
        }
        problems.require(sound, "shards", "must be a power of two", "use, for instance, 4, or the number of ranks");
        let n_micro = self.n_micro_batches();
        if sound && self.shards() > n_micro.max(1) {
            let what = format!("must not exceed the {n_micro} micro-batches of a batch");
            let most = self.batch_size / self.shards();
            let hint = match most {
                0 => format!("use {} or less", 1 << self.batch_size.max(1).ilog2()),
                _ => format!("set micro_batch to {most} or less, or use fewer shards"),
            };
            problems.add("shards", what, hint);
        }
        match (self.batch_ramp_start, self.batch_ramp) {
            (None, None) => {}
            (Some(_), None) => problems.add("batch_ramp", "is missing", "set the length over which the batch grows"),
            (None, Some(_)) => problems.add("batch_ramp_start", "is missing", "set the batch size at the start"),
            (Some(start), Some(ramp)) => {
                problems.require(
                    ramp.is_positive(),
                    "batch_ramp",
                    "must be positive",
                    "use, for instance, \"100 steps\"",
                );
                let fits = start > 0 && start <= self.batch_size;
                problems.require(
                    fits,
                    "batch_ramp_start",
                    "must be between 1 and batch_size",
                    "use less than batch_size",
                );
            }
        }
        let positive = |x: f64| x.is_finite() && x > 0.0;
        problems.require(positive(self.lr), "lr", "must be positive", "use, for instance, 6e-4");
        problems.require(
            self.min_lr >= 0.0 && self.min_lr <= self.lr,
            "min_lr",
            "must be between 0 and lr",
            "use a tenth of lr",
        );
        problems.require(self.muon_lr.is_none_or(positive), "muon_lr", "must be positive", "use, for instance, 0.02");
        for (key, value) in [("muon_lr", self.muon_lr), ("muon_momentum", self.muon_momentum)] {
            let used = value.is_none() || self.optimizer == OptimizerKind::Muon;
            problems.require(
                used,
                key,
                "is only for train.optimizer = \"muon\"",
                "set train.optimizer = \"muon\", or remove the key",
            );
        }
        for (key, beta) in [("beta1", self.beta1), ("beta2", self.beta2), ("muon_momentum", self.muon_momentum())] {
            problems.require((0.0..1.0).contains(&beta), key, "must be at least 0 and below 1", "use 0.9 to 0.999");
        }
        problems.require(positive(self.eps), "eps", "must be positive", "use 1e-8");
        let decay = self.weight_decay;
        problems.require(
            decay.is_finite() && decay >= 0.0,
            "weight_decay",
            "must not be negative",
            "use 0.1, or 0 for none",
        );
        problems.require(self.clip.is_none_or(positive), "clip", "must be positive", "remove it for no limit");
        problems.require(self.spike_window > 1, "spike_window", "must be at least 2", "use 100");
        problems.require(positive(self.spike_z), "spike_z", "must be positive", "use 6");
        problems.require(self.keep_checkpoints > 0, "keep_checkpoints", "must be positive", "use 2");
        problems.require(self.eval_every != Some(0), "eval_every", "must be positive", "use 250");
        problems.require(self.eval_windows > 0, "eval_windows", "must be positive", "use 256");
        problems.require(self.patience != Some(0), "patience", "must be positive", "use 5, or remove the key");
    }
}

/// A [`TrainConfig`] of a stage whose rows are episodes: lengths in tokens are refused, those in episodes are not.
pub struct OfEpisodes<'a>(pub &'a TrainConfig);

impl Check for OfEpisodes<'_> {
    fn check(&self, problems: &mut Problems) {
        self.0.check_values(problems);
        self.0.check_units(true, problems);
    }
}

impl Check for TrainConfig {
    fn check(&self, problems: &mut Problems) {
        self.check_values(problems);
        self.check_units(false, problems);
    }
}
