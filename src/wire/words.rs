//! How a count is said to people.

use std::fmt::Display;

/// The number with the words that fit it: `1 mail waits`, `3 mails wait`.
pub fn counted<N: Display + PartialEq + From<u8>>(number: N, one: &str, several: &str) -> String {
    format!("{number} {}", if number == N::from(1) { one } else { several })
}

/// How many mails wait, as the beginning of a sentence.
pub fn mails_wait(count: u64) -> String {
    counted(count, "mail waits", "mails wait")
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn one_is_singular_and_none_is_not() {
        let said = [0_u32, 1, 2].map(|n| counted(n, "run", "runs"));
        assert_eq!(said, ["0 runs", "1 run", "2 runs"]);
    }
}
