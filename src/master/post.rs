//! Mails on their way to a spool: the master keeps each one until a mailer has confirmed that it is
//! on disk, or that it was delivered. What is kept, when it is tried, what status says of it; the
//! mailers themselves are in `mailers`. It touches nothing.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crate::wire::mail::{Envelope, NoticeKind, SpoolState};
use crate::wire::time::Timestamp;

/// Mailers at a time: one delivers, others only bring mail into the spool.
const MOST_MAILERS: usize = 3;

/// Mails that wait for a spool here. Beyond it the oldest are told in fewer words.
const MOST_MAILS: usize = 500;

/// The first and the longest pause after a mailer that could not keep a mail.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

/// Mails without a spool, and what is known of the spool.
#[derive(Debug, Default)]
pub(super) struct Post {
    /// Not yet confirmed, oldest first. Each for the recipients that have not got it.
    mails: VecDeque<Envelope>,
    /// Mails that some mailer has been given.
    given: BTreeSet<String>,
    /// What the mailers said of the spool.
    spool: SpoolState,
    /// When waiting mail is due again.
    next_try: Option<Timestamp>,
    /// After a failure to spool: not before.
    not_before: Option<Timestamp>,
    failures: u32,
    /// Why the last mail could not be kept.
    error: Option<String>,
    /// An operator wants everything tried now.
    flush: bool,
}

impl Post {
    pub(super) fn push(&mut self, envelope: Envelope) {
        self.mails.push_back(envelope);
        while self.mails.len() > MOST_MAILS {
            self.merge_oldest();
        }
    }

    /// Mails of the image before this one; that one knew of the spool what must be asked anew.
    pub(super) fn adopt(&mut self, mails: Vec<Envelope>) {
        self.mails = mails.into();
        self.flush = true;
    }

    /// Mails that no spool has confirmed.
    pub(super) fn unconfirmed(&self) -> impl Iterator<Item = &Envelope> {
        self.mails.iter()
    }

    /// How many of them.
    pub(super) fn len(&self) -> usize {
        self.mails.len()
    }

    pub(super) fn waiting(&self) -> u64 {
        self.spool.waiting.saturating_add(self.mails.len() as u64)
    }

    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref().or(self.spool.error.as_deref())
    }

    pub(super) fn flush(&mut self) {
        self.flush = true;
        self.not_before = None;
    }

    /// Two mails become one that names both: with a full memory fewer words, never silence.
    fn merge_oldest(&mut self) {
        let free = |mail: &Envelope| !self.given.contains(&mail.id);
        let mut places =
            self.mails.iter().enumerate().filter(|(_, mail)| free(mail)).map(|(at, _)| at);
        let (Some(first), Some(second)) = (places.next(), places.next()) else {
            self.mails.pop_front();
            return;
        };
        drop(places);
        let Some(later) = self.mails.remove(second) else { return };
        let Some(kept) = self.mails.get_mut(first) else { return };
        if kept.kind != NoticeKind::Digest {
            kept.body = format!("{}\n", kept.subject);
            kept.kind = NoticeKind::Digest;
            kept.chain = None;
            kept.task = None;
            kept.thread = None;
        }
        if kept.body.len() < 16_000 {
            kept.body.push_str(&later.subject);
            kept.body.push('\n');
        }
        for to in later.to {
            if !kept.to.contains(&to) {
                kept.to.push(to);
            }
        }
        kept.subject = format!("[runner] {} notices", kept.body.lines().count());
    }

    #[must_use]
    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        let retry = self.not_before.filter(|_| self.has_free_mail());
        [self.next_try, retry].into_iter().flatten().min()
    }

    /// `running`: how many mailers are at work.
    pub(super) fn handle_timeout(&mut self, running: usize, now: Timestamp) {
        if self.next_try.is_some_and(|at| at <= now) {
            self.next_try = None;
            self.flush = self.flush || running == 0;
        }
        if self.not_before.is_some_and(|at| at <= now) {
            self.not_before = None;
        }
    }

    fn has_free_mail(&self) -> bool {
        self.mails.iter().any(|mail| !self.given.contains(&mail.id))
    }

    /// Whether there is something for one more mailer.
    pub(super) fn wants_mailer(&self, running: usize) -> bool {
        if running >= MOST_MAILERS {
            return false;
        }
        (self.flush && running == 0) || (self.not_before.is_none() && self.has_free_mail())
    }

    /// What a fresh mailer is given: whether it is to try everything, and the mails that no other
    /// mailer has.
    pub(super) fn give(&mut self) -> (bool, Vec<Envelope>) {
        let free = |mail: &&Envelope| !self.given.contains(&mail.id);
        let mails: Vec<Envelope> = self.mails.iter().filter(free).cloned().collect();
        self.given.extend(mails.iter().map(|mail| mail.id.clone()));
        (std::mem::take(&mut self.flush), mails)
    }

    /// A mailer of the image before this one has these.
    pub(super) fn are_given(&mut self, ids: &[String]) {
        self.given.extend(ids.iter().cloned());
    }

    /// A mail is in the spool, or was delivered to all its recipients.
    pub(super) fn spooled(&mut self, id: &str) {
        let place = self.mails.iter().position(|mail| mail.id == id);
        if let Some(mail) = place.and_then(|place| self.mails.remove(place)) {
            self.spool.waiting = self.spool.waiting.saturating_add(mail.to.len() as u64);
        }
        self.given.remove(id);
        self.failures = 0;
        self.error = None;
    }

    /// One recipient of a mail has got it, or never will. A mail that no spool has confirmed went
    /// directly: whatever becomes of the others, this one is not tried again.
    pub(super) fn done(&mut self, id: &str, to: &str) {
        let Some(mail) = self.mails.iter_mut().find(|mail| mail.id == id) else {
            self.spool.waiting = self.spool.waiting.saturating_sub(1);
            return;
        };
        mail.to.retain(|other| other != to);
        if mail.to.is_empty() {
            self.spooled(id);
        }
    }

    /// A mail could not be kept.
    pub(super) fn not_kept(&mut self, error: String, now: Timestamp) {
        let factor = 1_u32 << self.failures.min(16);
        let pause = RETRY.0.saturating_mul(factor).min(RETRY.1);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + pause);
        self.error = Some(error);
    }

    /// A mailer's last words. The error and how many wait, if that is news.
    pub(super) fn told(&mut self, spool: SpoolState, now: Timestamp) -> Option<(String, u64)> {
        let news = spool.error.clone().filter(|_| spool.error != self.spool.error);
        self.next_try = spool.next_try.map(|millis| now + Duration::from_millis(millis));
        self.spool = spool;
        news.map(|error| (error, self.spool.waiting))
    }

    /// A mailer has ended, well or not, that had been given these.
    pub(super) fn mailer_ended(&mut self, ids: &[String], how: Result<(), String>, now: Timestamp) {
        let mut lost = false;
        for id in ids {
            lost |= self.given.remove(id);
        }
        if lost && self.not_before.is_none() {
            let how = how.as_ref().err().map_or("without a word", String::as_str);
            self.not_kept(format!("a mailer ended early ({how})"), now);
        }
        if how.is_err() && self.spool.waiting > 0 && self.next_try.is_none() {
            self.next_try = Some(now + RETRY.0);
        }
    }

    /// At the end of the master nothing waits for long: a pause after the first failure is cut.
    pub(super) fn hurry(&mut self) {
        self.not_before = self.not_before.filter(|_| self.failures > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::time::WallTime;

    fn mail(id: &str, to: &[&str]) -> Envelope {
        Envelope {
            id: id.to_owned(),
            thread: None,
            kind: NoticeKind::First,
            to: to.iter().map(|&to| to.to_owned()).collect(),
            subject: format!("subject of {id}"),
            body: String::new(),
            chain: None,
            task: None,
            at: WallTime(0),
        }
    }

    const NOW: Timestamp = Timestamp(1_000_000);

    #[test]
    fn who_got_a_mail_directly_gets_it_once_when_the_mailer_dies_before_the_others() {
        let mut post = Post::default();
        post.push(mail("a", &["one@x.org", "two@x.org", "three@x.org"]));
        let (_, given) = post.give();
        assert_eq!(given[0].to.len(), 3);
        post.done("a", "one@x.org");
        post.done("a", "two@x.org"); // Refused for ever: that is no reason to try again either.
        post.mailer_ended(&["a".to_owned()], Err("killed".to_owned()), NOW);
        post.handle_timeout(0, NOW + RETRY.1);
        assert!(post.wants_mailer(0));
        let (_, given) = post.give();
        assert_eq!(given[0].to, ["three@x.org"]);
        // The last one ends it, even if the confirmation never comes.
        post.done("a", "three@x.org");
        assert_eq!((post.len(), post.waiting()), (0, 0));
        post.mailer_ended(&["a".to_owned()], Err("killed".to_owned()), NOW);
        assert!(!post.wants_mailer(0) && post.error().is_none());
    }

    #[test]
    fn what_lies_in_the_spool_waits_until_it_is_gone() {
        let mut post = Post::default();
        post.push(mail("a", &["one@x.org", "two@x.org"]));
        post.give();
        assert_eq!(post.waiting(), 1);
        post.spooled("a");
        assert_eq!((post.len(), post.waiting()), (0, 2), "status must not say that all is sent");
        post.done("a", "one@x.org");
        assert_eq!(post.waiting(), 1);
        post.told(SpoolState { waiting: 7, ..SpoolState::default() }, NOW);
        assert_eq!(post.waiting(), 7, "what the mailer counted holds");
    }

    #[test]
    fn a_mail_is_given_to_one_mailer_at_a_time_and_again_after_its_death() {
        let mut post = Post::default();
        post.push(mail("a", &["one@x.org"]));
        assert!(post.wants_mailer(2) && !post.wants_mailer(3));
        assert_eq!(post.give().1.len(), 1);
        assert!(!post.wants_mailer(1), "nothing is left to give");
        post.mailer_ended(&["a".to_owned()], Ok(()), NOW);
        assert_eq!(post.error(), Some("a mailer ended early (without a word)"));
        assert!(!post.wants_mailer(0), "not at once");
        assert_eq!(post.next_timeout(), Some(NOW + RETRY.0));
        post.handle_timeout(0, NOW + RETRY.0);
        assert_eq!(post.give().1.len(), 1);
    }

    #[test]
    fn a_full_memory_tells_in_fewer_words_and_never_keeps_silent() {
        let mut post = Post::default();
        for n in 0..MOST_MAILS + 100 {
            post.push(mail(&format!("m{n}"), &["one@x.org"]));
        }
        assert_eq!(post.len(), MOST_MAILS);
        let told: usize = post
            .unconfirmed()
            .map(|mail| if mail.kind == NoticeKind::Digest { mail.body.lines().count() } else { 1 })
            .sum();
        assert_eq!(told, MOST_MAILS + 100);
    }
}
