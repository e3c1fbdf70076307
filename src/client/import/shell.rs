//! Start scripts: every command that is put into the background, most of all as
//! `su USER -c "… nice -n N COMMAND … &>> LOG & disown"`, becomes a chain.

use super::command::{Statement, inner, interpret, is_word, statements};
use super::draft::Draft;
use super::lex::{Placed, Token, Variables, lex};
use super::redirect::redirections;

/// The chains of a script, and its lines that were not understood.
pub(super) fn import(script: &str) -> (Vec<Draft>, Vec<String>) {
    let mut reading = Reading::default();
    let tokens = lex(script);
    let mut rest = tokens.as_slice();
    while !rest.is_empty() {
        let block = next_block(rest);
        let plain = block.as_ref().map_or(rest.len(), |block| block.start);
        let all = statements(script, &rest[..plain]);
        let functions: Vec<&str> =
            all.iter().filter(|statement| statement.opens).map(Statement::text).collect();
        for statement in all.iter().filter(|statement| !functions.contains(&statement.text())) {
            reading.statement(statement);
        }
        let Some(block) = block else { break };
        reading.block(script, &rest[block.clone()]);
        rest = &rest[block.end..];
    }
    (reading.drafts, reading.other)
}

/// The first `( … ) &`, `{ …; } &` or `while …; do …; done &`, with its `&`.
fn next_block(tokens: &[Placed]) -> Option<std::ops::Range<usize>> {
    let operator = |at: usize, any_of: &[&str]| matches!(tokens.get(at).map(|placed| &placed.token), Some(Token::Operator(op)) if any_of.contains(op));
    let begins = |at: usize| at == 0 || operator(at - 1, &["\n", ";", "&", ")"]);
    for start in (0..tokens.len()).filter(|at| begins(*at)) {
        let (mut depth, mut at) = (0_usize, start);
        while let Some(placed) = tokens.get(at) {
            if operator(at, &["("]) || is_word(placed, &["while", "until", "for", "{"]) {
                depth += 1;
            } else if operator(at, &[")"]) || is_word(placed, &["done", "}"]) {
                depth = depth.saturating_sub(1);
            }
            at += 1;
            if depth == 0 {
                break;
            }
        }
        if at <= start + 1 {
            continue;
        }
        let end = (at..tokens.len()).find(|at| operator(*at, &["\n", ";", "&", "|", "&&", "||"]));
        if let Some(end) = end.filter(|end| operator(*end, &["&"])) {
            return Some(start..end + 1);
        }
    }
    None
}

/// What is known at one place of the script.
#[derive(Default)]
struct Reading {
    variables: Variables,
    /// What `cd`, `source …/activate` and `export` at the script's own level mean for what follows.
    around: Draft,
    drafts: Vec<Draft>,
    other: Vec<String>,
}

impl Reading {
    fn block(&mut self, script: &str, tokens: &[Placed]) {
        let [first, .., _] = tokens else { return };
        self.variables.unknown.clear();
        let closes = |placed: &Placed| {
            placed.token == Token::Operator(")") || is_word(placed, &["done", "}"])
        };
        let Some(last) = tokens.iter().rposition(closes) else { return };
        let mut draft = self.around.clone();
        redirections(&tokens[last..], &mut self.variables, &mut draft);
        let opens = first.token == Token::Operator("(") || is_word(first, &["{"]);
        let begin = if opens { first.end } else { first.start };
        let body = &script[begin..tokens[last].start];
        if inner(body, &mut self.variables, &mut draft) {
            self.keep(draft);
        } else {
            self.other.push(script[first.start..tokens[last].end].to_owned());
        }
    }

    fn keep(&mut self, mut draft: Draft) {
        for name in &self.variables.unknown {
            draft.note(format!("The script does not say what {name} is: put it in."));
        }
        self.drafts.push(draft);
    }

    fn statement(&mut self, statement: &Statement<'_>) {
        let Reading { variables, around, drafts, other } = self;
        if !statement.background && statement.surrounds(variables, around) {
            return;
        }
        let before = drafts.len();
        one(statement, variables, around, drafts, other);
        if let Some(draft) = self.drafts.split_off(before).pop() {
            self.keep(draft);
        }
    }
}

fn one(
    statement: &Statement<'_>,
    variables: &mut Variables,
    around: &Draft,
    drafts: &mut Vec<Draft>,
    other: &mut Vec<String>,
) {
    variables.unknown.clear();
    let first = statement.first_word(variables);
    let becomes = matches!(first.as_str(), "su" | "runuser" | "sudo");
    // `if …; then …; fi &`: what the end of it stands for was told of already.
    let closes = matches!(first.as_str(), "fi" | "done" | "esac");
    if closes && statement.background {
        return;
    }
    if !becomes && !statement.background {
        let dull = ["echo", "disown", "exit", "set", "sleep", "true", "wait", ":", "printf"];
        let keyword = matches!(
            first.as_str(),
            "then"
                | "else"
                | "fi"
                | "for"
                | "do"
                | "done"
                | "case"
                | "esac"
                | "function"
                | "while"
                | ""
        );
        if !dull.contains(&first.as_str()) && !keyword {
            other.push(statement.text().to_owned());
        }
        return;
    }
    let mut draft = around.clone();
    if matches!(first.as_str(), "echo" | "printf") {
        draft.note(
            "The script said this once; as a chain it is said again and again: leave it out?",
        );
    }
    match interpret(statement, variables, &mut draft) {
        true => drafts.push(draft),
        false => other.push(statement.text().to_owned()),
    }
}
