//! The names of a type's fields, for suggestions: asked of its `Deserialize`, so no second list can go stale.

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// The keys that the section at `path` (for instance `["model"]`) of a `T` may have; empty when it is not a section.
pub(crate) fn at<T: DeserializeOwned>(path: &[&str]) -> Vec<&'static str> {
    let mut found = Vec::new();
    // Always an error: the probe stops the visit once the names are known.
    let _ = T::deserialize(Probe { path, found: &mut found });
    found
}

/// Walks down `path` through structs, options and lists, and notes the fields of the struct at its end.
struct Probe<'a> {
    path: &'a [&'a str],
    found: &'a mut Vec<&'static str>,
}

/// The end of a walk.
type WalkEnd = de::value::Error;

fn end<T>() -> Result<T, WalkEnd> {
    Err(de::Error::custom("end of the walk"))
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = WalkEnd;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, WalkEnd> {
        if self.path.is_empty() {
            self.found.extend_from_slice(fields);
            return end();
        }
        visitor.visit_map(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WalkEnd> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WalkEnd> {
        visitor.visit_seq(self)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, WalkEnd> {
        end()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct tuple tuple_struct map enum identifier ignored_any
    }
}

impl<'de> MapAccess<'de> for Probe<'_> {
    type Error = WalkEnd;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, WalkEnd> {
        let Some((key, rest)) = self.path.split_first() else { return end() };
        self.path = rest;
        seed.deserialize(StrDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, WalkEnd> {
        seed.deserialize(Probe { path: self.path, found: self.found })
    }
}

impl<'de> SeqAccess<'de> for Probe<'_> {
    type Error = WalkEnd;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, WalkEnd> {
        // A list's index is a step of the path that names no field.
        let Some((_index, rest)) = self.path.split_first() else { return end() };
        seed.deserialize(Probe { path: rest, found: self.found }).map(Some)
    }
}
