//! Memory and updates of a run of PPO before any are spent.

use crate::config::{PpoConfig, ValueInit};
use gptkit_model::{LoraConfig, ModelConfig};
use gptkit_ops::{Precision, scores_bytes};
use gptkit_train::config::Recompute;
use gptkit_train::memory::{Memory, Place, StepPortion, sum};
use gptkit_train::schedule::Schedule;

/// What a run will take, on a processor. Lengths of prompts are not known: every sequence counts as the longest that fits.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// When it takes most in an update.
    pub policy: Memory,
    /// Nothing where adapters are trained.
    pub reference: Memory,
    /// As the policy's; nothing where it is a head on that.
    pub value: Memory,
    /// The reward model.
    pub reward: Memory,
    /// Of the policy's trained weights.
    pub average: u64,
    /// Keys and values of the answers that are generated at once, and of the prompts that are read with them.
    pub cache: u64,
    /// What never leaves: weights, optimizers, average, and the packed weights of what is not trained.
    pub standing: u64,
    /// What comes to that, bytes, in each part of an iteration.
    pub phases: Vec<(Phase, u64)>,
    /// Tokens of the longest sequence: the smaller context.
    pub longest: usize,
    /// Nothing when a length is counted in passes over the prompts.
    pub length: Option<Length>,
}

/// A part of an iteration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The policy writes.
    Answering,
    /// Every model reads what it wrote.
    Scoring,
    /// An update of the policy.
    Policy,
    /// An update of the value network.
    Value,
}

/// How long a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Length {
    /// Prompts that are answered and learned from.
    pub episodes: u64,
    /// Rounds of answering and learning.
    pub iterations: u64,
    /// Of the policy, where `policy.max_approx_kl` ends no iteration before.
    pub updates: u64,
}

/// Tokens that a model reads at a time when it scores.
const TOKENS_AT_A_TIME: usize = 4096;

impl Plan {
    /// The plan of `config` for a policy and a reward model of these shapes.
    pub fn new(config: &PpoConfig, policy: &ModelConfig, reward: &ModelConfig) -> Self {
        let PpoConfig { train, value, .. } = config;
        let precision = train.dtype.precision();
        let longest = policy.context.min(reward.context);
        let [policy, reward] = [policy, reward].map(|model| ModelConfig {
            embedding_dropout: 0.0,
            attention_dropout: 0.0,
            residual_dropout: 0.0,
            ..model.clone()
        });
        let expecting = match value.init {
            _ if value.shared => None,
            ValueInit::Reward => Some(&reward),
            ValueInit::Policy => Some(&policy),
        };
        let adapters = config.policy.lora.as_ref().map(|lora| lora.n_trained(&policy));
        let of_policy = Memory::of_step(&policy, train, &portion(config, &policy, longest, adapters));
        let episodes = episodes_alone(config, longest);
        let of_value = expecting.map_or_else(Memory::default, |model| Memory::of_step(model, train, &episodes));
        let of_reference = match adapters {
            Some(_) => Memory::default(),
            None => Memory::of_frozen(&policy, precision, true),
        };
        let of_reward = Memory::of_frozen(&reward, precision, false);
        let average = config.policy.ema.map_or(0, |_| 4 * adapters.unwrap_or(policy.n_params()));
        let cache = cache(config, &policy, longest);

        // The pass that scores the first update's episodes keeps what its backward pass reads.
        let keeps = if episodes.several { 0 } else { episodes.tokens };
        let policy_kept = sum([Memory::kept(&policy, train, keeps), scores_bytes(keeps, policy.vocab_size)]);

        let trained = [&of_policy, &of_value];
        let stays = |memory: &Memory| sum([memory.weights, memory.optimizer]);
        let frozen = [of_reference.total(), of_reward.total(), average];
        let standing = sum(trained.map(stays).into_iter().chain(frozen));
        let policy_packed = Memory::packed(&policy, precision, 1, 1);
        let value_packed = expecting.map_or(0, |model| Memory::packed(model, precision, 1, 0));
        let comes = |memory: &Memory| memory.total().saturating_sub(stays(memory));
        // That pass has freed the packed weights that it read, unless they are read again.
        let of_text = config.ptx.as_ref().is_some_and(|ptx| ptx.coef > 0.0);
        let freed = !episodes.several && train.recompute == Recompute::None && !of_text;
        let policy_freed = if freed { Memory::packed(&policy, precision, 1, 0) } else { 0 };
        let several_updates = config.policy.epochs > 1 || config.policy.minibatches > 1;
        let of_update = comes(&of_policy).saturating_sub(if several_updates { 0 } else { policy_freed });
        // Passes that keep nothing come first, those of the value network among them.
        let scores = value_packed.saturating_add(scoring(config, [&policy, &reward], longest)).max(policy_kept);
        let mut phases = vec![
            (Phase::Answering, sum([policy_packed, cache, answering(config, &policy)])),
            (Phase::Scoring, sum([policy_packed, scores])),
            (Phase::Policy, of_update),
        ];
        if expecting.is_some() {
            // An update has changed all that the policy had packed, but for the table that adapters leave as it is.
            let table = adapters.map_or(0, |_| Memory::packed(&policy, precision, 0, 1));
            phases.push((Phase::Value, sum([comes(&of_value), table])));
        }
        Self {
            policy: of_policy,
            reference: of_reference,
            value: of_value,
            reward: of_reward,
            average,
            cache,
            standing,
            phases,
            longest,
            length: length(config),
        }
    }

    /// The part of an iteration that takes most, and what it takes beside what never leaves.
    pub fn busiest(&self) -> (Phase, u64) {
        self.phases.iter().copied().max_by_key(|(_, bytes)| *bytes).unwrap_or((Phase::Answering, 0))
    }

    /// The program, and what its allocator holds between tensors.
    pub fn overhead(&self) -> u64 {
        Place::Processor.overhead(sum([self.standing, self.busiest().1]))
    }

    /// Bytes at the peak.
    pub fn peak(&self) -> u64 {
        sum([self.standing, self.busiest().1, self.overhead()])
    }
}

/// Episodes of an update.
fn minibatch(config: &PpoConfig) -> usize {
    config.train.batch_size.div_ceil(config.policy.minibatches.max(1))
}

/// Micro-batches of the policy: episodes, then windows of text, which are as long as its context.
fn portion(config: &PpoConfig, policy: &ModelConfig, longest: usize, adapters: Option<u64>) -> StepPortion {
    let episodes = minibatch(config);
    let learned = config.ptx.as_ref().filter(|ptx| ptx.coef > 0.0);
    let windows = learned.map_or(0, |ptx| episodes.saturating_mul(ptx.per_episode));
    let rows = episodes.saturating_add(windows);
    let micro = config.train.micro_batch().min(rows);
    let of_text = micro.min(windows);
    let tokens = of_text.saturating_mul(policy.context).saturating_add((micro - of_text).saturating_mul(longest));
    StepPortion { tokens, several: micro < rows, scores: true, adapters }
}

/// Micro-batches of the value network.
fn episodes_alone(config: &PpoConfig, longest: usize) -> StepPortion {
    let micro = config.train.micro_batch().min(minibatch(config));
    let several = micro < minibatch(config);
    StepPortion { tokens: micro.saturating_mul(longest), several, scores: false, adapters: None }
}

/// Answers that are written at once. Validation has as many prompts as `train.eval_windows` at most.
fn rows(config: &PpoConfig) -> usize {
    config.rollout.rows.min(config.train.batch_size.max(config.train.eval_windows))
}

fn cache(config: &PpoConfig, policy: &ModelConfig, longest: usize) -> u64 {
    let tokens = rows(config).saturating_mul(longest).saturating_add(policy.context);
    let bytes = 2.0 * config.train.dtype.precision().bytes() as f64;
    (bytes * tokens as f64 * policy.n_layer as f64 * policy.d_model as f64) as u64
}

/// Scores of a token for each answer, as they come and as they are chosen from, and a context of prompts that are read.
fn answering(config: &PpoConfig, policy: &ModelConfig) -> u64 {
    let scores = 2.0 * 4.0 * rows(config) as f64 * policy.vocab_size as f64;
    Memory::activations(policy, config.train.dtype.precision(), policy.context).saturating_add(scores as u64)
}

/// A pass of the larger of `models`, of which the first scores the vocabulary; the value network is like one of them.
fn scoring(config: &PpoConfig, models: [&ModelConfig; 2], longest: usize) -> u64 {
    let precision: Precision = config.train.dtype.precision();
    let all = config.train.batch_size.max(config.train.eval_windows).saturating_mul(longest);
    let tokens = TOKENS_AT_A_TIME.max(longest).min(all);
    let [policy, reward] = models.map(|model| Memory::activations(model, precision, tokens));
    policy.saturating_add(scores_bytes(tokens, models[0].vocab_size)).max(reward)
}

fn length(config: &PpoConfig) -> Option<Length> {
    let PpoConfig { train, policy, .. } = config;
    if train.depends_on_text() {
        return None;
    }
    let schedule = Schedule::of_episodes(train, 0, policy.minibatches);
    let iterations = schedule.n_steps();
    let updates = iterations * policy.epochs as u64 * policy.minibatches as u64;
    Some(Length { episodes: schedule.n_tokens(), iterations, updates })
}

/// The settings, as `--set` takes them, with which `config` fits into `limit` bytes at the least cost: smaller micro-batches
/// and fewer answers at once cost little, recomputed blocks a third more time, and adapters learn less. Nothing when there
/// are none.
pub fn settings_that_fit(
    config: &PpoConfig,
    policy: &ModelConfig,
    reward: &ModelConfig,
    limit: u64,
) -> Option<Vec<String>> {
    let rank = 8.min(policy.d_model);
    let adapted = Some(LoraConfig::new(rank, 2.0 * rank as f64));
    let may_adapt = config.policy.lora.is_none() && !config.value.shared;
    let mut ways = vec![(config.train.recompute, false), (Recompute::Blocks, false)];
    if may_adapt {
        ways.extend([(config.train.recompute, true), (Recompute::Blocks, true)]);
    }
    let episodes = minibatch(config);
    let given = config.train.micro_batch();
    let smaller = (1..given).rev().filter(|&micro| episodes.is_multiple_of(micro));
    let micros: Vec<usize> = std::iter::once(given).chain(smaller).collect();
    for (recompute, adapts) in ways {
        let mut tried = config.clone();
        tried.train.recompute = recompute;
        if adapts {
            tried.policy.lora.clone_from(&adapted);
        }
        for &micro in &micros {
            tried.train.micro_batch = if micro == given { config.train.micro_batch } else { Some(micro) };
            tried.rollout.rows = config.rollout.rows;
            loop {
                let plan = Plan::new(&tried, policy, reward);
                if plan.peak() <= limit {
                    return Some(changes(config, &tried));
                }
                if plan.busiest().0 != Phase::Answering || tried.rollout.rows == 1 {
                    break;
                }
                tried.rollout.rows = (rows(&tried) / 2).max(1);
            }
        }
    }
    None
}

/// What `tried` sets otherwise than `config`.
fn changes(config: &PpoConfig, tried: &PpoConfig) -> Vec<String> {
    let mut set = Vec::new();
    if let Some(micro) = tried.train.micro_batch.filter(|_| tried.train.micro_batch != config.train.micro_batch) {
        set.push(format!("train.micro_batch={micro}"));
    }
    if tried.rollout.rows != config.rollout.rows {
        set.push(format!("rollout.rows={}", tried.rollout.rows));
    }
    if tried.train.recompute != config.train.recompute {
        set.push("train.recompute=blocks".to_owned());
    }
    if let Some(lora) = tried.policy.lora.as_ref().filter(|_| tried.policy.lora != config.policy.lora) {
        set.push(format!("policy.lora.rank={}", lora.rank));
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn model(n_layer: usize, d_model: usize, context: usize) -> ModelConfig {
        let kind = json!({ "kind": "gpt2", "n_layer": n_layer, "n_head": 8, "d_model": d_model, "context": context,
                           "vocab_size": 5000, "residual_dropout": 0.1 });
        serde_json::from_value(kind).unwrap()
    }

    fn config() -> PpoConfig {
        let train = json!({ "length": "50 steps", "batch_size": 64, "lr": 1e-5, "dtype": "f32" });
        let ptx = json!({ "coef": 1.0, "per_episode": 2, "sources": [{ "path": "world" }] });
        let policy = json!({ "minibatches": 4, "epochs": 2, "ema": 0.9 });
        serde_json::from_value(json!({ "train": train, "ptx": ptx, "policy": policy })).unwrap()
    }

    fn plan(config: &PpoConfig) -> Plan {
        Plan::new(config, &model(4, 256, 512), &model(6, 512, 256))
    }

    #[test]
    fn parts_add_up() {
        let config = config();
        let (policy, reward) = (model(4, 256, 512), model(6, 512, 256));
        let plan = plan(&config);
        let [small, large] = [&policy, &reward].map(ModelConfig::n_params);
        let table = (5000 * 256) as u64;
        // Policy, its two moments, reference and average; value network and reward model. Frozen ones have packed blocks only.
        assert_eq!(plan.standing, 4 * (5 * small + table) + 4 * (4 * large));
        assert_eq!(plan.longest, 256);
        let by_name = |phase| plan.phases.iter().find(|(name, _)| *name == phase).unwrap().1;
        let Memory { packed, gradients, activations, logits, .. } = plan.policy;
        // Text is read with the policy's packed weights.
        assert_eq!(by_name(Phase::Policy), packed + gradients + activations + logits);
        let Memory { packed, gradients, activations, logits, .. } = plan.value;
        assert_eq!(logits, 0);
        assert_eq!(by_name(Phase::Value), packed + gradients + activations);
        // 64 answers of 256 tokens, and prompts of 512.
        assert_eq!(plan.cache, 2 * 4 * (64 * 256 + 512) * 4 * 256);
        // Activations of 16 episodes that the policy's backward pass needs.
        let undropped = ModelConfig { residual_dropout: 0.0, ..policy.clone() };
        let kept = Memory::kept(&undropped, &config.train, 16 * 256);
        assert!(by_name(Phase::Answering) > plan.cache && by_name(Phase::Scoring) > kept);
        let most = plan.phases.iter().map(|(_, bytes)| *bytes).max().unwrap();
        assert_eq!(plan.peak(), plan.standing + most + plan.overhead());
        assert_eq!(plan.length, Some(Length { episodes: 3200, iterations: 50, updates: 400 }));
    }

    #[test]
    fn a_micro_batch_has_windows_of_text_among_its_rows() {
        let policy = model(4, 256, 512);
        let tokens = |config: &PpoConfig| portion(config, &policy, 256, None);
        // 16 episodes and 32 windows, all at once.
        assert_eq!((tokens(&config()).tokens, tokens(&config()).several), (16 * 256 + 32 * 512, false));
        let mut few = config();
        few.train.micro_batch = Some(8);
        assert_eq!((tokens(&few).tokens, tokens(&few).several), (8 * 512, true));
        few.ptx = None;
        assert_eq!((tokens(&few).tokens, tokens(&few).several), (8 * 256, true));
        assert_eq!(episodes_alone(&few, 256).tokens, 8 * 256);
    }

    #[test]
    fn adapters_need_no_reference_and_few_moments() {
        let mut config = config();
        let whole = plan(&config);
        config.policy.lora = Some(LoraConfig::new(8, 16.0));
        let adapted = plan(&config);
        assert_eq!(adapted.reference, Memory::default());
        assert_eq!(adapted.policy.optimizer, 8 * 8 * 16 * 256 * 4);
        assert_eq!(adapted.average, adapted.policy.optimizer / 2);
        assert!(adapted.policy.weights > whole.policy.weights, "frozen matrices are kept");
        assert!(adapted.peak() < whole.peak());
        assert_eq!(adapted.value, whole.value);
    }

    #[test]
    fn a_shared_value_has_no_network() {
        let mut config = config();
        config.value.shared = true;
        let plan = plan(&config);
        assert_eq!(plan.value, Memory::default());
        assert!(plan.phases.iter().all(|(phase, _)| *phase != Phase::Value));
        config.value = crate::config::ValueConfig { init: ValueInit::Policy, ..Default::default() };
        assert_eq!(self::plan(&config).value.optimizer, plan.policy.optimizer);
    }

    #[test]
    fn the_settings_that_are_named_do_fit() {
        let (policy, reward) = (model(24, 128, 4096), model(2, 128, 2048));
        let config = config();
        let peak = |config: &PpoConfig| Plan::new(config, &policy, &reward).peak();
        let whole = peak(&config);
        assert_eq!(settings_that_fit(&config, &policy, &reward, whole), Some(Vec::new()));
        let (mut found, mut limit) = (Vec::new(), whole);
        loop {
            limit = limit / 200 * 197;
            let Some(set) = settings_that_fit(&config, &policy, &reward, limit) else { break };
            let text = gptkit_config::resolved(&config).unwrap();
            let set_config: PpoConfig = gptkit_config::load("test", &text, &set).unwrap();
            assert!(peak(&set_config) <= limit, "{set:?}");
            found.extend(set);
        }
        for setting in ["train.micro_batch=1", "rollout.rows=", "train.recompute=blocks", "policy.lora.rank=8"] {
            assert!(found.iter().any(|set| set.starts_with(setting)), "{setting}: {found:?}");
        }
        assert_eq!(settings_that_fit(&config, &policy, &reward, 1 << 20), None);
    }

    #[test]
    fn passes_over_prompts_have_no_length_yet() {
        let mut config = config();
        config.train.length = gptkit_train::Span::Epochs(2.0);
        assert_eq!(plan(&config).length, None);
    }
}
