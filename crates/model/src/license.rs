//! The license that a model states: in the card beside its weights, or in the metadata of a GGUF file.

use anyhow::Result;
use gptkit_data::disk;
use gptkit_gguf::{GgufFile, is_gguf};
use std::path::Path;

/// Keys of a card's front matter on the hub, and of the metadata of GGUF files.
const KEYS: [(&str, &str); 3] = [
    ("license", "general.license"),
    ("license_name", "general.license.name"),
    ("license_link", "general.license.link"),
];

/// The metadata of the license of the model in `folder`, a model folder or a GGUF file: keys of GGUF with their values. Empty
/// where the model states none.
///
/// # Errors
/// When the card or the file cannot be read.
pub(crate) fn license(folder: &Path) -> Result<Vec<(&'static str, String)>> {
    if is_gguf(folder) {
        let metadata = GgufFile::open(folder)?.metadata;
        return Ok(KEYS.iter().filter_map(|(_, key)| Some((*key, metadata.text(key)?.to_owned()))).collect());
    }
    let card = folder.join("README.md");
    if !card.is_file() {
        return Ok(Vec::new());
    }
    let card = disk::read(&card)?;
    let card = String::from_utf8_lossy(&card);
    let found = KEYS.iter().filter_map(|(of_card, key)| Some((*key, front_matter_text(&card, of_card)?.to_owned())));
    Ok(found.collect())
}

/// The text of `key` in the front matter of `card`, YAML between two lines of three hyphens. Only a text on the line of its
/// key is found: in YAML, a line that begins with a key and a colon is that key at the top level.
fn front_matter_text<'a>(card: &'a str, key: &str) -> Option<&'a str> {
    let mut lines = card.trim_start_matches('\u{feff}').lines().map(str::trim_end);
    lines.next().filter(|line| *line == "---")?;
    let value = lines.take_while(|line| *line != "---").find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let value = value.split(" #").next().unwrap_or_default().trim();
    let plain = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    plain.or(Some(value)).filter(|text| !text.is_empty() && !text.starts_with(['[', '{', '|', '>', '&', '*']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_license_of_a_card_is_that_of_its_front_matter() {
        let folder = tempfile::tempdir().unwrap();
        let of = |card: &str| {
            disk::write(&folder.path().join("README.md"), card.as_bytes()).unwrap();
            license(folder.path()).unwrap()
        };
        let is = |text: &str| vec![("general.license", text.to_owned())];
        assert_eq!(license(folder.path()).unwrap(), []);
        assert_eq!(of("---\nlanguage: en\nlicense: mit\n---\n# Model\n"), is("mit"));
        assert_eq!(of("---\r\nlicense: \"apache-2.0\" # of the weights\r\n---\r\n"), is("apache-2.0"));
        let other = "---\nlicense: other\nlicense_name: own\nlicense_link: https://example.com/a#b\n---\n";
        let all = [
            ("general.license", "other"),
            ("general.license.name", "own"),
            ("general.license.link", "https://example.com/a#b"),
        ];
        assert_eq!(of(other), all.map(|(key, text)| (key, text.to_owned())));
        for none in [
            "# Model\nlicense: mit\n",
            "---\ntags: x\n---\nlicense: mit\n",
            "---\nx:\n  license: mit\n---\n",
            "---\nlicense:\n- mit\n---\n",
        ] {
            assert_eq!(of(none), [], "{none}");
        }
    }
}
