//! Metadata: names and values.

use anyhow::{Context, Result, bail, ensure};
use std::io::Write;

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufValue {
    /// An integer of any size; it is written with 32 bits and no sign.
    Integer(i64),
    /// A real number; it is written with 32 bits.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// A text.
    Text(String),
    /// A list of texts.
    Texts(Vec<String>),
    /// A list of integers of 32 bits.
    Integers(Vec<i32>),
    /// A list of another type, whose values are not kept.
    OtherList,
}

/// Numbers of the types of values.
pub(crate) const U32: u32 = 4;
pub(crate) const I32: u32 = 5;
pub(crate) const F32: u32 = 6;
pub(crate) const BOOL: u32 = 7;
pub(crate) const TEXT: u32 = 8;
pub(crate) const LIST: u32 = 9;

impl GgufValue {
    /// Writes type and value.
    pub(crate) fn write(&self, out: &mut impl Write) -> Result<()> {
        let number = |out: &mut dyn Write, kind: u32, bytes: &[u8]| -> Result<()> {
            out.write_all(&kind.to_le_bytes())?;
            Ok(out.write_all(bytes)?)
        };
        let list = |out: &mut dyn Write, kind: u32, length: usize| -> Result<()> {
            out.write_all(&LIST.to_le_bytes())?;
            out.write_all(&kind.to_le_bytes())?;
            Ok(out.write_all(&(length as u64).to_le_bytes())?)
        };
        match self {
            Self::Integer(value) => {
                let value = u32::try_from(*value).with_context(|| format!("{value} does not fit into 32 bits"))?;
                number(out, U32, &value.to_le_bytes())
            }
            Self::Float(value) => number(out, F32, &(*value as f32).to_le_bytes()),
            Self::Bool(value) => number(out, BOOL, &[u8::from(*value)]),
            Self::Text(text) => {
                out.write_all(&TEXT.to_le_bytes())?;
                write_text(out, text)
            }
            Self::Texts(texts) => {
                list(out, TEXT, texts.len())?;
                texts.iter().try_for_each(|text| write_text(out, text))
            }
            Self::Integers(values) => {
                list(out, I32, values.len())?;
                values.iter().try_for_each(|value| Ok(out.write_all(&value.to_le_bytes())?))
            }
            Self::OtherList => bail!("a list whose values were not kept cannot be written"),
        }
    }
}

/// Writes a text with its length before it.
pub(crate) fn write_text(out: &mut (impl Write + ?Sized), text: &str) -> Result<()> {
    out.write_all(&(text.len() as u64).to_le_bytes())?;
    Ok(out.write_all(text.as_bytes())?)
}

/// Names and values, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata(Vec<(String, GgufValue)>);

impl Metadata {
    /// Adds a value.
    pub fn add(&mut self, key: &str, value: GgufValue) {
        self.0.push((key.to_owned(), value));
    }

    /// Names and values.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &GgufValue)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value called `key`.
    pub fn get(&self, key: &str) -> Option<&GgufValue> {
        self.0.iter().find(|(own, _)| own == key).map(|(_, value)| value)
    }

    /// The text called `key`, if there is one.
    pub fn text(&self, key: &str) -> Option<&str> {
        if let Some(GgufValue::Text(text)) = self.get(key) { Some(text) } else { None }
    }

    /// The flag called `key`, if there is one.
    pub fn flag(&self, key: &str) -> Option<bool> {
        if let Some(GgufValue::Bool(flag)) = self.get(key) { Some(*flag) } else { None }
    }

    /// The texts under `key`; an empty list if the metadata has no such key.
    pub fn texts(&self, key: &str) -> &[String] {
        if let Some(GgufValue::Texts(texts)) = self.get(key) { texts } else { &[] }
    }

    /// The list of integers called `key`; empty when there is none.
    pub fn integers(&self, key: &str) -> &[i32] {
        if let Some(GgufValue::Integers(integers)) = self.get(key) { integers } else { &[] }
    }

    /// The number called `key`, if there is one.
    pub fn float(&self, key: &str) -> Option<f64> {
        if let Some(GgufValue::Float(value)) = self.get(key) { Some(*value) } else { None }
    }

    /// The size called `key`, if there is one.
    ///
    /// # Errors
    /// When it is no integer, or out of bounds.
    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let GgufValue::Integer(size) = value else { bail!("{key} is not an integer") };
        ensure!((0..=i64::from(u32::MAX)).contains(size), "{key} is {size}, which is out of range");
        Ok(Some(*size as usize))
    }
}
