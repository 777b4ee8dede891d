//! Text for pretraining in the files that other programs write.

use super::records::{Heard, content};
use super::{none_differ, rows};
use crate::gptkit;
use gptkit_data::prepare::prepare;
use gptkit_data::prompt::text_of;
use gptkit_data::source::{DataConfig, SourceConfig};
use gptkit_data::tokenizer::{TokenizerConfig, TokenizerKind};
use serde_json::Value;
use std::path::Path;

/// The documents that are trained on when `row`, whose files are in `folder`, is prepared with a tokenizer of characters.
fn documents(row: &Value, folder: &Path, heard: &Heard) -> anyhow::Result<Vec<String>> {
    let path = folder.join(row["source"].as_str().unwrap()).to_string_lossy().into_owned();
    let mut data = DataConfig {
        sources: vec![SourceConfig { path, weight: None }],
        val_fraction: 0.0,
        shards: folder.join("shards"),
        ..DataConfig::default()
    };
    if let Some(column) = row["column"].as_str() {
        data.text_key = column.to_owned();
    }
    let config = TokenizerConfig { train: Some(TokenizerKind::Char), ..TokenizerConfig::default() };
    let prepared = prepare(&data, &config, None, heard)?;
    let (mut tokens, all) = (Vec::new(), &prepared.corpus.train[0].tokens);
    all.read(0, all.len() as usize, &mut tokens);
    let end = prepared.tokenizer.document_end().unwrap();
    let documents = tokens.split_inclusive(|&token| token == end);
    documents.map(|document| prepared.tokenizer.decode(&document[..document.len() - 1])).collect()
}

#[test]
fn text_of_other_programs_is_read_or_refused_by_name() {
    let mut differences = Vec::new();
    for row in rows("text", 47) {
        let folder = tempfile::tempdir().unwrap();
        let files = row["files"].as_array().unwrap();
        for file in files {
            let path = folder.path().join(file["path"].as_str().unwrap());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, content(file)).unwrap();
        }
        let mut check = |ok: bool, what: String| {
            if !ok {
                differences.push(format!("{}: {what}", row["name"]));
            }
        };
        if let Some(prompt) = row["prompt"].as_str() {
            let found = text_of(&content(&files[0])).unwrap();
            check(found == prompt, format!("{found:?}, not {prompt:?}"));
            continue;
        }
        let heard = Heard::default();
        let found = documents(&row, folder.path(), &heard).map_err(|e| format!("{e:#}"));
        if let Some(refused) = row["refused"].as_str() {
            check(found.as_ref().is_err_and(|said| said.contains(refused)), format!("{found:?}, not {refused}"));
            continue;
        }
        let right: Vec<String> = serde_json::from_value(row["documents"].clone()).unwrap();
        check(found.as_ref() == Ok(&right), format!("{found:?}\n  not {right:?}"));
        let (warnings, expected) = (heard.warnings(), row["warns"].as_str());
        let is_said = expected.map_or(warnings.is_empty(), |words| warnings.matches(words).count() == 1);
        check(is_said, format!("warns {warnings:?}, not {expected:?}"));
    }
    none_differ(&differences);
}

#[test]
fn a_column_is_named_on_the_command_line_by_every_command_that_reads_text() {
    let folder = tempfile::tempdir().unwrap();
    let lines: String = (0..40).map(|i| format!("{i},\"fox {i} ran, and left\"\n")).collect();
    std::fs::write(folder.path().join("in.csv"), format!("id,body\n{lines}")).unwrap();
    for command in ["tokenizer train --out t --kind char", "prepare --out shards"] {
        let refused = gptkit(folder.path(), &format!("{command} --data in.csv"));
        assert!(
            refused.err.contains("\"text\" is missing; the record has id, body; use --text-column"),
            "{}",
            refused.err
        );
        for flag in ["--text-column", "--text-key"] {
            gptkit(folder.path(), &format!("{command} --data in.csv {flag} body")).ok();
        }
    }
}
