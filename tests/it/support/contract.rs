//! Holds answers against the OpenAPI document: what is not described there must not be answered.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

use hyper::Method;
use jsonschema::Validator;
use serde_json::{Value, json};

use super::http::Answer;

static DOCUMENT: LazyLock<Value> = LazyLock::new(natterjack_bridge::openapi);
static VALIDATORS: LazyLock<Mutex<HashMap<String, &'static Validator>>> = LazyLock::new(Mutex::default);

/// Fails where an answer is not as the document says.
pub(crate) fn check(method: &Method, path: &str, answer: &Answer) {
    if let Err(fault) = judge(&DOCUMENT, method, path, answer) {
        panic!("{method} {path}: {fault}: {answer:?}");
    }
}

/// What is wrong with an answer.
pub(crate) fn judge(document: &Value, method: &Method, path: &str, answer: &Answer) -> Result<(), String> {
    let path = path.split('?').next().unwrap();
    let Some((name, item)) = find(document, path) else {
        return if answer.status == 404 {
            Ok(())
        } else {
            Err("no such path".to_owned())
        };
    };
    let Some(operation) = item.get(method.as_str().to_lowercase()) else {
        return if answer.status == 405 {
            Ok(())
        } else {
            Err(format!("{name} has no such method"))
        };
    };
    let (status, is_problem) = (answer.status.to_string(), answer.status >= 400);
    let response = operation["responses"].get(if is_problem { "default" } else { &status });
    let response = response.ok_or_else(|| format!("{name} does not have the status {status}"))?;
    let Some(content) = response["content"].as_object() else {
        return if answer.body.is_empty() {
            Ok(())
        } else {
            Err("a body that is not described".to_owned())
        };
    };
    let given = answer
        .headers
        .get("content-type")
        .map_or("", |value| value.to_str().unwrap());
    let media = given.split(';').next().unwrap();
    let described = content
        .get(media)
        .ok_or_else(|| format!("the media type {media:?} is not described"))?;
    if !media.ends_with("json") {
        return Ok(());
    }
    validate(document, &described["schema"], &answer.json())
}

fn find<'a>(document: &'a Value, path: &str) -> Option<(&'a String, &'a Value)> {
    let parts: Vec<&str> = path.split('/').collect();
    let fits = |pattern: &str| {
        let wanted: Vec<&str> = pattern.split('/').collect();
        let fits = |(wanted, part): (&&str, &&str)| wanted.starts_with('{') || wanted == part;
        wanted.len() == parts.len() && wanted.iter().zip(&parts).all(fits)
    };
    let paths = document["paths"].as_object().unwrap();
    // The pattern with the fewest places that take anything.
    let found = paths.iter().filter(|(pattern, _)| fits(pattern));
    found.min_by_key(|(pattern, _)| pattern.matches('{').count())
}

fn validate(document: &Value, schema: &Value, body: &Value) -> Result<(), String> {
    let key = schema.to_string();
    let known = VALIDATORS.lock().unwrap().get(&key).copied();
    let validator = known.unwrap_or_else(|| {
        let mut schema = schema.clone();
        schema["components"] = document["components"].clone();
        let validator = jsonschema::validator_for(&json!(schema)).unwrap();
        let validator = Box::leak(Box::new(validator));
        VALIDATORS.lock().unwrap().insert(key, validator);
        validator
    });
    validator
        .validate(body)
        .map_err(|error| format!("{error} at {}", error.instance_path()))
}
