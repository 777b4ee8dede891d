//! Direct preference optimization: what PPO does with a reward model, from the comparisons alone (Rafailov et al. 2023).

use crate::compared::{self, Compared, log_probs};
use anyhow::{Context, Result};
use candle_core::Tensor;
use gptkit_config::{Check, Problems};
use gptkit_data::progress::grouped;
use gptkit_data::source::SourceLocation;
use gptkit_data::template::Template;
use gptkit_data::tokenizer::Tokenizer;
use gptkit_model::folder::save_ends;
use gptkit_model::load::{ModelFolder, load_config, load_trained_weights};
use gptkit_model::{Gpt, LoraConfig, Pass, Weights};
use gptkit_reward::group::{Group, GroupEncoder};
use gptkit_reward::groups::{self, ComparisonConfig, Groups, encode_all, say};
use gptkit_reward::loss::{LossConfig, Pairs};
use gptkit_reward::report::{RankedPrompt, RewardReport};
use gptkit_train::Resumable;
use gptkit_train::RunContext;
use gptkit_train::config::{TrainConfig, default_seed};
use gptkit_train::learner::Supervised;
use gptkit_train::model_used::ModelUsed;
use gptkit_train::objective::{Objective, Validate, Validation};
use gptkit_train::stage::{Model, Stage, StageData};
use gptkit_train::start::{DropoutConfig, Start};
use gptkit_train::state::State;
use gptkit_train::trainer::Trainer;
use gptkit_train::training_data::TrainingData;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Configuration of `gptkit dpo`; a preset `dpo-*`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DpoConfig {
    /// One line that says what the configuration is for.
    #[serde(default)]
    pub description: String,
    /// Seed of all random draws.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// The comparisons to learn.
    #[serde(default)]
    pub data: ComparisonConfig,
    /// The loss of DPO.
    #[serde(default)]
    pub dpo: PreferenceConfig,
    /// Dropout probabilities; 0 when left out, whatever the model's own are.
    #[serde(default)]
    pub dropout: DropoutConfig,
    /// LoRA adapters; all weights are trained when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// How the model is trained. A row is a prompt with all its completions.
    pub train: TrainConfig,
}

/// The loss of DPO; TOML section `[dpo]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PreferenceConfig {
    /// Strength β of the tie to the reference model: the larger, the closer the model stays to it (Rafailov et al. 2023,
    /// eq. 7).
    pub beta: f64,
}

impl Default for PreferenceConfig {
    /// The paper's, appendix B.
    fn default() -> Self {
        Self { beta: 0.1 }
    }
}

impl Check for PreferenceConfig {
    fn check(&self, problems: &mut Problems) {
        problems.require(self.beta > 0.0 && self.beta.is_finite(), "beta", "must be positive and finite", "use 0.1");
    }
}

impl Check for DpoConfig {
    fn check(&self, problems: &mut Problems) {
        problems.section("data", &self.data);
        problems.section("dpo", &self.dpo);
        problems.section("dropout", &self.dropout);
        problems.section("train", &self.train);
        if let Some(lora) = &self.lora {
            problems.section("lora", lora);
        }
    }
}

impl DpoConfig {
    /// Whether comparisons are those of the embedded world, whose judges can then say what was learned.
    pub fn is_of_world(&self) -> bool {
        self.data.sources.iter().any(|source| SourceLocation::is_world(source))
    }
}

/// What a model has learned of comparisons that were held out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Learned {
    /// The reward that the model implies, as a reward model's.
    #[serde(flatten)]
    pub report: RewardReport,
    /// How far the better completion's reward lies above the worse one's, on average over pairs.
    pub margin: f64,
    /// log(π/π_ref) of the better completion, nats, on average over pairs.
    pub chosen_log_ratio: f64,
    /// The same of the worse.
    pub rejected_log_ratio: f64,
}

/// File below a run that says what its model is worth.
pub const SCORES: &str = "scores.json";
/// File below a run that says which model it started from.
const REFERENCE: &str = "reference.json";
/// File of the training part below a run, and of the validation part, with what the reference gives each completion.
pub const FILES: [&str; 2] = ["train.compared", "val.compared"];

/// Direct preference optimization of a model.
pub struct Dpo {
    config: DpoConfig,
    /// Model folder that a new run starts from, and the reference.
    init: PathBuf,
}

/// What was measured once training has ended.
#[derive(Debug)]
pub struct DpoReport {
    /// Folder of the model that training started from.
    pub reference: PathBuf,
    /// Metrics on the validation set; `None` if all its pairs are ties.
    pub learned: Option<Learned>,
}

/// Weights, and tokens that end an answer, of a new run.
pub struct DpoParts {
    weights: Weights,
    ends: Option<Vec<u32>>,
}

impl Dpo {
    /// A run of `config`, which starts from the model folder `init`; a resumed run needs none.
    pub fn new(config: DpoConfig, init: Option<&Path>) -> Self {
        Self { config, init: init.map(Path::to_owned).unwrap_or_default() }
    }
}

impl Stage for Dpo {
    type Config = DpoConfig;
    type Learner = Supervised<Preferring>;
    type Parts = DpoParts;
    type Report = DpoReport;

    const FILES: &'static [&'static str] = &FILES;

    fn config(&self) -> &DpoConfig {
        &self.config
    }

    fn train(&self) -> &TrainConfig {
        &self.config.train
    }

    fn train_mut(&mut self) -> &mut TrainConfig {
        &mut self.config.train
    }

    fn prepare(&mut self, aside: &Path, context: &RunContext) -> Result<Model<DpoParts>> {
        let (config, init, progress) = (&self.config, &self.init, context.progress);
        let mut start = Start::load_transformer(init, context.device)?;
        Template::required(&start.tokenizer, init)?;
        config.dropout.or_zero().apply(&mut start.config);
        let template = start.template(config.seed)?;
        let ends = start.ends(&template)?;
        let weights = start.weights(config.lora.as_ref(), config.seed, progress)?;
        let Start { config: shape, tokenizer, .. } = start;
        let encoder = GroupEncoder { tokenizer, template, context: shape.context };
        let counts = encode_all(&config.data, &encoder, aside, progress)?;
        say(&counts, progress);
        encoder.tokenizer.check_losses("the comparisons", progress)?;
        // Adapters change nothing at first, so that this is the reference, too.
        let reference = Gpt::new(&shape, weights.params(), config.train.dtype.precision())?;
        for (plain, compared) in groups::FILES.into_iter().zip(FILES) {
            let plain = Groups::open(&aside.join(plain), 0, Group::of)?;
            compared::keep(&plain, &reference, &aside.join(compared), progress)?;
        }
        let parts = DpoParts { weights, ends: Some(ends) };
        Ok(Model { config: shape, tokenizer: encoder.tokenizer, parts })
    }

    fn load(&mut self, run: &Resumable, context: &RunContext) -> Result<Model<DpoParts>> {
        let mut shape = load_config(&run.checkpoint)?;
        self.config.dropout.or_zero().apply(&mut shape); // adapters know their base's
        let weights = load_trained_weights(&run.checkpoint, context.device)?;
        let tokenizer = Tokenizer::load(&run.checkpoint)?;
        Ok(Model { config: shape, tokenizer, parts: DpoParts { weights, ends: None } })
    }

    fn open(&mut self, folder: &Path, _: &Model<DpoParts>, _: &RunContext) -> Result<StageData<Self>> {
        let [train, val] = FILES.map(|name| folder.join(name));
        let Groups { records, mean_tokens, .. } = Groups::open(&train, self.config.seed, Compared::of)?;
        let val = Groups::open(&val, 0, Compared::of)?.records;
        Ok(TrainingData::of_records(folder, records, mean_tokens, &val, &self.config.train))
    }

    fn describe(&self, model: &Model<DpoParts>, run: &Path) -> Result<()> {
        let Some(ends) = &model.parts.ends else { return Ok(()) };
        save_ends(run, ends)?;
        gptkit_data::disk::write_json(&run.join(REFERENCE), &ModelUsed::of(&self.init)?)
    }

    fn learner(
        &mut self,
        model: Model<DpoParts>,
        data: &mut StageData<Self>,
        context: &RunContext,
    ) -> Result<Self::Learner> {
        let (config, weights) = (&self.config, model.parts.weights);
        let policy = Gpt::new(&model.config, weights.params(), config.train.dtype.precision())?;
        let preferring = Preferring { policy, beta: config.dpo.beta };
        let trainer = Trainer::new(preferring, weights, &config.train, config.seed, context.ranks)?;
        Ok(Supervised::new(trainer, data))
    }

    fn announce(&self, learner: &Self::Learner, run: &Path, context: &RunContext) {
        context.progress.note(&format!(
            "{} of {} parameters are trained · β {} · {} prompts per step · to {}",
            grouped(learner.trainer().weights().trained().n_elements()),
            grouped(learner.trainer().objective().policy.config().n_params()),
            self.config.dpo.beta,
            self.config.train.batch_size,
            run.display()
        ));
    }

    /// Measures the best weights on the whole validation part.
    fn report(&mut self, _: &mut Self::Learner, run: &Path, _: &State, context: &RunContext) -> Result<DpoReport> {
        let config = &self.config;
        let path = run.join(REFERENCE);
        let origin = gptkit_data::disk::read_description(&path)?;
        let ModelUsed { folder: reference, .. } =
            serde_json::from_str(&origin).with_context(|| format!("{} is damaged", path.display()))?;
        let ModelFolder { config: shape, params, .. } = ModelFolder::load(run, context.device)?;
        let best =
            Preferring { policy: Gpt::new(&shape, &params, config.train.dtype.precision())?, beta: config.dpo.beta };
        let [train, val] = FILES.map(|name| run.join(name));
        let longer_won = Groups::open(&train, config.seed, Compared::of)?.longer_wins;
        let batches = Groups::open(&val, 0, Compared::of)?.records.all(config.train.micro_batch(), usize::MAX);
        let rewards = batches.iter().map(|batch| best.outputs(batch)).collect::<Result<Vec<_>>>()?;
        let learned = best.learned(&batches, &rewards, longer_won);
        if let Some(learned) = &learned {
            gptkit_data::disk::write_json(&run.join(SCORES), learned)?;
        }
        Ok(DpoReport { reference, learned })
    }
}

/// β·log(π/π_ref), the reward that a policy implies (Rafailov et al. 2023, eq. 5; the prompt's term, which differences do
/// not have, is left out). `policy` and the numbers of `reference`: `[M]`, log-probabilities. Returns `[M]`.
fn implied_rewards(policy: &Tensor, reference: Vec<f32>, beta: f64) -> Result<Tensor> {
    Ok(((policy - Tensor::new(reference, policy.device())?)? * beta)?)
}

/// The mean over `n_groups` groups, of which those with `places` are here, of −log σ of the difference that the implied
/// `rewards` of a pair have (Rafailov et al. 2023, eq. 7): a reward model's loss. Returns a scalar.
fn loss_of<'a>(rewards: &Tensor, places: impl IntoIterator<Item = &'a [u32]>, n_groups: usize) -> Result<Tensor> {
    Pairs::of(places, n_groups).loss(rewards, &LossConfig::default())
}

/// The objective of DPO: a policy that is to prefer what labelers prefer.
pub struct Preferring {
    policy: Gpt,
    beta: f64,
}

impl Preferring {
    /// β·log(π/π_ref) of each completion of `batch`, `[M]`, as part of a graph when `pass` trains.
    fn rewards(&self, batch: &[Compared], pass: Pass) -> Result<Tensor> {
        let groups: Vec<&Group> = batch.iter().map(|compared| &compared.group).collect();
        let policy = log_probs(&self.policy, &groups, pass)?;
        let reference: Vec<f32> = batch.iter().flat_map(|compared| compared.reference.iter().copied()).collect();
        implied_rewards(&policy, reference, self.beta)
    }

    /// Evaluates the policy on `batches` from its implied `rewards`. `longer_won` is the share of training pairs in which the
    /// longer answer was preferred. Returns `None` if no pair has a preference.
    fn learned(&self, batches: &[Vec<Compared>], rewards: &[Vec<f32>], longer_won: f64) -> Option<Learned> {
        let mut judged = Vec::new();
        for (batch, rewards) in batches.iter().zip(rewards) {
            let mut rewards = rewards.iter().copied();
            judged.extend(
                batch.iter().map(|Compared { group, .. }| {
                    RankedPrompt::new(group, rewards.by_ref().take(group.len()).collect())
                }),
            );
        }
        let report = RewardReport::of(&judged, longer_won)?;
        let (chosen, rejected) = (report.chosen.mean, report.rejected.mean);
        Some(Learned {
            margin: chosen - rejected,
            chosen_log_ratio: chosen / self.beta,
            rejected_log_ratio: rejected / self.beta,
            report,
        })
    }
}

impl Objective for Preferring {
    type Batch = Vec<Compared>;
    type Metrics = ();

    fn rows(&self, batch: &Vec<Compared>) -> usize {
        batch.len()
    }

    fn loss(&self, batch: &Vec<Compared>, rows: Range<usize>, pass: Pass) -> Result<(Tensor, ())> {
        let compared = &batch[rows];
        let places = compared.iter().map(|one| one.group.places.as_slice());
        Ok((loss_of(&self.rewards(compared, pass)?, places, batch.len())?, ()))
    }
}

impl Validate for Preferring {
    fn n_tokens(&self, batch: &Vec<Compared>) -> u64 {
        batch.iter().flat_map(|one| &one.group.sequences).map(|sequence| sequence.len() as u64).sum()
    }

    /// The rewards that the policy implies.
    fn outputs(&self, batch: &Vec<Compared>) -> Result<Vec<f32>> {
        Ok(self.rewards(batch, Pass::Eval)?.to_vec1()?)
    }

    fn conclude(&self, batches: &[Vec<Compared>], outputs: &[Vec<f32>]) -> Result<Validation> {
        let learned = self.learned(batches, outputs, 0.5);
        let Learned { report, margin, chosen_log_ratio, rejected_log_ratio } =
            learned.context("the validation set has no pairs")?;
        let scores = [
            ("accuracy", report.accuracy.value),
            ("margin", margin),
            ("chosen_log_ratio", chosen_log_ratio),
            ("rejected_log_ratio", rejected_log_ratio),
        ];
        let scores = BTreeMap::from(scores.map(|(name, score)| (name.to_owned(), score)));
        Ok(Validation::new(report.loss, scores))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answers::{self, Answer};
    use candle_core::{Device, Var};
    use gptkit_model::{Kind, ModelConfig, Params, Weights};
    use gptkit_ops::Precision;
    use gptkit_ranks::ALONE;
    use gptkit_testing::{assert_close, golden_cases, narrow, numbers};
    use serde_json::json;

    const TRAIN: Pass = Pass::Train { seed: 1, first_row: 0, recompute: false };
    const BETA: f64 = 0.3;

    fn shape(kind: Kind) -> ModelConfig {
        let text = json!({ "kind": kind, "n_layer": 2, "n_head": 2, "d_model": 16, "context": 40, "vocab_size": 23, "init_std": 0.02 });
        serde_json::from_value(text).unwrap()
    }

    /// Weights larger than first values are, so that differences can be measured.
    fn params(kind: Kind, seed: u64) -> Params {
        let params = Params::init(&shape(kind), seed, &Device::Cpu).unwrap();
        for (name, parameter) in params.iter() {
            if name.ends_with("weight") && parameter.var().rank() == 2 {
                parameter.set(&(parameter.tensor(false) * 4.0).unwrap()).unwrap();
            }
        }
        params
    }

    fn policy(kind: Kind, params: &Params) -> Preferring {
        Preferring { policy: Gpt::new(&shape(kind), params, Precision::F32).unwrap(), beta: BETA }
    }

    /// K completions of uneven lengths after a prompt; the first tokens of some are alike, too.
    fn group(prompt: u32, places: &[u32]) -> Group {
        let tokens = |from: u32, n: u32| (0..n).map(move |t| (from * 5 + t * 3 + t * t) % 23).collect::<Vec<u32>>();
        let said = |i: u32| [tokens(0, prompt), vec![1], vec![i % 23], tokens(i, (3 * i) % 7)].concat();
        let sequences = (0..places.len() as u32).map(said).collect();
        Group { sequences, prompt: prompt as usize, places: places.to_vec(), gold: None }
    }

    fn groups() -> Vec<Group> {
        vec![group(9, &[2, 1]), group(1, &[2, 1, 3, 3]), group(14, &[1, 2, 2, 3, 1]), group(4, &[1, 3, 2])]
    }

    /// `groups` with what a reference gives each completion, by another way than the stage's: each alone, token by token.
    fn compared(groups: Vec<Group>, reference: &Gpt) -> Vec<Compared> {
        groups.into_iter().map(|group| Compared { reference: one_by_one(reference, &group), group }).collect()
    }

    fn one_by_one(model: &Gpt, group: &Group) -> Vec<f32> {
        let alone = |tokens: &Vec<u32>| {
            let answer = Answer { tokens: tokens.clone(), prompt: group.prompt };
            answers::log_probs(model, &[answer], 1.0).unwrap()[0].iter().sum()
        };
        group.sequences.iter().map(alone).collect()
    }

    /// Eq. 7 in f64, pair by pair, from log-probabilities.
    fn by_hand(policy: &Gpt, batch: &[Compared]) -> f64 {
        let of = |Compared { group, reference }: &Compared| {
            let policy = one_by_one(policy, group);
            let ratio = |i: usize| f64::from(policy[i]) - f64::from(reference[i]);
            let mut losses = Vec::new();
            for (w, winner) in group.places.iter().enumerate() {
                for (l, loser) in group.places.iter().enumerate() {
                    if winner < loser {
                        losses.push((1.0 + (-BETA * (ratio(w) - ratio(l))).exp()).ln());
                    }
                }
            }
            losses.iter().sum::<f64>() / losses.len() as f64
        };
        batch.iter().map(of).sum::<f64>() / batch.len() as f64
    }

    fn gradients(params: &Params, loss: &Tensor) -> Vec<(String, Vec<f32>)> {
        Weights::from(params.clone()).begin_update().backward(|| anyhow::Ok(loss.clone())).unwrap();
        let flat = |x: Tensor| x.flatten_all().unwrap().to_vec1().unwrap();
        params.iter().map(|(name, p)| (name.to_owned(), flat(p.gradient().unwrap()))).collect()
    }

    fn largest(all: &[(String, Vec<f32>)]) -> f32 {
        all.iter().flat_map(|(_, gradient)| gradient).fold(0.0, |most, x| most.max(x.abs()))
    }

    #[test]
    fn the_loss_is_the_papers_and_its_gradient_that_of_finite_differences() {
        for kind in [Kind::Gpt1, Kind::Gpt2, Kind::Gpt3] {
            let (weights, frozen) = (params(kind, 1), params(kind, 2));
            let policy = policy(kind, &weights);
            let batch = compared(groups(), &Gpt::new(&shape(kind), &frozen, Precision::F32).unwrap());
            let loss = policy.loss(&batch, 0..batch.len(), TRAIN).unwrap().0;
            let (found, want) = (f64::from(loss.to_scalar::<f32>().unwrap()), by_hand(&policy.policy, &batch));
            assert!((found - want).abs() < 1e-5 * want, "{kind:?}: {found}, by hand {want}");
            assert!((want - 2f64.ln()).abs() > 0.05, "{kind:?}: the policies hardly differ: {want}");

            let found = gradients(&weights, &loss);
            let most = largest(&found);
            for ((name, gradient), (_, parameter)) in found.iter().zip(weights.iter()) {
                // Its largest one, and one at random.
                let top = (0..gradient.len()).max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs())).unwrap();
                for at in [top, gradient.len() * 5 / 7] {
                    let before: Vec<f32> = parameter.tensor(false).flatten_all().unwrap().to_vec1().unwrap();
                    let with = |step: f32| {
                        let mut values = before.clone();
                        values[at] += step;
                        let dims = parameter.var().dims();
                        parameter.set(&Tensor::from_vec(values, dims, &Device::Cpu).unwrap()).unwrap();
                        by_hand(&policy.policy, &batch)
                    };
                    let h = 5e-3;
                    let want = (with(h) - with(-h)) / f64::from(2.0 * h);
                    with(0.0);
                    let off = (f64::from(gradient[at]) - want).abs();
                    assert!(
                        off < 2e-2 * want.abs() + 2e-3 * f64::from(most),
                        "{kind:?} {name}: {}, {want}",
                        gradient[at]
                    );
                }
            }
        }
    }

    #[test]
    fn a_group_has_the_loss_and_gradients_of_its_pairs_one_by_one() {
        for kind in [Kind::Gpt1, Kind::Gpt2, Kind::Gpt3] {
            let (weights, frozen) = (params(kind, 1), params(kind, 2));
            let (policy, reference) =
                (policy(kind, &weights), Gpt::new(&shape(kind), &frozen, Precision::F32).unwrap());
            for group in groups() {
                let pair = |(winner, loser): (usize, usize)| Group {
                    sequences: vec![group.sequences[winner].clone(), group.sequences[loser].clone()],
                    places: vec![1, 2],
                    ..group.clone()
                };
                let pairs = compared(group.pairs().map(pair).collect(), &reference);
                let losses: Vec<Tensor> =
                    pairs.into_iter().map(|pair| policy.loss(&vec![pair], 0..1, TRAIN).unwrap().0).collect();
                let one_by_one = (Tensor::stack(&losses, 0).unwrap().sum_all().unwrap() / losses.len() as f64).unwrap();
                let batch = compared(vec![group], &reference);
                let together = policy.loss(&batch, 0..1, TRAIN).unwrap().0;
                let [a, b] = [&together, &one_by_one].map(|loss| loss.to_scalar::<f32>().unwrap());
                assert!((a - b).abs() < 1e-6 * b.max(1.0), "{kind:?}: {a}, one by one {b}");
                let (together, one_by_one) = (gradients(&weights, &together), gradients(&weights, &one_by_one));
                let most = largest(&one_by_one);
                for ((name, have), (_, want)) in together.iter().zip(&one_by_one) {
                    let off = have.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(off <= 2e-6 * most, "{kind:?} {name}: off by {off} of {most}");
                }
            }
        }
    }

    #[test]
    fn micro_batches_add_up_to_the_batch() {
        let (weights, frozen) = (params(Kind::Gpt2, 1), params(Kind::Gpt2, 2));
        let policy = policy(Kind::Gpt2, &weights);
        let batch = compared(groups(), &Gpt::new(&shape(Kind::Gpt2), &frozen, Precision::F32).unwrap());
        let loss = |rows: Range<usize>| policy.loss(&batch, rows, TRAIN).unwrap().0.to_scalar::<f32>().unwrap();
        assert!((loss(0..4) - loss(0..1) - loss(1..3) - loss(3..4)).abs() < 1e-6);
    }

    #[test]
    fn a_policy_that_is_its_reference_tosses_coins() {
        for kind in [Kind::Gpt1, Kind::Gpt2, Kind::Gpt3] {
            let weights = params(kind, 1);
            let policy = policy(kind, &weights);
            let batch = compared(groups(), &policy.policy);
            let loss = policy.loss(&batch, 0..batch.len(), TRAIN).unwrap().0.to_scalar::<f32>().unwrap();
            assert!((loss - 2f32.ln()).abs() < 1e-5, "{kind:?}: {loss}");
            let Validation { loss, scores, .. } = policy.validate(&[batch], &ALONE).unwrap();
            assert!((loss.unwrap() - 2f64.ln()).abs() < 1e-5, "{kind:?}: {loss:?}");
            for name in ["margin", "chosen_log_ratio", "rejected_log_ratio"] {
                assert!(scores[name].abs() < 1e-4, "{kind:?} {name}: {}", scores[name]);
            }
        }
    }

    #[test]
    fn what_is_said_of_held_out_comparisons_is_counted_by_pairs() {
        let (weights, frozen) = (params(Kind::Gpt2, 1), params(Kind::Gpt2, 2));
        let policy = policy(Kind::Gpt2, &weights);
        let batch = compared(groups(), &Gpt::new(&shape(Kind::Gpt2), &frozen, Precision::F32).unwrap());
        let (mut hits, mut chosen, mut rejected, mut n) = (0.0, 0.0, 0.0, 0.0);
        for Compared { group, reference } in &batch {
            let ratios: Vec<f64> =
                one_by_one(&policy.policy, group).iter().zip(reference).map(|(a, b)| f64::from(a - b)).collect();
            for (w, l) in group.pairs() {
                hits += f64::from(u8::from(ratios[w] > ratios[l]));
                (chosen, rejected, n) = (chosen + ratios[w], rejected + ratios[l], n + 1.0);
            }
        }
        let Validation { loss, scores, chosen_by, .. } =
            policy.validate(&[batch[..1].to_vec(), batch[1..].to_vec()], &ALONE).unwrap();
        assert_eq!(loss, chosen_by);
        assert!((loss.unwrap() - by_hand(&policy.policy, &batch)).abs() < 1e-5);
        for (name, want) in [
            ("accuracy", hits / n),
            ("margin", BETA * (chosen - rejected) / n),
            ("chosen_log_ratio", chosen / n),
            ("rejected_log_ratio", rejected / n),
        ] {
            assert!((scores[name] - want).abs() < 1e-4, "{name}: {}, by hand {want}", scores[name]);
        }
        assert!(n == 17.0 && hits > 0.0 && hits < n, "{hits} of {n}: a poor example");
    }

    /// Reference: NumPy in f64, by scripts/ppo_reference.py.
    #[test]
    fn loss_and_derivatives_are_the_golden_ones() {
        for case in golden_cases("ppo.json", "dpo") {
            let [policy_chosen, policy_rejected, reference_chosen, reference_rejected] =
                ["policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected"]
                    .map(|key| narrow(&case[key]));
            let beta = case["beta"].as_f64().unwrap();
            let n = policy_chosen.len();
            let alternate = |a: &[f32], b: &[f32]| a.iter().zip(b).flat_map(|(&a, &b)| [a, b]).collect::<Vec<f32>>();
            let policy = Var::new(alternate(&policy_chosen, &policy_rejected), &Device::Cpu).unwrap();
            let reference = alternate(&reference_chosen, &reference_rejected);
            let rewards = implied_rewards(policy.as_tensor(), reference, beta).unwrap();
            let loss = loss_of(&rewards, std::iter::repeat_n(&[1, 2][..], n), n).unwrap();
            let losses = numbers(&case["losses"]);
            let mean = losses.iter().sum::<f64>() / n as f64;
            assert_close("loss", [f64::from(loss.to_scalar::<f32>().unwrap())], &[mean], 1e-6);
            let found: Vec<f32> = loss.backward().unwrap().get(&policy).unwrap().to_vec1().unwrap();
            for (at, key) in ["d_policy_chosen", "d_policy_rejected"].into_iter().enumerate() {
                // Those of a pair's own loss; the batch's is their mean.
                let own = found.iter().skip(at).step_by(2).map(|x| f64::from(*x) * n as f64);
                assert_close(key, own, &numbers(&case[key]), 1e-6);
            }
        }
    }
}
