//! `gptkit attention`

use crate::device::DeviceChoice;
use crate::ui::{Ui, Usage, unusable, width};
use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use clap::Args;
use gptkit_data::printable::printable_line;
use gptkit_data::text_table::{cut, left, right};
use gptkit_model::load::ModelFolder;
use gptkit_model::{Gpt, ModelConfig};
use gptkit_plot::{HeatMap, HeatMapPanel};
use serde::Serialize;
use serde_json::json;
use std::path::PathBuf;

/// Show the attention weights of a text, by layer and head
#[derive(Debug, Args)]
pub(crate) struct AttentionCommand {
    /// Model folder
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Text to show
    #[arg(long, value_name = "TEXT")]
    text: String,
    /// Show only this layer (the first is 0)
    #[arg(long, value_name = "N")]
    layer: Option<usize>,
    /// Show only this head of each layer (the first is 0); with --layer, all of its weights
    #[arg(long, value_name = "N")]
    head: Option<usize>,
    /// Also draw a heat map into this SVG file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print one JSON object instead of a table: the tokens, and all weights of each head with one row per token
    #[arg(long)]
    json: bool,
    /// Device to compute on
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
}

/// The weights of one head.
#[derive(Serialize)]
pub(crate) struct AttentionHead {
    pub(crate) layer: usize,
    pub(crate) head: usize,
    /// A row a token, with one weight for each token up to the last that it sees.
    #[serde(rename = "weights")]
    rows: Vec<Vec<f32>>,
}

impl AttentionCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let folder = ModelFolder::load(&self.model, &self.device.open()?).map_err(unusable)?;
        let config = &folder.config;
        for (name, asked, there) in [("layer", self.layer, config.n_layer), ("head", self.head, config.n_head)] {
            if asked.is_some_and(|n| n >= there) {
                return Err(Usage::new(format!("--{name} must be between 0 and {}", there - 1)).into());
            }
        }
        let ids = folder.tokenizer.encode(&self.text)?;
        ensure!(!ids.is_empty(), "the text has no tokens");
        ensure!(
            ids.len() <= config.context,
            "the text has {} tokens, but the context of the model is {} tokens; use a shorter text",
            ids.len(),
            config.context
        );
        let shown = |&id: &u32| printable_line(&folder.tokenizer.token_text(id).replace('\n', "↵")).into_owned();
        let tokens: Vec<String> = ids.iter().map(shown).collect();
        let model = Gpt::reader(config, &folder.params, gptkit_ops::Precision::F32);
        let model = model.with_context(|| self.model.display().to_string())?;
        let layers = model.attention(&Tensor::new(&*ids, model.device())?.unsqueeze(0)?)?;
        let heads = self.chosen(&layers, config)?;
        match &heads[..] {
            heads if self.json => ui.json(&(json!({ "tokens": tokens, "heads": heads }).to_string() + "\n"))?,
            [only] => ui.result(&matrix(only, &tokens))?,
            heads => ui.result(&strongest(heads, &tokens, width()))?,
        }
        if let Some(path) = &self.out {
            gptkit_data::disk::write(path, heat_map(&heads, &tokens)?.as_bytes())?;
            ui.say(&format!("saved {}", path.display()));
        }
        Ok(())
    }

    fn chosen(&self, layers: &[Tensor], config: &ModelConfig) -> Result<Vec<AttentionHead>> {
        let mut chosen = Vec::new();
        for (layer, weights) in layers.iter().enumerate().filter(|(layer, _)| self.layer.is_none_or(|l| l == *layer)) {
            let heads: Vec<Vec<Vec<f32>>> = weights.squeeze(0)?.to_vec3()?;
            for (head, mut rows) in
                heads.into_iter().enumerate().filter(|(head, _)| self.head.is_none_or(|h| h == *head))
            {
                let mask = config.mask(layer);
                rows.iter_mut().enumerate().for_each(|(i, row)| row.truncate(mask.visible(i).end));
                chosen.push(AttentionHead { layer, head, rows });
            }
        }
        Ok(chosen)
    }
}

/// Columns of the terminal for a token.
const TOKEN_WIDTH: usize = 9;

fn shortened(token: &str) -> String {
    let text = cut(token.trim_start(), TOKEN_WIDTH);
    if text.is_empty() { "␣".to_owned() } else { text }
}

/// For each layer a table: a row a token, a column a head, in each cell the token attended to most and how much.
fn strongest(heads: &[AttentionHead], tokens: &[String], width: usize) -> String {
    let cell_width = TOKEN_WIDTH + 6;
    let at_once = (width.saturating_sub(TOKEN_WIDTH + 1) / cell_width).max(1);
    let mut lines = Vec::new();
    for of_layer in heads.chunk_by(|a, b| a.layer == b.layer) {
        for group in of_layer.chunks(at_once) {
            let line = |name: &str, cells: &dyn Fn(&AttentionHead) -> String| {
                let cells: String = group.iter().map(|head| left(&cells(head), cell_width)).collect();
                format!("{} {cells}", left(name, TOKEN_WIDTH)).trim_end().to_owned()
            };
            lines.push(line(&format!("layer {}", group[0].layer), &|head| format!("head {}", head.head)));
            for (i, token) in tokens.iter().enumerate() {
                lines.push(line(&shortened(token), &|head| {
                    let weights = head.rows[i].iter().enumerate();
                    let (j, weight) = weights.max_by(|a, b| a.1.total_cmp(b.1)).unwrap_or((0, &0.0));
                    format!("{} {:.0}%", shortened(&tokens[j]), 100.0 * weight)
                }));
            }
            lines.push(String::new());
        }
    }
    lines.push(
        "each cell shows the most attended token and its weight; --layer L --head H shows all weights of a head\n"
            .to_owned(),
    );
    lines.join("\n")
}

/// All weights of one head: a row a token, a column each token it may look at, in percent.
fn matrix(head: &AttentionHead, tokens: &[String]) -> String {
    let line = |name: &str, cells: &mut dyn Iterator<Item = String>| {
        let cells: String = cells.map(|cell| right(&cell, TOKEN_WIDTH) + " ").collect();
        format!("{} {cells}", left(name, TOKEN_WIDTH)).trim_end().to_owned() + "\n"
    };
    let mut out = format!(
        "layer {}, head {}: percentage of attention from the token of a row to the token of a column\n",
        head.layer, head.head
    );
    out += &line("", &mut tokens.iter().map(|token| shortened(token)));
    for (row, token) in head.rows.iter().zip(tokens) {
        out += &line(&shortened(token), &mut row.iter().map(|weight| format!("{:.1}", 100.0 * weight)));
    }
    out
}

/// Squares of a picture that a browser still shows at once.
const MOST_CELLS: usize = 250_000;

/// The picture of `heads`, whose rows and columns stand for `tokens`.
///
/// # Errors
/// When there are too many weights for one picture.
fn heat_map(heads: &[AttentionHead], tokens: &[String]) -> Result<String> {
    let cells = heads.len() * tokens.len() * (tokens.len() + 1) / 2;
    ensure!(
        cells <= MOST_CELLS,
        "{cells} weights are too many for one image (the limit is {MOST_CELLS}); use --layer, --head or a shorter text"
    );
    let panel = |head: &AttentionHead| HeatMapPanel {
        layer: head.layer,
        head: head.head,
        weights: head.rows.iter().map(|row| row.iter().map(|&weight| f64::from(weight)).collect()).collect(),
    };
    let label = format!("Attention weights by layer and head for the text {}", tokens.concat());
    Ok(HeatMap { label, tokens: tokens.to_vec(), panels: heads.iter().map(panel).collect() }.svg())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_weights_are_refused_with_the_way_out() {
        let tokens = vec!["a".to_owned(); 800];
        let rows = (0..800).map(|i| vec![1.0 / (i + 1) as f32; i + 1]).collect();
        let head = AttentionHead { layer: 0, head: 1, rows };
        assert!(heat_map(&[head], &tokens).unwrap_err().to_string().contains("use --layer, --head"));
    }
}
