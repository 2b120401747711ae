use std::borrow::Cow;
use std::collections::BTreeSet;

use super::Answer;
use crate::model::{Endpoint, EndpointId, GroupName, Label};
use crate::tables::{Content, StoredSlot, StoredTable};

/// Servers that a source cannot tell anything about, by what they have in common: a host name, a
/// group, a region, a family of addresses. Where nothing is given it may be any server; and one that
/// does not say its group or zone may be of any.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Servers {
    pub name: Option<Label>,
    pub group: Option<GroupName>,
    /// Of none of these groups, which were read.
    pub but: BTreeSet<GroupName>,
    /// A region of AWS, which the names of its zones begin with.
    pub region: Option<String>,
    pub family: Option<Family>,
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    Ipv4,
    Ipv6,
}

impl Servers {
    pub fn of_group(group: GroupName) -> Self {
        Self { group: Some(group), ..Self::default() }
    }

    fn include(&self, endpoint: &Endpoint) -> bool {
        let in_region = |region: &str| {
            endpoint.zone.as_ref().is_none_or(|zone| zone.as_str().starts_with(region))
        };
        let in_group = |own: &GroupName| {
            self.group.as_ref().is_none_or(|group| own == group) && !self.but.contains(own)
        };
        (self.name.is_none() || self.name == endpoint.name)
            && endpoint.group.as_ref().is_none_or(in_group)
            && self.region.as_deref().is_none_or(in_region)
            && self.family.is_none_or(|family| family == Family::of(endpoint))
    }
}

impl Family {
    fn of(endpoint: &Endpoint) -> Self {
        match endpoint.address.ip().is_ipv6() {
            true => Self::Ipv6,
            false => Self::Ipv4,
        }
    }
}

impl Answer {
    /// The answer with the servers of the table that its unread parts may still have: they are
    /// there and cannot be read. A part that is empty all of a sudden keeps its servers as well,
    /// unless drops are allowed.
    pub fn keeping(&self, table: &StoredTable, allow_drop: bool) -> Cow<'_, Self> {
        let empty = if allow_drop { None } else { Some(&self.emptied) };
        let parts: Vec<&Servers> = self.unread.iter().chain(empty.into_iter().flatten()).collect();
        if parts.is_empty() {
            return Cow::Borrowed(self);
        }
        let held = table.slots.values().filter_map(held);
        let kept: BTreeSet<EndpointId> = held
            .filter(|endpoint| !self.knows(&endpoint.id))
            .filter(|endpoint| parts.iter().any(|part| part.include(endpoint)))
            .map(|endpoint| endpoint.id.clone())
            .collect();
        let mut answer = self.clone();
        answer.unreadable.extend(kept);
        Cow::Owned(answer)
    }
}

fn held(slot: &StoredSlot) -> Option<&Endpoint> {
    match &slot.content {
        Content::Sound(record) => Some(&record.endpoint),
        Content::Damaged(damaged) => damaged.endpoint.as_ref(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SlotNumber;
    use crate::store::Revision;

    fn table() -> StoredTable {
        let record = |text: &str| StoredSlot {
            modified: Revision(1),
            content: Content::read(text.as_bytes()),
        };
        let held = |id: &str, address: &str, more: &str| {
            record(&format!(
                r#"{{"id":"{id}","address":"{address}","state":"ready",{more}
                    "since":"2026-01-01T00:00:00Z","started":"2026-01-01T00:00:00Z"}}"#
            ))
        };
        let slots = [
            held("a", "10.0.0.1:80", r#""name":"dc1.ad","group":"x","#),
            held("b", "[2001:db8::1]:80", r#""name":"dc1.ad","group":"y","#),
            held("c", "10.0.0.3:80", r#""name":"dc2.ad","group":"y","#),
            // One that is damaged is kept as well.
            record(r#"{"id":"d","address":"10.0.0.4:80","group":"x"}"#),
        ];
        let slots = (1..).zip(slots).map(|(n, slot)| (SlotNumber::new(n).unwrap(), slot));
        StoredTable { slots: slots.collect(), ..StoredTable::default() }
    }

    fn kept(answer: &Answer, allow_drop: bool) -> String {
        let answer = answer.keeping(&table(), allow_drop).into_owned();
        answer.unreadable.iter().map(EndpointId::as_str).collect()
    }

    #[test]
    fn what_a_part_may_have_is_kept_and_nothing_else() {
        let label = |text: &str| Some(text.parse().unwrap());
        let name = Servers { name: label("dc1.ad"), ..Servers::default() };
        let v6 = Servers { family: Some(Family::Ipv6), ..name.clone() };
        let group = Servers::of_group("x".parse().unwrap());
        let of = |part: &Servers| Answer { unread: [part.clone()].into(), ..Answer::default() };
        for (part, ids) in
            [(&name, "ab"), (&v6, "b"), (&group, "ad"), (&Servers::default(), "abcd")]
        {
            assert_eq!(kept(&of(part), false), ids, "{part:?}");
            assert_eq!(kept(&of(part), true), ids, "an error is no order: {part:?}");
        }
        assert_eq!(kept(&Answer::default(), false), "");
        let knows_one = Answer { leaving: ["a".parse().unwrap()].into(), ..of(&name) };
        assert_eq!(kept(&knows_one, false), "b");
    }

    #[test]
    fn a_part_that_is_empty_is_believed_where_drops_are_allowed() {
        let part = Servers::of_group("x".parse().unwrap());
        let answer = Answer { emptied: [part].into(), ..Answer::default() };
        assert_eq!((kept(&answer, false).as_str(), kept(&answer, true).as_str()), ("ad", ""));
    }
}
