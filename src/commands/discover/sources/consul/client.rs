use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};

use super::target::{Target, Token};
use crate::http::{self, Answer, Failure, TlsError};
use crate::model::Label;

/// How much longer than it may wait an answer may take: a server that has lost its leader holds a
/// question for up to 7 s (`rpc_hold_timeout`) before it says so.
const MARGIN: Duration = Duration::from_secs(10);

/// An instance is a few KiB, most of it what its checks last said.
const MAX_ANSWER: usize = 32 << 20;

/// Asks one Consul.
#[derive(Debug)]
pub(super) struct Client {
    target: Arc<Target>,
    http: http::Client,
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
        let http = http::Client::open(target.tls.clone()).await.map_err(|error| match error {
            TlsError::NoAuthority(_) => format!("{error}: give consul-ca"),
            TlsError::File(text) => text,
        })?;
        Ok(Self { target, http })
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
            let (url, token) = (self.target.url(service, since)?, self.token().await?);
            let header = token.as_deref().map(header).transpose()?;
            let answer = self.http.get(url, header).await.map_err(|error| self.told(&error))?;
            match answer.status {
                StatusCode::OK => read(answer).await,
                _ => Err(refusal(answer, token.as_deref()).await),
            }
        };
        let late = |_| Err(format!("no answer within {} s", deadline.as_secs()));
        let answer = tokio::time::timeout(deadline, answer).await.unwrap_or_else(late);
        answer.map_err(|error| format!("{}: {error}", self.target.place()))
    }

    fn told(&self, failure: &Failure) -> String {
        let remedy = match (failure.is_connect(), &self.target.tls) {
            (false, _) => "",
            (true, None) => ": does Consul listen there? If not, set consul-address",
            (true, Some(_)) => ": does Consul listen there, and is consul-ca its authority?",
        };
        format!("{failure}{remedy}")
    }

    async fn token(&self) -> Result<Option<String>, String> {
        match self.target.token.clone() {
            None => Ok(None),
            Some(Token::Text(token)) => Ok(Some(token.reveal().to_owned())),
            Some(Token::File(path)) => {
                let read = tokio::task::spawn_blocking(move || http::secret_of(&path));
                read.await.unwrap_or_else(|error| Err(error.to_string())).map(Some)
            }
        }
    }
}

fn header(token: &str) -> Result<(HeaderName, HeaderValue), String> {
    let mut value = HeaderValue::from_str(token)
        .map_err(|_| "the token has characters that no header can have")?;
    value.set_sensitive(true);
    Ok((HeaderName::from_static("x-consul-token"), value))
}

/// What a token needs.
pub(super) const GRANT: &str = "give consul-token or consul-token-file one with service:read and \
    node:read for all of them";

async fn read(answer: Answer) -> Result<Reply, String> {
    // The set is not complete, and nobody knows what is missing.
    if answer.header("x-consul-results-filtered-by-acls") == Some("true") {
        return Err(format!("the token may not read all of it: {GRANT}"));
    }
    let index = answer.header("x-consul-index").and_then(|index| index.parse().ok());
    let index = index.ok_or("the answer has no X-Consul-Index: is this Consul's address?")?;
    let denies_by_default = answer.header("x-consul-default-acl-policy") == Some("deny");
    Ok(Reply { body: answer.body(MAX_ANSWER).await?, index, denies_by_default })
}

async fn refusal(answer: Answer, token: Option<&str>) -> String {
    let remedy = match answer.status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => GRANT,
        status if status == StatusCode::NOT_FOUND || status.is_redirection() => {
            "is this Consul's address?"
        }
        _ => "",
    };
    match (answer.refusal(token).await, remedy) {
        (said, "") => said,
        (said, remedy) => format!("{said}: {remedy}"),
    }
}
