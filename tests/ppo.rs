//! `gptkit ppo` from outside: a run, its rounds, what a kill leaves, and what is refused.

use super::resume::{start, wait_for};
use super::{Ran, gptkit, pretrain};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// A model that answers, in `chat`, and a reward model beside it, in `rm`; both know nothing.
fn models(folder: &Path) {
    pretrain(folder, "--data world:60 --set model.context=160 --set train.length=2steps --out pre").ok();
    let few = "--data world:40 --set train.batch_size=4 --set train.warmup=0steps --set train.length=2steps";
    gptkit(folder, &format!("sft --init pre {few} --out chat")).ok();
    gptkit(folder, &format!("train-rm --init chat {few} --out rm")).ok();
}

const FEW: &str = "--dtype f32 --set train.batch_size=4 --set policy.minibatches=2 --set train.warmup=0steps \
                   --set rollout.max_new_tokens=6 --set train.eval_every=2 --set ptx.per_episode=1 \
                   --set train.eval_windows=4";

fn words(more: &str) -> String {
    let few: Vec<&str> = FEW.split_whitespace().collect();
    format!("ppo --init chat --reward rm --prompts world:40 {} {more}", few.join(" "))
}

fn ppo(folder: &Path, more: &str) -> Ran {
    gptkit(folder, &words(more))
}

fn text(folder: &Path, file: &str) -> String {
    fs::read_to_string(folder.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

#[test]
fn a_policy_is_trained_shown_and_trained_again_in_a_second_round() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    models(path);
    let ran = ppo(path, "--set train.length=4steps --out one").ok();
    for says in [
        "40 training prompts, 20 validation prompts",
        "policy parameters are trained · 4 episodes per iteration",
        "score on held-out prompts",
        "gold score on held-out prompts",
        "loss on pretraining text",
        "next: gptkit compare --a one --b ",
    ] {
        assert!(ran.err.contains(says), "{says}: {}", ran.err);
    }
    let records: Vec<Value> =
        text(path, "one/metrics.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 4);
    for name in
        ["objective/score", "objective/kl", "objective/entropy", "policy/clip_fraction", "value/loss", "ptx/loss"]
    {
        assert!(records[3]["figures"][name].is_f64(), "{name}: {}", records[3]);
    }
    assert!((records[0]["figures"]["policy/first_ratio"].as_f64().unwrap() - 1.0).abs() < 1e-4);
    assert!(records[3]["scores"]["text/loss"].is_f64() && records[2].get("scores").is_none());
    assert!(text(path, "one/reward-kl.svg").starts_with("<svg"));
    // The loss of PPO is no measure of progress: curves and list show the score instead.
    let curves = text(path, "one/curves.svg");
    let shown = ["reward model's score", "KL from the initial model", "gold score", "iterations"];
    assert!(shown.iter().all(|label| curves.contains(label)) && !curves.contains("loss"), "{curves}");
    let listed = gptkit(path, "runs .").ok().out;
    let line = listed.lines().find(|line| line.starts_with("one ")).unwrap();
    let score = records[3]["figures"]["objective/score"].as_f64().unwrap();
    assert!(line.contains(&format!("  score {score:.4}  reward ")) && !line.contains("loss"), "{listed}");
    let answers = text(path, "one/answers.md");
    assert!(["| 0 |", "| 2 |", "| 4 |"].iter().all(|row| answers.matches(row).count() == 4), "{answers}");
    gptkit(path, "chat --model one --max-new-tokens 3").ok();

    // What it was made from is in its folder, and a second round counts on.
    let second =
        "ppo --init one --reward rm --prompts world:40 --round 2 --set train.length=2steps --out two --set ptx.coef=0";
    let few: Vec<&str> = FEW.split_whitespace().collect();
    gptkit(path, &format!("{second} {}", few.join(" "))).ok();
    let provenance: Value = serde_json::from_str(&text(path, "two/provenance.json")).unwrap();
    let rounds = provenance["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 2);
    assert!(rounds[0]["policy"]["folder"].as_str().unwrap().ends_with("chat"), "{provenance}");
    assert!(rounds[1]["policy"]["folder"].as_str().unwrap().ends_with("one"), "{provenance}");
    assert_eq!(rounds[1]["reward"]["weights"], rounds[0]["reward"]["weights"]);
    assert_eq!(rounds[0]["comparisons"], serde_json::json!(["world:40"]));
    for (round, init) in [(1, "one"), (3, "one"), (2, "chat")] {
        let refused = gptkit(path, &format!("ppo --init {init} --reward rm --round {round}"));
        assert_eq!(refused.code, Some(2), "{}", refused.err);
        assert!(refused.err.contains("of ppo\n  hint: "), "{}", refused.err);
    }
}

/// Kills a run of these settings now and then, and compares with the same run left alone.
fn kill_and_compare(folder: &Path, name: &str, set: &str) {
    let length = "--set train.length=24steps";
    let [whole, cut] = ["whole", "cut"].map(|run| format!("{name}-{run}"));
    ppo(folder, &format!("{length} {set} --out {whole}")).ok();
    let words: Vec<String> = words(&format!("{length} {set} --out {cut}")).split(' ').map(str::to_owned).collect();
    let mut child = start(folder, &words);
    let mut kills = 0;
    for after in [2, 7, 13, 18] {
        wait_for(&mut child, &folder.join(&cut), after);
        child.kill().unwrap(); // SIGKILL
        kills += usize::from(!child.wait().unwrap().success());
        child = start(folder, &["ppo", "--resume", &cut].map(str::to_owned));
    }
    assert!(child.wait().unwrap().success());
    assert!(kills >= 3, "the run was over after {kills} kills");
    let files = fs::read_dir(folder.join(&whole).join("checkpoints/step-000024")).unwrap();
    let files: Vec<String> = files.map(|file| file.unwrap().file_name().to_string_lossy().into_owned()).collect();
    let weights: Vec<String> = files.into_iter().filter(|file| file.ends_with("safetensors")).collect();
    let also = ["answers.md".to_owned(), "checkpoints/step-000024/ppo.json".to_owned()];
    let own = if folder.join(&whole).join("model.safetensors").exists() { "model" } else { "adapter_model" };
    let all = weights.iter().map(|file| format!("checkpoints/step-000024/{file}")).chain(also);
    for file in all.chain([format!("{own}.safetensors")]) {
        let [whole, cut] = [&whole, &cut].map(|run| fs::read(folder.join(run).join(&file)).unwrap());
        assert!(whole == cut, "{name}: {file} differs");
    }
    let figures = |run: &str| -> Vec<Value> {
        let records = text(folder, &format!("{run}/metrics.jsonl"));
        let figures = |line| {
            let mut record: Value = serde_json::from_str(line).unwrap();
            record.as_object_mut().unwrap().remove("tokens_per_s");
            record["figures"].as_object_mut().unwrap().retain(|name, _| !name.starts_with("time/"));
            record
        };
        records.lines().map(figures).collect()
    };
    for (whole, cut) in figures(&whole).iter().zip(figures(&cut)) {
        assert_eq!(whole, &cut, "{name}");
    }
}

#[test]
fn a_run_that_was_killed_goes_on_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    models(folder.path());
    // A value network, an average, adaptive β and text beside; a head on the policy; adapters.
    // With spikes that are skipped, as both networks' last losses have it.
    let own = "--set reward.adaptive.target=1 --set reward.adaptive.horizon=100 --set train.on_spike=skip";
    kill_and_compare(folder.path(), "own", &format!("{own} --set train.spike_window=5 --set train.spike_z=0.5"));
    kill_and_compare(folder.path(), "shared", "--set value.shared=true --set ptx.coef=0");
    kill_and_compare(folder.path(), "lora", "--set policy.lora.rank=2 --set policy.lora.alpha=4 --set ptx.coef=0");
}

/// Figures of the run in `run`, one entry a step.
fn metrics(folder: &Path, run: &str) -> Vec<Value> {
    text(folder, &format!("{run}/metrics.jsonl")).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_papers_presets_run_at_a_small_context_and_end_answers_as_the_reward_model_knows_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    models(path);
    let few =
        "--prompts world:12 --dtype f32 --set train.length=1steps --set train.batch_size=8 --set train.eval_windows=4";
    let paper =
        format!("ppo --config ppo-instructgpt --init chat --reward rm {few} --set ptx.per_episode=1 --out paper");
    let ran = gptkit(path, &paper).ok();
    assert!(
        ran.err.contains("instead of rollout.max_new_tokens = 1000: the context of 160 tokens must also hold"),
        "{}",
        ran.err
    );
    let config = text(path, "paper/config.toml");
    let longest = config.lines().find_map(|line| line.strip_prefix("max_new_tokens = ")).unwrap();
    let longest: usize = longest.parse().unwrap();
    assert!((80..160).contains(&longest), "{longest}: half of the window or more");
    assert!(metrics(path, "paper")[0]["figures"].get("value/warmup_loss").is_none(), "the paper has no warm-up");

    // At a high temperature either end comes soon, the template's before the 16th token too.
    let ran = gptkit(
        path,
        &format!("ppo --config ppo-2019 --init chat --reward rm {few} --set rollout.temperature=4 --out ziegler"),
    );
    ran.ok();
    let figures = &metrics(path, "ziegler")[0]["figures"];
    assert!(figures["answers/end_rate"].is_f64() && figures["answers/length"].as_f64().unwrap() <= 24.0, "{figures}");
    for (set, says) in [
        ("--set rollout.end=<|end|>", "is already an end token"),
        ("--set rollout.end_after=3", "rollout.end_after = 3"),
        ("--set value.shared=true --set value.warmup_epochs=2", "value.warmup_epochs = 2"),
        ("--set train.warmup=1Mtokens --set train.decay_end=1Mtokens", "PPO counts episodes"),
        (
            "--set train.batch_ramp_start=3 --set train.batch_ramp=64episodes",
            "must be a multiple of policy.minibatches",
        ),
    ] {
        let refused = gptkit(path, &format!("ppo --init chat --reward rm {set} --out refused"));
        assert!(refused.code != Some(0) && refused.err.contains(says), "{set}: {}", refused.err);
        assert!(!path.join("refused").exists(), "{set}");
    }
}

#[test]
fn a_plan_counts_episodes_as_episodes() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = "--set train.decay_end=1Mtokens --set train.batch_ramp=2Mtokens --set train.batch_ramp_start=8";
    let refused = gptkit(folder.path(), &format!("plan --stage ppo {tokens}"));
    assert_eq!(refused.code, Some(2), "{}", refused.out);
    assert!(refused.err.contains("train.decay_end") && refused.err.contains("train.batch_ramp"), "{}", refused.err);
    let counted = "--set train.length=10240episodes --set train.batch_ramp=2kepisodes --set train.batch_ramp_start=8";
    let plan = gptkit(folder.path(), &format!("plan --stage ppo {counted}")).ok();
    assert!(plan.out.contains("10,240 episodes in 65 iterations of up to 256"), "{}", plan.out);
}

#[test]
fn patience_ends_a_run_by_its_own_evaluations_and_a_resumed_one_alike() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    models(path);
    // So large a rate spoils what the model says.
    let wild = "--set train.lr=0.3 --set ptx.coef=0 --set train.length=40steps --set train.patience=2 --out one";
    let ran = ppo(path, wild).ok();
    assert!(
        ran.err.contains("no improvement of the reward on held-out prompts for 2 validations in a row"),
        "{}",
        ran.err
    );
    let n = metrics(path, "one").len();
    assert!(n < 40 && n.is_multiple_of(2), "{n} iterations");
    let state: Value = serde_json::from_str(&text(path, &format!("one/checkpoints/step-{n:06}/state.json"))).unwrap();
    assert_eq!((&state["without_gain"], &state["finished"]), (&Value::from(2), &Value::from(true)));
    gptkit(path, "ppo --resume one").ok();
    assert_eq!(metrics(path, "one").len(), n, "it has ended");
}

#[test]
fn an_interrupt_saves_and_says_how_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    models(path);
    let ran = ppo(path, "--set train.length=100000steps --max-time 2s --out long");
    assert_eq!(ran.code, Some(124), "{}", ran.err);
    assert!(ran.err.contains("next: gptkit ppo --resume long"), "{}", ran.err);
}

/// The words with what changes from run to run left out.
fn refusal(ran: &Ran) -> String {
    assert!(matches!(ran.code, Some(1 | 2)), "{:?}: {}", ran.code, ran.err);
    let from = ran.err.find("error:").unwrap_or_else(|| panic!("{}", ran.err));
    ran.err[from..].trim_end().to_owned()
}

#[test]
fn what_does_not_fit_is_refused_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    models(path);
    fs::write(path.join("empty.txt"), "\n\n").unwrap();
    fs::write(path.join("long.txt"), "Who was it? ".repeat(400)).unwrap();
    fs::write(path.join("no.jsonl"), "{\"text\":\"x\"}\n").unwrap();
    pretrain(path, "--data world:50:7 --set model.context=160 --set train.length=2steps --set tokenizer.vocab_size=300 --out other-pre").ok();
    let few = "--data world:40 --set train.batch_size=4 --set train.warmup=0steps --set train.length=2steps";
    gptkit(path, &format!("train-rm --init other-pre {few} --out other-rm")).ok();
    let broken = path.join("broken");
    copy(&path.join("rm"), &broken);
    poison(&broken.join("model.safetensors"));
    fs::remove_file(broken.join("checksums.json")).unwrap(); // as if it were made elsewhere
    let mut said = String::new();
    for words in [
        "ppo --init chat --reward rm --prompts long.txt",
        "ppo --init chat --reward other-rm",
        "ppo --init chat --reward rm --prompts empty.txt",
        "ppo --init chat --reward rm --prompts no.jsonl",
        "ppo --init chat --reward rm --prompts missing.jsonl",
        "ppo --init chat --reward broken",
        "ppo --init pre --reward rm",
        "ppo --init chat --reward chat",
        "ppo --init chat --reward missing",
        "ppo --init missing --reward rm",
        "ppo --init chat",
        "ppo --init chat --reward rm --config ppo-smal",
        "ppo --init chat --reward rm --set policy.minibatches=3 --set train.micro_batch=7 --set reward.kl=k4",
        "ppo --init chat --reward rm --set policy.minibatches=3 --set value.shared=true --set policy.lora.rank=2 --set policy.lora.alpha=4",
        "ppo --init chat --reward rm --set rollout.end=hello-there",
        "ppo --init chat --reward rm --set reward.whitening=centered --set reward.kl_coef=-1 --set advantage.gamma=2",
    ] {
        said += &format!("$ gptkit {words}\n{}\n\n", refusal(&gptkit(path, words)));
        let left = path.join("runs").read_dir().map_or(0, Iterator::count);
        assert_eq!(left, 0, "{words} leaves a run");
    }
    insta::assert_snapshot!(said);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap().map(Result::unwrap).filter(|file| file.path().is_file()) {
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// Makes the last number of a weights file NaN.
fn poison(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(path, bytes).unwrap();
}

#[test]
fn the_doctor_may_stop_a_run_which_is_saved() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    models(path);
    let wild = "--set train.lr=0.5 --set train.length=30steps --set doctor.max_kl=0.5 --set ptx.coef=0 --set policy.clip_range=0.9";
    let warned = ppo(path, &format!("{wild} --out warned"));
    assert!(warned.err.contains("  cause: ") && warned.err.contains("  fix: "), "{}", warned.err);
    let stopped = ppo(path, &format!("{wild} --set doctor.on_finding=stop --out stopped"));
    assert_eq!(stopped.code, Some(1), "{}", stopped.err);
    assert!(stopped.err.contains("ended the run here; its state is saved"), "{}", stopped.err);
    let records = text(path, "stopped/metrics.jsonl").lines().count();
    assert!(path.join(format!("stopped/checkpoints/step-{records:06}")).is_dir(), "{records} iterations");
}
