//! `gptkit runs` and `gptkit plot`

use crate::data_args::shell;
use crate::ui::{Ui, Usage, unusable};
use anyhow::Result;
use clap::Args;
use gptkit_data::printable::printable_line;
use gptkit_data::progress::Progress;
use gptkit_train::curves::Curves;
use gptkit_train::metric_charts::MetricPlot;
use gptkit_train::objective::LOSS;
use gptkit_train::overview::{Activity, NewestFigure, Overview, runs};
use gptkit_train::request::RunRequest;
use gptkit_train::state::BestValidation;
use serde::Serialize;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// List runs with their state, step, newest figure and best validation
#[derive(Debug, Args)]
pub(crate) struct RunsCommand {
    /// Folder with the runs
    #[arg(value_name = "DIR", default_value = "runs")]
    folder: PathBuf,
    /// Refresh the table every two seconds until Ctrl-C; needs a terminal
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    /// Print one JSON object per run instead of a table
    #[arg(long)]
    json: bool,
}

impl RunsCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        if self.watch {
            return self.watch();
        }
        let runs = runs(&self.folder).map_err(unusable)?;
        if self.json {
            let lines: Vec<String> =
                runs.iter().map(|run| serde_json::to_string(&RunObject::of(run))).collect::<Result<_, _>>()?;
            return lines.iter().try_for_each(|line| ui.json(&format!("{line}\n")));
        }
        if runs.is_empty() {
            return Err(Usage::new(no_runs(&self.folder)).into());
        }
        ui.result(&table(&runs).into_iter().map(|line| line + "\n").collect::<String>())?;
        let stopped = runs.iter().find(|run| run.activity == Activity::Stopped);
        if let Some((run, request)) = stopped.and_then(|run| Some((run, RunRequest::read(&run.folder)?))) {
            ui.next(&format!("gptkit {} --resume {}", request.command, shell(&run.folder)));
        }
        Ok(())
    }

    /// Shows the table again and again. Ctrl-C ends the process, with the last table on the screen.
    fn watch(&self) -> Result<()> {
        if !std::io::stdout().is_terminal() {
            let hint = "use --json, or `gptkit runs` in a loop";
            return Err(Usage::new("--watch needs a terminal, and stdout is not one").hint(hint).into());
        }
        let terminal = console::Term::stdout();
        let mut shown = 0;
        loop {
            let runs = runs(&self.folder).map_err(unusable)?;
            let lines = if runs.is_empty() { vec![no_runs(&self.folder)] } else { table(&runs) };
            let (rows, columns) = terminal.size();
            let lines = fitted(lines, usize::from(rows), usize::from(columns));
            terminal.clear_last_lines(shown)?;
            lines.iter().try_for_each(|line| terminal.write_line(line))?;
            shown = lines.len();
            std::thread::sleep(REFRESH);
        }
    }
}

/// Time between two tables of `--watch`.
const REFRESH: Duration = Duration::from_secs(2);

fn no_runs(folder: &Path) -> String {
    format!("{} contains no runs; gptkit pretrain starts one", printable_line(&folder.display().to_string()))
}

/// `lines` on a screen of `rows` and `columns`: cut, with the number of those left out in place of the last ones.
fn fitted(mut lines: Vec<String>, rows: usize, columns: usize) -> Vec<String> {
    let most = rows.saturating_sub(1).max(2); // the cursor takes the last row
    if lines.len() > most {
        let left_out = lines.len() - most + 1;
        lines.truncate(most - 1);
        lines.push(format!("… and {left_out} more"));
    }
    lines.iter().map(|line| console::truncate_str(line, columns.max(1), "…").into_owned()).collect()
}

/// The lines of the table of `runs`.
fn table(runs: &[Overview]) -> Vec<String> {
    let rows: Vec<[String; 7]> = runs
        .iter()
        .map(|run| {
            [
                name(run),
                state(run.activity).to_owned(),
                format!("{}/{}", run.step, run.n_steps),
                run.newest.as_ref().map_or_else(|| "-".to_owned(), newest),
                run.best.as_ref().map_or_else(|| "-".to_owned(), best),
                clock(run.elapsed_s),
                ago(run),
            ]
        })
        .collect();
    let head = ["run", "state", "step", "newest", "best validation", "time", "written"].map(str::to_owned);
    let width = |column: usize| {
        let cells = std::iter::once(&head).chain(&rows);
        cells.map(|row| console::measure_text_width(&row[column])).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..7).map(width).collect();
    let line = |row: &[String; 7]| {
        let cell = |(column, text): (usize, &String)| {
            let is_number = [2, 5].contains(&column);
            let side = if is_number { console::Alignment::Right } else { console::Alignment::Left };
            console::pad_str(text, widths[column], side, None).into_owned()
        };
        row.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    std::iter::once(&head).chain(&rows).map(line).collect()
}

fn state(activity: Activity) -> &'static str {
    match activity {
        Activity::Running => "running",
        Activity::Finished => "finished",
        Activity::Stopped => "stopped",
        Activity::Empty => "empty",
    }
}

fn newest(figure: &NewestFigure) -> String {
    format!("{} {:.4}", figure.metric, figure.value)
}

/// The criterion first, and the loss of the same weights where that is another figure.
fn best(best: &BestValidation) -> String {
    let loss = best.loss.filter(|_| best.criterion != LOSS).map(|loss| format!(", loss {loss:.4}"));
    format!("{} {:.4}{}", best.criterion, best.value, loss.unwrap_or_default())
}

/// A line of `--json`.
#[derive(Serialize)]
struct RunObject<'a> {
    name: String,
    folder: String,
    command: &'a Option<String>,
    state: Activity,
    step: u64,
    n_steps: u64,
    newest: &'a Option<NewestFigure>,
    best: &'a Option<BestValidation>,
    elapsed_s: f64,
    written: String,
}

impl<'a> RunObject<'a> {
    fn of(run: &'a Overview) -> Self {
        Self {
            name: run.folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            folder: run.folder.to_string_lossy().into_owned(),
            command: &run.command,
            state: run.activity,
            step: run.step,
            n_steps: run.n_steps,
            newest: &run.newest,
            best: &run.best,
            elapsed_s: run.elapsed_s,
            written: humantime::format_rfc3339_seconds(run.modified).to_string(),
        }
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

/// Draw metrics of one or several runs as SVG
#[derive(Debug, Args)]
pub(crate) struct PlotCommand {
    /// Run folders
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// Draw this metric, for instance grad_norm, or kl for objective/kl; repeatable [default: losses and learning rate; for
    /// PPO, score, KL and gold score]
    #[arg(long = "metric", value_name = "NAME")]
    metrics: Vec<String>,
    /// Draw runs that differ only in their seed as separate curves, instead of their mean in a band from the lowest to the
    /// highest value
    #[arg(long)]
    separate: bool,
    /// Also write the values of the curves as CSV
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// SVG file to write
    #[arg(long, value_name = "FILE", default_value = "curves.svg")]
    out: PathBuf,
}

impl PlotCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let curves = self.runs.iter().map(|run| Curves::read(run)).collect::<Result<Vec<_>>>().map_err(unusable)?;
        let plot = match self.metrics.as_slice() {
            [] => MetricPlot::of_defaults(&curves, self.separate),
            names => MetricPlot::of_metrics(&curves, names, self.separate)?,
        };
        gptkit_data::disk::write(&self.out, plot.svg().as_bytes())?;
        plot.bands().iter().for_each(|band| ui.note(band));
        ui.say(&format!("drawn {}", self.out.display()));
        if let Some(path) = &self.csv {
            gptkit_data::disk::write(path, &plot.csv()?)?;
            ui.say(&format!("written {}", path.display()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn times_are_read_as_on_a_clock() {
        assert_eq!([0.0, 61.5, 3725.0].map(clock), ["0:00", "1:01", "1:02:05"]);
    }

    fn overview(name: &str, newest: NewestFigure, best: BestValidation) -> Overview {
        Overview {
            folder: PathBuf::from("runs").join(name),
            command: Some("finetune".to_owned()),
            activity: Activity::Finished,
            step: 40,
            n_steps: 400,
            newest: Some(newest),
            best: Some(best),
            elapsed_s: 61.0,
            modified: SystemTime::now(),
        }
    }

    fn runs_of_every_kind() -> Vec<Overview> {
        let best = |criterion: &str, value, loss| {
            let step = Some(20).filter(|_| criterion != "reward");
            BestValidation { criterion: criterion.to_owned(), value, loss, step }
        };
        let loss = |value| NewestFigure { metric: "loss", value };
        vec![
            overview("small-1", loss(2.70681), best("loss", 2.71461, Some(2.71461))),
            overview("endings-gpt1", loss(f64::NAN), best("accuracy", 0.85, Some(0.7263))),
            overview("ppo", NewestFigure { metric: "score", value: 1.5 }, best("reward", 1.25, None)),
            Overview { newest: None, best: None, ..overview("new", loss(0.0), best("loss", 0.0, None)) },
        ]
    }

    #[test]
    fn every_figure_of_the_table_has_its_name() {
        insta::assert_snapshot!(table(&runs_of_every_kind()).join("\n"));
    }

    #[test]
    fn json_has_the_figures_with_their_names() {
        let objects: Vec<serde_json::Value> =
            runs_of_every_kind().iter().map(|run| serde_json::to_value(RunObject::of(run)).unwrap()).collect();
        let best = serde_json::json!({ "criterion": "accuracy", "value": 0.85, "loss": 0.7263, "step": 20 });
        assert_eq!(objects[1]["best"], best);
        assert_eq!(objects[1]["newest"], serde_json::json!({ "metric": "loss", "value": null }), "JSON has no NaN");
        assert_eq!(objects[2]["newest"], serde_json::json!({ "metric": "score", "value": 1.5 }));
        assert_eq!(objects[2]["best"], serde_json::json!({ "criterion": "reward", "value": 1.25 }));
        assert_eq!((&objects[0]["state"], &objects[0]["step"]), (&"finished".into(), &40.into()));
        assert!(objects[3]["newest"].is_null() && objects[0]["written"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn a_table_fits_the_screen() {
        let lines: Vec<String> = (0..9).map(|n| format!("{n} {}", "x".repeat(50))).collect();
        let shown = fitted(lines.clone(), 6, 20);
        assert_eq!(shown.len(), 5);
        assert!(shown.iter().all(|line| line.chars().count() <= 20) && shown[0].ends_with('…'), "{shown:?}");
        assert_eq!(shown[4], "… and 5 more");
        assert_eq!(fitted(lines, 24, 80).len(), 9);
        assert_eq!(fitted(vec!["a".to_owned(), "b".to_owned()], 0, 0), ["a", "b"], "of no known size");
    }
}
