//! Start scripts: every command that is put into the background, most of all as
//! `su USER -c "… nice -n N COMMAND … &>> LOG & disown"`, becomes a chain.

use super::command::{Statement, interpret, statements};
use super::draft::Draft;
use super::lex::{Variables, lex};

/// The chains of a script, and its lines that were not understood.
pub(super) fn import(script: &str) -> (Vec<Draft>, Vec<String>) {
    let mut variables = Variables::default();
    let mut drafts = Vec::new();
    let mut other = Vec::new();
    let tokens = lex(script);
    let all = statements(script, &tokens);
    let functions: Vec<&str> =
        all.iter().filter(|statement| statement.opens).map(Statement::text).collect();
    for statement in all.iter().filter(|statement| !functions.contains(&statement.text())) {
        one(statement, &mut variables, &mut drafts, &mut other);
    }
    (drafts, other)
}

fn one(
    statement: &Statement<'_>,
    variables: &mut Variables,
    drafts: &mut Vec<Draft>,
    other: &mut Vec<String>,
) {
    if statement.assign(variables) {
        return;
    }
    variables.unknown.clear();
    let first = statement.first_word(variables);
    let becomes = matches!(first.as_str(), "su" | "runuser" | "sudo");
    if !becomes && !statement.background {
        let dull = ["echo", "disown", "exit", "set", "sleep", "true", "wait", ":", "printf"];
        let keyword = matches!(
            first.as_str(),
            "if" | "then"
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
    let mut draft = Draft::default();
    match interpret(statement, variables, &mut draft) {
        true => {
            for name in &variables.unknown {
                draft.note(format!("The script does not say what {name} is: put it in."));
            }
            drafts.push(draft);
        }
        false => other.push(statement.text().to_owned()),
    }
}
