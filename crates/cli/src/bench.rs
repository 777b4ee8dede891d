//! `gptkit bench`

use crate::device::{DeviceChoice, DtypeChoice, QuantizeChoice};
use crate::presets;
use crate::ui::Ui;
use anyhow::{Result, ensure};
use candle_core::Device;
use clap::{Args, ValueEnum};
use gptkit_model::{Dtype, Gpt, ModelConfig, Packing, Params};
use gptkit_ops::Precision;
use gptkit_ops::bench::{BenchShape, cases, peak};
use gptkit_train::PretrainConfig;
use gptkit_train::bench::{CaseTime, TurnTime, median_seconds};
use gptkit_train::config::TrainConfig;
use gptkit_train::memory::peak_of_process;
use serde_json::json;
use std::cell::Cell;

/// Benchmark training, generation and single operations
#[derive(Debug, Args)]
pub(crate) struct BenchCommand {
    /// Preset or TOML file
    #[arg(long, value_name = "NAME|FILE", default_value = "small")]
    config: String,
    /// Preset or TOML file of a second model: a training step of each model is measured in alternation
    #[arg(long, value_name = "NAME|FILE", conflicts_with_all = ["case", "quantize"])]
    against: Option<String>,
    /// Windows per training step, and sequences per generation batch [default: the
    /// configuration's train.micro_batch, and 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    batch: Option<u16>,
    /// Tokens per window [default: the configuration's context]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..))]
    seq: Option<u16>,
    /// Only run cases whose name starts with this; `ppo` and `serve` run only when they are named (repeatable)
    #[arg(long, value_name = "NAME")]
    case: Vec<String>,
    /// Change one setting, for instance train.recompute=blocks (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print one JSON object per line instead of a table
    #[arg(long)]
    json: bool,
    /// Device to compute on
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Data type for matrix multiplications
    #[arg(long, default_value = "auto")]
    dtype: DtypeChoice,
    /// Measure only `prompt`, `decode` and `serve`, with quantized weights (CPU only)
    #[arg(long, value_name = "KIND")]
    quantize: Option<QuantizeChoice>,
}

/// Vocabulary size where it would depend on the text.
const VOCABULARY: usize = 256;
/// Cases that read quantized weights.
const QUANTIZED: [&str; 3] = ["prompt", "decode", "serve"];
/// Episodes of an iteration of PPO by default.
const EPISODES: usize = 16;

impl BenchCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let (name, config) = self.loaded(&self.config, &self.set, ui)?;
        let device = self.device.open()?;
        let PretrainConfig { train, .. } = &config;
        let (batch_size, seq) = (train.batch_size, self.seq.map_or(config.model.context, usize::from));
        let precision = train.dtype.precision();
        ensure!(
            self.quantize.is_none() || QUANTIZED.iter().any(|case| self.wants(case)),
            "--quantize works only with the cases {}, but --case selects others",
            QUANTIZED.join(" and ")
        );
        let peak_flops = Cell::new((device.is_cpu() && self.against.is_none()).then(|| peak(precision)));
        let sheet = BenchSheet {
            config: &name,
            dtype: if precision == Precision::Bf16 { "bf16" } else { "f32" },
            quantized: self.quantize.and_then(|kind| Some(kind.to_possible_value()?.get_name().to_owned())),
            precision,
            peak_flops,
            json: self.json,
            ui,
        };
        if let Some(against) = &self.against {
            let (_, other) = self.loaded(against, &[], ui)?;
            let both = [(&config.model, train), (&other.model, &other.train)];
            let times = gptkit_train::bench::train_steps_by_turns(both, seq, &device, ui)?;
            return sheet.turns([&self.config, against], &times);
        }
        sheet.head(batch_size, seq)?;
        if self.wants("train_step") {
            sheet.show(&gptkit_train::bench::train_step(&config.model, train, seq, &device, ui)?)?;
        }
        if config.model.must_write().is_err() {
            return Ok(()); // of the baselines only training is measured
        }
        self.models(&config.model, train, seq, &device, &sheet)?;
        if device.is_cpu() {
            self.operations(&config.model, train.micro_batch(), seq, precision, &sheet)?;
        }
        Ok(())
    }

    /// The configuration `config` and its name, with the batch size, window and data type of the command line.
    fn loaded(&self, config: &str, set: &[String], ui: &Ui) -> Result<(String, PretrainConfig)> {
        let (name, mut config) = presets::load::<PretrainConfig>(config, set, ui)?;
        if config.model.vocab_size == 0 {
            config.model.vocab_size = config.tokenizer.vocab_size.unwrap_or(VOCABULARY);
        }
        let seq = self.seq.map_or(config.model.context, usize::from);
        config.model.context = config.model.context.max(seq);
        // Not the batch of large presets, which would take minutes.
        let batch_size = self.batch.map_or(config.train.micro_batch(), usize::from);
        config.train.batch_size = batch_size;
        config.train.micro_batch = config.train.micro_batch.map(|windows| windows.min(batch_size));
        config.train.dtype = Dtype::from(self.dtype);
        Ok((name, config))
    }

    /// Whether `case` is selected by `--case`.
    fn wants(&self, case: &str) -> bool {
        let is_possible = self.quantize.is_none() || QUANTIZED.iter().any(|begin| case.starts_with(begin));
        is_possible && (self.case.is_empty() || self.case.iter().any(|begin| case.starts_with(begin.as_str())))
    }

    /// Reading and writing, the server's engine, a reward model's loss, PPO.
    fn models(
        &self,
        model: &ModelConfig,
        train: &TrainConfig,
        seq: usize,
        device: &Device,
        sheet: &BenchSheet,
    ) -> Result<()> {
        let (precision, ui) = (train.dtype.precision(), sheet.ui);
        let params = Params::init(model, 1, device)?;
        let params = match self.quantize {
            Some(to) => params.packed(model, Packing { precision, quantized: Some(to.into()) })?,
            None => params,
        };
        let gpt = Gpt::new(model, &params, precision)?;
        if self.wants("prompt") {
            sheet.show(&gptkit_train::bench::prompt(&gpt, train, train.micro_batch(), seq, ui)?)?;
        }
        if self.wants("decode") {
            let rows = self.batch.map_or(1, usize::from);
            sheet.show(&gptkit_train::bench::decode(&gpt, train, rows, seq, ui)?)?;
        }
        let wants = |case: &str| self.wants(case);
        // Only when it is asked for, as PPO is.
        if self.case.iter().any(|case| case.starts_with("serve")) {
            gptkit_serve::bench::serve(gpt, wants, ui)?.iter().try_for_each(|one| sheet.show(one))?;
        } else {
            drop(gpt);
        }
        // Else the weights are freed here: PPO has models of its own.
        if let Some(params) = gptkit_reward::bench::CASES.into_iter().any(wants).then_some(params) {
            let measured = gptkit_reward::bench::comparisons(model, params, seq, precision, wants, ui)?;
            measured.iter().try_for_each(|one| sheet.show(one))?;
        }
        // Only when it is asked for: it takes the memory of four models.
        if self.quantize.is_none() && self.case.iter().any(|case| case.starts_with("ppo")) {
            let episodes = self.batch.map_or(EPISODES, usize::from);
            let measured = gptkit_rl::bench::ppo(model, episodes, train.dtype, device, ui)?;
            measured.iter().try_for_each(|one| sheet.show(one))?;
        }
        Ok(())
    }

    /// Each operation of a training step by itself.
    fn operations(
        &self,
        model: &ModelConfig,
        batch: usize,
        seq: usize,
        precision: Precision,
        sheet: &BenchSheet,
    ) -> Result<()> {
        let ModelConfig { d_model: width, n_head, vocab_size, .. } = *model;
        let shape = BenchShape { batch, len: seq, width, n_head, vocab_size };
        for mut case in cases(shape, precision, |name| self.wants(name))? {
            let seconds = median_seconds(case.name, sheet.ui, || Ok((case.run)()?))?;
            let (case, flops, tokens) = (case.name, case.flops, batch * seq);
            sheet.print(&CaseTime { case, batch, seq, seconds, tokens, flops }, None)?;
        }
        Ok(())
    }
}

/// Prints measurements, as a table or as lines of JSON.
struct BenchSheet<'a> {
    /// Name of the configuration.
    config: &'a str,
    dtype: &'a str,
    /// Kind of the quantized weights.
    quantized: Option<String>,
    precision: Precision,
    /// The most floating-point operations a second, where it is known.
    peak_flops: Cell<Option<f64>>,
    json: bool,
    ui: &'a Ui,
}

impl BenchSheet<'_> {
    fn head(&self, batch: usize, seq: usize) -> Result<()> {
        if self.json {
            return Ok(());
        }
        let Self { config, ui, .. } = self;
        let dtype = [Some(self.dtype), self.quantized.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(", ");
        let peak =
            self.peak_flops.get().map(|peak| format!(" · at most {:.0} GFLOP/s", peak / 1e9)).unwrap_or_default();
        ui.say(&format!("{config} · {batch} × {seq} tokens · {dtype}{peak}"));
        ui.result(&format!(
            "{:<24}{:>12}{:>14}{:>12}{:>9}{:>12}\n",
            "case", "ms", "tokens/s", "GFLOP/s", "share", "peak"
        ))
    }

    /// Prints the alternating measurements of two models, and their ratio.
    fn turns(&self, names: [&str; 2], times: &[TurnTime; 2]) -> Result<()> {
        let rate = |time: &TurnTime, seconds: f64| time.elapsed.tokens as f64 / seconds;
        let ratio = |seconds: fn(&TurnTime) -> f64| {
            let [one, other] = times.each_ref().map(|time| rate(time, seconds(time)));
            one / other
        };
        if !self.json {
            let CaseTime { batch, seq, .. } = times[0].elapsed;
            self.ui.say(&format!("alternating training steps of {batch} × {seq} tokens · {}", self.dtype));
            self.ui.result(&format!(
                "{:<24}{:>12}{:>14}{:>12}{:>18}\n",
                "model", "ms", "tokens/s", "CPU ms", "tokens/CPU s"
            ))?;
        }
        for (name, time) in names.into_iter().zip(times) {
            let TurnTime { elapsed, cpu_seconds } = time;
            let (per_s, per_cpu_s) = (rate(time, elapsed.seconds), rate(time, *cpu_seconds));
            let (ms, cpu_ms) = (elapsed.seconds * 1e3, cpu_seconds * 1e3);
            if self.json {
                let object = json!({
                    "case": elapsed.case,
                    "config": name,
                    "batch": elapsed.batch,
                    "seq": elapsed.seq,
                    "dtype": self.dtype,
                    "ms": ms,
                    "cpu_ms": cpu_ms,
                    "tokens_per_s": per_s,
                    "tokens_per_cpu_s": per_cpu_s,
                });
                self.ui.json(&(object.to_string() + "\n"))?;
            } else {
                self.ui.result(&format!("{name:<24} {ms:>11.3}{per_s:>14.1}{cpu_ms:>12.3}{per_cpu_s:>18.1}\n"))?;
            }
        }
        if !self.json {
            let (elapsed, cpu) = (ratio(|time| time.elapsed.seconds), ratio(|time| time.cpu_seconds));
            self.ui.say(&format!(
                "the first model is {elapsed:.2} times as fast in elapsed time, {cpu:.2} times in CPU time"
            ));
        }
        Ok(())
    }

    /// Prints a measurement with the peak memory of the process.
    fn show(&self, measured: &CaseTime) -> Result<()> {
        self.print(measured, peak_of_process())
    }

    fn print(&self, measured: &CaseTime, peak_bytes: Option<u64>) -> Result<()> {
        match self.json {
            true => self.ui.json(&(self.object(measured, peak_bytes).to_string() + "\n")),
            false => self.ui.result(&(self.row(measured, peak_bytes) + "\n")),
        }
    }

    fn object(&self, measured: &CaseTime, peak_bytes: Option<u64>) -> serde_json::Value {
        let CaseTime { case, batch, seq, seconds, tokens, flops } = *measured;
        let rate = flops / seconds;
        json!({
            "case": case,
            "config": self.config,
            "batch": batch,
            "seq": seq,
            "dtype": self.dtype,
            "quantized": self.quantized,
            "ms": seconds * 1e3,
            "tokens_per_s": tokens as f64 / seconds,
            "gflops": (flops > 0.0).then_some(rate / 1e9),
            "share_of_peak": self.share(flops, seconds),
            "peak_bytes": peak_bytes,
        })
    }

    /// Share of the most that the processor multiplies, where it is known and operations are counted.
    fn share(&self, flops: f64, seconds: f64) -> Option<f64> {
        let rate = flops / seconds;
        // The clock may have risen since the peak was measured.
        if self.peak_flops.get().is_some_and(|known| rate > known) {
            self.peak_flops.set(Some(peak(self.precision).max(rate)));
        }
        self.peak_flops.get().filter(|_| flops > 0.0).map(|peak| rate / peak)
    }

    fn row(&self, measured: &CaseTime, peak_bytes: Option<u64>) -> String {
        let CaseTime { case, seconds, tokens, flops, .. } = *measured;
        let rate = flops / seconds;
        let is_counted = flops > 0.0;
        let gflops = if is_counted { format!("{:.0}", rate / 1e9) } else { String::new() };
        let share = self.share(flops, seconds).map(|share| format!("{:.0}%", 100.0 * share)).unwrap_or_default();
        let peak = peak_bytes.map(|bytes| format!("{:.2} GB", bytes as f64 / 1e9)).unwrap_or_default();
        let (ms, tokens_per_s) = (seconds * 1e3, tokens as f64 / seconds);
        format!("{case:<24}{ms:>12.3}{tokens_per_s:>14.1}{gflops:>12}{share:>9}{peak:>12}").trim_end().to_owned()
    }
}
