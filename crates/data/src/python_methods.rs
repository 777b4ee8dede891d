//! Methods of Python's strings, lists and dictionaries that minijinja-contrib lacks, for templates written for Jinja2.

use crate::python::WIDEST;
use minijinja::value::{ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// Names of the methods here.
pub(crate) const METHODS: [&str; 19] = [
    "casefold",
    "center",
    "copy",
    "expandtabs",
    "index",
    "isdecimal",
    "isidentifier",
    "isprintable",
    "istitle",
    "ljust",
    "partition",
    "removeprefix",
    "removesuffix",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "swapcase",
    "zfill",
];

/// The method `name` of `value`: one of those here, else one of minijinja-contrib.
///
/// # Errors
/// When the method is unknown, or its arguments differ from Python's.
pub(crate) fn call(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if METHODS.contains(&name) {
        match (value.as_str(), value.kind(), name) {
            (Some(text), ..) => return of_text(text, name, args),
            (None, ValueKind::Seq, "index") => return place_in_list(value, args),
            (None, ValueKind::Seq | ValueKind::Map, "copy") => return from_args(args).map(|()| value.clone()),
            _ => {}
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

fn of_text(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let none = || from_args::<()>(args);
    Ok(match name {
        "casefold" => none().map(|()| text.to_lowercase().into())?,
        "swapcase" => none().map(|()| text.chars().flat_map(swapped).collect::<String>().into())?,
        "isdecimal" => none().map(|()| all(text, |c| c.is_ascii_digit()).into())?,
        "isprintable" => none().map(|()| text.chars().all(|c| !c.is_control()).into())?,
        "isidentifier" => none().map(|()| is_identifier(text).into())?,
        "istitle" => none().map(|()| is_title(text).into())?,
        "removeprefix" => from_args(args).map(|(part,): (&str,)| text.strip_prefix(part).unwrap_or(text).into())?,
        "removesuffix" => from_args(args).map(|(part,): (&str,)| text.strip_suffix(part).unwrap_or(text).into())?,
        "partition" => {
            let (between,): (&str,) = from_args(args)?;
            let (before, after) =
                must_have(between)?.and_then(|b| text.split_once(b)).map_or((text, None), |(a, b)| (a, Some(b)));
            texts([before, after.map_or("", |_| between), after.unwrap_or("")])
        }
        "rpartition" => {
            let (between,): (&str,) = from_args(args)?;
            let (before, after) =
                must_have(between)?.and_then(|b| text.rsplit_once(b)).map_or((None, text), |(a, b)| (Some(a), b));
            texts([before.unwrap_or(""), before.map_or("", |_| between), after])
        }
        "rsplit" => rsplit(text, args)?,
        "index" | "rindex" => {
            let (part,): (&str,) = from_args(args)?;
            let at = if name == "index" { text.find(part) } else { text.rfind(part) };
            let at = at.ok_or_else(|| invalid("substring not found"))?;
            text[..at].chars().count().into()
        }
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            let sign = text.len() - text.trim_start_matches(['+', '-']).len();
            let (sign, digits) = text.split_at(sign.min(1));
            format!("{sign}{}{digits}", "0".repeat(lacking(text, width)?)).into()
        }
        "ljust" | "rjust" | "center" => {
            let (width, filler): (usize, Option<&str>) = from_args(args)?;
            let filler = filler.unwrap_or(" ");
            if filler.chars().count() != 1 {
                return Err(invalid("the fill character must be exactly one character long"));
            }
            let lacking = lacking(text, width)?;
            // As CPython has it: the odd one goes to the left where the width is odd.
            let left = match name {
                "ljust" => 0,
                "rjust" => lacking,
                _ => lacking / 2 + (lacking & width & 1),
            };
            format!("{}{text}{}", filler.repeat(left), filler.repeat(lacking - left)).into()
        }
        "expandtabs" => {
            let (width,): (Option<usize>,) = from_args(args)?;
            expanded(text, width.unwrap_or(8))?.into()
        }
        _ => return Err(ErrorKind::UnknownMethod.into()),
    })
}

/// A list of texts.
fn texts<'a>(parts: impl IntoIterator<Item = &'a str>) -> Value {
    parts.into_iter().map(Value::from).collect()
}

fn invalid(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}

fn must_have(between: &str) -> Result<Option<&str>, Error> {
    if between.is_empty() { Err(invalid("empty separator")) } else { Ok(Some(between)) }
}

/// Characters that a text of `text` lacks to be `width` wide.
fn lacking(text: &str, width: usize) -> Result<usize, Error> {
    if width > WIDEST { Err(invalid("the width is too large")) } else { Ok(width.saturating_sub(text.chars().count())) }
}

fn all(text: &str, test: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(test)
}

fn swapped(c: char) -> Vec<char> {
    if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
}

fn is_identifier(text: &str) -> bool {
    let first = text.chars().next();
    first.is_some_and(|c| c == '_' || c.is_alphabetic()) && text.chars().all(|c| c == '_' || c.is_alphanumeric())
}

/// Whether each run of letters begins with a capital, and has no other.
fn is_title(text: &str) -> bool {
    let (mut in_word, mut any) = (false, false);
    for c in text.chars() {
        if c.is_uppercase() && in_word || c.is_lowercase() && !in_word {
            return false;
        }
        in_word = c.is_alphabetic();
        any |= in_word;
    }
    any
}

fn rsplit(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (between, most): (Option<Value>, Option<i64>) = from_args(args)?;
    let most = most.and_then(|n| usize::try_from(n).ok());
    let between = between.as_ref().and_then(Value::as_str);
    let mut parts: Vec<&str> = match (between, most) {
        (Some(between), Some(most)) => text.rsplitn(most + 1, must_have(between)?.unwrap_or(between)).collect(),
        (Some(between), None) => text.rsplit(must_have(between)?.unwrap_or(between)).collect(),
        (None, None) => text.split_whitespace().rev().collect(),
        (None, Some(most)) => {
            let (mut parts, mut rest) = (Vec::new(), text.trim_end());
            while let (true, Some(at)) = (parts.len() < most, rest.rfind(char::is_whitespace)) {
                let after = at + rest[at..].chars().next().map_or(0, char::len_utf8);
                parts.push(&rest[after..]);
                rest = rest[..at].trim_end();
            }
            if !rest.trim_start().is_empty() {
                parts.push(rest.trim_start());
            }
            parts
        }
    };
    parts.reverse();
    Ok(texts(parts))
}

fn expanded(text: &str, width: usize) -> Result<String, Error> {
    if width > WIDEST {
        return Err(invalid("the width is too large"));
    }
    let (mut out, mut column) = (String::new(), 0);
    for c in text.chars() {
        match c {
            '\t' => {
                let n = if width == 0 { 0 } else { width - column % width };
                out += &" ".repeat(n);
                column += n;
            }
            c => {
                out.push(c);
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    Ok(out)
}

fn place_in_list(list: &Value, args: &[Value]) -> Result<Value, Error> {
    let (wanted,): (&Value,) = from_args(args)?;
    let found = list.try_iter()?.position(|item| item == *wanted);
    found.map(Value::from).ok_or_else(|| invalid("the value is not in the list"))
}
