//! The state machine of one candidate: what happened goes in, what to do comes out. No clock, no
//! socket, no randomness inside.
//!
//! A campaign is granted a lease, puts the leader key if it is absent, and reads it back. Only what
//! was read back counts: whatever the campaign answered, late or not at all, the key is this
//! candidate's if and only if it is on this campaign's lease. Names do not count, so that the key of
//! an earlier process with the same id is not taken for one's own.

use std::time::Duration;

use super::timing;
use super::view::{Holder, View};
use crate::store::{Lease, LeaseId, Revision};

/// When an input comes in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// The monotonic clock, from any start.
    pub now: Duration,
    /// Random, from 0 up to 1.
    pub jitter: f64,
}

/// The number of a request. Only the answer to the last one counts.
pub(super) type CallId = u64;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    /// Time has passed: due at [`Machine::wake_at`].
    Tick,
    Answer(CallId, Answer),
    /// This request, which had to wait for its turn, is sent now.
    Sent(CallId),
    /// The leader key was seen, by watch.
    Seen(Holder),
    /// The leader key did not exist at this revision, by watch.
    Gone(Revision),
    /// By watch: the store began another life, or its revisions have gone back. What there is of the
    /// leader key now, at this revision.
    Reborn(Revision, Option<Holder>),
    /// Give up for good.
    Resign,
}

/// What the store answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Granted(Lease),
    /// To a campaign: won or lost, the key has to be read back.
    Campaigned,
    /// The leader key.
    Read(Option<Holder>),
    /// The lease counts for this time to live, from so long before this request was sent: another's
    /// renewal of a shared lease may be told.
    Renewed {
        ttl: Duration,
        age: Duration,
    },
    LeaseExpired,
    /// To a resignation.
    Resigned,
    /// To the deletion of a key without a lease.
    Cleared,
    /// An error of any kind, or an outcome that is not known.
    Failed,
}

/// What to do, in this order. Requests are answered with [`Input::Answer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// Ask for a lease, once it is this candidate's turn. That is said by [`Input::Sent`].
    Grant(CallId),
    /// Put the leader key on this lease if it is absent.
    Campaign(CallId, LeaseId),
    /// Read the leader key.
    Read(CallId),
    KeepAlive(CallId, LeaseId),
    /// Delete the leader key if this revision created it, and end the lease.
    Resign(CallId, Revision, LeaseId),
    /// Delete the leader key, which is on no lease, if this revision created it.
    Clear(CallId, Revision),
    /// End a lease; the outcome does not matter.
    Revoke(LeaseId),
    /// A campaign has come to nothing, though nobody else has won.
    GaveUp {
        why: &'static str,
    },
    /// Be the leader until then.
    Lead {
        token: Revision,
        until: Duration,
    },
    /// Still the leader, until then.
    Extend {
        until: Duration,
    },
    /// Stop being the leader, now.
    StepDown {
        why: &'static str,
    },
    /// This is the leader now, as far as is known.
    Follow {
        leader: Option<Holder>,
    },
    /// The resignation is complete: nothing follows.
    Stop,
}

/// Why a leader steps down, for whoever reads the log at night.
pub(super) const RESIGNED: &str = "it resigned";
pub(super) const NOT_RENEWED: &str = "its lease could not be renewed in time, since the store answered too late \
    or this process stood still";
pub(super) const LEASE_ENDED: &str = "the store has ended its lease, which was not renewed in time";
pub(super) const KEY_DELETED: &str =
    "its leader key is gone from the store: the lease ended, or somebody deleted it";

pub(super) const STORE_REPLACED: &str =
    "the store was restored or rebuilt, and its leader key is not in it";

/// Why a campaign came to nothing.
pub(super) const NOT_IN_TIME: &str =
    "the store did not answer a campaign before its lease could have ended";
pub(super) const NOT_READ_BACK: &str =
    "a campaign was lost to nobody: its leader key was not there when it was read back";

/// One candidate of one election.
#[derive(Debug)]
pub(super) struct Machine {
    /// The time to live that is asked for.
    ttl: Duration,
    phase: Phase,
    view: View,
    call: Option<Call>,
    last_call: CallId,
    /// When the phase's next request is due, if none is under way.
    next_at: Duration,
    /// No campaign begins before, whatever is heard.
    not_before: Duration,
    /// Tries one after the other, and when the last one failed.
    tries: u32,
    tried: Duration,
    followed: Option<Holder>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Following,
    /// Deletes a key without a lease, which this revision created.
    Clearing(Revision),
    Granting,
    Campaigning(Tenure),
    Confirming(Tenure),
    Leading(Tenure, Revision),
    Resigning,
    Stopped,
}

/// A lease and how long it surely lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tenure {
    lease: LeaseId,
    ttl: Duration,
    /// When the request that granted or renewed it was sent.
    renewed: Duration,
}

impl Tenure {
    fn until(&self) -> Duration {
        self.renewed + timing::acting_time(self.ttl)
    }
}

#[derive(Debug, Clone, Copy)]
struct Call {
    id: CallId,
    sent: Duration,
    /// Taken for failed from then on; `None` for one that waits for its turn.
    deadline: Option<Duration>,
}

impl Machine {
    /// A candidate that reads the leader key at the first [`Input::Tick`].
    pub fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            phase: Phase::Following,
            view: View::default(),
            call: None,
            last_call: 0,
            next_at: Duration::ZERO,
            not_before: Duration::ZERO,
            tries: 0,
            tried: Duration::ZERO,
            followed: None,
        }
    }

    /// Takes an input in and answers what to do.
    pub fn handle(&mut self, at: Moment, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        // First of all: a process that was paused must not act on what it believed before.
        self.check_deadline(at, &mut effects);
        match input {
            Input::Tick => self.tick(at, &mut effects),
            Input::Answer(id, answer) => self.answer(at, id, answer, &mut effects),
            Input::Sent(id) => self.sent(at, id),
            Input::Seen(holder) => {
                self.view.see(holder);
                self.heard(at);
            }
            Input::Gone(revision) => {
                self.view.miss(revision);
                self.heard(at);
            }
            Input::Reborn(revision, found) => self.reborn(at, revision, found, &mut effects),
            Input::Resign => self.resign(at, &mut effects),
        }
        self.follow_view(at, &mut effects);
        effects
    }

    /// When [`Input::Tick`] is due at the latest; `None` while only another input is waited for.
    pub fn wake_at(&self) -> Option<Duration> {
        let next = self.call.map_or(Some(self.next_at), |call| call.deadline);
        match self.phase {
            Phase::Stopped => None,
            Phase::Campaigning(tenure) | Phase::Confirming(tenure) | Phase::Leading(tenure, _) => {
                let until = tenure.until();
                Some(next.map_or(until, |next| next.min(until)))
            }
            Phase::Following | Phase::Clearing(_) | Phase::Granting | Phase::Resigning => next,
        }
    }

    /// How much later than [`Self::wake_at`] a tick may come: a renewal may go with others'.
    pub fn may_wait(&self) -> Duration {
        match self.phase {
            Phase::Leading(tenure, _) if self.call.is_none() => {
                timing::gather_wait(tenure.ttl).min(tenure.until().saturating_sub(self.next_at))
            }
            _ => Duration::ZERO,
        }
    }

    /// Whether a campaign is under way, or waits for its turn.
    pub fn is_campaigning(&self) -> bool {
        matches!(self.phase, Phase::Granting | Phase::Campaigning(_) | Phase::Confirming(_))
    }

    fn heard(&mut self, at: Moment) {
        self.view.heard(self.last_call);
        if self.last_call == 0 {
            // The watch has told before anything was asked: that is a look.
            self.next_at = at.now + timing::poll_wait(self.ttl, at.jitter);
        }
    }

    fn check_deadline(&mut self, at: Moment, effects: &mut Vec<Effect>) {
        match self.phase {
            Phase::Leading(tenure, _) if at.now >= tenure.until() => {
                self.step_down(at, NOT_RENEWED, effects);
            }
            Phase::Campaigning(tenure) | Phase::Confirming(tenure) if at.now >= tenure.until() => {
                effects.push(Effect::GaveUp { why: NOT_IN_TIME });
                self.abandon(at, tenure, effects);
            }
            _ => {}
        }
    }

    fn tick(&mut self, at: Moment, effects: &mut Vec<Effect>) {
        match self.call {
            Some(call) if call.deadline.is_some_and(|deadline| at.now >= deadline) => {
                self.answer(at, call.id, Answer::Failed, effects);
            }
            None if at.now >= self.next_at => self.request(at, effects),
            _ => {}
        }
    }

    /// Sends what the phase needs next.
    fn request(&mut self, at: Moment, effects: &mut Vec<Effect>) {
        match self.phase {
            Phase::Following => self.send(at, Effect::Read, effects),
            Phase::Clearing(created) => self.send(at, |id| Effect::Clear(id, created), effects),
            Phase::Granting => {
                self.send(at, Effect::Grant, effects);
                if let Some(call) = &mut self.call {
                    call.deadline = None;
                }
            }
            Phase::Campaigning(t) => self.send(at, |id| Effect::Campaign(id, t.lease), effects),
            Phase::Confirming(_) => self.send(at, Effect::Read, effects),
            Phase::Leading(t, _) => self.send(at, |id| Effect::KeepAlive(id, t.lease), effects),
            Phase::Resigning | Phase::Stopped => {}
        }
    }

    fn send(
        &mut self,
        at: Moment,
        request: impl FnOnce(CallId) -> Effect,
        effects: &mut Vec<Effect>,
    ) {
        self.last_call += 1;
        let deadline = at.now + timing::call_deadline(self.ttl);
        self.call = Some(Call { id: self.last_call, sent: at.now, deadline: Some(deadline) });
        effects.push(request(self.last_call));
    }

    fn sent(&mut self, at: Moment, id: CallId) {
        if let Some(call) = self.call.as_mut().filter(|call| call.id == id) {
            call.sent = at.now;
            call.deadline = Some(at.now + timing::call_deadline(self.ttl));
        }
    }

    fn answer(&mut self, at: Moment, id: CallId, answer: Answer, effects: &mut Vec<Effect>) {
        let Some(call) = self.call.take_if(|call| call.id == id) else { return };
        match (self.phase, answer) {
            (Phase::Following, Answer::Read(found)) => {
                self.read(id, found);
                self.next_at = at.now + timing::poll_wait(self.ttl, at.jitter);
            }
            (Phase::Granting, Answer::Granted(lease)) => {
                let tenure = Tenure { lease: lease.id, ttl: lease.ttl, renewed: call.sent };
                self.enter(at, Phase::Campaigning(tenure), effects);
            }
            (Phase::Campaigning(tenure), _) => self.enter(at, Phase::Confirming(tenure), effects),
            (Phase::Confirming(tenure), Answer::Read(found)) => {
                self.read(id, found);
                self.conclude(at, tenure, effects);
            }
            (Phase::Confirming(_), _) => self.next_at = at.now + self.retry_wait(at),
            (Phase::Leading(tenure, token), Answer::Renewed { ttl, age }) => {
                let tenure = Tenure { ttl, renewed: call.sent.saturating_sub(age), ..tenure };
                self.phase = Phase::Leading(tenure, token);
                self.next_at = call.sent + timing::renew_wait(ttl, at.jitter);
                effects.push(Effect::Extend { until: tenure.until() });
            }
            (Phase::Leading(..), Answer::LeaseExpired) => {
                self.step_down(at, LEASE_ENDED, effects);
            }
            (Phase::Leading(tenure, _), _) => {
                self.next_at = at.now + timing::renew_retry_wait(tenure.ttl, at.jitter);
            }
            (Phase::Resigning, _) => self.stop(effects),
            // More of them, from somebody who goes on writing them, are cleared more rarely.
            (Phase::Clearing(_), _) => {
                self.view.cleared();
                self.wait_to_campaign(at);
            }
            (Phase::Following | Phase::Granting, _) => self.follow_later(at),
            (Phase::Stopped, _) => {}
        }
    }

    fn read(&mut self, call: CallId, found: Option<Holder>) {
        match found {
            Some(holder) => self.view.read(call, holder),
            None => self.view.read_absent(),
        }
    }

    /// Goes on to a phase and sends its request at once.
    fn enter(&mut self, at: Moment, phase: Phase, effects: &mut Vec<Effect>) {
        self.phase = phase;
        self.next_at = at.now;
        self.request(at, effects);
    }

    /// The campaign's key was read back: it is won if the key is on the campaign's own lease.
    fn conclude(&mut self, at: Moment, tenure: Tenure, effects: &mut Vec<Effect>) {
        let leader = self.view.leader();
        let own = leader.filter(|holder| holder.lease == Some(tenure.lease));
        let Some(token) = own.map(|holder| holder.created) else {
            if leader.is_none() {
                effects.push(Effect::GaveUp { why: NOT_READ_BACK });
            }
            return self.abandon(at, tenure, effects);
        };
        self.phase = Phase::Leading(tenure, token);
        self.next_at = tenure.renewed + timing::renew_wait(tenure.ttl, at.jitter);
        effects.push(Effect::Lead { token, until: tenure.until() });
    }

    /// Ends the campaign. The lease is ended too, so that a put that is still on its way can do
    /// nothing any more.
    fn abandon(&mut self, at: Moment, tenure: Tenure, effects: &mut Vec<Effect>) {
        effects.push(Effect::Revoke(tenure.lease));
        self.wait_to_campaign(at);
    }

    /// Follows, and begins no campaign for a while: the end of the campaign that was given up is
    /// heard of as one more vacancy.
    fn wait_to_campaign(&mut self, at: Moment) {
        self.follow_later(at);
        self.not_before = self.next_at;
    }

    /// Forgets what was known: the tokens of another life say nothing of those of this one.
    fn reborn(
        &mut self,
        at: Moment,
        revision: Revision,
        found: Option<Holder>,
        effects: &mut Vec<Effect>,
    ) {
        self.view = View::default();
        self.view.heard(self.last_call);
        let key = found.as_ref().map(|holder| (holder.created, holder.lease));
        match found {
            Some(holder) => self.view.see(holder),
            None => self.view.miss(revision),
        }
        match self.phase {
            Phase::Leading(tenure, token) if key != Some((token, Some(tenure.lease))) => {
                self.step_down(at, STORE_REPLACED, effects);
            }
            // What is read now may be of the life before.
            Phase::Following | Phase::Confirming(_) => {
                self.call = None;
                self.next_at = at.now;
                self.request(at, effects);
            }
            _ => {}
        }
    }

    fn step_down(&mut self, at: Moment, why: &'static str, effects: &mut Vec<Effect>) {
        effects.push(Effect::StepDown { why });
        self.followed = None;
        if let Phase::Leading(tenure, _) = self.phase {
            self.abandon(at, tenure, effects);
        }
    }

    fn follow_later(&mut self, at: Moment) {
        self.phase = Phase::Following;
        self.call = None;
        // What is known already was acted on: the next read decides.
        self.view.take_vacancy();
        self.next_at = at.now + self.retry_wait(at);
    }

    /// Twice as long after each try that failed soon after another one.
    fn retry_wait(&mut self, at: Moment) -> Duration {
        if at.now >= self.tried + self.ttl {
            self.tries = 0;
        }
        (self.tries, self.tried) = (self.tries.saturating_add(1), at.now);
        timing::retry_wait(self.ttl, self.tries, at.jitter)
    }

    fn resign(&mut self, at: Moment, effects: &mut Vec<Effect>) {
        self.call = None;
        match self.phase {
            Phase::Leading(tenure, token) => {
                effects.push(Effect::StepDown { why: RESIGNED });
                self.phase = Phase::Resigning;
                self.send(at, |id| Effect::Resign(id, token, tenure.lease), effects);
                if let Some(call) = &mut self.call {
                    call.deadline = Some(at.now + timing::LAST_CALL_DEADLINE);
                }
            }
            Phase::Campaigning(tenure) | Phase::Confirming(tenure) => {
                // The put may have been applied: without an end of the lease the key would keep
                // others out for a whole TTL.
                effects.push(Effect::Revoke(tenure.lease));
                self.stop(effects);
            }
            Phase::Following | Phase::Clearing(_) | Phase::Granting => self.stop(effects),
            Phase::Resigning | Phase::Stopped => {}
        }
    }

    fn stop(&mut self, effects: &mut Vec<Effect>) {
        self.phase = Phase::Stopped;
        effects.push(Effect::Stop);
    }

    /// Draws the conclusions from what is known of the leader key now.
    fn follow_view(&mut self, at: Moment, effects: &mut Vec<Effect>) {
        match self.phase {
            Phase::Leading(_, token) if self.view.rules_out(token) => {
                self.step_down(at, KEY_DELETED, effects);
                self.follow_view(at, effects);
            }
            // Another one was faster while this one waited for its turn.
            Phase::Granting if self.view.leader().is_some() && self.is_waiting() => {
                self.phase = Phase::Following;
                self.call = None;
                self.next_at = at.now + timing::poll_wait(self.ttl, at.jitter);
                self.tell_leader(effects);
            }
            Phase::Following => {
                self.tell_leader(effects);
                if at.now < self.not_before {
                    return;
                }
                if let Some(created) = self.view.ownerless() {
                    self.call = None;
                    self.enter(at, Phase::Clearing(created), effects);
                } else if self.view.take_vacancy() {
                    self.call = None;
                    self.enter(at, Phase::Granting, effects);
                }
            }
            _ => {}
        }
    }

    fn is_waiting(&self) -> bool {
        self.call.is_some_and(|call| call.deadline.is_none())
    }

    fn tell_leader(&mut self, effects: &mut Vec<Effect>) {
        let leader = self.view.leader();
        // A leader may move its key to another lease.
        let who = |holder: &Holder| (holder.created, holder.id.clone());
        if self.followed.as_ref().map(who) != leader.map(who) {
            self.followed = leader.cloned();
            effects.push(Effect::Follow { leader: leader.cloned() });
        }
    }
}
#[cfg(test)]
impl Machine {
    /// The token of the leadership that this candidate may act on at this instant.
    pub fn acting(&self, now: Duration) -> Option<Revision> {
        match self.phase {
            Phase::Leading(tenure, token) if now < tenure.until() => Some(token),
            _ => None,
        }
    }
}
