//! Settings of a preset that follow the model and the records of a run, where nobody chose them.
//!
//! The presets that commands use by default are tuned for models of gptkit's small size, and mix in text of the built-in
//! world. A larger model learns at a rate of its size ([`gptkit_train::learning_rates`]), with AdamW unless it was trained
//! with Muon; records of the user are not mixed with text of the world.

use crate::stage_names::StageNames;
use gptkit_config::is_at_or_below;
use gptkit_data::disk;
use gptkit_data::progress::grouped;
use gptkit_data::source::SourceLocation;
use gptkit_model::load::load_config;
use gptkit_train::learning_rates::{Purpose, SMALL, two_digits};
use std::path::Path;
use toml::{Table, Value};

/// A configuration whose settings follow the run.
#[derive(Debug)]
pub(crate) struct Following {
    /// TOML of the preset.
    pub(crate) text: String,
    /// All settings on top of it.
    pub(crate) set: Vec<String>,
    /// What was changed, for the person.
    pub(crate) said: Vec<String>,
}

/// The settings of the command line.
struct Typed<'a>(&'a [String]);

impl Typed<'_> {
    /// The value of `key`, or of a table above it.
    fn value(&self, key: &str) -> Option<&str> {
        let of_key = |set: &String| set.split('=').next().is_some_and(|typed| is_at_or_below(key, typed.trim()));
        Some(self.0.iter().rfind(|set| of_key(set))?.split_once('=')?.1)
    }

    fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// Whether some key of `section` is set.
    fn has_section(&self, section: &str) -> bool {
        self.0.iter().any(|set| is_at_or_below(set.split('=').next().unwrap_or_default().trim(), section))
    }
}

impl Following {
    /// The preset `preset` with the TOML `text` under the settings `set`, for a run of `names` that starts from the model in
    /// `init`. The learning rate follows the model only in the default preset: others are a paper's.
    pub(crate) fn new(
        names: &StageNames,
        (preset, text): (&str, String),
        set: Vec<String>,
        init: Option<&Path>,
    ) -> Self {
        let mut following = Self { text, set, said: Vec::new() };
        // A preset of another command is refused where it is read.
        let Ok(mut table) = following.text.parse::<Table>() else { return following };
        following.leave_out_text(names, &mut table);
        if let Some(init) = init.filter(|_| preset == names.preset) {
            following.follow_model(names.purpose, &table, init);
        }
        following.lower_min_lr(&table);
        following
    }

    /// Leaves out the text of the world that the preset mixes in beside records that are not of the world.
    fn leave_out_text(&mut self, names: &StageNames, table: &mut Table) {
        let (Some((records, _)), Some(section)) = (names.records, names.mixed) else { return };
        let typed = Typed(&self.set);
        let Some(Ok(Value::Array(sources))) = typed.value(&format!("{records}.sources")).map(str::parse::<Value>)
        else {
            return;
        };
        let is_own = |source: &Value| source.as_str().is_some_and(|path| !SourceLocation::is_world(path));
        if typed.has_section(section) || !sources.iter().any(is_own) || table.remove(section).is_none() {
            return;
        }
        self.text = table.to_string();
        self.said.push(format!(
            "training uses only your records, without pretraining text (the key {section} mixes in text)"
        ));
    }

    /// Sets the learning rate and the optimizer of a model that is larger than those that the preset is tuned for.
    fn follow_model(&mut self, purpose: Purpose, preset: &Table, init: &Path) {
        // A folder that is no model is reported by the stage that reads it.
        let Ok(model) = load_config(init) else { return };
        let (n_params, typed) = (model.n_params(), Typed(&self.set));
        let is_muon = |name: &str| name.trim().trim_matches('"') == "muon";
        let with_lora = typed.has("lora.rank");
        let optimizer = typed.value("train.optimizer");
        if n_params <= SMALL || typed.has("train.muon_lr") || optimizer.is_some_and(is_muon) {
            return;
        }
        let mut set = Vec::new();
        if optimizer.is_none() && optimizer_of(preset).is_some_and(is_muon) {
            if trained_by_muon(init) {
                return;
            }
            set.push("train.optimizer=adamw".to_owned());
        }
        if !typed.has("train.lr") {
            let lr = if with_lora { purpose.learning_rate_of_lora(n_params) } else { purpose.learning_rate(n_params) };
            set.push(format!("train.lr={lr:?}"));
            self.said.push(format!(
                "learning rate {lr:e}, chosen for {} parameters{} (--lr sets another one)",
                grouped(n_params),
                if with_lora { " with LoRA" } else { "" }
            ));
            if preset.contains_key("value") && !typed.has("value.lr") {
                set.push(format!("value.lr={lr:?}"));
            }
        }
        // What was typed comes last and counts.
        set.append(&mut self.set);
        self.set = set;
    }

    /// Keeps the least learning rate of the preset below a learning rate that was chosen lower: in the same proportion.
    fn lower_min_lr(&mut self, preset: &Table) {
        let number = |key| in_train(preset, key).and_then(Value::as_float);
        let (Some(lr), Some(min_lr)) = (number("lr"), number("min_lr")) else { return };
        let typed = Typed(&self.set);
        let Some(chosen) = typed.value("train.lr").and_then(|text| text.trim().parse::<f64>().ok()) else { return };
        if chosen < min_lr && !typed.has("train.min_lr") {
            self.set.push(format!("train.min_lr={:?}", two_digits(chosen * min_lr / lr)));
        }
    }
}

/// The value of `key` in the section `[train]`.
fn in_train<'a>(config: &'a Table, key: &str) -> Option<&'a Value> {
    config.get("train")?.get(key)
}

fn optimizer_of(config: &Table) -> Option<&str> {
    in_train(config, "optimizer")?.as_str()
}

/// Whether the run in `folder` was made with Muon.
fn trained_by_muon(folder: &Path) -> bool {
    let config = disk::read_description(&folder.join("config.toml")).ok().and_then(|text| text.parse::<Table>().ok());
    config.as_ref().and_then(optimizer_of) == Some("muon")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: StageNames = StageNames {
        command: "sft",
        preset: "sft-small",
        records: Some(("data", "dialogues.jsonl")),
        gone: &[],
        purpose: Purpose::Demonstrations,
        mixed: Some("pretraining"),
    };

    const PRESET: &str = "[data]\nsources = [\"world\"]\n[pretraining]\nshare = 0.1\nsources = [{ path = \"world\" }]\n[train]\n\
                          lr = 5e-3\nmin_lr = 2e-4\noptimizer = \"muon\"\n";

    fn follow(set: &[&str], init: Option<&Path>) -> Following {
        let set = set.iter().map(|&one| one.to_owned()).collect();
        Following::new(&NAMES, ("sft-small", PRESET.to_owned()), set, init)
    }

    #[test]
    fn text_of_the_world_is_mixed_only_with_the_world() {
        let has_text = |set: &[&str]| follow(set, None).text.contains("[pretraining]");
        assert!(has_text(&[]));
        assert!(has_text(&["data.sources=[\"world:500\"]"]));
        assert!(!has_text(&["data.sources=[\"mine.jsonl\"]"]));
        assert!(!has_text(&["data.sources=[\"world\", \"mine.jsonl\"]"]));
        assert!(has_text(&["data.sources=[\"mine.jsonl\"]", "pretraining.share=0.2"]));
        assert_eq!(follow(&["data.sources=[\"mine.jsonl\"]"], None).said.len(), 1);
    }

    /// A folder with the description of a model of about 7 million parameters.
    fn model(width: usize) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let description = serde_json::json!({
            "model_type": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": width, "n_positions": 8, "vocab_size": 17,
        });
        disk::write(&folder.path().join("config.json"), description.to_string().as_bytes()).unwrap();
        folder
    }

    #[test]
    fn a_larger_model_learns_with_adamw_at_a_rate_of_its_size() {
        let (small, large) = (model(8), model(768));
        assert!(follow(&[], Some(small.path())).set.is_empty());
        let set = follow(&["seed=3"], Some(large.path())).set;
        assert_eq!(set[0], "train.optimizer=adamw");
        let lr: f64 = set[1].strip_prefix("train.lr=").unwrap().parse().unwrap();
        assert!(lr < 2e-3 && lr > 6.25e-5, "{lr}");
        assert_eq!(set[2], "seed=3");
        let adapters = follow(&["lora.rank=8", "train.optimizer=adamw"], Some(large.path())).set;
        assert!(adapters.contains(&"train.lr=0.005".to_owned()), "{adapters:?}");
        // A model that was trained with Muon keeps Muon.
        disk::write(&large.path().join("config.toml"), b"[train]\noptimizer = \"muon\"\n").unwrap();
        assert!(follow(&[], Some(large.path())).set.is_empty());
    }

    #[test]
    fn a_chosen_rate_counts_and_takes_the_least_rate_with_it() {
        let large = model(768);
        let set = follow(&["train.lr=1e-4"], Some(large.path())).set;
        assert_eq!(set, ["train.optimizer=adamw", "train.lr=1e-4", "train.min_lr=4e-6"]);
        assert_eq!(follow(&["train.lr=1e-3"], None).set, ["train.lr=1e-3"]);
        assert_eq!(follow(&["train.lr=1e-4", "train.min_lr=0"], None).set.len(), 2);
        assert_eq!(follow(&["train.optimizer=muon"], Some(large.path())).set, ["train.optimizer=muon"]);
    }
}
