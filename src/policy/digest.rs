//! Several notices as one mail: what a burst or the limit held back. The mailer sends it, and a
//! simulation shows the same.

use std::fmt::Write as _;

use super::notices::fnv;
use super::safe;
use crate::wire::mail::{Envelope, NoticeKind};
use crate::wire::time::WallTime;

/// Notices of which the first lines are shown too; the others get a line each.
const EXCERPTS: usize = 50;
/// Lines of such an excerpt, and bytes of one.
const EXCERPT_LINES: usize = 6;
const EXCERPT_WIDTH: usize = 160;

/// One envelope that tells of all of `notices`, in this order. Its id follows from theirs.
pub fn digest(notices: &[&Envelope], to: &str, now: WallTime) -> Envelope {
    let ids = notices.iter().fold(String::new(), |ids, notice| ids + &notice.id + " ");
    let mut body = format!(
        "{} notices were held back, because many came in a short time. These are all of them;\n\
         the times are those of the events.\n\n",
        notices.len()
    );
    for notice in notices {
        let _ = writeln!(body, "{}", in_short(notice));
    }
    let shown = notices.len().min(EXCERPTS);
    let _ = writeln!(body, "\nHow they begin:");
    for notice in notices.iter().take(EXCERPTS) {
        let _ = writeln!(body, "\n{}", safe::line(&notice.subject, 300));
        let lines = notice.body.lines().filter(|line| !line.trim().is_empty());
        for line in lines.take(EXCERPT_LINES) {
            let _ = writeln!(body, "    {}", safe::body_line(line, EXCERPT_WIDTH));
        }
    }
    if shown < notices.len() {
        let _ = writeln!(body, "\n({} more are listed above only.)", notices.len() - shown);
    }
    Envelope {
        id: format!("digest-{:016x}-{}", fnv(0, ids.as_bytes()), now.0),
        thread: None,
        kind: NoticeKind::Digest,
        to: vec![to.to_owned()],
        subject: format!("[runner] {} notices", notices.len()),
        body,
        chain: None,
        task: None,
        at: notices.iter().map(|notice| notice.at).min().unwrap_or(now),
    }
}

/// A notice as a line of a list: when, of what, and its subject.
pub fn in_short(notice: &Envelope) -> String {
    let about = [notice.chain.as_deref(), notice.task.as_deref()];
    let about: Vec<&str> = about.into_iter().flatten().collect();
    let about = match safe::line(&about.join("/"), 250) {
        about if about.is_empty() => about,
        about => format!("{about}: "),
    };
    format!("{}  {about}{}", notice.at, safe::line(&notice.subject, 300))
}
