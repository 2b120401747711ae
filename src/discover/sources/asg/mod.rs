//! `asg:`: the instances of Auto Scaling groups.
//!
//! A look is one call for each page of groups and one for each hundred instances, in every region.

mod endpoints;
mod lifecycle;
mod options;
mod pace;
mod region;
mod spec;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::try_join_all;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{SourceContext, SourceOptions, Teller};
use crate::aws::{Failure, FailureKind};
use crate::discover::plan::Answer;
use crate::model::EndpointId;
use endpoints::Group;
use lifecycle::Lifecycle;
use pace::Pace;
use region::Region;

pub use options::{AsgFlags, AsgOptions, InstanceAddress};
pub use spec::AsgSpec;

/// How long a look may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Looks at the groups at the source's pace, and lets those instances end that have drained.
pub(super) async fn run(
    spec: AsgSpec,
    context: SourceContext,
    teller: Teller,
    mut released: watch::Receiver<BTreeSet<EndpointId>>,
) {
    let mut source = Source::new(spec.clone(), context.options).await;
    loop {
        let look = source.look().await;
        source.pace.after(look.as_ref().err());
        let next = Instant::now() + source.pace.wait();
        teller.tell(look.map_err(|trouble| format!("asg:{spec}: {trouble}")));
        loop {
            let ids = released.borrow_and_update().clone();
            source.lifecycle.complete(&source.regions, &ids).await;
            tokio::select! {
                () = tokio::time::sleep_until(next) => break,
                changed = released.changed() => if changed.is_err() { return },
            }
        }
    }
}

struct Source {
    options: AsgOptions,
    regions: Vec<Region>,
    pace: Pace,
    lifecycle: Lifecycle,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    Call(#[from] Failure),
    #[error(
        "no Auto Scaling group is named {names} in {region}: correct the name, or the region by \
         REGION:NAME, --aws-region or AWS_REGION"
    )]
    NoSuchGroup { names: String, region: String },
    #[error("no Auto Scaling group in {region} has all of {tags}: correct the tags or the region")]
    NoSuchTags { tags: String, region: String },
    #[error("no whole answer within {} s", DEADLINE.as_secs())]
    Late,
}

impl Trouble {
    fn kind(&self) -> Option<FailureKind> {
        match self {
            Self::Call(failure) => Some(failure.kind),
            Self::Late => Some(FailureKind::Timeout),
            Self::NoSuchGroup { .. } | Self::NoSuchTags { .. } => None,
        }
    }
}

impl Source {
    async fn new(spec: AsgSpec, options: SourceOptions) -> Self {
        let SourceOptions { aws_region, asg: options, .. } = options;
        let usual = aws_region.map(|region| region.to_string());
        let mut regions = Vec::new();
        for (region, wish) in spec.by_region() {
            regions.push(Region::new(region.or_else(|| usual.clone()), wish).await);
        }
        let lifecycle = Lifecycle::new(options.complete_lifecycle.clone());
        Self { pace: Pace::new(options.interval), regions, lifecycle, options }
    }

    async fn look(&mut self) -> Result<Answer, Trouble> {
        let looks = try_join_all(self.regions.iter().map(Region::look));
        let looks = tokio::time::timeout(DEADLINE, looks).await.map_err(|_| Trouble::Late)??;
        let (mut groups, mut instances) = (Vec::<Group>::new(), BTreeMap::new());
        self.lifecycle.forget();
        for (number, look) in looks.into_iter().enumerate() {
            self.lifecycle.see(number, &look.groups);
            groups.extend(look.groups);
            instances.extend(look.instances);
        }
        Ok(endpoints::answer(&groups, &instances, &self.options))
    }
}
