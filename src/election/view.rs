//! What is known of the leader key, from reads and watch events that may come in any order.

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

/// Revisions only grow, so that an old piece of news is told from a new one.
#[derive(Debug, Default)]
pub(super) struct View {
    holder: Option<Holder>,
    /// The last revision at which the key is known to have been absent.
    absent_at: Revision,
    /// The absence is news.
    vacant: bool,
}

impl View {
    pub fn holder(&self) -> Option<&Holder> {
        self.holder.as_ref()
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
        Holder { created: Revision(created), lease: None, id: "a".into() }
    }

    fn created(view: &View) -> Option<u64> {
        view.holder().map(|holder| holder.created.0)
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
}
