//! The format of systemd's EnvironmentFile= (systemd.exec(5)): one `NAME=value` a line, `#` and
//! `;` start comments, values may be quoted, a backslash at a line's end joins lines.

/// A variable's name and value.
pub type Variable = (String, String);

/// The number of a line, from 1, and what is wrong with it.
pub type Fault = (usize, String);

/// Reads the text of a file of variables. Later lines win. Lines that are no assignment are told
/// by their number, from 1, and cost only themselves.
pub fn parse(text: &str) -> (Vec<Variable>, Vec<Fault>) {
    let mut variables = Vec::new();
    let mut problems = Vec::new();
    let mut scanner = Scanner { rest: text.chars().peekable(), line: 1 };
    while scanner.rest.peek().is_some() {
        let at = scanner.line;
        match scanner.assignment() {
            Ok(Some((name, value))) => {
                variables.retain(|(known, _): &(String, String)| *known != name);
                variables.push((name, value));
            }
            Ok(None) => {}
            Err(problem) => problems.push((at, problem)),
        }
    }
    (variables, problems)
}

struct Scanner<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    line: usize,
}

impl Scanner<'_> {
    fn next(&mut self) -> Option<char> {
        let next = self.rest.next();
        if next == Some('\n') {
            self.line += 1;
        }
        next
    }

    fn skip_line(&mut self) {
        while let Some(c) = self.next() {
            if c == '\n' {
                break;
            }
        }
    }

    fn assignment(&mut self) -> Result<Option<(String, String)>, String> {
        while self.rest.peek().is_some_and(|c| *c == ' ' || *c == '\t' || *c == '\r') {
            self.next();
        }
        match self.rest.peek() {
            None => return Ok(None),
            Some('\n' | '#' | ';') => {
                self.skip_line();
                return Ok(None);
            }
            Some(_) => {}
        }
        let mut name = String::new();
        loop {
            match self.rest.peek() {
                Some('=') => {
                    self.next();
                    break;
                }
                Some('\n') | None => {
                    self.skip_line();
                    return Err(format!("no assignment: {name:?}"));
                }
                Some(_) => name.extend(self.next()),
            }
        }
        let trimmed = name.trim();
        let name = trimmed.strip_prefix("export ").map_or(trimmed, str::trim).to_owned();
        let value = self.value();
        let valid = name.chars().enumerate().all(|(index, c)| {
            c == '_' || c.is_ascii_alphabetic() || (index > 0 && c.is_ascii_digit())
        });
        if name.is_empty() || !valid {
            return Err(format!("{name:?} is no name of a variable"));
        }
        if value.contains('\0') {
            return Err(format!("the value of {name} holds NUL"));
        }
        Ok(Some((name, value)))
    }

    /// The rest of the line after `=`, through quotes and joined lines.
    fn value(&mut self) -> String {
        let mut value = String::new();
        // What may be trailing white space, kept back until something follows.
        let mut held = String::new();
        while self.rest.peek().is_some_and(|c| *c == ' ' || *c == '\t') {
            self.next();
        }
        while let Some(c) = self.next() {
            match c {
                '\n' => break,
                '\r' if self.rest.peek() == Some(&'\n') => {}
                ' ' | '\t' => held.push(c),
                '\'' | '"' => {
                    value.push_str(&std::mem::take(&mut held));
                    self.quoted(c, &mut value);
                }
                '\\' => {
                    value.push_str(&std::mem::take(&mut held));
                    match self.next() {
                        Some('\n') | None => {}
                        Some(c) => value.push(c),
                    }
                }
                c => {
                    value.push_str(&std::mem::take(&mut held));
                    value.push(c);
                }
            }
        }
        value
    }

    fn quoted(&mut self, quote: char, value: &mut String) {
        while let Some(c) = self.next() {
            if c == quote {
                return;
            }
            if c == '\\' && quote == '"' {
                match self.next() {
                    Some('\n') | None => {}
                    Some(c @ ('"' | '\\' | '`' | '$')) => value.push(c),
                    Some(c) => value.extend(['\\', c]),
                }
            } else {
                value.push(c);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_systemd_reads() {
        let text = "# a comment\n; another\n\nA=1\nB = two words  \nC=\"a \\\"b\\\" c\" # kept\nexport D='x y'\nE=a\\\nb\nA=2\r\n";
        let (variables, problems) = parse(text);
        let expected =
            [("B", "two words"), ("C", "a \"b\" c # kept"), ("D", "x y"), ("E", "ab"), ("A", "2")];
        let expected: Vec<(String, String)> =
            expected.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        assert_eq!(variables, expected);
        assert_eq!(problems, []);
    }

    #[test]
    fn tells_the_lines_that_are_no_assignment() {
        let (variables, problems) = parse("A=1\nnonsense\n1B=2\nC=3\n");
        assert_eq!(variables.len(), 2);
        assert_eq!(problems.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 3]);
    }
}
