//! Lengths as people write them: `2000 steps`, `375M tokens`, `100 epochs`; PPO also has `256k episodes`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// A stretch of training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Span {
    /// Updates of the weights.
    Steps(u64),
    /// Tokens predicted.
    Tokens(u64),
    /// Prompts answered, the unit of PPO.
    Episodes(u64),
    /// Passes over the training part.
    Epochs(f64),
}

impl Span {
    /// No stretch at all.
    pub const NONE: Self = Self::Steps(0);

    /// Whether it has a length above zero.
    pub fn is_positive(self) -> bool {
        match self {
            Self::Steps(n) | Self::Tokens(n) | Self::Episodes(n) => n > 0,
            Self::Epochs(x) => x > 0.0,
        }
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("\"{text}\" is not a length; use for instance \"2000 steps\", \"300B tokens\" or \"3 epochs\"");
        let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_'));
        let digits = digits.ok_or_else(|| if text.is_empty() { wrong() } else { without_unit(text) })?;
        let (number, rest) = text.split_at(digits);
        let number: f64 = number.replace('_', "").parse().map_err(|_| wrong())?;
        let (factor, unit) = match rest.chars().next() {
            Some('k' | 'K') => (1e3, &rest[1..]),
            Some('M') => (1e6, &rest[1..]),
            Some('B') => (1e9, &rest[1..]),
            _ => (1.0, rest),
        };
        let value = number * factor;
        let count = || if value.fract() == 0.0 && value < 1e18 { Ok(value as u64) } else { Err(wrong()) };
        match unit.trim() {
            "step" | "steps" => Ok(Self::Steps(count()?)),
            "token" | "tokens" => Ok(Self::Tokens(count()?)),
            "episode" | "episodes" => Ok(Self::Episodes(count()?)),
            "epoch" | "epochs" => Ok(Self::Epochs(value)),
            _ => Err(wrong()),
        }
    }
}

fn without_unit(number: &str) -> String {
    format!("{number} has no unit; write \"{number} steps\" or \"{number} epochs\"")
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |n: u64| match n {
            n if n > 0 && n.is_multiple_of(1_000_000_000) => format!("{}B", n / 1_000_000_000),
            n if n > 0 && n.is_multiple_of(1_000_000) => format!("{}M", n / 1_000_000),
            n => n.to_string(),
        };
        match self {
            Self::Steps(n) => write!(f, "{n} steps"),
            Self::Tokens(n) => write!(f, "{} tokens", short(*n)),
            Self::Episodes(n) => write!(f, "{} episodes", short(*n)),
            Self::Epochs(x) => write!(f, "{x} epochs"),
        }
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9._]+[kKMB]? *(steps?|tokens?|episodes?|epochs?) *$" })
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SpanVisitor;
        impl de::Visitor<'_> for SpanVisitor {
            type Value = Span;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a length such as \"2000 steps\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Span, E> {
                Err(E::custom(without_unit(&n.to_string())))
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Span, E> {
                Err(E::custom(without_unit(&n.to_string())))
            }
            fn visit_f64<E: de::Error>(self, x: f64) -> Result<Span, E> {
                Err(E::custom(without_unit(&x.to_string())))
            }
        }
        deserializer.deserialize_any(SpanVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_as_people_write_them() {
        for (text, span) in [
            ("2000 steps", Span::Steps(2000)),
            ("2_000steps", Span::Steps(2000)),
            ("1 step", Span::Steps(1)),
            ("375M tokens", Span::Tokens(375_000_000)),
            ("0.5B tokens", Span::Tokens(500_000_000)),
            ("32k tokens", Span::Tokens(32_000)),
            ("256k episodes", Span::Episodes(256_000)),
            ("1.5 epochs", Span::Epochs(1.5)),
        ] {
            assert_eq!(text.parse(), Ok(span), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for span in [
            Span::NONE,
            Span::Steps(2000),
            Span::Tokens(260_000_000_000),
            Span::Tokens(65_536),
            Span::Episodes(256_000),
            Span::Epochs(0.5),
        ] {
            assert_eq!(span.to_string().parse(), Ok(span));
        }
    }

    #[test]
    fn other_words_are_refused_with_the_way_out() {
        for text in ["", "2000", "steps", "-3 steps", "1.5 steps", "3 weeks", "1e3 steps"] {
            let error = text.parse::<Span>().unwrap_err();
            assert!(error.contains("2000 steps"), "{text}: {error}");
        }
        for (number, unit) in [("100", "\"100 steps\""), ("1.5", "\"1.5 epochs\"")] {
            let error = serde_json::from_str::<Span>(number).unwrap_err().to_string();
            assert!(error.contains("has no unit") && error.contains(unit), "{error}");
        }
    }
}
