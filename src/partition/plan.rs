//! The plan files: the one place that says how a table is split.
//!
//! A plan is read strictly, since a mistyped field would silently change what upkeep and expiry do: unknown fields,
//! fields of the other strategy and values out of range are errors that name file and field. A plan says nothing about
//! columns or types; those stand in sql/migrations.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use chrono::{Days, Months, NaiveDate};
use serde::Deserialize;

/// The order in which a transaction locks tables. Leaves sort by it, so sorting the leaves of a batch gives the order
/// that keeps batches from deadlocking. Tables that are not named here come after it, by name.
const LOCK_ORDER: &[&str] = &[
    "request",
    "member_key",
    "coupon",
    "member",
    "coupon_receive",
    "coupon_index",
    "coupon_history_index",
    "member_rule",
    "coupon_stock",
    "redemption",
    "event",
];
/// PostgreSQL cuts names at 63 bytes; the longest suffix of ours is `_d2026_11_22_retired`.
const TABLE_NAME_BYTES_MAX: usize = 40;
const MODULUS_MAX: u32 = 1024;
const AHEAD_LEAVES_MAX: u32 = 400;

static EMBEDDED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/partitions.rs"));
static PLANS: LazyLock<Plans> = LazyLock::new(|| {
    let files: Vec<_> = EMBEDDED.iter().chain(added().flat_map(|added| added.plans)).copied().collect();
    match Plans::parse(&files) {
        Ok(plans) => plans,
        Err(error) => panic!("the plans in this binary do not load: {error}"),
    }
});

/// Plans and statements that a binary has besides those of this crate, as a business line in a crate of its own would:
/// `inventory::submit! { Added { … } }`, each file by its name and with its text.
pub struct Added {
    /// As of `partitions/<name>.toml`.
    pub plans: &'static [(&'static str, &'static str)],
    /// As of `sql/queries/<name>.sql`.
    pub queries: &'static [(&'static str, &'static str)],
}

inventory::collect!(Added);

pub(super) fn added() -> impl Iterator<Item = &'static Added> {
    inventory::iter::<Added>.into_iter()
}

/// The plans that this binary was built with.
///
/// # Panics
/// When an embedded plan file is wrong, which a test of this crate rules out.
pub fn plans() -> &'static Plans {
    &PLANS
}

/// The plan of a table that is known to have one.
///
/// # Panics
/// When there is none: the name stands in code, so this is a mistake of the programmer.
pub fn plan(table: &str) -> &'static Plan {
    match plans().get(table) {
        Some(plan) => plan,
        None => panic!("there is no partitions/{table}.toml"),
    }
}

/// A set of plans, by table.
#[derive(Debug)]
pub struct Plans {
    by_table: BTreeMap<&'static str, &'static Plan>,
}

/// How one table is split. Plans live as long as the process, so leaves can point at them.
#[derive(Debug)]
pub struct Plan {
    pub table: String,
    pub key: String,
    pub split: Split,
    /// Storage options of each leaf, in the order of their names; a parent takes none.
    pub storage: BTreeMap<String, String>,
    /// Whether the reports' role may read it.
    pub reports: bool,
    /// The table to whose leaf of the same number each leaf has a foreign key.
    pub beside: Option<String>,
    pub(super) rank: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Split {
    Hash { modulus: u32 },
    Range(Range),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    pub encoding: Encoding,
    pub step: Step,
    /// Leaves that must exist after today's.
    pub ahead: u32,
    /// Leaves that must exist before today's: late arrivals, and the day that another time zone is still in.
    pub behind: u32,
    /// None: for ever.
    pub retain: Option<Retain>,
    pub expire: Expire,
}

/// What a range key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// A bigint: days since 2000-01-01, shifted left by 41 bits, and a number below them.
    Day41,
    /// A date.
    Date,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    Day,
    Month,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expire {
    /// Keep the leaf as a table of its own, `<leaf>_retired`.
    Detach,
    Drop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retain {
    Days(u32),
    Months(u32),
}

/// How long the leaves of a table are kept here, in place of what its plan says: `coupon=none`, `redemption=60 months`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keep {
    plan: &'static str,
    retain: Option<Retain>,
}

/// A plan file that does not say what a plan may say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("partitions/{file}.toml: {field}: {problem}")]
pub struct PlanError {
    pub file: String,
    pub field: String,
    pub problem: String,
}

impl Plans {
    /// Reads plan files given as `(name without .toml, text)`. Plans are never freed.
    ///
    /// # Errors
    /// The first thing wrong in any of them.
    pub fn parse(files: &[(&str, &str)]) -> Result<Self, PlanError> {
        let mut plans = files.iter().map(|(file, text)| Plan::parse(file, text)).collect::<Result<Vec<_>, _>>()?;
        plans.sort_by_key(|plan| (lock_position(&plan.table), plan.table.clone()));
        for plan in plans.iter().filter(|plan| plan.beside.is_some()) {
            let same = |other: &Plan| other.modulus() == plan.modulus() && other.key == plan.key;
            let beside = plans.iter().find(|other| Some(&other.table) == plan.beside.as_ref());
            if !beside.is_some_and(same) {
                let problem = "must be a table with the same key and modulus".to_owned();
                return Err(PlanError { file: plan.table.clone(), field: "beside".to_owned(), problem });
            }
        }
        let mut by_table = BTreeMap::new();
        for (rank, mut plan) in plans.into_iter().enumerate() {
            plan.rank = u16::try_from(rank).expect("a folder holds fewer than 65,536 plan files");
            let plan: &'static Plan = Box::leak(Box::new(plan));
            by_table.insert(plan.table.as_str(), plan);
        }
        Ok(Self { by_table })
    }

    pub fn get(&self, table: &str) -> Option<&'static Plan> {
        self.by_table.get(table).copied()
    }

    /// The same plans, kept for other times. They are never freed, as all plans.
    pub fn keeping(&'static self, keeps: &[Keep]) -> &'static Self {
        if keeps.is_empty() {
            return self;
        }
        let kept = |plan: &'static Plan| -> &'static Plan {
            let Some(keep) = keeps.iter().rev().find(|keep| keep.plan == plan.table) else { return plan };
            let Some(range) = plan.range() else { return plan };
            let split = Split::Range(Range { retain: keep.retain, ..range.clone() });
            let (table, key, storage) = (plan.table.clone(), plan.key.clone(), plan.storage.clone());
            Box::leak(Box::new(Plan {
                table,
                key,
                split,
                storage,
                reports: plan.reports,
                rank: plan.rank,
                beside: plan.beside.clone(),
            }))
        };
        let by_table = self.by_table.iter().map(|(table, plan)| (*table, kept(plan))).collect();
        Box::leak(Box::new(Self { by_table }))
    }

    /// By name of the table.
    pub fn iter(&self) -> impl Iterator<Item = &'static Plan> + '_ {
        self.by_table.values().copied()
    }
}

impl Plan {
    /// Reads one plan file.
    ///
    /// # Errors
    /// The first field that is unknown, missing, out of range or of the other strategy.
    pub fn parse(file: &str, text: &str) -> Result<Self, PlanError> {
        let fail = |field: &str, problem: &str| {
            Err(PlanError { file: file.to_owned(), field: field.to_owned(), problem: problem.to_owned() })
        };
        let written: Written = match toml::from_str(text) {
            Ok(written) => written,
            Err(error) => {
                let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
                return fail(&format!("line {line}"), error.message());
            }
        };
        if written.table != file {
            return fail("table", "must be the name of the file");
        }
        if !is_identifier(&written.table) || written.table.len() > TABLE_NAME_BYTES_MAX {
            return fail("table", "must be lower-case letters, digits and underscores, 40 bytes at most");
        }
        if !is_identifier(&written.key) {
            return fail("key", "must be lower-case letters, digits and underscores");
        }
        let split = match written.strategy {
            Strategy::Hash => written.hash(),
            Strategy::Range => written.range(),
        };
        let (split, storage) = match (split, storage(&written.storage)) {
            (Ok(split), Ok(storage)) => (split, storage),
            (Err((field, problem)), _) => return fail(field, &problem),
            (_, Err((field, problem))) => return fail(&format!("storage.{field}"), &problem),
        };
        let Written { table, key, reports, beside, .. } = written;
        if beside.as_deref().is_some_and(|beside| beside == table || !is_identifier(beside)) {
            return fail("beside", "must be the name of another table");
        }
        Ok(Self { table, key, split, storage, reports, beside, rank: 0 })
    }

    pub fn range(&self) -> Option<&Range> {
        match &self.split {
            Split::Range(range) => Some(range),
            Split::Hash { .. } => None,
        }
    }

    pub fn modulus(&self) -> Option<u32> {
        match self.split {
            Split::Hash { modulus } => Some(modulus),
            Split::Range(_) => None,
        }
    }
}

impl FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (table, kept) = text.split_once('=').ok_or("must be like `coupon=none` or `coupon=60 months`")?;
        let plan = plans().get(table.trim()).ok_or_else(|| format!("there is no table {table}"))?;
        let range = plan.range().ok_or_else(|| format!("{table} is split by hash: its leaves are kept for ever"))?;
        let retain = retain(kept.trim()).map_err(|(_, problem)| problem)?;
        range.check_kept(retain)?;
        Ok(Self { plan: &plan.table, retain })
    }
}

impl Range {
    /// # Errors
    /// Leaves that upkeep makes must not be old enough for expiry.
    fn check_kept(&self, retain: Option<Retain>) -> Result<(), String> {
        let kept_days = match retain {
            None => u32::MAX,
            Some(Retain::Days(days)) => days,
            Some(Retain::Months(months)) => months * 28,
        };
        let step_days = if self.step == Step::Day { 1 } else { 31 };
        if kept_days < self.behind.saturating_mul(step_days) {
            return Err("is shorter than `behind`: upkeep would make what expiry takes".to_owned());
        }
        Ok(())
    }
}

impl Retain {
    /// The first day that is kept. A leaf may go when it ends on or before this day.
    pub fn cutoff(self, today: NaiveDate) -> NaiveDate {
        match self {
            Self::Days(days) => today.checked_sub_days(Days::new(days.into())),
            Self::Months(months) => today.checked_sub_months(Months::new(months)),
        }
        .unwrap_or(NaiveDate::MIN)
    }
}

impl fmt::Display for Retain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Days(days) => write!(f, "{days} days"),
            Self::Months(months) => write!(f, "{months} months"),
        }
    }
}

/// A plan file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    table: String,
    strategy: Strategy,
    key: String,
    modulus: Option<u32>,
    beside: Option<String>,
    encoding: Option<Encoding>,
    step: Option<Step>,
    ahead: Option<u32>,
    behind: Option<u32>,
    retain: Option<String>,
    expire: Option<Expire>,
    #[serde(default = "readable")]
    reports: bool,
    #[serde(default)]
    storage: toml::Table,
}

fn readable() -> bool {
    true
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Strategy {
    Hash,
    Range,
}

type Wrong<'a> = (&'a str, String);

impl Written {
    fn hash(&self) -> Result<Split, Wrong<'static>> {
        let foreign = [
            ("encoding", self.encoding.is_some()),
            ("step", self.step.is_some()),
            ("ahead", self.ahead.is_some()),
            ("behind", self.behind.is_some()),
            ("retain", self.retain.is_some()),
            ("expire", self.expire.is_some()),
        ];
        if let Some((field, _)) = foreign.iter().find(|(_, given)| *given) {
            return Err((field, "belongs to strategy = \"range\"".to_owned()));
        }
        match self.modulus {
            None => Err(("modulus", "is missing".to_owned())),
            Some(modulus) if (1..=MODULUS_MAX).contains(&modulus) => Ok(Split::Hash { modulus }),
            Some(_) => Err(("modulus", format!("must be between 1 and {MODULUS_MAX}"))),
        }
    }

    fn range(&self) -> Result<Split, Wrong<'static>> {
        let missing = |field| (field, "is missing".to_owned());
        for (field, given) in [("modulus", self.modulus.is_some()), ("beside", self.beside.is_some())] {
            if given {
                return Err((field, "belongs to strategy = \"hash\"".to_owned()));
            }
        }
        let ahead = self.ahead.ok_or_else(|| missing("ahead"))?;
        if !(1..=AHEAD_LEAVES_MAX).contains(&ahead) {
            return Err(("ahead", format!("must be between 1 and {AHEAD_LEAVES_MAX}")));
        }
        let behind = self.behind.unwrap_or(1);
        if !(1..=AHEAD_LEAVES_MAX).contains(&behind) {
            return Err(("behind", format!("must be between 1 and {AHEAD_LEAVES_MAX}")));
        }
        let range = Range {
            encoding: self.encoding.ok_or_else(|| missing("encoding"))?,
            step: self.step.ok_or_else(|| missing("step"))?,
            ahead,
            behind,
            retain: retain(self.retain.as_deref().ok_or_else(|| missing("retain"))?)?,
            expire: self.expire.ok_or_else(|| missing("expire"))?,
        };
        range.check_kept(range.retain).map_err(|problem| ("retain", problem))?;
        Ok(Split::Range(range))
    }
}

fn retain(text: &str) -> Result<Option<Retain>, Wrong<'static>> {
    if text == "none" {
        return Ok(None);
    }
    let parsed = text.split_once(' ').and_then(|(count, unit)| {
        let count = count.parse::<u32>().ok().filter(|count| (1..=36_500).contains(count))?;
        match unit {
            "day" | "days" => Some(Retain::Days(count)),
            "month" | "months" if count <= 1_200 => Some(Retain::Months(count)),
            _ => None,
        }
    });
    match parsed {
        Some(retain) => Ok(Some(retain)),
        None => Err(("retain", "must be like \"36 months\", \"37 days\" or \"none\"".to_owned())),
    }
}

fn storage(options: &toml::Table) -> Result<BTreeMap<String, String>, Wrong<'_>> {
    let mut parsed = BTreeMap::new();
    for (name, value) in options {
        let known = name == "fillfactor"
            || name == "parallel_workers"
            || name == "toast_tuple_target"
            || (name.starts_with("autovacuum_") && is_identifier(name));
        if !known {
            return Err((name, "is no storage option of a leaf".to_owned()));
        }
        let text = match value {
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            toml::Value::Boolean(flag) => flag.to_string(),
            _ => return Err((name, "must be a number or true or false".to_owned())),
        };
        if name == "fillfactor" && !value.as_integer().is_some_and(|factor| (10..=100).contains(&factor)) {
            return Err((name, "must be between 10 and 100".to_owned()));
        }
        parsed.insert(name.clone(), text);
    }
    Ok(parsed)
}

fn lock_position(table: &str) -> usize {
    LOCK_ORDER.iter().position(|name| *name == table).unwrap_or(LOCK_ORDER.len())
}

fn is_identifier(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUPON: &str = "table = \"coupon\"\nstrategy = \"range\"\nkey = \"code_id\"\nencoding = \"day41\"\n\
                          step = \"month\"\nahead = 3\nretain = \"36 months\"\nexpire = \"detach\"\n";
    const MEMBER: &str = "table = \"member\"\nstrategy = \"hash\"\nkey = \"member_id\"\nmodulus = 16\n";

    #[test]
    fn the_embedded_plans_load() {
        assert!(plans().iter().count() >= 12);
        assert_eq!(plan("coupon").range().map(|range| range.step), Some(Step::Month));
        assert_eq!(plan("member").modulus(), Some(16));
    }

    #[test]
    fn tables_rank_in_the_order_in_which_they_are_locked() {
        let ranked = |table: &str| plan(table).rank;
        assert!(ranked("request") < ranked("member_key"));
        assert!(ranked("coupon") < ranked("member"));
        assert!(ranked("redemption") < ranked("event"));
        assert!(ranked("event") < ranked("member_auth"));
    }

    #[test]
    fn a_wrong_plan_is_refused_by_file_and_field() {
        let cases: &[(&str, String, &str)] = &[
            ("coupon", COUPON.replace("table = \"coupon\"", "table = \"other\""), "table"),
            ("coupon", COUPON.replace("ahead = 3", "ahead = 0"), "ahead"),
            ("coupon", COUPON.replace("ahead = 3\n", ""), "ahead"),
            ("coupon", COUPON.replace("step = \"month\"\n", ""), "step"),
            ("coupon", COUPON.replace("encoding = \"day41\"\n", ""), "encoding"),
            ("coupon", COUPON.replace("36 months", "36 weeks"), "retain"),
            ("coupon", COUPON.replace("36 months", "0 months"), "retain"),
            ("coupon", COUPON.replace("36 months", "36"), "retain"),
            ("coupon", COUPON.replace("36 months", "20 days"), "retain"),
            ("coupon", COUPON.replace("ahead = 3", "ahead = 3\nmodulus = 16"), "modulus"),
            ("coupon", format!("{COUPON}[storage]\nfillfactor = 5\n"), "storage.fillfactor"),
            ("coupon", format!("{COUPON}[storage]\nfillfaktor = 50\n"), "storage.fillfaktor"),
            ("coupon", format!("{COUPON}[storage]\nautovacuum_enabled = \"x\"\n"), "storage.autovacuum_enabled"),
            ("coupon", COUPON.replace("code_id", "code id"), "key"),
            ("coupon", COUPON.replace("expire = \"detach\"", "expire = \"burn\""), "line 8"),
            ("coupon", COUPON.replace("ahead = 3", "ahaed = 3"), "line 6"),
            ("member", MEMBER.replace("16", "0"), "modulus"),
            ("member", MEMBER.replace("modulus = 16\n", ""), "modulus"),
            ("member", format!("{MEMBER}retain = \"none\"\n"), "retain"),
            ("member", format!("{MEMBER}beside = \"member\"\n"), "beside"),
            ("coupon", COUPON.replace("ahead = 3", "ahead = 3\nbeside = \"member\""), "beside"),
        ];
        for (file, text, field) in cases {
            let error = Plan::parse(file, text).expect_err(text);
            assert_eq!((error.file.as_str(), error.field.as_str()), (*file, *field), "{error}\n{text}");
        }
        let tag = MEMBER.replace("\"member\"", "\"member_tag\"") + "beside = \"member\"\n";
        let other = MEMBER.replace("16", "8");
        for (files, right) in [
            (&[("member", MEMBER), ("member_tag", &*tag)][..], true),
            (&[("member", &*other), ("member_tag", &*tag)], false),
            (&[("member_tag", &*tag)], false),
        ] {
            assert_eq!(Plans::parse(files).is_ok(), right, "{files:?}");
        }
    }

    #[test]
    fn a_table_may_be_kept_for_another_time_than_its_plan_says() {
        let keeps: Vec<Keep> =
            ["coupon=none", "redemption=60 months", "coupon=48 months"].map(|text| text.parse().unwrap()).into();
        let kept = plans().keeping(&keeps);
        let retain = |table: &str| kept.get(table).and_then(|plan| plan.range()).map(|range| range.retain);
        assert_eq!(retain("coupon"), Some(Some(Retain::Months(48))), "the last word counts");
        assert_eq!(retain("redemption"), Some(Some(Retain::Months(60))));
        assert_eq!(retain("event"), Some(Some(Retain::Days(7))));
        let leaf = kept.get("coupon").unwrap().leaf_i64(0);
        assert_eq!(leaf, plan("coupon").leaf_i64(0), "its leaves are the same");
        for wrong in ["coupon", "coupon=36 weeks", "coupons=none", "member=none", "request=5 days", "coupon="] {
            assert!(wrong.parse::<Keep>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_month_may_go_when_it_ended_before_what_is_kept() {
        let today = NaiveDate::from_ymd_opt(2026, 11, 22).unwrap();
        assert_eq!(Retain::Months(36).cutoff(today), NaiveDate::from_ymd_opt(2023, 11, 22).unwrap());
        assert_eq!(Retain::Days(37).cutoff(today), NaiveDate::from_ymd_opt(2026, 10, 16).unwrap());
    }
}
