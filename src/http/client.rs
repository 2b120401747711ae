use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::tls::{self, TlsError, TlsFiles};
use crate::error::chain;
use crate::text;

const CONNECT: Duration = Duration::from_secs(5);

/// As much of a refusal as is read, in bytes.
const MAX_REFUSAL: usize = 16 << 10;

/// Asks servers. Connections are kept between questions.
#[derive(Debug)]
pub struct Client {
    http: legacy::Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

/// What a server answered; its body is still to be read.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Incoming,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("{}", chain(.0))]
pub struct Failure(legacy::Error);

impl Failure {
    /// Whether nobody was reached.
    pub fn is_connect(&self) -> bool {
        self.0.is_connect()
    }
}

impl Client {
    /// Connects nothing, but reads the certificates. With files, nothing is asked but over TLS.
    pub async fn open(tls: Option<TlsFiles>) -> Result<Self, TlsError> {
        let only_tls = tls.is_some();
        let config = tls::config(tls).await?;
        let mut http = HttpConnector::new();
        http.set_connect_timeout(Some(CONNECT));
        http.set_nodelay(true);
        http.enforce_http(false);
        let builder = HttpsConnectorBuilder::new().with_tls_config(config);
        let scheme = if only_tls { builder.https_only() } else { builder.https_or_http() };
        let connector = scheme.enable_http1().wrap_connector(http);
        Ok(Self { http: legacy::Client::builder(TokioExecutor::new()).build(connector) })
    }

    /// Asks for what is there. How long that may take is the caller's to say.
    pub async fn get(
        &self,
        uri: Uri,
        headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
    ) -> Result<Answer, Failure> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = uri;
        request.headers_mut().extend(headers);
        let (head, body) = self.http.request(request).await.map_err(Failure)?.into_parts();
        Ok(Answer { status: head.status, headers: head.headers, body })
    }
}

impl Answer {
    /// A header, where it is a text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// All of the body, of at most so many bytes.
    pub async fn body(self, most: usize) -> Result<Bytes, String> {
        let body =
            Limited::new(self.body, most).collect().await.map_err(|error| match error
                .downcast_ref::<LengthLimitError>(
            ) {
                Some(_) => format!("the answer is larger than {} MiB", most >> 20),
                None => format!("the answer broke off: {}", chain(&*error)),
            })?;
        Ok(body.to_bytes())
    }

    /// What a refusal says, in one line: some servers repeat the secret that they were sent.
    pub async fn refusal(self, secret: Option<&str>) -> String {
        let status = self.status;
        let body = Limited::new(self.body, MAX_REFUSAL).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        let mut said = String::from_utf8_lossy(&body).into_owned();
        if let Some(secret) = secret.filter(|secret| !secret.is_empty()) {
            said = said.replace(secret, "***");
        }
        match &*text::one_line(said.trim()) {
            "" => status.to_string(),
            said => format!("{status}: {said}"),
        }
    }
}
