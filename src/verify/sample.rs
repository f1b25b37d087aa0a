//! Which rows of a leaf are looked at: all of them along the key, or a share.
//!
//! A share is drawn by pages, as `tablesample system` does: each page of a leaf is in or out by a hash of seed, leaf and
//! page, so that the same seed looks at the same pages again, a larger share holds a smaller one, and what a run costs
//! goes with the share. Each leaf that has pages gives one at least. Rows of a page are compared as exactly as in a
//! whole run; neighbours on a page often came together, so a damage of some rows in one place is one chance, not many.
//!
//! A count can't be held against a part of what it counts. So where a rule is counted, rules are drawn, and each that is
//! drawn is counted whole; of the others nothing is said.

use std::{collections::HashSet, fmt, ops::Range, str::FromStr};

use sqlx::{FromRow, PgConnection, postgres::PgRow};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    pair::{Chunk, Direction, Pair},
    report::{Looked, Unit},
    row::Key,
};
use crate::partition::{Leaf, query};

/// Rows that a page is taken for when pages are put together to a chunk.
const ROWS_PER_PAGE: u32 = 64;
/// Coupons that one snapshot counts, unless a single rule has more.
pub(super) const COUNTED_ROWS_MAX: i64 = 200_000;

/// A part of the whole: above 0, at most 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share(f64);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a share like 1% or 0.01: above 0, at most 100% (1)")]
pub struct BadShare;

/// A share and the seed that it is drawn by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    pub share: Share,
    pub seed: u64,
}

/// What one chunk compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stretch {
    /// The next so many rows after a key.
    After(Option<Key>, i64),
    /// The rows of pages, each range in one statement.
    Pages(Vec<Range<u32>>),
    /// The counts of rules.
    Rules(Vec<i64>),
}

/// The way through one leaf.
pub(super) enum Course {
    Whole { after: Option<Key>, rows: i64, ended: bool },
    Drawn(std::vec::IntoIter<Stretch>),
}

impl FromStr for Share {
    type Err = BadShare;

    fn from_str(text: &str) -> Result<Self, BadShare> {
        let (number, of) = text.trim().strip_suffix('%').map_or((text.trim(), 1.0), |percent| (percent, 100.0));
        let share = number.trim().parse::<f64>().map_err(|_| BadShare)? / of;
        if share > 0.0 && share <= 1.0 { Ok(Self(share)) } else { Err(BadShare) }
    }
}

impl Share {
    pub fn get(self) -> f64 {
        self.0
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = format!("{:.6}", self.0 * 100.0);
        write!(f, "{}%", percent.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl Sample {
    /// Those of a leaf's numbers that are in the sample; the one that comes first by lot if none is.
    pub fn draw(&self, leaf: Leaf, numbers: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let of_leaf = xxh3_64_with_seed(leaf.to_string().as_bytes(), self.seed);
        let lot = |number: &u64| xxh3_64_with_seed(&number.to_le_bytes(), of_leaf);
        let is_in = |lot: u64| self.share.0 >= 1.0 || (lot as f64) < self.share.0 * 2_f64.powi(64);
        let (mut drawn, mut first) = (Vec::new(), None::<(u64, u64)>);
        for number in numbers {
            let lot = lot(&number);
            if is_in(lot) {
                drawn.push(number);
            } else if first.is_none_or(|(least, _)| lot < least) {
                first = Some((lot, number));
            }
        }
        if drawn.is_empty() {
            drawn.extend(first.map(|(_, number)| number));
        }
        drawn
    }
}

impl Stretch {
    /// The chunk of so many rows, of which a walk goes on after the last.
    pub fn chunk(&self, rows: usize, last: Option<Key>) -> Chunk {
        match self {
            Self::After(_, limit) => Chunk::ending(rows, *limit, last),
            Self::Pages(_) | Self::Rules(_) => Chunk { rows: rows as u64, ..Chunk::default() },
        }
    }

    /// What it adds to what was looked at of a table.
    pub fn looked(&self, table: &'static str) -> Option<Looked> {
        let (unit, looked) = match self {
            Self::After(..) => return None,
            Self::Pages(pages) => (Unit::Pages, pages.iter().map(|range| u64::from(range.end - range.start)).sum()),
            Self::Rules(rules) => (Unit::Rules, rules.len() as u64),
        };
        Some(Looked { table, unit, looked, of: 0 })
    }
}

impl Course {
    pub fn whole(chunk_rows: u32) -> Self {
        Self::Whole { after: None, rows: chunk_rows.into(), ended: false }
    }

    /// Draws a leaf's part of a sample, and says how much the leaf has in all.
    pub async fn drawn(
        conn: &mut PgConnection,
        sample: Sample,
        pair: Pair,
        direction: Direction,
        leaf: Leaf,
        chunk_rows: u32,
    ) -> Result<(Self, Looked), sqlx::Error> {
        let table = pair.walked(direction);
        if let Some(statement) = pair.rules(direction) {
            let rules = rules_of(conn, leaf, statement).await?;
            let drawn = sample.draw(leaf, rules.iter().map(|(rule, _)| *rule as u64));
            let looked = Looked { table, unit: Unit::Rules, looked: 0, of: rules.len() as u64 };
            let drawn: HashSet<u64> = drawn.into_iter().collect();
            let drawn = rules.into_iter().filter(|(rule, _)| drawn.contains(&(*rule as u64))).collect();
            return Ok((Self::Drawn(shared_out(drawn).into_iter()), looked));
        }
        let pages = pages_of(conn, leaf).await?;
        let drawn = sample.draw(leaf, 0..pages);
        let looked = Looked { table, unit: Unit::Pages, looked: 0, of: pages };
        let per_chunk = (chunk_rows / ROWS_PER_PAGE).max(1) as usize;
        let stretches: Vec<_> = drawn.chunks(per_chunk).map(|pages| Stretch::Pages(ranges(pages))).collect();
        Ok((Self::Drawn(stretches.into_iter()), looked))
    }

    pub fn next(&mut self) -> Option<Stretch> {
        match self {
            Self::Whole { ended: true, .. } => None,
            Self::Whole { after, rows, .. } => Some(Stretch::After(after.take(), *rows)),
            Self::Drawn(stretches) => stretches.next(),
        }
    }

    /// Goes on after the last key that was looked at; None is the end of the leaf.
    pub fn reached(&mut self, last: Option<Key>) {
        if let Self::Whole { after, ended, .. } = self {
            *ended = last.is_none();
            *after = last;
        }
    }
}

/// The rows of pages; the statement takes the first place and the one after the last.
pub(super) async fn page_rows(
    conn: &mut PgConnection,
    sql: &'static str,
    pages: &[Range<u32>],
) -> Result<Vec<PgRow>, sqlx::Error> {
    let mut rows = Vec::new();
    for range in pages {
        let place = |page: u32| format!("({page},0)");
        rows.extend(sqlx::query(sql).bind(place(range.start)).bind(place(range.end)).fetch_all(&mut *conn).await?);
    }
    Ok(rows)
}

/// The same, as what they stand for.
pub(super) async fn typed_page_rows<T: for<'r> FromRow<'r, PgRow>>(
    conn: &mut PgConnection,
    sql: &'static str,
    pages: &[Range<u32>],
) -> Result<Vec<T>, sqlx::Error> {
    page_rows(conn, sql, pages).await?.iter().map(T::from_row).collect()
}

/// How many pages a leaf has; one that is gone has none.
async fn pages_of(conn: &mut PgConnection, leaf: Leaf) -> Result<u64, sqlx::Error> {
    let pages: Option<i64> =
        sqlx::query_scalar("select pg_relation_size(to_regclass($1)) / current_setting('block_size')::bigint")
            .bind(leaf.to_string())
            .fetch_one(conn)
            .await?;
    Ok(pages.and_then(|pages| pages.try_into().ok()).unwrap_or(0))
}

/// All rules of a leaf with the coupons that they are said to have, 16 bytes each.
async fn rules_of(conn: &mut PgConnection, leaf: Leaf, statement: &str) -> Result<Vec<(i64, i64)>, sqlx::Error> {
    const ROWS: i64 = 10_000;
    let mut rules: Vec<(i64, i64)> = Vec::new();
    loop {
        let after = rules.last().map_or(i64::MIN, |(rule, _)| *rule);
        let sql = query(statement).on(&[leaf]);
        let more: Vec<(i64, i64)> = sqlx::query_as(sql).bind(after).bind(ROWS).fetch_all(&mut *conn).await?;
        let end = (more.len() as i64) < ROWS;
        rules.extend(more);
        if end {
            return Ok(rules);
        }
    }
}

/// Rules by stretches that count no more coupons than a snapshot should, unless one alone has more.
fn shared_out(rules: Vec<(i64, i64)>) -> Vec<Stretch> {
    let (mut stretches, mut open, mut counted) = (Vec::new(), Vec::new(), 0);
    for (rule, coupons) in rules {
        if counted + coupons > COUNTED_ROWS_MAX && !open.is_empty() {
            stretches.push(Stretch::Rules(std::mem::take(&mut open)));
            counted = 0;
        }
        counted += coupons;
        open.push(rule);
    }
    if !open.is_empty() {
        stretches.push(Stretch::Rules(open));
    }
    stretches
}

/// Neighbours are read together.
fn ranges(pages: &[u64]) -> Vec<Range<u32>> {
    let mut ranges: Vec<Range<u32>> = Vec::new();
    // PostgreSQL counts the pages of a table in 32 bits.
    for page in pages.iter().filter_map(|page| u32::try_from(*page).ok()) {
        match ranges.last_mut() {
            Some(range) if range.end == page => range.end += 1,
            _ => ranges.push(page..page + 1),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::plan;

    fn sample(share: &str, seed: u64) -> Sample {
        Sample { share: share.parse().unwrap(), seed }
    }

    #[test]
    fn a_share_is_a_percentage_or_a_fraction_and_nothing_else() {
        for (text, shown) in [("1%", "1%"), ("0.01", "1%"), (" 0.5 % ", "0.5%"), ("1", "100%"), ("100%", "100%")] {
            assert_eq!(text.parse::<Share>().unwrap().to_string(), shown, "{text}");
        }
        assert_eq!("7%".parse::<Share>().unwrap().to_string(), "7%");
        for text in ["0", "0%", "-1%", "101%", "1.5", "2", "NaN", "inf", "", "%", "many"] {
            assert_eq!(text.parse::<Share>(), Err(BadShare), "{text}");
        }
    }

    #[test]
    fn the_same_seed_draws_the_same_and_a_larger_share_holds_a_smaller() {
        let leaf = plan("coupon_index").hash_leaves().next().unwrap();
        let other = plan("coupon_index").hash_leaves().nth(1).unwrap();
        let few = sample("1%", 7).draw(leaf, 0..100_000);
        assert_eq!(few, sample("1%", 7).draw(leaf, 0..100_000));
        assert!((800..1_200).contains(&few.len()), "{}", few.len());
        let more = sample("10%", 7).draw(leaf, 0..100_000);
        assert!(few.iter().all(|page| more.contains(page)));
        assert_ne!(few, sample("1%", 8).draw(leaf, 0..100_000));
        assert_ne!(few, sample("1%", 7).draw(other, 0..100_000));
        assert_eq!(sample("100%", 7).draw(leaf, 0..1_000), (0..1_000).collect::<Vec<_>>());
    }

    #[test]
    fn each_leaf_gives_one_page_at_least() {
        for leaf in plan("coupon_index").hash_leaves() {
            assert_eq!(sample("0.0001%", 1).draw(leaf, 0..5).len(), 1);
            assert_eq!(sample("0.0001%", 1).draw(leaf, 0..0).len(), 0);
        }
    }

    #[test]
    fn neighbours_are_read_together_and_rules_counted_apart() {
        assert_eq!(ranges(&[0, 1, 2, 7, 9, 10]), [0..3, 7..8, 9..11]);
        let rules = vec![(1, 10), (2, COUNTED_ROWS_MAX), (3, 5), (4, 5)];
        let stretches = [vec![1], vec![2], vec![3, 4]].map(Stretch::Rules);
        assert_eq!(shared_out(rules), stretches);
    }
}
