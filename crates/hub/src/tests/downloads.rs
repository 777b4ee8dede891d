//! Downloads: what arrives, what is repeated, and what is refused.

use super::{Anything, COMMIT, HubScene, Notes, model, weights};
use crate::{Hub, HubName, HubSettings};
use gptkit_testing::stub_hub::{Fault, StubCommit, StubFile, StubHub, hash_of};
use std::fs;
use std::time::Duration;

#[test]
fn a_model_is_downloaded_once_into_the_cache_of_huggingface_hub() {
    let scene = HubScene::new();
    let folder = scene.model("a/b").unwrap();
    assert_eq!(folder, scene.at(&format!("models--a--b/snapshots/{COMMIT}")));
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["README.md", "config.json", "model.safetensors", "tokenizer.json"]);
    let blob = hash_of(&weights(), true);
    let target = fs::read_link(folder.join("model.safetensors")).unwrap();
    assert_eq!(target.to_str().unwrap(), format!("../../blobs/{blob}"));
    assert_eq!(fs::read_to_string(scene.at("models--a--b/refs/main")).unwrap(), COMMIT);
    assert!(scene.at(&format!(".locks/models--a--b/{blob}.lock")).is_file());
    assert!(!scene.at(&format!("models--a--b/blobs/{blob}.incomplete")).exists());
    assert!(scene.notes.all().contains("task: model.safetensors of a/b Some(200000)"), "{}", scene.notes.all());
    let lines = |scene: &HubScene| scene.hub.seen().into_iter().map(|seen| seen.line).collect::<Vec<_>>();
    assert_eq!(lines(&scene).iter().filter(|line| line.contains("resolve")).count(), 4);
    scene.model("a/b").unwrap();
    assert!(lines(&scene).iter().all(|line| line.contains("/api/")), "nothing is downloaded twice");
    scene.model(&format!("a/b@{COMMIT}")).unwrap();
    assert_eq!(lines(&scene), [""; 0], "a commit that is in the cache needs no hub");
}

#[test]
fn branches_tags_and_commits_are_revisions() {
    let scene = HubScene::new();
    let folder = scene.model("a/b").unwrap();
    for revision in ["v1.0", "refs/pr/1", COMMIT] {
        assert_eq!(scene.model(&format!("a/b@{revision}")).unwrap(), folder);
    }
    assert_eq!(fs::read_to_string(scene.at("models--a--b/refs/refs/pr/1")).unwrap(), COMMIT);
    let refusal = scene.refusal("a/b@v2");
    assert!(refusal.contains("a/b has no revision v2") && refusal.contains("/a/b/tree/main lists"), "{refusal}");
}

#[test]
fn the_token_stays_with_the_hub() {
    let scene = HubScene::new();
    scene.model("a/b").unwrap();
    let seen = scene.hub.seen();
    let (second, first): (Vec<_>, Vec<_>) = seen.iter().partition(|seen| seen.is_second);
    assert!(first.len() > 3 && first.iter().all(|seen| seen.token.as_deref() == Some("Bearer hf_secret")));
    assert!(!second.is_empty() && second.iter().all(|seen| seen.token.is_none()), "{second:?}");
}

#[test]
fn a_download_that_is_cut_continues_where_it_ended() {
    let scene = HubScene::new();
    scene.hub.fail(&format!("GET /a/b/{COMMIT}/model.safetensors"), Fault::CutAfter(50_000), 3);
    let folder = scene.model("a/b").unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    let ranges: Vec<_> = scene.hub.seen().into_iter().filter(|seen| seen.is_second).map(|seen| seen.range).collect();
    let wanted = [None, Some("bytes=50000-"), Some("bytes=100000-"), Some("bytes=150000-")];
    assert_eq!(ranges, wanted.map(|range| range.map(str::to_owned)));
    assert!(scene.notes.all().contains("warning: model.safetensors arrived up to byte 50000 of 200000"));
}

#[test]
fn a_part_of_an_earlier_process_is_resumed_and_a_wrong_one_is_downloaded_again() {
    for (part, is_right) in [(weights()[..120_000].to_vec(), true), (vec![7; 120_000], false)] {
        let scene = HubScene::new();
        let blobs = scene.at("models--a--b/blobs");
        fs::create_dir_all(&blobs).unwrap();
        gptkit_data::disk::write(&blobs.join(format!("{}.incomplete", hash_of(&weights(), true))), &part).unwrap();
        let folder = scene.model("a/b").unwrap();
        assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
        let ranges: Vec<_> =
            scene.hub.seen().into_iter().filter(|seen| seen.is_second).map(|seen| seen.range).collect();
        assert_eq!(ranges[0].as_deref(), Some("bytes=120000-"));
        assert_eq!(
            (ranges.len(), scene.notes.all().contains("arrived damaged")),
            (2 - usize::from(is_right), !is_right)
        );
    }
}

#[test]
fn a_host_without_ranges_sends_the_whole_again() {
    let scene = HubScene::new();
    let path = format!("GET /a/b/{COMMIT}/model.safetensors");
    scene.hub.fail(&path, Fault::CutAfter(50_000), 1);
    scene.hub.fail(&path, Fault::NoRange, 1);
    let folder = scene.model("a/b").unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
}

#[test]
fn damaged_files_get_no_name() {
    for path in ["model.safetensors", "tokenizer.json"] {
        let scene = HubScene::new();
        let is_large = path == "model.safetensors";
        let host = if is_large { format!("GET /a/b/{COMMIT}") } else { "resolve".to_owned() };
        scene.hub.fail(&host, Fault::WrongBytes, 9);
        let refusal = scene.refusal("a/b");
        assert!(refusal.contains("arrived damaged: its ") && refusal.contains("downloaded twice"), "{refusal}");
        let folder = scene.at(&format!("models--a--b/snapshots/{COMMIT}"));
        assert!(!folder.join(path).exists());
        assert_eq!(scene.at("models--a--b/refs/main").exists(), is_large, "the small files came before");
    }
}

#[test]
fn files_of_another_size_or_hash_than_the_list_says_are_refused() {
    for (size, says) in [(Some(199_999), "is 200000 bytes long, but the hub lists 199999"), (None, "arrived damaged")] {
        let hash = size.is_none().then(|| "ab".repeat(32));
        let file = StubFile { listed_size: size, listed_hash: hash, ..StubFile::new("model.safetensors", weights()) };
        let refusal = HubScene::with(vec![StubFile::new("config.json", "{}"), file]).refusal("a/b");
        assert!(refusal.contains(says), "{refusal}");
    }
}

#[test]
fn a_body_without_an_end_is_cut_at_its_size() {
    let scene = HubScene::new();
    scene.hub.fail(&format!("GET /a/b/{COMMIT}/model.safetensors"), Fault::Endless, 1);
    let refusal = scene.refusal("a/b");
    assert!(refusal.contains("longer than the 200000 bytes that the hub lists"), "{refusal}");
    let blobs = fs::read_dir(scene.at("models--a--b/blobs")).unwrap();
    let bytes: u64 = blobs.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes < 200_000, "{bytes}");
    scene.hub.fail("/tree/", Fault::Endless, 1);
    let refusal = scene.refusal("a/b");
    assert!(refusal.contains("is larger than 68 MB"), "{refusal}");
}

#[test]
fn a_host_that_does_not_answer_is_given_up() {
    let scene = HubScene::new();
    scene.hub.fail("/revision/", Fault::Slow(Duration::from_secs(3)), 1);
    scene.model("a/b").unwrap();
    assert!(scene.notes.all().contains("cannot be reached: timeout"), "{}", scene.notes.all());
}

#[test]
fn refusals_that_pass_are_repeated_and_retry_after_is_obeyed() {
    let scene = HubScene::new();
    scene.hub.fail("/tree/", Fault::Status(503, "a", "b"), 2);
    scene.hub.fail("/revision/", Fault::Status(429, "retry-after", "1"), 1);
    let begin = std::time::Instant::now();
    scene.model("a/b").unwrap();
    assert!(begin.elapsed() >= Duration::from_secs(1));
    let notes = scene.notes.all();
    assert!(notes.contains("limits the rate of requests (429 Too Many Requests); trying again in 1 s"), "{notes}");
    scene.hub.seen();
    scene.hub.fail("/revision/", Fault::Status(503, "a", "b"), 99);
    let refusal = scene.refusal("a/b");
    assert!(refusal.contains("gave up after 5 attempts") && refusal.contains("503"), "{refusal}");
    assert_eq!(scene.hub.seen().len(), 5);
}

#[test]
fn a_hub_that_asks_for_an_hour_is_not_waited_for() {
    let scene = HubScene::new();
    scene.hub.fail("/revision/", Fault::Status(429, "retry-after", "3600"), 9);
    let refusal = scene.refusal("a/b");
    assert!(refusal.contains("asks us to wait 3600 s") && refusal.contains("hint: try again later"), "{refusal}");
    assert_eq!(scene.hub.seen().len(), 1);
}

#[test]
fn gated_private_and_missing_repositories_are_told_apart() {
    let scene = HubScene::new();
    let refusal = scene.refusal("a/none");
    assert!(refusal.contains("a/none does not exist on http://127") && refusal.contains("whoami"), "{refusal}");
    for (status, code, says) in [
        (403, "GatedRepo", "a/b is gated: its owner decides who may download it"),
        (401, "GatedRepo", "/a/b with the account of the token in HF_TOKEN"),
        (401, "", "or the token may not use it (401 Unauthorized)"),
    ] {
        scene.hub.fail("/revision/", Fault::Status(status, "x-error-code", code), 1);
        let refusal = scene.refusal("a/b");
        assert!(refusal.contains(says), "{refusal}");
    }
    let settings = HubSettings { token: None, ..scene.settings() };
    scene.hub.fail("/revision/", Fault::Status(401, "x-error-code", "GatedRepo"), 1);
    let refusal = Hub::new(&settings, &scene.notes).model(&HubName::model("a/b").unwrap(), &Anything).unwrap_err();
    assert!(refusal.to_string().contains("/a/b, then set HF_TOKEN to a token of your account"), "{refusal}");
    assert_eq!(scene.hub.seen().last().unwrap().token, None);
}

#[test]
fn hostile_names_are_refused_before_anything_is_written() {
    for path in ["../../etc/x", "/etc/x", "a/../../x", "C:\\x"] {
        let scene = HubScene::with(vec![StubFile::new("config.json", "{}"), StubFile::new(path, "x")]);
        let refusal = scene.refusal("a/b");
        assert!(refusal.contains("leads out of the repository's folder; nothing was downloaded"), "{refusal}");
        assert_eq!(fs::read_dir(scene.folder.path()).unwrap().count(), 0);
    }
}

#[test]
fn pickles_are_refused_by_name() {
    let files = vec![StubFile::new("config.json", "{}"), StubFile::new("pytorch_model.bin", "x")];
    let scene = HubScene::with(files);
    let refusal = scene.refusal("a/b");
    assert!(refusal.contains("a/b has its weights only as pytorch_model.bin, a pickle"), "{refusal}");
    assert!(refusal.contains("hint: use a revision with model.safetensors"), "{refusal}");
    assert!(scene.hub.seen().iter().all(|seen| !seen.line.contains(".bin")));
}

#[test]
fn split_weights_are_downloaded_as_their_index_says() {
    let index = r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
    let files = vec![
        StubFile::new("config.json", "{}"),
        StubFile::new("model.safetensors.index.json", index),
        StubFile::new("model-1.safetensors", "1"),
        StubFile::new("model-2.safetensors", "2"),
        StubFile::new("other.safetensors", "3"),
    ];
    let scene = HubScene::with(files);
    let folder = scene.model("a/b").unwrap();
    assert_eq!(fs::read(folder.join("model-2.safetensors")).unwrap(), b"2");
    assert!(!folder.join("other.safetensors").exists());
    scene.hub.change(|commits| commits[0].files.retain(|file| file.path != "model-2.safetensors"));
    fs::remove_dir_all(scene.at("models--a--b")).unwrap();
    assert!(scene.refusal("a/b").contains("has no model-2.safetensors, which its model.safetensors.index.json names"));
}

#[test]
fn offline_the_cache_alone_is_read_and_without_a_network_it_takes_the_hubs_place() {
    let scene = HubScene::new();
    let name = HubName::model("a/b").unwrap();
    let offline = HubSettings { offline: true, ..scene.settings() };
    let refusal = format!("{:#}", Hub::new(&offline, &scene.notes).model(&name, &Anything).unwrap_err());
    assert!(refusal.contains("nothing is downloaded offline") && refusal.contains("gptkit pull a/b"), "{refusal}");
    let folder = scene.model("a/b").unwrap();
    scene.hub.seen();
    assert_eq!(Hub::new(&offline, &scene.notes).model(&name, &Anything).unwrap(), folder);
    assert_eq!(scene.hub.seen(), []);
    let gone = HubSettings { endpoint: "http://127.0.0.1:1".to_owned(), ..scene.settings() };
    assert_eq!(Hub::new(&gone, &scene.notes).model(&name, &Anything).unwrap(), folder);
    assert!(scene.notes.all().contains("which was downloaded before"), "{}", scene.notes.all());
    let other = HubName::model("a/c").unwrap();
    let refusal = format!("{:#}", Hub::new(&gone, &scene.notes).model(&other, &Anything).unwrap_err());
    assert!(refusal.contains("http://127.0.0.1:1 cannot be reached") && refusal.contains("HTTPS_PROXY"), "{refusal}");
    let refused = scene.refusal("a/none");
    assert!(!refused.contains("downloaded before"), "{refused}");
}

#[test]
fn new_commits_share_what_did_not_change() {
    let scene = HubScene::new();
    let before = scene.model("a/b").unwrap();
    let mut changed =
        model(vec![StubFile::new("config.json", "{\"n\": 1}"), StubFile::new("model.safetensors", weights())]);
    changed.commit = "2".repeat(40);
    scene.hub.change(|commits| commits.push(changed));
    scene.hub.seen();
    let after = scene.model("a/b").unwrap();
    assert_ne!(before, after);
    assert!(scene.hub.seen().iter().all(|seen| !seen.is_second), "the weights are there");
    assert_eq!(fs::read(after.join("model.safetensors")).unwrap(), weights());
}

#[test]
fn a_file_that_is_damaged_in_the_cache_is_found_by_its_checksum() {
    let scene = HubScene::new();
    scene.model("a/b").unwrap();
    let blob = scene.at(&format!("models--a--b/blobs/{}", hash_of(&weights(), true)));
    gptkit_data::disk::write(&blob, &vec![1; 200_000]).unwrap();
    let (settings, name) = (scene.settings(), HubName::model("a/b").unwrap());
    let hub = Hub::new(&settings, &scene.notes);
    let listing = hub.list(&name).unwrap();
    let files: Vec<_> =
        listing.files.iter().filter(|file| file.path.ends_with("json") || file.size == 200_000).collect();
    let wrong = hub.verify(&name, &files).unwrap_err().to_string();
    assert!(wrong.contains("model.safetensors of a/b was damaged in the cache, and is removed"), "{wrong}");
    scene.model("a/b").unwrap();
    hub.verify(&name, &files).unwrap();
}

#[test]
fn two_processes_download_a_file_once() {
    let scene = HubScene::new();
    std::thread::scope(|scope| {
        let both = [0, 1].map(|_| scope.spawn(|| scene.model("a/b").unwrap()));
        let folders = both.map(|one| one.join().unwrap());
        assert_eq!(folders[0], folders[1]);
    });
    assert_eq!(scene.hub.seen().iter().filter(|seen| seen.is_second).count(), 1);
}

#[test]
fn files_of_data_sets_are_downloaded_alone() {
    let commit = StubCommit {
        repository: "datasets/o/d".to_owned(),
        commit: COMMIT.to_owned(),
        revisions: vec!["main".to_owned()],
        files: vec![StubFile::new("x/[1].jsonl", "{}"), StubFile::new("x/1.jsonl", "{\"a\": 1}")],
    };
    let hub = StubHub::start(vec![commit]);
    let folder = tempfile::tempdir().unwrap();
    let notes = Notes::default();
    let variables = |name: &str| match name {
        "HF_ENDPOINT" => Some(hub.url.clone()),
        "HF_HUB_CACHE" => Some(folder.path().to_str().unwrap().to_owned()),
        _ => None,
    };
    let settings = HubSettings::new(&variables);
    let (name, file) = HubName::dataset_file("o/d/x/[1].jsonl").unwrap();
    let path = Hub::new(&settings, &notes).dataset_file(&name, &file).unwrap();
    assert_eq!(path, folder.path().join(format!("datasets--o--d/snapshots/{COMMIT}/x/[1].jsonl")));
    assert_eq!(fs::read(&path).unwrap(), b"{}");
    let missing = Hub::new(&settings, &notes).dataset_file(&name, "y.jsonl").unwrap_err().to_string();
    assert!(missing.contains("o/d has no file y.jsonl") && missing.contains("its files are x/[1].jsonl"), "{missing}");
    assert!(Hub::new(&settings, &notes).dataset_file(&name, "../y").is_err());
}

#[test]
fn a_disk_without_room_is_noticed_before_the_download() {
    let folder = tempfile::tempdir().unwrap();
    let said = crate::hub::check_room(folder.path(), u64::MAX / 2).unwrap_err().to_string();
    assert!(said.contains("free") && said.contains("HF_HOME"), "{said}");
    crate::hub::check_room(folder.path(), 1000).unwrap();
}
