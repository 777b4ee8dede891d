//! Uploads: what the hub has afterwards.

use super::{HubScene, weights};
use crate::push::Upload;
use crate::{Hub, HubName, HubSettings};
use anyhow::Result;
use gptkit_data::disk;
use gptkit_testing::stub_hub::Fault;

/// Pushes a small model to `o/new`.
fn push(scene: &HubScene, settings: &HubSettings) -> Result<String> {
    let from = scene.at("from");
    disk::create_dir(&from).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        disk::write(&from.join(name), bytes).unwrap();
        Upload { path: name.to_owned(), file: from.join(name) }
    };
    let files = [write("config.json", b"{}"), write("model.safetensors", &weights()), write("empty.safetensors", b"")];
    Hub::new(settings, &scene.notes).push(&HubName::model("o/new").unwrap(), &files, "a model", true)
}

#[test]
fn a_pushed_folder_is_a_commit_with_all_files() {
    for chunk in [0, 70_000] {
        let scene = HubScene::new();
        scene.hub.upload_in_parts_of(chunk);
        scene.hub.fail("PUT", Fault::Status(503, "a", "b"), 1);
        assert!(push(&scene, &scene.settings()).unwrap().starts_with("http://hub/o/new/commit/"));
        let commit = scene.hub.newest("o/new").unwrap();
        let files: Vec<_> = commit.files.iter().map(|file| (file.path.as_str(), file.is_large)).collect();
        assert_eq!(files, [("config.json", false), ("model.safetensors", true), ("empty.safetensors", false)]);
        assert_eq!(commit.files[1].bytes, weights());
        let seen = scene.hub.seen();
        assert!(seen.iter().all(|seen| seen.token.is_some() != seen.is_second), "{seen:?}");
        assert!(!scene.model("o/new").unwrap().as_os_str().is_empty(), "what was pushed can be pulled");
    }
}

#[test]
fn uploads_need_a_token_and_an_owner() {
    let scene = HubScene::new();
    let said = push(&scene, &HubSettings { token: None, ..scene.settings() }).unwrap_err().to_string();
    assert!(said.contains("there is no token") && said.contains("write access"), "{said}");
    let settings = scene.settings();
    let name = HubName::model("new").unwrap();
    let said = Hub::new(&settings, &scene.notes).push(&name, &[], "m", false).unwrap_err().to_string();
    assert!(said.contains("new has no owner"), "{said}");
    scene.hub.fail("/commit/", Fault::Status(403, "a", "b"), 1);
    let said = push(&scene, &settings).unwrap_err().to_string();
    assert!(said.contains("the token may not use it (403"), "{said}");
    scene.hub.fail("/commit/", Fault::Status(503, "a", "b"), 1);
    let said = push(&scene, &settings).unwrap_err().to_string();
    assert!(said.contains("the commit may not have been made"), "{said}");
}
