//! What the environment says about the hub, with the variables of `huggingface_hub`.

use gptkit_data::disk;
use std::path::PathBuf;
use std::time::Duration;

/// Names of the variables that [`HubSettings::new`] looks up, beside HOME and XDG_CACHE_HOME, and their effects in Markdown.
pub const VARIABLES: [(&str, &str); 7] = [
    ("HF_ENDPOINT", "address of the hub; by default, `https://huggingface.co`"),
    ("HF_TOKEN", "token for private and gated repositories; by default, the contents of the token file"),
    ("HF_TOKEN_PATH", "token file; by default, `token` in `HF_HOME`, where `hf auth login` writes it"),
    ("HF_HOME", "folder of the hub's cache and token; by default, `~/.cache/huggingface`"),
    ("HF_HUB_CACHE", "folder of downloaded files, shared with `huggingface_hub`; by default, `hub` in `HF_HOME`"),
    ("HUGGINGFACE_HUB_CACHE", "the same where `HF_HUB_CACHE` is not set"),
    ("HF_HUB_OFFLINE", "with 1, models and data sets of the hub are only read from the cache"),
];

/// How the hub is reached, and where its files are kept.
#[derive(Clone)]
pub struct HubSettings {
    /// Address of the hub, without a slash at its end.
    pub endpoint: String,
    /// Folder of downloaded files.
    pub cache: PathBuf,
    /// Token, if there is one.
    pub token: Option<String>,
    /// Whether nothing is downloaded.
    pub offline: bool,
    /// First pause before a request is repeated; it doubles.
    pub pause: Duration,
    /// Longest time until an answer begins. A download is cut and resumed after four times as long.
    pub patience: Duration,
}

impl HubSettings {
    /// The settings that `variable` gives, which returns the value of an environment variable.
    pub fn new(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let home = PathBuf::from(set("HOME").unwrap_or_else(|| ".".to_owned()));
        let path = |value: String| value.strip_prefix("~/").map_or(PathBuf::from(&value), |rest| home.join(rest));
        let caches = set("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), path);
        let hf_home = set("HF_HOME").map_or_else(|| caches.join("huggingface"), path);
        let cache = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE"));
        let token_file = set("HF_TOKEN_PATH").map_or_else(|| hf_home.join("token"), path);
        let token = set("HF_TOKEN").or_else(|| disk::read_description(&token_file).ok());
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let is_true = |value: String| ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str());
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: cache.map_or_else(|| hf_home.join("hub"), path),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            offline: set("HF_HUB_OFFLINE").is_some_and(is_true),
            pause: Duration::from_secs(1),
            patience: Duration::from_secs(30),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn of(variables: &[(&str, &str)]) -> HubSettings {
        HubSettings::new(&|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_cache_is_where_huggingface_hub_has_it() {
        let cache = |variables: &[(&str, &str)]| of(variables).cache;
        assert_eq!(cache(&[("HOME", "/h")]), Path::new("/h/.cache/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/h"), ("HF_HOME", "~/hf")]), Path::new("/h/hf/hub"));
        assert_eq!(cache(&[("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/b")]), Path::new("/b"));
        assert_eq!(cache(&[("HUGGINGFACE_HUB_CACHE", "/b"), ("HF_HUB_CACHE", "/c")]), Path::new("/c"));
    }

    #[test]
    fn the_token_is_in_the_environment_or_in_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        assert_eq!(of(&[("HF_HOME", home)]).token, None);
        disk::write(&folder.path().join("token"), b"hf_file\n").unwrap();
        assert_eq!(of(&[("HF_HOME", home)]).token.as_deref(), Some("hf_file"));
        assert_eq!(of(&[("HF_HOME", home), ("HF_TOKEN", "hf_env")]).token.as_deref(), Some("hf_env"));
    }

    #[test]
    fn offline_and_endpoint_are_read_as_in_python() {
        let settings = of(&[("HF_ENDPOINT", "http://x:1/"), ("HF_HUB_OFFLINE", "yes")]);
        assert_eq!((settings.endpoint.as_str(), settings.offline), ("http://x:1", true));
        assert!(!of(&[("HF_HUB_OFFLINE", "0")]).offline);
        assert_eq!(of(&[]).endpoint, "https://huggingface.co");
    }
}
