//! Special tokens of folders, as transformers' AutoTokenizer reads them; a folder that gptkit wrote says the same.

use super::{folder, none_differ, rows};
use gptkit_data::dialogue::Message;
use gptkit_data::template::{Template, encode};
use gptkit_data::tokenizer::Tokenizer;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// What differs between the tokenizer in `path` and the row.
fn differences(row: &Value, path: &Path, messages: &[Message]) -> Vec<String> {
    let tokenizer = match Tokenizer::load(path) {
        Ok(tokenizer) => tokenizer,
        Err(e) => return vec![format!("{e:#}")],
    };
    let mut found = Vec::new();
    let mut compare = |what: &str, ours: Value, theirs: &Value| {
        if ours != *theirs {
            found.push(format!("{what}: {ours}, in transformers {theirs}"));
        }
    };
    let names: BTreeMap<&str, &str> = tokenizer.special_tokens().collect();
    // What nobody named is our own choice where there is no template that could print it.
    if row["special_tokens"].as_object().is_some_and(|names| !names.is_empty()) {
        compare("special tokens", serde_json::to_value(names).unwrap(), &row["special_tokens"]);
    }
    for text in row["texts"].as_array().unwrap() {
        let ids = tokenizer.encode_prompt(text["text"].as_str().unwrap()).unwrap();
        compare(&format!("{}", text["text"]), ids.into(), &text["ids"]);
    }
    if row.get("rendered").is_some() {
        let template = Template::of(&tokenizer).unwrap().expect("a template");
        compare("rendered", template.render(messages, false).unwrap().into(), &row["rendered"]);
        let tokens = encode(&template.segments(messages).unwrap().segments, &tokenizer).unwrap();
        compare("dialogue", tokens.into_iter().map(|(id, _)| id).collect(), &row["ids"]);
    }
    found
}

#[test]
fn folders_name_their_special_tokens_as_in_transformers() {
    let path = folder().join("tokens");
    let all: Value = serde_json::from_str(&std::fs::read_to_string(path.with_extension("json")).unwrap()).unwrap();
    let messages: Vec<Message> = serde_json::from_value(all["messages"].clone()).unwrap();
    let mut different = Vec::new();
    for row in rows("tokens", 35) {
        let (name, path) = (row["name"].as_str().unwrap(), path.join(row["folder"].as_str().unwrap()));
        different.extend(differences(&row, &path, &messages).iter().map(|what| format!("{name}: {what}")));
        let saved = tempfile::tempdir().unwrap();
        let Ok(tokenizer) = Tokenizer::load(&path) else { continue };
        tokenizer.save(saved.path()).unwrap();
        different
            .extend(differences(&row, saved.path(), &messages).iter().map(|what| format!("{name}, saved: {what}")));
        let config = std::fs::read_to_string(saved.path().join("tokenizer_config.json")).unwrap();
        for template in row["templates"].as_array().into_iter().flatten() {
            let kept = template == "default" || config.contains(&format!("\"name\": {template}"));
            assert!(kept, "{name}: the template {template} is lost");
        }
    }
    none_differ(&different);
}
