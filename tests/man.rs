//! Man pages and completion scripts: made from the command line, so that they know all of it.

use super::{commands, gptkit, run};
use std::process::{Command, Stdio};
use std::{fs, io::Read, path::Path};

#[test]
fn every_subcommand_has_a_page_that_names_its_options() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::create_dir(path.join("pages")).unwrap();
    fs::write(path.join("pages/other.1"), "stays").unwrap();
    let said = gptkit(path, "man --out pages").ok().err;
    let commands = commands::all();
    assert!(said.contains(&format!("saved {} pages to pages", commands.len())), "{said}");
    for command in &commands {
        let name = format!("gptkit {}", command.name).trim().replace(' ', "-");
        let page = fs::read_to_string(path.join(format!("pages/{name}.1"))).unwrap_or_else(|e| panic!("{name}: {e}"));
        let page = page.replace(r"\-", "-");
        let title = format!(".TH {name} 1 \" \" \"gptkit {}\"", env!("CARGO_PKG_VERSION"));
        assert!(page.contains(&title), "{name} has no title");
        for option in command.options.iter() {
            assert!(page.contains(option.as_str()), "{name} does not name {option}");
        }
        for below in &command.below {
            assert!(page.contains(&format!("{name}-{below}(1)")), "{name} does not name {below}");
        }
    }
    assert_eq!(fs::read_dir(path.join("pages")).unwrap().count(), commands.len() + 1);
    assert_eq!(fs::read_to_string(path.join("pages/other.1")).unwrap(), "stays");
}

#[test]
fn every_shell_completes_every_subcommand_and_option() {
    let commands = commands::all();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = gptkit(Path::new("."), &format!("completions {shell}")).ok().out;
        for command in &commands {
            for word in command.name.split(' ') {
                assert!(script.contains(word), "{shell} does not know {}", command.name);
            }
            // fish writes long options without their dashes: -l max-time.
            for option in command.options.iter().map(|option| option.trim_start_matches('-')) {
                assert!(script.contains(option), "{shell} does not know --{option} of {}", command.name);
            }
        }
    }
    for wrong in ["completions", "completions tcsh", "man"] {
        let ran = gptkit(Path::new("."), wrong);
        assert!(ran.code == Some(2) && ran.out.is_empty(), "{wrong}: {:?} {}", ran.code, ran.err);
    }
    assert!(gptkit(Path::new("."), "completions tcsh").err.contains("bash"), "the shells are named");
}

/// As with `| head -n 1`.
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gptkit"))
        .args(["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 16]).unwrap(); // a script is longer than a pipe holds
    drop(out);
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));
}

#[test]
fn where_no_page_can_be_written_it_is_said() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let ran = run(folder.path(), &["man", "--out", "file"], b"");
    assert!(ran.code == Some(1) && ran.err.contains("folder file cannot be created"), "{}", ran.err);
}
