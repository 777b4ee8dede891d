//! Conversations from a pipe, with a model that has learned next to nothing.

use super::{Ran, TINY, run};
use std::fs;
use std::path::Path;

/// A model that reads 96 characters, those of the text below.
fn model(folder: &Path) {
    let text: String =
        (0..400).map(|i| format!("User: What is {i}, then?\nAssistant: <|It is {i}.|>\n/dumy")).collect();
    let shape = TINY.iter().map(|&word| if word == "model.context=16" { "model.context=96" } else { word });
    let words: Vec<&str> = shape.chain("--config char --data - --out run".split(' ')).collect();
    run(folder, &words, text.as_bytes()).ok();
}

fn chat(folder: &Path, more: &str, said: &str) -> Ran {
    let words = format!("chat --model run --dtype f32 {more}");
    run(folder, &words.trim().split(' ').collect::<Vec<_>>(), said.as_bytes())
}

/// What each record of a saved file says: role and content.
fn saved(path: &Path) -> Vec<Vec<(String, String)>> {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let record = |line: &str| {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        record["messages"].as_array().unwrap().iter().map(|m| (text(&m["role"]), text(&m["content"]))).collect()
    };
    fs::read_to_string(path).unwrap().lines().map(record).collect()
}

fn roles(messages: &[(String, String)]) -> Vec<&str> {
    messages.iter().map(|(role, _)| role.as_str()).collect()
}

#[test]
fn a_conversation_is_answered_saved_and_the_same_again() {
    let folder = tempfile::tempdir().unwrap();
    model(folder.path());
    let said = "What is 1?\n\nWhat\\\nthen?\n/save talk.jsonl\n/quit\nWhat?\n";
    let ran = chat(folder.path(), "--max-new-tokens 12", said).ok();
    assert!(ran.err.contains("run has no chat template"), "{}", ran.err);
    assert!(ran.err.contains("next: gptkit sft --init run"), "{}", ran.err);
    let records = saved(&folder.path().join("talk.jsonl"));
    let [messages] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!(roles(messages), ["user", "assistant", "user", "assistant"]);
    assert_eq!((messages[0].1.as_str(), messages[2].1.as_str()), ("What is 1?", "What\nthen?"));
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(
        words(&ran.out),
        words(&format!("{}\n{}", messages[1].1, messages[3].1)),
        "stdout has the answers alone"
    );
    assert_eq!(chat(folder.path(), "--max-new-tokens 12", said).ok().out, ran.out);
    assert_eq!(saved(&folder.path().join("talk.jsonl")).len(), 2, "a record is added, none replaced");
}

#[test]
fn another_answer_is_the_next_seeds() {
    let folder = tempfile::tempdir().unwrap();
    model(folder.path());
    chat(folder.path(), "--max-new-tokens 12", "What?\n/save a\n/retry\n/save a\n").ok();
    let records = saved(&folder.path().join("a"));
    assert_eq!((roles(&records[0]), &records[0][0]), (roles(&records[1]), &records[1][0]));
    assert_ne!(records[0][1], records[1][1]);
    chat(folder.path(), "--max-new-tokens 12 --seed 2", "What?\n/save b\n").ok();
    assert_eq!(saved(&folder.path().join("b"))[0], records[1]);
}

#[test]
fn old_turns_make_room_and_the_system_message_stays() {
    let folder = tempfile::tempdir().unwrap();
    model(folder.path());
    let said = "/system It is\n".to_owned() + &"What is 7?\n".repeat(6) + "/save talk\n/reset\nWhat?\n/save talk\n";
    let ran = chat(folder.path(), "--max-new-tokens 12", &said).ok();
    assert_eq!(ran.err.matches("the model no longer sees the oldest turns").count(), 1, "{}", ran.err);
    let records = saved(&folder.path().join("talk"));
    assert_eq!(records[0].len(), 13, "what is no longer read is saved all the same");
    assert_eq!(records[0][0], ("system".to_owned(), "It is".to_owned()));
    assert_eq!(roles(&records[1]), ["system", "user", "assistant"]);
}

#[test]
fn a_model_with_a_template_needs_no_stand_in() {
    let folder = tempfile::tempdir().unwrap();
    model(folder.path());
    let template = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}\
                    {% if add_generation_prompt %}<|assistant|>\n{% endif %}";
    fs::write(folder.path().join("run/chat_template.jinja"), template).unwrap();
    let ran = chat(folder.path(), "", "What?\n").ok();
    assert!(!ran.err.contains("not trained for dialogue") && ran.out.ends_with('\n'), "{}", ran.err);
}

#[test]
fn what_cannot_be_done_is_said() {
    let folder = tempfile::tempdir().unwrap();
    model(folder.path());
    let long = "What ".repeat(30);
    for (said, code, says) in [
        ("/sav talk\nWhat?\n", 2, "error: /sav is not a command; /help lists the commands"),
        ("/save talk\n", 2, "the conversation is empty, so there is nothing to save"),
        ("/retry\n", 2, "there is no answer to retry yet"),
        ("What §?\n", 1, "the character '§' is not in the vocabulary"),
        (long.as_str(), 1, "the message does not fit in the context window of 96 tokens: it takes 1"),
        ("What?\n/save none/talk\n", 1, "none/talk cannot be written"),
    ] {
        let ran = chat(folder.path(), "--max-new-tokens 1", said);
        assert_eq!(ran.code, Some(code), "{said}\n{}", ran.err);
        assert!(ran.err.contains(says), "{said}\n{}", ran.err);
    }
    let helped = chat(folder.path(), "", "/help").ok();
    assert!(helped.err.contains("/retry        generate another answer to the last message") && helped.out.is_empty());
}
