//! Words kept, numbers not.

/// A line with everything that changes from run to run replaced by a mark.
pub fn normalised(line: &str) -> String {
    let mut out = String::new();
    let mut digit = false;
    for c in line.chars() {
        if c.is_ascii_digit() {
            if !std::mem::replace(&mut digit, true) {
                out.push('#');
            }
        } else {
            digit = false;
            out.push(c);
        }
    }
    out
}
