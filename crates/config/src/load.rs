//! TOML text and `--set` overrides → a typed section, or every problem with its line.

use crate::fields;
use crate::nearest::nearest;
use crate::problems::{Check, Problem, Problems};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

/// A configuration that cannot be used; its `Display` is what a person reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    file: String,
    problems: Vec<Located>,
}

/// The place of a value that a setting gives.
const COMMAND_LINE: &str = "command line";

#[derive(Debug, Clone, PartialEq, Eq)]
struct Located {
    /// `line 4`, [`COMMAND_LINE`], or empty if the key was not set.
    place: String,
    /// The value as written, if there is one.
    value: Option<String>,
    problem: Problem,
}

/// Reads a `T` from the TOML `text` of `file` (a name for messages) with `set`, a list of `key.path=value`, on top.
///
/// # Errors
/// Everything that is wrong, at once: unknown keys, wrong types, and what `T::check` finds.
pub fn load<T>(file: &str, text: &str, set: &[String]) -> Result<T, Invalid>
where
    T: DeserializeOwned + Check,
{
    load_onto(None, file, text, set)
}

/// The key of a file that names the configuration that it changes.
pub const EXTENDS: &str = "extends";

/// As [`load`], on top of the configuration `base`, which the key `extends` of the text names: sections are merged, other
/// values are replaced.
///
/// # Errors
/// As [`load`].
pub fn load_over<T>(base: &Table, file: &str, text: &str, set: &[String]) -> Result<T, Invalid>
where
    T: DeserializeOwned + Check,
{
    load_onto(Some(base), file, text, set)
}

fn load_onto<T>(base: Option<&Table>, file: &str, text: &str, set: &[String]) -> Result<T, Invalid>
where
    T: DeserializeOwned + Check,
{
    let spans = DeTable::parse(text).map_err(|e| syntax(file, text, &e))?;
    let mut table: Table = toml::from_str(text).map_err(|e| syntax(file, text, &e))?;
    if let Some(base) = base {
        table.remove(EXTENDS);
        let own = std::mem::replace(&mut table, base.clone());
        merge(&mut table, own);
    }
    let mut source = ConfigSource { text, spans: spans.get_ref(), set, is_sound: false };
    let mut problems = Problems::default();
    for setting in set {
        if let Err(what) = apply(&mut table, setting) {
            problems.add(&format!("--set {}", cut(setting, 80)), what, "write --set section.key=value");
        }
    }
    let mut track = serde_path_to_error::Track::new();
    let typed = serde_path_to_error::Deserializer::new(Value::Table(table.clone()), &mut track);
    let mut unknown = Vec::new();
    let value = serde_ignored::deserialize::<_, _, T>(typed, |path| unknown.push(path.to_string().replace(".?", "")));
    for key in &unknown {
        problems.add(key, "unknown key", suggestion::<T>(key));
    }
    match value {
        Ok(value) => {
            value.check(&mut problems);
            if problems.is_empty() {
                return Ok(value);
            }
        }
        Err(e) => {
            let path = track.path().to_string();
            let (what, hint) = plain(e.message());
            problems.add(if path == "." { "" } else { &path }, what, hint);
        }
    }
    source.is_sound = !set.is_empty() && load_onto::<T>(base, file, text, &[]).is_ok();
    Err(Invalid { file: file.to_owned(), problems: source.locate(&table, &problems) })
}

/// Whether `key` is the key `section` or stands in the section of that name; both are dotted paths.
pub fn is_at_or_below(key: &str, section: &str) -> bool {
    key.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Puts the keys of `own` over those of `base`: sections are merged, other values are replaced.
pub fn merge(base: &mut Table, own: Table) {
    for (key, value) in own {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(own)) => merge(below, own),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// The TOML of a configuration as it will be obeyed, to be kept with a run.
///
/// # Errors
/// When a setting has no form in TOML.
pub fn resolved<T: Serialize>(config: &T) -> Result<String, toml::ser::Error> {
    toml::to_string_pretty(config)
}

/// Parts of a key at most: more than any configuration has, and few enough to be followed by recursion.
const DEEPEST: usize = 16;

/// Puts `key.path=value` into `table`.
fn apply(table: &mut Table, setting: &str) -> Result<(), String> {
    let (path, text) = setting.split_once('=').ok_or("has no `=`")?;
    let keys: Vec<&str> = path.trim().split('.').take(DEEPEST + 1).collect();
    if keys.len() > DEEPEST {
        return Err(format!("invalid key: more than {DEEPEST} parts"));
    }
    let bare = |key: &&str| !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    if let Some(key) = keys.iter().find(|key| !bare(key)) {
        return Err(format!("invalid key: {:?} is not a bare TOML key", cut(key, 80)));
    }
    let value = value_of(text.trim())?;
    let Some((key, sections)) = keys.split_last() else { return Err("invalid key: it is empty".to_owned()) };
    let mut at = table;
    for section in sections {
        let next = at.entry(*section).or_insert_with(|| Value::Table(Table::new()));
        at = next.as_table_mut().ok_or_else(|| format!("`{section}` is not a section"))?;
    }
    at.insert((*key).to_owned(), value);
    Ok(())
}

/// One TOML value, or a string without quotes.
fn value_of(text: &str) -> Result<Value, String> {
    match text.parse::<Value>() {
        Ok(value) => Ok(value),
        Err(_) if text.is_empty() => Err("the value is empty; an empty string is written \"\"".to_owned()),
        Err(e) if text.starts_with(['"', '\'', '[', '{']) => {
            Err(format!("the value is not valid TOML: {}", e.message()))
        }
        Err(_) if text.contains('\n') => Err("the value has more than one line; use one --set per setting".to_owned()),
        Err(_) if text.contains(char::is_control) => Err("the value has control characters; quote it".to_owned()),
        Err(_) => Ok(Value::String(text.to_owned())),
    }
}

/// The first `longest` characters of `text`, on one line, for messages.
fn cut(text: &str, longest: usize) -> String {
    let mut short: String = text.chars().take(longest).map(|c| if c == '\n' { '␤' } else { c }).collect();
    if text.chars().nth(longest).is_some() {
        short.push('…');
    }
    short
}

/// Keys that other trainers have, and what they are called here.
const ELSEWHERE: [(&str, &str); 12] = [
    ("learning_rate", "lr"),
    ("max_lr", "lr"),
    ("max_steps", "length"),
    ("max_iters", "length"),
    ("steps", "length"),
    ("epochs", "length"),
    ("num_epochs", "length"),
    ("num_train_epochs", "length"),
    ("batch", "batch_size"),
    ("per_device_train_batch_size", "batch_size"),
    ("gradient_accumulation_steps", "micro_batch"),
    ("warmup_steps", "warmup"),
];

/// A hint with the full path of the nearest key that exists: in the section of `key`, or else in another one.
fn suggestion<T: DeserializeOwned>(key: &str) -> String {
    let path: Vec<&str> = key.split('.').collect();
    let Some((last, section)) = path.split_last() else { return String::new() };
    let meant = ELSEWHERE.iter().find(|(other, _)| other == last).map_or(*last, |(_, name)| name);
    let known = fields::at::<T>(section);
    if let Some(near) = nearest(meant, known.iter().map(|key| &**key)) {
        return format!("did you mean `{}`?", [section, &[near]].concat().join("."));
    }
    let sections = fields::at::<T>(&[]);
    let holds = |section: &&&str| fields::at::<T>(&[section]).contains(&meant);
    match sections.iter().find(holds) {
        Some(section) => format!("did you mean `{section}.{meant}`?"),
        None if known.is_empty() => String::new(),
        None if section.is_empty() => format!("accepted keys: {}", known.join(", ")),
        None => format!("keys of [{}]: {}", section.join("."), known.join(", ")),
    }
}

/// A message of serde in plain words, and a hint.
fn plain(message: &str) -> (String, String) {
    // It may quote the whole value.
    let short = || (cut(message, 300), String::new());
    if let Some(rest) = message.strip_prefix("unknown variant `") {
        let Some((_, known)) = rest.split_once("`, expected ") else { return short() };
        let known = known.trim_start_matches("one of ").replace('`', "").replace(" or ", ", ");
        return (format!("must be one of {}", cut(&known, 300)), String::new());
    }
    let Some((_, expected)) = message.split_once(", expected ") else { return short() };
    let what = match expected {
        "f64" | "f32" => "must be a number",
        "usize" | "u64" | "u32" | "u16" | "u8" => "must be a whole number, 0 or greater",
        "i64" | "i32" => "must be a whole number",
        "a boolean" => "must be true or false",
        _ => return short(),
    };
    (what.to_owned(), String::new())
}

fn syntax(file: &str, text: &str, error: &toml::de::Error) -> Invalid {
    let place = error.span().map(|s| format!("line {}", line(text, s.start))).unwrap_or_default();
    let problem = Problem { key: String::new(), what: error.message().to_owned(), hint: String::new() };
    Invalid { file: file.to_owned(), problems: vec![Located { place, value: None, problem }] }
}

fn line(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&b| b == b'\n').count() + 1
}

/// Where settings came from.
struct ConfigSource<'a> {
    text: &'a str,
    spans: &'a DeTable<'a>,
    set: &'a [String],
    /// Whether the text is sound by itself, so that every problem comes from the command line.
    is_sound: bool,
}

impl ConfigSource<'_> {
    fn locate(&self, table: &Table, problems: &Problems) -> Vec<Located> {
        let located = problems.iter().map(|problem| Located {
            place: self.place(&problem.key),
            value: value_at(table, &problem.key).map(short),
            problem: problem.clone(),
        });
        located.collect()
    }

    /// The setting of the command line that conflicts with `key`, if the text alone is sound: one of the same section, or
    /// the only one.
    fn at_fault(&self, key: &str) -> Option<&str> {
        let section = |key: &str| key.split('.').next().unwrap_or_default().trim().to_owned();
        let mut near = self.set.iter().filter(|set| section(set) == section(key));
        let only = || self.set.first().filter(|_| self.set.len() == 1);
        near.next_back().or_else(only).filter(|_| self.is_sound).map(String::as_str)
    }

    /// The place of `key`, or of the nearest section or element of a list above it that is written down.
    fn place(&self, key: &str) -> String {
        let set = |setting: &String| {
            let path = setting.split('=').next().unwrap_or_default().trim();
            is_at_or_below(key, path)
        };
        if self.set.iter().any(set) {
            return COMMAND_LINE.to_owned();
        }
        if let Some(set) = self.at_fault(key).filter(|_| !key.starts_with("--")) {
            return format!("with --set {}", cut(set, 60));
        }
        let mut offset = None;
        let mut steps = key.split('.');
        let mut found = steps.next().and_then(|step| entry(self.spans, step));
        while let Some((start, value)) = found {
            offset = Some(start);
            found = steps.next().and_then(|step| match value.get_ref() {
                DeValue::Table(table) => entry(table, step),
                DeValue::Array(list) => {
                    let element = list.get(step.parse::<usize>().ok()?)?;
                    Some((element.span().start, element))
                }
                _ => None,
            });
        }
        offset.map(|o| format!("line {}", line(self.text, o))).unwrap_or_default()
    }
}

/// Where `key` is written in `table`, and what it is.
fn entry<'a>(table: &'a DeTable<'a>, key: &str) -> Option<(usize, &'a Spanned<DeValue<'a>>)> {
    table.get_key_value(key).map(|(name, value)| (name.span().start, value))
}

fn value_at<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    let mut steps = key.split('.');
    let mut value = table.get(steps.next()?)?;
    for step in steps {
        value = match value {
            Value::Array(list) => list.get(step.parse::<usize>().ok()?)?,
            other => other.as_table()?.get(step)?,
        };
    }
    Some(value)
}

fn short(value: &Value) -> String {
    match value {
        Value::Table(_) => "{ … }".to_owned(),
        Value::Array(_) => "[ … ]".to_owned(),
        other => cut(&other.to_string(), 80),
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.problems.len();
        let typed = self.problems.iter().all(|l| l.place == COMMAND_LINE);
        let whose = if typed { "the command line" } else { &self.file };
        write!(f, "{whose} has {n} problem{}", if n == 1 { "" } else { "s" })?;
        let setting = |l: &Located| match &l.value {
            Some(value) => format!("{} = {value}", l.problem.key),
            None => l.problem.key.clone(),
        };
        let wide = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0);
        let place = wide(&mut self.problems.iter().map(|l| l.place.chars().count()));
        let key = wide(&mut self.problems.iter().map(|l| setting(l).chars().count())).min(40);
        for located in &self.problems {
            write!(f, "\n  {:place$}  {:key$}  {}", located.place, setting(located), located.problem.what)?;
            if !located.problem.hint.is_empty() {
                write!(f, "\n  {:place$}  hint: {}", "", located.problem.hint)?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, Serialize, PartialEq)]
    struct Toy {
        model: Shape,
        #[serde(default)]
        parts: Vec<Part>,
    }

    #[derive(Debug, Deserialize, Serialize, PartialEq)]
    struct Shape {
        width: usize,
        learning_rate: Option<f64>,
    }

    #[derive(Debug, Deserialize, Serialize, PartialEq)]
    struct Part {
        weight: f64,
    }

    impl Check for Toy {
        fn check(&self, problems: &mut Problems) {
            problems.section("model", &self.model);
        }
    }

    impl Check for Shape {
        fn check(&self, problems: &mut Problems) {
            problems.require(self.width.is_multiple_of(4), "width", "is not a multiple of 4", "use 8");
        }
    }

    fn toy(text: &str, set: &[&str]) -> Result<Toy, String> {
        load("toy.toml", text, &set.iter().map(|&s| s.to_owned()).collect::<Vec<_>>()).map_err(|e| e.to_string())
    }

    #[test]
    fn a_setting_on_the_command_line_wins() {
        let toy = toy("[model]\nwidth = 8", &["model.width=12", "model.learning_rate=3e-4"]).unwrap();
        assert_eq!(toy.model, Shape { width: 12, learning_rate: Some(3e-4) });
    }

    #[test]
    fn a_file_may_change_a_part_of_another() {
        let base: Table = toml::from_str("[model]\nwidth = 8\nlearning_rate = 0.1\n[[parts]]\nweight = 1.0").unwrap();
        let text = "[model]\nwidth = 12\n";
        let toy: Toy = load_over(&base, "toy.toml", text, &[]).unwrap();
        assert_eq!(toy.model, Shape { width: 12, learning_rate: Some(0.1) });
        assert_eq!(toy.parts.len(), 1);
        let error = load_over::<Toy>(&base, "toy.toml", "[model]\nwidth = 6", &[]).unwrap_err().to_string();
        assert!(error.contains("line 2  model.width = 6"), "{error}");
    }

    #[test]
    fn every_problem_is_listed_with_its_line_and_the_nearest_key() {
        let text = "[model]\nwidth = 6\nlerning_rate = 1\n[[parts]]\nweight = 1\nwieght = 2\n";
        assert_eq!(
            toy(text, &[]).unwrap_err(),
            "toy.toml has 3 problems\
             \n  line 3  model.lerning_rate = 1  unknown key\
             \n          hint: did you mean `model.learning_rate`?\
             \n  line 6  parts.0.wieght = 2      unknown key\
             \n          hint: did you mean `parts.0.weight`?\
             \n  line 2  model.width = 6         is not a multiple of 4\
             \n          hint: use 8"
        );
    }

    #[test]
    fn a_wrong_type_names_its_key() {
        let message = toy("[model]\nwidth = \"wide\"", &[]).unwrap_err();
        assert!(message.contains("line 2") && message.contains("model.width"), "{message}");
        let message = toy("[model]\nwidth = 8", &["model.width=x"]).unwrap_err();
        assert!(message.contains("command line") && message.contains("model.width"), "{message}");
    }

    #[test]
    fn a_file_that_is_sound_by_itself_is_not_blamed() {
        let found =
            load::<Pair>("pair.toml", "[pair]\na = 4\nb = 2", &["pair.b=3".to_owned()]).unwrap_err().to_string();
        assert_eq!(found, "pair.toml has 1 problem\n  with --set pair.b=3  pair.a = 4  does not divide by b");
        let found =
            load::<Pair>("pair.toml", "[pair]\na = 5\nb = 2", &["pair.b=3".to_owned()]).unwrap_err().to_string();
        assert!(found.contains("line 2  pair.a = 5"), "{found}");
    }

    #[derive(Debug, Deserialize)]
    struct Pair {
        pair: TwoNumbers,
    }

    #[derive(Debug, Deserialize)]
    struct TwoNumbers {
        a: usize,
        b: usize,
    }

    impl Check for Pair {
        fn check(&self, problems: &mut Problems) {
            let TwoNumbers { a, b } = self.pair;
            problems.require(a.is_multiple_of(b), "pair.a", "does not divide by b", "");
        }
    }

    #[test]
    fn broken_toml_names_its_line() {
        let message = toy("[model]\nwidth = = 3", &[]).unwrap_err();
        assert!(message.contains("line 2"), "{message}");
    }

    #[test]
    fn an_override_without_a_value_is_a_problem() {
        assert!(toy("[model]\nwidth = 8", &["model.width"]).unwrap_err().contains("has no `=`"));
    }

    #[test]
    fn a_setting_is_one_key_and_one_value() {
        let text = "[model]\nwidth = 8";
        let set = |setting: &str| toy(text, &[setting]);
        assert_eq!(set(" model.learning_rate = 3e-4 ").unwrap().model.learning_rate, Some(3e-4));
        assert_eq!(set("model={ width = 12 }").unwrap().model.width, 12);
        assert_eq!(set("parts=[\n  { weight = 1.0 },\n  { weight = 2.0 },\n]").unwrap().parts.len(), 2);
        for (setting, says) in [
            ("model.learning_rate=1e-3\nmodel.width=12", "the value has more than one line"),
            ("model.learning_rate=1e-3\n", "nothing is wrong"),
            ("model.width=", "the value is empty"),
            ("model.width= ", "the value is empty"),
            ("=3", "invalid key: \"\" is not a bare TOML key"),
            ("model..width=12", "invalid key: \"\" is not a bare TOML key"),
            (".model.width=12", "invalid key: \"\" is not a bare TOML key"),
            ("model.\"width\"=12", "invalid key"),
            ("model width=12", "invalid key: \"model width\""),
            ("parts=[1", "the value is not valid TOML"),
            ("parts=[] []", "the value is not valid TOML"),
            ("model.width=12 # wide", "model.width"),
            ("model.width=a\u{1b}", "the value has control characters"),
            ("model.width=\"a\" \"b\"", "the value is not valid TOML"),
        ] {
            match set(setting) {
                Err(said) => assert!(said.contains(says), "{setting}: {said}"),
                Ok(_) => assert_eq!(says, "nothing is wrong", "{setting}"),
            }
        }
    }

    #[test]
    fn depth_and_length_without_end_are_refused_in_few_words() {
        let text = "[model]\nwidth = 8";
        let (dots, brackets) = (format!("a{}=1", ".a".repeat(50_000)), format!("parts={}", "[".repeat(50_000)));
        for setting in [dots, brackets, format!("model.width={}", "x".repeat(50_000)), "x".repeat(50_000)] {
            let said = toy(text, &[&setting]).unwrap_err();
            assert!(said.len() < 1500, "{said}");
        }
        let (dots, brackets) = (".a".repeat(50_000), "[".repeat(50_000));
        for text in [format!("a{dots} = 1"), format!("a = {brackets}"), format!("[a{dots}]\nb = 1")] {
            let said = toy(&text, &[]).unwrap_err();
            assert!(said.len() < 1500, "{said}");
        }
    }
}
