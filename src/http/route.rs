//! One route: a handler, the document that utoipa made of it, who may call it and what it may refuse.
//!
//! A domain lists its handlers once, with [`routes!`](crate::routes); serving, access, metrics and the OpenAPI document
//! all come from that list, so none of them can drift.

use actix_web::http::Method;
use utoipa::openapi::path::{HttpMethod, Operation, ParameterIn};
use utoipa::openapi::{RefOr, Required, Schema};

use super::caller::{AtStore, access_of};
use super::number;
use crate::chain::key::Role;
use crate::problem::Code;

/// What a domain serves.
pub type Routes = Vec<Route>;

/// A named schema of the document.
pub type NamedSchema = (String, RefOr<Schema>);

/// One method of one path.
#[derive(Clone)]
pub struct Route {
    /// The handler's name.
    pub operation: &'static str,
    pub method: Method,
    pub path: String,
    /// `None`: anybody, without a key.
    pub roles: Option<&'static [Role]>,
    /// What a caller that is bound to a store needs of it.
    pub at_store: AtStore,
    /// Codes besides those that follow from the shape of the request.
    pub codes: &'static [Code],
    /// Overrides the setting.
    pub body_bytes_max: Option<usize>,
    /// The body is a file, taken as it comes; its size and pace have limits of their own.
    pub streams: bool,
    pub document: Operation,
    pub(super) schemas: fn(&mut Vec<NamedSchema>),
    pub(super) handler: fn() -> actix_web::Route,
}

impl Route {
    /// For [`routes!`](crate::routes) only.
    ///
    /// # Panics
    /// When the operation is not in `caller::ACCESS` though its path is under `/v1`: a programmer's error, met by the
    /// first test and at every start.
    pub fn new<P: utoipa::Path + utoipa::__dev::SchemaReferences>(
        operation: &'static str,
        handler: fn() -> actix_web::Route,
    ) -> Self {
        let path = P::path();
        let (roles, at_store) = access_of(operation).unzip();
        assert!(roles.is_some() || !path.starts_with("/v1/"), "{operation} is not in http::caller::ACCESS");
        let method = match P::methods().first() {
            Some(HttpMethod::Get) => Method::GET,
            Some(HttpMethod::Post) => Method::POST,
            Some(HttpMethod::Put) => Method::PUT,
            Some(HttpMethod::Patch) => Method::PATCH,
            Some(HttpMethod::Delete) => Method::DELETE,
            _ => panic!("{operation} has a method that this API does not use"),
        };
        let document = P::operation();
        Self {
            operation,
            method,
            path,
            roles,
            at_store: at_store.unwrap_or(AtStore::Any),
            codes: &[],
            body_bytes_max: None,
            streams: false,
            document,
            schemas: P::schemas,
            handler,
        }
    }

    pub fn refuses(mut self, codes: &'static [Code]) -> Self {
        self.codes = codes;
        self
    }

    pub fn body_max(mut self, bytes: usize) -> Self {
        self.body_bytes_max = Some(bytes);
        self
    }

    pub fn streamed(mut self) -> Self {
        self.streams = true;
        self
    }

    pub(super) fn has_parameter(&self, place: &ParameterIn) -> bool {
        self.parameters().any(|parameter| parameter.parameter_in == *place)
    }

    pub(super) fn has_header(&self, name: &str) -> bool {
        self.parameters()
            .any(|parameter| parameter.parameter_in == ParameterIn::Header && parameter.name.eq_ignore_ascii_case(name))
    }

    pub(super) fn needs_header(&self, name: &str) -> bool {
        self.parameters().any(|parameter| {
            parameter.parameter_in == ParameterIn::Header
                && parameter.name.eq_ignore_ascii_case(name)
                && parameter.required == Required::True
        })
    }

    pub(super) fn is_numbered(&self) -> bool {
        self.has_header(number::HEADER)
    }

    fn parameters(&self) -> impl Iterator<Item = &utoipa::openapi::path::Parameter> {
        self.document.parameters.iter().flatten().filter_map(|parameter| match parameter {
            RefOr::T(parameter) => Some(parameter),
            RefOr::Ref(_) => None,
        })
    }
}

/// The routes of a domain: `routes! { handler; handler: CodeItRefuses, Another; handler(body 1048576); handler(stream); }`. Each handler
/// has a `#[utoipa::path]`, and an entry in `http::caller::ACCESS`.
#[macro_export]
macro_rules! routes {
    (@limit $route:expr, body $bytes:literal) => { $route.body_max($bytes) };
    (@limit $route:expr, stream) => { $route.streamed() };
    (@limit $route:expr,) => { $route };
    ($($handler:ident $(($($limit:tt)+))? $(: $($code:ident),+)?);+ $(;)?) => {
        ::pastey::paste! {
            vec![$(
                $crate::routes!(@limit $crate::http::Route::new::<[<__path_ $handler>]>(
                    stringify!($handler),
                    || ::actix_web::web::route().to($handler),
                ), $($($limit)+)?)
                $(.refuses(&[$($crate::problem::Code::$code),+]))?
            ),+]
        }
    };
}
