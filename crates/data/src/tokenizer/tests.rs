//! What is claimed of tokenizers.

use super::train::{LONGEST_LEARNED_WORD, WordCounts, in_short_words};
use super::*;
use gptkit_testing::{golden_json, golden_path, published};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// The published vocabulary of this name, cut by scripts/cut_tokenizers.py to what the golden texts need; ids are the
/// published ones.
fn cut(name: &str) -> Tokenizer {
    Tokenizer::load(&golden_path("tokenizers").join(name)).unwrap()
}

/// The whole published vocabulary of this name.
fn whole(name: &str) -> Tokenizer {
    Tokenizer::load(&published("tokenizers").join(name)).unwrap()
}

fn trained(vocab_size: usize) -> Tokenizer {
    let text = "the cat sat on the mat, and the dog sat on the log.\n\nThe end of the story: don't you see?\n\
                Nobody knows which of them went home first, but everybody remembers who stayed behind.";
    Tokenizer::train_bpe(Some(vocab_size), WordCounts::of(std::iter::repeat_n(text.to_owned(), 5))).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Made by scripts/golden.py with the reference tokenizers.
fn golden() -> Vec<Value> {
    golden_json("tokenizers.json").as_array().unwrap().clone()
}

/// And the library reads the saved file as gptkit reads the texts.
#[test]
fn a_framed_text_has_the_same_tokens_at_its_start_and_inside() {
    let folder = tempfile::tempdir().unwrap();
    let mut tokenizer = trained(320);
    tokenizer.add_special_tokens(&FRAME).unwrap();
    assert_eq!(tokenizer.encode_framed("the cat").unwrap(), tokenizer.encode("the cat").unwrap(), "no frame yet");
    tokenizer.set_frame().unwrap();
    let (the, inside) = (tokenizer.encode_framed("the").unwrap(), tokenizer.encode("sat the").unwrap());
    assert!(inside.ends_with(&the), "{the:?} in {inside:?}");
    assert_ne!(the, tokenizer.encode("the").unwrap(), "which reads text as it is");
    assert_eq!(tokenizer.encode_framed(" the").unwrap(), the);

    tokenizer.save(folder.path()).unwrap();
    let library = Inner::from_file(folder.path().join("tokenizer.json")).unwrap();
    let again = Tokenizer::load(folder.path()).unwrap();
    let [start, delimiter, extract] = FRAME.map(|token| again.token_id(token).unwrap());
    for (a, b) in [("the cat sat", "the dog"), (" the cat", "dog"), ("don't", "The end\n"), ("\nthe", "—é")] {
        let [a_ids, b_ids] = [a, b].map(|text| again.encode_framed(text).unwrap());
        let expected = [&[start][..], &a_ids, &[delimiter], &b_ids, &[extract]].concat();
        assert_eq!(library.encode((a, b), true).unwrap().get_ids(), expected, "{a:?}, {b:?}");
        assert_eq!(library.encode(a, true).unwrap().get_ids(), [&[start][..], &a_ids, &[extract]].concat());
        assert_eq!(again.encode(a).unwrap(), trained(320).encode(a).unwrap(), "other text is read as it is");
    }
    assert!(again.cut() == CutPoint::Words && again.decode(&again.encode("the cat").unwrap()).unwrap() == "the cat");
    let config = std::fs::read_to_string(folder.path().join("tokenizer_config.json")).unwrap();
    assert!(config.contains("\"add_prefix_space\": true"), "{config}");

    // Characters have no word to keep whole, and a file of an earlier version says nothing of a space.
    let mut characters = Tokenizer::of_characters(&BTreeSet::from(['a', 'b'])).unwrap();
    characters.add_special_tokens(&FRAME).unwrap();
    characters.set_frame().unwrap();
    assert_eq!(characters.encode_framed("ab").unwrap(), characters.encode("ab").unwrap());
    let path = folder.path().join("tokenizer.json");
    let earlier =
        std::fs::read_to_string(&path).unwrap().replace("\"add_prefix_space\": true", "\"add_prefix_space\": false");
    disk::write(&path, earlier.as_bytes()).unwrap();
    let earlier = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(earlier.encode_framed("the").unwrap(), earlier.encode("the").unwrap());
}

fn assert_ids_are_those_of_the_reference(name: &str, tokenizer: &Tokenizer) {
    for case in golden() {
        let (text, expected) = (case["text"].as_str().unwrap(), ids(&case[name]));
        assert_eq!(tokenizer.encode(text).unwrap(), expected, "{name}: {text:?}");
        let ordinary = case.get(format!("{name}_ordinary")).map_or(expected.clone(), ids);
        assert_eq!(tokenizer.encode_document(text).unwrap(), ordinary, "{name}: {text:?} as text");
        let decoded = case.get(format!("{name}_decoded")).and_then(Value::as_str);
        if name == "gpt2" || decoded.is_some() {
            assert_eq!(tokenizer.decode(&expected).unwrap(), decoded.unwrap_or(text), "{name}: {text:?} back");
        }
    }
}

fn assert_sizes_and_ends(gpt1: &Tokenizer, gpt2: &Tokenizer) {
    assert_eq!((gpt2.vocab_size(), gpt2.end_of_text()), (50_257, Some(50_256)));
    assert_eq!((gpt1.vocab_size(), gpt1.end_of_text(), gpt1.document_end()), (40_478, None, Some(40_477)));
}

#[test]
fn gpt1_and_gpt2_ids_are_those_of_the_reference() {
    for name in ["gpt2", "gpt1"] {
        assert_ids_are_those_of_the_reference(name, &cut(name));
    }
    assert_sizes_and_ends(&cut("gpt1"), &cut("gpt2"));
}

#[test]
#[ignore = "needs the published vocabularies: set GPTKIT_TEST_DATA"]
fn the_published_vocabularies_give_the_ids_of_the_reference() {
    for name in ["gpt2", "gpt1"] {
        assert_ids_are_those_of_the_reference(name, &whole(name));
    }
    assert_sizes_and_ends(&whole("gpt1"), &whole("gpt2"));
}

#[test]
fn training_gives_the_size_that_was_asked_for() {
    let tokenizer = trained(300);
    assert_eq!((tokenizer.vocab_size(), tokenizer.end_of_text()), (300, Some(299)));
    assert!(trained(5000).vocab_size() < 5000, "the text has no such many pairs");
    assert_eq!(tokenizer.kind, TokenEncoding::ByteLevel);
}

proptest! {
    #[test]
    fn any_bytes_come_back(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let tokenizer = trained(280);
        let ids = tokenizer.encode_bytes(&bytes).unwrap();
        prop_assert_eq!(tokenizer.decode_bytes(&ids).unwrap(), bytes);
    }

    #[test]
    fn streamed_text_is_the_text_at_once(text in "\\PC{0,30}") {
        let tokenizer = trained(300);
        let ids = tokenizer.encode_document(&text).unwrap();
        let mut decoder = tokenizer.decoder(&[]);
        let mut streamed: String = ids.iter().map(|&id| decoder.push(id).unwrap()).collect();
        streamed += &decoder.flush().unwrap();
        prop_assert_eq!(streamed, text);
    }
}

/// Many short pieces, so that a cut stands at every place that allows one.
fn in_pieces(text: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let mut last = ' ';
    for c in text.chars() {
        if matches!(c, ' ' | '\n') && !last.is_whitespace() && !last.is_control() {
            pieces.push(String::new());
        }
        pieces.last_mut().unwrap().push(c);
        last = c;
    }
    pieces
}

fn assert_pieces_have_the_tokens_of_the_whole(tokenizer: &Tokenizer) {
    assert_eq!(tokenizer.cut(), CutPoint::Words);
    let all: String = golden().iter().map(|case| case["text"].as_str().unwrap()).collect::<Vec<_>>().join("\n ");
    let at_once = tokenizer.encode_document(&all).unwrap();
    let parts = in_pieces(&all);
    assert!(parts.len() > 100);
    let parts: Vec<u32> = parts.iter().flat_map(|p| tokenizer.encode_document(p).unwrap()).collect();
    assert_eq!(parts, at_once, "{tokenizer:?}");
}

#[test]
fn pieces_have_the_tokens_of_the_whole() {
    ["gpt2", "gpt1"].map(cut).iter().for_each(assert_pieces_have_the_tokens_of_the_whole);
}

#[test]
#[ignore = "needs the published vocabularies: set GPTKIT_TEST_DATA"]
fn pieces_have_the_tokens_of_the_whole_in_the_published_vocabularies() {
    ["gpt2", "gpt1"].map(whole).iter().for_each(assert_pieces_have_the_tokens_of_the_whole);
}

#[test]
fn characters_come_back_and_strangers_are_named() {
    let tokenizer = Tokenizer::of_characters(&"hello wörld\n".chars().collect()).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.kind), (11, TokenEncoding::Char));
    let ids = tokenizer.encode("hello\nwörld").unwrap();
    assert_eq!(ids.len(), 11);
    assert_eq!(tokenizer.decode(&ids).unwrap(), "hello\nwörld");
    let error = tokenizer.encode("hello, w").unwrap_err().to_string();
    assert!(error.contains("','"), "{error}");
}

fn assert_a_saved_tokenizer_is_the_same(tokenizer: &Tokenizer) {
    let folder = tempfile::tempdir().unwrap();
    tokenizer.save(folder.path()).unwrap();
    let loaded = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(loaded.fingerprint().unwrap(), tokenizer.fingerprint().unwrap());
    assert_eq!((loaded.kind, loaded.end_of_text()), (tokenizer.kind, tokenizer.end_of_text()));
}

#[test]
fn a_saved_tokenizer_is_the_same_when_it_is_loaded() {
    let characters = Tokenizer::of_characters(&('a'..='z').collect()).unwrap();
    [trained(290), characters].iter().for_each(assert_a_saved_tokenizer_is_the_same);
}

#[test]
#[ignore = "needs the published vocabularies: set GPTKIT_TEST_DATA"]
fn a_published_tokenizer_is_the_same_when_it_is_saved_and_loaded() {
    ["gpt1", "gpt2"].map(whole).iter().for_each(assert_a_saved_tokenizer_is_the_same);
}

#[test]
fn text_cannot_fake_the_end_of_its_document() {
    let tokenizer = trained(300);
    assert_eq!(tokenizer.encode("a<|endoftext|>").unwrap().last(), Some(&299));
    let ids = tokenizer.encode_document("a<|endoftext|>").unwrap();
    assert!(!ids.contains(&299));
    assert_eq!(tokenizer.decode(&ids).unwrap(), "a<|endoftext|>");
}

fn assert_added_special_tokens_are_one_token(mut tokenizer: Tokenizer) {
    let (before, end) = (tokenizer.vocab_size() as u32, tokenizer.end_of_text());
    let ids = tokenizer.add_special_tokens(&["<|user|>", "<|end|>"]).unwrap();
    assert_eq!(ids, [before, before + 1], "{tokenizer:?}");
    assert_eq!((tokenizer.vocab_size() as u32, tokenizer.end_of_text()), (before + 2, end));
    assert!(ids.iter().all(|&id| tokenizer.is_special(id)));
    assert_eq!(tokenizer.token_id("<|end|>"), Some(ids[1]));
    assert_eq!(tokenizer.token_text(ids[1]), "<|end|>");
    let text = "<|user|>a b<|end|>";
    let encoded = tokenizer.encode(text).unwrap();
    assert_eq!((encoded.first(), encoded.last()), (Some(&ids[0]), Some(&ids[1])), "{tokenizer:?}");
    assert_eq!(encoded.iter().filter(|id| ids.contains(id)).count(), 2);
    assert!(tokenizer.encode_document(text).unwrap().iter().all(|id| !ids.contains(id)), "{tokenizer:?}");
    if tokenizer.kind != TokenEncoding::Words {
        assert_eq!(tokenizer.decode(&encoded).unwrap(), text);
        let document = tokenizer.encode_document(text).unwrap();
        assert_eq!(tokenizer.decode(&document).unwrap(), text);
        let mut decoder = tokenizer.decoder(&[]);
        let streamed: String = encoded.iter().map(|&id| decoder.push(id).unwrap()).collect();
        assert_eq!(streamed, text);
    }
    let again = tokenizer.add_special_tokens(&["<|end|>", "<|new|>"]).unwrap();
    assert_eq!(again, [before + 1, before + 2]);
}

#[test]
fn added_special_tokens_are_one_token_in_templates_and_text_in_documents() {
    let characters = Tokenizer::of_characters(&"<|endusr>a b".chars().collect()).unwrap();
    [trained(300), characters].into_iter().for_each(assert_added_special_tokens_are_one_token);
    assert!(trained(300).add_special_tokens(&[""]).is_err());
}

#[test]
#[ignore = "needs the published vocabularies: set GPTKIT_TEST_DATA"]
fn special_tokens_are_added_to_the_published_vocabularies() {
    ["gpt1", "gpt2"].map(whole).into_iter().for_each(assert_added_special_tokens_are_one_token);
}

#[test]
fn added_tokens_and_the_chat_template_are_saved() {
    let folder = tempfile::tempdir().unwrap();
    let mut tokenizer = trained(290);
    let ids = tokenizer.add_special_tokens(&["<|user|>", "<|end|>"]).unwrap();
    tokenizer.set_chat_template(Some("{{ messages }}".to_owned()));
    tokenizer.save(folder.path()).unwrap();
    let loaded = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(loaded.fingerprint().unwrap(), tokenizer.fingerprint().unwrap());
    assert_eq!((loaded.kind, loaded.end_of_text()), (TokenEncoding::ByteLevel, Some(289)));
    assert_eq!(loaded.encode("<|user|><|end|>").unwrap(), ids);
    assert_eq!(loaded.chat_template(), Some("{{ messages }}"));
    // Newer folders have it in a file of its own, which counts.
    disk::write(&folder.path().join("chat_template.jinja"), b"new").unwrap();
    assert_eq!(Tokenizer::load(folder.path()).unwrap().chat_template(), Some("new"));
    assert_eq!(trained(290).chat_template(), None);
}

#[test]
fn a_missing_or_damaged_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let message = || format!("{:#}", Tokenizer::load(folder.path()).unwrap_err());
    assert!(message().contains("contains no tokenizer"));
    disk::write(&folder.path().join("vocab.json"), b"{\"a\": 0}").unwrap();
    assert!(message().contains("merges.txt does not exist"), "{}", message());
    disk::write(&folder.path().join("merges.txt"), b"#version: 0.2\na b\n").unwrap();
    assert!(message().contains("are not a valid vocabulary with its merges"), "{}", message());
    disk::write(&folder.path().join("tokenizer.json"), b"{\"version\": ").unwrap();
    assert!(message().contains("tokenizer.json is not a valid tokenizer file"), "{}", message());
}

/// A trained tokenizer's file, changed by `change`, read again.
fn changed(change: impl Fn(&mut Value)) -> Result<Tokenizer> {
    let folder = tempfile::tempdir().unwrap();
    trained(300).save(folder.path()).unwrap();
    let path = folder.path().join("tokenizer.json");
    let mut json: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut json);
    disk::write(&path, json.to_string().as_bytes()).unwrap();
    Tokenizer::load(folder.path())
}

#[test]
fn patterns_that_take_for_ever_are_errors_in_words() {
    let text = format!("{}b", "a".repeat(40));
    for pattern in ["(a+)+$", "(?:a|aa)+$", "(x+x+)+y", "(a*)*c", "(.*)*(.*)*c", "(?<n>a|\\g<n>\\g<n>)+$"] {
        let regex = json!({ "Regex": pattern });
        let split = json!({ "type": "Split", "pattern": regex, "behavior": "Isolated", "invert": false });
        let replace = json!({ "type": "Replace", "pattern": regex, "content": "b" });
        for (part, value) in [("pre_tokenizer", &split), ("normalizer", &replace), ("decoder", &replace)] {
            let Ok(tokenizer) = changed(|json| json[part] = value.clone()) else { continue };
            let text = if pattern.contains('x') { text.replace('a', "x") } else { text.clone() };
            let encoded = tokenizer.encode(&text);
            if let Err(e) = encoded {
                let message = e.to_string();
                assert!(
                    message.starts_with("a regular expression of the tokenizer takes too long on the text"),
                    "{message}"
                );
            }
        }
    }
    let split = json!({ "type": "Split", "pattern": { "Regex": "(a+)+$" }, "behavior": "Isolated", "invert": false });
    assert!(changed(|json| json["pre_tokenizer"] = split.clone()).unwrap().encode(&text).is_err());
    for pattern in ["(".repeat(4000) + "a" + &")".repeat(4000), "(?:".repeat(3000) + "a" + &"){99}".repeat(3000)] {
        let split =
            json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
        let error = format!("{:#}", changed(|json| json["pre_tokenizer"] = split.clone()).unwrap_err());
        assert!(error.contains("tokenizer.json is not a valid tokenizer file: "), "{error}");
    }
}

#[test]
fn damaged_tokenizers_are_errors_in_words() {
    let sequence = |depth: usize| {
        (0..depth).fold(json!({ "type": "NFC" }), |inner, _| json!({ "type": "Sequence", "normalizers": [inner] }))
    };
    type Change = Box<dyn Fn(&mut Value)>;
    let changes: [(&str, Change); 11] = [
        ("id", Box::new(|json| json["model"]["vocab"]["zzzz"] = json!(u32::MAX))),
        ("large id", Box::new(|json| json["model"]["vocab"]["zzzz"] = json!(1_000_000_000))),
        ("added id", Box::new(|json| json["added_tokens"][0]["id"] = json!(u32::MAX))),
        ("FixedLength", Box::new(|json| json["pre_tokenizer"] = json!({ "type": "FixedLength", "length": 0 }))),
        (
            "charsmap",
            Box::new(|json| {
                json["normalizer"] = json!({ "type": "Precompiled", "precompiled_charsmap": "AAAAAAAA////" })
            }),
        ),
        (
            "charsmap",
            Box::new(|json| {
                json["normalizer"] = json!({ "type": "Precompiled", "precompiled_charsmap": "////////////" })
            }),
        ),
        (
            "merges",
            Box::new(|json| {
                json["model"]["vocab"] = json!({ "a": 0, "b": 1, "aa": 2 });
                json["model"]["merges"] = json!([["a", "a"], ["aa", "a"]]);
            }),
        ),
        ("merges", Box::new(|json| json["model"]["merges"] = json!([["a"]]))),
        ("prefix", Box::new(|json| json["model"]["continuing_subword_prefix"] = json!("######"))),
        ("nested", Box::new(move |json| json["normalizer"] = sequence(60))),
        ("unigram", Box::new(|json| json["model"] = json!({ "type": "Unigram", "vocab": [], "unk_id": 0 }))),
    ];
    for (what, change) in changes {
        let refused = changed(&change).and_then(|tokenizer| tokenizer.encode("a text aaab"));
        assert!(refused.is_err() || what == "nested", "{what}");
    }
    // Gaps between ids are nothing bad.
    let with_gap = changed(|json| json["model"]["vocab"]["zzzz"] = json!(5000)).unwrap();
    assert_eq!(with_gap.vocab_size(), 5001);
}

#[test]
fn endless_words_are_cut_for_training() {
    let long = "ACGT".repeat(1000);
    let parts: Vec<&str> = in_short_words(&long).collect();
    assert_eq!(parts.concat(), long);
    assert!(parts.len() == 16 && parts.iter().all(|part| part.len() <= LONGEST_LEARNED_WORD));
    let usual = "short words, 3 of them\n".repeat(100);
    assert_eq!(in_short_words(&usual).collect::<Vec<_>>(), [&usual]);
    // A text without a space, in which no part comes twice: with uncut words its time is quadratic.
    let mut state = 1u32;
    let letter = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ['A', 'C', 'G', 'T'][(state >> 30) as usize]
    };
    let genome: String = (0..200_000).map(letter).collect();
    let tokenizer = Tokenizer::train_bpe(Some(600), WordCounts::of(std::iter::once(genome.clone()))).unwrap();
    assert_eq!(tokenizer.vocab_size(), 600);
    let ids = tokenizer.encode(&genome[..10_000]).unwrap();
    assert!(ids.len() < 4_000 && tokenizer.decode(&ids).unwrap() == genome[..10_000]);
}

#[test]
fn stored_truncation_does_not_cut_text() {
    let folder = tempfile::tempdir().unwrap();
    let mut inner = trained(300).inner;
    let cut = tokenizers::TruncationParams { max_length: 4, ..Default::default() };
    inner.with_truncation(Some(cut)).unwrap();
    inner.save(folder.path().join("tokenizer.json"), false).unwrap();
    let ids = Tokenizer::load(folder.path()).unwrap().encode_document("the cat sat on the mat, and the dog").unwrap();
    assert!(ids.len() > 4);
}
