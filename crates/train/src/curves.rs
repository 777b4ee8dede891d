//! What a run recorded, metric by metric, as curves over its steps. [`crate::metric_charts`] draws them.

use crate::metrics::{METRICS, Record, SCORE, records};
use crate::run::CONFIG;
use anyhow::{Result, ensure};
use gptkit_config::differences;
use gptkit_data::disk;
use gptkit_data::printable::printable_line;
use std::collections::BTreeMap;
use std::path::Path;

/// A value of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CurvePoint {
    /// Number of the step, from 1; an iteration in PPO.
    pub step: u64,
    /// Tokens of all steps until then.
    pub tokens: u64,
    /// The value.
    pub value: f64,
}

/// What a run measured.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Curves {
    /// Name of the run's folder.
    pub name: String,
    /// Name of the folder that it is in.
    pub parent: String,
    /// The values of each metric, by its name: a key of metrics.jsonl, `val/NAME` for a figure of validations, or the name of a
    /// further figure.
    pub metrics: BTreeMap<String, Vec<CurvePoint>>,
    /// The settings by their keys, without the seed; none where `config.toml` cannot be read.
    pub settings: Option<BTreeMap<String, String>>,
    /// The seed.
    pub seed: Option<String>,
}

/// What the name of a figure of validations begins with.
pub(crate) const VALIDATION: &str = "val/";

impl Curves {
    /// Reads what the run in `folder` recorded.
    ///
    /// # Errors
    /// When its `metrics.jsonl` cannot be read, or records no step.
    pub fn read(folder: &Path) -> Result<Self> {
        let recorded = records(folder)?;
        ensure!(!recorded.is_empty(), "{} records no step yet", folder.join(METRICS).display());
        let absolute = folder.canonicalize()?;
        let name = |path: Option<&Path>| {
            let name = path.and_then(Path::file_name).unwrap_or_default().to_string_lossy();
            printable_line(&name).into_owned()
        };
        let mut curves = Self { name: name(Some(&absolute)), parent: name(absolute.parent()), ..Self::default() };
        recorded.iter().for_each(|record| curves.add(record));
        if let Ok(config) = disk::read_description(&folder.join(CONFIG)) {
            curves.read_settings(&config);
        }
        Ok(curves)
    }

    fn add(&mut self, record: &Record) {
        let mut put = |name: &str, value: f64| {
            let point = CurvePoint { step: record.step, tokens: record.tokens, value };
            match self.metrics.get_mut(name) {
                Some(points) => points.push(point),
                None => drop(self.metrics.insert(name.to_owned(), vec![point])),
            }
        };
        put("train_loss", record.train_loss);
        put("learning_rate", record.learning_rate);
        put("grad_norm", record.grad_norm);
        put("tokens_per_s", record.tokens_per_s);
        record.val_loss.iter().for_each(|&loss| put("val_loss", loss));
        record.scores.iter().for_each(|(name, &value)| put(&format!("{VALIDATION}{name}"), value));
        record.figures.iter().for_each(|(name, &value)| put(name, value));
    }

    /// Takes the seed out of the settings `config`, TOML. Where it follows a path or the built-in world in the data (`seed-2/`,
    /// `world:9000:2`), it is no difference either.
    fn read_settings(&mut self, config: &str) {
        let Ok(all) = differences("", config) else { return };
        let mut settings: BTreeMap<String, String> =
            all.into_iter().filter_map(|setting| Some((setting.key, setting.now?))).collect();
        settings.remove("description");
        self.seed = settings.remove("seed");
        if let Some(seed) = &self.seed {
            let is_of_training = |key: &str| key.starts_with("train.") || key.starts_with("model.");
            for (_, value) in settings.iter_mut().filter(|(key, _)| !is_of_training(key)) {
                *value = without_seed(value, seed);
            }
        }
        self.settings = Some(settings);
    }

    /// Whether this is a run of PPO.
    pub fn is_ppo(&self) -> bool {
        self.metrics.contains_key(SCORE)
    }

    /// Whether `other` differs in its seed and in nothing else.
    pub fn differs_in_seed_from(&self, other: &Self) -> bool {
        let (Some(own), Some(others)) = (&self.settings, &other.settings) else { return false };
        own == others && self.seed.is_some() && other.seed.is_some() && self.seed != other.seed
    }
}

/// `text` with a sign in the place of `seed` where it is a number of its own behind `seed-` or a colon.
fn without_seed(text: &str, seed: &str) -> String {
    let mut rest = text;
    let mut out = String::new();
    for (at, _) in text.match_indices(seed) {
        let before = &text[..at];
        let after = text[at + seed.len()..].chars().next();
        let is_number = !after.is_some_and(|c| c.is_ascii_digit());
        if at >= text.len() - rest.len() && is_number && (before.ends_with("seed-") || before.ends_with(':')) {
            out += &rest[..at - (text.len() - rest.len())];
            out += "{seed}";
            rest = &text[at + seed.len()..];
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_of_a_record_is_a_metric() {
        let folder = tempfile::tempdir().unwrap();
        let record = Record {
            step: 3,
            tokens: 96,
            val_loss: Some(2.0),
            scores: BTreeMap::from([("accuracy".to_owned(), 0.5)]),
            figures: BTreeMap::from([(SCORE.to_owned(), 1.5)]),
            ..Record::default()
        };
        let line = serde_json::to_string(&record).unwrap() + "\n";
        disk::write(&folder.path().join(METRICS), line.as_bytes()).unwrap();
        let curves = Curves::read(folder.path()).unwrap();
        let names: Vec<&str> = curves.metrics.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            ["grad_norm", "learning_rate", SCORE, "tokens_per_s", "train_loss", "val/accuracy", "val_loss"]
        );
        assert_eq!(curves.metrics["val/accuracy"], [CurvePoint { step: 3, tokens: 96, value: 0.5 }]);
        assert!(curves.is_ppo() && curves.settings.is_none());
        disk::write(&folder.path().join(METRICS), b"").unwrap();
        assert!(Curves::read(folder.path()).unwrap_err().to_string().contains("records no step yet"));
    }

    fn with_settings(config: &str) -> Curves {
        let mut curves = Curves::default();
        curves.read_settings(config);
        curves
    }

    #[test]
    fn runs_of_several_seeds_differ_in_nothing_else() {
        let config = |seed: u64, lr: &str, source: &str| {
            with_settings(&format!(
                "description = \"{seed}\"\nseed = {seed}\n[data]\nsources = [\"{source}\"]\n[train]\nlr = {lr}\nlength = \"2 steps\"\n"
            ))
        };
        let first = config(1, "1e-3", "world:9001:1");
        assert!(first.differs_in_seed_from(&config(2, "0.001", "world:9001:2")));
        assert!(!first.differs_in_seed_from(&config(1, "1e-3", "world:9001:1")), "the same seed is a repetition");
        assert!(!first.differs_in_seed_from(&config(2, "2e-3", "world:9001:2")));
        assert!(!first.differs_in_seed_from(&config(2, "1e-3", "world:9002:2")));
        assert!(!first.differs_in_seed_from(&config(2, "1e-3", "world:9001:3")));
        let in_folders = |seed: u64| config(seed, "1e-3", &format!("out/seed-{seed}/answers.jsonl"));
        assert!(in_folders(12).differs_in_seed_from(&in_folders(3)));
        assert!(!Curves::default().differs_in_seed_from(&first));
    }

    #[test]
    fn only_whole_numbers_are_seeds() {
        assert_eq!(without_seed("world:11:1", "1"), "world:11:{seed}");
        assert_eq!(without_seed("a/seed-1/b/seed-1", "1"), "a/seed-{seed}/b/seed-{seed}");
        assert_eq!(without_seed("a/seed-12/x1", "1"), "a/seed-12/x1");
        assert_eq!(without_seed("", "1"), "");
    }
}
