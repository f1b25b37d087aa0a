//! Just enough of PostgreSQL's lexical rules to find table placeholders, bare table names and wildcards in a query file:
//! literals, quoted names and comments are skipped, the rest is cut into words and symbols. It understands no grammar.

/// A token of a statement with the place where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub kind: Kind<'a>,
    pub start: usize,
    pub end: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    /// A keyword, an unquoted or a quoted name, a number or a parameter, as written.
    Word(&'a str),
    /// `{table}`
    Placeholder(&'a str),
    Symbol(char),
}

/// Cuts a statement into tokens. What is left open at its end, a string or a comment, is an error.
pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, &'static str> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        let length = if first.is_whitespace() {
            first.len_utf8()
        } else if rest.starts_with("--") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").ok_or("a comment is not closed")? + 2
        } else if let Some(quoted) = string(rest)? {
            quoted
        } else if first == '"' {
            let length = rest[1..].find('"').ok_or("a quoted name is not closed")? + 2;
            found.push(Token { kind: Kind::Word(&rest[1..length - 1]), start: at, end: at + length });
            length
        } else if first == '{' {
            let length = rest.find('}').ok_or("a placeholder is not closed")? + 1;
            found.push(Token { kind: Kind::Placeholder(&rest[1..length - 1]), start: at, end: at + length });
            length
        } else if is_name(first) {
            let length = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            found.push(Token { kind: Kind::Word(&rest[..length]), start: at, end: at + length });
            length
        } else {
            found.push(Token { kind: Kind::Symbol(first), start: at, end: at + first.len_utf8() });
            first.len_utf8()
        };
        at += length;
    }
    Ok(found)
}

/// The length of the string literal that `rest` begins with: `'…'`, `E'…'` or `$tag$…$tag$`.
fn string(rest: &str) -> Result<Option<usize>, &'static str> {
    const OPEN: &str = "a string is not closed";
    let escapes = rest.starts_with("E'") || rest.starts_with("e'");
    if escapes || rest.starts_with('\'') {
        let body = if escapes { 2 } else { 1 };
        let bytes = rest.as_bytes();
        let mut at = body;
        loop {
            match bytes.get(at).ok_or(OPEN)? {
                b'\\' if escapes => at += 2,
                b'\'' if bytes.get(at + 1) == Some(&b'\'') => at += 2,
                b'\'' => return Ok(Some(at + 1)),
                _ => at += 1,
            }
        }
    }
    let Some(tag) = rest.strip_prefix('$').and_then(|after| after.find('$').map(|end| &after[..end])) else {
        return Ok(None);
    };
    if tag.starts_with(|first: char| first.is_ascii_digit()) || !tag.chars().all(|c| c.is_alphanumeric() || c == '_') {
        return Ok(None);
    }
    let fence = tag.len() + 2;
    let close = rest[fence..].find(&rest[..fence]).ok_or(OPEN)?;
    Ok(Some(fence + close + fence))
}

/// Whether `tokens[at]` is a `*` that stands for columns, not for a multiplication and not for `count(*)`.
pub(super) fn is_wildcard(tokens: &[Token<'_>], at: usize) -> bool {
    if tokens[at].kind != Kind::Symbol('*') {
        return false;
    }
    let before = at.checked_sub(1).map(|before| tokens[before].kind);
    let opens_list = match before {
        Some(Kind::Word(word)) => {
            ["select", "distinct", "all", "returning"].iter().any(|keyword| word.eq_ignore_ascii_case(keyword))
        }
        Some(Kind::Symbol(symbol)) => symbol == ',' || symbol == '.',
        _ => false,
    };
    // A multiplication has something to its right that could be multiplied.
    let ends_list = match tokens.get(at + 1).map(|after| after.kind) {
        None | Some(Kind::Symbol(',' | ')' | ';')) => true,
        Some(Kind::Word(word)) => ["from", "where", "into"].iter().any(|keyword| word.eq_ignore_ascii_case(keyword)),
        _ => false,
    };
    opens_list || (ends_list && before != Some(Kind::Symbol('(')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_comments_hide_what_is_in_them() {
        let text = "select '{a}', E'\\'{b}', $x$ {c} $x$, \"from\" -- {d}\n /* {e} */ from {f} where g = $1";
        let words: Vec<_> = tokens(text).unwrap().into_iter().map(|token| token.kind).collect();
        assert_eq!(words.iter().filter(|kind| matches!(kind, Kind::Placeholder(_))).count(), 1);
        assert!(words.contains(&Kind::Placeholder("f")) && words.contains(&Kind::Word("$1")));
        for open in ["select 'a", "select $$a", "select /* a", "select {a", "select \"a"] {
            assert!(tokens(open).is_err(), "{open}");
        }
    }

    #[test]
    fn a_star_is_a_wildcard_only_in_a_list_of_columns() {
        let cases = [
            ("select * from a", true),
            ("select a.* from a", true),
            ("select b, * from a", true),
            ("select distinct on (b) * from a", true),
            ("insert into a (b) values ($1) returning *", true),
            ("select count(*) from a", false),
            ("select b * c from a", false),
            ("select (b) * (c) from a", false),
            ("select 2 * -b from a", false),
        ];
        for (text, expected) in cases {
            let tokens = tokens(text).unwrap();
            assert_eq!((0..tokens.len()).any(|at| is_wildcard(&tokens, at)), expected, "{text}");
        }
    }
}
