//! Tokenizers of many kinds: ids of texts, text of ids, at once and token by token, and long documents read in pieces.

use super::{folder, none_differ, rows};
use gptkit_data::encode::read_text;
use gptkit_data::progress::Silent;
use gptkit_data::source::OnBadRecord;
use gptkit_data::stitch::Stitcher;
use gptkit_data::tokenizer::Tokenizer;
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::Path;

const N_ROWS: usize = 32;

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn load(row: &Value) -> Tokenizer {
    Tokenizer::load(&folder().join("tokenizers").join(row["name"].as_str().unwrap())).unwrap()
}

/// What is wrong with each row, by what `check` says of it.
#[track_caller]
fn for_each_row(check: impl Fn(&Value, &Tokenizer) -> Vec<String>) {
    let wrong: Vec<String> = rows("tokenizers", N_ROWS)
        .iter()
        .flat_map(|row| check(row, &load(row)).into_iter().map(|what| format!("{}: {what}", row["name"])))
        .collect();
    none_differ(&wrong);
}

#[test]
fn texts_have_the_ids_of_the_library() {
    for_each_row(|row, tokenizer| {
        let mut wrong = Vec::new();
        for case in row["encode"].as_array().unwrap() {
            let (text, expected) = (case["text"].as_str().unwrap(), ids(&case["ids"]));
            match tokenizer.encode(text) {
                Ok(found) if found == expected => {}
                // Vocabularies of characters refuse what they lack.
                Err(e) if e.to_string().contains("is not in the vocabulary") => {}
                found => wrong.push(format!("{text:?} became {found:?}, expected {expected:?}")),
            }
        }
        wrong
    });
}

#[test]
fn ids_have_the_text_of_the_library() {
    for_each_row(|row, tokenizer| {
        let mut wrong = Vec::new();
        for case in row["decode"].as_array().unwrap() {
            let (ids, expected) = (ids(&case["ids"]), case["text"].as_str().unwrap());
            let found = tokenizer.decode(&ids).unwrap();
            if found != expected {
                wrong.push(format!("{ids:?} became {found:?}, expected {expected:?}"));
            }
        }
        wrong
    });
}

/// Prompts of each length: what is streamed after them adds up to the text of all.
#[test]
fn streamed_text_adds_up_to_the_text_of_all_ids() {
    for_each_row(|row, tokenizer| {
        let mut wrong = Vec::new();
        for case in row["decode"].as_array().unwrap() {
            let (ids, expected) = (ids(&case["ids"]), case["text"].as_str().unwrap());
            for n in 0..ids.len() {
                let (prompt, rest) = ids.split_at(n);
                let before = tokenizer.decode(prompt).unwrap();
                // A prompt that ends within a character, or in bytes that go on behind it, has no text of its own.
                let Some(after) = expected.strip_prefix(&before) else { continue };
                let mut decoder = tokenizer.decoder(prompt);
                let mut streamed: String = rest.iter().map(|&id| decoder.push(id).unwrap()).collect();
                streamed += &decoder.flush().unwrap();
                if streamed != after && !before.ends_with(char::REPLACEMENT_CHARACTER) {
                    wrong.push(format!("{prompt:?} + {rest:?} became {streamed:?}, expected {after:?}"));
                }
            }
        }
        wrong
    });
}

fn long_text() -> String {
    let fixture: Value =
        serde_json::from_str(&std::fs::read_to_string(folder().join("tokenizers.json")).unwrap()).unwrap();
    let of = |key: &str| -> Vec<String> { serde_json::from_value(fixture["long"][key].clone()).unwrap() };
    let (parts, separators) = (of("parts"), of("separators"));
    let (mut state, mut text) = (7u32, String::new());
    for _ in 0..fixture["long"]["n"].as_u64().unwrap() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text += &parts[(state >> 16) as usize % parts.len()];
        text += &separators[(state >> 8) as usize % separators.len()];
    }
    text
}

/// FNV-1a over the ids.
fn fold(ids: &[u32]) -> String {
    let fold = |found: u64, &id: &u32| (found ^ u64::from(id)).wrapping_mul(0x0100_0000_01B3);
    format!("{:016x}", ids.iter().fold(0xCBF2_9CE4_8422_2325, fold))
}

#[test]
fn long_documents_have_the_ids_of_the_whole() {
    let work = tempfile::tempdir().unwrap();
    let (path, text) = (work.path().join("long.txt"), long_text());
    std::fs::write(&path, &text).unwrap();
    for_each_row(|row, tokenizer| {
        let Ok((ids, bytes, longest)) = in_pieces(tokenizer, &path) else {
            let refuses = row["name"].as_str().unwrap().starts_with("characters");
            return if refuses { Vec::new() } else { vec!["it is refused".to_owned()] };
        };
        let mut wrong = Vec::new();
        if ids.len() as u64 != row["long"]["n"].as_u64().unwrap() || fold(&ids) != row["long"]["hash"].as_str().unwrap()
        {
            wrong.push(format!("{} tokens, expected {}, or others", ids.len(), row["long"]["n"]));
        }
        if bytes != text.len() {
            wrong.push(format!("the tokens stand for {bytes} bytes of {}", text.len()));
        }
        // Pieces of a fixed length begin where the one before ended: there is no other way than to encode all at once.
        if longest > 1 << 17 && row["name"] != "fixed-length" {
            wrong.push(format!("{longest} bytes were encoded as one"));
        }
        wrong
    });
}

/// The tokens of a file that is read in pieces, the bytes that they stand for, and the most that was encoded as one.
fn in_pieces(tokenizer: &Tokenizer, path: &Path) -> anyhow::Result<(Vec<u32>, usize, usize)> {
    let (mut stitcher, mut ids, mut bytes) = (Stitcher::new(tokenizer), Vec::new(), 0);
    read_text(path.to_str().unwrap(), tokenizer, OnBadRecord::Fail, &Silent, &mut |piece| {
        for part in stitcher.push(vec![piece])? {
            ids.extend(part.ids);
            bytes += part.bytes.iter().map(|&n| n as usize).sum::<usize>();
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((ids, bytes, stitcher.longest()))
}
