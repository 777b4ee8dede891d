//! Chat templates: messages → text, and which parts of it the assistant is trained on.
//!
//! A template is written in Jinja, as Hugging Face folders have it, and sees what `apply_chat_template` of transformers
//! gives it: `messages`, `add_generation_prompt`, `bos_token`, `eos_token`, `raise_exception`. It sees no clock
//! (`strftime_now`), so that a dialogue has the same tokens every day; templates that ask for one fall back to a date of
//! their own.

use crate::dialogue::{Message, Role};
use crate::disk;
use crate::jinja::{self, Failure, Program};
use crate::tokenizer::Tokenizer;
use anyhow::{Context, Result, anyhow, bail, ensure};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{UndefinedBehavior, context};
use serde_json::Value;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::Path;

/// The default: no line breaks, no spaces, so that the smallest tokenizer can do with it.
const DEFAULT: &str = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}\
                       {% if add_generation_prompt %}<|assistant|>{% endif %}";
/// The tokens of the default.
const SPECIAL_TOKENS: [&str; 4] = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"];
/// How often a dialogue may be rendered, at most, to tell its parts apart: fuel for so many of the slowest templates.
const RENDERINGS: u64 = 16;

/// A chat template.
pub struct Template {
    /// For messages.
    name: String,
    source: String,
    program: Program,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({})", self.name)
    }
}

/// A part of a rendered dialogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The part; not empty.
    pub text: String,
    /// Whether the assistant says it: its content and the sign that ends it.
    pub trained: bool,
    /// Whether it is a message's own text, in which special tokens' names are nothing but text:
    /// [`crate::tokenizer::Tokenizer::encode_document`] is for it, `encode` for all else.
    pub content: bool,
}

impl Template {
    /// The template of models that bring none: `<|user|>text<|end|><|assistant|>answer<|end|>`.
    ///
    /// # Panics
    /// Never: the tests render it.
    pub fn default_for_chat() -> Self {
        match Self::new("the default template", DEFAULT.to_owned()) {
            Ok(template) => template,
            Err(e) => unreachable!("{e:#}"),
        }
    }

    /// The special tokens of [`Template::default_for_chat`]; the last ends a message.
    pub fn special_tokens() -> [&'static str; 4] {
        SPECIAL_TOKENS
    }

    /// The template `source`; `name` stands for it in messages.
    ///
    /// # Errors
    /// When it is not Jinja, with its line.
    pub fn new(name: &str, source: String) -> Result<Self> {
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
        let environment = jinja::environment(UndefinedBehavior::Lenient);
        let program = Program::template(&environment, &without_generation_tags(&source), &syntax);
        let program = program.map_err(|failure| described(name, &failure))?;
        Ok(Self { name: name.to_owned(), source, program, bos_token: None, eos_token: None })
    }

    /// The template that the model or tokenizer in `folder` brings, if it brings one: `chat_template.jinja`, or
    /// `chat_template` of `tokenizer_config.json`.
    ///
    /// # Errors
    /// When it is damaged, or a file cannot be read.
    pub fn load(folder: &Path) -> Result<Option<Self>> {
        let Some((name, source)) = stored(folder)? else { return Ok(None) };
        let mut template = Self::new(&name, source)?;
        let config = config(folder)?;
        template.bos_token = token(&config, "bos_token");
        template.eos_token = token(&config, "eos_token");
        Ok(Some(template))
    }

    /// The template itself, in Jinja.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of `messages`; with `add_generation_prompt`, up to where the assistant's next words begin.
    ///
    /// # Errors
    /// When the template refuses the messages, with its line and its reason, or does too much work.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        Rendering::of(self, messages, |rendering| rendering.render(messages, add_generation_prompt))
    }

    /// The dialogue in parts, for training.
    ///
    /// What is trained of an assistant's message begins where its generation prompt ends, and ends with the last mark
    /// after its content: white space that follows `<|im_end|>` is the template's, and where nothing but white space
    /// follows the content, that is the mark. The parts are told apart by rendering the dialogue up to each message;
    /// messages' own text by rendering it with other text in its place.
    ///
    /// Text keeps `content` apart where the template lets it through as it is, or stripped. Where it does more (takes
    /// thoughts out of an answer, say), all parts have `content: false`, and names of special tokens in messages become
    /// those tokens, as in transformers.
    ///
    /// # Errors
    /// When the template refuses the messages, or the text of a beginning is not the beginning of the text.
    pub fn segments(&self, messages: &[Message]) -> Result<Vec<Segment>> {
        Rendering::of(self, messages, |rendering| rendering.segments(messages))
    }

    /// The text that ends what the assistant says, such as `<|end|>`: where to stop when it speaks.
    ///
    /// # Errors
    /// As [`Template::segments`] of one question and its answer.
    pub fn end_mark(&self) -> Result<String> {
        let segments = self.segments(&[Message::new(Role::User, "a"), Message::new(Role::Assistant, "b")])?;
        let after = segments.iter().rposition(|segment| segment.trained && segment.content).map_or(0, |i| i + 1);
        Ok(segments[after..].iter().filter(|segment| segment.trained).map(|segment| segment.text.as_str()).collect())
    }

    /// The token that ends what the assistant says, when it is a sign of the vocabulary.
    ///
    /// # Errors
    /// As [`Template::end_mark`].
    pub fn end_token(&self, tokenizer: &Tokenizer) -> Result<Option<u32>> {
        Ok(tokenizer.encode(&self.end_mark()?)?.into_iter().find(|&id| tokenizer.is_special(id)))
    }

    /// The dialogue so far and the beginning of the assistant's next message, in parts, none of them trained.
    ///
    /// # Errors
    /// When the template refuses the messages.
    pub fn prompt(&self, messages: &[Message]) -> Result<Vec<Segment>> {
        Rendering::of(self, messages, |rendering| {
            let whole = rendering.render(messages, true)?;
            let contents = rendering.contents(messages, &whole, true)?;
            Ok(cut(&whole, &[], &contents))
        })
    }
}

/// A template at work on one dialogue, with the fuel for all the times that it is rendered.
struct Rendering<'a> {
    template: &'a Template,
    fuel: u64,
}

impl Rendering<'_> {
    /// What `work` makes of `messages`.
    fn of<T: Send>(
        template: &Template,
        messages: &[Message],
        work: impl FnOnce(&mut Rendering) -> Result<T> + Send,
    ) -> Result<T> {
        let fuel = RENDERINGS * fuel_for(messages);
        jinja::on_deep_stack(|| work(&mut Rendering { template, fuel }))
    }

    fn render(&mut self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let Template { name, program, bos_token, eos_token, .. } = self.template;
        let mut variables = std::collections::BTreeMap::new();
        for (name, token) in [("bos_token", bos_token), ("eos_token", eos_token)] {
            if let Some(token) = token {
                variables.insert(name, token.clone());
            }
        }
        let fuel = fuel_for(messages).min(self.fuel);
        let messages = minijinja::Value::from(Serde(messages));
        let variables = context! { messages, add_generation_prompt, ..minijinja::Value::from(Serde(variables)) };
        let (text, used) = program.render(variables, fuel).map_err(|failure| described(name, &failure))?;
        self.fuel = self.fuel.saturating_sub(used);
        Ok(text)
    }

    fn segments(&mut self, messages: &[Message]) -> Result<Vec<Segment>> {
        let whole = self.render(messages, false)?;
        let contents = self.contents(messages, &whole, false)?;
        let mut trained: Vec<Range<usize>> = Vec::new();
        for (i, message) in messages.iter().enumerate().filter(|(_, message)| message.is_learned()) {
            let prompt = self.render(&messages[..i], true)?;
            let answered = self.render(&messages[..=i], false)?;
            ensure!(
                answered.starts_with(&prompt) && whole.starts_with(&answered),
                "{} does not render message {} as a continuation of those before it, so that what is to be learned cannot \
                 be told from it; give a template that does",
                self.template.name,
                i + 1
            );
            let marked = answered.trim_end().len().max(prompt.len());
            let own = contents.iter().rfind(|range| prompt.len() <= range.start && range.end <= answered.len());
            let unmarked = match own {
                Some(own) => marked <= own.end,
                None => answered[..marked].ends_with(message.content.trim_end()),
            };
            trained.push(prompt.len()..if unmarked { answered.len() } else { marked });
        }
        Ok(cut(&whole, &trained, &contents))
    }

    /// Where the messages' own text stands in `whole`; nowhere when the template does more to it than to strip it.
    fn contents(
        &mut self,
        messages: &[Message],
        whole: &str,
        add_generation_prompt: bool,
    ) -> Result<Vec<Range<usize>>> {
        // A sign that stands nowhere else, so that no message can pretend to be another's place.
        const SIGNS: std::ops::RangeInclusive<char> = '\u{E000}'..='\u{F8FF}';
        let texts = messages.iter().map(|m| m.content.as_str()).chain([whole]);
        let taken: HashSet<char> = texts.flat_map(str::chars).filter(|c| SIGNS.contains(c)).collect();
        let Some(sign) = SIGNS.into_iter().find(|sign| !taken.contains(sign)) else { return Ok(Vec::new()) };
        let holders: Vec<Message> =
            messages.iter().enumerate().map(|(i, m)| Message::new(m.role, format!("{sign}{i}{sign}"))).collect();
        let Ok(held) = self.render(&holders, add_generation_prompt) else { return Ok(Vec::new()) };
        Ok(matched(&held, sign, messages, whole).unwrap_or_default())
    }
}

fn fuel_for(messages: &[Message]) -> u64 {
    jinja::fuel_for(messages.iter().map(|m| m.content.len()).sum(), messages.len())
}

/// Tokens of `segments`, each with whether it is trained.
///
/// # Errors
/// When a character has no token in a vocabulary of characters.
pub fn encode(segments: &[Segment], tokenizer: &Tokenizer) -> Result<Vec<(u32, bool)>> {
    let mut tokens = Vec::new();
    for Segment { text, trained, content } in segments {
        let ids = if *content { tokenizer.encode_document(text)? } else { tokenizer.encode(text)? };
        tokens.extend(ids.into_iter().map(|id| (id, *trained)));
    }
    Ok(tokens)
}

/// Finds in `whole` the contents that `held` has signs for.
fn matched(held: &str, sign: char, messages: &[Message], whole: &str) -> Option<Vec<Range<usize>>> {
    let mut found = Vec::new();
    let mut parts = held.split(sign); // text, index, text, index … text
    let mut at = 0;
    let mut literal = parts.next()?;
    at += whole.strip_prefix(literal).map(|_| literal.len())?;
    while let Some(index) = parts.next() {
        let content = &messages.get(index.parse::<usize>().ok()?)?.content;
        literal = parts.next()?;
        let rest = &whole[at..];
        let forms = [content, content.trim(), content.trim_end(), content.trim_start(), content.trim_matches('\n')];
        let form = forms.into_iter().find(|&form| {
            let after = rest.strip_prefix(form);
            after.is_some_and(|after| after.starts_with(literal))
        })?;
        found.push(at..at + form.len());
        at += form.len() + literal.len();
    }
    (at == whole.len()).then_some(found)
}

/// `text` in parts that are trained or not, content or not.
fn cut(text: &str, trained: &[Range<usize>], contents: &[Range<usize>]) -> Vec<Segment> {
    let mut ends: Vec<usize> = trained.iter().chain(contents).flat_map(|range| [range.start, range.end]).collect();
    ends.push(text.len());
    ends.sort_unstable();
    ends.dedup();
    let mut start = 0;
    let mut segments = Vec::new();
    for end in ends {
        if end > start {
            let within = |ranges: &[Range<usize>]| ranges.iter().any(|range| range.start <= start && end <= range.end);
            let (trained, content) = (within(trained), within(contents));
            segments.push(Segment { text: text[start..end].to_owned(), trained, content });
            start = end;
        }
    }
    segments
}

/// What is wrong with a template or what it was given, with its line.
fn described(name: &str, failure: &Failure) -> anyhow::Error {
    match failure.line {
        Some(line) => anyhow!("{name} line {line}: {}", failure.what),
        None => anyhow!("{name}: {}", failure.what),
    }
}

/// transformers' `{% generation %}` marks the assistant's words for its own masks; here it is a block like any other.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        let Some(end) = tag[2..].find("%}").map(|end| end + 2) else { break }; // the sign of `{%}` is no end
        let (tag, after) = tag.split_at(end);
        out += before;
        out += &match tag[2..].trim_matches(|c: char| matches!(c, '-' | '+') || c.is_whitespace()) {
            "generation" => tag.replace("generation", "if true"),
            "endgeneration" => tag.replace("endgeneration", "endif"),
            _ => tag.to_owned(),
        };
        rest = after;
    }
    out + rest
}

/// The template that `folder` holds, and its name for messages.
pub(crate) fn stored(folder: &Path) -> Result<Option<(String, String)>> {
    let path = folder.join("chat_template.jinja");
    if path.exists() {
        return Ok(Some((path.display().to_string(), disk::read_description(&path)?)));
    }
    let name = || format!("chat_template of {}", folder.join(CONFIG).display());
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let source = match config(folder)?.get("chat_template") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(source)) => Some(source.clone()),
        // Several, for several uses.
        Some(Value::Array(all)) => {
            let default = all.iter().find(|entry| entry.get("name").is_some_and(|name| name == "default"));
            default.and_then(|entry| entry.get("template")).and_then(text)
        }
        Some(_) => None,
    };
    match source {
        Some(source) => Ok(Some((name(), source))),
        None => bail!("{} is neither text nor a list with one named \"default\"", name()),
    }
}

const CONFIG: &str = "tokenizer_config.json";

/// `tokenizer_config.json` of `folder`; null when there is none.
pub(crate) fn config(folder: &Path) -> Result<Value> {
    let path = folder.join(CONFIG);
    if !path.exists() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&disk::read_description(&path)?).with_context(|| format!("{} is not JSON", path.display()))
}

/// The token under `key` of a `tokenizer_config.json`: a string, or an object with it.
pub(crate) fn token(config: &Value, key: &str) -> Option<String> {
    let token = match config.get(key) {
        Some(Value::Object(token)) => token.get("content"),
        other => other,
    };
    token.and_then(Value::as_str).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Tokenizer;
    use Role::{Assistant, System, User};
    use proptest::prelude::*;

    /// Made by scripts/golden_chat.py with Jinja2 as transformers sets it up.
    const GOLDEN: &str = include_str!("../../../tests/golden/chat-templates.json");

    fn golden() -> Value {
        serde_json::from_str(GOLDEN).unwrap()
    }

    fn usual(name: &str) -> Template {
        let mut template = Template::new(name, golden()["templates"][name].as_str().unwrap().to_owned()).unwrap();
        (template.bos_token, template.eos_token) = (Some("<s>".to_owned()), Some("</s>".to_owned()));
        template
    }

    fn said(messages: &[(Role, &str)]) -> Vec<Message> {
        messages.iter().map(|&(role, content)| Message::new(role, content)).collect()
    }

    /// Segments in short: content in quotes, what is trained after a `+`.
    fn shown(segments: &[Segment]) -> Vec<String> {
        let show = |s: &Segment| {
            let text = if s.content { format!("\"{}\"", s.text) } else { s.text.clone() };
            if s.trained { format!("+{text}") } else { text }
        };
        segments.iter().map(show).collect()
    }

    #[test]
    fn usual_templates_render_as_the_reference_renders_them() {
        let golden = golden();
        let cases = golden["cases"].as_array().unwrap();
        assert!(cases.len() > 30);
        for case in cases {
            let template = usual(case["template"].as_str().unwrap());
            let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
            let rendered = template.render(&messages, case["add_generation_prompt"].as_bool().unwrap());
            match case["text"].as_str() {
                Some(text) => assert_eq!(rendered.unwrap(), text, "{case}"),
                None => {
                    let message = rendered.unwrap_err().to_string();
                    assert!(message.contains(case["error"].as_str().unwrap()), "{message}");
                    assert!(message.starts_with(&format!("{} line 1: ", template.name)), "{message}");
                }
            }
        }
    }

    #[test]
    fn the_default_has_no_space_of_its_own() {
        let template = Template::default_for_chat();
        let messages = said(&[(System, "s"), (User, "q"), (Assistant, "a")]);
        assert_eq!(
            template.render(&messages, false).unwrap(),
            "<|system|>s<|end|><|user|>q<|end|><|assistant|>a<|end|>"
        );
        assert_eq!(template.render(&messages[..2], true).unwrap(), "<|system|>s<|end|><|user|>q<|end|><|assistant|>");
        assert_eq!(template.end_mark().unwrap(), "<|end|>");
        for token in Template::special_tokens() {
            assert!(template.render(&messages, false).unwrap().contains(token), "{token}");
        }
    }

    #[test]
    fn what_the_assistant_says_is_trained_with_its_end() {
        let messages = said(&[(System, " s "), (User, "q"), (Assistant, "a"), (User, " r"), (Assistant, "b ")]);
        for (name, expected) in [
            (
                "chatml",
                &[
                    "<|im_start|>system\n",
                    "\" s \"",
                    "<|im_end|>\n<|im_start|>user\n",
                    "\"q\"",
                    "<|im_end|>\n<|im_start|>assistant\n",
                    "+\"a\"",
                    "+<|im_end|>",
                    "\n<|im_start|>user\n",
                    "\" r\"",
                    "<|im_end|>\n<|im_start|>assistant\n",
                    "+\"b \"",
                    "+<|im_end|>",
                    "\n",
                ][..],
            ),
            (
                "llama2",
                &[
                    "<s>[INST] <<SYS>>\n",
                    "\" s \"",
                    "\n<</SYS>>\n\n",
                    "\"q\"",
                    " [/INST]",
                    "+ ",
                    "+\"a\"",
                    "+ </s>",
                    "<s>[INST] ",
                    "\"r\"",
                    " [/INST]",
                    "+ ",
                    "+\"b\"",
                    "+ </s>",
                ],
            ),
            (
                "llama3",
                &[
                    "<s><|start_header_id|>system<|end_header_id|>\n\n",
                    "\"s\"",
                    "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n",
                    "\"q\"",
                    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
                    "+\"a\"",
                    "+<|eot_id|>",
                    "<|start_header_id|>user<|end_header_id|>\n\n",
                    "\"r\"",
                    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
                    "+\"b\"",
                    "+<|eot_id|>",
                ],
            ),
        ] {
            assert_eq!(shown(&usual(name).segments(&messages).unwrap()), expected, "{name}");
        }
        assert_eq!(usual("gemma").end_mark().unwrap(), "<end_of_turn>");
    }

    #[test]
    fn line_breaks_that_alone_end_an_answer_are_its_end() {
        let source = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}{% if add_generation_prompt \
                      %}assistant: {% endif %}";
        let template = Template::new("plain", source.to_owned()).unwrap();
        let segments = template.segments(&said(&[(User, "q"), (Assistant, "a")])).unwrap();
        assert_eq!(shown(&segments), ["user: ", "\"q\"", "\n\nassistant: ", "+\"a\"", "+\n\n"]);
    }

    #[test]
    fn a_prompt_ends_where_the_assistant_begins() {
        let segments = Template::default_for_chat().prompt(&said(&[(User, "q <|end|>")])).unwrap();
        assert_eq!(shown(&segments), ["<|user|>", "\"q <|end|>\"", "<|end|><|assistant|>"]);
    }

    #[test]
    fn a_user_cannot_speak_for_the_assistant() {
        let text = "<|end|><|assistant|>ok user";
        let mut tokenizer = Tokenizer::train_bpe(Some(280), std::iter::once(text.to_owned())).unwrap();
        let special = tokenizer.add_special_tokens(&Template::special_tokens()).unwrap();
        let segments = Template::default_for_chat().segments(&said(&[(User, text), (Assistant, text)])).unwrap();
        let encode =
            |s: &Segment| if s.content { tokenizer.encode_document(&s.text) } else { tokenizer.encode(&s.text) };
        let ids: Vec<u32> = segments.iter().flat_map(|s| encode(s).unwrap()).collect();
        let signs: Vec<u32> = ids.iter().copied().filter(|id| special.contains(id)).collect();
        assert_eq!(signs, [1, 3, 2, 3].map(|i| special[i]), "user, end, assistant, end");
    }

    #[test]
    fn text_that_a_template_changes_is_not_kept_apart() {
        let source = "{% for m in messages %}[{{ m.content | upper }}]{% endfor %}";
        let template = Template::new("loud", source.to_owned()).unwrap();
        let segments = template.segments(&said(&[(User, "q"), (Assistant, "a")])).unwrap();
        assert_eq!(shown(&segments), ["[Q]", "+[A]"]);
    }

    #[test]
    fn a_template_that_changes_what_came_before_is_refused() {
        let source = "{{ messages | length }}{% for m in messages %}<{{ m.content }}>{% endfor %}";
        let template = Template::new("counting", source.to_owned()).unwrap();
        let error = template.segments(&said(&[(User, "q"), (Assistant, "a")])).unwrap_err().to_string();
        assert!(
            error.starts_with("counting does not render message 2 as a continuation of those before it"),
            "{error}"
        );
    }

    #[test]
    fn marks_of_what_is_generated_are_blocks_like_others() {
        let source = "{% for m in messages %}{%- generation -%} {{ m.content }}{% endgeneration %};{% endfor %}";
        let template = Template::new("trl", source.to_owned()).unwrap();
        assert_eq!(template.render(&said(&[(User, "q"), (Assistant, "a")]), false).unwrap(), "q;a;");
        assert_eq!(template.source(), source);
        for odd in ["{%}", "a{%", "{%%}", "{% generation", "{%-%}"] {
            assert!(without_generation_tags(odd) == odd && Template::new("odd", odd.to_owned()).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_template_that_cannot_be_used_is_named_with_its_line() {
        let error = |source: &str| match Template::new("t.jinja", source.to_owned()) {
            Ok(template) => template.render(&said(&[(User, "q")]), false).unwrap_err().to_string(),
            Err(e) => e.to_string(),
        };
        for (source, expected) in [
            ("a\n{% for m in messages %}", "t.jinja line 2: unexpected end of input"),
            ("a\n\n{{ messages[0].content.nothing() }}", "t.jinja line 3: "),
            ("{{ strftime_now('%d') }}", "t.jinja line 1: strftime_now is unknown"),
            ("\n{{ messages | nothing }}", "t.jinja line 2: filter nothing is unknown"),
            ("{{ 1 +\n}}", "t.jinja line 2: "),
        ] {
            let message = error(source);
            assert!(message.starts_with(expected), "{message}\nexpected {expected}");
        }
    }

    #[test]
    fn a_folder_brings_its_own_template() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let config = |text: &str| crate::disk::write(&path.join(CONFIG), text.as_bytes()).unwrap();
        let rendered = || Template::load(path).unwrap().unwrap().render(&said(&[(User, "q")]), false).unwrap();
        assert!(Template::load(path).unwrap().is_none());
        config(r#"{"eos_token": "</s>"}"#);
        assert!(Template::load(path).unwrap().is_none());
        config(
            r#"{"eos_token": {"content": "</s>"}, "bos_token": null, "chat_template": "{{ bos_token }}{{ eos_token }}"}"#,
        );
        assert_eq!(rendered(), "</s>");
        config(r#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#);
        assert_eq!(rendered(), "d");
        let error = || format!("{:#}", Template::load(path).unwrap_err());
        for wrong in [r#"{"chat_template": 7}"#, r#"{"chat_template": [{"name": "rag", "template": "t"}]}"#] {
            config(wrong);
            assert!(error().contains("tokenizer_config.json is neither text nor a list with one named \"default\""));
        }
        config("{");
        assert!(error().contains("tokenizer_config.json is not JSON"));
        config(r#"{"chat_template": "{% if %}"}"#);
        assert!(error().contains("tokenizer_config.json line 1: "), "{}", error());
        config("{}");
        crate::disk::write(&path.join("chat_template.jinja"), b"{{ messages[0].content }}!\n").unwrap();
        assert_eq!(rendered(), "q!");
    }

    proptest! {
        #[test]
        fn segments_add_up_to_the_text_whatever_is_said(
            contents in prop::collection::vec("[ a\n<|>\u{E000}0-2]{0,8}", 2..6),
            name in prop::sample::select(vec!["chatml", "zephyr", "llama2", "llama3", "gemma"]),
        ) {
            let role = |i: usize| if i.is_multiple_of(2) { User } else { Assistant };
            let messages: Vec<Message> = contents.iter().enumerate().map(|(i, c)| Message::new(role(i), c.clone())).collect();
            let template = usual(name);
            let segments = template.segments(&messages).unwrap();
            let text: String = segments.iter().map(|s| s.text.as_str()).collect();
            prop_assert_eq!(text, template.render(&messages, false).unwrap());
            let own: Vec<&str> = segments.iter().filter(|s| s.content).map(|s| s.text.trim()).collect();
            let expected: Vec<&str> = contents.iter().map(|c| c.trim()).filter(|c| !c.is_empty()).collect();
            prop_assert_eq!(own.into_iter().filter(|c| !c.is_empty()).collect::<Vec<_>>(), expected);
        }
    }
}
