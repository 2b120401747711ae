use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::Answer;
use crate::model::{EndpointId, SlotNumber};

/// How much a plan may take away. Servers that say themselves that they leave do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floors {
    /// Most servers that may vanish within [`Floors::window`], in percent of the ready ones, new
    /// ones included.
    /// A single one always may.
    pub max_drop_percent: u32,
    /// Fewest servers that vanishing ones may leave ready.
    pub min_servers: u32,
    /// Every removal is allowed, that by an empty answer too.
    pub allow_drop: bool,
    /// How long a vanished server counts: leases that end one by one are one outage.
    pub window: Duration,
}

/// How long after an outage the source's silence about a server proves nothing: the servers' own
/// leases may have ended in it, and they come back one by one.
const DOUBT: Duration = Duration::from_secs(60);

/// Why vanished servers keep their slots for now.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Refusal {
    pub why: RefusalReason,
    /// The servers that would have gone.
    pub servers: Vec<(SlotNumber, EndpointId)>,
}

/// Which floor a plan met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case", tag = "floor")]
pub enum RefusalReason {
    /// The source sees nothing at all.
    EmptyAnswer,
    MaxDropPercent {
        percent: u32,
        allowed: u32,
    },
    MinServers {
        left: u32,
        allowed: u32,
    },
    /// It vanished in or right after an outage or a change of leader, or together with others that
    /// are back by now.
    Unconfirmed,
}

impl RefusalReason {
    /// The floor's name, as in the settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EmptyAnswer => "empty-answer",
            Self::MaxDropPercent { .. } => "max-drop-percent",
            Self::MinServers { .. } => "min-servers",
            Self::Unconfirmed => "unconfirmed",
        }
    }

    /// What ends it. An empty answer is never confirmed: whatever lost all servers at once would say
    /// the same again and again.
    pub fn until(self) -> &'static str {
        match self {
            Self::EmptyAnswer => "until it sees one or --allow-drop is given",
            Self::MaxDropPercent { .. } | Self::MinServers { .. } | Self::Unconfirmed => {
                "until enough looks in a row confirm it or --allow-drop is given"
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.servers.len();
        match self.why {
            RefusalReason::EmptyAnswer => {
                write!(f, "the source sees no server at all; {count} keep their slots")
            }
            RefusalReason::MaxDropPercent { percent, allowed } => write!(
                f,
                "{percent}% of the servers vanished and max-drop-percent is {allowed}; {count} keep their slots"
            ),
            RefusalReason::MinServers { left, allowed } => write!(
                f,
                "{left} servers would be left and min-servers is {allowed}; {count} keep their slots"
            ),
            RefusalReason::Unconfirmed => {
                write!(
                    f,
                    "{count} servers are missing since an outage or a change of leader; they keep their slots"
                )
            }
        }
    }
}

/// What a plan would take away, in numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Loss {
    /// The answer has not one endpoint.
    pub empty: bool,
    /// Ready servers before the plan.
    pub ready: usize,
    /// Those that it adds. They count as ready, or else a plan that is refused would be allowed as
    /// soon as they are placed.
    pub new: usize,
    /// Those of the ready ones that vanished, confirmed or not.
    pub vanished: usize,
    /// Servers that vanished within the window before this plan and did not come back.
    pub recent: usize,
    /// Ready servers after the plan, new ones included.
    pub left: usize,
}

impl Floors {
    /// The floor that a loss would meet.
    pub(super) fn check(&self, loss: Loss) -> Option<RefusalReason> {
        if self.allow_drop || loss.vanished == 0 {
            return None;
        }
        if loss.empty {
            return Some(RefusalReason::EmptyAnswer);
        }
        let (gone, before) = (loss.vanished + loss.recent, loss.ready + loss.new + loss.recent);
        if gone > 1 && gone * 100 > before * self.max_drop_percent as usize {
            let percent = u32::try_from(gone * 100 / before.max(1)).unwrap_or(100);
            return Some(RefusalReason::MaxDropPercent { percent, allowed: self.max_drop_percent });
        }
        if loss.left < self.min_servers as usize {
            let left = u32::try_from(loss.left).unwrap_or(u32::MAX);
            return Some(RefusalReason::MinServers { left, allowed: self.min_servers });
        }
        None
    }
}

/// What a leader remembers of servers that vanish, so that looks in a row confirm it. Lost with
/// the leadership: the successor begins to count again.
#[derive(Debug, Default)]
pub struct Absences {
    missing: BTreeMap<EndpointId, Missing>,
    dropped: BTreeMap<EndpointId, Instant>,
    kept: BTreeSet<EndpointId>,
    interrupted: bool,
    doubtful_until: Option<Instant>,
}

#[derive(Debug)]
struct Missing {
    looks: u32,
    last: Instant,
}

impl Absences {
    /// Takes a good answer in. A look counts if it comes `interval` after the one counted before.
    pub fn look(
        &mut self,
        answer: &Answer,
        ready: &BTreeSet<EndpointId>,
        now: Instant,
        interval: Duration,
    ) {
        self.missing.retain(|id, _| ready.contains(id) && !answer.knows(id));
        self.kept.retain(|id| ready.contains(id) && !answer.knows(id));
        if std::mem::take(&mut self.interrupted) {
            self.doubtful_until = Some(now + DOUBT);
        }
        let doubtful = self.doubtful_until.is_some_and(|until| now < until);
        if doubtful {
            self.kept.extend(ready.iter().filter(|id| !answer.knows(id)).cloned());
        }
        for id in ready.iter().filter(|id| !answer.knows(id)) {
            match self.missing.get_mut(id) {
                None => {
                    self.missing.insert(id.clone(), Missing { looks: 1, last: now });
                }
                Some(missing) if now - missing.last >= interval => {
                    *missing = Missing { looks: missing.looks + 1, last: now };
                }
                Some(_) => {}
            }
        }
    }

    /// Whether anybody is missed, or anything else is remembered that one more look may change.
    pub fn is_any(&self) -> bool {
        self.interrupted || !self.missing.is_empty() || !self.kept.is_empty()
    }

    /// An error is no look, and ends every row of them.
    pub fn interrupted(&mut self) {
        self.missing.clear();
        self.interrupted = true;
    }

    /// Remembers servers that a floor has kept: as others of them come back the floor holds no
    /// longer, and yet the rest may only be slower.
    pub fn keep(&mut self, ids: impl IntoIterator<Item = EndpointId>) {
        self.kept.extend(ids);
    }

    /// Those that go only once looks in a row have confirmed it.
    pub fn kept(&self) -> &BTreeSet<EndpointId> {
        &self.kept
    }

    /// Those that were missing in so many looks in a row.
    pub fn confirmed(&self, looks: u32) -> BTreeSet<EndpointId> {
        self.missing
            .iter()
            .filter(|(_, missing)| missing.looks >= looks)
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// Remembers servers whose removal was written.
    pub fn dropped(&mut self, ids: impl IntoIterator<Item = EndpointId>, now: Instant) {
        self.dropped.extend(ids.into_iter().map(|id| (id, now)));
    }

    /// Those that were removed within the window.
    pub fn recent(&mut self, now: Instant, window: Duration) -> BTreeSet<EndpointId> {
        self.dropped.retain(|_, at| now - *at < window);
        self.dropped.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOORS: Floors = Floors {
        max_drop_percent: 50,
        min_servers: 1,
        allow_drop: false,
        window: Duration::from_secs(60),
    };

    fn loss(ready: usize, vanished: usize, recent: usize) -> Loss {
        Loss { empty: false, ready, new: 0, vanished, recent, left: ready - vanished }
    }

    fn met(loss: Loss) -> Option<&'static str> {
        FLOORS.check(loss).map(RefusalReason::as_str)
    }

    #[test]
    fn each_floor_holds_at_its_bound() {
        assert_eq!(met(loss(10, 5, 0)), None);
        assert_eq!(met(loss(10, 6, 0)), Some("max-drop-percent"));
        assert_eq!(met(loss(1, 1, 0)), Some("min-servers"));
        assert_eq!(met(Loss { left: 1, ..loss(1, 1, 0) }), None);
        assert_eq!(met(Loss { empty: true, ..loss(1, 1, 0) }), Some("empty-answer"));
        assert_eq!(Floors { allow_drop: true, ..FLOORS }.check(loss(9, 9, 0)), None);
    }

    #[test]
    fn leases_that_end_one_by_one_are_one_outage() {
        assert_eq!(met(loss(6, 1, 4)), None);
        assert_eq!(met(loss(5, 1, 5)), Some("max-drop-percent"));
    }

    #[test]
    fn who_is_missing_after_an_outage_or_was_kept_once_needs_to_be_confirmed() {
        let [a, b]: [EndpointId; 2] = ["a", "b"].map(|id| id.parse().unwrap());
        let ready = BTreeSet::from([a.clone(), b.clone()]);
        let (interval, start) = (Duration::from_secs(10), Instant::now());
        let mut absences = Absences::default();
        let look = |absences: &mut Absences, seconds| {
            let now = start + Duration::from_secs(seconds);
            absences.look(&Answer::default(), &ready, now, interval);
            absences.kept().len()
        };
        assert_eq!(look(&mut absences, 0), 0, "there was no outage");
        absences.keep([a.clone()]);
        assert_eq!(look(&mut absences, 1), 1);
        absences.interrupted();
        assert_eq!(look(&mut absences, 2), 2);
        let back = Answer { unreadable: ready.clone(), ..Answer::default() };
        absences.look(&back, &ready, start + Duration::from_secs(3), interval);
        assert!(absences.kept().is_empty());
        assert_eq!(look(&mut absences, 61), 2, "it is still doubtful");
        absences.look(&back, &ready, start + Duration::from_secs(62), interval);
        assert_eq!(look(&mut absences, 63), 0);
    }

    #[test]
    fn only_looks_in_a_row_and_apart_confirm() {
        let id: EndpointId = "a".parse().unwrap();
        let (ready, interval) = (BTreeSet::from([id.clone()]), Duration::from_secs(10));
        let (empty, start) = (Answer::default(), Instant::now());
        let mut absences = Absences::default();
        let look = |absences: &mut Absences, seconds| {
            absences.look(&empty, &ready, start + Duration::from_secs(seconds), interval);
        };
        for second in [0, 1, 2, 9] {
            look(&mut absences, second);
        }
        assert!(absences.confirmed(2).is_empty());
        look(&mut absences, 10);
        assert!(absences.confirmed(2).contains(&id));
        absences.interrupted();
        look(&mut absences, 20);
        assert!(absences.confirmed(2).is_empty());
    }
}
