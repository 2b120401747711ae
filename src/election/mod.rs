//! Leadership with fencing tokens on any store.
//!
//! A [`Candidate`] campaigns for the leader key `elections/<name>`, which lives on a lease. The
//! key's creation revision is the [`FencingToken`]: strictly increasing from leader to leader.
//! Three things keep two leaders from acting at once:
//!
//! 1. a leader counts its deadline on its own host's boot clock, which goes on in a suspend, from
//!    before the renewal was sent, and stops by itself a margin before the lease can end;
//! 2. whatever a campaign answered, the key is read back before it counts as won;
//! 3. [`Leadership::commit`] guards every write with the token, so that the store itself refuses
//!    one that comes too late.

mod clock;
mod driver;
mod leadership;
mod lease;
mod machine;
mod metrics;
mod timing;
mod view;

#[cfg(test)]
mod conversations;
#[cfg(test)]
mod rehearsal;
#[cfg(test)]
mod simulation;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::daemon::{OwnedTask, spawn_owned};
use crate::model::{CandidateId, ElectionName, Timestamp, keys};
use crate::store::{SharedStore, SharedWatch};
use crate::text;

pub use leadership::{FencingToken, Leadership};

/// What to stand for, and as whom.
#[derive(Debug, Clone)]
pub struct Options {
    pub name: ElectionName,
    pub id: CandidateId,
    /// After this time without a sign of life from the leader another one takes over; the store may
    /// grant a longer one.
    pub ttl: Duration,
}

/// Where a candidate stands.
#[derive(Debug, Clone)]
pub enum Standing {
    /// Another one leads, as far as is known.
    Follower {
        leader: Option<String>,
    },
    Leader(Leadership),
}

/// Stands in an election until it resigns or is dropped: follows while another one leads, campaigns
/// when nobody does, leads when it has won.
#[derive(Debug)]
pub struct Candidate {
    standing: watch::Receiver<Standing>,
    resign: CancellationToken,
    resigned: CancellationToken,
    _task: OwnedTask<()>,
}

/// The elections that one process stands in: they share one watch of the leader keys, and where they
/// are many, one lease.
#[derive(Debug, Clone)]
pub struct Elections {
    store: SharedStore,
    leaders: SharedWatch,
    lease: Option<lease::SharedLease>,
    turns: Arc<Semaphore>,
    healths: driver::Healths,
}

/// How many candidates of a process campaign at a time. A thousand at once would get no answer before
/// each gives up, and begin again.
const CAMPAIGNS: usize = 32;

impl Elections {
    pub fn new(store: SharedStore) -> Self {
        let leaders = SharedWatch::by_name(store.clone(), keys::elections());
        let turns = Arc::new(Semaphore::new(CAMPAIGNS));
        Self { store, leaders, lease: None, turns, healths: driver::Healths::default() }
    }

    /// For many candidates with this TTL: those who lead share one lease, so that they are renewed,
    /// and in the worst case lost, together.
    pub fn together(store: SharedStore, ttl: Duration) -> Self {
        Self::new(store).sharing(ttl)
    }

    /// The same elections, for more candidates.
    #[must_use]
    pub fn sharing(self, ttl: Duration) -> Self {
        let new = || lease::SharedLease::new(self.store.clone(), ttl.max(timing::SHORTEST_TTL));
        Self { lease: Some(self.lease.unwrap_or_else(new)), ..self }
    }

    /// Stands in one of them.
    pub fn stand(&self, options: Options) -> Candidate {
        let (told, standing) = watch::channel(Standing::Follower { leader: None });
        let (resign, resigned) = (CancellationToken::new(), CancellationToken::new());
        let task = driver::drive(self.clone(), options, told, resign.clone(), resigned.clone());
        Candidate { standing, resign, resigned, _task: spawn_owned(task) }
    }
}

impl Candidate {
    /// Stands in the only election of this process.
    pub fn start(store: SharedStore, options: Options) -> Self {
        Elections::new(store).stand(options)
    }

    /// Where it stands; changes are seen at once.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// The leadership, if it leads now.
    pub fn leadership(&self) -> Option<Leadership> {
        match &*self.standing.borrow() {
            Standing::Leader(leadership) if leadership.is_held() => Some(leadership.clone()),
            _ => None,
        }
    }

    /// Gives up: stops leading at once, then frees the leader key so that a successor need not wait
    /// for a lease to end. Answers within two seconds: with the store away the lease is left to its
    /// TTL. The candidate does not stand again.
    ///
    /// Stop what the leadership allowed before this is called.
    pub async fn resign(&self) {
        self.resign.cancel();
        self.resigned.cancelled().await;
    }
}

/// The value of a leader key, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderRecord {
    /// Who leads.
    pub id: String,
    /// When it campaigned, by its own clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

impl LeaderRecord {
    pub fn to_value(&self) -> Bytes {
        // A struct of a string and a time can always be written as JSON.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// Reads a value. One that is not ours is shown as it is: the key is held, whatever it says. The
    /// id is safe to print in any case.
    pub fn from_value(value: &[u8]) -> Self {
        let record = serde_json::from_slice(value).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(value);
            Self { id: text.chars().take(60).collect(), since: None }
        });
        Self { id: text::one_line(&record.id).into_owned(), ..record }
    }
}
