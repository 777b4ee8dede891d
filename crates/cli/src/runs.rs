//! `gptkit runs` and `gptkit plot`

use crate::data_args::shell;
use crate::ui::Ui;
use anyhow::{Result, ensure};
use clap::Args;
use gptkit_data::printable::printable_line;
use gptkit_train::curves::{Curves, svg};
use gptkit_train::overview::{Activity, Overview, runs};
use gptkit_train::request::RunRequest;
use std::path::PathBuf;
use std::time::Duration;

/// List runs with their state, step and loss
#[derive(Debug, Args)]
pub(crate) struct RunsCommand {
    /// Folder with the runs
    #[arg(value_name = "DIR", default_value = "runs")]
    folder: PathBuf,
}

impl RunsCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let runs = runs(&self.folder)?;
        ensure!(!runs.is_empty(), "{} contains no runs; `gptkit pretrain` starts one", self.folder.display());
        let width = runs.iter().map(|run| name(run).chars().count()).max().unwrap_or(0).max(3);
        ui.result(&format!(
            "{:width$}  {:8}  {:>15}  {:>8}  {:>8}  {:>8}  written\n",
            "run", "state", "step", "loss", "best val", "time"
        ))?;
        for run in &runs {
            let loss = |loss: Option<f64>| loss.map_or_else(|| "-".to_owned(), |loss| format!("{loss:.4}"));
            let state = match run.activity {
                Activity::Running => "running",
                Activity::Finished => "finished",
                Activity::Stopped => "stopped",
                Activity::Empty => "empty",
            };
            ui.result(&format!(
                "{:width$}  {state:8}  {:>15}  {:>8}  {:>8}  {:>8}  {}\n",
                name(run),
                format!("{}/{}", run.step, run.n_steps),
                loss(run.train_loss),
                loss(run.best),
                clock(run.elapsed_s),
                ago(run)
            ))?;
        }
        let stopped = runs.iter().find(|run| run.activity == Activity::Stopped);
        if let Some((run, request)) = stopped.and_then(|run| Some((run, RunRequest::read(&run.folder)?))) {
            ui.next(&format!("gptkit {} --resume {}", request.command, shell(&run.folder)));
        }
        Ok(())
    }
}

fn name(run: &Overview) -> String {
    printable_line(&run.folder.file_name().unwrap_or_default().to_string_lossy()).into_owned()
}

/// 3725 → 1:02:05.
fn clock(seconds: f64) -> String {
    let s = seconds as u64;
    if s < 3600 {
        format!("{}:{:02}", s / 60, s % 60)
    } else {
        format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
    }
}

fn ago(run: &Overview) -> String {
    let seconds = run.modified.elapsed().map_or(0, |since| since.as_secs());
    format!("{:#} ago", indicatif::HumanDuration(Duration::from_secs(seconds)))
}

/// Draw the training curves of one or several runs as SVG
#[derive(Debug, Args)]
pub(crate) struct PlotCommand {
    /// Run folders
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// SVG file to write
    #[arg(long, value_name = "FILE", default_value = "curves.svg")]
    out: PathBuf,
}

impl PlotCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let curves = self.runs.iter().map(|run| Curves::read(run)).collect::<Result<Vec<_>>>()?;
        gptkit_data::disk::write(&self.out, svg(&curves).as_bytes())?;
        ui.say(&format!("saved {}", self.out.display()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_on_a_clock() {
        assert_eq!([0.0, 61.5, 3725.0].map(clock), ["0:00", "1:01", "1:02:05"]);
    }
}
