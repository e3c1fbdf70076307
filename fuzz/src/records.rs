//! What is read after a crash, an upgrade or a reboot: the handover, the state, the lock's text,
//! the spool, recorded runs.

use std::cell::RefCell;
use std::path::PathBuf;

use runner::mailer::spool::{self, Stored, is_mail_name, safe_id};
use runner::master::reread;
use runner::policy::notices::SavedDesk;
use runner::policy::simulate::replay;
use runner::policy::supervisor::Supervisor;
use runner::policy::{Deed, NoticeDesk};
use runner::wire::time::{Timestamp, WallTime};

use super::configuration::sample;
use super::texts::shown;

const NOW: Timestamp = Timestamp(1_000_000_000);
const WALL: WallTime = WallTime(1_700_000_000_000);

/// Reads and writes; what was read is read the same again.
fn reread_twice(bytes: &[u8], reread: fn(&[u8]) -> Result<Vec<u8>, String>) {
    if let Ok(written) = reread(bytes) {
        assert_eq!(reread(&written).expect("what we wrote"), written);
    }
}

/// A handover or the text of a lock: read the same again; a supervisor finds its deadlines and
/// comes to rest.
pub fn handover(bytes: &[u8]) {
    reread_twice(bytes, reread::handover);
    reread_twice(bytes, reread::holder);
    #[derive(serde::Deserialize)]
    struct Part {
        supervisor: Supervisor,
    }
    let Ok(Part { supervisor }) = serde_json::from_slice(bytes) else { return };
    let mut supervisor = supervisor.restored();
    supervisor.handle_timeout(NOW);
    assert!(supervisor.next_timeout().is_none_or(|due| due > NOW), "it never rests");
    assert!(supervisor.take_actions().len() <= supervisor.slots().count());
}

/// A state of another boot or of this one: read the same again, and a desk goes on with it.
pub fn state(bytes: &[u8]) {
    reread_twice(bytes, reread::state);
    #[derive(serde::Deserialize)]
    struct Part {
        desk: SavedDesk,
    }
    let Ok(Part { desk: saved }) = serde_json::from_slice(bytes) else { return };
    for same_boot in [true, false] {
        let mut desk = NoticeDesk::restore(saved.clone(), "h", sample(), NOW, WALL, same_boot);
        let (mut now, mut turns) = (NOW, 0);
        let end = Timestamp(NOW.0 + 24 * 3600 * 1000);
        desk.run_started("one", "a", 1, NOW, NOW);
        while let Some(due) = desk.next_timeout().filter(|due| *due <= end) {
            now = now.max(due);
            desk.handle_timeout(now, WALL);
            assert!(desk.next_timeout().is_none_or(|due| due > now), "it never rests");
            turns += 1;
            assert!(turns < 2_000, "too many turns in a day");
        }
        for deed in desk.take_deeds() {
            if let Deed::Mail(mail) = deed {
                shown(&mail.subject);
                mail.body.split('\n').for_each(shown);
            }
        }
        for chain in ["one", "two"] {
            desk.explain(chain, now, WALL).iter().for_each(|line| shown(line));
            desk.history(chain);
        }
        desk.recent_notices();
        let size = serde_json::to_vec(&desk.save(now, WALL)).unwrap().len();
        assert!(size < 64 * 1024 + 8 * bytes.len(), "{size} bytes of {}", bytes.len());
    }
}

/// A folder with a mail under some name, a refused one and a ledger, three parts with a NUL
/// between: it can be listed, and what is a mail has a name for it.
pub fn spool(bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |byte| *byte == 0);
    let name = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let (content, ledger) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let safe = safe_id(&name);
    assert!(is_mail_name(&format!("{safe}.mail")) && safe.len() <= 100 && !safe.contains('/'));
    assert_eq!(safe_id(&safe), safe);
    let mut wanted = vec![name];
    if let Ok(stored) = serde_json::from_slice::<Stored>(content) {
        let own = stored.file_name();
        assert!(is_mail_name(&own) && own.len() <= 122, "{own}");
        let again = serde_json::to_vec(&stored).unwrap();
        assert_eq!(serde_json::from_slice::<Stored>(&again).unwrap(), stored);
        wanted.push(own);
    }
    wanted.retain(|name| {
        !name.is_empty() && name.len() < 200 && !name.contains('/') && name != "." && name != ".."
    });
    let folder = scratch();
    let mut made: Vec<PathBuf> = vec![folder.join("ledger.json")];
    made.extend(wanted.iter().map(|name| folder.join(name)));
    made.extend(wanted.iter().map(|name| folder.join("dead").join(name)));
    made.dedup();
    for path in &made {
        let content = if path.ends_with("ledger.json") { ledger } else { content };
        // A name that is taken ("dead", a folder) is what the spool must live with.
        let _ = std::fs::write(path, content);
    }
    if let Ok(entries) = spool::list(&folder, 10) {
        assert!(entries.len() <= 2 * made.len());
    }
    for path in &made {
        let _ = std::fs::remove_file(path);
    }
}

/// A folder for the process, in memory where that can be had.
pub fn scratch() -> PathBuf {
    thread_local! {
        static FOLDER: RefCell<Option<tempfile::TempDir>> = const { RefCell::new(None) };
    }
    FOLDER.with_borrow_mut(|folder| {
        let folder = folder.get_or_insert_with(|| {
            let made = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
            std::fs::create_dir(made.path().join("dead")).unwrap();
            made
        });
        folder.path().to_owned()
    })
}

/// Any recorded runs give notices that may be shown, or the number of the line that cannot be
/// used.
pub fn recorded(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match replay(sample(), &text) {
        Ok(simulated) => {
            for decision in &simulated.decisions {
                shown(&decision.subject);
                assert!(decision.subject.len() <= 1_000);
            }
            for mail in &simulated.mails {
                shown(&mail.mail.subject);
                mail.mail.body.split('\n').for_each(shown);
            }
        }
        Err(why) => {
            let number = why.strip_prefix("line ").and_then(|rest| rest.split(':').next());
            let number: usize = number.and_then(|digits| digits.parse().ok()).expect(&why);
            assert!((1..=text.lines().count()).contains(&number), "{why}");
        }
    }
}
