//! What Python makes of values: `str`, `repr`, `json.dumps`, `%` and `strftime`, as templates written for Jinja2 expect.

use chrono::format::{Item, StrftimeItems};
use chrono::{DateTime, Local};
use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs};
use minijinja::{Error, ErrorKind, Value};

/// `str(value)`: text as it is, nothing for what is undefined.
pub(crate) fn text(value: &Value) -> String {
    match (value.as_str(), value.kind()) {
        (Some(text), _) => text.to_owned(),
        (None, ValueKind::Undefined) => String::new(),
        _ => repr(value),
    }
}

/// `repr(value)`.
fn repr(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => "Undefined".to_owned(),
        ValueKind::None => "None".to_owned(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.to_owned(),
        ValueKind::Number => number(value),
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable if value.try_iter().is_ok() => {
            let items: Vec<String> = value.try_iter().into_iter().flatten().map(|item| repr(&item)).collect();
            format!("[{}]", items.join(", "))
        }
        ValueKind::Map => {
            let pairs: Vec<String> =
                pairs(value).map(|(key, value)| format!("{}: {}", repr(&key), repr(&value))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
        _ => value.to_string(),
    }
}

fn pairs(map: &Value) -> impl Iterator<Item = (Value, Value)> {
    let keys: Vec<Value> = map.try_iter().into_iter().flatten().collect();
    keys.into_iter().map(|key| {
        let value = map.get_item(&key).unwrap_or_default();
        (key, value)
    })
}

/// Text in quotes, double ones where it has single ones and no double ones.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\n' => out += "\\n",
            '\r' => out += "\\r",
            '\t' => out += "\\t",
            '\\' => out += "\\\\",
            c if c == quote => out.extend(['\\', c]),
            c if c.is_control() && (c as u32) < 0x100 => out += &format!("\\x{:02x}", c as u32),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(x) if !value.is_integer() => float(x),
        _ => value.to_string(),
    }
}

/// The shortest digits that give the number again, with an exponent below 1e-4 and from 1e16 on.
fn float(x: f64) -> String {
    if !x.is_finite() {
        return if x.is_nan() { "nan".to_owned() } else { format!("{x}") };
    }
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if x != 0.0 && !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ if x == x.trunc() => format!("{x:.1}"),
        _ => format!("{x}"),
    }
}

/// The values of the parameters `names`, which are given by place or by name; undefined where one is not given.
fn values_of<const N: usize>(arguments: Rest<ValueOrKwargs>, names: [&str; N]) -> Result<[Value; N], Error> {
    let arguments = arguments.into_values();
    let (places, named): (&[Value], Kwargs) = match arguments.split_last() {
        Some((last, places)) if last.is_kwargs() => (places, last.clone().try_into()?),
        _ => (&arguments, std::iter::empty::<(&str, Value)>().collect()),
    };
    if places.len() > N {
        return Err(ErrorKind::TooManyArguments.into());
    }
    let mut values = std::array::from_fn(|i| places.get(i).cloned().unwrap_or_default());
    for (value, name) in values.iter_mut().zip(names).skip(places.len()) {
        *value = named.get::<Option<Value>>(name)?.unwrap_or_default();
    }
    named.assert_all_used()?;
    Ok(values)
}

/// The filter `truncate` as Jinja2 has it: text of more than `length` and `leeway` characters is cut, at a word unless
/// `killwords`, and `end` follows.
///
/// # Errors
/// When an argument is of another type.
pub(crate) fn truncate(text: &str, arguments: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let [length, killwords, end, leeway] = values_of(arguments, ["length", "killwords", "end", "leeway"])?;
    let number = |value: Value, usual: usize| if value.is_undefined() { Ok(usual) } else { value.try_into() };
    let (length, leeway) = (number(length, 255)?, number(leeway, 5)?);
    let end = end.as_str().unwrap_or("...");
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text.to_owned());
    }
    let kept: String = text.chars().take(length.saturating_sub(end.chars().count())).collect();
    let kept =
        if killwords.is_true() { &kept } else { kept.rsplit_once(' ').map_or(kept.as_str(), |(before, _)| before) };
    Ok(format!("{kept}{end}"))
}

/// The filter `tojson` as transformers has it: `json.dumps` without ASCII escapes.
///
/// # Errors
/// When a value has no form in JSON, or an argument is of another type.
pub(crate) fn to_json(value: &Value, arguments: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let [ensure_ascii, indent, separators, sort_keys] =
        values_of(arguments, ["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let (ensure_ascii, sort_keys) = (ensure_ascii.is_true(), sort_keys.is_true());
    let indent = match (indent.as_str(), indent.as_i64()) {
        (Some(text), _) => Some(text.to_owned()),
        (None, Some(n)) => Some(" ".repeat(usize::try_from(n).unwrap_or(0))),
        _ => None,
    };
    let mut between = (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned());
    if !separators.is_undefined() && !separators.is_none() {
        let mut parts = separators.try_iter()?.map(|part| part.as_str().map(str::to_owned));
        between = match (parts.next().flatten(), parts.next().flatten(), parts.next()) {
            (Some(item), Some(key), None) => (item, key),
            _ => return Err(Error::new(ErrorKind::InvalidOperation, "separators must be two strings")),
        };
    }
    let mut dump = Dump { ensure_ascii, sort_keys, indent, between, out: String::new() };
    dump.value(value, 0)?;
    Ok(Value::from(dump.out))
}

/// JSON in the making.
struct Dump {
    ensure_ascii: bool,
    sort_keys: bool,
    /// What one level is indented by; all stands on one line without it.
    indent: Option<String>,
    /// Texts between items, and between a key and its value.
    between: (String, String),
    out: String,
}

impl Dump {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.out += "null",
            ValueKind::Bool => self.out += if value.is_true() { "true" } else { "false" },
            ValueKind::Number => self.out += &json_number(value),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.all("[", "]", depth, &items, |dump, item| dump.value(item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut all = Vec::new();
                for (key, value) in pairs(value) {
                    all.push((key_text(&key)?, value));
                }
                if self.sort_keys {
                    all.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.all("{", "}", depth, &all, |dump, (key, value)| {
                    dump.string(key);
                    dump.out += &dump.between.1.clone();
                    dump.value(value, depth + 1)
                })?;
            }
            kind => {
                let what = format!("tojson: a value of type {kind} cannot be written as JSON");
                return Err(Error::new(ErrorKind::InvalidOperation, what));
            }
        }
        Ok(())
    }

    fn all<T>(
        &mut self,
        open: &str,
        close: &str,
        depth: usize,
        items: &[T],
        mut write: impl FnMut(&mut Self, &T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out += open;
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                self.out += &self.between.0.clone();
            }
            self.line(depth + 1);
            write(self, item)?;
        }
        if !items.is_empty() {
            self.line(depth);
        }
        self.out += close;
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            self.out += &indent.repeat(depth);
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out += "\\\"",
                '\\' => self.out += "\\\\",
                '\n' => self.out += "\\n",
                '\r' => self.out += "\\r",
                '\t' => self.out += "\\t",
                '\u{8}' => self.out += "\\b",
                '\u{c}' => self.out += "\\f",
                c if (c as u32) < 0x20 || self.ensure_ascii && (c as u32) > 0x7e => {
                    let units = c.encode_utf16(&mut [0; 2]).to_vec();
                    units.iter().for_each(|unit| self.out += &format!("\\u{unit:04x}"));
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

fn json_number(value: &Value) -> String {
    match number(value).as_str() {
        "nan" => "NaN".to_owned(),
        "inf" => "Infinity".to_owned(),
        "-inf" => "-Infinity".to_owned(),
        number => number.to_owned(),
    }
}

fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::Number => Ok(json_number(key)),
        kind => Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: a {kind} cannot be a key"))),
    }
}

/// `time.strftime(format)`; `None` where `format` is invalid.
pub(crate) fn strftime(time: &DateTime<Local>, format: &str) -> Option<String> {
    let items: Vec<Item> = StrftimeItems::new(format).collect();
    (!items.contains(&Item::Error)).then(|| time.format_with_items(items.into_iter()).to_string())
}

/// `format % values`: with a tuple or list the fields in order, with a map by name, else one field.
///
/// # Errors
/// When the fields and the values do not go together.
pub(crate) fn percent(format: &str, values: &Value) -> Result<String, Error> {
    let wrong = |what: &str| Error::new(ErrorKind::InvalidOperation, format!("{format:?} % …: {what}"));
    // Jinja's tuples are lists here: a list for a single field is one value, as in Python.
    let fields = format.replace("%%", "").matches('%').count();
    let mut in_order = match values.kind() {
        ValueKind::Seq if fields != 1 || values.len() == Some(1) => values.try_iter()?.collect::<Vec<_>>(),
        _ => vec![values.clone()],
    }
    .into_iter();
    let mut out = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out += &rest[..at];
        rest = &rest[at + 1..];
        let mut name = None;
        if let Some(after) = rest.strip_prefix('(') {
            let (inside, after) = after.split_once(')').ok_or_else(|| wrong("a bracket is not closed; expected )"))?;
            name = Some(inside);
            rest = after;
        }
        let end = rest
            .find(|c: char| !"-+ 0#.".contains(c) && !c.is_ascii_digit())
            .ok_or_else(|| wrong("a field is incomplete"))?;
        let (spec, after) = rest.split_at(end);
        let kind = after.chars().next().unwrap_or_default();
        rest = &after[kind.len_utf8()..];
        if kind == '%' {
            out.push('%');
            continue;
        }
        let value = match name {
            Some(name) => values.get_attr(name).ok().filter(|value| !value.is_undefined()),
            None => in_order.next(),
        };
        let value = value.ok_or_else(|| wrong("fewer values than fields"))?;
        out += &field(spec, kind, &value)
            .ok_or_else(|| wrong(&format!("%{spec}{kind} cannot format {}", repr(&value))))?;
    }
    // A map need not be used up, and neither need one value be named twice.
    if in_order.next().is_some() && values.kind() != ValueKind::Map {
        return Err(wrong("more values than fields"));
    }
    Ok(out + rest)
}

/// Widest field of [`percent`].
pub(crate) const WIDEST: usize = 10_000;

/// `value` in a field of the form `%{spec}{kind}`.
fn field(spec: &str, kind: char, value: &Value) -> Option<String> {
    let flags = &spec[..spec.find(|c: char| !"-+ 0#".contains(c)).unwrap_or(spec.len())];
    let (width, precision) = match spec[flags.len()..].split_once('.') {
        Some((width, precision)) => (width, Some(precision.parse::<usize>().unwrap_or(0)).filter(|n| *n <= WIDEST)),
        None => (&spec[flags.len()..], None),
    };
    let width = width.parse::<usize>().unwrap_or(0);
    if width > WIDEST {
        return None;
    }
    let real = || f64::try_from(value.clone()).ok();
    let whole = || value.as_i64().or_else(|| real().map(|x| x.trunc() as i64));
    let body = match kind {
        's' => text(value),
        'r' => repr(value),
        'd' | 'i' | 'u' => whole()?.to_string(),
        'x' => format!("{:x}", value.as_i64()?),
        'X' => format!("{:X}", value.as_i64()?),
        'o' => format!("{:o}", value.as_i64()?),
        'f' | 'F' => format!("{:.*}", precision.unwrap_or(6), real()?),
        'e' => {
            let scientific = format!("{:.*e}", precision.unwrap_or(6), real()?);
            let (digits, exponent) = scientific.split_once('e')?;
            let exponent: i32 = exponent.parse().ok()?;
            format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
        _ => return None,
    };
    let body = match (kind, precision) {
        ('s' | 'r', Some(most)) => body.chars().take(most).collect(),
        _ => body,
    };
    let is_number = !matches!(kind, 's' | 'r');
    let sign = if flags.contains('+') {
        "+"
    } else if flags.contains(' ') {
        " "
    } else {
        ""
    };
    let body = if is_number && !body.starts_with('-') { format!("{sign}{body}") } else { body };
    let lacking = width.saturating_sub(body.chars().count());
    Some(match flags {
        flags if flags.contains('-') => body + &" ".repeat(lacking),
        flags if flags.contains('0') && is_number => {
            let digits = body.find(|c: char| c.is_ascii_alphanumeric()).unwrap_or(0);
            format!("{}{}{}", &body[..digits], "0".repeat(lacking), &body[digits..])
        }
        _ => " ".repeat(lacking) + &body,
    })
}
