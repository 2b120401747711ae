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

use futures::future::join_all;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{SourceContext, SourceOptions, Teller};
use crate::aws::{Failure, FailureKind};
use crate::commands::discover::plan::{Answer, Servers};
use crate::model::EndpointId;
use endpoints::Group;
use lifecycle::Lifecycle;
use pace::Pace;
use region::{Look, Region};

pub use options::{AsgFlags, AsgOptions, InstanceAddress};
pub use spec::AsgSpec;

/// How long a look at a region may take.
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

    fn is_throttled(&self) -> bool {
        self.kind() == Some(FailureKind::Throttled)
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

    /// Looks at every region. One that cannot be read, or a group that is not there, leaves its
    /// servers as they are, and the others count; without any answer the first error is told.
    async fn look(&mut self) -> Result<Answer, Trouble> {
        let looks = self.regions.iter_mut().map(|region| async {
            let look = tokio::time::timeout(DEADLINE, region.look()).await;
            let look = look.unwrap_or(Err(Trouble::Late));
            look.map_err(|trouble| (trouble, region.unread(None)))
        });
        let looks = join_all(looks).await;
        let failed = |look: &Result<Look, (Trouble, Servers)>| {
            look.as_ref().err().map(|(trouble, _)| trouble.clone())
        };
        let failed: Vec<Trouble> = looks.iter().filter_map(failed).collect();
        self.pace.after(failed.iter().max_by_key(|trouble| trouble.is_throttled()));
        if failed.len() == looks.len()
            && let Some(first) = failed.into_iter().next()
        {
            return Err(first);
        }
        Ok(self.answer(looks))
    }

    fn answer(&mut self, looks: Vec<Result<Look, (Trouble, Servers)>>) -> Answer {
        let (mut groups, mut instances) = (Vec::<Group>::new(), BTreeMap::new());
        let mut unread = Vec::new();
        self.lifecycle.forget();
        for (number, look) in looks.into_iter().enumerate() {
            match look {
                Ok(look) => {
                    self.lifecycle.see(number, &look.groups);
                    groups.extend(look.groups);
                    instances.extend(look.instances);
                    unread.extend(look.unread);
                }
                Err(trouble) => unread.push(trouble),
            }
        }
        let mut answer = endpoints::answer(&groups, &instances, &self.options);
        let notes =
            unread.iter().map(|(trouble, _)| format!("{trouble}; its servers stay as they are"));
        // First, since a flood of notes is cut.
        answer.notes.splice(0..0, notes);
        answer.unread = unread.into_iter().map(|(_, part)| part).collect();
        answer
    }
}
