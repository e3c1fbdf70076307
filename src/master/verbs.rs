//! What runnerctl asks for, done. Who may ask is decided in `authorise`; the socket is in
//! `control`.

use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use super::authorise::{Access, authorise};
use super::control::{Asked, ConnId, ControlServer, Doors, PATIENCE};
use super::wishes::Wish;
use super::{Child, FIRST_CONTROL, Master, Phase, now, wall};
use crate::config::model::Level;
use crate::mailer::spool::{self, Entry};
use crate::policy::notices::{span, when};
use crate::sys::fork::{fork_child, keep_only, leave};
use crate::sys::{privileges, socket};
use crate::wire::control::{Answer, Request};
use crate::wire::report::{Order, encode};
use crate::wire::time::Timestamp;
use crate::wire::words::counted;

/// runnerctl's exit status for a request that makes no sense now.
const EXIT_REFUSED: u8 = 1;

/// The most entries of the spool that are listed.
const MOST_LISTED: usize = 1000;

/// Longest pause or silence: a year.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

impl Master {
    /// Opens the control socket, or goes on with the `listener` of the last image and its file's
    /// identity. What fails is tried again at the next upgrade: supervision needs none.
    pub(super) fn open_control(&mut self, listener: Option<(UnixListener, (u64, u64))>) {
        let me = privileges::my_uid();
        let everybody = self
            .plan
            .accounts
            .values()
            .flatten()
            .any(|account| account.uid != 0 && account.uid != me);
        let doors = Doors { gid: self.plan.control_gid, everybody };
        let root = &self.ground.run_root_path;
        let taken = listener.and_then(|old| {
            ControlServer::take_over(old, root, doors, me, &self.epoll, FIRST_CONTROL).ok()
        });
        let opened = taken
            .map_or_else(|| ControlServer::open(root, doors, me, &self.epoll, FIRST_CONTROL), Ok);
        match opened {
            Ok(control) => self.control = Some(control),
            Err(cause) => self.log.error(&format!("runnerctl cannot reach me: {cause}")),
        }
    }

    pub(super) fn serve_control(&mut self, token: u64) {
        let Some(control) = &mut self.control else { return };
        for asked in control.ready(&self.epoll, token, now()) {
            self.serve(asked);
        }
    }

    fn serve(&mut self, asked: Asked) {
        let Asked { id, peer, request } = asked;
        let names: Vec<(&str, Option<u32>)> = self
            .supervisor
            .slots()
            .map(|(name, _)| {
                let account = self.plan.accounts.get(name).and_then(|found| found.as_ref().ok());
                (name, account.map(|account| account.uid))
            })
            .collect();
        let access = Access {
            own_uid: privileges::my_uid(),
            control_gid: self.plan.control_gid,
            chains: &names,
        };
        match authorise(&peer, &request, &access) {
            Ok(chains) => {
                if let Some(answer) = self.obey(id, &request, &chains) {
                    self.answer(id, &answer);
                }
            }
            Err(refusal) => self.answer(id, &refusal),
        }
    }

    pub(super) fn answer(&mut self, id: ConnId, answer: &Answer) {
        if let Some(control) = &mut self.control {
            control.answer(&self.epoll, id, answer, true, now());
        }
    }

    /// Does it; `None`: the answer comes later.
    fn obey(&mut self, id: ConnId, request: &Request, chains: &[String]) -> Option<Answer> {
        let at = now();
        let leaving = self.phase != Phase::Running;
        let changes = !matches!(
            request,
            Request::Status { .. }
                | Request::Explain { .. }
                | Request::Options { .. }
                | Request::History { .. }
                | Request::Notices
                | Request::MailList
                | Request::Shutdown { .. }
        );
        if leaving && changes {
            return Some(refused("the master is stopping"));
        }
        let done = |text: String| Some(Answer::Done(text));
        match request {
            Request::Status { .. } => Some(Answer::Status(Box::new(self.status(chains)))),
            Request::Reload { force, dry_run, wait, .. } => {
                let wish = Wish {
                    chains: chains.to_vec(),
                    force: *force,
                    dry_run: *dry_run,
                    waits: vec![(id, *wait)],
                };
                self.begin_upgrade(wish);
                None
            }
            Request::Start { .. } => {
                for chain in chains {
                    self.resume_chain(chain);
                }
                done(each(chains, "starts"))
            }
            Request::Stop { now: at_once, .. } => {
                for chain in chains {
                    self.pauses.remove(chain);
                    self.desk.resume(chain, at, wall());
                    self.supervisor.stop_chain(chain, *at_once, at);
                }
                done(each(chains, if *at_once { "stopping now" } else { "stops after its run" }))
            }
            Request::Restart { now: at_once, .. } => {
                for chain in chains {
                    self.pauses.remove(chain);
                    self.desk.resume(chain, at, wall());
                    self.supervisor.restart_chain(chain, *at_once, at);
                }
                let how = if *at_once { "restarting now" } else { "restarts after its run" };
                done(each(chains, how))
            }
            Request::Pause { millis, reason, .. } => {
                let until = millis.map(|millis| at + Duration::from_millis(millis).min(LONGEST));
                for chain in chains {
                    self.supervisor.pause_chain(chain, at);
                    self.desk.pause(chain, reason, at, wall());
                    match until {
                        Some(until) => self.pauses.insert(chain.clone(), until),
                        None => self.pauses.remove(chain),
                    };
                }
                self.saver.important(at);
                let until = until
                    .map_or("it is resumed".to_owned(), |until| self.wall_of(until).to_string());
                done(each(chains, &format!("pauses after its run, until {until}")))
            }
            Request::Resume { .. } => {
                for chain in chains {
                    self.resume_chain(chain);
                }
                done(each(chains, "resumed"))
            }
            Request::Run { task, .. } => Some(self.run_now(chains.first()?, task.as_deref())),
            Request::Silence { millis, reason, .. } => {
                let time = Duration::from_millis(*millis).min(LONGEST);
                let until = (*millis > 0).then(|| at + time);
                for chain in chains {
                    self.desk.silence(chain, until, reason, at, wall());
                }
                self.saver.important(at);
                done(match until {
                    Some(until) => {
                        each(chains, &format!("is silent until {}", self.wall_of(until)))
                    }
                    None => each(chains, "may speak again"),
                })
            }
            Request::Explain { .. } => Some(Answer::Text(self.explain(chains.first()?))),
            Request::Options { .. } => Some(Answer::Rows(self.options_of(chains.first()?))),
            Request::History { .. } => Some(Answer::Rows(self.desk.history(chains.first()?))),
            Request::Notices => Some(Answer::Rows(self.desk.recent_notices())),
            Request::MailList => self.list_mail(id),
            Request::MailFlush => {
                self.post.flush();
                done("trying all waiting mail now".to_owned())
            }
            Request::MailTest => {
                self.desk.test_mail(at, wall());
                done(format!("a test mail goes to {}", self.mail_target()))
            }
            Request::LogLevel { level } => Some(self.set_level(level)),
            Request::Shutdown { now: at_once } => {
                let phase = if *at_once { Phase::Stopping } else { Phase::Draining };
                self.log.info("an operator ends me");
                self.shut_down(phase);
                done("stopping".to_owned())
            }
        }
    }

    fn run_now(&mut self, chain: &str, task: Option<&str>) -> Answer {
        if let Some(task) = task
            && self.chain(chain).is_none_or(|chain| chain.tasks.iter().all(|t| t.name != task))
        {
            return Answer::Refused {
                error: format!("chain {chain} has no task {task:?}"),
                exit: super::authorise::EXIT_UNKNOWN,
            };
        }
        let order = Order::RunNow { task: task.map(str::to_owned) };
        let sent = self.links.get(chain).zip(encode(&order).ok()).is_some_and(|(link, packet)| {
            socket::send_packet(&link.socket, &packet).unwrap_or(false)
        });
        if sent {
            Answer::Done(format!("{chain}: runs as soon as its current run has ended"))
        } else {
            refused(&format!("{chain} has no process now; start or resume it"))
        }
    }

    fn explain(&self, chain: &str) -> Vec<String> {
        use crate::policy::supervisor::{Doing, SlotState};
        let mut lines = Vec::new();
        if let Some(slot) = self.supervisor.slot(chain) {
            let since = |at| when(self.wall_of(at));
            let at = |at: Timestamp| format!("{} (in {})", since(at), span(at.since(now())));
            let paused = self.desk.paused(chain).is_some();
            let until =
                self.pauses.get(chain).map_or(String::new(), |end| format!(" until {}", at(*end)));
            lines.push(match (&slot.state, &slot.doing) {
                (SlotState::Down, _) if !slot.after.is_empty() => {
                    format!("It waits until {} has ended.", slot.after.join(", "))
                }
                (SlotState::Down, _) if paused => {
                    format!("It is paused{until}; `runnerctl resume {chain}` lets it go on.")
                }
                (SlotState::Down, _) => {
                    format!("It is stopped; `runnerctl start {chain}` starts it.")
                }
                (SlotState::Backoff { until }, _) => {
                    format!("Its process is started again at {}.", at(*until))
                }
                (SlotState::Clearing { kill_at, .. }, _) => {
                    format!("What it left behind is ended; killed at {}.", at(*kill_at))
                }
                (SlotState::Draining { .. }, _) if paused => {
                    format!("It finishes its current run and then pauses{until}.")
                }
                (SlotState::Draining { deadline: None, .. }, _) => {
                    "It finishes its current run and leaves.".to_owned()
                }
                (SlotState::Draining { deadline: Some(end), .. }, _) => {
                    format!("It finishes its current run, at most until {}.", at(*end))
                }
                (SlotState::Stopping { kill_at, .. }, _) => {
                    format!("It ends its run; killed at {}.", at(*kill_at))
                }
                (_, Doing::Running { task, since }) => {
                    let now = span(now().since(*since));
                    format!("It runs {task} since {} ({now} ago).", when(self.wall_of(*since)))
                }
                (_, Doing::Cooling { next, until, after_failure, .. }) => format!(
                    "It waits after a {} until {}, then runs {next}.",
                    if *after_failure { "failure" } else { "success" },
                    at(*until)
                ),
                (_, Doing::Unknown) => "It is starting.".to_owned(),
            });
        }
        lines.extend(self.desk.explain(chain, now(), wall()));
        lines.extend(self.chain(chain).into_iter().flat_map(|chain| self.explain_options(chain)));
        if let Some(error) = self.post.error() {
            let mails = counted(self.post.waiting(), "mail is", "mails are");
            lines.push(format!("{mails} still to go: {error}"));
        }
        lines
    }

    /// The spool is another account's folder on a disk that may be slow: a child looks, and
    /// answers itself.
    fn list_mail(&mut self, id: ConnId) -> Option<Answer> {
        let error = self.post.error();
        let mut rows = Vec::new();
        for mail in self.post.unconfirmed() {
            rows.extend(mail.to.iter().map(|to| Entry::held(mail, to, error).row()));
        }
        let Some(mail) = &self.plan.config.mail else { return Some(Answer::Rows(rows)) };
        let stream = self.control.as_mut()?.give_away(&self.epoll, id)?;
        let account = self.plan.mail_account.as_ref().filter(|_| privileges::is_root());
        let forked = fork_child(|| {
            use std::os::fd::AsFd;
            keep_only(&[stream.as_fd()]);
            let answer = match account.map_or(Ok(()), privileges::drop_to) {
                Ok(()) => spooled(&mail.spool, rows),
                Err(problem) => refused(&problem),
            };
            let _ = talk(stream, &answer);
            leave(0)
        });
        match forked {
            Ok(pid) => {
                self.children.insert(pid, Child::Other);
            }
            Err(cause) => self.log.error(&format!("cannot list the spool: {cause}")),
        }
        None
    }

    fn set_level(&mut self, level: &str) -> Answer {
        let found = match level {
            "critical" => Level::Critical,
            "error" => Level::Error,
            "warning" => Level::Warning,
            "info" => Level::Info,
            "debug" => Level::Debug,
            "trace" => Level::Trace,
            _ => {
                return refused("a level is critical, error, warning, info, debug or trace");
            }
        };
        self.log.set_level(found);
        Answer::Done(format!("the log's level is {level} until the next upgrade"))
    }
}

fn spooled(spool: &Path, mut rows: Vec<serde_json::Value>) -> Answer {
    match spool::list(spool, MOST_LISTED) {
        Ok(entries) => {
            rows.extend(entries.iter().map(Entry::row));
            Answer::Rows(rows)
        }
        // What the master keeps is shown all the same: a spool that cannot be read is why.
        Err(_) if !rows.is_empty() => Answer::Rows(rows),
        Err(problem) => refused(&problem),
    }
}

/// The whole answer to a client that may read slowly, or never.
fn talk(mut stream: UnixStream, answer: &Answer) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    stream.write_all(&line)
}

pub(super) fn refused(error: &str) -> Answer {
    Answer::Refused { error: error.to_owned(), exit: EXIT_REFUSED }
}

fn each(chains: &[String], what: &str) -> String {
    chains.iter().map(|chain| format!("{chain}: {what}")).collect::<Vec<_>>().join("\n")
}
