//! The pages of `docs/` say nothing of the command line that is not so, and lead nowhere that is not there.

use super::commands::{self, Command};
use super::pages::{pages, root};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[test]
fn every_command_in_a_page_is_one() {
    let commands = commands::all();
    let mut n = 0;
    for (file, text) in pages() {
        for line in code(&text) {
            for command in line.split('|').filter_map(called) {
                check(&command, &commands).unwrap_or_else(|e| panic!("{file}: {line}\n{e}"));
                n += 1;
            }
        }
    }
    assert!(n > 100, "{n} commands were found");
}

/// The lines of the blocks of code, those that go on with `\` joined, and what is set as code within lines.
fn code(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    let mut lines = Vec::new();
    let mut prose = String::new();
    for (i, part) in joined.split("\n```").enumerate() {
        match part.split_once('\n') {
            Some((_, block)) if i % 2 == 1 => lines.extend(block.lines().map(str::to_owned)),
            _ => prose += part,
        }
    }
    let spans = prose.split('`').skip(1).step_by(2);
    // A span may be broken over two lines, and a pipe in a table stands behind a backslash.
    lines.extend(
        spans.filter(|span| span.starts_with("gptkit ")).map(|span| span.replace('\n', " ").replace("\\|", "/")),
    );
    lines
}

/// What is given to gptkit, if that is what is called; redirections are the shell's.
fn called(command: &str) -> Option<Vec<String>> {
    let words = shlex::split(command.trim().trim_start_matches("$ "))?;
    let (first, rest) = words.split_first()?;
    let given = || rest.iter().take_while(|word| !word.starts_with(['>', '<'])).cloned().collect();
    (first == "gptkit").then(given)
}

fn check(words: &[String], commands: &[Command]) -> Result<(), String> {
    let find = |name: &str| commands.iter().find(|command| command.name == name);
    let mut name = String::new();
    let mut rest = words;
    while let Some((word, more)) = rest.split_first() {
        let deeper = format!("{name} {word}").trim().to_owned();
        if find(&deeper).is_none() {
            break;
        }
        (name, rest) = (deeper, more);
    }
    let command = find(&name).ok_or("gptkit itself is gone")?;
    if !command.below.is_empty() && rest.first().is_some_and(|word| !word.starts_with('-') && word != "help") {
        return Err(format!("gptkit {name} has no subcommand {}", rest[0]));
    }
    let flags = rest.iter().filter(|word| word.starts_with("--")).filter_map(|word| word.split('=').next());
    for flag in flags.filter(|flag| !["--help", "--version"].contains(flag)) {
        if !command.options.contains(flag) {
            return Err(format!("gptkit {name} has no {flag}"));
        }
    }
    Ok(())
}

#[test]
fn every_link_leads_to_a_file_and_a_title_in_it() {
    let (mut wrong, mut n) = (Vec::new(), 0);
    for (file, text) in pages() {
        for target in link_targets(&text) {
            n += 1;
            if target.contains("://") {
                continue;
            }
            let (path, title) = target.split_once('#').unwrap_or((&target, ""));
            let page = root().join(&file);
            let path = if path.is_empty() { page } else { page.with_file_name(path) };
            if file.starts_with("docs/") && target.starts_with("..") {
                wrong.push(format!("{file} links to {target}, and the book contains docs/ alone"));
            } else if !path.exists() {
                wrong.push(format!("{file} links to {target}, which does not exist"));
            } else if !title.is_empty() && !anchors(&std::fs::read_to_string(&path).unwrap()).contains(title) {
                wrong.push(format!("{file} links to {target}, and no heading there has this anchor"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(n > 100, "{n} links were found");
}

/// Where the links and images of a page lead, those in code left out.
fn link_targets(page: &str) -> Vec<String> {
    let text = without_blocks(page);
    let text: String = text.split('`').step_by(2).collect();
    let forms = [r"\]\(\s*([^)\s]+)", r"(?m)^\[[^\]]+\]:\s*(\S+)", r#"(?:href|src)="([^"]+)""#];
    let forms = forms.map(|form| regex::Regex::new(form).unwrap());
    forms.iter().flat_map(|form| form.captures_iter(&text)).map(|found| found[1].to_owned()).collect()
}

/// What the headings of a page are called in links, on GitHub and in the book.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let text = without_blocks(page);
    let is_kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
    for line in text.lines().filter(|line| line.starts_with('#')) {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let anchor = title.chars().filter(is_kept).collect::<String>().replace(' ', "-");
        let numbered = (1..).map(|n| format!("{anchor}-{n}"));
        let free = std::iter::once(anchor.clone()).chain(numbered).find(|anchor| !anchors.contains(anchor));
        anchors.extend(free);
    }
    anchors
}

/// The lines of a page outside blocks of code.
fn without_blocks(page: &str) -> String {
    let mut is_code = false;
    let is_kept = |line: &&str| {
        let is_fence = line.starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    };
    page.lines().filter(is_kept).flat_map(|line| [line, "\n"]).collect()
}

#[test]
fn links_are_found_in_all_their_forms_and_headings_are_numbered() {
    let page =
        "# A `b` c\n[x](y.md#z) ![p](q.png) `[no](no.md)` [r]\n\n[r]: s.md\n```sh\n# not a title\n```\n## A b c\n";
    let page = format!("{page}<img src=\"t.svg\">\n");
    assert_eq!(link_targets(&page), ["y.md#z", "q.png", "s.md", "t.svg"]);
    assert_eq!(anchors(&page).iter().map(String::as_str).collect::<Vec<_>>(), ["a-b-c", "a-b-c-1"]);
}

#[test]
fn the_table_of_contents_names_every_page() {
    let contents = std::fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    for (file, text) in pages() {
        if let Some(page) = file.strip_prefix("docs/").filter(|page| *page != "SUMMARY.md") {
            assert!(contents.contains(&format!("]({page})")), "docs/SUMMARY.md does not name {page}");
            let too_long = text.lines().find(|line| line.chars().count() > 120 && !line.starts_with('|'));
            assert_eq!(too_long, None, "{file}: a line is longer than 120 characters");
        }
    }
}

/// `tests/dialect.txt` has a regular expression a line for wording that a reader cannot search for.
fn dialect() -> Vec<regex::Regex> {
    let patterns = std::fs::read_to_string(root().join("tests/dialect.txt")).unwrap();
    let patterns: Vec<regex::Regex> = patterns.lines().map(|line| regex::Regex::new(line).unwrap()).collect();
    assert!(patterns.len() > 50);
    patterns
}

#[test]
fn pages_are_in_plain_english() {
    let patterns = dialect();
    let mut found = Vec::new();
    for (file, text) in pages() {
        for (number, line) in text.lines().enumerate() {
            let matched = patterns.iter().find_map(|pattern| pattern.find(line));
            found.extend(matched.map(|part| format!("{file}:{}: {:?} in: {line}", number + 1, part.as_str())));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn messages_are_in_plain_english() {
    let patterns = dialect();
    let (mut found, mut n) = (Vec::new(), 0);
    for (file, text) in sources() {
        for (number, literal) in literals(&text) {
            for line in literal.lines() {
                let matched = patterns.iter().find_map(|pattern| pattern.find(line));
                found.extend(matched.map(|part| format!("{file}:{number}: {:?} in: {line}", part.as_str())));
            }
            n += 1;
        }
    }
    assert!(n > 1000, "{n} string literals were found");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Sources of the crates without their tests, by their names from the root. The texts of the built-in world are data.
fn sources() -> Vec<(String, String)> {
    let test_module = regex::Regex::new(r"#\[cfg\(test\)\]\s*(?:pub(?:\(crate\))? )?mod (\w+)( \{|;)").unwrap();
    let mut sources = Vec::new();
    for folder in root().join("crates").read_dir().unwrap() {
        let folder = folder.unwrap().path();
        if folder.ends_with("world") || !folder.join("src").is_dir() {
            continue;
        }
        let mut files = Vec::new();
        add_sources(&folder.join("src"), &mut files);
        files.sort();
        let texts: Vec<String> = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
        let modules = texts.iter().flat_map(|text| test_module.captures_iter(text));
        let tests: Vec<&str> =
            modules.filter(|module| &module[2] == ";").map(|module| module.get(1).unwrap().as_str()).collect();
        for (file, text) in files.iter().zip(&texts) {
            let name = file.strip_prefix(root()).unwrap();
            if name.with_extension("").iter().skip(3).any(|part| tests.iter().any(|test| part == *test)) {
                continue;
            }
            let begin = test_module.captures_iter(text).find(|module| &module[2] == " {");
            let end = begin.map_or(text.len(), |module| module.get(0).unwrap().start());
            sources.push((name.display().to_string(), text[..end].to_owned()));
        }
    }
    sources.sort();
    sources
}

fn add_sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            add_sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The string literals of `source` of 15 characters or more, each with the number of its first line; lines that `\` joins
/// are joined, and `\n` is a line break.
fn literals(source: &str) -> Vec<(usize, String)> {
    let tokens =
        [r"//[^\n]*", r"/\*.*?\*/", r"'(?:\\.[^']*|[^\\'])'", r##"r"[^"]*"|r#".*?"#"##, r#""(?:\\.|[^"\\])*""#];
    let token = regex::Regex::new(&format!("(?s){}", tokens.join("|"))).unwrap();
    let joined = regex::Regex::new(r"\\\n\s*").unwrap();
    let mut literals = Vec::new();
    for token in token.find_iter(source) {
        let text = token.as_str().trim_start_matches('r').trim_matches('#');
        let Some(text) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else { continue };
        let text = joined.replace_all(text, "").replace("\\n", "\n").replace("\\\"", "\"");
        if text.chars().count() >= 15 {
            literals.push((1 + source[..token.start()].matches('\n').count(), text));
        }
    }
    literals
}

#[test]
fn literals_are_found_with_their_lines() {
    let source = "// \"a comment, not a literal\"\nlet c = '\"';\nsay(\"one that \\\n     is joined\\n\", r#\"and a \"raw\" one\"#);";
    assert_eq!(literals(source), [(3, "one that is joined\n".to_owned()), (4, "and a \"raw\" one".to_owned())]);
}
