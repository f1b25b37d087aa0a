//! The query registry: the statements of sql/queries, each with its claim.
//!
//! A file names its partitioned tables as `{coupon}`; a query is asked for its text on the parents or on given leaves.
//! Before the text stands what the proof needs:
//!
//! ```sql
//! -- coupon::store::find                       who calls it
//! -- touches: coupon=1, redemption=all (why)   leaves of each table that are executed, at most
//! -- route: coupon=$1                          the parameter that is the table's partition key; of an array the first
//! -- sample: select array[code_id] from coupon limit 1      one row, whose columns are $1 …
//! select … from {coupon} where code_id = any($1)
//! ```
//!
//! A header goes on in lines that begin with `--` and two or more spaces. A query on unpartitioned tables says
//! `touches: none` and needs no sample. A file that does not keep to this does not load.
//!
//! Statements take arrays with an element for each row. A lone till makes batches of one, so a second text is derived
//! that takes the same parameters and reads the first element of each ([`Query::for_one`]): it has no join, and
//! PostgreSQL runs it as fast as a statement on one row.
//!
//! A plan outlives the leaf that it was made on: it must find rows by their keys however many there are by then. So rows
//! are locked in a lateral subquery, and updates say `= any(array[t.key])` of the first column of a key: neither leaves
//! the planner another way than to look up each row in turn. `tests/it/grown.rs` holds them to it.
//!
//! The texts handed out live as long as the process; there are no more of them than combinations of leaves that were
//! asked for.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{LazyLock, RwLock};

use super::plan::{Plan, added, plans};
use super::router::Leaf;
use super::sql::{self, Kind, Token};

static EMBEDDED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/queries.rs"));
static REGISTRY: LazyLock<Result<BTreeMap<&'static str, Query>, Vec<QueryError>>> = LazyLock::new(|| {
    let (mut loaded, mut errors) = (BTreeMap::new(), Vec::new());
    for (name, text) in EMBEDDED.iter().chain(added().flat_map(|added| added.queries)) {
        match Query::parse(name, text) {
            Ok(query) => drop(loaded.insert(*name, query)),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(loaded) } else { Err(errors) }
});

/// Loads the registry, so that a bad file shows when a process starts and not when a till asks.
///
/// # Errors
/// Everything that is wrong with any file.
pub fn load() -> Result<(), &'static [QueryError]> {
    REGISTRY.as_ref().map(|_| ()).map_err(Vec::as_slice)
}

/// All queries, by name.
///
/// # Panics
/// When the registry does not load; see [`load`].
pub fn queries() -> impl Iterator<Item = &'static Query> {
    registry().values()
}

/// The query of a file that is known to exist, by its path below sql/queries without `.sql`.
///
/// # Panics
/// When there is none, or the registry does not load: mistakes of the programmer.
pub fn query(name: &str) -> &'static Query {
    match registry().get(name) {
        Some(query) => query,
        None => panic!("there is no sql/queries/{name}.sql"),
    }
}

fn registry() -> &'static BTreeMap<&'static str, Query> {
    match &*REGISTRY {
        Ok(registry) => registry,
        Err(errors) => {
            panic!("queries do not load:\n{}", errors.iter().map(|e| format!("  {e}\n")).collect::<String>())
        }
    }
}

/// One statement with its claim.
pub struct Query {
    pub name: String,
    pub caller: String,
    pub touches: Vec<Touch>,
    pub routes: Vec<Route>,
    /// None for a query that touches no partitioned table.
    pub sample: Option<String>,
    /// What the proof does before the sample, in the transaction that it rolls back: makes a row of a kind that a
    /// database may not have.
    pub given: Option<String>,
    parts: Vec<Part>,
    parent: &'static str,
    on_leaves: RwLock<Texts>,
    /// The same for one row.
    one_on_leaves: RwLock<Texts>,
}

type Texts = HashMap<Box<[Leaf]>, &'static str>;

/// How many leaves of a table a query may execute.
#[derive(Debug, Clone)]
pub struct Touch {
    pub plan: &'static Plan,
    pub claim: Claim,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    Leaves(u32),
    All { why: String },
}

/// The parameter (from 1) that is the partition key of a table.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    pub plan: &'static Plan,
    pub parameter: usize,
}

/// A query file that does not load.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sql/queries/{file}.sql: {problem}")]
pub struct QueryError {
    pub file: String,
    pub problem: String,
}

#[derive(Debug)]
enum Part {
    Text(String),
    Table(&'static Plan),
}

impl Query {
    /// Reads one query file.
    ///
    /// # Errors
    /// The first rule of this module's head that it breaks.
    pub fn parse(name: &str, text: &str) -> Result<Self, QueryError> {
        parse(name, text).map_err(|problem| QueryError { file: name.to_owned(), problem })
    }

    /// The text on the parents.
    pub fn parent(&self) -> &'static str {
        self.parent
    }

    /// The text on these leaves; tables of which none is given stay parents. Of two leaves of one table the last counts.
    /// Give leaves of a query in one order everywhere, since each order is a text of its own.
    pub fn on(&self, leaves: &[Leaf]) -> &'static str {
        debug_assert!(
            leaves.iter().all(|leaf| self.touches.iter().any(|touch| touch.plan.table == leaf.plan.table)),
            "{} names no table of one of {leaves:?}",
            self.name
        );
        if leaves.is_empty() {
            return self.parent;
        }
        text_of(&self.on_leaves, leaves, || render(&self.parts, leaves))
    }

    /// The text on these leaves for parameters of one element each, which stay arrays. No leaves: on the parents.
    pub fn for_one(&self, leaves: &[Leaf]) -> &'static str {
        text_of(&self.one_on_leaves, leaves, || narrow(&render(&self.parts, leaves)))
    }

    /// The parameter that is the partition key of this table.
    pub fn route(&self, table: &str) -> Option<usize> {
        self.routes.iter().find(|route| route.plan.table == table).map(|route| route.parameter)
    }
}

impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Query").field("name", &self.name).field("touches", &self.touches).finish_non_exhaustive()
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaves(leaves) => write!(f, "{leaves}"),
            Self::All { .. } => f.write_str("all"),
        }
    }
}

fn render(parts: &[Part], leaves: &[Leaf]) -> String {
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Text(part) => text.push_str(part),
            Part::Table(plan) => match leaves.iter().rev().find(|leaf| leaf.plan.table == plan.table) {
                Some(leaf) => text.push_str(&leaf.to_string()),
                None => text.push_str(&plan.table),
            },
        }
    }
    text
}

fn text_of(texts: &RwLock<Texts>, leaves: &[Leaf], make: impl FnOnce() -> String) -> &'static str {
    let poisoned = "no code panics while it holds this lock";
    if let Some(text) = texts.read().expect(poisoned).get(leaves) {
        return text;
    }
    let mut texts = texts.write().expect(poisoned);
    // Asked again under the lock: a text that two tasks make at once would be leaked twice.
    texts.entry(leaves.into()).or_insert_with(|| leak(make()))
}

/// A statement over arrays as one over their first elements, where all of them are written
/// `unnest($1::type[]) as name`; any other stays as it is.
fn narrow(text: &str) -> String {
    let mut lines = Vec::new();
    for line in text.lines() {
        let (indent, code) = line.split_at(line.len() - line.trim_start().len());
        // The order of one row.
        if ["order by position", "order by t.position"].contains(&code) {
            continue;
        }
        let first = |call: &str| {
            let (array, name) = code.strip_prefix(call)?.split_once(')')?;
            Some((array, name)).filter(|(array, name)| array.starts_with('$') && name.starts_with(" as "))
        };
        lines.push(match (first("unnest("), first("generate_subscripts(")) {
            (Some((array, name)), _) => format!("{indent}({array})[1]{name}"),
            (_, Some((_, name))) => format!("{indent}1{name}"),
            _ => line.to_owned(),
        });
    }
    let narrowed = lines.join("\n");
    if narrowed.contains("unnest(") { text.to_owned() } else { narrowed }
}

fn leak(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

fn parse(name: &str, text: &str) -> Result<Query, String> {
    let header = Header::read(text)?;
    let body = header.body.trim().trim_end_matches(';').trim_end();
    let tokens = sql::tokens(body).map_err(str::to_owned)?;
    check_words(&tokens)?;
    let parts = split(body, &tokens)?;
    let used: Vec<_> =
        parts.iter().filter_map(|part| if let Part::Table(plan) = part { Some(*plan) } else { None }).collect();

    let touches = touches(header.fields.get("touches").ok_or("the header `-- touches:` is missing")?)?;
    for (at, touch) in touches.iter().enumerate() {
        let table = &touch.plan.table;
        if !used.iter().any(|plan| plan.table == *table) {
            return Err(format!("touches names {table}, but the statement does not name {{{table}}}"));
        }
        if touches[..at].iter().any(|other| other.plan.table == *table) {
            return Err(format!("touches names {table} twice"));
        }
    }
    if let Some(plan) = used.iter().find(|plan| !touches.iter().any(|touch| touch.plan.table == plan.table)) {
        return Err(format!("the statement names {{{0}}}, but touches does not name {0}", plan.table));
    }
    let routes = header.fields.get("route").map_or(Ok(Vec::new()), |route| routes(route))?;
    if let Some(route) = routes.iter().find(|route| !touches.iter().any(|touch| touch.plan.table == route.plan.table)) {
        return Err(format!("route names {}, but touches does not", route.plan.table));
    }
    let sample = header.fields.get("sample").cloned();
    let given = header.fields.get("given").cloned();
    if sample.is_none() && !touches.is_empty() {
        return Err("the header `-- sample:` is missing".to_owned());
    }
    let parent = leak(render(&parts, &[]));
    let caller = header.caller;
    Ok(Query {
        name: name.to_owned(),
        caller,
        touches,
        routes,
        sample,
        given,
        parts,
        parent,
        on_leaves: RwLock::default(),
        one_on_leaves: RwLock::default(),
    })
}

/// The comment lines at the top of a file.
struct Header<'a> {
    caller: String,
    fields: BTreeMap<&'static str, String>,
    body: &'a str,
}

impl<'a> Header<'a> {
    fn read(text: &'a str) -> Result<Self, String> {
        let mut caller = None;
        let mut fields: BTreeMap<&'static str, String> = BTreeMap::new();
        let mut open = None;
        let mut body = text;
        while let Some(after) = body.trim_start().strip_prefix("--") {
            let (line, rest) = after.split_once('\n').unwrap_or((after, ""));
            body = rest;
            let named = ["touches", "route", "given", "sample"]
                .into_iter()
                .find_map(|field| Some((field, line.trim().strip_prefix(field)?.strip_prefix(':')?)));
            if let Some((field, value)) = named {
                if fields.insert(field, value.trim().to_owned()).is_some() {
                    return Err(format!("the header `-- {field}:` stands twice"));
                }
                open = Some(field);
            } else if let Some(field) = open.filter(|_| line.starts_with("  ")) {
                let value = fields.entry(field).or_default();
                value.push(' ');
                value.push_str(line.trim());
            } else {
                open = None;
                caller.get_or_insert_with(|| line.trim().to_owned());
            }
        }
        let caller = caller.filter(|caller| !caller.is_empty()).ok_or("the first line does not name the caller")?;
        Ok(Self { caller, fields, body })
    }
}

fn touches(text: &str) -> Result<Vec<Touch>, String> {
    if text == "none" {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (table, after) =
            rest.split_once('=').ok_or_else(|| format!("touches is no list of table=leaves: {rest}"))?;
        let plan = known(table.trim())?;
        let end = after.find([',', '(']).unwrap_or(after.len());
        let (count, mut after) = (after[..end].trim(), &after[end..]);
        let mut why = String::new();
        if let Some(open) = after.strip_prefix('(') {
            let close = open.find(')').ok_or("touches has a parenthesis that is not closed")?;
            why = open[..close].trim().to_owned();
            after = open[close + 1..].trim_start();
        }
        let claim = match (count, count.parse::<u32>()) {
            ("all", _) if why.is_empty() => return Err(format!("touches says {table}=all without a reason (…)")),
            ("all", _) => Claim::All { why },
            (_, Ok(leaves)) if leaves > 0 => Claim::Leaves(leaves),
            _ => return Err(format!("touches claims {table}={count}, which is neither a number of leaves nor `all`")),
        };
        found.push(Touch { plan, claim });
        rest = match after.strip_prefix(',') {
            Some(rest) => rest.trim_start(),
            None if after.trim().is_empty() => "",
            None => return Err(format!("touches goes on with {after} where a comma is expected")),
        };
    }
    if found.is_empty() { Err("touches is empty".to_owned()) } else { Ok(found) }
}

fn routes(text: &str) -> Result<Vec<Route>, String> {
    text.split(',')
        .map(|route| {
            let parsed = route.split_once("=$").and_then(|(table, number)| {
                Some((table.trim(), number.trim().parse::<usize>().ok().filter(|number| *number > 0)?))
            });
            let (table, parameter) = parsed.ok_or_else(|| format!("route is no list of table=$n: {route}"))?;
            Ok(Route { plan: known(table)?, parameter })
        })
        .collect()
}

fn known(table: &str) -> Result<&'static Plan, String> {
    plans().get(table).ok_or_else(|| format!("there is no partitions/{table}.toml"))
}

/// Refuses wildcards and partitioned tables that are not in braces.
fn check_words(tokens: &[Token<'_>]) -> Result<(), String> {
    for (at, token) in tokens.iter().enumerate() {
        if sql::is_wildcard(tokens, at) {
            return Err("the statement has a `*` for columns; name them".to_owned());
        }
        let Kind::Word(word) = token.kind else { continue };
        let qualified = at > 0 && tokens[at - 1].kind == Kind::Symbol('.');
        let word = word.to_ascii_lowercase();
        if !qualified && (plans().get(&word).is_some() || plans().leaf_named(&word).is_some()) {
            return Err(format!("the statement names {word} without braces; give {{table}} an alias for its columns"));
        }
    }
    if tokens.is_empty() {
        return Err("there is no statement".to_owned());
    }
    if tokens.iter().any(|token| token.kind == Kind::Symbol(';')) {
        return Err("the file holds more than one statement".to_owned());
    }
    Ok(())
}

fn split(body: &str, tokens: &[Token<'_>]) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut from = 0;
    for token in tokens {
        if let Kind::Placeholder(table) = token.kind {
            parts.push(Part::Text(body[from..token.start].to_owned()));
            parts.push(Part::Table(known(table)?));
            from = token.end;
        }
    }
    parts.push(Part::Text(body[from..].to_owned()));
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::super::plan::plan;
    use super::*;

    const FIND: &str = "-- coupon::store::find\n-- touches: coupon=1\n-- route: coupon=$1\n\
                        -- sample: select array[code_id]\n--   from coupon limit 1\n\
                        select c.code_id from {coupon} c where c.code_id = any($1);\n";

    #[test]
    fn the_embedded_queries_load() {
        assert_eq!(load(), Ok(()));
    }

    #[test]
    fn a_query_is_read_with_its_claim() {
        let query = Query::parse("coupon/find", FIND).unwrap();
        assert_eq!(query.caller, "coupon::store::find");
        assert_eq!(query.sample.as_deref(), Some("select array[code_id] from coupon limit 1"));
        assert_eq!(query.route("coupon"), Some(1));
        assert_eq!(query.touches[0].claim, Claim::Leaves(1));
        assert_eq!(query.parent(), "select c.code_id from coupon c where c.code_id = any($1)");
    }

    #[test]
    fn leaves_take_the_place_of_their_own_table_only() {
        let text = "-- a\n-- touches: coupon=1, redemption=all (every use, for the till's end of day)\n-- sample: select 1\n\
                    select '{coupon}', c.code_id from {coupon} c join {redemption} r on r.code_id = c.code_id";
        let query = Query::parse("a", text).unwrap();
        let leaf = plan("coupon").leaf_i64(0);
        let on = query.on(&[leaf]);
        assert_eq!(
            on,
            "select '{coupon}', c.code_id from coupon_m2000_01 c join redemption r on r.code_id = c.code_id"
        );
        assert!(std::ptr::eq(on, query.on(&[leaf])), "a text is made once");
        assert!(std::ptr::eq(query.on(&[]), query.parent()));
        assert_eq!(query.touches[1].claim, Claim::All { why: "every use, for the till's end of day".to_owned() });
    }

    #[test]
    fn a_statement_over_arrays_is_narrowed_to_their_first_elements() {
        let read = |text: &str| {
            let head = "-- a\n-- touches: coupon=1\n-- sample: select 1\n";
            Query::parse("a", &format!("{head}{text}")).unwrap()
        };
        let update = "update {coupon} c\nset state = t.state\nfrom (\n    select\n        unnest($1::bigint[]) as id,\n\
                      \x20       unnest($2::smallint[]) as state\n) as t\n\
                      where c.code_id = t.id";
        assert_eq!(
            read(update).for_one(&[plan("coupon").leaf_i64(0)]),
            "update coupon_m2000_01 c\nset state = t.state\nfrom (\n    select\n        ($1::bigint[])[1] as id,\n\
             \x20       ($2::smallint[])[1] as state\n) as t\nwhere c.code_id = t.id"
        );
        let insert = "insert into {coupon} (code_id)\nselect t.id\nfrom (\n    select\n        \
                      unnest($1::bigint[]) as id,\n        generate_subscripts($1::bigint[], 1) as position\n) as t\n\
                      order by t.position\non conflict do nothing";
        assert_eq!(
            read(insert).for_one(&[]),
            "insert into coupon (code_id)\nselect t.id\nfrom (\n    select\n        ($1::bigint[])[1] as id,\n\
             \x20       1 as position\n) as t\non conflict do nothing"
        );
        let other = read("select c.code_id from unnest($1::bigint[]) as t (id) join {coupon} c on c.code_id = t.id");
        assert_eq!(other.for_one(&[]), other.parent());
    }

    #[test]
    fn a_query_on_unpartitioned_tables_needs_no_sample() {
        let query = Query::parse("a", "-- a\n-- touches: none\nselect name from setting").unwrap();
        assert!(query.touches.is_empty() && query.sample.is_none());
    }

    #[test]
    fn a_file_that_breaks_a_rule_does_not_load() {
        let cases = [
            (FIND.replace("-- touches: coupon=1\n", ""), "touches:` is missing"),
            (FIND.replace("-- sample: select array[code_id]\n--   from coupon limit 1\n", ""), "sample:` is missing"),
            (FIND.replace("c.code_id from", "* from"), "`*`"),
            (FIND.replace("c.code_id from", "c.* from"), "`*`"),
            (FIND.replace("{coupon}", "{voucher}"), "partitions/voucher.toml"),
            (FIND.replace("{coupon}", "coupon"), "without braces"),
            (FIND.replace("{coupon}", "\"coupon\""), "without braces"),
            (FIND.replace("{coupon}", "Coupon_m2026_11"), "without braces"),
            (FIND.replace("{coupon} c", "{coupon}").replace("c.code_id", "coupon.code_id"), "without braces"),
            (FIND.replace("coupon=1", "coupon=1, member=1"), "does not name {member}"),
            (FIND.replace("coupon=1", "coupon=1, coupon=2"), "twice"),
            (FIND.replace("coupon=1", "none"), "touches does not name coupon"),
            (FIND.replace("coupon=1", "coupon=all"), "without a reason"),
            (FIND.replace("coupon=1", "coupon=all ()"), "without a reason"),
            (FIND.replace("coupon=1", "coupon=0"), "neither"),
            (FIND.replace("coupon=1", "coupon=some"), "neither"),
            (FIND.replace("coupon=1", "coupon=1 (a) member=1"), "comma"),
            (FIND.replace("coupon=1", ""), "empty"),
            (FIND.replace("coupon=$1", "coupon=1"), "route is no list"),
            (FIND.replace("coupon=$1", "coupon=$0"), "route is no list"),
            (FIND.replace("coupon=$1", "member=$1"), "route names member"),
            (FIND.replace("any($1)", "any($1); select 1"), "more than one"),
            (FIND.replace("any($1)", "'a"), "not closed"),
            ("-- a\n-- touches: none\n".to_owned(), "no statement"),
            ("select 1".to_owned(), "caller"),
        ];
        for (text, expected) in cases {
            let error = Query::parse("coupon/find", &text).expect_err(&text).to_string();
            assert!(error.contains(expected) && error.starts_with("sql/queries/coupon/find.sql"), "{error}\n{text}");
        }
    }
}
