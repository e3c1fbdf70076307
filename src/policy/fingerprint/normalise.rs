//! What changes from run to run is replaced by a mark, words stay: numbers and times `#`, hex,
//! UUIDs and random names `*`, addresses `@`, the name under a temporary folder `*`.

/// Folders whose entries have names that nobody chose.
const TEMPORARY: [&str; 5] =
    ["/tmp/", "/var/tmp/", "/dev/shm/", "/run/user/", "/private/var/folders/"];

/// A text with everything that changes from run to run replaced, in one line. Linear.
pub fn normalised(text: &str) -> String {
    let mut out = Out { text: String::with_capacity(text.len().min(512)) };
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let before = out.text.chars().next_back();
        if c.is_whitespace() {
            rest = rest.trim_start();
            out.space();
        } else if let Some((folder, after)) = temporary(rest, before) {
            out.word(folder);
            rest = after;
        } else if is_uuid(rest) && !before.is_some_and(is_word) {
            out.word("*");
            rest = &rest[36..];
        } else if is_word(c) {
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            let (token, after) = rest.split_at(end);
            rest = after;
            if let Some(after) = address(token, rest) {
                out.word("@");
                rest = after;
            } else {
                out.token(token, rest);
            }
        } else if c == ':' && !before.is_some_and(is_word) && colons(rest).is_some() {
            out.word("@");
            rest = &rest[colons(rest).unwrap_or(0)..];
        } else {
            out.mark(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out.text.truncate(out.text.trim_end().len());
    out.text
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn is_hex(c: char) -> bool {
    c.is_ascii_hexdigit()
}

struct Out {
    text: String,
}

impl Out {
    fn space(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with(' ') {
            self.text.push(' ');
        }
    }

    fn word(&mut self, word: &str) {
        self.text.push_str(word);
    }

    /// A number: one mark for all that are joined by `-`, `:`, `.`, `,`, `/`, `+`, or by a space
    /// between the parts of a time.
    fn a_number(&mut self) {
        let joined = self.text.trim_end_matches(['-', ':', '.', ',', '/', '+', ' ']);
        if joined.ends_with('#') && joined.len() < self.text.len() {
            self.text.truncate(joined.len());
        } else if let Some(sign) = self.text.strip_suffix('-')
            && (sign.is_empty() || sign.ends_with([' ', '(', '[', '=', ',', ':', '\'', '"']))
        {
            self.text.truncate(sign.len());
            self.text.push('#');
        } else if !joined.ends_with('#') {
            self.text.push('#');
        }
    }

    fn mark(&mut self, c: char) {
        // The quotes of a locale mean the same.
        let c = match c {
            '\u{2018}' | '\u{2019}' | '`' => '\'',
            '\u{201c}' | '\u{201d}' => '"',
            c => c,
        };
        self.text.push(c);
    }

    fn token(&mut self, token: &str, rest: &str) {
        let digits = token.bytes().any(|byte| byte.is_ascii_digit());
        if !digits {
            let before_number = rest.trim_start().starts_with(|c: char| c.is_ascii_digit());
            if self.is_part_of_a_time(token, before_number) {
                self.a_number();
            } else {
                self.word(token);
            }
            return;
        }
        if is_random(token) {
            self.word("*");
            return;
        }
        if is_quantity(token) {
            self.a_number();
            return;
        }
        let mut digit = false;
        for c in token.chars() {
            if !c.is_ascii_digit() {
                self.text.push(c);
            } else if !digit {
                self.text.push('#');
            }
            digit = c.is_ascii_digit();
        }
    }

    /// `Nov` of `24 Nov`, `UTC` after a time, `T` between date and time.
    fn is_part_of_a_time(&self, token: &str, before_number: bool) -> bool {
        let after_number = self.text.trim_end().ends_with('#');
        match token {
            "UTC" | "GMT" | "CET" | "CEST" | "EST" | "EDT" | "PST" | "PDT" | "AM" | "PM" => {
                after_number
            }
            // Words, too.
            "May" | "March" => after_number || before_number,
            "T" | "Z" => self.text.ends_with('#'),
            _ => is_calendar(token),
        }
    }
}

/// Names of months and days as programs write them.
fn is_calendar(token: &str) -> bool {
    matches!(
        token,
        "Jan"
            | "Feb"
            | "Mar"
            | "Apr"
            | "Jun"
            | "Jul"
            | "Aug"
            | "Sep"
            | "Oct"
            | "Nov"
            | "Dec"
            | "January"
            | "February"
            | "April"
            | "June"
            | "July"
            | "August"
            | "September"
            | "October"
            | "November"
            | "December"
            | "Mon"
            | "Tue"
            | "Wed"
            | "Thu"
            | "Fri"
            | "Sat"
            | "Sun"
            | "Monday"
            | "Tuesday"
            | "Wednesday"
            | "Thursday"
            | "Friday"
            | "Saturday"
            | "Sunday"
    )
}

/// A number, possibly with a unit (`12`, `300ms`, `1h2m`), `24T05`, `16Z`, `1e9`.
fn is_quantity(token: &str) -> bool {
    let mut rest = token;
    if !rest.starts_with(|c: char| c.is_ascii_digit()) {
        // The time of `2026-11-24T05:06`, where the T belongs to the hour.
        rest = rest.strip_prefix('T').unwrap_or(rest);
    }
    while !rest.is_empty() {
        let number = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if number == 0 {
            return false;
        }
        rest = &rest[number..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let known = matches!(
            rest[..unit].to_ascii_lowercase().as_str(),
            "" | "ns"
                | "us"
                | "µs"
                | "ms"
                | "s"
                | "m"
                | "h"
                | "d"
                | "w"
                | "sec"
                | "secs"
                | "min"
                | "mins"
                | "b"
                | "k"
                | "kb"
                | "kib"
                | "mb"
                | "mib"
                | "g"
                | "gb"
                | "gib"
                | "t"
                | "tb"
                | "tib"
                | "e"
                | "z"
                | "st"
                | "nd"
                | "rd"
                | "th"
                | "x"
                | "l"
        );
        if !known {
            return false;
        }
        rest = &rest[unit..];
    }
    true
}

/// Whether a text begins with a UUID (RFC 9562).
fn is_uuid(text: &str) -> bool {
    let Some(uuid) = text.as_bytes().get(..36) else { return false };
    let fits = |(place, byte): (usize, &u8)| match place {
        8 | 13 | 18 | 23 => *byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    uuid.iter().enumerate().all(fits) && !text[36..].starts_with(is_word)
}

/// Hex with a digit in it, or letters and digits mixed as nobody writes them.
fn is_random(token: &str) -> bool {
    if let Some(hex) = token.strip_prefix("0x").or_else(|| token.strip_prefix("0X")) {
        return !hex.is_empty() && hex.chars().all(is_hex);
    }
    let letters = token.bytes().filter(u8::is_ascii_alphabetic).count();
    if token.len() >= 6 && letters > 0 && token.chars().all(is_hex) && !is_quantity(token) {
        return true;
    }
    let kind = |byte: u8| (byte.is_ascii_digit(), byte.is_ascii_uppercase());
    let changes = token.as_bytes().windows(2).filter(|w| kind(w[0]).0 != kind(w[1]).0).count();
    token.len() >= 8 && letters > 0 && changes >= 3 && !token.contains('_') && !is_quantity(token)
}

/// How far `wanted` holds, at most 64 characters: no address is longer, and a text of one long
/// almost-address must not cost the square of its length.
fn reach(rest: &str, wanted: impl Fn(char) -> bool) -> usize {
    rest.char_indices()
        .take(64)
        .find(|(_, c)| !wanted(*c))
        .map_or_else(|| rest.char_indices().nth(64).map_or(rest.len(), |(at, _)| at), |(at, _)| at)
}

/// An address that begins with `token`: `user@host`, IPv6, MAC. What follows it.
fn address<'a>(token: &str, rest: &'a str) -> Option<&'a str> {
    let part = |c: char| is_word(c) || matches!(c, '.' | '-' | '+');
    let end = reach(rest, part);
    if rest[end..].starts_with('@') {
        let domain = &rest[end + 1..];
        let length = reach(domain, |c| is_word(c) || c == '.' || c == '-');
        let name = domain[..length].trim_end_matches(['.', '-']);
        return (name.contains('.')).then(|| &domain[name.len()..]);
    }
    if rest.starts_with(':') && token.len() <= 4 && token.chars().all(is_hex) {
        let length = reach(rest, |c| is_hex(c) || c == ':');
        let whole = rest[..length].trim_end_matches(':');
        let colons = whole.bytes().filter(|byte| *byte == b':').count();
        let groups = whole.split(':').all(|group| group.len() <= 4);
        let digits = whole.bytes().chain(token.bytes()).any(|b| b.is_ascii_digit());
        let ends = !rest[length..].starts_with(is_word);
        let address = colons >= 5 || (whole.contains("::") && digits);
        return (groups && ends && address).then(|| &rest[whole.len()..]);
    }
    None
}

/// The length of an IPv6 address that begins with `::`, as `::1` does.
fn colons(rest: &str) -> Option<usize> {
    let length = reach(rest, |c| is_hex(c) || c == ':');
    let whole = rest[..length].trim_end_matches(':');
    let digits = whole.bytes().any(|byte| byte.is_ascii_digit());
    let ends = !rest[length..].starts_with(is_word);
    (whole.starts_with("::") && digits && ends).then_some(whole.len())
}

/// The start of a temporary path: its folder with a mark for the name in it, and what follows.
fn temporary(rest: &str, before: Option<char>) -> Option<(&'static str, &str)> {
    if rest.starts_with("tmp") && !before.is_some_and(is_word) {
        let name = &rest[3..];
        let length = name.find(|c| !is_word(c) && c != '.').unwrap_or(name.len());
        let name = &name[..length];
        let drawn = name.strip_prefix('.').unwrap_or(name);
        let mixed = drawn.bytes().any(|b| b.is_ascii_digit() || b == b'_')
            || drawn.bytes().skip(1).any(|b| b.is_ascii_uppercase());
        let drawn = drawn.len() >= 6 && !drawn.contains('.') && (drawn.len() == 8 || mixed);
        return drawn.then(|| ("*", &rest[3 + length..]));
    }
    if !rest.starts_with('/') || before.is_some_and(|c| is_word(c) || c == '.') {
        return None;
    }
    let folder = TEMPORARY.into_iter().find(|folder| rest.starts_with(folder))?;
    let name = &rest[folder.len()..];
    let end = name
        .find(|c: char| c.is_whitespace() || "/'\"`:,;)]}>\u{2019}\u{201d}".contains(c))
        .unwrap_or(name.len());
    if end == 0 {
        return None;
    }
    Some(("/tmp/*", &name[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_and_words_stay() {
        for (text, expected) in [
            ("the decade is bad", "the decade is bad"),
            ("a facade of deadbeef", "a facade of deadbeef"),
            ("order 17 of 3.5 failed", "order # of # failed"),
            ("took 300ms, then 1h2m", "took #, then #"),
            ("at 0x7ffd3a and 0XAB", "at * and *"),
            ("commit 3f9a2c1 is gone", "commit * is gone"),
            ("id 123e4567-e89b-12d3-a456-426614174000!", "id *!"),
            ("id c0ffee00-dead-beef-cafe-000000000001!", "id *!"),
            ("2026-11-24T05:06:16.123Z boom", "# boom"),
            ("2026-11-24 05:06:16,123 UTC boom", "# boom"),
            ("Tue Nov 24 05:06:16 2026: boom", "#: boom"),
            ("24/Nov/2026:05:06:16 +0100 boom", "# boom"),
            ("24 May 2026 05:06 boom", "# boom"),
            ("May 24 05:06:16 boom", "# boom"),
            ("Sun, 3 March 2026: boom", "#: boom"),
            ("May fail, the March ahead", "May fail, the March ahead"),
            ("from 10.0.0.7:5432 to [fe80::1]:22", "from # to [@]:#"),
            ("mac aa:bb:cc:dd:ee:0f", "mac @"),
            ("std::bad_alloc in a::b", "std::bad_alloc in a::b"),
            ("mail to bob.x+y@example.org.", "mail to @."),
            ("open /tmp/tmpab3_x9zz/in.csv", "open /tmp/*/in.csv"),
            ("open '/var/tmp/x': no", "open '/tmp/*': no"),
            ("open /srv/tmpk3j_x9ab/a", "open /srv/*/a"),
            ("template tmpfiles temporary", "template tmpfiles temporary"),
            ("server12 sha256 python3.11", "server# sha# python#"),
            ("exit -5 and a-5", "exit # and a-#"),
            ("\u{2018}/nope\u{2019}", "'/nope'"),
            ("  many   blanks\t", "many blanks"),
            ("", ""),
        ] {
            assert_eq!(normalised(text), expected, "of {text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_normalised_and_twice_is_once_more_stable(text in ".{0,300}") {
            let once = normalised(&text);
            proptest::prop_assert!(once.len() <= 4 * text.len() + 8);
        }

        #[test]
        fn values_do_not_matter(a in 0_u32..99_999, b in 0_u32..99_999) {
            let said = |n: u32| normalised(&format!("cannot load order {n} from 10.0.0.{} in {n}ms", n % 256));
            proptest::prop_assert_eq!(said(a), said(b));
        }
    }
}
