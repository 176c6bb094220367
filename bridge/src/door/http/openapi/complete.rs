//! What all paths of the document have in common.

use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, ContentBuilder, Info, License, OpenApi, Ref, RefOr, ResponseBuilder};
use utoipa::{PartialSchema, ToSchema};

use super::Problem;

const PROBLEM: &str = "application/problem+json";

/// What every path has: its problems, and how a caller says who they are.
pub(in super::super) fn complete(mut api: OpenApi) -> OpenApi {
    let mut info = Info::new("Natterjack", env!("CARGO_PKG_VERSION"));
    info.license = Some(License::new(env!("CARGO_PKG_LICENSE")));
    info.description = Some("Rooms, members, messages and events by cursor over HTTP.".to_owned());
    api.info = info;
    for (path, item) in &mut api.paths.paths {
        // Who knows a hook's address needs nothing else.
        let is_open = !path.starts_with("/v1/") || path.starts_with("/v1/hooks/");
        let all = [
            &mut item.get,
            &mut item.put,
            &mut item.post,
            &mut item.delete,
            &mut item.patch,
        ];
        for operation in all.into_iter().flatten() {
            complete_operation(operation, is_open);
        }
    }
    let components = api.components.get_or_insert_with(Components::new);
    components
        .schemas
        .insert(Problem::name().into_owned(), Problem::schema());
    for (name, scheme) in [("bearer", HttpAuthScheme::Bearer), ("basic", HttpAuthScheme::Basic)] {
        components.add_security_scheme(name, SecurityScheme::Http(Http::new(scheme)));
    }
    api
}

fn complete_operation(operation: &mut Operation, is_open: bool) {
    let problem = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(Problem::name())))
        .build();
    let response = ResponseBuilder::new()
        .description("a problem")
        .content(PROBLEM, problem)
        .build();
    operation
        .responses
        .responses
        .insert("default".to_owned(), RefOr::T(response));
    if !is_open {
        let nothing: [&str; 0] = [];
        let by = |name: &str| SecurityRequirement::new(name, nothing);
        operation.security = Some(vec![by("bearer"), by("basic")]);
    }
}
