//! Models and data sets of a hub, which a server on this machine plays: `pull`, `push` and `hf:NAME` in other commands.

use super::{Ran, pretrain};
use gptkit_testing::stub_hub::{Fault, StubCommit, StubFile, StubHub};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const COMMIT: &str = "1111111111111111111111111111111111111111";

/// A hub that has a model of a small run as `o/tiny`, and a folder to work in.
struct HubScene {
    hub: StubHub,
    folder: tempfile::TempDir,
}

fn files(folder: &Path) -> Vec<StubFile> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let kept = entries.filter(|entry| {
        let name = entry.file_name().into_string().unwrap();
        name.ends_with(".safetensors") || ["config.json", "generation_config.json", "tokenizer.json"].contains(&&*name)
    });
    kept.map(|entry| StubFile::new(entry.file_name().to_str().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

impl HubScene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("text.txt"), "the cat sat on the mat and looked at the moon\n".repeat(300))
            .unwrap();
        pretrain(folder.path(), "--config char --data text.txt --out run").ok();
        let commit = |repository: &str, files: Vec<StubFile>| StubCommit {
            repository: repository.to_owned(),
            commit: COMMIT.to_owned(),
            revisions: vec!["main".to_owned()],
            files,
        };
        let text = fs::read(folder.path().join("text.txt")).unwrap();
        let hub = StubHub::start(vec![
            commit("o/tiny", files(&folder.path().join("run"))),
            commit(
                "o/pickle",
                vec![
                    StubFile::new("config.json", fs::read(folder.path().join("run/config.json")).unwrap()),
                    StubFile::new("pytorch_model.bin", "x"),
                ],
            ),
            commit(
                "o/llama",
                vec![
                    StubFile::new("config.json", r#"{"model_type": "llama"}"#),
                    StubFile::new("model.safetensors", "x"),
                ],
            ),
            commit("datasets/o/text", vec![StubFile::new("a/b.txt", text), StubFile::new("c.txt", "c")]),
        ]);
        Self { hub, folder }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Runs `gptkit` with the words of `command`.
    fn run(&self, command: &str) -> Ran {
        let words = command.split(' ').filter(|word| !word.is_empty());
        let output = Command::new(env!("CARGO_BIN_EXE_gptkit"))
            .args(words)
            .current_dir(self.folder.path())
            .envs([("HF_ENDPOINT", self.hub.url.as_str()), ("HF_TOKEN", "hf_secret"), ("NO_PROXY", "127.0.0.1")])
            .env("HF_HOME", self.at("hf"))
            .env_remove("HF_HUB_CACHE")
            .env_remove("HF_HUB_OFFLINE")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    #[track_caller]
    fn refused(&self, command: &str, code: i32, says: &str) {
        let ran = self.run(command);
        assert_eq!(ran.code, Some(code), "{command}: {}", ran.err);
        assert!(ran.err.contains(says), "{command}: {}", ran.err);
    }
}

#[test]
fn a_model_of_the_hub_stands_wherever_a_folder_does() {
    let scene = HubScene::new();
    let snapshot = scene.at(&format!("hf/hub/models--o--tiny/snapshots/{COMMIT}"));
    let sample = "sample --prompt the --max-new-tokens 8 --seed 1 --model";
    let local = scene.run(&format!("{sample} run")).ok();
    let remote = scene.run(&format!("{sample} hf:o/tiny")).ok();
    assert_eq!(remote.out, local.out);
    assert!(snapshot.join("model.safetensors").is_file());
    scene.hub.seen();
    assert_eq!(scene.run(&format!("{sample}=hf:o/tiny@{COMMIT}")).ok().out, local.out);
    assert_eq!(scene.hub.seen(), []);

    let evaluated = scene.run("eval --model hf:o/tiny --task text=hf:o/text/a/b.txt --limit 4 --out e").ok();
    assert!(evaluated.out.contains("tiny") && !evaluated.out.contains(COMMIT), "{}", evaluated.out);

    let words = "pretrain --steps 2 --out next --init hf:o/tiny --data hf:o/text/a/b.txt";
    scene.run(words).ok();
    let request: serde_json::Value = serde_json::from_slice(&fs::read(scene.at("next/run.json")).unwrap()).unwrap();
    assert_eq!(request["models"]["init"]["hub"], format!("o/tiny@{COMMIT}"));
    let source = request["config"]["data"]["sources"][0]["path"].as_str().unwrap();
    assert!(source.ends_with(&format!("datasets--o--text/snapshots/{COMMIT}/a/b.txt")), "{source}");
    let again = scene.run(words).ok();
    assert!(again.err.contains("resuming it"), "{}", again.err);
}

#[test]
fn configurations_and_settings_name_data_and_tokenizers_of_the_hub() {
    let scene = HubScene::new();
    let text = format!("datasets--o--text/snapshots/{COMMIT}/a/b.txt");
    fs::write(scene.at("base.toml"), "extends = \"char\"\n[data]\nsources = [{ path = 'hf:o/text/a/b.txt' }]\n")
        .unwrap();
    fs::write(scene.at("mine.toml"), "extends = \"base.toml\"\n[train]\nwarmup = \"0 steps\"\n").unwrap();
    let steps = "--steps 2 --set train.warmup=0steps --set model.n_layer=1 --set model.d_model=16 --set model.n_head=2";
    for (out, words) in [
        ("file", "--config base.toml"),
        ("extended", "--config mine.toml"),
        ("set", "--config char --set data.sources=[{path=\"hf:o/text/a/b.txt\"}]"),
    ] {
        scene.run(&format!("pretrain {words} {steps} --out {out}")).ok();
        let request: serde_json::Value =
            serde_json::from_slice(&fs::read(scene.at(&format!("{out}/run.json"))).unwrap()).unwrap();
        let source = request["config"]["data"]["sources"][0]["path"].as_str().unwrap();
        assert!(source.ends_with(&text), "{out}: {source}");
    }
    let words = "pretrain --config char --set tokenizer={path=\"hf:o/tiny\"} --data text.txt --out tokenizer";
    scene.run(&format!("{words} {steps}")).ok();
    let tokenizer = |folder: &str| fs::read(scene.at(&format!("{folder}/tokenizer.json"))).unwrap();
    assert_eq!(tokenizer("tokenizer"), tokenizer("run"));
    scene.refused("pretrain --set data.sources=[{path=\"hf:o/none/x.txt\"}]", 1, "o/none does not exist");
    scene.refused("sft --init run --set data.sources=[\"hf:none\"]", 2, "names no file");
}

#[test]
fn the_doctor_names_the_account_and_what_is_wrong_with_the_hub() {
    let scene = HubScene::new();
    let hub = |words: &str| {
        let out = scene.run(&format!("doctor --json {words}")).out;
        let checks = out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        checks.into_iter().find(|check| check["check"] == "hub").unwrap()
    };
    assert_eq!(hub("")["found"], format!("{} answers, as account tester", scene.hub.url));
    scene.hub.fail("/whoami-v2", Fault::Status(401, "x", "y"), 1);
    let refused = hub("");
    assert_eq!(refused["state"], "warning");
    assert!(refused["found"].as_str().unwrap().contains("refuses the token (401"), "{refused}");
    assert!(refused["hint"].as_str().unwrap().contains("hf auth login"), "{refused}");
    scene.hub.seen();
    assert_eq!(hub("--offline")["state"], "ok");
    assert_eq!(scene.hub.seen(), []);
}

#[test]
fn pull_prints_the_folder_and_what_it_has_needs_no_hub() {
    let scene = HubScene::new();
    let pulled = scene.run("pull o/tiny").ok();
    let snapshot = scene.at(&format!("hf/hub/models--o--tiny/snapshots/{COMMIT}"));
    assert_eq!(Path::new(pulled.out.trim_end()).canonicalize().unwrap(), snapshot.canonicalize().unwrap());
    assert!(pulled.err.contains("next: gptkit sample --model hf:o/tiny"), "{}", pulled.err);
    scene.hub.seen();
    assert_eq!(scene.run("pull hf:o/tiny --offline").ok().out, pulled.out);
    assert_eq!(scene.hub.seen(), []);

    scene.run("pull o/tiny --out copy").ok();
    assert!(!scene.at("copy/config.json").is_symlink());
    assert_eq!(
        fs::read(scene.at("copy/model.safetensors")).unwrap(),
        fs::read(scene.at("run/model.safetensors")).unwrap()
    );
    scene.refused("pull o/tiny --out copy", 2, "copy is not empty");
    let files = scene.run("pull --dataset o/text --file a/* --out text").ok();
    assert_eq!(files.out, "text\n");
    assert!(scene.at("text/a/b.txt").is_file() && !scene.at("text/c.txt").exists());
}

#[test]
fn what_cannot_be_pulled_is_refused_with_a_way() {
    let scene = HubScene::new();
    scene.refused("pull o/pickle", 1, "weights only as pytorch_model.bin, a pickle");
    scene.refused("sample --model hf:o/pickle", 1, "hint: use a revision with model.safetensors");
    scene.refused("sample --model hf:o/llama", 2, "o/llama cannot be used");
    scene.refused("sample --model hf:o/none", 1, "o/none does not exist on http://127.0.0.1");
    scene.refused("sample --model hf:../x", 2, "is not the name of a repository");
    scene.refused("pull o/tiny --offline", 1, "nothing is downloaded offline");
    scene.refused("pull o/tiny --file *.gguf", 2, "o/tiny has no file *.gguf");
    scene.refused("pretrain --data hf:o/text", 1, "does not exist");
    scene.refused(
        "sample --model o/tiny",
        2,
        "hint: for the model of that name on the Hugging Face hub, write --model hf:o/tiny",
    );
    scene.hub.fail("/revision/", Fault::Status(401, "x-error-code", "GatedRepo"), 1);
    scene.refused("pull o/tiny", 1, "o/tiny is gated: its owner decides who may download it");
    let info = scene.run("info").ok().out;
    assert!(info.contains("HF_TOKEN                set\n") && !info.contains("hf_secret"), "{info}");
}

#[test]
fn a_pushed_run_has_a_card_and_can_be_pulled() {
    let scene = HubScene::new();
    scene.run("pretrain --steps 2 --out next --init hf:o/tiny --data hf:o/text/a/b.txt").ok();
    scene.hub.seen();
    let dry = scene.run("push next me/next --license mit --dry-run").ok();
    assert_eq!(scene.hub.seen(), []);
    assert!(dry.err.contains("model.safetensors · 1 MB\nREADME.md · 1 MB"), "{}", dry.err);
    let pushed = scene.run("push next me/next --license mit").ok();
    assert!(pushed.err.contains("pushed next to http://hub/me/next/commit/"), "{}", pushed.err);
    let commit = scene.hub.newest("me/next").unwrap();
    let card = commit.files.iter().find(|file| file.path == "README.md").unwrap();
    let card = String::from_utf8(card.bytes.clone()).unwrap();
    assert_eq!(card, dry.out);
    for part in [
        "license: mit\npipeline_tag: text-generation\nbase_model: o/tiny\n".to_owned(),
        "A language model, pretrained on raw text (`gptkit pretrain`).".to_owned(),
        "2 steps in ".to_owned(),
        "best loss on the validation set: ".to_owned(),
        format!("path = \"hf:o/text@{COMMIT}/a/b.txt\""),
        format!("- `--init`: `hf:o/tiny@{COMMIT}`, weights with fingerprint `"),
    ] {
        assert!(card.contains(&part), "{part}\n{card}");
    }
    assert!(!card.contains(scene.folder.path().to_str().unwrap()), "{card}");
    let sample = "sample --prompt the --max-new-tokens 8 --seed 1 --model";
    let pulled = scene.run(&format!("{sample} hf:me/next")).ok().out;
    assert_eq!(pulled, scene.run(&format!("{sample} next")).ok().out);
    scene.refused("push next next", 1, "next has no owner");
    scene.refused("push text.txt me/x", 2, "text.txt is not a folder");
    scene.refused("push next me/x --eval run", 2, "--eval run: run/results.md cannot be read");
}
