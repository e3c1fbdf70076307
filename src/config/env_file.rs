//! The format of systemd's EnvironmentFile= (systemd.exec(5)), read as systemd 254 reads it: one
//! `NAME=value` a line; `#` and `;` start comments; lines without `=` are passed over; a value may
//! begin with quoted pieces; a backslash takes the next character as it is and joins lines.
//!
//! Two things differ: a leading `export ` is passed over, and a name that is none, which systemd
//! logs and leaves out, is a fault.

/// A variable's name and value.
pub type Variable = (String, String);

/// The number of a line, from 1, and what is wrong with it.
pub type Fault = (usize, String);

/// Where in a file the next character stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before a name.
    Start,
    /// In a name.
    Name,
    /// After `=` or a closing quote: white space counts for nothing, a quote opens a piece.
    ValueStart,
    /// In a value without quotes, where quotes are characters like others.
    Value,
    /// In a piece between these quotes.
    Quoted(char),
    /// After a backslash, in what it stands in.
    Escaped(Within),
    /// In a comment, and after its last backslash.
    Comment,
    CommentEscaped,
}

/// What a backslash stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    Value,
    DoubleQuotes,
}

/// The largest env_file, in bytes.
pub const MOST: u64 = 1 << 20;

/// The variables of a file without faults.
///
/// # Errors
/// Its first fault.
pub fn read(text: &str) -> Result<Vec<Variable>, String> {
    let (variables, faults) = parse(text);
    match faults.first() {
        Some((line, fault)) => Err(format!("line {line}: {fault}")),
        None => Ok(variables),
    }
}

/// Reads the text of a file of variables. Later lines win. A fault costs only its own assignment.
pub fn parse(text: &str) -> (Vec<Variable>, Vec<Fault>) {
    let mut reader = Reader::default();
    let mut at = At::Start;
    let mut line = 1;
    for c in text.chars() {
        at = reader.step(at, c, line);
        if c == '\n' {
            line += 1;
        }
    }
    if !matches!(at, At::Start | At::Name | At::Comment | At::CommentEscaped) {
        reader.assign(at == At::Value);
    }
    (reader.variables, reader.faults)
}

#[derive(Default)]
struct Reader {
    variables: Vec<Variable>,
    faults: Vec<Fault>,
    name: String,
    value: String,
    /// How much of the value ends in no white space, or in some that was quoted or escaped.
    kept: usize,
    /// The line on which the name began.
    line: usize,
}

impl Reader {
    fn step(&mut self, at: At, c: char, line: usize) -> At {
        let ends_line = matches!(c, '\n' | '\r');
        let blank = ends_line || matches!(c, ' ' | '\t');
        match at {
            At::Start if matches!(c, '#' | ';') => At::Comment,
            At::Start if blank => At::Start,
            At::Start => {
                self.line = line;
                self.name.clear();
                self.value.clear();
                self.kept = 0;
                // A line that begins with `=` has an empty name, which is told.
                self.step(At::Name, c, line)
            }
            At::Name if ends_line => At::Start,
            At::Name if c == '=' => At::ValueStart,
            At::Name => {
                self.name.push(c);
                At::Name
            }
            At::ValueStart | At::Value if ends_line => {
                self.assign(at == At::Value);
                At::Start
            }
            At::ValueStart | At::Value if c == '\\' => {
                self.kept = self.value.len();
                At::Escaped(Within::Value)
            }
            At::ValueStart if matches!(c, '\'' | '"') => At::Quoted(c),
            At::ValueStart if blank => At::ValueStart,
            At::ValueStart | At::Value => {
                self.value.push(c);
                if !blank {
                    self.kept = self.value.len();
                }
                At::Value
            }
            At::Quoted(quote) if c == quote => At::ValueStart,
            At::Quoted('"') if c == '\\' => At::Escaped(Within::DoubleQuotes),
            At::Quoted(quote) => {
                self.value.push(c);
                At::Quoted(quote)
            }
            At::Escaped(Within::Value) => {
                if !ends_line {
                    self.value.push(c);
                }
                self.kept = self.value.len();
                At::Value
            }
            At::Escaped(Within::DoubleQuotes) => {
                match c {
                    '"' | '\\' | '`' | '$' => self.value.push(c),
                    '\n' => {}
                    other => self.value.extend(['\\', other]),
                }
                At::Quoted('"')
            }
            At::Comment if c == '\\' => At::CommentEscaped,
            At::Comment | At::CommentEscaped if ends_line => At::Start,
            At::Comment | At::CommentEscaped => At::Comment,
        }
    }

    /// The end of an assignment. `bare`: it ended outside of quotes, where trailing white space
    /// does not count.
    fn assign(&mut self, bare: bool) {
        let mut value = std::mem::take(&mut self.value);
        if bare {
            value.truncate(self.kept);
        }
        let trimmed = self.name.trim_end();
        let name = trimmed.strip_prefix("export ").map_or(trimmed, str::trim);
        let valid = name.chars().enumerate().all(|(index, c)| {
            c == '_' || c.is_ascii_alphabetic() || (index > 0 && c.is_ascii_digit())
        });
        let problem = if name.starts_with('\u{feff}') {
            "the file begins with a byte order mark: save it without".to_owned()
        } else if name.is_empty() || !valid {
            format!("{name:?} is no name of a variable")
        } else if value.contains('\0') {
            format!("the value of {name} holds NUL")
        } else {
            self.variables.retain(|(known, _)| known != name);
            self.variables.push((name.to_owned(), value));
            return;
        };
        self.faults.push((self.line, problem));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        let (variables, faults) = parse(text);
        assert_eq!(faults, [], "{text:?}");
        variables
    }

    /// Each text with what systemd 252's own parser made of it.
    #[test]
    fn reads_what_systemd_reads() {
        let cases: &[(&str, &[(&str, &str)])] = &[
            ("A=1", &[("A", "1")]),
            ("B = two words  \n", &[("B", "two words")]),
            ("  \t C\t=x\n", &[("C", "x")]),
            ("C=\"a \\\"b\\\" c\" # kept\n", &[("C", "a \"b\" c# kept")]),
            ("E=a\\\nb\n", &[("E", "ab")]),
            ("E=a\\\n", &[("E", "a")]),
            ("N=a \\\n  b\n", &[("N", "a   b")]),
            ("N=a \\\n", &[("N", "a ")]),
            ("N=a\\  \n", &[("N", "a ")]),
            ("F=x\"y\"z\n", &[("F", "x\"y\"z")]),
            ("G='s'\"d\"e  \"f\"\n", &[("G", "sde  \"f\"")]),
            ("G='a' 'b'\n", &[("G", "ab")]),
            ("H=a\\tb\nI=\"a\\tb\"\n", &[("H", "atb"), ("I", "a\\tb")]),
            ("J=\"\\$a \\` \\\\ \\'\"\n", &[("J", "$a ` \\ \\'")]),
            ("J='\\$a'\n", &[("J", "\\$a")]),
            ("K=\"a\nb\"\nL='c\nd'\n", &[("K", "a\nb"), ("L", "c\nd")]),
            ("K=\"a\\\nb\"\n", &[("K", "ab")]),
            ("L=1;2#3\n", &[("L", "1;2#3")]),
            ("L=\nM=\"\"\n", &[("L", ""), ("M", "")]),
            ("# A=1\n; B=2\n  # C=3\nD=4\n", &[("D", "4")]),
            ("no assignment\n[Section]\nA=1\n", &[("A", "1")]),
            ("A=1\r\nB=\"2\"\r\n", &[("A", "1"), ("B", "2")]),
            ("A=1\nA=2\n", &[("A", "2")]),
            ("A=never closed: '\n", &[("A", "never closed: '")]),
            ("A='never closed\nB=1\n", &[("A", "never closed\nB=1\n")]),
            ("A==b=c\n", &[("A", "=b=c")]),
            ("A=ö \u{1f980}\n", &[("A", "ö \u{1f980}")]),
        ];
        for (text, wanted) in cases {
            let wanted: Vec<(String, String)> =
                wanted.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            assert_eq!(read(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn a_comment_ends_with_its_line_since_systemd_254() {
        assert_eq!(read("# a comment \\\nA=1\n"), [("A".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn the_word_export_is_passed_over() {
        assert_eq!(read("export D='x y'\n"), [("D".to_owned(), "x y".to_owned())]);
    }

    #[test]
    fn faults_are_told_with_their_line_and_cost_only_themselves() {
        let text = "A=1\n1B=2\n=3\nC D=4\nE='a\nb'\nF-G=5\nH=\0\nI=6\n";
        let (variables, faults) = parse(text);
        let names: Vec<&str> = variables.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["A", "E", "I"]);
        assert_eq!(faults.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 3, 4, 7, 8]);
        let (_, faults) = parse("\u{feff}A=1\n");
        assert!(faults[0].1.contains("byte order mark"), "{faults:?}");
    }
}
