//! Rows of a CSV file, as RFC 4180 has them; where a row ends is found by [`super::file`].
//!
//! LF, CRLF and CR end lines; empty lines are passed over. A quote within a field that does not begin with one is a
//! quote.

use std::borrow::Cow;

/// Why a line is not a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    #[error("a quote is not closed")]
    Unclosed,
    #[error("text follows a closing quote")]
    AfterQuote,
}

/// The fields of a line, unquoted.
///
/// # Errors
/// [`BadLine`].
pub fn fields<'a>(line: &'a [u8], delimiter: u8) -> Result<Vec<Cow<'a, [u8]>>, BadLine> {
    let mut fields = Vec::with_capacity(16);
    let mut rest = line;
    loop {
        let (field, after) = if rest.first() == Some(&b'"') { quoted(&rest[1..])? } else { plain(rest, delimiter) };
        fields.push(field);
        match after.split_first() {
            None => return Ok(fields),
            Some((&byte, after)) if byte == delimiter => rest = after,
            Some(_) => return Err(BadLine::AfterQuote),
        }
    }
}

fn plain(rest: &[u8], delimiter: u8) -> (Cow<'_, [u8]>, &[u8]) {
    let end = rest.iter().position(|&byte| byte == delimiter).unwrap_or(rest.len());
    (Cow::Borrowed(&rest[..end]), &rest[end..])
}

/// What stands up to the closing quote, and what follows it.
fn quoted(rest: &[u8]) -> Result<(Cow<'_, [u8]>, &[u8]), BadLine> {
    let quote = |from: usize| rest[from..].iter().position(|&byte| byte == b'"').map(|at| from + at);
    let mut at = quote(0).ok_or(BadLine::Unclosed)?;
    if rest.get(at + 1) != Some(&b'"') {
        return Ok((Cow::Borrowed(&rest[..at]), &rest[at + 1..]));
    }
    let mut text = Vec::with_capacity(rest.len());
    let mut from = 0;
    loop {
        text.extend_from_slice(&rest[from..at]);
        if rest.get(at + 1) != Some(&b'"') {
            return Ok((Cow::Owned(text), &rest[at + 1..]));
        }
        text.push(b'"');
        from = at + 2;
        at = quote(from).ok_or(BadLine::Unclosed)?;
    }
}

/// A field as a file of failures has it: quoted where it must be.
pub fn quote(field: &str, into: &mut String) {
    if field.contains(['"', ',', '\n', '\r']) {
        into.push('"');
        into.push_str(&field.replace('"', "\"\""));
        into.push('"');
    } else {
        into.push_str(field);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Vec<String>, BadLine> {
        let fields = fields(line.as_bytes(), b',')?;
        Ok(fields.into_iter().map(|field| String::from_utf8(field.into_owned()).unwrap()).collect())
    }

    #[test]
    fn fields_are_split_and_unquoted() {
        for (line, expected) in [
            ("a,b,c", Ok(vec!["a", "b", "c"])),
            ("", Ok(vec![""])),
            (",", Ok(vec!["", ""])),
            ("a,", Ok(vec!["a", ""])),
            ("\"a,b\",c", Ok(vec!["a,b", "c"])),
            ("\"\",\"\"\"\"", Ok(vec!["", "\""])),
            ("\"say \"\"hi\"\", Lin\",x", Ok(vec!["say \"hi\", Lin", "x"])),
            ("a\"b,c\"", Ok(vec!["a\"b", "c\""])),
            (" \"a\"", Ok(vec![" \"a\""])),
            ("\"a", Err(BadLine::Unclosed)),
            ("x,\"a\"\"", Err(BadLine::Unclosed)),
            ("\"a\"b,c", Err(BadLine::AfterQuote)),
        ] {
            assert_eq!(read(line), expected.map(|all| all.into_iter().map(str::to_owned).collect()), "{line}");
        }
    }

    #[test]
    fn what_is_quoted_is_read_back() {
        for field in ["", "a", "a,b", "say \"hi\"", "\"", "a\tb"] {
            let mut line = String::new();
            quote(field, &mut line);
            assert_eq!(read(&line), Ok(vec![field.to_owned()]));
        }
    }
}
