//! The layout of the workspace, read from its sources: docs/architecture.md describes what these tests hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Names of types that stand in several files, each with the reason.
const SHARED_TYPE_NAMES: &[(&str, &str)] = &[];

/// Texts that only some files may contain: text, the files or folders that may, and the reason.
const HOMES: &[(&str, &[&str], &str)] = &[
    ("<svg", &["crates/plot/"], "pictures have one look and one writer"),
    ("rand_chacha", &["crates/rng/"], "every draw is a function of a key"),
    ("tokio::", &["crates/serve/"], "only the server has an async runtime"),
    ("rusqlite", &["crates/feedback/"], "there is one store, with one schema"),
    (
        "gptkit_world",
        &["crates/data/src/synthetic.rs", "crates/cli/src/world.rs"],
        "stages know records, not the embedded world",
    ),
    (
        "env::var",
        &["crates/cli/src/env.rs", "crates/ops/src/cpu/", "crates/data/src/template", "crates/testing/"],
        "environment variables are listed in crates/cli/src/env.rs and docs/environment.md",
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A source file of a crate, without its tests.
struct Source {
    /// From the root of the workspace.
    path: String,
    /// Name of the crate's folder.
    krate: String,
    /// Names of the modules that lead to it; empty for `lib.rs` and `main.rs`.
    module: Vec<String>,
    /// Text with comments and unit tests removed.
    text: String,
    /// The same without the contents of strings.
    code: String,
}

/// All source files but those that only tests compile.
fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    let mut folders: Vec<PathBuf> = fs::read_dir(root().join("crates")).unwrap().map(|e| e.unwrap().path()).collect();
    folders.sort();
    for folder in folders.iter().filter(|folder| folder.join("src").is_dir()) {
        let krate = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let mut of_crate = Vec::new();
        read(&folder.join("src"), &krate, &mut Vec::new(), &mut of_crate);
        let test_modules: BTreeSet<Vec<String>> = of_crate.iter().flat_map(test_modules).collect();
        let is_test = |source: &Source| (1..=source.module.len()).any(|n| test_modules.contains(&source.module[..n]));
        of_crate.retain(|source| !is_test(source));
        for source in &mut of_crate {
            let end = source.text.find("\n#[cfg(test)]\nmod tests").unwrap_or(source.text.len());
            (source.text, source.code) = without_comments(&source.text[..end]);
        }
        sources.extend(of_crate);
    }
    assert!(sources.len() > 200, "{} files", sources.len());
    sources
}

/// Adds the files of `folder`, whose module is `module`, with their whole texts.
fn read(folder: &Path, krate: &str, module: &mut Vec<String>, sources: &mut Vec<Source>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let is_root = matches!(name.as_str(), "lib" | "main" | "mod");
        if !is_root {
            module.push(name);
        }
        if path.is_dir() {
            read(&path, krate, module, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let shown = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(&path).unwrap();
            sources.push(Source {
                path: shown,
                krate: krate.to_owned(),
                module: module.clone(),
                text,
                code: String::new(),
            });
        }
        if !is_root {
            module.pop();
        }
    }
}

/// The modules that `source` declares for tests alone.
fn test_modules(source: &Source) -> Vec<Vec<String>> {
    let after = source.text.split("#[cfg(test)]\n").skip(1).filter_map(|after| after.lines().next());
    let names = after.filter_map(|line| line.trim().strip_suffix(';')?.rsplit_once("mod ").map(|(_, name)| name));
    names.map(|name| [source.module.as_slice(), &[name.to_owned()]].concat()).collect()
}

/// `text` without comments; and the same without the contents of strings.
fn without_comments(text: &str) -> (String, String) {
    let (mut kept, mut code) = (String::new(), String::new());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let (length, is_string) = if rest.starts_with("//") {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
            continue;
        } else if let Some(length) = raw_string(rest) {
            (length, true)
        } else if c == '"' {
            (string(rest), true)
        } else if rest.starts_with("'\"'") {
            (3, true)
        } else if let Some(escaped) = rest.strip_prefix("'\\") {
            (escaped.find('\'').unwrap() + 3, true)
        } else {
            (c.len_utf8(), false)
        };
        kept += &rest[..length];
        if !is_string {
            code.push(c);
        }
        rest = &rest[length..];
    }
    (kept, code)
}

/// The length of the string that `text` begins with.
fn string(text: &str) -> usize {
    let mut is_escaped = false;
    let end = text.char_indices().skip(1).find(|&(_, c)| {
        let is_end = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_end
    });
    end.map_or(text.len(), |(at, _)| at + 1)
}

/// The length of the raw string that `text` begins with, if it does.
fn raw_string(text: &str) -> Option<usize> {
    let hashes = text.strip_prefix('r')?;
    let n = hashes.len() - hashes.trim_start_matches('#').len();
    let inside = hashes[n..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(n));
    Some(2 + n + inside.find(&end)? + end.len())
}

fn architecture() -> String {
    fs::read_to_string(root().join("docs/architecture.md")).unwrap()
}

/// The floor of each crate, from the table in docs/architecture.md.
fn floors() -> BTreeMap<String, usize> {
    let page = architecture();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | `"));
    let floors = rows.filter_map(|(floor, rest)| Some((rest.split_once('`')?.0.to_owned(), floor.parse().ok()?)));
    floors.collect()
}

#[test]
fn crates_depend_only_on_lower_floors() {
    let floors = floors();
    assert!(floors.len() > 10, "{floors:?}");
    let floor = |name: &str| floors.get(name).copied();
    let mut wrong = Vec::new();
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let Ok(manifest) = fs::read_to_string(folder.join("Cargo.toml")) else { continue };
        let Some(own) = floor(&name) else {
            wrong.push(format!("{name} has no floor"));
            continue;
        };
        let dependencies = manifest.split("\n[").find_map(|section| section.strip_prefix("dependencies]"));
        let of_workspace = dependencies.unwrap_or("").lines().filter_map(|line| line.strip_prefix("gptkit-"));
        for dependency in of_workspace.filter_map(|line| line.split(['.', ' ']).next()) {
            if floor(dependency).is_none_or(|floor| floor >= own) {
                wrong.push(format!("{name} depends on {dependency}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_type_name_stands_in_one_file() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources() {
        let names: BTreeSet<String> = source.code.lines().filter_map(type_name).collect();
        names.into_iter().for_each(|name| places.entry(name).or_default().push(source.path.clone()));
    }
    let is_shared = |name: &str| SHARED_TYPE_NAMES.iter().any(|(shared, _)| *shared == name);
    let several = places.iter().filter(|(_, files)| files.len() > 1);
    let (shared, wrong): (Vec<_>, Vec<_>) = several.partition(|(name, _)| is_shared(name));
    let stale: Vec<&str> = SHARED_TYPE_NAMES
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !shared.iter().any(|(shared, _)| shared == name))
        .collect();
    assert!(stale.is_empty(), "no longer in several files: {}", stale.join(", "));
    let wrong: Vec<String> = wrong.iter().map(|(name, files)| format!("{name}: {}", files.join(", "))).collect();
    assert!(wrong.is_empty(), "{} names of types\n{}", wrong.len(), wrong.join("\n"));
    assert!(SHARED_TYPE_NAMES.len() < 10, "{} exceptions", SHARED_TYPE_NAMES.len());
}

/// The type that a line at the top level of a file defines.
fn type_name(line: &str) -> Option<String> {
    let line = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(") ")?.1,
        Some(rest) => rest.strip_prefix(' ')?,
        None => line,
    };
    let line = line.strip_prefix("unsafe ").unwrap_or(line);
    let (keyword, rest) = line.split_once(' ')?;
    let name: String = rest.chars().take_while(|&c| c.is_alphanumeric() || c == '_').collect();
    matches!(keyword, "struct" | "enum" | "trait" | "type" | "union").then_some(name)
}

#[test]
fn no_files_of_a_crate_import_each_other_in_a_circle() {
    let sources = sources();
    let mut wrong = Vec::new();
    for of_crate in sources.chunk_by(|a, b| a.krate == b.krate) {
        let modules = Modules::new(of_crate);
        let imports: Vec<BTreeSet<usize>> = (0..of_crate.len()).map(|file| modules.imports(file)).collect();
        for (file, imported) in imports.iter().enumerate() {
            for &other in imported.iter().filter(|&&other| reaches(&imports, other, file)) {
                wrong.push(format!("{} imports {}", of_crate[file].path, of_crate[other].path));
            }
        }
    }
    assert!(wrong.is_empty(), "imports that are part of a circle:\n{}", wrong.join("\n"));
}

/// Whether file `from` imports file `to`, directly or through others.
fn reaches(imports: &[BTreeSet<usize>], from: usize, to: usize) -> bool {
    let (mut open, mut seen) = (vec![from], BTreeSet::from([from]));
    while let Some(file) = open.pop() {
        if file == to {
            return true;
        }
        open.extend(imports[file].iter().filter(|&&next| seen.insert(next)));
    }
    false
}

/// The modules of a crate.
struct Modules<'a> {
    sources: &'a [Source],
    /// File of each module.
    files: BTreeMap<&'a [String], usize>,
    /// Of each name that a file exports from its submodules: where it comes from.
    exports: BTreeMap<Vec<String>, Vec<String>>,
}

impl<'a> Modules<'a> {
    fn new(sources: &'a [Source]) -> Self {
        let files = sources.iter().enumerate().map(|(file, source)| (source.module.as_slice(), file)).collect();
        let mut modules = Self { sources, files, exports: BTreeMap::new() };
        for source in sources {
            for (_, after) in
                source.code.match_indices("pub use ").map(|(at, text)| source.code.split_at(at + text.len()))
            {
                for path in paths(after) {
                    let from = match path.first().map(String::as_str) {
                        Some("crate") => path[1..].to_vec(),
                        Some("self") => [&source.module, &path[1..]].concat(),
                        _ => [source.module.as_slice(), &path].concat(),
                    };
                    if let Some(name) = path.last() {
                        modules.exports.insert([source.module.as_slice(), std::slice::from_ref(name)].concat(), from);
                    }
                }
            }
        }
        modules
    }

    /// The files that `file` imports. The root of a crate, and a module's file for its own submodules, are its table of
    /// contents: what is imported through them counts as imported from where it is defined.
    fn imports(&self, file: usize) -> BTreeSet<usize> {
        let source = &self.sources[file];
        let mut imports = BTreeSet::new();
        for keyword in ["crate::", "super::"] {
            for (at, _) in source.code.match_indices(keyword) {
                let before = source.code[..at].chars().next_back();
                if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                    continue;
                }
                for path in paths(&source.code[at..]) {
                    imports.extend(self.file_of(self.absolute(&source.module, &path)));
                }
            }
        }
        imports.remove(&file);
        imports
    }

    /// The path from the root of the crate.
    fn absolute(&self, module: &[String], path: &[String]) -> Vec<String> {
        let ups = path.iter().take_while(|part| *part == "super").count();
        let base = if path[0] == "crate" { &[] } else { &module[..module.len().saturating_sub(ups)] };
        let rest = path.iter().skip_while(|part| matches!(part.as_str(), "crate" | "super" | "self"));
        base.iter().chain(rest).cloned().collect()
    }

    /// The file that defines what `path` names; none where that is the root of the crate.
    fn file_of(&self, mut path: Vec<String>) -> Option<usize> {
        for _ in 0..4 {
            let exported = (1..=path.len()).rev().find_map(|n| Some((n, self.exports.get(&path[..n])?)));
            let Some((n, from)) = exported.filter(|(n, _)| !self.files.contains_key(&path[..*n])) else { break };
            path = [from.as_slice(), &path[n..]].concat();
        }
        let module = (1..=path.len()).rev().map(|n| &path[..n]).find(|module| self.files.contains_key(module));
        module.map(|module| self.files[module])
    }
}

/// The paths of the tree that `text` begins with: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(text: &str) -> Vec<Vec<String>> {
    let mut rest = text;
    tree(&mut rest)
}

fn tree(rest: &mut &str) -> Vec<Vec<String>> {
    let mut path = Vec::new();
    loop {
        *rest = rest.trim_start();
        if let Some(list) = rest.strip_prefix('{') {
            *rest = list;
            let mut all = Vec::new();
            loop {
                *rest = rest.trim_start();
                if let Some(after) = rest.strip_prefix('}') {
                    *rest = after;
                    return all;
                }
                let before = rest.len();
                let ends = tree(rest).into_iter();
                all.extend(ends.map(|end| [path.as_slice(), if end == ["self"] { &[] } else { &end }].concat()));
                let end = rest.find([',', '}']).unwrap_or(rest.len());
                *rest = rest[end..].trim_start_matches(',');
                if rest.len() == before || rest.is_empty() {
                    return all;
                }
            }
        }
        let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        if length == 0 {
            return vec![path];
        }
        path.push(rest[..length].to_owned());
        *rest = &rest[length..];
        match rest.strip_prefix("::") {
            Some(after) => *rest = after,
            None => return vec![path],
        }
    }
}

/// Spans of code such as `data/batch.rs::Windows::batch()`: a file of a crate, and a name that it defines.
#[test]
fn the_files_and_names_of_the_architecture_page_exist() {
    let (page, sources) = (architecture(), sources());
    let (mut wrong, mut n) = (Vec::new(), 0);
    for span in page.split('`').skip(1).step_by(2).filter(|span| span.contains('/') && !span.contains(' ')) {
        let Some((file, names)) = span.split_once(".rs") else { continue };
        let Some((krate, path)) = file.split_once('/') else { continue };
        let path = if krate == "tests" { format!("{file}.rs") } else { format!("crates/{krate}/src/{path}.rs") };
        n += 1;
        if krate == "tests" {
            if !root().join(&path).is_file() {
                wrong.push(format!("{span}: no such file"));
            }
            continue;
        }
        let Some(source) = sources.iter().find(|source| source.path == path) else {
            wrong.push(format!("{span}: no such file"));
            continue;
        };
        let is_word = |at: usize| !source.code[at..].starts_with(|c: char| c.is_alphanumeric() || c == '_');
        for name in names.trim_end_matches("()").split("::").filter(|name| !name.is_empty()) {
            let keywords =
                ["fn", "struct", "enum", "trait", "type", "const"].map(|keyword| format!("{keyword} {name}"));
            let is_defined = |text: &String| source.code.match_indices(text).any(|(at, _)| is_word(at + text.len()));
            if !keywords.iter().any(is_defined) {
                wrong.push(format!("{span}: {path} defines no {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "docs/architecture.md names what is not there:\n{}", wrong.join("\n"));
    assert!(n > 40, "{n} names were found");
}

#[test]
fn what_has_a_home_is_nowhere_else() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (text, homes, why) in HOMES {
            if source.text.contains(text) && !homes.iter().any(|home| source.path.starts_with(home)) {
                wrong.push(format!("{} contains {text}: {why}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A published crate has the files of its own folder only.
#[test]
fn embedded_files_lie_in_their_crate() {
    let (mut n, mut wrong) = (0, Vec::new());
    for source in sources() {
        for (at, _) in source.text.match_indices("include_str!(") {
            let path = source.text[at..].split('"').nth(1).unwrap();
            let n_up = path.split('/').take_while(|part| *part == "..").count();
            // `crates/NAME/src/file.rs` is one folder below its crate's.
            if n_up > source.path.split('/').count() - 3 {
                wrong.push(format!("{} embeds {path}", source.path));
            }
            n += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(n > 20, "{n} embedded files were found");
}

#[test]
fn paths_are_read_as_the_compiler_reads_them() {
    let joined = |text: &str| paths(text).iter().map(|path| path.join("::")).collect::<Vec<_>>();
    assert_eq!(
        joined("crate::a::{self, b, c::{D, E as F}, g::*};"),
        ["crate::a", "crate::a::b", "crate::a::c::D", "crate::a::c::E", "crate::a::g"]
    );
    assert_eq!(joined("super::x::f(1)"), ["super::x::f"]);
    let (kept, code) = without_comments("a \"b // c\" // d\nr#\"e\"f\"# '\"' g");
    assert_eq!((kept.as_str(), code.as_str()), ("a \"b // c\" \nr#\"e\"f\"# '\"' g", "a  \n  g"));
}
