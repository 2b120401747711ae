use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_autoscaling::Client;
use aws_sdk_autoscaling::types::{AutoScalingGroup, Filter};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::Trouble;
use super::endpoints::{Group, Member};
use super::spec::Wish;
use crate::aws::ec2::{Ec2, Instance, MAX_INSTANCES};
use crate::aws::{self, Failure, Limits, Place};
use crate::discover::sources::metrics::aws_call;

/// The most that one page of groups and one list of names may hold (Auto Scaling API reference,
/// "DescribeAutoScalingGroups").
const MAX_GROUPS: usize = 100;

/// How many calls for instances are under way at once.
const AT_ONCE: usize = 4;

/// Each look comes again by itself, so that a call is tried once.
const LIMITS: Limits = Limits {
    connect: Duration::from_secs(3),
    attempt: Duration::from_secs(10),
    operation: Duration::from_secs(15),
    attempts: 1,
};

/// One region's groups that are asked for.
#[derive(Debug)]
pub(super) struct Region {
    name: String,
    wish: Wish,
    pub autoscaling: Client,
    /// An error where the region's name is none.
    ec2: Result<Ec2, Failure>,
}

/// What a region has of them.
#[derive(Debug)]
pub(super) struct Look {
    pub groups: Vec<Group>,
    /// By id; those that EC2 knows.
    pub instances: BTreeMap<String, Instance>,
}

impl Region {
    pub async fn new(region: Option<String>, wish: Wish) -> Self {
        let place = Place { region, endpoint: None };
        Self::with(&aws::load(&place, LIMITS).await, wish)
    }

    fn with(config: &SdkConfig, wish: Wish) -> Self {
        let name = config.region().map_or_else(|| "no region".to_owned(), ToString::to_string);
        Self { name, wish, autoscaling: Client::new(config), ec2: Ec2::new(config) }
    }

    pub async fn look(&self) -> Result<Look, Trouble> {
        let groups = self.groups().await?;
        let of_interest = groups.iter().flat_map(|group| &group.members);
        let ids: BTreeSet<String> =
            of_interest.filter(|m| m.is_of_interest()).map(|m| m.id.clone()).collect();
        let instances = self.instances(ids.into_iter().collect()).await?;
        Ok(Look { groups, instances })
    }

    /// Every group that is asked for; one that is named and not there is an error.
    async fn groups(&self) -> Result<Vec<Group>, Trouble> {
        let Wish { names, tags } = &self.wish;
        let mut groups: BTreeMap<String, Group> = BTreeMap::new();
        let all: Vec<String> = names.iter().cloned().collect();
        for names in all.chunks(MAX_GROUPS) {
            groups.extend(self.pages(names, &[]).await?);
        }
        let missing: Vec<&str> =
            names.iter().filter(|n| !groups.contains_key(*n)).map(String::as_str).collect();
        if !missing.is_empty() {
            let (names, region) = (missing.join(", "), self.name.clone());
            return Err(Trouble::NoSuchGroup { names, region });
        }
        if !tags.is_empty() {
            let filters: Vec<Filter> = tags.iter().map(|(k, v)| filter(k, v)).collect();
            let tagged = self.pages(&[], &filters).await?;
            if tagged.is_empty() {
                let all: Vec<String> = tags.iter().map(|(k, v)| format!("tag:{k}={v}")).collect();
                let (tags, region) = (all.join(", "), self.name.clone());
                return Err(Trouble::NoSuchTags { tags, region });
            }
            groups.extend(tagged);
        }
        Ok(groups.into_values().collect())
    }

    /// Groups by name or by filters, to the last page.
    async fn pages(
        &self,
        names: &[String],
        filters: &[Filter],
    ) -> Result<BTreeMap<String, Group>, Failure> {
        const CALL: &str = "DescribeAutoScalingGroups";
        let (mut groups, mut token) = (BTreeMap::new(), None);
        loop {
            let call = self
                .autoscaling
                .describe_auto_scaling_groups()
                .set_auto_scaling_group_names((!names.is_empty()).then(|| names.to_vec()))
                .set_filters((!filters.is_empty()).then(|| filters.to_vec()))
                .max_records(i32::try_from(MAX_GROUPS).unwrap_or(i32::MAX))
                .set_next_token(token);
            let page = call.send().await.map_err(|error| Failure::of(CALL, &error));
            aws_call(CALL, page.as_ref().map(drop).map_err(|failure| failure.kind));
            let page = page?;
            let read = page.auto_scaling_groups.unwrap_or_default().into_iter().filter_map(group);
            groups.extend(read.map(|group| (group.name.clone(), group)));
            token = page.next_token.filter(|token| !token.is_empty());
            if token.is_none() {
                return Ok(groups);
            }
        }
    }

    async fn instances(&self, ids: Vec<String>) -> Result<BTreeMap<String, Instance>, Failure> {
        let ec2 = self.ec2.as_ref().map_err(Clone::clone)?;
        let calls = ids.chunks(MAX_INSTANCES).map(|ids| {
            let (ec2, ids) = (ec2.clone(), ids.to_vec());
            async move { ec2.instances(&ids, |called| aws_call("DescribeInstances", called)).await }
        });
        let calls: Vec<_> = calls.collect();
        let instances: Vec<Vec<Instance>> =
            stream::iter(calls).buffer_unordered(AT_ONCE).try_collect().await?;
        Ok(instances.into_iter().flatten().map(|i| (i.id.clone(), i)).collect())
    }
}

fn filter(key: &str, value: &str) -> Filter {
    Filter::builder().name(format!("tag:{key}")).values(value).build()
}

fn group(group: AutoScalingGroup) -> Option<Group> {
    let members = group.instances.unwrap_or_default().into_iter().filter_map(|instance| {
        Some(Member {
            id: instance.instance_id?,
            zone: instance.availability_zone.unwrap_or_default(),
            lifecycle: instance.lifecycle_state?.as_str().to_owned(),
            // What has no health yet is not called unhealthy.
            healthy: instance
                .health_status
                .is_none_or(|health| !health.eq_ignore_ascii_case("unhealthy")),
        })
    });
    Some(Group { name: group.auto_scaling_group_name?, members: members.collect() })
}
