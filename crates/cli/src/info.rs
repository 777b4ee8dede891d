//! `gptkit info`

use crate::env::{VARIABLES, Variable};
use crate::ui::Ui;
use clap::Args;
use gptkit_data::printable::printable_line;
use gptkit_ops::cpu::Cpu;
use gptkit_ops::{Precision, Quantized};

/// Show the CPU and GPU features in use, and why
#[derive(Debug, Args)]
pub(crate) struct InfoCommand {}

impl InfoCommand {
    pub(crate) fn run(self, ui: &Ui) -> anyhow::Result<()> {
        let cpu = Cpu::get();
        let auto = match Precision::fastest() {
            Precision::Bf16 => "bf16",
            Precision::F32 => "f32",
        };
        let lines = [
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("threads", rayon::current_num_threads().to_string()),
            ("loops and f32 products", cpu.level.to_string()),
            ("bf16 products", bf16_products(cpu)),
            ("quantized products", Quantized::instructions().to_owned()),
            ("--dtype auto", auto.to_owned()),
            ("memory", format!("{:.1} GB", gptkit_train::machine::memory() as f64 / 1e9)),
            ("built with", built_with()),
        ];
        ui.result(&lines.map(|(name, value)| format!("{name:<24}{value}\n")).concat())?;
        ui.result("\nenvironment variables\n")?;
        VARIABLES.iter().try_for_each(|variable| ui.result(&(line(variable) + "\n")))
    }
}

/// A variable's name, its value, and the accepted values where it is not set.
fn line(variable: &Variable) -> String {
    let Variable { name, values, .. } = variable;
    let value = variable.value().map(|value| printable_line(&value).into_owned());
    let unset = if values.is_empty() { "not set".to_owned() } else { format!("not set ({values})") };
    format!("{name:<24}{}", value.unwrap_or(unset))
}

/// How products of bf16 matrices are computed, and why.
pub(crate) fn bf16_products(cpu: &Cpu) -> String {
    match &cpu.tiles {
        Ok(()) => "matrix tiles (AMX)".to_owned(),
        Err(why) if cpu.dots => format!("AVX512-BF16; {why}"),
        Err(why) => format!("{} in f32; {why}", cpu.level),
    }
}

/// The GPUs that this binary supports.
pub(crate) fn built_with() -> String {
    let features = [("cuda", cfg!(feature = "cuda")), ("metal", cfg!(feature = "metal"))];
    let on: Vec<&str> = features.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    if on.is_empty() { "no GPU".to_owned() } else { on.join(", ") }
}
