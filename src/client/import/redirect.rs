//! Redirections as the one place that a chain has for its output.

use super::draft::{Draft, text};
use super::lex::{Placed, Token, Variables};

/// Takes a command's redirections as the chain's output.
pub(super) fn redirections(command: &[Placed], variables: &mut Variables, draft: &mut Draft) {
    let mut streams: [Option<String>; 2] = [None, None];
    for pair in command.windows(2) {
        let (Token::Redirect(fd, operator), Token::Word(parts)) = (&pair[0].token, &pair[1].token)
        else {
            continue;
        };
        let target = variables.expand(parts);
        match (*fd, *operator) {
            (_, "&>>" | "&>") => streams = [Some(target.clone()), Some(target)],
            (Some('2'), ">&") if target == "1" => streams[1] = streams[0].clone(),
            (None | Some('1'), ">&") if target == "2" => streams[0] = streams[1].clone(),
            (Some('2'), ">" | ">>" | ">|") => streams[1] = Some(target),
            (None | Some('1'), ">" | ">>" | ">|") => streams[0] = Some(target),
            (None | Some('0'), "<") if target == "/dev/null" => {}
            (_, operator) => draft
                .note(format!("`{operator} {target}` was left out: standard input is /dev/null.")),
        }
    }
    match streams {
        [None, None] => {}
        [Some(out), Some(err)] if out == err => draft.set("output", output(&out)),
        [Some(one), None] | [None, Some(one)] => {
            draft.note("Only one of the two streams went there; now both do.");
            draft.set("output", output(&one));
        }
        [Some(out), Some(err)] => {
            draft.note(format!("Errors went to {err}; both streams have one place here."));
            draft.set("output", output(&out));
        }
    }
}

/// Where output goes, in RON.
pub(super) fn output(file: &str) -> String {
    match file {
        "/dev/null" => "Discard".to_owned(),
        "/dev/stdout" | "/dev/stderr" => "Main".to_owned(),
        _ => format!("Raw({})", text(file)),
    }
}
