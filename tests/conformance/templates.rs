//! Chat templates: the text that transformers renders, and the tokens of its `apply_chat_template`.

use super::{folder, none_differ, rows};
use gptkit_data::dialogue::Message;
use gptkit_data::template::{Template, encode};
use gptkit_data::tokenizer::Tokenizer;
use serde_json::Value;

/// Rows where gptkit refuses what transformers renders, and says so.
const REFUSED: [&str; 1] = ["chained comparison"];

fn messages(row: &Value) -> Vec<Message> {
    serde_json::from_value(row["messages"].clone()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// A tokenizer of the suite whose template is the row's.
fn tokenizer(row: &Value) -> Tokenizer {
    let kind = row["tokenizer"].as_str().unwrap_or("byte-level");
    let mut tokenizer = Tokenizer::load(&folder().join("templates").join(kind)).unwrap();
    tokenizer.set_chat_template(Some(row["template"].as_str().unwrap().to_owned()));
    tokenizer
}

fn rendered(row: &Value) -> Result<String, String> {
    let template = Template::of(&tokenizer(row)).map_err(|e| format!("{e:#}"))?.unwrap();
    template.render(&messages(row), row["add_generation_prompt"] == true).map_err(|e| format!("{e:#}"))
}

#[test]
fn templates_render_and_tokenize_as_in_transformers() {
    let mut differences = Vec::new();
    for row in rows("templates", 131) {
        let name = row["name"].as_str().unwrap();
        if row.get("ids").is_some() {
            let (tokenizer, messages) = (tokenizer(&row), messages(&row));
            let template = Template::of(&tokenizer).unwrap().unwrap();
            let tokens = encode(&template.segments(&messages).unwrap().segments, &tokenizer).unwrap();
            let (found, trained): (Vec<u32>, Vec<bool>) = tokens.into_iter().unzip();
            if found != ids(&row["ids"]) {
                differences.push(format!("{name}: {found:?}, in transformers {:?}", ids(&row["ids"])));
            } else if let Some(mask) = row.get("mask")
                && trained.iter().map(|&trained| u32::from(trained)).collect::<Vec<_>>() != ids(mask)
            {
                differences.push(format!("{name}: trained {trained:?}, in transformers {mask}"));
            }
            if row.get("prompt_ids").is_none() {
                continue;
            }
            let prompt = encode(&template.prompt(&messages[..messages.len() - 1]).unwrap(), &tokenizer).unwrap();
            let prompt: Vec<u32> = prompt.into_iter().map(|(id, _)| id).collect();
            if prompt != ids(&row["prompt_ids"]) {
                differences.push(format!("{name}: prompt {prompt:?}, in transformers {:?}", ids(&row["prompt_ids"])));
            }
            continue;
        }
        match (rendered(&row), row["text"].as_str()) {
            (Ok(text), Some(expected)) if text != expected => {
                differences.push(format!("{name}: {text:?}\n    in transformers {expected:?}"));
            }
            (Ok(text), None) => differences.push(format!("{name}: {text:?}, and transformers says {}", row["error"])),
            (Err(e), Some(_)) if !REFUSED.contains(&name) => differences.push(format!("{name}: {e}")),
            _ => {}
        }
    }
    none_differ(&differences);
}
