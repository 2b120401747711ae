//! What is known of the leader key, from reads and watch events that may come in any order.

use super::machine::CallId;
use crate::store::{LeaseId, Revision};

/// Who holds the leader key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    /// The revision that created the key: the holder's fencing token.
    pub created: Revision,
    pub lease: Option<LeaseId>,
    /// Who the holder says it is.
    pub id: String,
}

/// Revisions only grow within one life of the store, so that an old piece of news is told from a new
/// one. With another life all of this is forgotten.
#[derive(Debug, Default)]
pub(super) struct View {
    holder: Option<Holder>,
    /// The last revision at which the key is known to have been absent.
    absent_at: Revision,
    /// The absence is news.
    vacant: bool,
    /// The last request that was sent before the last news by watch.
    heard_after: CallId,
}

impl View {
    /// Who leads. A key without a lease, from an import or by hand, would keep everybody out for
    /// ever, and is nobody's.
    pub fn leader(&self) -> Option<&Holder> {
        self.holder.as_ref().filter(|holder| holder.lease.is_some())
    }

    /// The revision that created a leader key without a lease, if that is what is there.
    pub fn ownerless(&self) -> Option<Revision> {
        let holder = self.holder.as_ref().filter(|holder| holder.lease.is_none());
        holder.map(|holder| holder.created)
    }

    /// A key without a lease is deleted, as far as is known.
    pub fn cleared(&mut self) {
        self.holder.take_if(|holder| holder.lease.is_none());
    }

    /// News has come by watch, after this request was sent.
    pub fn heard(&mut self, last_call: CallId) {
        self.heard_after = last_call;
    }

    /// A read with this number has shown the key.
    pub fn read(&mut self, call: CallId, holder: Holder) {
        let known = self.holder.as_ref().map_or(self.absent_at, |known| known.created);
        // What was read after the last news came is newer than it, whatever their revisions: a
        // lower one tells that the store was replaced, of which the watch has not heard yet.
        if call > self.heard_after && holder.created < known {
            *self = Self { heard_after: self.heard_after, ..Self::default() };
        }
        self.see(holder);
    }

    pub fn see(&mut self, holder: Holder) {
        let known = self.holder.as_ref().map_or(self.absent_at, |known| known.created);
        if holder.created >= known {
            self.holder = Some(holder);
            self.vacant = false;
        }
    }

    /// The key was absent at this revision.
    pub fn miss(&mut self, revision: Revision) {
        self.absent_at = self.absent_at.max(revision);
        if self.holder.as_ref().is_none_or(|holder| holder.created <= revision) {
            self.holder = None;
            self.vacant = true;
        }
    }

    /// A read found no key. It does not tell at which revision; should a newer holder be known, a
    /// campaign will find it.
    pub fn read_absent(&mut self) {
        self.holder = None;
        self.vacant = true;
    }

    /// Whether the key has turned out to be absent since this was asked last.
    pub fn take_vacancy(&mut self) -> bool {
        std::mem::take(&mut self.vacant)
    }

    /// Whether the leadership with this token is known to be over.
    pub fn rules_out(&self, token: Revision) -> bool {
        let newer = |holder: &Holder| holder.created > token;
        self.absent_at >= token || self.holder.as_ref().is_some_and(newer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(created: u64) -> Holder {
        Holder { created: Revision(created), lease: Some(LeaseId(1)), id: "a".into() }
    }

    fn created(view: &View) -> Option<u64> {
        view.leader().map(|holder| holder.created.0)
    }

    #[test]
    fn old_news_change_nothing() {
        let mut view = View::default();
        view.see(holder(7));
        view.miss(Revision(5));
        assert_eq!(created(&view), Some(7), "an absence from before it was created");
        view.see(holder(3));
        assert_eq!(created(&view), Some(7), "an earlier holder");
        view.miss(Revision(9));
        view.see(holder(7));
        assert_eq!(created(&view), None, "the holder from before the deletion");
        assert!(view.take_vacancy() && !view.take_vacancy());
    }

    #[test]
    fn a_leadership_is_over_when_its_key_was_deleted_or_created_anew() {
        let mut view = View::default();
        view.miss(Revision(4));
        view.see(holder(5));
        assert!(!view.rules_out(Revision(5)));
        view.see(holder(6));
        assert!(view.rules_out(Revision(5)));
        let mut view = View::default();
        view.see(holder(5));
        view.miss(Revision(6));
        assert!(view.rules_out(Revision(5)));
    }

    #[test]
    fn a_read_that_was_sent_after_the_news_is_believed_whatever_its_revision() {
        let mut view = View::default();
        view.miss(Revision(100));
        view.heard(4);
        view.read(4, holder(7));
        assert_eq!(created(&view), None, "it may be older than the news");
        view.read(5, holder(7));
        assert_eq!(created(&view), Some(7));
        assert!(!view.rules_out(Revision(7)));
    }

    #[test]
    fn a_key_without_a_lease_is_no_leaders() {
        let mut view = View::default();
        view.see(Holder { lease: None, ..holder(5) });
        assert_eq!((view.leader(), view.ownerless()), (None, Some(Revision(5))));
        view.see(holder(6));
        assert_eq!((created(&view), view.ownerless()), (Some(6), None));
    }
}
