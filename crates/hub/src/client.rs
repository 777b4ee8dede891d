//! Requests to the hub: which hosts get the token, how redirects are followed, when a request is repeated, and what a
//! refusal means.

use crate::name::HubName;
use crate::settings::HubSettings;
use anyhow::{Result, anyhow};
use gptkit_data::format::needed_bytes;
use gptkit_data::progress::Progress;
use serde_json::Value;
use std::io::Read;
use std::time::Duration;
use ureq::http::{Response, Uri};
use ureq::{Agent, Body};

/// Attempts at a request that get nothing further.
const ATTEMPTS: u32 = 5;
/// Redirects that are followed.
const REDIRECTS: usize = 5;
/// The longest time that the hub may ask us to wait.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Bytes of the largest answer of the API.
const LARGEST_ANSWER: u64 = 64 << 20;

/// The hub did not answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unreachable(String);

/// Why an attempt failed.
#[derive(Debug)]
pub(crate) enum FailedAttempt {
    /// Another attempt would fail as well.
    Final(anyhow::Error),
    /// Another attempt may succeed, not before the time that the hub asks for, if it does.
    Temporary {
        /// What happened.
        error: anyhow::Error,
        /// The time to wait.
        wait: Option<Duration>,
        /// Whether the attempt got a part of what it wants.
        advanced: bool,
    },
}

impl FailedAttempt {
    pub(crate) fn temporary(error: anyhow::Error) -> Self {
        Self::Temporary { error, wait: None, advanced: false }
    }
}

impl<E: Into<anyhow::Error>> From<E> for FailedAttempt {
    fn from(error: E) -> Self {
        Self::Final(error.into())
    }
}

/// The body of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sent<'a> {
    /// Nothing: a GET.
    Nothing,
    /// A POST of JSON, or of what the given type says.
    Post(&'a [u8], &'static str),
    /// A PUT of a part of a file: its name, first byte and length.
    Put(&'a std::path::Path, u64, u64),
}

/// A connection to the hub.
#[derive(Debug)]
pub(crate) struct HubClient {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    pause: Duration,
}

impl HubClient {
    pub(crate) fn new(settings: &HubSettings) -> Self {
        let config = Agent::config_builder()
            .timeout_connect(Some(settings.patience))
            .timeout_recv_response(Some(settings.patience))
            .timeout_recv_body(Some(settings.patience * 4))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("gptkit/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            agent: config.into(),
            endpoint: settings.endpoint.clone(),
            token: settings.token.clone(),
            pause: settings.pause,
        }
    }

    /// Address of the hub.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Whether requests have a token.
    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Sends a request to `url` and follows redirects of GET requests. The hub's own host alone gets the token.
    pub(crate) fn send(
        &self,
        url: &str,
        sent: Sent,
        headers: &[(&str, String)],
    ) -> Result<Response<Body>, FailedAttempt> {
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS {
            let response = self.send_once(&url, sent, headers)?;
            let location = response.headers().get("location").and_then(|value| value.to_str().ok());
            match location {
                Some(location) if response.status().is_redirection() && matches!(sent, Sent::Nothing) => {
                    url = joined(&url, location)?;
                }
                _ => return Ok(response),
            }
        }
        Err(anyhow!("{url} redirects more than {REDIRECTS} times").into())
    }

    fn send_once(&self, url: &str, sent: Sent, headers: &[(&str, String)]) -> Result<Response<Body>, FailedAttempt> {
        let method = match sent {
            Sent::Nothing => "GET",
            Sent::Post(..) => "POST",
            Sent::Put(..) => "PUT",
        };
        let mut request = ureq::http::Request::builder().method(method).uri(url).header("accept-encoding", "identity");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if let Some(token) = self.token.as_ref().filter(|_| is_same_host(url, &self.endpoint)) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let answer = match sent {
            Sent::Nothing => self.agent.run(request.body(())?),
            Sent::Post(body, kind) => self.agent.run(request.header("content-type", kind).body(body)?),
            Sent::Put(path, from, n) => {
                use std::io::Seek;
                let mut file = gptkit_data::disk::open(path)?;
                file.seek(std::io::SeekFrom::Start(from))?;
                let body = ureq::SendBody::from_owned_reader(file.take(n));
                self.agent.run(request.header("content-length", n).body(body)?)
            }
        };
        answer.map_err(|e| {
            let error = Unreachable(format!("{} cannot be reached: {e}", host(url)));
            match e {
                ureq::Error::BadUri(_) | ureq::Error::Http(_) => FailedAttempt::Final(error.into()),
                _ => FailedAttempt::temporary(error.into()),
            }
        })
    }

    /// The same for the API: returns the JSON of a successful answer, and the address of the next page if there is one.
    /// `name` is the repository that it is about.
    pub(crate) fn json(
        &self,
        url: &str,
        sent: Sent,
        headers: &[(&str, String)],
        name: &HubName,
    ) -> Result<(Value, Option<String>), FailedAttempt> {
        let mut response = self.send(url, sent, headers)?;
        if !response.status().is_success() {
            return Err(self.refusal(&mut response, name, url));
        }
        let next = response.headers().get("link").and_then(|link| link.to_str().ok()).and_then(next_page);
        let next = next.map(|next| joined(url, next)).transpose()?;
        let body = response.body_mut().with_config().limit(LARGEST_ANSWER).read_to_vec();
        let body = body.map_err(|e| match e {
            ureq::Error::BodyExceedsLimit(limit) => {
                FailedAttempt::Final(anyhow!("the answer of {url} is larger than {}", needed_bytes(limit)))
            }
            e => FailedAttempt::temporary(anyhow!("the answer of {url} cannot be read: {e}")),
        })?;
        let json = serde_json::from_slice(&body).map_err(|e| {
            anyhow!("{url} answered with something other than JSON ({e})\n  hint: is HF_ENDPOINT a Hugging Face hub?")
        })?;
        Ok((json, next))
    }

    /// What an answer other than success to a request for `what` in `name` means.
    pub(crate) fn refusal(&self, response: &mut Response<Body>, name: &HubName, what: &str) -> FailedAttempt {
        let header = |key: &str| response.headers().get(key).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (code, message, wait) = (header("x-error-code"), header("x-error-message"), header("retry-after"));
        let status = response.status();
        let body = response.body_mut().with_config().limit(1 << 16).read_to_string().unwrap_or_default();
        let of_body = || Some(serde_json::from_str::<Value>(&body).ok()?["error"].as_str()?.to_owned());
        let said = message.or_else(of_body).map(|said| format!(": {said}")).unwrap_or_default();
        let (endpoint, page) = (&self.endpoint, format!("{}/{}", self.endpoint, name.path()));
        let (what, hint) = match (status.as_u16(), code.as_deref()) {
            (_, Some("GatedRepo")) => (
                format!("{name} is gated: its owner decides who may download it{said}"),
                match self.has_token() {
                    false => format!("accept its terms at {page}, then set HF_TOKEN to a token of your account"),
                    true => format!("accept its terms at {page} with the account of the token in HF_TOKEN"),
                },
            ),
            (404, Some("RevisionNotFound")) => (
                format!("{} has no revision {} on {endpoint}{said}", name.repository, name.revision),
                format!("{page}/tree/main lists the branches and tags"),
            ),
            (404, Some("EntryNotFound")) => {
                (format!("{name} has no file {what}{said}"), format!("{page}/tree/main lists its files"))
            }
            (401 | 403 | 404, _) if self.has_token() => (
                format!("{name} does not exist on {endpoint}, or the token may not use it ({status}){said}"),
                "check the name; `hf auth whoami` shows the account of the token".to_owned(),
            ),
            (401 | 403 | 404, _) => (
                format!("{name} does not exist on {endpoint}, or is private ({status}){said}"),
                "check the name; for a private repository, set HF_TOKEN".to_owned(),
            ),
            (429, _) => {
                let hint = if self.has_token() { "try again later" } else { "set HF_TOKEN, which raises the limit" };
                (format!("{endpoint} limits the rate of requests ({status}){said}"), hint.to_owned())
            }
            (408 | 500.., _) => (format!("{endpoint} failed at {what} ({status}){said}"), "try again later".to_owned()),
            _ => return anyhow!("{endpoint} refused {what} ({status}){said}").into(),
        };
        let error = anyhow!("{what}\n  hint: {hint}");
        match status.as_u16() {
            408 | 429 | 500.. => {
                let wait = wait.and_then(|seconds| seconds.trim().parse().ok()).map(Duration::from_secs);
                FailedAttempt::Temporary { error, wait, advanced: false }
            }
            _ => FailedAttempt::Final(error),
        }
    }

    /// Repeats `attempt` until it succeeds, fails for good, or fails several times in a row without getting further.
    pub(crate) fn repeated<T>(
        &self,
        progress: &dyn Progress,
        mut attempt: impl FnMut() -> Result<T, FailedAttempt>,
    ) -> Result<T> {
        let mut failed = 0;
        loop {
            let (error, wait) = match attempt() {
                Ok(result) => return Ok(result),
                Err(FailedAttempt::Final(error)) => return Err(error),
                Err(FailedAttempt::Temporary { error, wait, advanced }) => {
                    failed = if advanced { 1 } else { failed + 1 };
                    (error, wait)
                }
            };
            let wait = wait.unwrap_or(self.pause * (1 << (failed - 1).min(8)));
            if wait > LONGEST_WAIT {
                return Err(error.context(format!("the hub asks us to wait {} s", wait.as_secs())));
            }
            if failed >= ATTEMPTS {
                return Err(error.context(format!("gave up after {ATTEMPTS} attempts")));
            }
            let reason = format!("{error:#}");
            let reason = reason.lines().next().unwrap_or_default();
            progress.warn(&format!("{reason}; trying again in {:.0} s", wait.as_secs_f64().ceil()));
            std::thread::sleep(wait);
        }
    }
}

/// Scheme, host and port of a URL.
fn host(url: &str) -> String {
    let uri: Option<Uri> = url.parse().ok();
    let of = |uri: Uri| Some(format!("{}://{}", uri.scheme_str()?, uri.authority()?.as_str().rsplit('@').next()?));
    uri.and_then(of).map_or_else(|| url.to_owned(), |host| host.to_lowercase())
}

fn is_same_host(url: &str, endpoint: &str) -> bool {
    let with_port = |url: &str| {
        let host = host(url);
        match (host.matches(':').count(), host.starts_with("https")) {
            (1, true) => host + ":443",
            (1, false) => host + ":80",
            _ => host,
        }
    };
    with_port(url) == with_port(endpoint)
}

/// The address that `location` means on the page `url`.
fn joined(url: &str, location: &str) -> Result<String> {
    if location.starts_with('/') && !location.starts_with("//") {
        return Ok(host(url) + location);
    }
    let is_web = ["http://", "https://"].iter().any(|scheme| location.starts_with(scheme));
    let is_safe = !url.starts_with("https://") || location.starts_with("https://");
    anyhow::ensure!(is_web && is_safe, "{url} redirects to {location}, which is not followed");
    Ok(location.to_owned())
}

/// The address of the next page in a `Link` header.
fn next_page(link: &str) -> Option<&str> {
    link.split(',').find(|one| one.contains("rel=\"next\""))?.split_once('<')?.1.split_once('>').map(|(url, _)| url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_for_scheme_host_and_port_of_the_hub() {
        let same = |url| is_same_host(url, "https://huggingface.co");
        assert!(same("https://huggingface.co/a") && same("https://HUGGINGFACE.co:443/a"));
        for other in [
            "http://huggingface.co/a",
            "https://huggingface.co:444/a",
            "https://huggingface.co.evil.com/",
            "https://evil.com/huggingface.co",
            "https://huggingface.co@evil.com/",
            "not a url",
        ] {
            assert!(!same(other), "{other}");
        }
    }

    #[test]
    fn redirects_lead_to_pages_of_the_same_or_a_safer_scheme() {
        assert_eq!(joined("http://a:1/b/c", "/d").unwrap(), "http://a:1/d");
        assert_eq!(joined("http://a/b", "https://e/f").unwrap(), "https://e/f");
        for wrong in ["http://e/f", "file:///etc/passwd", "//evil.com/x", "x"] {
            assert!(joined("https://a/b", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_next_page_is_in_the_link_header() {
        assert_eq!(next_page("<https://a/b?cursor=x>; rel=\"next\""), Some("https://a/b?cursor=x"));
        assert_eq!(next_page("<https://a/b>; rel=\"prev\""), None);
    }
}
