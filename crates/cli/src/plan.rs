//! `gptkit plan`, and `--dry-run` of the training commands.

use crate::data_args::ConfigArgs;
use crate::device::{DeviceChoice, DtypeChoice};
use crate::plan_ppo;
use crate::plan_text::shape;
use crate::presets;
use crate::ui::{Ui, Usage};
use anyhow::Result;
use candle_core::Device;
use clap::{Args, ValueEnum};
use gptkit_data::format::{estimated_duration, needed_bytes};
use gptkit_data::progress::{Progress, Unit, grouped};
use gptkit_train::PretrainConfig;
use gptkit_train::machine;
use gptkit_train::memory::Place;
use gptkit_train::plan::{TrainingPlan, measure, settings_that_fit};
use gptkit_train::pretrain::settle;
use gptkit_train::sharing::{ExchangeSizes, Sharing, TENSOR};
use std::path::{Path, PathBuf};

/// Estimate the memory, compute and time of a run
#[derive(Debug, Args)]
#[command(mut_arg("config", |config| config.default_value_if("stage", "ppo", "ppo-small")))]
pub(crate) struct PlanCommand {
    /// Stage to plan
    #[arg(long, default_value = "pretrain")]
    stage: StageChoice,
    #[command(flatten)]
    config: ConfigArgs,
    /// Model folder that training would start from; for `--stage ppo` the policy, as a folder or a preset
    /// [default: small for ppo]
    #[arg(long, value_name = "DIR", conflicts_with = "tokenizer")]
    init: Option<PathBuf>,
    /// Reward model for `--stage ppo`, as a folder or a preset of its architecture [default: small for ppo]
    #[arg(long, value_name = "DIR|NAME")]
    reward: Option<PathBuf>,
    /// Estimate for this number of devices instead of measuring this machine
    #[arg(long, value_name = "N", requires = "device_tflops", value_parser = clap::value_parser!(u32).range(1..))]
    devices: Option<u32>,
    /// Peak throughput of one device, in units of 10^12 operations per second
    #[arg(long, value_name = "X", requires = "devices", value_parser = positive)]
    device_tflops: Option<f64>,
    /// Share of the peak throughput that training reaches (model FLOPs utilization), from 0 to 1
    #[arg(long, value_name = "Y", requires = "devices", default_value_t = 0.4, value_parser = share)]
    mfu: f64,
    /// Memory of one device, in GB (10^9 bytes) [default: that of this machine or its GPU]
    #[arg(long, value_name = "GB", value_parser = positive)]
    memory: Option<f64>,
    /// Device that is measured and whose memory is estimated; with `--devices`, no device is measured, and `cuda` estimates the
    /// memory of an NVIDIA GPU
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Data type for matrix multiplications [default: the configuration's, auto]
    #[arg(long)]
    dtype: Option<DtypeChoice>,
}

/// A stage that can be estimated
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StageChoice {
    /// `gptkit pretrain`
    Pretrain,
    /// `gptkit ppo`; the default configuration is ppo-small
    Ppo,
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|x: &f64| x.is_finite() && *x > 0.0).ok_or_else(|| "use a number above 0".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    positive(text).ok().filter(|&x| x <= 1.0).ok_or_else(|| "use a number above 0 and up to 1".to_owned())
}

/// The devices that a plan is made for.
enum PlannedDevices {
    /// A device of this machine, which is measured.
    Here(Device),
    /// Devices of which only the speed is known, and their kind.
    Elsewhere(Devices, Place),
}

impl PlannedDevices {
    fn place(&self) -> Place {
        match self {
            Self::Here(device) => Place::of(device),
            Self::Elsewhere(_, place) => *place,
        }
    }

    /// The bytes of memory that a run may use, if they are known, and where they are.
    fn memory(&self) -> Result<Option<(u64, &'static str)>> {
        Ok(match self {
            Self::Here(Device::Cuda(gpu)) => Some((gptkit_ops::gpu_memory(gpu)?, "on the GPU")),
            Self::Elsewhere(_, Place::Gpu) => None,
            _ => Some((machine::memory(), "on this machine")),
        })
    }
}

/// Work and time on devices that are not here.
struct Devices {
    n: u32,
    /// Operations a second that training gets of all of them.
    flops_per_s: f64,
}

impl PlanCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let mut set = self.config.settings();
        set.extend(self.dtype.map(DtypeChoice::setting));
        let memory = self.memory.map(|gb| (gb * 1e9) as u64);
        if self.stage == StageChoice::Ppo {
            self.check_of_ppo()?;
            let [policy, reward] = [&self.init, &self.reward].map(Option::as_deref);
            return plan_ppo::print(&self.config.config, &set, policy, reward, memory, ui);
        }
        if self.reward.is_some() {
            return Err(Usage::new("--reward requires --stage ppo").hint("add --stage ppo, or remove --reward").into());
        }
        let (_, config) = presets::load::<PretrainConfig>(&self.config.config, &set, ui)?;
        let devices = self
            .devices
            .zip(self.device_tflops)
            .map(|(n, tflops)| Devices { n, flops_per_s: f64::from(n) * tflops * 1e12 * self.mfu });
        let planned = match devices {
            Some(devices) if self.device == DeviceChoice::Cuda => PlannedDevices::Elsewhere(devices, Place::Gpu),
            Some(devices) => PlannedDevices::Elsewhere(devices, Place::of(&self.device.open()?)),
            None => PlannedDevices::Here(self.device.open()?),
        };
        print(config, self.init.as_deref(), &planned, memory, ui)
    }

    /// Refuses options on text, tokenizer and time: for PPO only shapes are read, and nothing is measured.
    fn check_of_ppo(&self) -> Result<()> {
        let text = self.config.names_text().then_some("--data, --tokenizer and the related options");
        let devices = self.devices.map(|_| "--devices");
        let device = (self.device != DeviceChoice::Auto).then_some("--device");
        match text.or(devices).or(device) {
            None => Ok(()),
            Some(what) => {
                let hint = "for ppo, only memory and updates are estimated, from the model shapes; --memory sets the \
                            available memory";
                Err(Usage::new(format!("{what} cannot be used with --stage ppo")).hint(hint).into())
            }
        }
    }
}

/// The plan of `config` on this machine.
pub(crate) fn print_here(config: PretrainConfig, init: Option<&Path>, device: &Device, ui: &Ui) -> Result<()> {
    print(config, init, &PlannedDevices::Here(device.clone()), None, ui)
}

fn print(
    mut config: PretrainConfig,
    init: Option<&Path>,
    planned: &PlannedDevices,
    memory: Option<u64>,
    ui: &Ui,
) -> Result<()> {
    let rows_per_epoch = settle(&mut config, init, ui)?;
    let plan = TrainingPlan::new(&config.model, &config.train, rows_per_epoch, planned.place());
    let limit = match memory {
        Some(bytes) => Some((bytes, "on the device")),
        None => planned.memory()?,
    };
    ui.result(&(shape("model", &config.model) + &memory_table(&config, &plan, limit)))?;
    if let PlannedDevices::Elsewhere(devices, _) = planned
        && devices.n > 1
    {
        ui.result(&of_each(&config, &plan, devices))?;
    }
    let time = match planned {
        PlannedDevices::Elsewhere(devices, _) => {
            let seconds = plan.total_flops() / devices.flops_per_s;
            format!(
                "{} on {} devices with {} TFLOP/s in total",
                estimated_duration(seconds),
                devices.n,
                rounded(devices.flops_per_s / 1e12)
            )
        }
        PlannedDevices::Here(device) => {
            let task = ui.task("measuring this machine", None, Unit::Items);
            let speed = measure(&config.model, &config.train, device)?;
            drop(task);
            let forward_share = 1.0 / 3.0;
            let tokens = plan.n_tokens as f64 + plan.n_validation_tokens as f64 * forward_share;
            let how = if speed.by_stand_in { ", estimated from a narrower model" } else { "" };
            format!(
                "{} on this machine, at {} tokens per second{how}",
                estimated_duration(speed.s_per_token * tokens),
                rounded(1.0 / speed.s_per_token)
            )
        }
    };
    ui.result(&(work(&config, &plan) + &format!("time         {time}\n")))
}

/// `limit`: as [`PlannedDevices::memory`] gives it.
fn memory_table(config: &PretrainConfig, plan: &TrainingPlan, limit: Option<(u64, &str)>) -> String {
    let memory = &plan.memory;
    let available = limit.map(|(limit, whose)| format!("; {} available {whose}", needed_bytes(limit)));
    let mut text = format!(
        "memory       {} at the peak of a step{}\n",
        needed_bytes(memory.total()),
        available.unwrap_or_default()
    );
    for (part, bytes) in [
        ("weights", memory.weights),
        ("packed", memory.packed),
        ("gradients", memory.gradients),
        ("optimizer", memory.optimizer),
        ("activations", memory.activations),
        ("logits", memory.logits),
        ("data", memory.data),
        ("overhead", memory.overhead),
    ] {
        text += &format!("  {part:11}{:>11}\n", needed_bytes(bytes));
    }
    if let Some((limit, _)) = limit
        && memory.total() > limit
    {
        let fixed = memory.weights + memory.packed + memory.gradients + memory.optimizer;
        text += &match settings_that_fit(&config.model, &config.train, (limit, memory.place)) {
            Some(set) => format!("  does not fit; it fits with --set {}\n", set.join(" --set ")),
            None => format!(
                "  does not fit: weights, gradients and optimizer alone take {}; lower model.n_layer or model.d_model\n",
                needed_bytes(fixed)
            ),
        };
    }
    text
}

/// What each of `devices` keeps, and what the exchange between ranks takes.
fn of_each(config: &PretrainConfig, plan: &TrainingPlan, devices: &Devices) -> String {
    let n = u64::from(devices.n);
    let mut text = format!("memory of each of {} devices\n", grouped(n));
    let ways = [
        ("replicated", Sharing::Replicated, "each has everything"),
        ("ZeRO-1", Sharing::Zero1, "moments are divided: what `mpirun` does"),
        ("ZeRO-3", Sharing::Zero3, "on paper: gptkit does not divide weights"),
        ("tensor", Sharing::Zero3Tensor, "on paper: ZeRO-3, and matrices divided among 8"),
    ];
    for (name, way, note) in ways.into_iter().filter(|(_, way, _)| *way != Sharing::Zero3Tensor || n > TENSOR) {
        let bytes = way.bytes(&config.model, &plan.memory, n);
        text += &format!("  {name:11}{:>11}  {note}\n", needed_bytes(bytes));
    }
    let computing = plan.total_flops() / plan.n_steps.max(1) as f64 / devices.flops_per_s;
    let exchange = ExchangeSizes::of(&config.model, &config.train, n, computing);
    let time = |seconds: f64| match seconds < 1.0 {
        true => format!("{:.0} ms", 1000.0 * seconds),
        false => estimated_duration(seconds),
    };
    let sent = needed_bytes(exchange.sent as u64);
    text += &format!("exchange     {sent} sent by each rank in a step that computes for {}\n", time(computing));
    for gigabits in [10.0, 100.0, 400.0] {
        let (all, longer) = exchange.seconds(gigabits * 1e9 / 8.0);
        let share = 100.0 * longer / (longer + computing);
        text += &format!(
            "  {:11}{:>11}, {} of it during the backward pass; the rest is {}, {share:.0}% of the step\n",
            format!("{gigabits} Gb/s"),
            time(all),
            time(all - longer),
            time(longer)
        );
    }
    text
}

fn work(config: &PretrainConfig, plan: &TrainingPlan) -> String {
    let flops = &plan.flops;
    let recomputed = match flops.recomputed {
        0.0 => String::new(),
        again => format!(", {again:.3e} recomputed"),
    };
    let total = plan.total_flops();
    format!(
        "work         {:.3e} FLOPs per token: {:.3e} in weights, {:.3e} in attention{recomputed}\n\
         run          {} tokens in {} steps of {} · {total:.3e} FLOPs, {} PF-days\n",
        flops.total(),
        flops.weights,
        flops.attention,
        grouped(plan.n_tokens),
        grouped(plan.n_steps),
        grouped((config.train.batch_size * config.model.context) as u64),
        rounded(total / (1e15 * 86_400.0)),
    )
}

/// Three digits that count.
fn rounded(x: f64) -> String {
    match x {
        x if x >= 100.0 => grouped(x.round() as u64),
        x if x >= 1.0 => format!("{x:.1}"),
        x if x >= 0.001 => format!("{x:.4}"),
        x => format!("{x:.1e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_at_a_glance() {
        assert_eq!([5e-5, 0.25, 36.4, 3637.2].map(rounded), ["5.0e-5", "0.2500", "36.4", "3,637"]);
    }
}
