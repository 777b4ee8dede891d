//! The stage: a policy and a reward model → a policy that is rewarded more, and how it goes on after any interruption.

use crate::charts;
use crate::config::{PpoConfig, ValueInit};
use crate::doctor::{Tolerance, act};
use crate::policy::{Found, Policy, ValueHead, Values};
use crate::ppo::{Course, Evaluation, Ppo, Text};
use crate::prompts::{self, FILES};
use crate::provenance::Provenance;
use crate::rollout::Ends;
use anyhow::{Context, Result, ensure};
use gptkit_data::batch::{Windows, validation};
use gptkit_data::disk::{self, Claim, Scratch};
use gptkit_data::progress::{Progress, Unit, grouped};
use gptkit_data::template::Template;
use gptkit_data::tokenizer::Tokenizer;
use gptkit_model::folder::{ModelFolder, is_whole, load_config, load_model, save_ends, save_tensors};
use gptkit_model::{ClassHead, Gpt, ModelConfig, Params, Weights};
use gptkit_reward::model::Scorer;
use gptkit_sft::sft::prepared_text;
use gptkit_sft::start::{DropoutConfig, Start};
use gptkit_train::Resumable;
use gptkit_train::checkpoint::{self, State, TextSeen, load_into};
use gptkit_train::ema::Ema;
use gptkit_train::fit::{Sitting, Summary, Trainer};
use gptkit_train::interrupt::Interrupt;
use gptkit_train::objective::LanguageModeling;
use gptkit_train::run::{Record, Run, records};
use gptkit_train::schedule::{Schedule, Step};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a run leaves.
#[derive(Debug)]
pub struct Outcome {
    /// Its folder: the policy.
    pub folder: PathBuf,
    /// How it ended.
    pub summary: Summary,
    /// Figures of the last evaluation, by name.
    pub figures: BTreeMap<String, f64>,
    /// The same before the first iteration, when this sitting began the run.
    pub before: BTreeMap<String, f64>,
}

/// Files of a checkpoint besides those of every stage.
const COURSE: &str = "ppo.json";
const VALUE: &str = "value.safetensors";
const VALUE_OPTIMIZER: &str = "value-optimizer.safetensors";
const EMA: &str = "ema.safetensors";
/// What the fixed prompts were answered, in the run's folder.
const ANSWERS: &str = "answers.md";
/// Reward against KL, in the run's folder.
const PICTURE: &str = "reward-kl.svg";

/// Trains the policy in `init` for the reward model in `reward`, and leaves it in the folder of
/// `claim`.
///
/// # Errors
/// When policy, reward model and prompts do not fit together, or the run fails.
pub fn ppo(config: &PpoConfig, init: &Path, reward: &Path, claim: Claim, sitting: &Sitting) -> Result<Outcome> {
    let mut config = config.clone();
    config.train.settle();
    let (config, out) = (&config, &claim.folder().to_owned());
    let models = Models::load(config, init, reward, sitting)?;
    let aside = Scratch::beside(claim.folder())?;
    let Models { policy, template, scorer, .. } = &models;
    let context = policy.config.context.min(scorer.encoder.context);
    // The setting is the longest answer that is wanted; the run's own is the longest that fits.
    let mut config = config.clone();
    let fitted = prompts::encode_all(&config, &policy.tokenizer, template, context, aside.path(), sitting.progress)?;
    config.rollout.max_new_tokens = fitted.max_new_tokens;
    config.train.check_validation(fitted.n_validation > 0)?;
    let config = &config;
    let provenance = Provenance::with_round(init, reward, &config.prompts.sources)?;
    let text = text(config, &policy.tokenizer, policy.config.context, sitting.progress)?;

    let resolved = gptkit_config::resolved(config).context("the configuration cannot be written")?;
    gptkit_train::plan::must_fit(&policy.config, &config.train, sitting.device)?;
    let run = Run::create(claim, &resolved, &policy.config, &policy.tokenizer)?;
    save_ends(out, &policy.end_of_text)?;
    run.take_in(aside.path(), &FILES)?;
    drop(aside); // nothing of it is left when training is killed
    provenance.save(out)?;
    let weights = policy.weights(config.policy.lora.as_ref(), config.seed, sitting.progress)?;
    let ppo = assemble(config, models, weights, None, text, out, sitting)?;
    sitting.progress.note(&format!(
        "{} parameters of the policy are trained · {} episodes an iteration, {} updates · to {}",
        grouped(count(ppo.policy.weights().trained())),
        config.train.batch_size,
        config.policy.epochs * config.policy.minibatches,
        out.display()
    ));
    let text = TextSeen { shards: std::path::absolute(out)?, fingerprint: ppo.prompts.fingerprint() };
    go_on(ppo, State { text, ..State::default() }, run, sitting)
}

/// Goes on with `run` as if it had not been interrupted. `config` is the run's own `config.toml`.
///
/// # Errors
/// When models, prompts or checkpoint are damaged or others than before, or the run fails.
pub fn resume(config: &PpoConfig, run: Resumable, sitting: &Sitting) -> Result<Outcome> {
    let Resumable { folder, checkpoint, state, lock, .. } = run;
    let provenance = Provenance::load(&folder)?;
    let round = provenance.rounds.last().with_context(|| format!("{} is no run of ppo", folder.display()))?;
    round.policy.check("first policy")?;
    round.reward.check("reward model")?;
    let models = Models::load(config, &round.policy.folder, &round.reward.folder, sitting)?;
    let text = text(config, &models.policy.tokenizer, models.policy.config.context, sitting.progress)?;
    let weights = match &config.policy.lora {
        None => load_model(&checkpoint, sitting.device)?.1.into(),
        Some(_) => Weights::load_adapted(&checkpoint, sitting.device)?,
    };
    let mut ppo = assemble(config, models, weights, Some(&checkpoint), text, &folder, sitting)?;
    ensure!(
        ppo.prompts.fingerprint() == state.text.fingerprint,
        "{} is not what the run began with: it was changed since",
        folder.join(FILES[0]).display()
    );
    let course = disk::read_description(&checkpoint.join(COURSE))?;
    ppo.course = serde_json::from_str(&course).with_context(|| format!("{COURSE} in {}", checkpoint.display()))?;
    ppo.policy.restore(&checkpoint, &state)?;
    if let Some(values) = &mut ppo.values {
        load_into(values.weights().params(), &checkpoint.join(VALUE))?;
        values.restore_from(&checkpoint.join(VALUE_OPTIMIZER), ppo.course.value_updates)?;
    }
    if let Some(ema) = &mut ppo.ema {
        ema.restore(&checkpoint.join(EMA))?;
    }
    sitting.progress.note(&format!("resumed {} after iteration {}", folder.display(), state.step));
    let run = Run::resume(&folder, lock, &checkpoint, &state, sitting.progress)?;
    if !is_whole(&folder) {
        ppo.with_outcome(|ppo| run.save_best(ppo.policy.weights()))?;
    }
    go_on(ppo, state, run, sitting)
}

/// What a run begins with.
struct Models {
    policy: Start,
    template: Template,
    scorer: Scorer,
    /// Where the reward model lies.
    reward: PathBuf,
    ends: Ends,
}

impl Models {
    fn load(config: &PpoConfig, init: &Path, reward: &Path, sitting: &Sitting) -> Result<Self> {
        let mut policy = Start::load(init, sitting.device)?;
        let template = Template::of(&policy.tokenizer)?.with_context(|| {
            format!(
                "{} has no chat template, so that it is not known how it is asked\n  hint: begin with a model that `gptkit \
                 sft` made",
                init.display()
            )
        })?;
        no_dropout(&mut policy.config);
        let precision = config.train.dtype.precision();
        let files = ModelFolder::load(reward, sitting.device)?;
        let gpt = Gpt::new(&files.config, &files.params, precision)?;
        let scorer = Scorer::new(reward, files, gpt)?;
        ensure!(
            scorer.reads_as(&policy.tokenizer, &template),
            "{} has another tokenizer or chat template than {}: its rewards would be of other texts\n  hint: train a reward \
             model with `gptkit train-rm --init {}`",
            reward.display(),
            init.display(),
            init.display()
        );
        let mut ends = Ends { template: template.end_token(&policy.tokenizer)?, ..Ends::default() };
        ends.of_text = policy.ends(&template)?.into_iter().filter(|&id| Some(id) != ends.template).collect();
        if let Some(end) = &config.rollout.end {
            let tokens = policy.tokenizer.encode(end)?;
            let n = tokens.len();
            ensure!(n == 1, "rollout.end = {end:?} is {n} tokens of this tokenizer, not one\n  hint: use \".\"");
            let known = ends.template.iter().chain(&ends.of_text).any(|id| *id == tokens[0]);
            ensure!(!known, "rollout.end = {end:?} ends answers already\n  hint: leave rollout.end out");
            ends.configured = Some(tokens[0]);
        }
        Ok(Self { policy, template, scorer, reward: reward.to_owned(), ends })
    }
}

/// There is none while PPO runs: the policy that speaks must be the one that learns.
fn no_dropout(config: &mut ModelConfig) {
    DropoutConfig::default().or_none().apply(config);
}

fn count(params: &Params) -> u64 {
    params.iter().map(|(_, parameter)| parameter.var().elem_count() as u64).sum()
}

/// Windows of the text that must not be forgotten, in the policy's tokens.
fn text(config: &PpoConfig, tokenizer: &Tokenizer, context: usize, progress: &dyn Progress) -> Result<Option<Text>> {
    let Some(ptx) = &config.ptx else { return Ok(None) };
    let corpus = prepared_text(&ptx.text, tokenizer, progress)?.corpus;
    let parts = validation(&corpus, context, config.train.micro_batch(), config.train.eval_windows);
    let validation = parts.into_iter().flat_map(|part| part.batches).collect();
    Ok(Some(Text { windows: Windows::new(corpus, context, config.seed)?, validation }))
}

/// Puts policy, reference, value network and reward model together; a shared value head comes from `checkpoint` or is new.
fn assemble<'a>(
    config: &'a PpoConfig,
    models: Models,
    weights: Weights,
    checkpoint: Option<&Path>,
    text: Option<Text>,
    folder: &Path,
    sitting: &Sitting,
) -> Result<Ppo<'a>> {
    let Models { policy: start, scorer, reward, ends, .. } = models;
    let precision = config.train.dtype.precision();
    let Start { config: shape, params: frozen, tokenizer, folder: init, .. } = start;
    // Adapters lie on the frozen weights themselves; else the reference reads a copy that nothing changes.
    let reference = match config.policy.lora {
        Some(_) => None,
        None if checkpoint.is_some() => Some(Gpt::new(&shape, &frozen, precision)?),
        None => Some(Gpt::new(&shape, &load_model(&init, sitting.device)?.1, precision)?),
    };
    let ValueParts { head: shared, values, weights } =
        value_parts(config, weights, (&shape, &init), &reward, checkpoint, sitting)?;
    let policy = Policy {
        model: LanguageModeling(Gpt::new(&shape, weights.params(), precision)?),
        temperature: config.rollout.temperature as f32,
        clip_range: config.policy.clip_range,
        values: shared.map(|head| (head, config.value.coef)),
        ptx_coef: config.ptx.as_ref().map_or(0.0, |ptx| ptx.coef),
        found: Found::default(),
    };
    let ema = config.policy.ema.map(|decay| Ema::new(weights.trained(), decay)).transpose()?;
    let [train, val] = FILES.map(|name| folder.join(name));
    let validation = prompts::open(&val, 0)?.all(1, config.train.eval_windows).into_iter().flatten().collect();
    Ok(Ppo {
        config,
        policy: Trainer::new(policy, weights, &config.train, config.seed)?,
        reference,
        values,
        rewarder: Box::new(scorer.model),
        ema,
        tokenizer,
        ends,
        prompts: prompts::open(&train, config.seed)?,
        validation,
        text,
        course: Course { kl_coef: config.reward.kl_coef, ..Course::default() },
    })
}

/// The policy's weights and what is to say its values.
struct ValueParts {
    head: Option<ValueHead>,
    values: Option<Trainer<Values>>,
    weights: Weights,
}

fn value_parts(
    config: &PpoConfig,
    weights: Weights,
    (shape, init): (&ModelConfig, &Path),
    reward: &Path,
    checkpoint: Option<&Path>,
    sitting: &Sitting,
) -> Result<ValueParts> {
    let clip_range = config.value.clip_range;
    if config.value.shared {
        let mut params = weights.merged();
        let head = match checkpoint {
            Some(folder) => ClassHead::load(&mut params, folder)?,
            None => ClassHead::init_value(&mut params, shape.d_model)?,
        };
        return Ok(ValueParts { head: Some(ValueHead { head, clip_range }), values: None, weights: params.into() });
    }
    let (mut shape, mut params) = match config.value.init {
        ValueInit::Reward => (load_config(reward)?, load_model(reward, sitting.device)?.1),
        ValueInit::Policy => (shape.clone(), load_model(init, sitting.device)?.1),
    };
    no_dropout(&mut shape);
    let head = match config.value.init {
        ValueInit::Reward => ClassHead::load(&mut params, reward)?,
        ValueInit::Policy => ClassHead::init_value(&mut params, shape.d_model)?,
    };
    let gpt = Gpt::new(&shape, &params, config.train.dtype.precision())?;
    params.freeze_output();
    let values = Values { gpt, head: ValueHead { head, clip_range }, found: Found::default() };
    let values = Trainer::new(values, params, &config.train, config.seed)?;
    Ok(ValueParts { head: None, values: Some(values), weights })
}

fn save(ppo: &Ppo, state: &mut State, elapsed_s: f64, run: &mut Run) -> Result<()> {
    state.n_updates = ppo.policy.optimizer().n_updates();
    state.elapsed_s = elapsed_s;
    checkpoint::save(run, &ppo.policy, state, ppo.config.train.keep_checkpoints, |made| {
        disk::write(&made.join(COURSE), (serde_json::to_string_pretty(&ppo.course)? + "\n").as_bytes())?;
        if let Some(values) = &ppo.values {
            let params = values.weights().params().iter();
            save_tensors(&made.join(VALUE), params.map(|(name, p)| (name, p.var().as_tensor())))?;
            save_tensors(&made.join(VALUE_OPTIMIZER), values.optimizer().moments())?;
        }
        ppo.ema.as_ref().map_or(Ok(()), |ema| ema.save(&made.join(EMA)))
    })
}

fn go_on(mut ppo: Ppo, mut state: State, mut run: Run, sitting: &Sitting) -> Result<Outcome> {
    let config = ppo.config;
    let schedule = Schedule::of_episodes(&config.train, ppo.prompts.len(), config.policy.minibatches);
    let folder = run.folder().to_owned();
    schedule.check_done(state.step)?;
    state.n_steps = schedule.n_steps();
    state.finished = state.is_over(&config.train);
    if !run.is_new() {
        checkpoint::prune(&folder, &state, config.train.keep_checkpoints)?; // a killed process may not have come to it
    }
    let mut outcome = Outcome {
        folder: folder.clone(),
        summary: Summary { state: state.clone(), stop: None, not_finite: 0 },
        figures: BTreeMap::new(),
        before: BTreeMap::new(),
    };
    if state.finished {
        write_answers(&ppo, &folder)?;
        draw(&run)?;
        outcome.figures = records(&folder)?.pop().map(|record| record.scores).unwrap_or_default();
        return Ok(outcome);
    }
    config.train.check_validation(!ppo.validation.is_empty())?;
    let tolerance = Tolerance::of(config.train.dtype.precision() == gptkit_ops::Precision::Bf16);
    let interrupt = Interrupt::watch(sitting.deadline)?;
    let (begun, elapsed_before) = (Instant::now(), state.elapsed_s);
    let elapsed = || elapsed_before + begun.elapsed().as_secs_f64();
    let task = sitting.progress.task("iteration", Some(state.n_steps), Unit::Items);
    if run.is_new() {
        outcome.before = evaluate(&mut ppo, &mut state, &run, &*task)?;
        save(&ppo, &mut state, elapsed(), &mut run)?;
    }
    task.resume_at(state.step);
    let (mut longest, mut n_tokens) = (Duration::ZERO, run.tokens()?);
    for step in schedule.steps().skip(state.step as usize) {
        let step_begun = Instant::now();
        let found = ppo.iterate(&step, &*task).map_err(|e| {
            e.context(format!("iteration {}; what was saved last is in {}", step.number, folder.display()))
        })?;
        let findings = ppo.course.doctor.examine(&found.signs, &config.doctor, tolerance);
        state.step = step.number;
        n_tokens += found.n_tokens;
        let seconds = step_begun.elapsed().as_secs_f64();
        let mut record = Record {
            step: step.number,
            tokens: n_tokens,
            train_loss: found.figures["policy/loss"],
            learning_rate: step.lr,
            grad_norm: found.update.grad_norm,
            tokens_per_s: found.n_tokens as f64 / seconds,
            val_loss: None,
            scores: BTreeMap::new(),
            figures: found.figures,
            skipped: !found.update.made,
        };
        let due = step.number == state.n_steps || step.number.is_multiple_of(config.train.eval_every());
        if due {
            record.scores = evaluate(&mut ppo, &mut state, &run, &*task)?;
            outcome.figures = record.scores.clone();
        }
        run.record(&record)?;
        longest = longest.max(step_begun.elapsed());
        for spike in &found.spikes {
            sitting.progress.warn(&format!("iteration {}: {spike}", step.number));
        }
        state.finished = state.is_over(&config.train);
        let acted = act(&findings, step.number, &config.doctor, sitting.progress);
        outcome.summary.stop = if state.finished { None } else { interrupt.reason(longest) };
        if due || outcome.summary.stop.is_some() || acted.is_err() {
            save(&ppo, &mut state, elapsed(), &mut run)?;
        }
        task.show(&shown(&record, &step, seconds));
        task.advance(1);
        acted?;
        if state.finished && state.step < state.n_steps {
            sitting.progress.note(&format!(
                "no higher reward on held-out prompts {} times in a row: training ends at iteration {}",
                state.without_gain, state.step
            ));
        }
        if state.finished || outcome.summary.stop.is_some() {
            break;
        }
    }
    drop(task);
    draw(&run)?;
    outcome.summary.state = state;
    Ok(outcome)
}

/// Draws what the run recorded.
fn draw(run: &Run) -> Result<()> {
    run.draw()?;
    disk::write(&run.folder().join(PICTURE), charts::reward_over_kl(run.folder())?.as_bytes())
}

/// Shows what the fixed prompts were answered so far.
fn write_answers(ppo: &Ppo, folder: &Path) -> Result<()> {
    disk::write(&folder.join(ANSWERS), answers_table(&ppo.shown_prompts()?, &ppo.course.answers).as_bytes())
}

/// Measures the outcome so far, keeps its weights as the run's, and shows what it answers. `state` counts evaluations without
/// a higher reward.
fn evaluate(
    ppo: &mut Ppo,
    state: &mut State,
    run: &Run,
    task: &dyn gptkit_data::progress::ProgressTask,
) -> Result<BTreeMap<String, f64>> {
    let Evaluation { figures, reward } = ppo.with_outcome(|ppo| {
        let found = ppo.evaluate(state.step, task)?;
        run.save_best(ppo.policy.weights())?;
        Ok(found)
    })?;
    if let Some(reward) = reward {
        state.gains(-reward);
    }
    write_answers(ppo, run.folder())?;
    Ok(figures)
}

/// What each fixed prompt was answered after which iteration, in Markdown.
fn answers_table(prompts: &[String], answers: &[(u64, Vec<String>)]) -> String {
    let cell = |text: &str| text.trim().replace('|', "\\|").replace('\n', "<br>");
    let mut out = String::new();
    for (n, prompt) in prompts.iter().enumerate() {
        out += &format!("**{}**\n\n| iteration | answer |\n| --- | --- |\n", cell(prompt));
        for (step, said) in answers {
            out += &format!("| {step} | {} |\n", cell(said.get(n).map_or("", String::as_str)));
        }
        out += "\n";
    }
    out
}

/// The figures beside the bar.
fn shown(record: &Record, step: &Step, seconds: f64) -> String {
    let figure = |name: &str| record.figures.get(name).copied().unwrap_or(f64::NAN);
    format!(
        "score {:.3}  kl {:.2}  entropy {:.2}  length {:.0}  {:.0} episodes/s",
        figure("objective/score"),
        figure("objective/kl"),
        figure("objective/entropy"),
        figure("answers/length"),
        step.rows as f64 / seconds
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_stand_below_each_other() {
        let table = answers_table(&["a|b".to_owned()], &[(0, vec!["x\ny".to_owned()]), (10, vec!["z".to_owned()])]);
        assert_eq!(table, "**a\\|b**\n\n| iteration | answer |\n| --- | --- |\n| 0 | x<br>y |\n| 10 | z |\n\n");
    }
}
