use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{HeaderMap, Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::files;
use super::target::{Target, Token};
use crate::error::chain;
use crate::model::Label;
use crate::text;

const CONNECT: Duration = Duration::from_secs(5);

/// How much longer than it may wait an answer may take: a server that has lost its leader holds a
/// question for up to 7 s (`rpc_hold_timeout`) before it says so.
const MARGIN: Duration = Duration::from_secs(10);

/// An instance is a few KiB, most of it what its checks last said.
const MAX_ANSWER: usize = 32 << 20;

/// As much of a refusal as is read.
const MAX_REFUSAL: usize = 16 << 10;

/// Asks one Consul. Connections are kept between questions.
#[derive(Debug)]
pub(super) struct Client {
    target: Arc<Target>,
    http: hyper_util::client::legacy::Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

/// What Consul answered.
#[derive(Debug)]
pub(super) struct Reply {
    pub body: Bytes,
    /// Where the next question goes on.
    pub index: u64,
    /// Who may read nothing gets an empty list.
    pub denies_by_default: bool,
}

impl Client {
    /// Connects nothing, but reads the certificates.
    pub async fn open(target: Arc<Target>) -> Result<Self, String> {
        let config = files::tls(target.tls.clone()).await?;
        let mut http = HttpConnector::new();
        http.set_connect_timeout(Some(CONNECT));
        http.set_nodelay(true);
        http.enforce_http(false);
        let builder = HttpsConnectorBuilder::new().with_tls_config(config);
        let scheme =
            if target.tls.is_some() { builder.https_only() } else { builder.https_or_http() };
        let connector = scheme.enable_http1().wrap_connector(http);
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
        Ok(Self { target, http: http.build(connector) })
    }

    /// Asks for the instances of a service; see [`Target::url`]. An error says where it was asked.
    pub async fn ask(
        &self,
        service: &Label,
        since: Option<(u64, Duration)>,
    ) -> Result<Reply, String> {
        // Consul adds up to a sixteenth to the wait.
        let deadline = MARGIN + since.map_or(Duration::ZERO, |(_, wait)| wait + wait / 16);
        let answer = async {
            let token = self.token().await?;
            let request = self.request(service, since, token.as_deref())?;
            let (head, body) =
                self.http.request(request).await.map_err(|e| self.told(&e))?.into_parts();
            match head.status {
                StatusCode::OK => read(&head.headers, body).await,
                status => Err(refusal(status, body, token.as_deref()).await),
            }
        };
        let late = |_| Err(format!("no answer within {} s", deadline.as_secs()));
        let answer = tokio::time::timeout(deadline, answer).await.unwrap_or_else(late);
        answer.map_err(|error| format!("{}: {error}", self.target.place()))
    }

    fn request(
        &self,
        service: &Label,
        since: Option<(u64, Duration)>,
        token: Option<&str>,
    ) -> Result<Request<Empty<Bytes>>, String> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.target.url(service, since)?;
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(token)
                .map_err(|_| "the token has characters that no header can have")?;
            value.set_sensitive(true);
            request.headers_mut().insert("x-consul-token", value);
        }
        Ok(request)
    }

    fn told(&self, error: &hyper_util::client::legacy::Error) -> String {
        let remedy = match (error.is_connect(), &self.target.tls) {
            (false, _) => "",
            (true, None) => ": does Consul listen there? If not, set consul-address",
            (true, Some(_)) => ": does Consul listen there, and is consul-ca its authority?",
        };
        format!("{}{remedy}", chain(error))
    }

    async fn token(&self) -> Result<Option<String>, String> {
        match self.target.token.clone() {
            None => Ok(None),
            Some(Token::Text(token)) => Ok(Some(token.reveal().to_owned())),
            Some(Token::File(path)) => files::token(path).await.map(Some),
        }
    }
}

/// What a token needs.
pub(super) const GRANT: &str = "give consul-token or consul-token-file one with service:read and \
    node:read for all of them";

async fn read(headers: &HeaderMap, body: Incoming) -> Result<Reply, String> {
    let header = |name: &str| headers.get(name)?.to_str().ok();
    // The set is not complete, and nobody knows what is missing.
    if header("x-consul-results-filtered-by-acls") == Some("true") {
        return Err(format!("the token may not read all of it: {GRANT}"));
    }
    let index = header("x-consul-index").and_then(|index| index.parse().ok());
    let index = index.ok_or("the answer has no X-Consul-Index: is this Consul's address?")?;
    let denies_by_default = header("x-consul-default-acl-policy") == Some("deny");
    let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| {
        match error.downcast_ref::<LengthLimitError>() {
            Some(_) => format!("the answer is larger than {} MiB", MAX_ANSWER >> 20),
            None => format!("the answer broke off: {}", chain(&*error)),
        }
    })?;
    Ok(Reply { body: body.to_bytes(), index, denies_by_default })
}

async fn refusal(status: StatusCode, body: Incoming, token: Option<&str>) -> String {
    let remedy = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => GRANT,
        status if status == StatusCode::NOT_FOUND || status.is_redirection() => {
            "is this Consul's address?"
        }
        _ => "",
    };
    let body = Limited::new(body, MAX_REFUSAL).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let mut said = String::from_utf8_lossy(&body).into_owned();
    // Some servers repeat what they were sent.
    if let Some(token) = token.filter(|token| !token.is_empty()) {
        said = said.replace(token, "***");
    }
    let said = text::one_line(said.trim());
    let parts = [&status.to_string(), &*said, remedy];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
}
