//! The state machine, as conversations: what it is told, and what it does then.

use std::time::Duration;

use super::machine::{self, Answer, CallId, Effect, Input, Machine, Moment};
use super::view::Holder;
use crate::store::{Lease, LeaseId, Revision};

const TTL: Duration = Duration::from_secs(10);

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// A machine with a clock; waits come without jitter.
struct Talk {
    machine: Machine,
    now: Duration,
}

impl Talk {
    fn new() -> Self {
        Self { machine: Machine::new(TTL), now: Duration::ZERO }
    }

    fn tell(&mut self, input: Input) -> Vec<Effect> {
        self.machine.handle(Moment { now: self.now, jitter: 0.0 }, input)
    }

    fn answer(&mut self, call: CallId, answer: Answer) -> Vec<Effect> {
        self.tell(Input::Answer(call, answer))
    }

    /// Lets time pass up to this second.
    fn at(&mut self, second: f64) -> Vec<Effect> {
        self.now = seconds(second);
        self.tell(Input::Tick)
    }

    /// A campaign up to its read back: calls 1 to 4 are under way or answered, at second 0.
    fn campaign() -> Self {
        let mut talk = Self::new();
        assert_eq!(talk.at(0.0), [Effect::Read(1)]);
        assert_eq!(talk.answer(1, Answer::Read(None)), [Effect::Grant(2)]);
        let lease = Lease { id: LeaseId(5), ttl: TTL };
        assert_eq!(talk.answer(2, Answer::Granted(lease)), [Effect::Campaign(3, LeaseId(5))]);
        talk
    }

    /// A leader with token 7, since second 0; call 4 was the last.
    fn leader() -> Self {
        let mut talk = Self::campaign();
        assert_eq!(talk.answer(3, Answer::Campaigned), [Effect::Read(4)]);
        let leads = Effect::Lead { token: Revision(7), until: seconds(9.0) };
        assert_eq!(talk.answer(4, Answer::Read(Some(holder(7, 5)))), [leads]);
        talk
    }
}

fn holder(created: u64, lease: u64) -> Holder {
    Holder { created: Revision(created), lease: Some(LeaseId(lease)), id: "a".into() }
}

fn follows(holder: Option<Holder>) -> Effect {
    Effect::Follow { leader: holder }
}

#[test]
fn a_candidate_follows_whoever_leads_and_campaigns_when_the_key_is_gone() {
    let mut talk = Talk::new();
    talk.at(0.0);
    let leader = holder(3, 1);
    assert_eq!(talk.answer(1, Answer::Read(Some(leader.clone()))), [follows(Some(leader.clone()))]);
    assert_eq!(talk.tell(Input::Seen(leader)), []);
    assert_eq!(talk.tell(Input::Gone(Revision(2))), [], "older than the leader");
    assert_eq!(talk.tell(Input::Gone(Revision(4))), [follows(None), Effect::Grant(2)]);
}

#[test]
fn a_follower_that_hears_nothing_looks_itself() {
    let mut talk = Talk::new();
    talk.at(0.0);
    talk.answer(1, Answer::Read(Some(holder(3, 1))));
    assert_eq!(talk.at(9.9), []);
    assert_eq!(talk.at(10.0), [Effect::Read(2)]);
    assert_eq!(talk.answer(2, Answer::Read(None)), [follows(None), Effect::Grant(3)]);
}

#[test]
fn a_key_of_the_same_name_on_another_lease_is_another_leader() {
    let mut talk = Talk::campaign();
    talk.answer(3, Answer::Campaigned);
    let earlier_self = holder(6, 4);
    let effects = talk.answer(4, Answer::Read(Some(earlier_self.clone())));
    assert_eq!(effects, [Effect::Revoke(LeaseId(5)), follows(Some(earlier_self))]);
}

#[test]
fn a_campaign_with_an_unknown_outcome_is_decided_by_reading_back() {
    let mut talk = Talk::campaign();
    assert_eq!(talk.answer(3, Answer::Failed), [Effect::Read(4)]);
    let leads = Effect::Lead { token: Revision(7), until: seconds(9.0) };
    assert_eq!(talk.answer(4, Answer::Read(Some(holder(7, 5)))), [leads]);
}

#[test]
fn a_campaign_that_left_no_key_ends_its_lease_so_that_it_cannot_win_later() {
    let mut talk = Talk::campaign();
    talk.answer(3, Answer::Failed);
    let why = machine::NOT_READ_BACK;
    let effects = talk.answer(4, Answer::Read(None));
    assert_eq!(effects, [Effect::GaveUp { why }, Effect::Revoke(LeaseId(5))]);
    assert_eq!(talk.tell(Input::Tick), [], "the next try waits");
    assert_eq!(talk.at(0.05), [Effect::Read(5)]);
}

#[test]
fn a_win_that_is_heard_of_after_the_lease_may_have_ended_is_no_win() {
    let mut talk = Talk::campaign();
    talk.answer(3, Answer::Campaigned);
    talk.now = seconds(9.0);
    let effects = talk.answer(4, Answer::Read(Some(holder(7, 5))));
    let why = machine::NOT_IN_TIME;
    assert_eq!(effects, [Effect::GaveUp { why }, Effect::Revoke(LeaseId(5))]);
}

#[test]
fn a_read_back_that_fails_is_tried_again_while_the_lease_lives() {
    let mut talk = Talk::campaign();
    talk.answer(3, Answer::Campaigned);
    assert_eq!(talk.answer(4, Answer::Failed), []);
    assert_eq!(talk.at(0.05), [Effect::Read(5)]);
    assert_eq!(talk.at(2.55), [], "no answer within a quarter of the time to live");
    assert_eq!(talk.at(2.7), [Effect::Read(6)]);
    let effects = talk.answer(6, Answer::Read(Some(holder(7, 5))));
    assert_eq!(effects, [Effect::Lead { token: Revision(7), until: seconds(9.0) }]);
}

#[test]
fn a_leaders_time_counts_from_before_the_renewal_was_sent() {
    let mut talk = Talk::leader();
    assert_eq!(talk.at(3.0), [Effect::KeepAlive(5, LeaseId(5))]);
    talk.now = seconds(4.5);
    assert_eq!(
        talk.answer(5, Answer::Renewed { ttl: TTL, age: Duration::ZERO }),
        [Effect::Extend { until: seconds(12.0) }]
    );
    assert_eq!(talk.at(5.9), []);
    assert_eq!(talk.at(6.0), [Effect::KeepAlive(6, LeaseId(5))]);
}

#[test]
fn the_granted_time_to_live_counts_not_the_one_asked_for() {
    let mut talk = Talk::leader();
    talk.at(3.0);
    let half = TTL / 2;
    assert_eq!(
        talk.answer(5, Answer::Renewed { ttl: half, age: Duration::ZERO }),
        [Effect::Extend { until: seconds(7.5) }]
    );
    assert_eq!(talk.at(4.5), [Effect::KeepAlive(6, LeaseId(5))]);
}

#[test]
fn a_leader_that_cannot_renew_stops_before_its_lease_can_end() {
    let mut talk = Talk::leader();
    talk.at(3.0);
    assert_eq!(talk.answer(5, Answer::Failed), []);
    assert_eq!(talk.at(3.2), [Effect::KeepAlive(6, LeaseId(5))], "it tries again");
    assert_eq!(talk.at(5.7), [], "no answer");
    assert_eq!(talk.at(5.9), [Effect::KeepAlive(7, LeaseId(5))]);
    talk.at(8.4);
    assert_eq!(talk.at(8.6), [Effect::KeepAlive(8, LeaseId(5))]);
    assert_eq!(talk.machine.wake_at(), Some(seconds(9.0)), "before the answer is overdue");
    let why = machine::NOT_RENEWED;
    let stops = [Effect::StepDown { why }, Effect::Revoke(LeaseId(5)), follows(Some(holder(7, 5)))];
    assert_eq!(talk.at(9.0), stops);
}

#[test]
fn a_paused_leader_stops_before_it_believes_an_old_answer() {
    let mut talk = Talk::leader();
    talk.at(3.0);
    talk.now = seconds(60.0);
    let effects = talk.answer(5, Answer::Renewed { ttl: TTL, age: Duration::ZERO });
    assert!(matches!(effects[..], [Effect::StepDown { .. }, ..]), "{effects:?}");
    assert!(talk.machine.acting(talk.now).is_none());
}

#[test]
fn an_answer_to_an_earlier_request_is_not_taken_for_the_last_ones() {
    let mut talk = Talk::leader();
    talk.at(3.0);
    talk.at(5.5);
    assert_eq!(talk.at(5.7), [Effect::KeepAlive(6, LeaseId(5))]);
    assert_eq!(
        talk.answer(5, Answer::Renewed { ttl: TTL, age: Duration::ZERO }),
        [],
        "call 5 was given up"
    );
    assert_eq!(
        talk.answer(6, Answer::Renewed { ttl: TTL, age: Duration::ZERO }),
        [Effect::Extend { until: seconds(14.7) }]
    );
}

#[test]
fn a_leader_whose_lease_or_key_is_gone_stops_at_once() {
    let stops =
        |why| [Effect::StepDown { why }, Effect::Revoke(LeaseId(5)), follows(Some(holder(7, 5)))];
    let mut talk = Talk::leader();
    talk.at(3.0);
    assert_eq!(talk.answer(5, Answer::LeaseExpired), stops(machine::LEASE_ENDED));
    let mut talk = Talk::leader();
    assert_eq!(talk.tell(Input::Gone(Revision(6))), [], "from before it won");
    let effects = talk.tell(Input::Gone(Revision(8)));
    assert_eq!(effects[0], Effect::StepDown { why: machine::KEY_DELETED });
    let mut talk = Talk::leader();
    let effects = talk.tell(Input::Seen(holder(9, 8)));
    assert_eq!(effects[0], Effect::StepDown { why: machine::KEY_DELETED });
}

#[test]
fn a_leader_resigns_by_deleting_its_key_and_is_done_when_answered_or_too_late() {
    let resigns =
        [Effect::StepDown { why: machine::RESIGNED }, Effect::Resign(5, Revision(7), LeaseId(5))];
    let mut talk = Talk::leader();
    assert_eq!(talk.tell(Input::Resign), resigns);
    assert_eq!(talk.answer(5, Answer::Resigned), [Effect::Stop]);
    assert_eq!(talk.machine.wake_at(), None);
    assert_eq!(talk.tell(Input::Gone(Revision(8))), [], "it does not stand again");
    let mut talk = Talk::leader();
    talk.tell(Input::Resign);
    assert_eq!(talk.at(1.9), []);
    assert_eq!(talk.at(2.0), [Effect::Stop]);
}

#[test]
fn whoever_resigns_during_a_campaign_takes_the_key_along() {
    let mut talk = Talk::campaign();
    assert_eq!(talk.tell(Input::Resign), [Effect::Revoke(LeaseId(5)), Effect::Stop]);
    let mut talk = Talk::new();
    talk.at(0.0);
    assert_eq!(talk.tell(Input::Resign), [Effect::Stop]);
}

#[test]
fn tries_at_a_store_that_is_away_become_rarer() {
    let mut talk = Talk::new();
    let (mut call, mut waits) = (0, Vec::new());
    for _ in 0..12 {
        let before = talk.now;
        talk.now = talk.machine.wake_at().unwrap();
        waits.push(talk.now - before);
        call += 1;
        assert_eq!(talk.tell(Input::Tick), [Effect::Read(call)]);
        talk.answer(call, Answer::Failed);
    }
    assert_eq!(waits[1], Duration::from_millis(25));
    assert_eq!(waits[2], Duration::from_millis(50));
    assert_eq!(waits[11], TTL / 8, "half of the limit, without jitter");
}

#[test]
fn a_candidate_believes_its_key_though_revisions_have_gone_back_unheard() {
    let mut talk = Talk::new();
    talk.at(0.0);
    talk.answer(1, Answer::Read(Some(holder(990, 1))));
    let gone = talk.tell(Input::Gone(Revision(1000)));
    assert_eq!(gone, [follows(None), Effect::Grant(2)]);
    // The store is rebuilt here.
    talk.answer(2, Answer::Granted(Lease { id: LeaseId(5), ttl: TTL }));
    talk.answer(3, Answer::Campaigned);
    let leads = Effect::Lead { token: Revision(7), until: seconds(9.0) };
    assert_eq!(talk.answer(4, Answer::Read(Some(holder(7, 5)))), [leads]);
    assert_eq!(talk.tell(Input::Reborn(Revision(8), Some(holder(7, 5)))), []);
}

#[test]
fn campaigns_that_are_given_up_become_rarer_though_each_is_heard_of() {
    let mut talk = Talk::new();
    let mut campaigns = Vec::new();
    let (mut revision, mut effects) = (0, talk.at(0.0));
    while talk.now < TTL * 2 {
        // Whatever it writes is gone at once, as if somebody deletes every leader key.
        let is_request =
            |e: &&Effect| matches!(e, Effect::Read(_) | Effect::Grant(_) | Effect::Campaign(..));
        let (call, answer) = match effects.iter().rfind(is_request) {
            Some(Effect::Read(call)) => (*call, Answer::Read(None)),
            Some(Effect::Grant(call)) => {
                campaigns.push(talk.now);
                let lease = Lease { id: LeaseId(*call), ttl: TTL };
                (*call, Answer::Granted(lease))
            }
            Some(Effect::Campaign(call, _)) => (*call, Answer::Campaigned),
            _ => {
                talk.now = talk.machine.wake_at().unwrap();
                effects = talk.tell(Input::Tick);
                continue;
            }
        };
        effects = talk.answer(call, answer);
        if matches!(effects.first(), Some(Effect::GaveUp { .. })) {
            revision += 2;
            talk.tell(Input::Seen(holder(revision, call)));
            effects = talk.tell(Input::Gone(Revision(revision + 1)));
        }
    }
    assert!((5..30).contains(&campaigns.len()), "{campaigns:?}");
}

#[test]
fn a_renewal_of_a_while_ago_counts_from_then() {
    let mut talk = Talk::leader();
    assert_eq!(talk.at(3.0), [Effect::KeepAlive(5, LeaseId(5))]);
    let age = seconds(1.0);
    let until = seconds(11.0);
    assert_eq!(talk.answer(5, Answer::Renewed { ttl: TTL, age }), [Effect::Extend { until }]);
    assert_eq!(talk.machine.wake_at(), Some(seconds(6.0)));
}

#[test]
fn a_campaign_that_waits_for_its_turn_is_not_late_and_ends_when_another_leads() {
    let mut talk = Talk::new();
    talk.at(0.0);
    assert_eq!(talk.answer(1, Answer::Read(None)), [Effect::Grant(2)]);
    assert_eq!(talk.at(60.0), [], "however long others are before it");
    assert_eq!((talk.tell(Input::Sent(2)), talk.machine.wake_at()), (vec![], Some(seconds(62.5))));
    assert_eq!(talk.at(62.5), [], "the store is late, and it follows");
    assert!(!talk.machine.is_campaigning());
    let mut talk = Talk::new();
    talk.at(0.0);
    talk.answer(1, Answer::Read(None));
    let other = holder(3, 1);
    assert_eq!(talk.tell(Input::Seen(other.clone())), [follows(Some(other))]);
    assert!(!talk.machine.is_campaigning());
    assert_eq!(talk.tell(Input::Sent(2)), []);
    assert_eq!(talk.tell(Input::Gone(Revision(4))), [follows(None), Effect::Grant(3)]);
}

#[test]
fn what_the_watch_tells_before_anything_was_asked_is_not_read_again_for_a_while() {
    let mut talk = Talk::new();
    assert_eq!(talk.tell(Input::Seen(holder(3, 1))), [follows(Some(holder(3, 1)))]);
    assert_eq!(talk.machine.wake_at(), Some(TTL));
    assert_eq!(talk.at(10.0), [Effect::Read(1)]);
    let mut talk = Talk::new();
    assert_eq!(talk.tell(Input::Gone(Revision(3))), [Effect::Grant(1)]);
}

#[test]
fn a_leader_whose_store_was_replaced_stops_unless_its_key_is_there() {
    let mut talk = Talk::leader();
    assert_eq!(talk.tell(Input::Reborn(Revision(3), Some(holder(7, 5)))), []);
    let why = machine::STORE_REPLACED;
    let effects = talk.tell(Input::Reborn(Revision(3), None));
    assert_eq!(effects[..2], [Effect::StepDown { why }, Effect::Revoke(LeaseId(5))]);
    let mut talk = Talk::leader();
    let effects = talk.tell(Input::Reborn(Revision(9), Some(holder(5, 4))));
    assert_eq!(effects[0], Effect::StepDown { why });
    assert_eq!(effects[2], follows(Some(holder(5, 4))));
}

#[test]
fn a_leader_key_without_a_lease_is_deleted_and_campaigned_for() {
    let mut talk = Talk::new();
    talk.at(0.0);
    let ownerless = Holder { lease: None, ..holder(3, 1) };
    let effects = talk.answer(1, Answer::Read(Some(ownerless)));
    assert_eq!(effects, [Effect::Clear(2, Revision(3))]);
    assert_eq!(talk.answer(2, Answer::Cleared), []);
    assert_eq!(talk.at(0.05), [Effect::Read(3)]);
    assert_eq!(talk.answer(3, Answer::Read(None)), [Effect::Grant(4)]);
}
