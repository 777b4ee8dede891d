//! `gptkit bench`

use crate::device::{DeviceChoice, DtypeChoice, QuantizeChoice};
use crate::presets;
use crate::ui::Ui;
use anyhow::Result;
use candle_core::{Device, Tensor};
use clap::Args;
use gptkit_data::batch::Batch;
use gptkit_data::progress::{Progress, Unit};
use gptkit_model::{ClassHead, Dtype, Gpt, Input, ModelConfig, Params, Pass, Weights, predictor};
use gptkit_ops::Precision;
use gptkit_ops::bench::{BenchShape, cases, peak};
use gptkit_reward::RewardModel;
use gptkit_reward::group::Group;
use gptkit_reward::loss::{LossConfig, Pairs};
use gptkit_rl::bench::Seconds;
use gptkit_train::PretrainConfig;
use gptkit_train::config::TrainConfig;
use gptkit_train::fit::Trainer;
use gptkit_train::guard::Guard;
use gptkit_train::memory::peak_of_process;
use gptkit_train::objective::LanguageModeling;
use gptkit_train::plan::Flops;
use serde_json::json;
use std::time::{Duration, Instant};

/// Measure training, reading a prompt, writing, and each operation at a preset's sizes, beside the processor's most
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Preset or TOML file
    #[arg(long, value_name = "NAME|FILE", default_value = "small")]
    config: String,
    /// Windows a step, and rows that are written together [default: the configuration's, and 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    batch: Option<u16>,
    /// Tokens of a window [default: the configuration's context]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..))]
    seq: Option<u16>,
    /// Only the cases whose name begins so (repeatable)
    #[arg(long, value_name = "NAME")]
    case: Vec<String>,
    /// Change one setting, for instance train.recompute=blocks (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// One JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// Where to compute
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// What products of matrices read, on the processor
    #[arg(long, default_value = "auto")]
    dtype: DtypeChoice,
    /// Write with weights of few bits
    #[arg(long, value_name = "KIND")]
    quantize: Option<QuantizeChoice>,
}

/// What a run of a case took.
struct Line {
    case: String,
    batch: usize,
    seq: usize,
    seconds: f64,
    tokens: usize,
    flops: f64,
    peak_bytes: Option<u64>,
}

/// Vocabulary where the text would say it.
const VOCABULARY: usize = 256;
/// Measured for at least this long.
const LONG: Duration = Duration::from_secs(2);
/// And at least as often.
const OFTEN: usize = 5;
/// Tokens of the prompt that is continued.
const PROMPT: usize = 32;

impl Bench {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let (name, mut config) = presets::load::<PretrainConfig>(&self.config, &self.set)?;
        let device = self.device.open()?;
        let dtype = Dtype::from(self.dtype);
        if config.model.vocab_size == 0 {
            config.model.vocab_size = config.tokenizer.vocab_size.unwrap_or(VOCABULARY);
        }
        let seq = self.seq.map_or(config.model.context, usize::from);
        config.model.context = config.model.context.max(seq);
        let batch = self.batch.map_or(config.train.batch_size, usize::from);
        let train = TrainConfig { batch_size: batch, micro_batch: config.train.micro_batch, dtype, ..config.train };
        let precision = dtype.precision();
        let most = device.is_cpu().then(|| peak(precision));
        let here = |case: &str| self.case.is_empty() || self.case.iter().any(|begin| case.starts_with(begin.as_str()));
        let of_dtype = if precision == Precision::Bf16 { "bf16" } else { "f32" };
        let show = |line: &Line| -> Result<()> {
            if self.json {
                return ui.json(&(object(line, &name, of_dtype, most).to_string() + "\n"));
            }
            ui.result(&(row(line, most) + "\n"))
        };
        if !self.json {
            let most = most.map(|most| format!(" · at most {:.0} GFLOP/s", most / 1e9)).unwrap_or_default();
            ui.say(&format!("{name} · {batch} × {seq} tokens · {of_dtype}{most}"));
            ui.result(&format!(
                "{:<24}{:>12}{:>14}{:>12}{:>9}{:>12}\n",
                "case", "ms", "tokens/s", "GFLOP/s", "share", "peak"
            ))?;
        }
        let model = &config.model;
        if here("train_step") {
            show(&train_step(model, &train, batch, seq, &device, ui)?)?;
        }
        if model.must_write().is_err() {
            return Ok(()); // of the baselines only training is measured
        }
        let params = Params::init(model, 1, &device)?;
        let gpt = Gpt::new(model, &params, precision)?;
        let forward = Flops::of(model, &train).total() / 3.0;
        let head = 2.0 * (model.vocab_size * model.d_model) as f64;
        if here("prompt") {
            let ids = Input::windows(&ids(batch, seq, model, &device)?)?;
            let seconds = timed("prompt", ui, || gpt.hidden(&ids, Pass::Eval).map(|_| ()).map_err(Into::into))?;
            show(&Line {
                case: "prompt".to_owned(),
                batch,
                seq,
                seconds,
                tokens: batch * seq,
                flops: (forward - head) * (batch * seq) as f64,
                peak_bytes: peak_of_process(),
            })?;
        }
        if here("decode") {
            let rows = self.batch.map_or(1, usize::from);
            let prompt = PROMPT.min(seq / 2);
            if let Some(to) = self.quantize {
                gpt.quantize(to.into())?;
            }
            let mut cache = gpt.cache();
            let (prompt, one) = (ids(rows, prompt, model, &device)?, ids(rows, 1, model, &device)?);
            let (prompt, one) = (Input::windows(&prompt)?, Input::windows(&one)?);
            gpt.next_logits(&prompt, &mut cache)?;
            let seconds = timed("decode", ui, || {
                if cache.lens()[0] == model.context {
                    cache = gpt.cache();
                    gpt.next_logits(&prompt, &mut cache)?;
                }
                Ok(gpt.next_logits(&one, &mut cache).map(|_| ())?)
            })?;
            show(&Line {
                case: "decode".to_owned(),
                batch: rows,
                seq: 1,
                seconds,
                tokens: rows,
                flops: forward * rows as f64,
                peak_bytes: peak_of_process(),
            })?;
        }
        drop(gpt);
        let compares = ["compare_group", "compare_alone", "compare_pairs"];
        if compares.into_iter().any(here) {
            for (case, seconds, tokens) in compare(model, params, seq, precision, here, ui)? {
                let (case, flops) = (case.to_owned(), 0.0);
                show(&Line { case, batch: K, seq, seconds, tokens, flops, peak_bytes: peak_of_process() })?;
            }
        }
        if self.case.iter().any(|case| case.starts_with("ppo")) {
            let rows = self.batch.map_or(EPISODES, usize::from);
            for (case, seconds, tokens) in ppo(model, rows, dtype, &device, ui)? {
                let (case, flops, seq) = (case.to_owned(), 0.0, PROMPT + ANSWER);
                show(&Line { case, batch: rows, seq, seconds, tokens, flops, peak_bytes: peak_of_process() })?;
            }
        }
        if device.is_cpu() {
            let (n_head, vocab_size) = (model.n_head, model.vocab_size);
            let shape = BenchShape { batch, len: seq, width: model.d_model, n_head, vocab_size };
            for mut case in cases(shape, precision)?.into_iter().filter(|case| here(case.name)) {
                let seconds = timed(case.name, ui, || Ok((case.run)()?))?;
                let (case, flops, tokens) = (case.name.to_owned(), case.flops, batch * seq);
                show(&Line { case, batch, seq, seconds, tokens, flops, peak_bytes: None })?;
            }
        }
        Ok(())
    }
}

fn train_step(
    model: &ModelConfig,
    train: &TrainConfig,
    batch: usize,
    seq: usize,
    device: &Device,
    ui: &Ui,
) -> Result<Line> {
    let params = Params::init(model, 1, device)?;
    let objective = LanguageModeling(predictor(model, &params, train.dtype.precision())?);
    let mut trainer = Trainer::new(objective, params, train, 1)?;
    let numbers = |shift: usize| (0..batch * seq).map(|i| ((i * 7919 + shift) % model.vocab_size) as u32).collect();
    let one = Batch::windows(seq, numbers(0), numbers(7919));
    let mut guard = Guard::default();
    let seconds = timed("train_step", ui, || trainer.step(&one, 0, train.lr, &mut guard).map(|_| ()))?;
    let shape = ModelConfig { context: seq, ..model.clone() };
    Ok(Line {
        case: "train_step".to_owned(),
        batch,
        seq,
        seconds,
        tokens: batch * seq,
        flops: Flops::of(&shape, train).total() * (batch * seq) as f64,
        peak_bytes: peak_of_process(),
    })
}

/// Episodes of an iteration of PPO, where nothing else is said.
const EPISODES: usize = 16;
/// Tokens of their answers.
const ANSWER: usize = 48;

/// An iteration of PPO with one update, and its parts: median seconds of each, and the tokens that it speaks. Not among the
/// cases that are measured unasked: it takes the memory of four models.
fn ppo(
    model: &ModelConfig,
    rows: usize,
    dtype: Dtype,
    device: &Device,
    ui: &Ui,
) -> Result<Vec<(&'static str, f64, usize)>> {
    let task = ui.task("ppo", None, Unit::Items);
    let mut found = Vec::new();
    gptkit_rl::bench::iterations(model, (rows, PROMPT, ANSWER), dtype, device, |seconds| {
        task.advance(1);
        found.push(seconds);
        found.len() <= OFTEN // the first takes its memory from the system
    })?;
    let tokens = rows * ANSWER;
    let median = |of: fn(&Seconds) -> f64| {
        let mut all: Vec<f64> = found[1..].iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    Ok(vec![
        ("ppo_iteration", median(|s| s.rollout + s.scoring + s.optimization), tokens),
        ("ppo_rollout", median(|s| s.rollout), tokens),
        ("ppo_scoring", median(|s| s.scoring), tokens),
        ("ppo_optimization", median(|s| s.optimization), tokens),
    ])
}

/// Completions of the prompt that are compared.
const K: usize = 9;

/// Loss and gradients of a reward model from K completions of one prompt, half a window and a quarter each: as a group, whose
/// prompt is read once; each completion alone; and pair by pair, each with both of its completions. Seconds of each, and the
/// tokens of all K.
fn compare(
    model: &ModelConfig,
    mut params: Params,
    seq: usize,
    precision: Precision,
    here: impl Fn(&str) -> bool,
    ui: &Ui,
) -> Result<Vec<(&'static str, f64, usize)>> {
    let head = ClassHead::init_reward(&mut params, model.d_model, 1)?;
    let rewarder = RewardModel { gpt: Gpt::new(model, &params, precision)?, head };
    let mut weights = Weights::from(params);
    let (prompt, own) = ((seq / 2).max(1), (seq / 4).max(1));
    let token = |i: usize| (i * 7919 % model.vocab_size) as u32;
    let sequence =
        |k: usize| (0..prompt).map(token).chain((0..own).map(|i| token(i + (k + 1) * own))).collect::<Vec<u32>>();
    let of = |sequences: Vec<Vec<u32>>| Group { places: vec![1; sequences.len()], sequences, prompt, gold: None };
    let alone = |k: usize| of(vec![sequence(k)]);
    let places: Vec<u32> = (1..=K as u32).collect();
    let pairs: Vec<(usize, usize)> = gptkit_data::comparison::pairs(&places).collect();
    let one_by_one = pairs.iter().flat_map(|&(a, b)| [alone(a), alone(b)]).collect();
    let cases = [
        ("compare_group", vec![of((0..K).map(sequence).collect())], Pairs::of([places.as_slice()], 1)),
        ("compare_alone", (0..K).map(alone).collect(), Pairs::of([places.as_slice()], 1)),
        ("compare_pairs", one_by_one, Pairs::of(pairs.iter().map(|_| &[1, 2][..]), pairs.len())),
    ];
    let pass = Pass::Train { seed: 1, first_row: 0, recompute: false };
    let mut found = Vec::new();
    for (name, groups, pairs) in cases.into_iter().filter(|(name, _, _)| here(name)) {
        let seconds = timed(name, ui, || {
            let loss = || pairs.loss(&rewarder.of_groups(&groups, pass)?, &LossConfig::default());
            weights.begin_update().backward(loss).map(|_| ())
        })?;
        found.push((name, seconds, K * (prompt + own)));
    }
    Ok(found)
}

fn ids(rows: usize, len: usize, model: &ModelConfig, device: &Device) -> Result<Tensor> {
    let ids: Vec<u32> = (0..rows * len).map(|i| (i * 7919 % model.vocab_size) as u32).collect();
    Ok(Tensor::from_vec(ids, (rows, len), device)?)
}

/// Median seconds of a run; the first, which takes its memory from the system, does not count.
fn timed(name: &str, ui: &Ui, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let task = ui.task(name, None, Unit::Items);
    run()?;
    let (begun, mut seconds) = (Instant::now(), Vec::new());
    while begun.elapsed() < LONG || seconds.len() < OFTEN {
        let one = Instant::now();
        run()?;
        seconds.push(one.elapsed().as_secs_f64());
        task.advance(1);
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[seconds.len() / 2])
}

fn object(line: &Line, config: &str, dtype: &str, most: Option<f64>) -> serde_json::Value {
    let rate = line.flops / line.seconds;
    json!({
        "case": line.case,
        "config": config,
        "batch": line.batch,
        "seq": line.seq,
        "dtype": dtype,
        "ms": line.seconds * 1e3,
        "tokens_per_s": line.tokens as f64 / line.seconds,
        "gflops": (line.flops > 0.0).then_some(rate / 1e9),
        "share_of_peak": most.filter(|_| line.flops > 0.0).map(|most| rate / most),
        "peak_bytes": line.peak_bytes,
    })
}

fn row(line: &Line, most: Option<f64>) -> String {
    let rate = line.flops / line.seconds;
    let counted = line.flops > 0.0;
    let gflops = if counted { format!("{:.0}", rate / 1e9) } else { String::new() };
    let share = most.filter(|_| counted).map(|most| format!("{:.0}%", 100.0 * rate / most)).unwrap_or_default();
    let peak = line.peak_bytes.map(|bytes| format!("{:.2} GB", bytes as f64 / 1e9)).unwrap_or_default();
    format!(
        "{:<24}{:>12.3}{:>14.1}{gflops:>12}{share:>9}{peak:>12}",
        line.case,
        line.seconds * 1e3,
        line.tokens as f64 / line.seconds
    )
    .trim_end()
    .to_owned()
}
