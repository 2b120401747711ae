//! What every AWS service is called with: credentials, region, endpoint and time limits.
//!
//! Credentials come from where every AWS tool looks for them, in this order: `AWS_ACCESS_KEY_ID`
//! and its kin, the profile in `~/.aws` (also SSO and `credential_process`), a web identity token,
//! the container's role, the instance's role. The SDK renews them before they end.

pub mod ec2;
mod failure;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{AppName, BehaviorVersion, Region, SdkConfig};

use crate::config::{Kind, from_str_setting};
pub use crate::error::chain;
pub use failure::{Failure, FailureKind};

/// Where credentials were looked for, for errors that lack them.
pub const CREDENTIALS_HINT: &str = "credentials are looked for in AWS_ACCESS_KEY_ID and \
    AWS_SECRET_ACCESS_KEY, the profile that AWS_PROFILE names in ~/.aws (also SSO: aws sso login), \
    a web identity token, the container's role and the instance's role";

/// What is said where no region is known.
pub const REGION_HINT: &str = "name the region: with region= in the URL, in AWS_REGION, or in the \
    profile of ~/.aws/config";

/// How a service is reached where the usual ways do not say it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Before `AWS_REGION`, the profile and the instance's own region.
    pub region: Option<String>,
    /// Before `AWS_ENDPOINT_URL_<SERVICE>`, `AWS_ENDPOINT_URL` and the profile.
    pub endpoint: Option<String>,
}

/// A region, such as `eu-west-1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionName(String);

impl FromStr for RegionName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sound = |c: char| c.is_ascii_alphanumeric() || c == '-';
        match !text.is_empty() && text.len() <= 64 && text.chars().all(sound) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!("{text:?} is not a region such as eu-west-1")),
        }
    }
}

impl fmt::Display for RegionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

from_str_setting! { RegionName: [Kind::Text]; }

/// How long a call may take, and who tries again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From the first byte of a connection to its being usable.
    pub connect: Duration,
    /// One try.
    pub attempt: Duration,
    /// All tries of one call, the wait for credentials among them.
    pub operation: Duration,
    /// How many tries the SDK makes: 1 for a caller that tries again by itself.
    pub attempts: u32,
}

/// Loads the SDK's configuration. Nothing fails here: a missing region or missing credentials show
/// in the first call, see [`chain`].
pub async fn load(place: &Place, limits: Limits) -> SdkConfig {
    let Limits { connect, attempt, operation, attempts } = limits;
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(connect)
        .operation_attempt_timeout(attempt)
        .operation_timeout(operation)
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .timeout_config(timeouts)
        .retry_config(RetryConfig::standard().with_max_attempts(attempts))
        // An attempt has its own limit, and answers are small.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    if let Ok(name) = AppName::new("lbctl") {
        loader = loader.app_name(name);
    }
    if let Some(region) = &place.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(endpoint) = &place.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    // Boxed: it is large, and would stand in the future of everything that may open a store.
    Box::pin(loader.load()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        connect: Duration::from_secs(1),
        attempt: Duration::from_secs(2),
        operation: Duration::from_secs(5),
        attempts: 1,
    };

    #[tokio::test]
    async fn the_place_of_a_url_comes_first() {
        let place = Place {
            region: Some("eu-north-1".into()),
            endpoint: Some("http://127.0.0.1:1".into()),
        };
        let config = load(&place, LIMITS).await;
        assert_eq!(config.region().map(Region::as_ref), Some("eu-north-1"));
        assert_eq!(config.endpoint_url(), Some("http://127.0.0.1:1"));
        assert_eq!(config.retry_config().map(RetryConfig::max_attempts), Some(1));
    }
}
