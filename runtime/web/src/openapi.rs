//! The description of the interface, for those who write clients.

use crate::{rest, v1};
use utoipa::OpenApi;
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{RefOr, Response};

#[derive(OpenApi)]
#[openapi(info(
    title = "streamrt",
    description = "Jobs of a streamrt cluster. What is tagged `flink` answers as Flink's REST interface does, for reading, and its fields are described there; errors are `{\"errors\": [\"...\"]}`. Everything else answers with a failure that has a stable code. `/metrics` is for Prometheus."
))]
struct Description;

/// All paths that answer with JSON, with a line end.
pub fn openapi() -> String {
    let mut all = Description::openapi();
    all.merge(v1::Description::openapi());
    all.merge(rest::Description::openapi());
    for item in all.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.head, &mut item.put, &mut item.post];
        for operation in operations.into_iter().flatten() {
            let takes_json = match &mut operation.request_body {
                Some(RefOr::T(body)) => takes_json(body),
                _ => false,
            };
            let responses = &mut operation.responses.responses;
            let mut add = |status: &str, why: &str| {
                let response = RefOr::T(Response::new(why));
                responses.entry(status.into()).or_insert(response);
            };
            add(
                "403",
                "the request names another host, or comes from a page of another origin",
            );
            if takes_json {
                add("400", "the body is not what the path takes");
                add("413", "the body is too large");
                add("415", "the body is of another type");
            }
            for (status, response) in responses.iter_mut() {
                let RefOr::T(response) = response else {
                    continue;
                };
                if response.description.is_empty() {
                    response.description = meaning(status).to_owned();
                }
            }
        }
    }
    let json = all.to_pretty_json();
    // It is made of literals and derived schemas.
    json.map_or_else(|_| String::new(), |json| json + "\n")
}

/// Whether a body is JSON; one of other bytes is described as such.
fn takes_json(body: &mut RequestBody) -> bool {
    let Some(RefOr::T(content)) = body.content.get_mut("application/wasm") else {
        return true;
    };
    let bytes = ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)));
    content.schema = Some(bytes.build().into());
    false
}

/// What a status says of which nothing else is said.
fn meaning(status: &str) -> &'static str {
    match status {
        "200" => "the answer",
        "202" => "it is begun",
        "404" => "what the path names is not there",
        "409" => "the job is in no state for it",
        _ => "what the body says",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn the_description_that_is_checked_in_is_that_of_the_code() {
        let kept = include_str!("../openapi.json");
        assert!(
            kept == super::openapi(),
            "write it anew with `streamrt docs openapi > runtime/web/openapi.json`"
        );
    }

    #[test]
    fn every_path_is_described() {
        let sources = [include_str!("rest.rs"), include_str!("v1.rs")].join("\n");
        let strings = sources.split(".route(").skip(1);
        let routed = strings.filter_map(|text| text.split('"').nth(1));
        let mut routed: BTreeSet<&str> = routed.collect();
        // What describes, and what refuses commands where nothing may be changed.
        assert!(routed.remove("/v1/openapi.json") && routed.remove("/v1/jobs/{job}/{command}"));
        assert!(routed.len() > 30);
        let text = super::openapi();
        let described: serde_json::Value = serde_json::from_str(&text).unwrap();
        let described = described["paths"].as_object().unwrap().keys();
        assert_eq!(routed, described.map(String::as_str).collect());
    }
}
