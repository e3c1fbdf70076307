//! One shell statement as a chain: who runs it, with which surroundings, what it runs.

use super::draft::{Draft, TaskDraft, What, base_name, text};
use super::lex::{Part, Placed, Token, Variables, is_name, lex};
use super::prefix::{become_user, strip};
use super::redirect::redirections;

/// The longest value of a variable that is put in, in bytes.
const MAX_VALUE: usize = 4096;

/// A line that is longer is left with the variables that it still has, in bytes.
const MAX_LINE: usize = 64 * 1024;

/// What ends at a newline, `;` or `&`: commands joined by `&&`, `||` and `|`.
#[derive(Debug)]
pub(super) struct Statement<'t> {
    source: &'t str,
    tokens: &'t [Placed],
    /// Whether `&` ends it.
    pub(super) background: bool,
    /// Whether `(` ends it: the name of a function.
    pub(super) opens: bool,
}

/// Cuts tokens into statements.
pub(super) fn statements<'t>(source: &'t str, tokens: &'t [Placed]) -> Vec<Statement<'t>> {
    let mut all = Vec::new();
    for tokens in tokens.split_inclusive(|placed| {
        matches!(placed.token, Token::Operator("\n" | ";" | "&" | ";;" | "(" | ")"))
    }) {
        let (last, body) = match tokens.split_last() {
            Some((last, body)) if matches!(last.token, Token::Operator(op) if !matches!(op, "&&" | "||" | "|" | "|&")) => {
                (Some(&last.token), body)
            }
            _ => (None, tokens),
        };
        // `while …; do COMMAND` and `name() { COMMAND`: the words before the command.
        let lead = body
            .iter()
            .take_while(|placed| is_word(placed, &["{", "}", "do", "then", "else"]))
            .count();
        let body = &body[lead..];
        if !body.is_empty() {
            let background = matches!(last, Some(Token::Operator("&")));
            let opens = matches!(last, Some(Token::Operator("(")));
            all.push(Statement { source, tokens: body, background, opens });
        }
    }
    all
}

pub(super) fn is_word(placed: &Placed, any_of: &[&str]) -> bool {
    match &placed.token {
        Token::Word(parts) => match parts.as_slice() {
            [Part::Text(text)] => any_of.contains(&text.as_str()),
            _ => false,
        },
        _ => false,
    }
}

impl Statement<'_> {
    /// As it is written.
    pub(super) fn text(&self) -> &str {
        match (self.tokens.first(), self.tokens.last()) {
            (Some(first), Some(last)) => &self.source[first.start..last.end],
            _ => "",
        }
    }

    pub(super) fn first_word(&self, variables: &mut Variables) -> String {
        match self.tokens.first().map(|placed| &placed.token) {
            Some(Token::Word(parts)) => variables.expand(parts),
            _ => String::new(),
        }
    }

    /// Takes `NAME=value …` and `export NAME=value …` in; whether it was nothing else.
    pub(super) fn assign(&self, variables: &mut Variables) -> bool {
        let mut found = Vec::new();
        for (at, placed) in self.tokens.iter().enumerate() {
            let Token::Word(parts) = &placed.token else { return false };
            let word = variables.expand(parts);
            match word.split_once('=') {
                Some((name, value)) if is_name(name) => {
                    // Doubled again and again, it would fill the memory.
                    if value.len() <= MAX_VALUE {
                        found.push((name.to_owned(), value.to_owned()));
                    }
                }
                _ if at == 0 && matches!(word.as_str(), "export" | "local" | "readonly") => {}
                _ => return false,
            }
        }
        variables.known.extend(found);
        true
    }
}

impl Statement<'_> {
    /// Takes in what only changes the surroundings of later statements: assignments, and `cd`,
    /// `source …/activate` and `export`, also joined by `&&`. Whether it was nothing else.
    pub(super) fn surrounds(&self, variables: &mut Variables, around: &mut Draft) -> bool {
        let exported = self.first_word(variables) == "export";
        if self.assign(variables) {
            if exported {
                prepare(self.tokens, variables, around);
            }
            return true;
        }
        let mut changed = around.clone();
        let commands = self.tokens.split(|p| p.token == Token::Operator("&&"));
        let only = commands.clone().all(|command| {
            let first = command.first();
            let known = first.is_some_and(|first| is_word(first, &["cd", "source", ".", "umask"]));
            known && prepare(command, variables, &mut changed)
        });
        if only {
            *around = changed;
        }
        only
    }
}

/// Reads a statement into a draft; whether it runs anything.
pub(super) fn interpret(
    statement: &Statement<'_>,
    variables: &mut Variables,
    draft: &mut Draft,
) -> bool {
    let mut commands: Vec<&[Placed]> =
        statement.tokens.split(|p| matches!(p.token, Token::Operator(_))).collect();
    let joined = |wanted: &[&str]| {
        statement.tokens.iter().all(|p| match p.token {
            Token::Operator(op) => wanted.contains(&op),
            _ => true,
        })
    };
    if joined(&["&&"]) {
        // Preparations, joined by && to what runs.
        while commands.len() > 1 && prepare(commands[0], variables, draft) {
            commands.remove(0);
        }
    }
    if let [command] = commands.as_slice() {
        return simple(command, variables, draft);
    }
    let (Some(first), Some(last)) = (commands[0].first(), statement.tokens.last()) else {
        return false;
    };
    let line = inline(&statement.source[first.start..last.end], variables);
    let mut argv = words(commands[0], variables);
    while strip(&mut argv, &mut Draft::default()) {}
    if become_user(&mut argv, &mut Draft::default()).is_some() {
        argv.clear();
    }
    let name = argv.first().map_or("task".to_owned(), |word| base_name(word));
    draft.tasks.push(task(name, What::Sh(line)));
    true
}

/// A script within a script (`su -c`, `sh -c`, a group) is looked into so deep, and so often in one
/// file: a variable may name itself in its own text.
const MAX_DEPTH: usize = 8;
const MAX_SHELLS: usize = 100;

/// Shell text with what is known of its variables put in.
fn inline(text: &str, variables: &mut Variables) -> String {
    let mut line = text.replace("\\\n", " ");
    for (name, value) in &variables.known {
        if line.len() <= MAX_LINE {
            line = line.replace(&format!("${{{name}}}"), value);
        }
        let mut from = 0;
        let pattern = format!("${name}");
        while let Some(found) = line[from..].find(&pattern) {
            let (start, end) = (from + found, from + found + pattern.len());
            let longer = line[end..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
            if longer {
                from = end;
            } else if line.len() > MAX_LINE {
                break;
            } else {
                line.replace_range(start..end, value);
                from = start + value.len();
            }
        }
    }
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn words(command: &[Placed], variables: &mut Variables) -> Vec<String> {
    let mut words = Vec::new();
    let mut target = false;
    for placed in command {
        match &placed.token {
            Token::Redirect(..) => target = true,
            Token::Word(_) if target => target = false,
            Token::Word(parts) => words.push(variables.expand(parts)),
            Token::Operator(_) => {}
        }
    }
    words
}

/// `source …/activate`, `cd`, `export`, `umask`: surroundings of what comes after.
fn prepare(command: &[Placed], variables: &mut Variables, draft: &mut Draft) -> bool {
    let words = words(command, variables);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["source" | ".", file] => match file.strip_suffix("/activate") {
            Some(folder) => {
                let within = draft.cwd.as_deref().filter(|_| !folder.starts_with('/'));
                draft.path.push(within.map_or_else(
                    || folder.to_owned(),
                    |cwd| format!("{}/{folder}", cwd.trim_end_matches('/')),
                ));
            }
            None => draft
                .note(format!("{file} was read first: put the variables that it sets into `env`.")),
        },
        ["cd", folder] => {
            draft.cwd = Some(match (&draft.cwd, folder.starts_with('/')) {
                (Some(before), false) => format!("{}/{folder}", before.trim_end_matches('/')),
                _ => (*folder).to_owned(),
            });
        }
        ["umask", mask] => draft.set("umask", text(mask)),
        ["ulimit", rest @ ..] => {
            draft.note(format!("`ulimit {}` belongs into `rlimits`.", rest.join(" ")))
        }
        ["export", pairs @ ..] | pairs
            if pairs
                .iter()
                .all(|pair| pair.split_once('=').is_some_and(|(name, _)| is_name(name))) =>
        {
            for (name, value) in pairs.iter().filter_map(|pair| pair.split_once('=')) {
                draft.env.push((name.to_owned(), value.to_owned()));
            }
        }
        _ => return false,
    }
    true
}

/// One command without pipes: its redirections, what stands before the program, the program.
fn simple(command: &[Placed], variables: &mut Variables, draft: &mut Draft) -> bool {
    redirections(command, variables, draft);
    let mut argv = words(command, variables);
    while strip(&mut argv, draft) {}
    if let Some(script) = become_user(&mut argv, draft) {
        return inner(&script, variables, draft);
    }
    while strip(&mut argv, draft) {}
    // A shell for one line only.
    if let [shell, option, script] = argv.as_slice()
        && ["sh", "bash", "dash", "ksh", "zsh"].contains(&base_name(shell).as_str())
        && option.starts_with('-')
        && option.ends_with('c')
    {
        return inner(&script.clone(), variables, draft);
    }
    run(argv, draft)
}

/// A simple command's words as tasks.
pub(super) fn run(argv: Vec<String>, draft: &mut Draft) -> bool {
    let Some(program) = argv.first().filter(|program| !program.is_empty()) else { return false };
    if let Some(at) = argv.iter().position(|word| word == "run_functions") {
        functions_of_a_worker(&argv[..at], &argv[at + 1..], draft);
        return !draft.tasks.is_empty();
    }
    // `python manage.py send_mail` is known by the last of these.
    let plain: Vec<&String> =
        argv.iter().take_while(|word| !word.starts_with('-')).take(3).collect();
    let interpreter = |word: &str| {
        let word = base_name(word);
        ["python", "perl", "ruby", "node", "php", "bash", "sh", "manage"].iter().any(|known| {
            word.strip_prefix(known)
                .is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || c == '.'))
        })
    };
    let name = plain
        .iter()
        .find(|word| !interpreter(word))
        .map_or_else(|| base_name(program), |word| base_name(word));
    draft.tasks.push(task(name, What::Run(argv)));
    true
}

/// `manage.py run_functions tasks.send_mail …`: the functions of a Django project, in a worker.
fn functions_of_a_worker(program: &[String], functions: &[String], draft: &mut Draft) {
    draft.note("The cooldowns are what @runner.task(...) says in the tasks; 5m and 20m if it says nothing.");
    if !draft.env.iter().any(|(name, _)| name == "DJANGO_SETTINGS_MODULE") {
        draft.note("Say what manage.py sets: env: { \"DJANGO_SETTINGS_MODULE\": \"...\" }.");
    }
    let manage = program.iter().rfind(|word| word.ends_with(".py"));
    if let (None, Some((folder, _))) =
        (&draft.cwd, manage.and_then(|manage| manage.rsplit_once('/')))
        && folder.starts_with('/')
    {
        draft.cwd = Some(folder.to_owned());
    }
    // The interpreter that is named, else the one that manage.py finds.
    let python = program.first().filter(|word| base_name(word).starts_with("python"));
    let python = python.map_or("python3", String::as_str);
    draft.set("worker", format!("Python({})", text(python)));
    for function in functions.iter().filter(|word| !word.starts_with('-')) {
        let function =
            if function.contains('.') { function.clone() } else { format!("tasks.{function}") };
        let name = function.rsplit('.').next().unwrap_or(&function).to_owned();
        draft.tasks.push(task(name, What::Call(function)));
    }
}

/// Reads what a shell of its own runs into a draft; whether it runs anything.
pub(super) fn inner(script: &str, variables: &mut Variables, draft: &mut Draft) -> bool {
    variables.shells += 1;
    if variables.depth >= MAX_DEPTH || variables.shells > MAX_SHELLS {
        draft.note("So many shells within each other are not looked into.");
        if variables.shells <= MAX_SHELLS {
            draft.tasks.push(task("task".to_owned(), What::Sh(script.to_owned())));
        }
        return true;
    }
    variables.depth += 1;
    let any = inside(script, variables, draft);
    variables.depth -= 1;
    any
}

fn inside(script: &str, variables: &mut Variables, draft: &mut Draft) -> bool {
    let tokens = lex(script);
    let mut all = statements(script, &tokens);
    all.retain(|statement| {
        let first = statement.first_word(&mut Variables::default());
        !matches!(first.as_str(), "disown" | "wait" | "exit" | "done")
    });
    // `cd …; command`: preparations may be statements of their own.
    while all.len() > 1 && prepare(all[0].tokens, variables, draft) {
        all.remove(0);
    }
    let sleeps =
        all.iter().filter(|one| one.first_word(&mut Variables::default()) == "sleep").count();
    let loops = |one: &Statement<'_>| {
        one.tokens.first().is_some_and(|first| is_word(first, &["while", "until", "for"]))
    };
    if all.len() > 1 && sleeps == 0 && !all.iter().any(loops) {
        draft.note("The commands ran one after the other, and once: now they do for ever.");
    }
    let (mut any, mut around, mut pauses) = (false, None, 0);
    for statement in &all {
        let first = statement.first_word(variables);
        let words = words(statement.tokens, variables);
        let pause = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["sleep", time] => Some(seconds(time)),
            ["while" | "until", "sleep", time] => {
                around = Some(seconds(time));
                continue;
            }
            _ => None,
        };
        match (first.as_str(), pause) {
            (_, Some(pause)) => {
                pauses += 1;
                if let Some(last) = draft.tasks.last_mut() {
                    last.pause(&pause, &pause);
                } else {
                    around = Some(pause);
                }
            }
            ("while" | "until" | "for", _) => {}
            _ => any |= interpret(statement, variables, draft),
        }
    }
    if let (Some(pause), Some(last)) = (&around, draft.tasks.last_mut()) {
        last.pause(pause, pause);
        pauses += 1;
    }
    if pauses > 0 {
        // A loop waits only where it says so.
        draft.tasks.iter_mut().for_each(|task| task.pause("0s", "1s"));
    }
    any
}

/// What sleep(1) takes, as a duration.
fn seconds(time: &str) -> String {
    let unit = if time.ends_with(|c: char| c.is_ascii_digit()) { "s" } else { "" };
    format!("{time}{unit}")
}

fn task(name: String, what: What) -> TaskDraft {
    TaskDraft { notes: Vec::new(), name, what, fields: Vec::new() }
}
