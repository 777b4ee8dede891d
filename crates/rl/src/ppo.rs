//! One iteration, in the paper's order (Ouyang et al. 2022, §3.5; Ziegler et al. 2019, §2): answer, score, learn.

use crate::advantage::AdvantageConfig;
use crate::answers::{Answer, log_probs};
use crate::config::PpoConfig;
use crate::doctor::{Doctor, HealthMetrics, explained_variance, score_length_correlation};
use crate::policy::{Minibatch, Policy, PolicyOutput, PpoMetrics, Values};
use crate::prompts::Prompt;
use crate::rollout::{
    Ends, Episode, Rewarder, Sampler, answers_of, assign_rewards, batches, scores, shared_out, split_among,
};
use crate::shaping::ShapingConfig;
use anyhow::{Context, Result, ensure};
use gptkit_data::batch::{Batch, Windows};
use gptkit_data::progress::ProgressTask;
use gptkit_data::tokenizer::Tokenizer;
use gptkit_model::{Gpt, Pass};
use gptkit_rng::order::{Order, shuffled};
use gptkit_train::config::Recompute;
use gptkit_train::ema::Ema;
use gptkit_train::guard::{Guard, spike_message};
use gptkit_train::language_modeling::mean_loss;
use gptkit_train::objective::{BatchSums, Update, Validate};
use gptkit_train::schedule::Step;
use gptkit_train::trainer::Trainer;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Figures by name, as metrics and TensorBoard have them.
pub(crate) type Figures = BTreeMap<String, f64>;

/// What changes from iteration to iteration besides weights and moments; in every checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PpoState {
    /// β.
    pub(crate) kl_coef: f64,
    /// Updates of the value network.
    pub(crate) value_updates: u64,
    /// Losses of the policy's last updates, by which the next one's is a spike or none.
    #[serde(default)]
    pub(crate) policy_guard: Guard,
    /// The same of the value network: its losses are of another size.
    #[serde(default)]
    pub(crate) value_guard: Guard,
    /// What the doctor remembers.
    pub(crate) doctor: Doctor,
    /// The fixed prompts' answers after some iterations.
    pub(crate) answers: Vec<(u64, Vec<String>)>,
}

/// Pretraining text: windows to learn from, and to measure on.
pub(crate) struct PretrainingText {
    pub(crate) windows: Windows,
    pub(crate) validation: Vec<Batch>,
}

/// A policy in training, and all that it learns from.
pub struct Ppo {
    pub(crate) config: Arc<PpoConfig>,
    pub(crate) policy: Trainer<Policy>,
    /// The frozen policy; where adapters are trained, it is the policy without them.
    pub(crate) reference: Option<Gpt>,
    /// The value network, if it is separate from the policy.
    pub(crate) values: Option<Trainer<Values>>,
    pub(crate) rewarder: Box<dyn Rewarder>,
    pub(crate) ema: Option<Ema>,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) ends: Ends,
    pub(crate) validation: Vec<Prompt>,
    pub(crate) text: Option<PretrainingText>,
    pub(crate) state: PpoState,
}

/// What an iteration found.
pub(crate) struct Iteration {
    pub(crate) update: Update<PpoMetrics>,
    pub(crate) health: HealthMetrics,
    pub(crate) figures: Figures,
    /// What there is to say of losses that leaped.
    pub(crate) spikes: Vec<String>,
    /// Response tokens that were sampled.
    pub(crate) n_tokens: u64,
}

/// What an evaluation found.
pub(crate) struct PpoEvaluation {
    pub(crate) figures: Figures,
    /// What the policy is trained for, at the first β: reward after shaping − β·KL. Nothing without held-out prompts.
    pub(crate) reward: Option<f64>,
}

/// Results of the updates of an iteration.
#[derive(Default)]
struct Updates {
    /// Sums over the first update of the policy, which is made with the policy that sampled, over the last, and over all.
    first: Option<PpoMetrics>,
    last: PpoMetrics,
    all: PpoMetrics,
    /// The policy's newest.
    newest: Option<Update<PpoMetrics>>,
    /// Policy updates that were made, or skipped because of a spike.
    made: u32,
    skipped: u32,
    /// Value network updates that were skipped.
    values_skipped: u32,
    /// Norm of the value network's newest gradient.
    value_norm: f64,
    spikes: Vec<String>,
}

/// A minibatch: the numbers of its episodes among those of the iteration, and its first row among all rows of the run.
struct MinibatchRows {
    chosen: Vec<usize>,
    first_row: u64,
}

/// Fixed prompts whose answers are kept.
const SHOWN: usize = 8;

impl Ppo {
    /// One iteration from `prompts`.
    ///
    /// # Errors
    /// When a score or a loss is no number, or memory does not suffice.
    pub(crate) fn iterate(&mut self, prompts: &[Prompt], step: &Step, task: &dyn ProgressTask) -> Result<Iteration> {
        let begun = Instant::now();
        let mut episodes = self.answer(prompts, (self.config.seed, step.first_row as u32), false, task)?;
        let n_tokens: usize = episodes.iter().map(|episode| episode.answer.said().len()).sum();
        let sampled = Instant::now();
        task.show("scoring");
        let first = self.first_update(episodes.len(), step);
        let forward = self.score(&mut episodes, first.as_ref())?;
        assign_rewards(&mut episodes, &self.config.reward, &self.config.advantage, self.state.kl_coef);
        let scored = Instant::now();
        task.show("learning");
        let mut figures = figures(&episodes, &self.config.reward, self.state.kl_coef);
        let mut updates = Updates::default();
        if self.warms_values_up(step) {
            self.warm_values_up(&mut episodes, &mut figures, &mut updates, task)?;
        }
        self.learn(&episodes, step, forward, &mut updates)?;
        let newest = updates.newest.context("an iteration had no episodes")?;
        let update = Update { made: updates.made > 0, ..newest };
        let health = self.health(&episodes, &updates);
        self.report(&updates, &health, &mut figures);
        let s = |from: Instant, to: Instant| (to - from).as_secs_f64();
        figures.extend(
            [
                ("time/rollout_s", s(begun, sampled)),
                ("time/scoring_s", s(sampled, scored)),
                ("time/optimization_s", s(scored, Instant::now())),
                ("time/rollout_tokens_per_s", n_tokens as f64 / s(begun, sampled)),
            ]
            .map(|(name, x)| (name.to_owned(), x)),
        );
        if let Some(adaptive) = &self.config.reward.adaptive {
            self.state.kl_coef = adaptive.next(self.state.kl_coef, health.kl, step.rows);
        }
        Ok(Iteration { update, health, figures, spikes: updates.spikes, n_tokens: n_tokens as u64 })
    }

    fn answer(
        &self,
        prompts: &[Prompt],
        (seed, first): (u64, u32),
        greedy: bool,
        task: &dyn ProgressTask,
    ) -> Result<Vec<Episode>> {
        let sampler = Sampler { tokenizer: &self.tokenizer, ends: &self.ends, config: &self.config.rollout };
        let (done, all) = (Cell::new(0), prompts.len());
        let on_done = || {
            done.set(done.get() + 1);
            task.show(&format!("generating answers: {} of {all}", done.get()));
        };
        shared_out(prompts, self.policy.ranks(), |own| {
            let numbers = (seed, first + own.start as u32);
            sampler.answer(self.policy.objective().gpt(), &prompts[own], numbers, greedy, &on_done)
        })
    }

    /// Adds what policy, reference, value network and reward model say of `episodes`. The policy's forward pass over those of
    /// the `first` update keeps what its backward pass reads, and is returned.
    fn score(&self, episodes: &mut [Episode], first: Option<&MinibatchRows>) -> Result<Option<PolicyOutput>> {
        let (ranks, all) = (self.policy.ranks(), (0..episodes.len()).collect::<Vec<_>>());
        let answers: Vec<Answer> = episodes.iter().map(|episode| episode.answer.clone()).collect();
        let reference =
            ranks.share_parts(answers.len(), |own| Ok(self.reference_log_probs(&answers[own])?.concat()))?;
        split_among(reference, episodes, &all, |episode| &mut episode.reference);
        let scores = scores(&*self.rewarder, &self.ends, episodes, ranks)?;
        episodes.iter_mut().zip(scores).for_each(|(episode, score)| episode.score = score);
        self.estimate_values(episodes)?;
        let policy = self.policy.objective();
        let rest: Vec<usize> = match first {
            Some(first) => (0..episodes.len()).filter(|i| !first.chosen.contains(i)).collect(),
            None => (0..episodes.len()).collect(),
        };
        // By the pass that learns, not the one that spoke: so that the first ratio is 1 to the last bits.
        for batch in batches(episodes, &rest) {
            policy.read(answers_of(episodes, &batch), Pass::Eval)?.write_to(episodes, &batch)?;
        }
        let Some(MinibatchRows { chosen, first_row }) = first else { return Ok(None) };
        let output = policy.read(answers_of(episodes, chosen), self.policy.pass(*first_row))?;
        output.write_to(episodes, chosen)?;
        // A backward pass that computes nothing again reads transposed weights, and then the weights change.
        if self.config.train.recompute == Recompute::None && !self.learns_text() {
            policy.gpt().free_packed();
        }
        Ok(Some(output))
    }

    /// Has the value network, if there is one, value `episodes`. Frees its packed weights, for which the policy's update has
    /// better use.
    fn estimate_values(&self, episodes: &mut [Episode]) -> Result<()> {
        let Some(values) = &self.values else { return Ok(()) };
        let batches = batches(episodes, &(0..episodes.len()).collect::<Vec<_>>());
        let read = values.ranks().share_out(batches.len(), |i| {
            Ok(values.objective().read(answers_of(episodes, &batches[i]), Pass::Eval)?.to_vec1::<f32>()?)
        })?;
        for (read, batch) in read.into_iter().zip(&batches) {
            split_among(read, episodes, batch, |episode| &mut episode.values);
        }
        values.objective().gpt.free_packed();
        Ok(())
    }

    fn reference_log_probs(&self, answers: &[Answer]) -> Result<Vec<Vec<f32>>> {
        let policy = self.policy.objective();
        match &self.reference {
            Some(reference) => log_probs(reference, answers, policy.temperature),
            None => {
                let of_base = || log_probs(policy.gpt(), answers, policy.temperature);
                self.policy.weights().unadapted(of_base).context("a policy without adapters needs a reference model")?
            }
        }
    }

    /// Whether the value network learns alone before the updates of `step`.
    fn warms_values_up(&self, step: &Step) -> bool {
        step.number == 1 && self.values.is_some() && self.config.value.warmup_epochs() > 0
    }

    /// Has the value network learn alone from the episodes of the first iteration, then values them anew: a reward model's
    /// head was trained at one position, and advantages from its values at others are noise. The targets are the returns
    /// themselves (λ = 1), which do not depend on these values, and the values may move as far as they like.
    fn warm_values_up(
        &mut self,
        episodes: &mut [Episode],
        figures: &mut Figures,
        updates: &mut Updates,
        task: &dyn ProgressTask,
    ) -> Result<()> {
        let config = Arc::clone(&self.config);
        let PpoConfig { value, advantage, policy, reward, train, seed, .. } = &*config;
        let epochs = value.warmup_epochs();
        let before = explained(episodes);
        let sums = AdvantageConfig { lambda: 1.0, ..advantage.clone() };
        for episode in &mut *episodes {
            episode.returns = sums.estimate(&episode.rewards, &episode.values).1;
        }
        let (lr, size) = (value.lr.unwrap_or(train.lr), minibatch_size(episodes.len(), policy.minibatches));
        let (mut loss, mut tokens) = (0.0, 0.0);
        for epoch in 0..epochs {
            task.show(&format!("training the value network, pass {} of {epochs}", epoch + 1));
            (loss, tokens) = (0.0, 0.0);
            for chosen in order(episodes.len(), epoch as u64, Order::ValueWarmup.seed(*seed)).chunks(size) {
                let chosen: Vec<Episode> = chosen.iter().map(|&i| episodes[i].clone()).collect();
                let minibatch = Minibatch { episodes: chosen, unclipped_values: true, ..Minibatch::default() };
                let found = self.update_values(&minibatch, lr, updates)?;
                loss += found.value_loss;
                tokens += minibatch.n_tokens() as f64;
            }
        }
        self.estimate_values(episodes)?;
        assign_rewards(episodes, reward, advantage, self.state.kl_coef);
        figures.insert("value/warmup_loss".to_owned(), loss / f64::max(tokens, 1.0));
        figures.insert("value/explained_variance_before_warmup".to_owned(), before);
        Ok(())
    }

    /// One update of the value network, if there is one.
    fn update_values(&mut self, minibatch: &Minibatch, lr: f64, updates: &mut Updates) -> Result<PpoMetrics> {
        let Some(values) = &mut self.values else { return Ok(PpoMetrics::default()) };
        // Values have no dropout: the row does not matter.
        let made = values.step(minibatch, 0, lr)?;
        ensure!(made.is_finite(), "the loss of the value network is not finite; lower value.lr");
        updates.value_norm = made.grad_norm;
        updates.values_skipped += u32::from(!made.made);
        updates.spikes.extend(spike_message(&made, "value network loss", &self.config.train));
        Ok(made.metrics)
    }

    /// The minibatches of pass number `epoch` over the `n` episodes of `step`.
    fn minibatches(&self, n: usize, step: &Step, epoch: u64) -> Vec<MinibatchRows> {
        let PpoConfig { policy, seed, .. } = &*self.config;
        let (epochs, size) = (policy.epochs as u64, minibatch_size(n, policy.minibatches));
        // Rows of all passes so far: batches may grow.
        let rows_before = step.first_row * epochs + epoch * n as u64;
        order(n, (step.number - 1) * epochs + epoch, Order::PolicyMinibatches.seed(*seed))
            .chunks(size)
            .enumerate()
            .map(|(number, chosen)| MinibatchRows {
                chosen: chosen.to_vec(),
                first_row: rows_before + (number * size) as u64,
            })
            .collect()
    }

    /// The first minibatch of `step`, of `n` episodes, if the policy's forward pass over it can be the one that scores it: it is
    /// not cut into micro-batches, and values do not learn in between, which would work beside what the pass keeps.
    fn first_update(&self, n: usize, step: &Step) -> Option<MinibatchRows> {
        let first = self.minibatches(n, step, 0).into_iter().next()?;
        let train = &self.config.train;
        let whole = first.chosen.len() <= train.micro_batch() && train.shards() == 1;
        (whole && !self.warms_values_up(step)).then_some(first)
    }

    /// All updates of an iteration. `forward`: the policy's pass over the episodes of the first.
    fn learn(
        &mut self,
        episodes: &[Episode],
        step: &Step,
        mut forward: Option<PolicyOutput>,
        updates: &mut Updates,
    ) -> Result<()> {
        let settings = Arc::clone(&self.config);
        let PpoConfig { policy: config, value, train, .. } = &*settings;
        let value_lr = step.lr / train.lr * value.lr.unwrap_or(train.lr);
        for epoch in 0..config.epochs as u64 {
            for MinibatchRows { chosen, first_row } in self.minibatches(episodes.len(), step, epoch) {
                let minibatch = Minibatch {
                    episodes: chosen.iter().map(|&i| episodes[i].clone()).collect(),
                    text: self.text_beside(first_row, chosen.len()),
                    unclipped_values: false,
                    forward: forward.take(),
                };
                let made = self.policy.step(&minibatch, first_row, step.lr)?;
                let mut metrics = made.metrics;
                ensure!(
                    made.is_finite(),
                    "the policy loss is {} and its gradient norm {}, which is not finite; lower train.lr (now {:.1e}) \
                     or set train.clip",
                    made.loss,
                    made.grad_norm,
                    step.lr
                );
                updates.spikes.extend(spike_message(&made, "policy loss", train));
                if self.values.is_some() {
                    metrics.add(PpoMetrics { tokens: 0.0, ..self.update_values(&minibatch, value_lr, updates)? });
                }
                if let (Some(ema), true) = (&mut self.ema, made.made) {
                    ema.update(self.policy.weights().trained())?;
                }
                match made.made {
                    true => updates.made += 1,
                    false => updates.skipped += 1,
                }
                (updates.newest, updates.last) = (Some(made), metrics);
                updates.first.get_or_insert(metrics);
                updates.all.add(metrics);
                if config.max_approx_kl.is_some_and(|most| metrics.approx_kl / metrics.tokens.max(1.0) > most) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The figures that the doctor examines.
    fn health(&self, episodes: &[Episode], updates: &Updates) -> HealthMetrics {
        let (first, n) = (updates.first.unwrap_or_default(), episodes.len());
        let mean = |sum: f64, of: &PpoMetrics| sum / of.tokens.max(1.0);
        let off = || {
            let pairs = episodes.iter().flat_map(|episode| episode.sampling_log_probs.iter().zip(&episode.log_probs));
            gptkit_stats::mean(&pairs.map(|(sampled, read)| f64::from(sampled - read).abs()).collect::<Vec<f64>>())
        };
        let kls: Vec<f64> = episodes.iter().map(Episode::kl).collect();
        let lengths: Vec<f64> = episodes.iter().map(|episode| episode.answer.said().len() as f64).collect();
        let scores: Vec<f64> = episodes.iter().map(|episode| f64::from(episode.score)).collect();
        HealthMetrics {
            first_ratio: mean(first.ratio, &first),
            sampling_error: (self.config.rollout.temperature == 1.0).then(off),
            kl: gptkit_stats::mean(&kls),
            kl_error: (gptkit_stats::variance(&kls) / n.max(1) as f64).sqrt(),
            end_rate: episodes.iter().filter(|episode| episode.ended).count() as f64 / n.max(1) as f64,
            clip_fraction: mean(updates.all.clipped, &updates.all),
            approx_kl: mean(updates.last.approx_kl, &updates.last),
            explained_variance: explained(episodes),
            entropy: mean(first.entropy, &first),
            score: gptkit_stats::mean(&scores),
            length: gptkit_stats::mean(&lengths),
            score_length: score_length_correlation(&scores, &lengths),
        }
    }

    /// Adds the figures of the updates.
    fn report(&self, updates: &Updates, health: &HealthMetrics, figures: &mut Figures) {
        let all = &updates.all;
        let mean = |sum: f64| sum / all.tokens.max(1.0);
        figures.extend(
            [
                ("objective/entropy", health.entropy),
                ("policy/loss", mean(all.policy_loss)),
                ("policy/first_ratio", health.first_ratio),
                ("policy/clip_fraction", health.clip_fraction),
                ("policy/approx_kl", health.approx_kl),
                ("policy/updates", f64::from(updates.made)),
                ("value/loss", mean(all.value_loss)),
                ("value/clip_fraction", mean(all.value_clipped)),
                ("value/explained_variance", health.explained_variance),
                ("answers/score_length", health.score_length),
            ]
            .map(|(name, x)| (name.to_owned(), x)),
        );
        if self.values.is_some() {
            figures.insert("value/grad_norm".to_owned(), updates.value_norm);
        }
        for (name, skipped) in [("policy/skipped", updates.skipped), ("value/skipped", updates.values_skipped)] {
            if skipped > 0 {
                figures.insert(name.to_owned(), f64::from(skipped));
            }
        }
        if self.learns_text() {
            let n_updates = updates.made + updates.skipped;
            figures.insert("ptx/loss".to_owned(), all.text_loss / f64::from(n_updates));
        }
    }

    fn learns_text(&self) -> bool {
        self.text.is_some() && self.policy.objective().ptx_coef > 0.0
    }

    /// The windows of text that belong to episodes `first .. first + n` of all that were learned from.
    fn text_beside(&self, first: u64, n: usize) -> Option<Batch> {
        let (ptx, text) = self.config.ptx.as_ref().zip(self.text.as_ref()).filter(|_| self.learns_text())?;
        Some(text.windows.batch(first * ptx.per_episode as u64, n * ptx.per_episode))
    }

    /// Runs `f` on the outcome so far: the average of the weights, where there is one, else the newest.
    pub(crate) fn with_outcome<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.swap()?;
        let found = f(self);
        self.swap()?;
        found
    }

    fn swap(&mut self) -> Result<()> {
        let Some(ema) = &mut self.ema else { return Ok(()) };
        self.policy.weights_mut().change(|trained| ema.swap(trained))
    }

    /// What the policy is worth on the validation prompts and the validation part of the text; keeps what it answers to the
    /// fixed prompts as those after iteration `step`.
    pub(crate) fn evaluate(&mut self, step: u64, task: &dyn ProgressTask) -> Result<PpoEvaluation> {
        let (mut found, mut reward) = (Figures::new(), None);
        if !self.validation.is_empty() {
            // The same draws each time, and none that an iteration uses.
            let mut episodes = self.answer(&self.validation, (!self.config.seed, 0), false, task)?;
            self.score(&mut episodes, None)?;
            let shaping = &self.config.reward;
            found = figures(&episodes, shaping, self.state.kl_coef);
            reward = Some(found["objective/reward"] + (self.state.kl_coef - shaping.kl_coef) * found["objective/kl"]);
            let shown: Vec<Prompt> = self.validation.iter().take(SHOWN).cloned().collect();
            let shown = self.answer(&shown, (0, 0), true, task)?;
            self.state.answers.retain(|(number, _)| *number != step);
            self.state.answers.push((step, shown.into_iter().map(|episode| episode.text).collect()));
        }
        if let Some(text) = self.text.as_ref().filter(|text| !text.validation.is_empty()) {
            task.show("evaluating the pretraining text");
            let language = &self.policy.objective().language;
            let losses = text.validation.iter().map(|batch| language.outputs(batch)).collect::<Result<Vec<_>>>()?;
            let loss = mean_loss(&text.validation, &losses);
            found.insert("text/loss".to_owned(), loss);
        }
        Ok(PpoEvaluation { figures: found, reward })
    }

    /// What a checkpoint stores besides weights and moments.
    pub(crate) fn state_to_save(&self) -> PpoState {
        let mut state = PpoState { policy_guard: self.policy.guard.clone(), ..self.state.clone() };
        if let Some(values) = &self.values {
            (state.value_guard, state.value_updates) = (values.guard.clone(), values.n_updates());
        }
        state
    }

    /// The fixed prompts, as text.
    pub(crate) fn shown_prompts(&self) -> Result<Vec<String>> {
        self.validation.iter().take(SHOWN).map(|prompt| self.tokenizer.decode(&prompt.tokens)).collect()
    }
}

/// Episodes of an update, of the `n` of an iteration.
fn minibatch_size(n: usize, minibatches: usize) -> usize {
    n.div_ceil(minibatches).max(1)
}

/// The order in which pass number `pass` of `n` episodes reads them.
fn order(n: usize, pass: u64, seed: u64) -> Vec<usize> {
    let n = n as u64;
    (0..n).map(|i| shuffled(pass * n + i, n, seed) as usize).collect()
}

/// The share of the returns' variance that the values of `episodes` explain.
fn explained(episodes: &[Episode]) -> f64 {
    let numbers = |of: fn(&Episode) -> &Vec<f32>| -> Vec<f32> {
        episodes.iter().flat_map(|episode| of(episode).iter().copied()).collect()
    };
    explained_variance(&numbers(|episode| &episode.values), &numbers(|episode| &episode.returns))
}

/// Means over `episodes` that were scored.
fn figures(episodes: &[Episode], shaping: &ShapingConfig, kl_coef: f64) -> Figures {
    let mean = |of: &dyn Fn(&Episode) -> f64| gptkit_stats::mean(&episodes.iter().map(of).collect::<Vec<f64>>());
    let (score, kl) = (mean(&|episode| f64::from(episode.score)), mean(&Episode::kl));
    let shaped = mean(&|episode| f64::from(shaping.score(episode.score, episode.ended)));
    let mut figures: Figures = [
        ("objective/score", score),
        ("objective/kl", kl),
        ("objective/kl_coef", kl_coef),
        ("objective/reward", shaped - kl_coef * kl),
        ("answers/length", mean(&|episode| episode.answer.said().len() as f64)),
        ("answers/end_rate", mean(&|episode| f64::from(u8::from(episode.ended)))),
    ]
    .map(|(name, x)| (name.to_owned(), x))
    .into();
    let gold: Vec<f64> = episodes.iter().filter_map(|episode| episode.gold).collect();
    if !gold.is_empty() {
        figures.insert("objective/gold".to_owned(), gptkit_stats::mean(&gold));
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ValueHead;
    use crate::shaping::MissingEnd;
    use candle_core::{Device, Tensor};
    use gptkit_data::progress::Silent;
    use gptkit_model::{ClassHead, Kind, ModelConfig, Params};
    use gptkit_ranks::ALONE;
    use gptkit_train::language_modeling::LanguageModeling;
    use gptkit_train::objective::Objective;

    /// What is rewarded: the share of this token.
    const WANTED: u32 = 5;

    struct Share;

    impl Rewarder for Share {
        fn scores(&self, answers: &[Answer]) -> Result<Vec<f32>> {
            let share = |answer: &Answer| {
                let said = answer.said();
                said.iter().filter(|&&token| token == WANTED).count() as f32 / said.len() as f32
            };
            Ok(answers.iter().map(share).collect())
        }
    }

    struct Broken;

    impl Rewarder for Broken {
        fn scores(&self, answers: &[Answer]) -> Result<Vec<f32>> {
            Ok(vec![f32::NAN; answers.len()])
        }
    }

    fn tokenizer() -> Tokenizer {
        Tokenizer::of_characters(&('a'..='p').collect()).unwrap()
    }

    fn shape(kind: Kind) -> ModelConfig {
        serde_json::from_value(serde_json::json!({
            "kind": kind, "n_layer": 2, "n_head": 2, "d_model": 16, "context": 24, "vocab_size": 16, "init_std": 0.02,
        }))
        .unwrap()
    }

    /// Weights whose likeliest token depends on all that is read.
    fn params(kind: Kind, seed: u64) -> Params {
        let params = Params::init(&shape(kind), seed, &Device::Cpu).unwrap();
        for (_, parameter) in params.iter().filter(|(_, p)| p.var().rank() == 2) {
            parameter.set(&(parameter.tensor(false) * 6.0).unwrap()).unwrap();
        }
        params
    }

    fn config(settings: serde_json::Value) -> PpoConfig {
        let mut all = serde_json::json!({
            "rollout": { "max_new_tokens": 8, "rows": 16 },
            "reward": { "missing_end": "ignored", "kl_coef": 0.0 },
            "policy": { "epochs": 2, "minibatches": 2 },
            "value": { "init": "policy", "lr": 1e-2 },
            "train": { "length": "30 steps", "batch_size": 32, "lr": 1e-2, "clip": 1.0, "beta2": 0.99, "dtype": "f32" },
        });
        for (section, keys) in settings.as_object().unwrap() {
            for (key, value) in keys.as_object().unwrap() {
                all[section][key] = value.clone();
            }
        }
        serde_json::from_value(all).unwrap()
    }

    /// Prompts of 1 to 9 tokens.
    fn prompts() -> Vec<Prompt> {
        let tokens = |n: u32| (0..1 + n * 5 % 9).map(|i| (n * 7 + i * (n + 3)) % 16).collect();
        (0..40).map(|n| Prompt { tokens: tokens(n), world: None }).collect()
    }

    fn ppo(config: &PpoConfig, kind: Kind, ends: &[u32]) -> Ppo {
        let seed = config.seed;
        let model = |params: &Params| Gpt::new(&shape(kind), params, config.train.dtype.precision()).unwrap();
        let (mut own, mut of_values) = (params(kind, seed), params(kind, seed));
        let clip_range = config.value.clip_range;
        let head = |params: &mut Params| ValueHead { head: ClassHead::init_value(params, 16).unwrap(), clip_range };
        let values = (!config.value.shared).then(|| {
            let head = head(&mut of_values);
            let values = Values { gpt: model(&of_values), head };
            Trainer::new(values, of_values, &config.train, seed, &ALONE).unwrap()
        });
        let shared = config.value.shared.then(|| (head(&mut own), config.value.coef));
        let policy = Policy {
            language: LanguageModeling { model: model(&own) },
            temperature: config.rollout.temperature as f32,
            clip_range: config.policy.clip_range,
            values: shared,
            ptx_coef: 2.0,
        };
        Ppo {
            config: Arc::new(config.clone()),
            policy: Trainer::new(policy, own, &config.train, seed, &ALONE).unwrap(),
            reference: Some(model(&params(kind, seed))),
            values,
            rewarder: Box::new(Share),
            ema: None,
            tokenizer: tokenizer(),
            ends: Ends { of_text: ends.to_vec(), ..Ends::default() },
            validation: Vec::new(),
            text: None,
            state: PpoState { kl_coef: config.reward.kl_coef, ..PpoState::default() },
        }
    }

    fn step(number: u64, config: &PpoConfig) -> Step {
        let rows = config.train.batch_size;
        Step { number, first_row: (number - 1) * rows as u64, rows, lr: config.train.lr }
    }

    /// Iteration `number`, from prompts in the order of `config.seed`.
    fn iterate(ppo: &mut Ppo, number: u64, config: &PpoConfig) -> Result<Iteration> {
        let (step, rows) = (step(number, config), config.train.batch_size);
        let all = prompts();
        let row = |row: u64| all[shuffled(row, all.len() as u64, config.seed) as usize].clone();
        let chosen: Vec<Prompt> = (step.first_row..step.first_row + rows as u64).map(row).collect();
        ppo.iterate(&chosen, &step, &Silent)
    }

    /// Score and KL of the last iteration after `n`.
    fn after(n: u64, config: &PpoConfig, kind: Kind) -> (f64, f64) {
        let mut ppo = ppo(config, kind, &[]);
        let figures = (1..=n).map(|number| iterate(&mut ppo, number, config).unwrap().figures).last().unwrap();
        (figures["objective/score"], figures["objective/kl"])
    }

    /// The task that must succeed every time: a token said as often as possible, no reward model, five seeds.
    #[test]
    fn a_token_that_is_rewarded_is_said_within_thirty_iterations() {
        for seed in 1..=5 {
            for shared in [false, true] {
                let mut config = config(serde_json::json!({ "value": { "shared": shared } }));
                config.seed = seed;
                let (first, _) = after(1, &config, Kind::Gpt2);
                let (score, kl) = after(30, &config, Kind::Gpt2);
                assert!(first < 0.3, "seed {seed}: {first} at first");
                assert!(score >= 0.9, "seed {seed}, shared {shared}: {score} of 1 after 30 iterations, KL {kl}");
            }
        }
    }

    #[test]
    fn a_large_price_keeps_the_policy_at_the_reference() {
        for seed in 1..=5 {
            let mut config = config(serde_json::json!({ "train": { "lr": 3e-3 } }));
            config.seed = seed;
            let (free, far) = after(30, &config, Kind::Gpt2);
            config.reward.kl_coef = 20.0;
            let (first, _) = after(1, &config, Kind::Gpt2);
            let (score, kl) = after(30, &config, Kind::Gpt2);
            assert!(
                free > first + 0.3 && far > 4.0,
                "seed {seed}: at no price it goes, from {first} to {free}, KL {far}"
            );
            assert!(kl.abs() < 0.5 && (score - first).abs() < 0.1, "seed {seed}: KL {kl}, score {first}, then {score}");
        }
    }

    /// Prompts of many lengths, answers with and without an end, every generation of model.
    #[test]
    fn what_was_spoken_has_the_log_probabilities_of_a_fresh_pass() {
        for kind in [Kind::Gpt1, Kind::Gpt2, Kind::Gpt3] {
            let config = config(serde_json::json!({}));
            let mut ppo = ppo(&config, kind, &[3, 8, 12]);
            let mut episodes = ppo.answer(&prompts(), (1, 0), false, &Silent).unwrap();
            ppo.score(&mut episodes, None).unwrap();
            assert!(episodes.iter().any(|e| e.ended) && episodes.iter().any(|e| !e.ended));
            for episode in &episodes {
                let n = episode.answer.said().len();
                assert_eq!(
                    (episode.sampling_log_probs.len(), episode.log_probs.len(), episode.values.len()),
                    (n, n, n)
                );
                assert_eq!(episode.ended, [3, 8, 12].contains(episode.answer.said().last().unwrap()));
                for (a, b) in episode.sampling_log_probs.iter().zip(&episode.log_probs) {
                    assert!((a - b).abs() < 1e-5, "{kind:?}: {a}, {b}");
                }
                assert_eq!(episode.log_probs, episode.reference, "the policy is its own reference at first");
            }
            // Before any update, the minibatch that learns finds ratio 1.
            let found = iterate(&mut ppo, 1, &config).unwrap();
            assert!((found.health.first_ratio - 1.0).abs() < 1e-5, "{kind:?}: {}", found.health.first_ratio);
            assert!(found.health.sampling_error.unwrap() < 1e-5);
        }
    }

    /// Episodes, and the weights after two iterations, are the same to the last bit as with a forward pass of the update's own.
    #[test]
    fn an_update_from_the_pass_that_scored_changes_no_bit() {
        for (dtype, shared, minibatches) in [("f32", false, 1), ("bf16", false, 2), ("f32", true, 2), ("bf16", true, 1)]
        {
            let config = config(serde_json::json!({
                "policy": { "epochs": 2, "minibatches": minibatches },
                "value": { "shared": shared, "warmup_epochs": 0 },
                "train": { "dtype": dtype },
            }));
            let two = |reuse: bool| {
                let mut ppo = ppo(&config, Kind::Gpt2, &[3, 8]);
                let mut all = Vec::new();
                for number in 1..=2 {
                    let step = step(number, &config);
                    let mut episodes = ppo.answer(&prompts()[..32], (number, 0), false, &Silent).unwrap();
                    let first = ppo.first_update(episodes.len(), &step).filter(|_| reuse);
                    let forward = ppo.score(&mut episodes, first.as_ref()).unwrap();
                    assert_eq!(forward.is_some(), reuse);
                    assign_rewards(&mut episodes, &config.reward, &config.advantage, 0.1);
                    ppo.learn(&episodes, &step, forward, &mut Updates::default()).unwrap();
                    all.extend(episodes);
                }
                let values = ppo.values.iter().flat_map(|values| values.weights().params().iter());
                let weights = ppo.policy.weights().params().iter().chain(values);
                let numbers = |p: &gptkit_ops::Parameter| -> Vec<f32> {
                    p.tensor(false).flatten_all().unwrap().to_vec1().unwrap()
                };
                (all, weights.map(|(_, parameter)| numbers(parameter)).collect::<Vec<_>>())
            };
            let (with, without) = (two(true), two(false));
            assert!(with == without, "{dtype}, shared {shared}, {minibatches} minibatches");
        }
    }

    #[test]
    fn the_pass_is_reused_for_a_whole_minibatch() {
        let mut config = config(serde_json::json!({}));
        let first = |config: &PpoConfig, number: u64| {
            let first = ppo(config, Kind::Gpt2, &[]).first_update(32, &step(number, config));
            first.map(|first| (first.chosen.len(), first.first_row))
        };
        assert_eq!([1, 2].map(|number| first(&config, number)), [None, Some((16, 64))], "values warm up first");
        config.value.warmup_epochs = Some(0);
        assert_eq!(first(&config, 1), Some((16, 0)));
        config.train.micro_batch = Some(8);
        assert_eq!(first(&config, 1), None);
    }

    /// An iteration's episodes, worth something each.
    fn minibatch(ppo: &Ppo) -> Minibatch {
        let mut episodes = ppo.answer(&prompts()[..6], (1, 0), false, &Silent).unwrap();
        ppo.score(&mut episodes, None).unwrap();
        assign_rewards(&mut episodes, &ppo.config.reward, &ppo.config.advantage, 0.1);
        // As after an update: some ratios are clipped.
        for (n, episode) in episodes.iter_mut().enumerate() {
            episode.log_probs.iter_mut().enumerate().for_each(|(t, x)| *x += 0.13 * ((n * 5 + t * 3) % 7) as f32 - 0.4);
            episode.values.iter_mut().enumerate().for_each(|(t, x)| *x += 0.3 * ((n + t) % 3) as f32 - 0.3);
        }
        let tokens: Vec<u32> = (0..48).map(|i| i * 7 % 16).collect();
        let targets = tokens[1..].iter().copied().chain([2]).collect();
        Minibatch { episodes, text: Some(Batch::windows(24, tokens, targets)), ..Minibatch::default() }
    }

    const TRAIN: Pass = Pass::Train { seed: 1, first_row: 0, recompute: false };

    /// Policy, shared values and text, all at once, against finite differences of the loss; in parts as whole.
    #[test]
    fn the_loss_has_the_gradient_of_finite_differences_and_its_parts_add_up() {
        for kind in [Kind::Gpt1, Kind::Gpt2, Kind::Gpt3] {
            let config = config(serde_json::json!({ "value": { "shared": true, "coef": 0.5 } }));
            let ppo = ppo(&config, kind, &[3, 8]);
            let (policy, weights, batch) = (ppo.policy.objective(), ppo.policy.weights(), minibatch(&ppo));
            let loss = |pass| policy.loss(&batch, 0..8, pass).unwrap().0;
            let gradients = |ends: &[usize]| -> Vec<Tensor> {
                let mut weights = weights.clone(); // the same parameters
                let mut update = weights.begin_update();
                for (&first, &end) in [0].iter().chain(ends).zip(ends) {
                    update.backward(|| policy.loss(&batch, first..end, TRAIN).map(|(loss, _)| loss)).unwrap();
                }
                weights.params().iter().map(|(_, p)| p.gradient().unwrap()).collect()
            };
            let whole = gradients(&[8]);
            let parts = gradients(&[2, 5, 7, 8]);
            for ((name, parameter), (whole, parts)) in weights.params().iter().zip(whole.iter().zip(&parts)) {
                gptkit_ops::check::assert_close(name, parts, whole, 2e-5);
                let gradient: Vec<f32> = whole.flatten_all().unwrap().to_vec1().unwrap();
                let (at, largest) = gradient.iter().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).unwrap();
                let values: Vec<f32> = parameter.tensor(false).flatten_all().unwrap().to_vec1().unwrap();
                let moved = |by: f32| {
                    let mut values = values.clone();
                    values[at] += by;
                    parameter.set(&Tensor::from_vec(values, parameter.var().shape(), &Device::Cpu).unwrap()).unwrap();
                    loss(Pass::Eval).to_scalar::<f32>().unwrap()
                };
                let measured = (moved(5e-4) - moved(-5e-4)) / 1e-3;
                moved(0.0);
                assert!(
                    (measured - largest).abs() < 0.03 * largest.abs() + 3e-3,
                    "{kind:?} {name}: {largest}, by differences {measured}"
                );
            }
        }
    }

    #[test]
    fn a_score_that_is_no_number_ends_the_run_in_words() {
        let config = config(serde_json::json!({}));
        let mut ppo = Ppo { rewarder: Box::new(Broken), ..ppo(&config, Kind::Gpt2, &[]) };
        let error = iterate(&mut ppo, 1, &config).err().unwrap().to_string();
        assert!(error.contains("returned NaN or an infinite score"), "{error}");
    }

    /// The window is longer than an iteration has updates, so that a guard made anew in each would never find a spike.
    #[test]
    fn a_spike_is_found_across_iterations_in_each_network_by_its_own_losses() {
        let mut config = config(serde_json::json!({ "train": { "spike_window": 10, "spike_z": 1e-3 } }));
        config.value.warmup_epochs = Some(0);
        let eight = |config: &PpoConfig| {
            let mut ppo = ppo(config, Kind::Gpt2, &[]);
            let found: Vec<Iteration> = (1..=8).map(|number| iterate(&mut ppo, number, config).unwrap()).collect();
            let skipped = |name: &str| found.iter().filter_map(|one| one.figures.get(name)).sum::<f64>();
            let said: Vec<String> = found.iter().flat_map(|one| one.spikes.clone()).collect();
            (skipped("policy/skipped"), skipped("value/skipped"), said, ppo.state_to_save())
        };
        let (policy, values, said, state) = eight(&config);
        assert_eq!((policy, values), (0.0, 0.0), "they are reported alone");
        assert!(said.iter().any(|line| line.starts_with("the policy loss jumped")), "{said:?}");
        assert!(said.iter().any(|line| line.starts_with("the value network loss jumped")), "{said:?}");
        assert_ne!(state.policy_guard, state.value_guard);
        let again: PpoState = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
        assert_eq!(again, state, "it is part of a checkpoint");
        config.train.on_spike = gptkit_train::config::OnSpike::Skip;
        let (policy, values, _, _) = eight(&config);
        assert!(policy > 0.0 && values > 0.0, "{policy} and {values} updates are skipped");
        config.train.spike_z = 1e6;
        assert_eq!(eight(&config).2, [""; 0]);
    }

    /// A value network whose first values are noise, as a reward model's are between its ends.
    #[test]
    fn values_that_warm_up_explain_more_of_the_returns_and_the_policy_does_not_move() {
        fn noisy(config: &PpoConfig) -> Ppo {
            let ppo = ppo(config, Kind::Gpt2, &[]);
            let weights = ppo.values.as_ref().unwrap().weights();
            let (_, head) = weights.params().iter().find(|(_, p)| p.var().dims() == [1, 16]).unwrap();
            let noise: Vec<f32> = (0..16).map(|i| if i % 3 == 0 { 0.3 } else { -0.2 }).collect();
            head.set(&Tensor::from_vec(noise, (1, 16), &Device::Cpu).unwrap()).unwrap();
            ppo
        }
        let mut config = config(serde_json::json!({ "value": { "lr": 3e-3, "clip_range": 0.2 } }));
        let second = |config: &PpoConfig| {
            let mut ppo = noisy(config);
            let first = iterate(&mut ppo, 1, config).unwrap();
            (first, iterate(&mut ppo, 2, config).unwrap().figures["value/explained_variance"])
        };
        config.value.warmup_epochs = Some(0);
        let (cold, cold_second) = second(&config);
        config.value.warmup_epochs = Some(8);
        let (warm, warm_second) = second(&config);
        let at = |one: &Iteration| one.figures["value/explained_variance"];
        assert_eq!(warm.figures["value/explained_variance_before_warmup"], at(&cold));
        assert!(at(&cold) < -0.5 && at(&warm) > at(&cold) + 0.5, "{} and {}", at(&cold), at(&warm));
        assert!(warm_second > cold_second, "on episodes not seen before: {cold_second} and {warm_second}");
        assert!((warm.health.first_ratio - 1.0).abs() < 1e-5, "{}", warm.health.first_ratio);
    }

    #[test]
    fn an_update_that_is_too_large_is_the_last_of_its_iteration() {
        let mut config = config(serde_json::json!({ "policy": { "epochs": 4, "max_approx_kl": 1e-3 } }));
        config.reward.missing_end = MissingEnd::Ignored;
        let found = iterate(&mut ppo(&config, Kind::Gpt2, &[]), 1, &config).unwrap();
        let n = found.figures["policy/updates"];
        assert!((2.0..8.0).contains(&n), "{n} of 8 updates");
    }
}
