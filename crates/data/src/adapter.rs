//! Folders of low-rank adapters (PEFT's format): the folder of their base model, and where their tokenizer is.

use crate::disk;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// File that describes adapters.
pub const DESCRIPTION: &str = "adapter_config.json";

/// Files of which a folder with a tokenizer has at least one.
const TOKENIZERS: [&str; 4] = ["tokenizer.json", "vocab.json", "encoder.json", "encoder_bpe_40000.json"];

/// Most adapters on adapters.
pub const DEEPEST: usize = 16;

/// Whether `folder` holds adapters rather than a model.
pub fn is_adapter(folder: &Path) -> bool {
    folder.join(DESCRIPTION).exists()
}

/// The folder of the base model of the adapters in `folder`: the path that `base_model_name_or_path` names, from the working
/// directory, as PEFT reads it, or from the adapters' folder; else a folder of that name beside the adapters.
///
/// # Errors
/// When there is no such folder.
pub fn base_of(folder: &Path) -> Result<PathBuf> {
    let path = folder.join(DESCRIPTION);
    let json: Value = serde_json::from_str(&disk::read_description(&path)?)
        .with_context(|| format!("{} is not JSON", path.display()))?;
    let Some(named) = json["base_model_name_or_path"].as_str().filter(|name| !name.is_empty()) else {
        bail!(
            "{} names no base model\n  hint: set base_model_name_or_path to the folder of the base model",
            path.display()
        );
    };
    let name = Path::new(named);
    let beside = disk::parent(folder);
    let last = name.file_name().map(Path::new).filter(|_| name.is_relative());
    let mut places = vec![name.to_owned(), folder.join(name), beside.join(name)];
    places.extend(last.into_iter().flat_map(|last| [beside.join(last), last.to_owned()]));
    places.into_iter().find(|place| place.is_dir()).with_context(|| {
        format!(
            "{} names the base model {named:?}, which is not a folder in the working directory or next to the \
             adapters' folder\n  hint: download the base model and set base_model_name_or_path to its folder",
            path.display()
        )
    })
}

/// The folder whose tokenizer and chat template belong to the model in `folder`: `folder` itself, or the base of adapters
/// that were saved without a tokenizer, as PEFT saves them.
///
/// # Errors
/// When there is no base.
pub fn tokenizer_folder(folder: &Path) -> Result<PathBuf> {
    let mut at = folder.to_owned();
    for _ in 0..=DEEPEST {
        if !is_adapter(&at) || TOKENIZERS.iter().any(|name| at.join(name).exists()) {
            return Ok(at);
        }
        at = base_of(&at)?;
    }
    bail!("no base model of the adapters in {} has a tokenizer", folder.display())
}

/// Refuses adapters whose chain of bases has no end.
///
/// # Errors
/// When the bases of the adapters in `folder` lead back to one of them, or on and on.
pub fn must_end(folder: &Path) -> Result<()> {
    let mut seen = Vec::new();
    let mut at = folder.to_owned();
    while is_adapter(&at) {
        let place = at.canonicalize().unwrap_or_else(|_| at.clone());
        ensure!(
            !seen.contains(&place),
            "the adapters in {} are, directly or indirectly, their own base model",
            folder.display()
        );
        ensure!(seen.len() < DEEPEST, "{} has adapters on top of more than {DEEPEST} other adapters", folder.display());
        seen.push(place);
        at = base_of(&at)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapters(folder: &Path, base: &str) {
        disk::create_dir(folder).unwrap();
        let text = format!("{{\"base_model_name_or_path\": {}}}", Value::from(base));
        disk::write(&folder.join(DESCRIPTION), text.as_bytes()).unwrap();
    }

    #[test]
    fn a_base_lies_where_its_name_says_or_beside() {
        let folder = tempfile::tempdir().unwrap();
        let (base, made) = (folder.path().join("gpt2"), folder.path().join("made"));
        disk::create_dir(&base).unwrap();
        for named in [base.to_str().unwrap(), "gpt2", "../gpt2", "openai-community/gpt2"] {
            adapters(&made, named);
            assert_eq!(base_of(&made).unwrap().canonicalize().unwrap(), base.canonicalize().unwrap(), "{named}");
        }
        adapters(&made, "nowhere/at-all");
        let error = base_of(&made).unwrap_err().to_string();
        assert!(
            error.contains("names the base model \"nowhere/at-all\"") && error.contains("hint: download"),
            "{error}"
        );
        adapters(&made, "");
        assert!(base_of(&made).unwrap_err().to_string().contains("names no base model"));
    }

    #[test]
    fn a_tokenizer_is_the_adapters_own_or_the_bases() {
        let folder = tempfile::tempdir().unwrap();
        let (base, made) = (folder.path().join("gpt2"), folder.path().join("made"));
        disk::create_dir(&base).unwrap();
        adapters(&made, "gpt2");
        assert_eq!(tokenizer_folder(&base).unwrap(), base);
        assert!(tokenizer_folder(&made).unwrap().ends_with("gpt2"));
        disk::write(&made.join("vocab.json"), b"{}").unwrap();
        assert_eq!(tokenizer_folder(&made).unwrap(), made);
        adapters(&folder.path().join("loop"), "../loop");
        assert!(tokenizer_folder(&folder.path().join("loop")).is_err());
        assert!(must_end(&folder.path().join("loop")).unwrap_err().to_string().contains("their own base model"));
    }
}
