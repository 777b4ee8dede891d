//! The README and the pages of `docs/`, the blocks of code in them, and the parts of them that are generated.

use std::path::{Path, PathBuf};

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The pages of `docs/` and the README: their names from the root, and their texts.
pub(crate) fn pages() -> Vec<(String, String)> {
    let root = root();
    let mut files: Vec<String> = root
        .join("docs")
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".md"))
        .map(|name| format!("docs/{name}"))
        .collect();
    files.sort();
    files.push("README.md".to_owned());
    files.into_iter().map(|file| (file.clone(), std::fs::read_to_string(root.join(&file)).unwrap())).collect()
}

/// A block of code between two lines of three backticks.
pub(crate) struct CodeBlock {
    /// Line of the page that opens it, from 1.
    pub(crate) line: usize,
    /// What the opening line names: `console`, `toml`; empty where it names nothing.
    pub(crate) language: String,
    /// The lines between.
    pub(crate) text: String,
    /// The HTML comment on the line before it.
    pub(crate) comment: Option<String>,
}

/// The blocks of code of a page.
///
/// # Panics
/// When a block is not closed.
pub(crate) fn code_blocks(page: &str) -> Vec<CodeBlock> {
    let mut blocks = Vec::new();
    let (mut before, mut lines) = ("", page.lines().enumerate());
    while let Some((i, line)) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let mut inside = Vec::new();
            loop {
                let (_, line) = lines.next().unwrap_or_else(|| panic!("the block of line {} is not closed", i + 1));
                if line == "```" {
                    break;
                }
                inside.push(line);
            }
            let comment = before.strip_prefix("<!--").and_then(|rest| rest.strip_suffix("-->"));
            let comment = comment.map(|comment| comment.trim().to_owned());
            blocks.push(CodeBlock { line: i + 1, language: language.to_owned(), text: inside.join("\n"), comment });
        }
        before = line;
    }
    blocks
}

impl CodeBlock {
    /// Whether it shows commands.
    pub(crate) fn is_shell(&self) -> bool {
        matches!(self.language.as_str(), "console" | "sh")
    }

    /// The commands, without their output: each line of `sh`, and each line of `console` after `$ `, with the lines that
    /// continue it.
    pub(crate) fn commands(&self) -> Vec<String> {
        let joined = self.text.replace("\\\n", " ");
        let lines = joined.lines();
        match self.language.as_str() {
            "sh" => lines.map(str::to_owned).collect(),
            _ => lines.filter_map(|line| line.strip_prefix("$ ")).map(str::to_owned).collect(),
        }
    }
}

/// Compares the part of `file` between the comments `<!-- generated: NAME -->` and `<!-- end: NAME -->` with `expected`;
/// with `INSTA_UPDATE=always`, replaces it.
///
/// # Panics
/// When they differ.
#[track_caller]
pub(crate) fn assert_generated(file: &str, name: &str, expected: &str) {
    let path = root().join(file);
    let page = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = (format!("<!-- generated: {name} -->\n"), format!("<!-- end: {name} -->"));
    let missing = || panic!("{file} has no part between {begin}and {end}");
    let (before, rest) = page.split_once(&begin).unwrap_or_else(missing);
    let (found, after) = rest.split_once(&end).unwrap_or_else(missing);
    // Blank lines keep the comments apart from the Markdown around them.
    let expected = format!("\n{}\n\n", expected.trim());
    if std::env::var("INSTA_UPDATE").is_ok_and(|how| how == "always") {
        gptkit_data::disk::write(&path, [before, &begin, &expected, &end, after].concat().as_bytes()).unwrap();
        return;
    }
    let differs = found.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
    assert!(
        found == expected,
        "the part \"{name}\" of {file} is out of date: `INSTA_UPDATE=always cargo test --workspace` updates it; \
         first difference, as it is and as it should be:\n{}",
        differs.map_or("one is longer".to_owned(), |(found, expected)| format!("{found}\n{expected}"))
    );
}
