//! Which chains an operator means: names and globs (`mail*`, `db-?`), matched the same way by the
//! master and by runnerctl.

/// Whether `pattern` means `name`: `*` is any run of characters, `?` is any one, all else is
/// itself. Linear in the product of both lengths: a hostile pattern costs no more.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // The last star and where its match ended: the only place worth going back to.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, end)) => {
                    star = Some((at, end + 1));
                    p = at + 1;
                    n = end + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// The names that any of `patterns` means, each once, in the order of `names`.
///
/// # Errors
/// The first pattern that means none of them.
pub fn select<'n>(
    names: impl IntoIterator<Item = &'n str>,
    patterns: &[String],
) -> Result<Vec<&'n str>, String> {
    let names: Vec<&str> = names.into_iter().collect();
    for pattern in patterns {
        if !names.iter().any(|name| matches(pattern, name)) {
            return Err(pattern.clone());
        }
    }
    Ok(names
        .into_iter()
        .filter(|name| patterns.iter().any(|pattern| matches(pattern, name)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_itself_and_a_glob_means_many() {
        for (pattern, name, expected) in [
            ("mail", "mail", true),
            ("mail", "mails", false),
            ("mail", "", false),
            ("", "", true),
            ("*", "", true),
            ("*", "anything", true),
            ("m*l", "mail", true),
            ("m*l", "mailbox", false),
            ("*a*b", "xaxxab", true),
            ("db-?", "db-1", true),
            ("db-?", "db-", false),
            ("[a]", "a", false),
            ("a**", "a", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern:?} and {name:?}");
        }
    }

    #[test]
    fn a_hostile_pattern_is_answered_at_once() {
        let pattern = "*a".repeat(2_000);
        assert!(!matches(&pattern, &"a".repeat(1_999)));
    }

    #[test]
    fn a_selection_keeps_the_order_and_names_what_is_unknown() {
        let names = ["a", "b1", "b2", "c"];
        let asked = ["b*".to_owned(), "a".to_owned(), "b1".to_owned()];
        assert_eq!(select(names, &asked).unwrap(), ["a", "b1", "b2"]);
        assert_eq!(select(names, &["a".to_owned(), "d*".to_owned()]).unwrap_err(), "d*");
        assert!(select(names, &[]).unwrap().is_empty());
    }
}
