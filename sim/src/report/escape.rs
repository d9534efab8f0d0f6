//! Text of a run, made harmless: whatever a panic or a note says is shown as it is, and is never markup.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

/// The text as it may stand in HTML and SVG, between tags and in quoted attributes.
///
/// Control characters are replaced: some are no part of HTML, and some turn the direction of the text that follows.
pub(super) fn escape(text: &str) -> Escaped<'_> {
    Escaped(text)
}

/// See [`escape`].
pub(super) struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for char in self.0.chars() {
            match char {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\n' | '\t' => f.write_char(char)?,
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => f.write_char(char::REPLACEMENT_CHARACTER)?,
                char if char.is_control() => f.write_char(char::REPLACEMENT_CHARACTER)?,
                char => f.write_char(char)?,
            }
        }
        Ok(())
    }
}

/// The first so many characters, and a sign that there are more.
pub(super) fn clip(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_could_be_markup_is_left() {
        let hostile = "</title><script>alert('&\"')</script>\u{0}\u{1b}\u{202e}";
        let safe = escape(hostile).to_string();
        assert!(!safe.contains(['<', '>', '"', '\'', '\u{0}', '\u{1b}', '\u{202e}']), "{safe}");
        assert!(safe.starts_with("&lt;/title&gt;&lt;script&gt;alert(&#39;&amp;&quot;&#39;)"), "{safe}");
        assert_eq!(escape("två\nlines").to_string(), "två\nlines");
    }

    #[test]
    fn a_long_text_is_clipped_between_characters() {
        assert_eq!(clip("short", 5), "short");
        assert_eq!(clip("åäö and more", 3), "åäö…");
    }
}
