//! `runnerctl status --watch`: the status again every second, drawn over itself.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use super::status;
use super::talk::{Failure, Master};
use super::text::Paint;
use crate::wire::safe::safe_line;

const EVERY: Duration = Duration::from_secs(1);

/// Draws until interrupted. A master that is away is shown as such and waited for.
///
/// # Errors
/// When standard output is no terminal.
pub(super) fn watch(master: &Master, chains: &[String], failing: bool) -> Result<u8, Failure> {
    if !io::stdout().is_terminal() {
        return Err(Failure::Other("cannot watch: standard output is no terminal".to_owned(), 2));
    }
    super::print("\x1b[2J");
    loop {
        let now = SystemTime::now();
        let lines = match master.status(chains) {
            Ok(mut all) => {
                if failing {
                    all.chains.retain(status::failing);
                }
                let mut lines = status::chains(&all, now, Paint::for_stdout(), true);
                lines.extend(status::remarks(&all.master, now));
                lines
            }
            Err(failure @ (Failure::Refused(..) | Failure::NoRight(_))) => return Err(failure),
            Err(failure) => vec![safe_line(&failure.to_string()).into_owned()],
        };
        let rows = crate::sys::terminal::size(io::stdout()).map_or(24, |(rows, _)| rows);
        draw(&frame(&lines, usize::from(rows)));
        sleep(EVERY);
    }
}

/// A picture is one write(2): whoever interrupts it in the middle would keep a terminal that does
/// not wrap.
fn draw(picture: &str) {
    let screen = io::stdout().as_fd().try_clone_to_owned();
    let _ = screen.and_then(|screen| File::from(screen).write_all(picture.as_bytes()));
}

/// One picture: from the top left, each line cut by the terminal instead of wrapped, the rest
/// erased (ECMA-48; DECAWM).
fn frame(lines: &[String], rows: usize) -> String {
    let shown = lines.len().min(rows.saturating_sub(1));
    let mut text = "\x1b[H\x1b[?7l".to_owned();
    for line in lines.iter().take(shown) {
        text.push_str(line);
        text.push_str("\x1b[K\r\n");
    }
    text.push_str("\x1b[J");
    if shown < lines.len() {
        text.push_str(&format!("… {} more", lines.len() - shown));
    }
    text.push_str("\x1b[?7h");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_fits_the_terminal() {
        let lines: Vec<String> = (0..10).map(|n| format!("line {n}")).collect();
        let text = frame(&lines, 5);
        assert_eq!(text.matches("\r\n").count(), 4);
        assert!(text.contains("… 6 more"));
        assert!(frame(&lines, 24).ends_with("line 9\x1b[K\r\n\x1b[J\x1b[?7h"));
    }
}
