//! `DescribeInstances`, the one call of EC2 that lbctl makes: a signed request on the SDK's own
//! runtime, since the whole of `aws-sdk-ec2` takes longer to build than everything else together.
//!
//! The request is EC2's query protocol of API version 2016-11-15 (EC2 API reference, "Query
//! requests for Amazon EC2").

mod answer;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_runtime::auth::SigV4OperationSigningConfig;
use aws_runtime::auth::sigv4::{SCHEME_ID, SigV4AuthScheme};
use aws_smithy_runtime::client::identity::IdentityCache;
use aws_smithy_runtime::client::orchestrator::operation::Operation;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::auth::static_resolver::StaticAuthSchemeOptionResolver;
use aws_smithy_runtime_api::client::auth::{
    AuthSchemeOptionResolverParams, SharedAuthScheme, SharedAuthSchemeOptionResolver,
};
use aws_smithy_runtime_api::client::identity::{SharedIdentityCache, SharedIdentityResolver};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse, OrchestratorError};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponentsBuilder;
use aws_smithy_runtime_api::client::runtime_plugin::StaticRuntimePlugin;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::Layer;
use aws_smithy_types::error::ErrorMetadata;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_types::SigningName;
use aws_types::region::SigningRegion;
use aws_types::service_config::ServiceConfigKey;

pub use answer::{Instance, Page};

use super::failure::REGION_HINT;
use super::{Failure, FailureKind};

const CALL: &str = "DescribeInstances";

/// How many instances are asked for in one call: a filter takes 200 values at most (EC2 API
/// reference, "DescribeInstances").
pub const MAX_INSTANCES: usize = 100;

/// A client for one region.
#[derive(Debug, Clone)]
pub struct Ec2 {
    operation: Operation<Request, Page, Refused>,
}

/// One request.
#[derive(Debug, Clone)]
struct Request {
    ids: Vec<String>,
    token: Option<String>,
}

/// EC2's own word on a request it did not carry out.
#[derive(Debug)]
struct Refused(ErrorMetadata);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Refused {}

impl ProvideErrorMetadata for Refused {
    fn meta(&self) -> &ErrorMetadata {
        &self.0
    }
}

impl Ec2 {
    /// With the credentials, the region, the endpoint and the time limits of `config`.
    pub fn new(config: &SdkConfig) -> Result<Self, Failure> {
        let region = config.region().map(AsRef::as_ref).unwrap_or_default();
        if region.is_empty() || !region.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            let (kind, reason) = (FailureKind::Refused, format!("{region:?} is not a region"));
            let (code, hint) = (String::new(), Some(REGION_HINT));
            return Err(Failure { kind, call: CALL, code, reason, hint });
        }
        let mut operation = Operation::builder()
            // Brings the SDK's own HTTP client.
            .behavior_version(BehaviorVersion::latest())
            .service_name("EC2")
            .operation_name(CALL)
            .endpoint_url(&endpoint(config, region))
            .timeout_config(timeouts(config))
            .no_retry()
            .with_connection_poisoning()
            .runtime_plugin(signing(config, region));
        if let Some(http) = config.http_client() {
            operation = operation.http_client(http);
        }
        let operation = operation.serializer(serialize).deserializer(deserialize).build();
        Ok(Self { operation })
    }

    /// The instances of at most [`MAX_INSTANCES`] ids, over all pages. One that EC2 does not know,
    /// or not yet, is not among them. `called` is told of each call and whether it failed.
    ///
    /// No ids, no call: EC2 would understand that as a question for all there are. A filter is
    /// asked, not a list of ids, since one unknown id would fail the whole of such a list.
    pub async fn instances(
        &self,
        ids: &[String],
        mut called: impl FnMut(Result<(), FailureKind>),
    ) -> Result<Vec<Instance>, Failure> {
        let mut instances = Vec::new();
        let mut token = None;
        while !ids.is_empty() {
            let request = Request { ids: ids.to_vec(), token };
            let page = self.operation.invoke(request).await;
            let page = page.map_err(|error| Failure::of(CALL, &error));
            called(page.as_ref().map(drop).map_err(|failure| failure.kind));
            let Page { instances: more, next } = page?;
            instances.extend(more);
            token = next;
            if token.is_none() {
                break;
            }
        }
        Ok(instances)
    }
}

/// `AWS_ENDPOINT_URL_EC2`, `AWS_ENDPOINT_URL`, the profile, or the region's own.
fn endpoint(config: &SdkConfig, region: &str) -> String {
    let key = ServiceConfigKey::builder()
        .service_id("EC2")
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build();
    let own = config.service_config().zip(key.ok()).and_then(|(c, key)| c.load_config(key));
    own.or_else(|| config.endpoint_url().map(str::to_owned)).unwrap_or_else(|| {
        let suffix = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        format!("https://ec2.{region}.{suffix}")
    })
}

fn timeouts(config: &SdkConfig) -> TimeoutConfig {
    config.timeout_config().cloned().unwrap_or_else(TimeoutConfig::disabled)
}

/// Signature version 4 with the configuration's credentials, which are kept until they end.
fn signing(config: &SdkConfig, region: &str) -> StaticRuntimePlugin {
    let mut layer = Layer::new("lbctl-ec2");
    let region = SigningRegion::from(Region::new(region.to_owned()));
    let name = SigningName::from_static("ec2");
    layer.store_put(region.clone());
    layer.store_put(name.clone());
    layer.store_put(SigV4OperationSigningConfig {
        region: Some(region),
        name: Some(name),
        ..Default::default()
    });
    layer.store_put(AuthSchemeOptionResolverParams::new(()));
    let schemes = StaticAuthSchemeOptionResolver::new(vec![SCHEME_ID]);
    let mut components = RuntimeComponentsBuilder::new("lbctl-ec2")
        .with_auth_scheme(SharedAuthScheme::new(SigV4AuthScheme::new()))
        .with_auth_scheme_option_resolver(Some(SharedAuthSchemeOptionResolver::new(schemes)))
        .with_identity_cache(Some(identity_cache(config)));
    if let Some(provider) = config.credentials_provider() {
        components.set_identity_resolver(SCHEME_ID, SharedIdentityResolver::new(provider));
    }
    StaticRuntimePlugin::new().with_config(layer.freeze()).with_runtime_components(components)
}

fn identity_cache(config: &SdkConfig) -> SharedIdentityCache {
    config
        .identity_cache()
        .unwrap_or_else(|| SharedIdentityCache::new(IdentityCache::lazy().build()))
}

fn serialize(request: Request) -> Result<HttpRequest, BoxError> {
    let mut fields: BTreeMap<Cow<'static, str>, String> = BTreeMap::new();
    let mut set = |name: Cow<'static, str>, value: &str| {
        fields.insert(name, value.to_owned());
    };
    set("Action".into(), CALL);
    set("Version".into(), "2016-11-15");
    set("MaxResults".into(), "1000");
    set("Filter.1.Name".into(), "instance-id");
    for (number, id) in (1..).zip(&request.ids) {
        set(format!("Filter.1.Value.{number}").into(), id);
    }
    if let Some(token) = &request.token {
        set("NextToken".into(), token);
    }
    let mut body = form_urlencoded::Serializer::new(String::new());
    body.extend_pairs(&fields);
    let mut request = HttpRequest::new(SdkBody::from(body.finish()));
    request.set_method("POST")?;
    request.set_uri("/")?;
    request.headers_mut().insert("content-type", "application/x-www-form-urlencoded");
    Ok(request)
}

fn deserialize(response: &HttpResponse) -> Result<Page, OrchestratorError<Refused>> {
    let text = response.body().bytes().and_then(|bytes| std::str::from_utf8(bytes).ok());
    let text = text.ok_or_else(|| OrchestratorError::other("the answer is not text"))?;
    if !response.status().is_success() {
        return Err(OrchestratorError::operation(Refused(answer::refusal(text))));
    }
    answer::page(text).map_err(OrchestratorError::other)
}
