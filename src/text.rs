//! Text from outside, made fit for a terminal and for a line of a log.

use std::borrow::Cow;

/// The longest text that is shown of what somebody else wrote, in characters.
const LONGEST: usize = 400;

/// One line without anything a terminal would obey, cut to a length that is fit to print.
pub fn one_line(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => Cow::Owned(escaped(&text[..end], |_| false) + "…"),
        None if text.contains(is_obeyed) => Cow::Owned(escaped(text, |_| false)),
        None => Cow::Borrowed(text),
    }
}

/// The same for text that may have several lines, at its whole length.
pub fn lines(text: &str) -> String {
    escaped(text, |c| matches!(c, '\n' | '\t'))
}

fn escaped(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_obeyed(c) && !keep(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Control characters, and those that turn the direction of the text around them (Unicode Standard
/// Annex 9, section 2): with either one text can pose as another.
pub fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_and_not_done() {
        assert_eq!(one_line("a\n\u{1b}[2J\u{9b}1m\u{202e}b"), r"a\n\u{1b}[2J\u{9b}1m\u{202e}b");
        assert_eq!(lines("a\n\tb\u{7}\r"), "a\n\tb\\u{7}\\r");
        assert!(matches!(one_line("Grüße"), Cow::Borrowed("Grüße")));
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let long = one_line(&"\u{e4}".repeat(LONGEST + 1)).into_owned();
        assert_eq!(long.chars().count(), LONGEST + 1);
        assert!(long.ends_with('…'));
    }
}
