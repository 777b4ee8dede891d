//! `gptkit inspect`

use crate::data_args::ConfigArgs;
use crate::presets;
use crate::ui::{Ui, width};
use anyhow::Result;
use candle_core::Device;
use clap::Args;
use console::{Style, measure_text_width};
use gptkit_data::batch::{Batch, IGNORE};
use gptkit_data::printable::printable_line;
use gptkit_data::progress::grouped;
use gptkit_data::tokenizer::Tokenizer;
use gptkit_train::RunContext;
use serde_json::json;
use std::path::PathBuf;

/// Show training batches: tokens, document ends, loss mask
#[derive(Debug, Args)]
pub(crate) struct InspectCommand {
    #[command(flatten)]
    config: ConfigArgs,
    /// Model folder that `sft` starts from: show the batches of its packed dialogues; --config is then a preset of `sft`
    #[arg(long, value_name = "DIR", conflicts_with_all = ["tokenizer", "text_key"])]
    init: Option<PathBuf>,
    /// Training step whose batch is shown
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    step: u64,
    /// Number of windows to show
    #[arg(long, value_name = "N", default_value_t = 2)]
    rows: usize,
    /// Print one JSON object per window: token ids, texts, and whether each token's prediction carries loss
    #[arg(long)]
    json: bool,
}

impl InspectCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let context = RunContext { device: &Device::Cpu, progress: ui, deadline: None, ranks: ui.ranks() };
        let (tokenizer, batches) = match &self.init {
            None => {
                let (_, config) = presets::load(&self.config.config, &self.config.settings(), ui)?;
                let (tokenizer, batch) = gptkit_train::pretrain::batch_of_step(config, self.step, &context)?;
                (tokenizer, vec![batch])
            }
            Some(init) => {
                // The default is that of the stage.
                let name = if self.config.config == "small" { "sft-small" } else { &self.config.config };
                let (_, config) = presets::load(name, &self.config.record_settings(), ui)?;
                gptkit_sft::sft::batch_of_step(config, init, self.step, &context)?
            }
        };
        let all: usize = batches.iter().map(|batch| batch.rows).sum();
        let windows = batches.iter().flat_map(|batch| (0..batch.rows).map(move |row| (batch, row)));
        for (n, (batch, row)) in (1..).zip(windows.take(self.rows)) {
            if self.json {
                ui.json(&(object(self.step, n, &tokens(batch, row), &tokenizer).to_string() + "\n"))?;
                continue;
            }
            ui.result(&format!("step {} · window {n} of {all}\n", self.step))?;
            ui.raw(window(batch, row, &tokenizer, width()).as_bytes())?; // with colors of its own
        }
        if self.json {
            return Ok(());
        }
        for batch in &batches {
            ui.result(&counts(batch, &tokenizer))?;
        }
        ui.result(LEGEND)
    }
}

const LEGEND: &str = "marks below the tokens: ╰─ included in the loss, · context only; ↵ line break, → tab\n";

/// A token of a window, to be printed.
struct ShownToken {
    text: String,
    style: Style,
    /// Whether its prediction counts in the loss.
    counts: bool,
}

/// The tokens of window `row`, each with whether its prediction counts in the loss. The token after the window, which the
/// last position predicts, is its last.
fn tokens(batch: &Batch, row: usize) -> Vec<(u32, bool)> {
    let range = row * batch.context..(row + 1) * batch.context;
    let (tokens, targets) = (&batch.tokens[range.clone()], &batch.targets[range]);
    let first = tokens.first().map(|&id| (id, false));
    // Where no prediction counts, the token is still the one that is read next.
    let read_next = tokens.iter().skip(1).map(Some).chain([None]);
    let rest = targets.iter().zip(read_next).filter_map(|(&target, next)| match (target, next) {
        (IGNORE, None) => None,
        (IGNORE, Some(&next)) => Some((next, false)),
        (target, _) => Some((target, true)),
    });
    first.into_iter().chain(rest).collect()
}

/// A window as JSON.
fn object(step: u64, n: usize, tokens: &[(u32, bool)], tokenizer: &Tokenizer) -> serde_json::Value {
    let ids: Vec<u32> = tokens.iter().map(|&(id, _)| id).collect();
    let texts: Vec<String> = ids.iter().map(|&id| tokenizer.token_text(id)).collect();
    let loss: Vec<bool> = tokens.iter().map(|&(_, counts)| counts).collect();
    json!({ "step": step, "window": n, "ids": ids, "texts": texts, "loss": loss })
}

/// Window `row`: the tokens, wrapped to `width` columns, each line with a line of marks below it.
fn window(batch: &Batch, row: usize, tokenizer: &Tokenizer, width: usize) -> String {
    let pieces = tokens(batch, row).into_iter().map(|(id, counts)| ShownToken {
        text: visible(&tokenizer.token_text(id)),
        style: style(id, counts, tokenizer),
        counts,
    });
    let (mut out, mut text, mut marks, mut used) = (String::new(), String::new(), String::new(), 0);
    for piece in pieces {
        let wide = measure_text_width(&piece.text).max(1);
        if used + wide > width && used > 0 {
            out += &format!("{text}\n{marks}\n");
            (text, marks, used) = (String::new(), String::new(), 0);
        }
        text += &piece.style.apply_to(format!("{:1}", piece.text)).to_string();
        marks += &match piece.counts {
            true => format!("╰{}", "─".repeat(wide - 1)),
            false => "·".to_owned() + &" ".repeat(wide - 1),
        };
        used += wide;
    }
    out + &format!("{text}\n{marks}\n")
}

/// Text and signs apart, and what carries no loss dim.
fn style(id: u32, counts: bool, tokenizer: &Tokenizer) -> Style {
    let style = if Some(id) == tokenizer.document_end() {
        Style::new().black().on_yellow()
    } else if tokenizer.is_special(id) {
        Style::new().magenta().bold()
    } else {
        Style::new().green()
    };
    if counts { style } else { style.dim() }
}

/// Line breaks, tabs and other control characters as something to see.
fn visible(text: &str) -> String {
    printable_line(&text.replace('\n', "↵").replace('\t', "→")).into_owned()
}

fn counts(batch: &Batch, tokenizer: &Tokenizer) -> String {
    let n = |n: usize| grouped(n as u64);
    let with_loss = batch.targets.iter().filter(|&&target| target != IGNORE).count();
    let ends = batch.tokens.iter().filter(|&&id| Some(id) == tokenizer.document_end()).count();
    let special = batch.tokens.iter().filter(|&&id| tokenizer.is_special(id)).count();
    let sequences: usize = batch.starts.iter().map(Vec::len).sum();
    let packing = match sequences == batch.rows {
        true => "no padding: each window is one sequence".to_owned(),
        false => format!("{} sequences with padding; each attends only to itself", n(sequences)),
    };
    format!(
        "batch: {} windows of {} tokens = {} · {} predictions in the loss · {} document ends · {} special tokens · \
         {packing}\n",
        batch.rows,
        n(batch.context),
        n(batch.tokens.len()),
        n(with_loss),
        n(ends),
        n(special)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn marks_say_what_carries_loss() {
        let tokenizer = Tokenizer::of_characters(&BTreeSet::from(['a', 'b', '\n'])).unwrap();
        let id = |c: &str| tokenizer.encode(c).unwrap()[0];
        let (a, b, line) = (id("a"), id("b"), id("\n"));
        let batch = Batch::windows(4, vec![a, b, line, a], vec![b, IGNORE, a, b]);
        assert_eq!(window(&batch, 0, &tokenizer, 80), "ab↵ab\n·╰·╰╰\n");
        assert_eq!(window(&batch, 0, &tokenizer, 3), "ab↵\n·╰·\nab\n╰╰\n");
        assert!(counts(&batch, &tokenizer).contains("3 predictions in the loss"));
    }
}
