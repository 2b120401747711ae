//! Every commit of a test, read back from etcd when it is over, and what must hold in all of them.

use std::collections::{BTreeMap, BTreeSet};

use etcd_client::{Client, EventType, WatchOptions};
use lbctl::election::LeaderRecord;
use lbctl::model::{EndpointId, SlotRecord, SlotState, Timestamp};

use super::site::{CONFIRM_INTERVAL, CONFIRM_PASSES, EDGE, WEB, member_url};
use super::watcher::Timeline;
use crate::support::DEADLINE;

/// Where the site's keys are in etcd.
pub const PREFIX: &str = "/net";

/// For how many seconds after a change of leader an absence must have been seen several times.
const DOUBT: f64 = 60.0;

/// How many servers may vanish, and within how many seconds, without that: the defaults.
const MAX_DROP_PERCENT: usize = 50;
const WINDOW: f64 = 60.0;

/// One change of one key, in the order of the commits.
#[derive(Debug)]
struct Change {
    revision: i64,
    created: i64,
    key: String,
    /// `None` for a deletion.
    value: Option<String>,
}

/// Reads everything and checks it; answers how many changes there were.
pub async fn check(timeline: &Timeline) -> usize {
    let changes = tokio::time::timeout(DEADLINE, read()).await.expect("etcd tells its history");
    for backend in [WEB, EDGE] {
        Checker::new(backend, timeline).check(&changes);
    }
    changes.len()
}

async fn read() -> Vec<Change> {
    let mut client = Client::connect([0, 1, 2].map(member_url), None).await.unwrap();
    let end = format!("{PREFIX}/end");
    client.put(end.clone(), "", None).await.unwrap();
    let options = WatchOptions::new().with_prefix().with_start_revision(1);
    let mut stream = client.watch(format!("{PREFIX}/"), Some(options)).await.unwrap();
    let mut changes = Vec::new();
    while let Some(reply) = stream.message().await.unwrap() {
        assert!(!reply.canceled(), "{}", reply.cancel_reason());
        for event in reply.events() {
            let kv = event.kv().unwrap();
            let key = kv.key_str().unwrap();
            if key == end {
                return changes;
            }
            changes.push(Change {
                revision: kv.mod_revision(),
                created: kv.create_revision(),
                key: key.strip_prefix(PREFIX).unwrap().trim_start_matches('/').to_owned(),
                value: (event.event_type() == EventType::Put)
                    .then(|| kv.value_str().unwrap().to_owned()),
            });
        }
    }
    panic!("etcd ended the watch after {} changes", changes.len());
}

/// What is known of one backend at one revision.
struct Checker<'a> {
    backend: &'static str,
    timeline: &'a Timeline,
    leader: Option<Leader>,
    /// Tokens so far.
    leaders: usize,
    last_token: i64,
    slots: BTreeMap<String, SlotRecord>,
    /// Where each server's registration ended last.
    ended: BTreeMap<String, i64>,
    /// Servers that vanished and did not come back, and when they lost their slots.
    removed: BTreeMap<EndpointId, Timestamp>,
}

struct Leader {
    since: Timestamp,
    is_first: bool,
}

impl<'a> Checker<'a> {
    fn new(backend: &'static str, timeline: &'a Timeline) -> Self {
        Self {
            backend,
            timeline,
            leader: None,
            leaders: 0,
            last_token: 0,
            slots: BTreeMap::new(),
            ended: BTreeMap::new(),
            removed: BTreeMap::new(),
        }
    }

    fn check(&mut self, changes: &[Change]) {
        for commit in changes.chunk_by(|a, b| a.revision == b.revision) {
            let vanished: Vec<SlotRecord> =
                commit.iter().filter_map(|change| self.take(change)).collect();
            self.removal(&vanished);
        }
        assert!(self.leaders > 0, "nobody has led {}", self.backend);
    }

    /// Takes a change in; answers a server that lost its slot and did not say that it leaves.
    fn take(&mut self, change: &Change) -> Option<SlotRecord> {
        let backend = self.backend;
        let (folder, rest) = change.key.split_once('/')?;
        match (folder, rest.strip_prefix(backend).and_then(|rest| rest.strip_prefix('/'))) {
            ("elections", _) if rest == format!("discover-{backend}") => self.election(change),
            ("registry", Some(id)) => self.registration(id, change),
            ("backends", Some(key)) => {
                assert!(self.leader.is_some(), "written while nobody leads: {change:?}");
                return self.slot(key.strip_prefix("slots/")?, change);
            }
            _ => {}
        }
        None
    }

    fn election(&mut self, change: &Change) {
        let Some(value) = &change.value else {
            self.leader = None;
            return;
        };
        if change.created != change.revision {
            return;
        }
        assert!(self.leader.is_none(), "a second leader: {change:?}");
        assert!(change.created > self.last_token, "{change:?} after {}", self.last_token);
        let since = milliseconds(LeaderRecord::from_value(value.as_bytes()).since.unwrap());
        self.leader = Some(Leader { since, is_first: self.leaders == 0 });
        self.last_token = change.created;
        self.leaders += 1;
    }

    fn registration(&mut self, id: &str, change: &Change) {
        if change.value.is_none() {
            self.ended.insert(id.to_owned(), change.revision);
        }
    }

    fn slot(&mut self, slot: &str, change: &Change) -> Option<SlotRecord> {
        let Some(value) = &change.value else {
            let freed = self.slots.remove(slot).map(|record| record.state);
            assert_eq!(freed, Some(SlotState::Rest), "freed without a rest: {change:?}");
            return None;
        };
        let record: SlotRecord = serde_json::from_str(value).unwrap();
        let before = self.slots.insert(slot.to_owned(), record.clone());
        if before.as_ref().is_none_or(|before| before.since != record.since) {
            self.decision(change, &record);
        }
        let before = before?;
        let same = before.endpoint.id == record.endpoint.id;
        assert!(same, "slot {slot} went from one server to another: {before:?}, {record:?}");
        let vanished = !record.endpoint.leaving && record.state != SlotState::Ready;
        (before.state == SlotState::Ready && vanished).then_some(record)
    }

    /// All hosts have one clock here. What a leader decides bears a time of its own leadership: an
    /// older one was decided by another, and came too late.
    fn decision(&self, change: &Change, record: &SlotRecord) {
        let (token, leader) = (self.last_token, self.leader.as_ref().unwrap());
        let (at, since) = (record.since, leader.since);
        assert!(
            at >= since,
            "{change:?} was decided at {at}, but is of token {token}, which leads since {since}"
        );
    }

    /// What one commit took away, after all of it was taken in.
    fn removal(&mut self, vanished: &[SlotRecord]) {
        let Some(now) = vanished.iter().map(|record| record.since).max() else { return };
        let ready: BTreeSet<&EndpointId> = self
            .slots
            .values()
            .filter(|record| record.state == SlotState::Ready)
            .map(|record| &record.endpoint.id)
            .collect();
        assert!(!ready.is_empty(), "nobody is left after {vanished:?}");
        self.removed.extend(vanished.iter().map(|record| (record.endpoint.id.clone(), now)));
        self.removed.retain(|id, at| seconds(now, *at) < WINDOW && !ready.contains(id));
        let gone = self.removed.len();
        let too_many = gone > 1 && gone * 100 > (ready.len() + gone) * MAX_DROP_PERCENT;
        let leader = self.leader.as_ref().unwrap();
        let leads = seconds(now, leader.since);
        let doubtful = !leader.is_first && leads < DOUBT;
        for record in vanished {
            let id = record.endpoint.id.as_str();
            let Some(ended) = self.ended.get(id) else {
                panic!("{id} lost its slot at {now} and was registered all the time");
            };
            let missing = seconds(now, self.timeline.not_before(*ended));
            let least = CONFIRM_INTERVAL.as_secs_f64() * f64::from(CONFIRM_PASSES - 1);
            assert!(
                missing > least * 0.75 || !(too_many || doubtful),
                "{id} lost its slot {missing:.2} s after its registration ended, as one of {gone} \
                 with {} left, {leads:.1} s after a change of leader: it takes {CONFIRM_PASSES} \
                 looks over {least} s",
                ready.len()
            );
        }
    }
}

/// To the millisecond, as slots have it.
fn milliseconds(time: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(time.as_millisecond()).unwrap()
}

fn seconds(later: Timestamp, earlier: Timestamp) -> f64 {
    later.duration_since(earlier).as_secs_f64()
}
