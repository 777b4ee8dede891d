//! JSON for people: what fits on a line is printed on one line.

use serde_json::Value;

const WIDTH: usize = 88;

/// `value` over as few lines as are easy to read.
pub(crate) fn pretty(value: &Value) -> String {
    let mut text = String::new();
    write(value, 0, &mut text);
    text
}

fn write(value: &Value, depth: usize, text: &mut String) {
    let line = value.to_string();
    let inner: Vec<(String, &Value)> = match value {
        Value::Object(map) => {
            map.iter().map(|(key, value)| (format!("{}: ", Value::from(key.as_str())), value)).collect()
        }
        Value::Array(all) => all.iter().map(|value| (String::new(), value)).collect(),
        _ => Vec::new(),
    };
    if inner.is_empty() || line.len() + 2 * depth <= WIDTH {
        *text += &line;
        return;
    }
    let (open, close) = if value.is_object() { ('{', '}') } else { ('[', ']') };
    text.push(open);
    let mut room = 0;
    for (i, (key, value)) in inner.iter().enumerate() {
        let size = value.to_string().len();
        // Numbers, and points of a curve, fill lines.
        let small = key.is_empty() && size <= 24;
        if small && i > 0 && size + 2 <= room {
            *text += ", ";
            room -= size + 2;
        } else {
            *text += if i > 0 { ",\n" } else { "\n" };
            *text += &"  ".repeat(depth + 1);
            room = if small { (WIDTH - 2 * depth.min(20)).saturating_sub(size) } else { 0 };
        }
        *text += key;
        write(value, depth + 1, text);
    }
    text.push('\n');
    *text += &"  ".repeat(depth);
    text.push(close);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_are_few_and_short_and_say_the_same() {
        let points: Vec<(f64, f64)> = (0..200).map(|i| (f64::from(i) * 1000.0, 1.5)).collect();
        let value = json!({ "name": "a \"b\"", "empty": [], "points": points, "deep": { "x": [1, 2], "words": vec!["some words that are long"; 9] } });
        let text = pretty(&value);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        assert!(text.lines().all(|line| line.len() <= WIDTH + 4), "{text}");
        assert!(text.lines().count() < 70, "{}", text.lines().count());
        assert_eq!(pretty(&json!({ "a": [1, 2] })), r#"{"a":[1,2]}"#);
    }
}
