//! The keys of a configuration with their documentation, from the types that read them.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

/// A key of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigKey {
    /// Dotted path, for instance `train.lr`; elements of lists have the step `N`.
    pub path: String,
    /// Type of the value, for instance `number`, or the accepted values; empty for a section.
    pub kind: String,
    /// The value when the key is left out, as TOML; `None` when nothing is set then.
    pub default: Option<String>,
    /// Whether the key must be there.
    pub required: bool,
    /// Meaning of the key, in one line.
    pub meaning: String,
}

impl ConfigKey {
    /// Whether it is a section with keys.
    pub fn is_section(&self) -> bool {
        self.kind.is_empty()
    }
}

/// The JSON schema of a `T`, for editors.
pub fn schema<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// The keys of the configuration with this `schema`, section by section.
pub fn keys(schema: &Value) -> Vec<ConfigKey> {
    let mut found = Vec::new();
    walk(schema, "", &mut found);
    found
}

fn walk(object: &Value, above: &str, found: &mut Vec<ConfigKey>) {
    let empty = Map::new();
    let properties = object["properties"].as_object().unwrap_or(&empty);
    let required = |key: &str| object["required"].as_array().is_some_and(|all| all.iter().any(|one| one == key));
    // Keys of this section come before the sections below it.
    let (sections, plain): (Vec<_>, Vec<_>) = properties.iter().partition(|(_, value)| below(value).is_some());
    for (key, value) in plain.into_iter().chain(sections) {
        let path = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
        let section = below(value);
        found.push(ConfigKey {
            kind: if section.is_some() { String::new() } else { kind(value) },
            default: value.get("default").filter(|_| section.is_none()).and_then(toml_of),
            required: required(key),
            meaning: meaning(value),
            path: path.clone(),
        });
        if let Some((object, is_list)) = section {
            walk(object, &if is_list { format!("{path}.N") } else { path }, found);
        }
    }
}

/// The object below a section's schema, and whether it is an element of a list.
fn below(schema: &Value) -> Option<(&Value, bool)> {
    let schema = without_null(schema);
    match schema.get("items") {
        Some(items) => items.get("properties").map(|_| (items, true)),
        None => schema.get("properties").map(|_| (schema, false)),
    }
}

/// What an optional value is when it is there.
fn without_null(schema: &Value) -> &Value {
    let ways = schema["anyOf"].as_array();
    ways.and_then(|ways| ways.iter().find(|way| way["type"] != "null")).unwrap_or(schema)
}

fn kind(schema: &Value) -> String {
    let schema = without_null(schema);
    if let Some(values) = choices(schema) {
        return values.join(", ");
    }
    let name = |value: &Value| value.as_str().filter(|name| *name != "null").map(str::to_owned);
    let types = match &schema["type"] {
        Value::Array(all) => all.iter().find_map(name),
        one => name(one),
    };
    match types.as_deref() {
        Some("integer") => "whole number".to_owned(),
        Some("boolean") => "true or false".to_owned(),
        Some("string") if schema.get("pattern").is_some() => "length, for instance \"2000 steps\"".to_owned(),
        Some("string") => "text".to_owned(),
        Some("array") => match kind(&schema["items"]).as_str() {
            "text" => "list of texts".to_owned(),
            items => format!("list of {items}"),
        },
        Some(other) => other.to_owned(),
        None => "value".to_owned(),
    }
}

/// The names of an enumeration.
fn choices(schema: &Value) -> Option<Vec<String>> {
    if let Some(values) = schema["enum"].as_array() {
        return Some(values.iter().filter_map(Value::as_str).map(str::to_owned).collect());
    }
    let ways = schema["oneOf"].as_array()?;
    let value = |way: &Value| {
        let own = way["const"].as_str().map(|name| vec![name.to_owned()]);
        own.or_else(|| choices(way))
    };
    Some(ways.iter().filter_map(value).flatten().collect())
}

/// The documentation, without the marks of rustdoc, on one line.
fn meaning(schema: &Value) -> String {
    let text =
        schema["description"].as_str().or_else(|| without_null(schema)["description"].as_str()).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A value as TOML; nothing for one that TOML does not have.
fn toml_of(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Number(number) => Some(number.to_string()),
        Value::Array(list) => Some(format!("[{}]", list.iter().filter_map(toml_of).collect::<Vec<_>>().join(", "))),
        Value::Object(_) => None,
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Deserialize, Serialize};

    /// A toy.
    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Toy {
        /// How much,
        /// in grams.
        weight: f64,
        /// Its parts.
        #[serde(default)]
        part: Option<Part>,
        /// More of them.
        #[serde(default)]
        parts: Vec<Part>,
        /// Its color.
        #[serde(default = "red")]
        color: Color,
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Part {
        /// Number of pieces.
        #[serde(default)]
        n: Option<usize>,
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(rename_all = "lowercase")]
    enum Color {
        /// Like fire.
        Red,
        Blue,
    }

    fn red() -> Color {
        Color::Red
    }

    #[test]
    fn keys_have_their_kind_default_and_meaning() {
        let lines: Vec<String> = keys(&schema::<Toy>())
            .into_iter()
            .map(|ConfigKey { path, kind, default, required, meaning }| {
                format!("{path}|{kind}|{}|{required}|{meaning}", default.unwrap_or_default())
            })
            .collect();
        assert_eq!(
            lines,
            [
                "weight|number||true|How much, in grams.",
                "color|blue, red|\"red\"|false|Its color.",
                "part|||false|Its parts.",
                "part.n|whole number||false|Number of pieces.",
                "parts|||false|More of them.",
                "parts.N.n|whole number||false|Number of pieces.",
            ]
        );
    }
}
