//! What becomes of a mail after a try.

use super::order::{direct_letter, letter};
use super::{Desk, Job, Source};
use crate::mailer::ledger::{Backoff, Clock};
use crate::mailer::spool::Meta;
use crate::mailer::transport::Outcome;
use crate::wire::mail::{Envelope, MailReply};

impl Desk<'_> {
    /// What a try brought.
    pub(in crate::mailer) fn finish(
        &mut self,
        job: &Job,
        outcome: Outcome,
        clock: &Clock,
    ) -> Vec<MailReply> {
        let replies = match &job.source {
            Source::Direct => self.finish_direct(job, outcome, clock),
            Source::File(name, meta) => self.finish_file(job, (name, meta), outcome, clock),
        };
        if self.lock.is_some()
            && let Ok(spool) = &mut self.spool
            && let Err(cause) = self.ledger.save(spool, clock, self.mail.limit)
        {
            self.trouble.push(cause);
        }
        replies
    }

    fn finish_file(
        &mut self,
        job: &Job,
        (name, meta): (&String, &Meta),
        outcome: Outcome,
        clock: &Clock,
    ) -> Vec<MailReply> {
        let Ok(spool) = &mut self.spool else { return Vec::new() };
        let (id, to) = (job.envelope.id.clone(), job.to.clone());
        match outcome {
            Outcome::Sent { subject } => {
                self.known.remove(name);
                if let Err(cause) = spool.remove(name, meta.size) {
                    // It must not go again and again: not by this mailer, and later the rarer.
                    let backoff = self.ledger.mails.entry(name.clone()).or_default();
                    backoff.fail(clock.boot, cause.clone());
                    self.bad.insert(name.clone(), cause);
                } else {
                    self.ledger.mails.remove(name);
                }
                self.ledger.server = Backoff::default();
                let postbox = self.ledger.postboxes.entry(to.clone()).or_default();
                postbox.note_sent(clock.boot, self.mail.limit, &letter(meta, clock));
                self.note_threads(job);
                vec![MailReply::Sent { id, to, subject }]
            }
            Outcome::Refused(error) => match spool.bury(name, meta.size, &error) {
                Ok(()) => {
                    self.known.remove(name);
                    self.ledger.mails.remove(name);
                    self.ledger.server = Backoff::default();
                    vec![MailReply::Dead { id, to, error }]
                }
                Err(cause) => {
                    let error = format!("{error}; {cause}");
                    self.ledger.mails.entry(name.clone()).or_default().fail(clock.boot, error);
                    Vec::new()
                }
            },
            Outcome::MailLater(error) => {
                self.ledger.server = Backoff::default();
                self.ledger.mails.entry(name.clone()).or_default().fail(clock.boot, error);
                Vec::new()
            }
            Outcome::ServerLater(error) => {
                self.ledger.server.fail(clock.boot, error);
                Vec::new()
            }
        }
    }

    fn finish_direct(&mut self, job: &Job, outcome: Outcome, clock: &Clock) -> Vec<MailReply> {
        let Some(mut direct) = self.direct.pop_front() else { return Vec::new() };
        let id = direct.envelope.id.clone();
        let mut replies = Vec::new();
        match outcome {
            Outcome::Sent { subject } => {
                direct.left.pop_front();
                let letter = direct_letter(&direct.envelope, clock);
                let postbox = self.ledger.postboxes.entry(job.to.clone()).or_default();
                postbox.note_sent(clock.boot, self.mail.limit, &letter);
                self.note_threads(job);
                replies.push(MailReply::Sent { id: id.clone(), to: job.to.clone(), subject });
            }
            Outcome::Refused(error) => {
                direct.left.pop_front();
                replies.push(MailReply::Dead { id: id.clone(), to: job.to.clone(), error });
            }
            Outcome::MailLater(error) => {
                self.direct.push_front(direct);
                return vec![self.give_back(&error)];
            }
            Outcome::ServerLater(error) => {
                // The others would fare no better.
                self.ledger.server.fail(clock.boot, error.clone());
                let all = std::iter::once(direct).chain(self.direct.drain(..));
                return all
                    .map(|direct| MailReply::NotSpooled {
                        id: direct.envelope.id,
                        error: format!("{}; {error}", direct.why),
                    })
                    .collect();
            }
        }
        if direct.left.is_empty() {
            replies.push(MailReply::Spooled { id });
        } else {
            self.direct.push_front(direct);
        }
        replies
    }

    /// Who got this knows of its threads.
    fn note_threads(&mut self, job: &Job) {
        let Envelope { id, thread, kind, .. } = &job.envelope;
        let own = thread.iter().map(|thread| (thread, kind.closes()));
        let told = job.threads.iter().map(|(thread, over)| (thread, *over));
        for (thread, over) in own.chain(told) {
            self.ledger.note_heard(&job.to, thread, id, over);
        }
    }
}
