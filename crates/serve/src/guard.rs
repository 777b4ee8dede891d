//! Who may ask: the names by which the server may be called, pages of other origins, and keys.

use crate::api::error::ApiError;
use crate::page;
use crate::settings::{ApiKey, ServerSettings};
use axum::http::{HeaderMap, Method, StatusCode, header};
use gptkit_feedback::people::AccessRole;
use percent_encoding::percent_decode_str;
use std::net::IpAddr;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Paths that everybody may read.
const PUBLIC: [&str; 2] = ["/health", "/v1/health"];

/// The header in which a page says who uses it, where there are no keys.
const PERSON: &str = "x-gptkit-person";
/// Characters of a name.
const LONGEST_NAME: usize = 64;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Requester {
    /// What tells clients apart, for a fair share of the server.
    pub(crate) client: Arc<str>,
    /// The name that feedback is stored under.
    pub(crate) name: String,
    /// What they may do.
    pub(crate) role: AccessRole,
}

/// Whether a request may be answered; returns who asks.
pub(crate) fn check(
    settings: &ServerSettings,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    peer: IpAddr,
) -> Result<Requester, ApiError> {
    check_host(settings, headers)?;
    check_origin(settings, headers)?;
    let is_public = PUBLIC.contains(&path) || page::is_part(path) || method == Method::OPTIONS;
    if is_public || settings.keys.is_empty() {
        let name = named(headers)?;
        return Ok(Requester { client: peer.to_string().into(), name, role: settings.open_role });
    }
    check_key(settings, headers)
}

/// The name that a page says.
fn named(headers: &HeaderMap) -> Result<String, ApiError> {
    let Some(header) = headers.get(PERSON) else { return Ok("user".to_owned()) };
    let text = header.to_str().ok().and_then(|text| percent_decode_str(text).decode_utf8().ok());
    let name = text.as_deref().unwrap_or_default().trim();
    if name.is_empty() || name.chars().count() > LONGEST_NAME || name.chars().any(char::is_control) {
        let message = format!("{PERSON} must be a name of 1 to {LONGEST_NAME} characters, percent-encoded");
        return Err(ApiError::invalid(PERSON, message));
    }
    Ok(name.to_owned())
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// A page of another origin can have a browser ask for any name that resolves to this machine (DNS rebinding): only addresses
/// and known names are accepted.
fn check_host(settings: &ServerSettings, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(host) = text(headers, header::HOST) else {
        return Err(ApiError::bad("host_missing", "the request has no Host header"));
    };
    let name = host_name(host);
    let is_address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    let is_allowed = settings.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(name));
    if is_address || name.eq_ignore_ascii_case("localhost") || is_allowed {
        return Ok(());
    }
    let message = format!("the server is not called {name}; start it with --allowed-host {name} to accept this name");
    Err(ApiError::forbidden("host_not_allowed", message))
}

/// `host` without its port.
fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.chars().all(|c| c.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

/// Pages of other origins may not ask, unless their origin was named.
fn check_origin(settings: &ServerSettings, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(origin) = text(headers, header::ORIGIN) else { return Ok(()) };
    let own = text(headers, header::HOST).is_some_and(|host| origin == format!("http://{host}"));
    if own || settings.cors_origins.iter().any(|allowed| allowed == origin) {
        return Ok(());
    }
    let message =
        format!("pages of {origin} may not use this server; start it with --cors-origin {origin} to allow it");
    Err(ApiError::forbidden("origin_not_allowed", message))
}

/// Compares the key with every key that is known, in constant time. Returns who has it.
fn check_key(settings: &ServerSettings, headers: &HeaderMap) -> Result<Requester, ApiError> {
    let bearer = text(headers, header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    let given = bearer.or_else(|| headers.get("x-api-key").and_then(|value| value.to_str().ok())).unwrap_or_default();
    let given = blake3::hash(given.trim().as_bytes());
    let mut found = None;
    for (number, key) in settings.keys.iter().enumerate() {
        if bool::from(blake3::hash(key.secret.as_bytes()).as_bytes().ct_eq(given.as_bytes())) {
            found = Some((number, key));
        }
    }
    let person = |(number, key): (usize, &ApiKey)| Requester {
        client: format!("key {number}").into(),
        name: key.name.clone(),
        role: key.role,
    };
    found.map(person).ok_or_else(|| {
        let message = "the API key is missing or wrong; send it as Authorization: Bearer KEY";
        ApiError::new(StatusCode::UNAUTHORIZED, "authentication_error", "invalid_api_key", message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(settings: &ServerSettings, path: &str, headers: &[(&str, &str)]) -> Result<String, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(header::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        check(settings, &Method::POST, path, &map, [127, 0, 0, 1].into())
            .map(|person| person.client.to_string())
            .map_err(|e| e.body.code.unwrap_or_default().to_owned())
    }

    #[test]
    fn only_names_of_this_server_are_accepted() {
        let settings = ServerSettings { allowed_hosts: vec!["gpt.example".to_owned()], ..ServerSettings::default() };
        for host in ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "192.168.1.5", "gpt.example:1"] {
            assert_eq!(asked(&settings, "/v1/models", &[("host", host)]).as_deref(), Ok("127.0.0.1"), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:80", "127.0.0.1.evil.example", ""] {
            assert_eq!(asked(&settings, "/v1/models", &[("host", host)]), Err("host_not_allowed".to_owned()), "{host}");
        }
        assert_eq!(asked(&settings, "/v1/models", &[]), Err("host_missing".to_owned()));
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        let settings =
            ServerSettings { cors_origins: vec!["https://ui.example".to_owned()], ..ServerSettings::default() };
        let from = |origin: &str| asked(&settings, "/v1/models", &[("host", "localhost:8000"), ("origin", origin)]);
        assert!(from("http://localhost:8000").is_ok() && from("https://ui.example").is_ok());
        for origin in ["http://localhost:3000", "https://evil.example", "null"] {
            assert_eq!(from(origin), Err("origin_not_allowed".to_owned()), "{origin}");
        }
    }

    #[test]
    fn a_key_is_needed_where_there_are_keys() {
        let key = |secret: &str| ApiKey { secret: secret.to_owned(), name: secret.to_owned(), role: AccessRole::User };
        let keys = vec![key("one"), key("two")];
        let settings = ServerSettings { keys, ..ServerSettings::default() };
        let with = |name: &str, value: &str| asked(&settings, "/v1/models", &[("host", "localhost"), (name, value)]);
        assert_eq!(with("authorization", "Bearer two").as_deref(), Ok("key 1"));
        assert_eq!(with("x-api-key", "one").as_deref(), Ok("key 0"));
        for (name, value) in [("authorization", "Bearer three"), ("authorization", "two"), ("x-other", "one")] {
            assert_eq!(with(name, value), Err("invalid_api_key".to_owned()), "{name}: {value}");
        }
        assert!(asked(&settings, "/health", &[("host", "localhost")]).is_ok(), "health is public");
    }
}
