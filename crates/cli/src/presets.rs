//! The configurations of `crates/cli/presets/`, embedded so that their names work anywhere.

use crate::hub_names;
use crate::ui::{Ui, Usage};
use anyhow::Result;
use gptkit_config::{Check, EXTENDS, nearest};
use gptkit_lineage::LineageConfig;
use gptkit_reward::RewardConfig;
use gptkit_rl::{DpoConfig, PpoConfig};
use gptkit_scaling::ScalingConfig;
use gptkit_sft::{FinetuneConfig, SftConfig};
use gptkit_train::PretrainConfig;
use serde::de::DeserializeOwned;
use std::path::Path;
use toml::Table;

macro_rules! presets {
    ($($name:literal),* $(,)?) => {
        /// Name and text of every embedded file.
        pub(crate) const PRESETS: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../presets/", $name, ".toml")))),*];
    };
}

presets![
    "small",
    "char",
    "lstm-small",
    "bert-small",
    "gpt1",
    "gpt2-small",
    "gpt2-medium",
    "gpt2-large",
    "gpt2-xl",
    "gpt3-small",
    "gpt3-medium",
    "gpt3-large",
    "gpt3-xl",
    "gpt3-2.7b",
    "gpt3-6.7b",
    "gpt3-13b",
    "gpt3-175b",
    "finetune-gpt1",
    "finetune-small",
    "sft-small",
    "sft-instructgpt",
    "sft-ppo-init",
    "rm-small",
    "rm-instructgpt",
    "ppo-small",
    "ppo-instructgpt",
    "ppo-2019",
    "dpo-small",
    "scaling-small",
    "lineage",
];

/// Name (a preset's, or a file's stem) and text of the configuration that `given` names.
pub(crate) fn text(given: &str) -> Result<(String, String)> {
    if let Some((name, text)) = PRESETS.iter().find(|(name, _)| *name == given) {
        return Ok(((*name).to_owned(), (*text).to_owned()));
    }
    let path = Path::new(given);
    if path.extension().is_none() && !path.exists() {
        let names: Vec<&str> = PRESETS.iter().map(|(name, _)| *name).collect();
        let longer = names.iter().copied().find(|name| name.starts_with(&format!("{given}-")));
        let meant =
            longer.or_else(|| nearest(given, names.iter().copied())).map(|name| format!("did you mean {name}? "));
        let hint = format!("{}presets: {}", meant.unwrap_or_default(), names.join(", "));
        return Err(Usage::new(format!("{given} is neither a preset nor a file")).hint(hint).into());
    }
    let stem = path.file_stem().map_or_else(|| given.to_owned(), |s| s.to_string_lossy().into_owned());
    let text = gptkit_data::disk::read_named(path).map_err(|e| Usage::new(format!("{e:#}")))?;
    Ok((stem, text))
}

/// The configuration that `given` names, with `set` on top, and its name. A file may change a preset or another file, which
/// its key `extends` names. Data of the hub that they name is downloaded.
pub(crate) fn load<T: DeserializeOwned + Check>(given: &str, set: &[String], ui: &Ui) -> Result<(String, T)> {
    let (name, text) = text(given)?;
    let (text, set) = (hub_names::in_toml(&text, ui)?, hub_names::in_settings(set, ui)?);
    let config = match extended(given, &text, ui)? {
        Some(base) => gptkit_config::load_over(&base, given, &text, &set)?,
        None => load_text(given, &text, &set)?,
    };
    Ok((name, config))
}

/// The preset `name` as it is.
pub(crate) fn preset<T: DeserializeOwned + Check>(name: &str) -> Result<T> {
    load_text(name, &text(name)?.1, &[])
}

/// Longest chain of configurations that extend each other.
const LONGEST_CHAIN: usize = 8;

/// The configuration that the file `given` with the TOML `text` extends, if it extends one.
fn extended(given: &str, text: &str, ui: &Ui) -> Result<Option<Table>> {
    // A file that is no TOML is reported where it is read.
    let Some(first) = toml::from_str(text).ok().as_ref().and_then(extends) else { return Ok(None) };
    let mut chain = Vec::new();
    let mut next = Some((given.to_owned(), first));
    while let Some((file, base)) = next {
        if chain.len() == LONGEST_CHAIN {
            return Err(Usage::new(format!(
                "{given}: the chain of `extends` is longer than {LONGEST_CHAIN} configurations"
            ))
            .into());
        }
        // As in other tools, a relative path starts at the file that has it.
        let beside = Path::new(&file).parent().unwrap_or(Path::new("")).join(&base);
        let base = if is_preset(&base) { base } else { beside.to_string_lossy().into_owned() };
        let text = self::text(&base).map_err(|e| e.context(format!("{file} extends {base}")))?.1;
        let text = hub_names::in_toml(&text, ui)?;
        let table: Table = toml::from_str(&text).map_err(|e| Usage::new(format!("{base}: {}", e.message())))?;
        next = extends(&table).map(|further| (base, further));
        chain.push(table);
    }
    let mut base = Table::new();
    for mut table in chain.into_iter().rev() {
        table.remove(EXTENDS);
        gptkit_config::merge(&mut base, table);
    }
    Ok(Some(base))
}

fn extends(table: &Table) -> Option<String> {
    table.get(EXTENDS)?.as_str().map(str::to_owned)
}

/// The configuration with the TOML `text`, called `given`, with `set` on top.
pub(crate) fn load_text<T: DeserializeOwned + Check>(given: &str, text: &str, set: &[String]) -> Result<T> {
    let loaded = gptkit_config::load(given, text, set);
    // Every preset is sound for its own command.
    if loaded.is_err() && is_preset(given) && gptkit_config::load::<T>(given, text, &[]).is_err() {
        let command = command_of(given);
        let what = format!("{given} is a preset of `gptkit {command}`");
        return Err(Usage::new(what).hint("`gptkit config list` lists the presets").into());
    }
    Ok(loaded?)
}

/// Whether `name` is that of an embedded file.
pub(crate) fn is_preset(name: &str) -> bool {
    PRESETS.iter().any(|(known, _)| *known == name)
}

/// The command that the preset `name` is for.
pub(crate) fn command_of(name: &str) -> &'static str {
    match name.split('-').next() {
        Some("dpo") => "dpo",
        Some("finetune") => "finetune",
        Some("lineage") => "lineage",
        Some("ppo") => "ppo",
        Some("rm") => "train-rm",
        Some("scaling") => "scaling",
        Some("sft") => "sft",
        _ => "pretrain",
    }
}

/// What the preset `name` is, in a line; its whole file is checked.
pub(crate) fn description(name: &str) -> Result<String> {
    Ok(match command_of(name) {
        "dpo" => preset::<DpoConfig>(name)?.description,
        "finetune" => preset::<FinetuneConfig>(name)?.description,
        "lineage" => preset::<LineageConfig>(name)?.description,
        "ppo" => preset::<PpoConfig>(name)?.description,
        "train-rm" => preset::<RewardConfig>(name)?.description,
        "scaling" => preset::<ScalingConfig>(name)?.description,
        "sft" => preset::<SftConfig>(name)?.description,
        _ => preset::<PretrainConfig>(name)?.description,
    })
}

/// One section of a configuration, made of settings from the command line alone.
pub(crate) fn checked<T: DeserializeOwned + Check>(section: &str, set: &[String]) -> Result<T> {
    let prefix = format!("{section}.");
    let set: Vec<String> = set.iter().map(|s| s.strip_prefix(&prefix).unwrap_or(s).to_owned()).collect();
    Ok(gptkit_config::load("the command line", "", &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gptkit_ranks::Ranks;

    #[test]
    fn every_preset_file_is_embedded_and_sound() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("presets");
        let mut files: Vec<String> = folder
            .read_dir()
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|path| path.is_file())
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        let mut names: Vec<String> = PRESETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        files.sort();
        names.sort();
        assert_eq!(files, names);
        for name in &names {
            let description = description(name).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(!description.is_empty(), "{name} has no description");
        }
    }

    #[test]
    fn a_file_extends_a_preset_or_another_file() {
        let (folder, ui) = (tempfile::tempdir().unwrap(), Ui::new(false, Ranks::default()));
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            gptkit_data::disk::write(&path, text.as_bytes()).unwrap();
            path.to_string_lossy().into_owned()
        };
        write("wide.toml", "extends = \"small\"\n[model]\nd_model = 384\n");
        let deep = write("deep.toml", "extends = \"wide.toml\"\n\n[model]\nn_layer = 8\n");
        let (name, config) = load::<PretrainConfig>(&deep, &[], &ui).unwrap();
        let small = preset::<PretrainConfig>("small").unwrap();
        assert_eq!((name.as_str(), config.model.d_model, config.model.n_layer), ("deep", 384, 8));
        assert_eq!(config.train, small.train);
        let wrong = write("wrong.toml", "extends = \"wide.toml\"\n\n[model]\nn_layers = 8\n");
        let error = load::<PretrainConfig>(&wrong, &[], &ui).unwrap_err().to_string();
        assert!(error.contains("line 4  model.n_layers = 8  unknown key"), "{error}");
        let nested = write("nested.toml", "extends = \"small\"\n[model]\nextends = \"gpt1\"\n");
        let error = load::<PretrainConfig>(&nested, &[], &ui).unwrap_err().to_string();
        assert!(error.contains("line 3  model.extends = \"gpt1\"  unknown key"), "{error}");
        let lost = write("lost.toml", "extends = \"smal\"\n");
        let error = format!("{:#}", load::<PretrainConfig>(&lost, &[], &ui).unwrap_err());
        assert!(error.contains("lost.toml extends"), "{error}");
        let circle = write("circle.toml", "extends = \"circle.toml\"\n");
        assert!(load::<PretrainConfig>(&circle, &[], &ui).unwrap_err().to_string().contains("longer than 8"));
    }

    /// Five sizes over two orders of magnitude of compute, at equal tokens, and a sixth beyond them.
    #[test]
    fn the_family_spans_what_it_says() {
        let config = preset::<ScalingConfig>("scaling-small").unwrap();
        let sizes = &config.family.sizes;
        let n: Vec<f64> =
            sizes.iter().map(|size| gptkit_scaling::config::non_embedding(&config.member(size).model) as f64).collect();
        assert!(n.is_sorted() && n.len() == 6 && n[4] / n[0] >= 100.0 && n[5] / n[4] > 2.0, "{n:?}");
        assert_eq!(
            sizes.iter().map(|size| size.predict).collect::<Vec<_>>(),
            [false, false, false, false, false, true]
        );
    }

    /// To 2% of a GPT-1 of 3 layers of width 128, so that their losses compare architectures.
    #[test]
    fn baselines_are_of_equal_size() {
        let n = |set: &[&str]| {
            let set: Vec<String> = set.iter().map(|set| format!("model.{set}")).collect();
            load::<PretrainConfig>("small", &set, &Ui::new(false, Ranks::default())).unwrap().1.model.n_params() as f64
        };
        let gpt1 = n(&["kind=\"gpt1\"", "n_layer=3", "d_model=128", "vocab_size=1024"]);
        for (name, vocab_size) in [("lstm-small", 1024), ("bert-small", 1025)] {
            let set = [format!("model.vocab_size={vocab_size}")];
            let model = load::<PretrainConfig>(name, &set, &Ui::new(false, Ranks::default())).unwrap().1.model;
            let off = model.n_params() as f64 / gpt1 - 1.0;
            assert!(
                model.context == 128 && off.abs() < 0.02,
                "{name} has {} parameters, gpt1 {gpt1}",
                model.n_params()
            );
        }
    }

    /// Parameters as published: exact where weights were released, rounded as in Brown et al. 2020, table 2.1, else.
    #[test]
    fn presets_have_the_published_sizes() {
        for (name, expected, tolerance) in [
            ("gpt1", 116_534_784, 0.0),
            ("gpt2-small", 124_439_808, 0.0),
            ("gpt2-medium", 354_823_168, 0.0),
            ("gpt2-large", 774_030_080, 0.0),
            ("gpt2-xl", 1_557_611_200, 0.0),
            ("gpt3-small", 125_000_000, 0.01),
            ("gpt3-medium", 350_000_000, 0.02),
            ("gpt3-large", 760_000_000, 0.01),
            ("gpt3-xl", 1_300_000_000, 0.02),
            ("gpt3-2.7b", 2_700_000_000, 0.02),
            ("gpt3-6.7b", 6_700_000_000, 0.02),
            ("gpt3-13b", 13_000_000_000, 0.02),
            ("gpt3-175b", 175_000_000_000, 0.01),
        ] {
            let config = preset::<PretrainConfig>(name).unwrap();
            let n = config.model.n_params();
            let off = n as f64 / f64::from(expected as f32) - 1.0;
            assert!(n == expected || off.abs() < tolerance, "{name} has {n} parameters, published {expected}");
        }
    }
}
