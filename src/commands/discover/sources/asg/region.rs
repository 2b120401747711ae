use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_autoscaling::Client;
use aws_sdk_autoscaling::types::{AutoScalingGroup, Filter};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use tokio::time::Instant;

use super::Trouble;
use super::endpoints::{Group, Member};
use super::spec::Wish;
use crate::aws::ec2::{Ec2, Instance, MAX_INSTANCES};
use crate::aws::{self, Failure, Limits, Place};
use crate::commands::discover::plan::Servers;
use crate::commands::discover::sources::metrics::aws_call;
use crate::model::GroupName;

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

/// So long EC2 is asked how an instance is that is in no group any more: it may drain meanwhile.
const DEPARTED: Duration = Duration::from_secs(120);

/// One region's groups that are asked for.
#[derive(Debug)]
pub(super) struct Region {
    /// `None` where nothing says which one it is.
    name: Option<String>,
    wish: Wish,
    pub autoscaling: Client,
    /// An error where the region's name is none.
    ec2: Result<Ec2, Failure>,
    /// The instances of the last look, and those that have left since, with when that was seen.
    members: BTreeSet<String>,
    departed: BTreeMap<String, Instant>,
}

/// What a region has of them.
#[derive(Debug)]
pub(super) struct Look {
    pub groups: Vec<Group>,
    /// By id; those that EC2 knows.
    pub instances: BTreeMap<String, Instance>,
    /// What is asked for and not there, and why.
    pub unread: Vec<(Trouble, Servers)>,
}

impl Region {
    pub async fn new(region: Option<String>, wish: Wish) -> Self {
        let place = Place { region, endpoint: None };
        Self::with(&aws::load(&place, LIMITS).await, wish)
    }

    fn with(config: &SdkConfig, wish: Wish) -> Self {
        Self {
            name: config.region().map(ToString::to_string),
            wish,
            autoscaling: Client::new(config),
            ec2: Ec2::new(config),
            members: BTreeSet::new(),
            departed: BTreeMap::new(),
        }
    }

    /// This region, or a group of it, as what could not be read.
    pub fn unread(&self, group: Option<GroupName>) -> Servers {
        Servers { region: self.name.clone(), group, ..Servers::default() }
    }

    pub async fn look(&mut self) -> Result<Look, Trouble> {
        let (groups, unread) = self.groups().await?;
        let of_interest = groups.iter().flat_map(|group| &group.members);
        let ids: BTreeSet<String> =
            of_interest.filter(|m| m.is_of_interest()).map(|m| m.id.clone()).collect();
        self.note_departures(&ids);
        let ids = ids.into_iter().chain(self.departed.keys().cloned());
        let instances = self.instances(ids.collect()).await?;
        Ok(Look { groups, instances, unread })
    }

    /// Remembers who was in the groups and is not any more: Auto Scaling forgets an instance as it
    /// ends, and EC2 knows it for a while.
    fn note_departures(&mut self, members: &BTreeSet<String>) {
        let now = Instant::now();
        self.departed.retain(|id, since| !members.contains(id) && now - *since < DEPARTED);
        let left = self.members.difference(members).map(|id| (id.clone(), now));
        self.departed.extend(left);
        self.members.clone_from(members);
    }

    /// Every group that is asked for, and what is not there; an error where nothing is.
    async fn groups(&self) -> Result<(Vec<Group>, Vec<(Trouble, Servers)>), Trouble> {
        let Wish { names, tags } = &self.wish;
        let mut groups: BTreeMap<String, Group> = BTreeMap::new();
        let all: Vec<String> = names.iter().cloned().collect();
        for names in all.chunks(MAX_GROUPS) {
            groups.extend(self.pages(names, &[]).await?);
        }
        let missing = names.iter().filter(|name| !groups.contains_key(*name));
        let missing: Vec<&str> = missing.map(String::as_str).collect();
        let mut unread = Vec::new();
        if !tags.is_empty() {
            let filters: Vec<Filter> = tags.iter().map(|(k, v)| filter(k, v)).collect();
            let tagged = self.pages(&[], &filters).await?;
            if tagged.is_empty() {
                let but = groups.keys().filter_map(|name| name.parse().ok()).collect();
                unread.push((self.no_such_tags(), Servers { but, ..self.unread(None) }));
            }
            groups.extend(tagged);
        }
        if groups.is_empty() {
            let first = unread.into_iter().next().map(|(trouble, _)| trouble);
            let trouble = match missing.is_empty() {
                true => first,
                false => Some(self.no_such_group(&missing.join(", "))),
            };
            return trouble.map_or(Ok((Vec::new(), Vec::new())), Err);
        }
        unread.extend(missing.into_iter().map(|name| {
            let part = self.unread(name.parse().ok());
            (self.no_such_group(name), part)
        }));
        Ok((groups.into_values().collect(), unread))
    }

    fn no_such_group(&self, names: &str) -> Trouble {
        Trouble::NoSuchGroup { names: names.to_owned(), region: self.shown() }
    }

    fn no_such_tags(&self) -> Trouble {
        let all: Vec<String> = self.wish.tags.iter().map(|(k, v)| format!("tag:{k}={v}")).collect();
        Trouble::NoSuchTags { tags: all.join(", "), region: self.shown() }
    }

    fn shown(&self) -> String {
        self.name.clone().unwrap_or_else(|| "no region".to_owned())
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
