//! What a run found, for people and for tests. Names tables, keys and columns, never what stands in them.

use std::{fmt, fmt::Write as _, time::Duration};

use serde_json::{Value as Json, json};

use super::{
    row::{Key, key_text},
    sample::Sample,
};

/// The outcome of a run.
#[derive(Debug, Default)]
pub struct Report {
    pub pairs: Vec<PairReport>,
    /// Leaves that were not compared, since they are being retired.
    pub skipped: Vec<String>,
    /// What was looked at of each leaf; None is everything.
    pub sample: Option<Sample>,
}

/// The outcome of one pair of tables, both ways.
#[derive(Debug, Default)]
pub struct PairReport {
    pub name: &'static str,
    /// Rows read on the side that was walked, both ways together.
    pub rows: u64,
    pub chunks: u64,
    /// Chunks whose folded digests differed.
    pub chunks_differed: u64,
    /// Rows that had to be looked at again.
    pub looked_again: u64,
    /// Rows passed over since their month is being retired.
    pub rows_skipped: u64,
    pub took: Duration,
    pub differences: Vec<Difference>,
    /// More differences were found than are held; the pair was left there and not repaired.
    pub cut_short: bool,
    /// Of a sample: how much was looked at, by table.
    pub looked: Vec<Looked>,
    /// Of a sample: what it leaves open also of that.
    pub open: Option<&'static str>,
}

/// How much of a table a sample looked at, to compare it with the other side of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    pub table: &'static str,
    pub unit: Unit,
    pub looked: u64,
    pub of: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Pages,
    /// Rules whose coupons or uses are counted.
    Rules,
}

/// One row that is not as the other table says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub kind: Kind,
    pub table: &'static str,
    pub key: Key,
    /// Names only.
    pub columns: Vec<&'static str>,
    pub repair: Repair,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Missing,
    Extra,
    Altered,
    /// A personal value of the base row does not decrypt or has no normal form, so its index rows can't be told.
    Unreadable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// The run was not asked to.
    NotAsked,
    Mended,
    /// What decides is not in the tables; the reason.
    Left(&'static str),
}

impl Difference {
    pub(super) fn new(kind: Kind, table: &'static str, key: Key, columns: Vec<&'static str>) -> Self {
        Self { kind, table, key, columns, repair: Repair::NotAsked }
    }

    fn json(&self) -> Json {
        let (repair, why) = match self.repair {
            Repair::NotAsked => ("not_asked", None),
            Repair::Mended => ("mended", None),
            Repair::Left(why) => ("left", Some(why)),
        };
        json!({
            "kind": self.kind.to_string(),
            "table": self.table,
            "key": key_text(&self.key),
            "columns": self.columns,
            "repair": repair,
            "why": why,
        })
    }

    pub(super) fn same_row(&self, other: &Self) -> bool {
        (self.kind, self.table, &self.key) == (other.kind, other.table, &other.key)
    }
}

impl Report {
    /// Whether every pair was compared to its end and nothing differs any more.
    pub fn is_clean(&self) -> bool {
        self.pairs.iter().all(|pair| !pair.cut_short && pair.left() == 0)
    }

    /// All differences, repaired or not.
    pub fn differences(&self) -> impl Iterator<Item = &Difference> {
        self.pairs.iter().flat_map(|pair| &pair.differences)
    }

    /// A table for people, the differences below it.
    pub fn render(&self) -> String {
        let width = self.pairs.iter().map(|pair| pair.name.len()).max().unwrap_or(4);
        let mut text = format!(
            "{:width$}  {:>12}  {:>8}  {:>9}  {:>8}  {:>8}\n",
            "pair", "rows", "chunks", "seconds", "differ", "mended"
        );
        for pair in &self.pairs {
            let mended = pair.differences.len() - pair.left();
            let more = if pair.cut_short { "+" } else { "" };
            let differ = format!("{}{more}", pair.differences.len());
            let seconds = pair.took.as_secs_f64();
            line(
                &mut text,
                format_args!(
                    "{:width$}  {:>12}  {:>8}  {seconds:>9.2}  {differ:>8}  {mended:>8}",
                    pair.name, pair.rows, pair.chunks
                ),
            );
        }
        for difference in self.differences() {
            line(&mut text, format_args!("{difference}"));
        }
        for pair in self.pairs.iter().filter(|pair| pair.cut_short) {
            line(&mut text, format_args!("{}: left after too many differences; nothing of it was repaired", pair.name));
        }
        self.render_not_checked(&mut text);
        if !self.skipped.is_empty() {
            line(&mut text, format_args!("not compared, being retired: {}", self.skipped.join(", ")));
        }
        let left: usize = self.pairs.iter().map(PairReport::left).sum();
        match (self.is_clean(), left) {
            (true, _) if self.sample.is_some() => line(&mut text, format_args!("clean as far as looked at")),
            (true, _) => line(&mut text, format_args!("clean")),
            (false, left) => line(&mut text, format_args!("{left} differences left")),
        }
        text
    }

    fn render_not_checked(&self, text: &mut String) {
        let Some(Sample { share, seed }) = self.sample else { return };
        line(text, format_args!("looked at {share} of each leaf, drawn by --seed {seed}"));
        for pair in &self.pairs {
            let open = pair.not_checked();
            if !open.is_empty() {
                line(text, format_args!("not checked: {}: {}", pair.name, open.join("; ")));
            }
        }
    }

    /// The same for programs.
    pub fn json(&self) -> Json {
        json!({
            "clean": self.is_clean(),
            "sample": self.sample.map(|sample| json!({"share": sample.share.get(), "seed": sample.seed})),
            "pairs": self.pairs.iter().map(PairReport::json).collect::<Vec<_>>(),
            "being_retired": self.skipped,
        })
    }
}

fn line(text: &mut String, arguments: fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("writing to a String does not fail");
}

impl PairReport {
    fn json(&self) -> Json {
        json!({
            "pair": self.name,
            "rows": self.rows,
            "rows_skipped": self.rows_skipped,
            "chunks": self.chunks,
            "seconds": self.took.as_secs_f64(),
            "left": self.left(),
            "cut_short": self.cut_short,
            "differences": self.differences.iter().map(Difference::json).collect::<Vec<_>>(),
            "looked_at": self.looked.iter().map(Looked::json).collect::<Vec<_>>(),
            "not_checked": self.not_checked(),
        })
    }

    /// Adds the numbers of other leaves of the pair.
    pub(super) fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.chunks += other.chunks;
        self.chunks_differed += other.chunks_differed;
        self.looked_again += other.looked_again;
        self.rows_skipped += other.rows_skipped;
        self.cut_short |= other.cut_short;
        other.looked.into_iter().for_each(|looked| self.look(looked));
    }

    /// Adds what a leaf has, or what was looked at of it.
    pub(super) fn look(&mut self, leaf: Looked) {
        match self.looked.iter_mut().find(|one| (one.table, one.unit) == (leaf.table, leaf.unit)) {
            Some(one) => (one.looked, one.of) = (one.looked + leaf.looked, one.of + leaf.of),
            None => self.looked.push(leaf),
        }
    }

    /// What a sample has not looked at, and what it leaves open of the rest; nothing of a whole run.
    pub fn not_checked(&self) -> Vec<String> {
        let unseen = self.looked.iter().filter(|one| one.looked < one.of);
        let mut open: Vec<String> = unseen.map(Looked::unseen).collect();
        if !open.is_empty() {
            open.extend(self.open.map(str::to_owned));
        }
        if self.cut_short && !self.looked.is_empty() {
            open.push("the leaves after too many differences".to_owned());
        }
        open
    }

    /// Differences that are still there.
    pub fn left(&self) -> usize {
        self.differences.iter().filter(|difference| difference.repair != Repair::Mended).count()
    }
}

impl Looked {
    fn unseen(&self) -> String {
        let Self { table, unit, looked, of } = self;
        format!("{} of {of} {unit} of {table}", of - looked)
    }

    fn json(&self) -> Json {
        json!({"table": self.table, "unit": self.unit.to_string(), "looked_at": self.looked, "of": self.of})
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pages => "pages",
            Self::Rules => "rules",
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Altered => "altered",
            Self::Unreadable => "unreadable",
        })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.kind, self.table, key_text(&self.key))?;
        if !self.columns.is_empty() {
            write!(f, ": {}", self.columns.join(", "))?;
        }
        match self.repair {
            Repair::NotAsked => Ok(()),
            Repair::Mended => f.write_str(" - mended"),
            Repair::Left(why) => write!(f, " - left: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::row::Value;
    use super::*;

    #[test]
    fn a_report_is_clean_when_everything_was_compared_and_what_differed_is_mended() {
        let mut difference = Difference::new(Kind::Altered, "coupon_index", vec![Value::I64(7)], vec!["state"]);
        let report = |difference: &Difference, cut_short| Report {
            pairs: vec![PairReport {
                name: "a",
                differences: vec![difference.clone()],
                cut_short,
                ..PairReport::default()
            }],
            skipped: vec!["coupon_m2020_01".to_owned()],
            sample: None,
        };
        assert!(!report(&difference, false).is_clean());
        let text = report(&difference, false).render();
        assert!(text.contains("altered coupon_index (7): state\n") && text.ends_with("1 differences left\n"), "{text}");
        difference.repair = Repair::Mended;
        assert!(report(&difference, false).is_clean());
        assert!(!report(&difference, true).is_clean());
        let text = report(&difference, false).render();
        assert!(text.contains("being retired: coupon_m2020_01") && text.ends_with("clean\n"), "{text}");
    }

    #[test]
    fn a_sample_that_was_left_early_does_not_pass_for_checked() {
        let looked = Looked { table: "coupon", unit: Unit::Pages, looked: 5, of: 5 };
        let mut pair = PairReport { name: "a", looked: vec![looked], ..PairReport::default() };
        assert_eq!(pair.not_checked(), Vec::<String>::new());
        pair.cut_short = true;
        assert_eq!(pair.not_checked(), ["the leaves after too many differences"]);
    }

    #[test]
    fn a_sample_is_clean_as_far_as_it_looked_and_names_the_rest() {
        let sample = Sample { share: "1%".parse().unwrap(), seed: 42 };
        let mut pair = PairReport { name: "a", open: Some("the rest"), ..PairReport::default() };
        for (looked, of) in [(3, 100), (1, 50)] {
            pair.look(Looked { table: "coupon", unit: Unit::Pages, looked, of });
        }
        pair.look(Looked { table: "coupon_stock", unit: Unit::Rules, looked: 2, of: 2 });
        let report = Report { pairs: vec![pair], sample: Some(sample), ..Report::default() };
        assert_eq!(
            report.render().lines().skip(2).collect::<Vec<_>>(),
            [
                "looked at 1% of each leaf, drawn by --seed 42",
                "not checked: a: 146 of 150 pages of coupon; the rest",
                "clean as far as looked at",
            ]
        );
        let json = report.json();
        assert_eq!(json["sample"], json!({"share": 0.01, "seed": 42}));
        assert_eq!(json["pairs"][0]["not_checked"], json!(["146 of 150 pages of coupon", "the rest"]));
        assert_eq!(
            json["pairs"][0]["looked_at"],
            json!([
                {"table": "coupon", "unit": "pages", "looked_at": 4, "of": 150},
                {"table": "coupon_stock", "unit": "rules", "looked_at": 2, "of": 2}
            ])
        );
    }
}
