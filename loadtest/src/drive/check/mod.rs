//! Do the books agree with the answers? Looks in SQL after a run, for the rules of the run and everything that its journal
//! tells of. It reads only; a role that may read the tables will do, and a run may still be checked days later.
//!
//! What it holds in memory does not grow with the length of the run: journals stay on the disk and are read a batch or a
//! part at a time ([`Books`]).
//!
//! What it cannot see: rows of rules that the run had nothing to do with (`tessera verify` compares those), and what was
//! changed by others between the run and the look at it, which shows as broken where the run's own rules were touched.

mod answers;
mod books;
mod holds;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use anyhow::Context;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};

pub use books::{Books, Part, code_id};

use super::{Verdict, report, result::Run};

/// Broken cases that are shown of each invariant.
const EXAMPLES_MAX: usize = 5;
/// Things asked for in one statement.
const BATCH: usize = 5_000;

/// What was found of one invariant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub name: String,
    /// The invariant, as a sentence.
    pub says: String,
    /// Rules, jobs, coupons or requests that were looked at.
    pub looked_at: u64,
    pub broken: u64,
    pub examples: Vec<String>,
}

impl Finding {
    fn new(name: &str, says: &str) -> Self {
        let (name, says) = (name.to_owned(), says.to_owned());
        Self { name, says, looked_at: 0, broken: 0, examples: Vec::new() }
    }

    fn saw(&mut self, things: usize) {
        self.looked_at += things as u64;
    }

    /// Counts what is broken; the first few are kept.
    fn breaks(&mut self, broken: impl IntoIterator<Item = String>) {
        for example in broken {
            self.broken += 1;
            if self.examples.len() < EXAMPLES_MAX {
                self.examples.push(example);
            }
        }
    }
}

/// Name, sentence, and a statement over ids that gives what is broken.
type Invariant = (&'static str, &'static str, &'static str);

/// Invariants of rules that the run used, be they its own or a dataset's.
const OF_USED_RULES: [Invariant; 3] = [
    ("stock-kept", "no more coupons are issued than the rule's stock", include_str!("../../../sql/stock_kept.sql")),
    ("money-agrees", "a budget has spent what the ledger gave", include_str!("../../../sql/money_agrees.sql")),
    ("money-kept", "no more money is given than the rule's budget", include_str!("../../../sql/money_kept.sql")),
];

/// Invariants of rules that the run issued of, for which all their coupons are counted.
const OF_RULES: [Invariant; 2] = [
    ("stock-agrees", "a rule's stock rows count the coupons that live", include_str!("../../../sql/stock_agrees.sql")),
    (
        "member-limit",
        "a member has taken what they hold, within the limit",
        include_str!("../../../sql/member_limit.sql"),
    ),
];

/// Invariants of coupons, by code.
const OF_COUPONS: [Invariant; 3] = [
    (
        "uses-kept",
        "a coupon is used as often as the ledger says, within its limit",
        include_str!("../../../sql/uses_kept.sql"),
    ),
    (
        "one-winner",
        "each use of a coupon has one winner, whom the coupon names",
        include_str!("../../../sql/one_winner.sql"),
    ),
    ("index-agrees", "a coupon and its index rows say the same", include_str!("../../../sql/index_agrees.sql")),
];

/// Holds the database against a run.
#[derive(clap::Args)]
pub struct CheckArgs {
    /// Results of the run, as `run` wrote them; of merged generators the merged one.
    pub result: PathBuf,
    /// The database, as any role that may read its tables.
    #[arg(long, env = "TESSERA_CHECK_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: String,
    /// Leave the result as it is, without what was found.
    #[arg(long)]
    pub keep: bool,
}

/// # Errors
/// When the result, its journals or the database cannot be read.
pub async fn run(args: &CheckArgs) -> anyhow::Result<Verdict> {
    let mut result = Run::load(&args.result)?;
    let mut conn = connect(&args.database_url).await?;
    let findings = of_run(&mut conn, &result).await?;
    conn.close().await?;
    print!("{}", render(&findings));
    let broken = findings.iter().any(|finding| finding.broken > 0);
    if !args.keep {
        result.findings = Some(findings);
        result.save(&args.result)?;
        report::write(&args.result.with_extension("html"), &report::html(&result))?;
    }
    Ok(if broken { Verdict::Failed } else { Verdict::Passed })
}

/// # Errors
/// A database that is not there, without the password of its URL.
pub async fn connect(url: &str) -> anyhow::Result<PgConnection> {
    let options: PgConnectOptions = url
        .parse()
        .map_err(|_| anyhow::anyhow!("the database URL is not of the form postgres://user:password@host:port/name"))?;
    let options = options.application_name("tessera loadtest").disable_statement_logging();
    let place = tessera::config::place(&options);
    PgConnection::connect_with(&options).await.with_context(|| format!("the database {place} cannot be reached"))
}

/// # Errors
/// When journals or database cannot be read.
pub async fn of_run(conn: &mut PgConnection, run: &Run) -> anyhow::Result<Vec<Finding>> {
    let books = books_of(run)?;
    // All of it as of one instant: a request that nobody waited for may still end while we look.
    sqlx::raw_sql("begin isolation level repeatable read, read only").execute(&mut *conn).await?;
    let findings = examine(conn, &books, tessera::clock::Clock::system().now()).await?;
    sqlx::raw_sql("rollback").execute(conn).await?;
    Ok(findings)
}

/// # Errors
/// When a journal cannot be read.
pub fn books_of(run: &Run) -> anyhow::Result<Books> {
    let names = run.run.split('+').map(str::to_owned).collect();
    Books::open(&run.journals, names, run.started_at)
}

/// Looks at every invariant.
///
/// # Errors
/// Those of the database.
pub async fn examine(conn: &mut PgConnection, books: &Books, now: DateTime<Utc>) -> anyhow::Result<Vec<Finding>> {
    let mut findings = vec![jobs(conn, books, now).await?];
    for invariant in OF_RULES {
        findings.push(broken_of(conn, invariant, &books.rules).await?);
    }
    let mut told = answers::examine(conn, books).await?;
    let mut of_parts = OfParts::new(&books.rules);
    for no in 0..books.parts() {
        of_parts.look(conn, books, &books.part(no)?, now, &mut told.acknowledged).await?;
    }
    of_parts.explain(told.issues_lost);
    let used: Vec<i64> = of_parts.used.into_iter().collect();
    for invariant in OF_USED_RULES {
        findings.push(broken_of(conn, invariant, &used).await?);
    }
    findings.extend(of_parts.coupons);
    findings.extend([of_parts.holds, told.acknowledged, told.unknown, of_parts.nothing_else]);
    Ok(findings)
}

/// What is found by parts of the books.
struct OfParts {
    /// As [`OF_COUPONS`].
    coupons: [Finding; 3],
    holds: Finding,
    nothing_else: Finding,
    /// Rules that the run used.
    used: BTreeSet<i64>,
    /// Coupons of the run's rules that nobody was told of: how many, and the first few.
    strangers: usize,
    examples: Vec<i64>,
}

impl OfParts {
    fn new(rules: &[i64]) -> Self {
        Self {
            coupons: OF_COUPONS.map(|(name, says, _)| Finding::new(name, says)),
            holds: Finding::new("locks-kept", "a lock holds and a release lets go, as it was told"),
            nothing_else: Finding::new(
                "nothing-else",
                "the ledger and the rules of the run hold nothing that nobody was told of",
            ),
            used: rules.iter().copied().collect(),
            strangers: 0,
            examples: Vec::new(),
        }
    }

    async fn look(
        &mut self,
        conn: &mut PgConnection,
        books: &Books,
        part: &Part,
        now: DateTime<Utc>,
        acknowledged: &mut Finding,
    ) -> anyhow::Result<()> {
        acknowledged.breaks(part.told_twice());
        let (remainder, divisor) = part.remainder();
        let issued: Vec<i64> = sqlx::query_scalar(include_str!("../../../sql/issued.sql"))
            .bind(&books.rules)
            .bind(remainder)
            .bind(divisor)
            .fetch_all(&mut *conn)
            .await?;
        self.nothing_else.saw(issued.len());
        for code in issued.iter().filter(|code| part.issued.binary_search(code).is_err()) {
            self.strangers += 1;
            if self.examples.len() < EXAMPLES_MAX {
                self.examples.push(*code);
            }
        }
        for batch in part.codes(&issued).chunks(BATCH) {
            for (finding, (name, _, sql)) in self.coupons.iter_mut().zip(OF_COUPONS) {
                finding.saw(batch.len());
                finding.breaks(broken_in(conn, name, sql, batch).await?);
            }
            let sql = "select distinct c.rule_id from coupon c where c.code_id = any($1)";
            self.used.extend(sqlx::query_scalar::<_, i64>(sql).bind(batch).fetch_all(&mut *conn).await?);
            for run in &books.runs {
                self.effects(conn, run, part, batch).await?;
            }
        }
        holds::examine(conn, books, part, now, &mut self.holds).await
    }

    /// Rows of the ledger under a run's orders that no answer told of and no lost answer explains.
    async fn effects(&mut self, conn: &mut PgConnection, run: &str, part: &Part, codes: &[i64]) -> anyhow::Result<()> {
        let sql = include_str!("../../../sql/effects.sql");
        let rows: Vec<(i64, i64, i16, String)> =
            sqlx::query_as(sql).bind(codes).bind(format!("{run}-")).fetch_all(conn).await?;
        self.nothing_else.saw(rows.len());
        for (redemption, code, kind, order) in rows {
            let acts = || part.acts.get(&(code, order.as_str().into())).copied().unwrap_or_default();
            let lost = || if kind == answers::REDEEM { acts().redeems.lost } else { acts().reverses.lost };
            if part.redemptions.binary_search(&redemption).is_err() && lost() == 0 {
                let what = format!("redemption {redemption} of coupon {code}, order {order}: nobody was told of it");
                self.nothing_else.breaks([what]);
            }
        }
        Ok(())
    }

    /// As many coupons as were told of; and one more for each issue or claim whose answer was lost but stored.
    fn explain(&mut self, lost: usize) {
        if self.strangers == lost {
            return;
        }
        let said = |code: &i64| format!("coupon {code}: nobody was told of it ({lost} lost answers explain as many)");
        self.nothing_else.breaks(self.examples.iter().map(said));
        if self.strangers == 0 {
            let none = format!("{lost} issues whose answers were lost are stored, and their coupons are not there");
            self.nothing_else.breaks([none]);
        }
        self.nothing_else.broken += (self.strangers - self.examples.len()) as u64;
    }
}

async fn broken_of(conn: &mut PgConnection, (name, says, sql): Invariant, ids: &[i64]) -> anyhow::Result<Finding> {
    let mut finding = Finding::new(name, says);
    finding.saw(ids.len());
    for batch in ids.chunks(BATCH) {
        finding.breaks(broken_in(conn, name, sql, batch).await?);
    }
    Ok(finding)
}

async fn broken_in(conn: &mut PgConnection, name: &str, sql: &'static str, ids: &[i64]) -> anyhow::Result<Vec<String>> {
    let found = sqlx::query_scalar(sql).bind(ids).fetch_all(conn).await;
    found.with_context(|| format!("looking at {name}; may the role of the database URL read all tables?"))
}

/// issued = free + locked + used + expired + void, for each job.
async fn jobs(conn: &mut PgConnection, books: &Books, now: DateTime<Utc>) -> anyhow::Result<Finding> {
    let ids: Vec<i64> = books.jobs.keys().copied().collect();
    let mut states: BTreeMap<i64, [i64; 5]> = BTreeMap::new();
    for batch in books.job_coupons(BATCH) {
        let (jobs, codes): (Vec<i64>, Vec<i64>) = batch?.into_iter().unzip();
        let rows: Vec<(i64, i64, i64, i64, i64, i64)> = sqlx::query_as(include_str!("../../../sql/jobs.sql"))
            .bind(jobs)
            .bind(codes)
            .bind(now)
            .fetch_all(&mut *conn)
            .await?;
        for (job, free, locked, used, expired, void) in rows {
            let sums = states.entry(job).or_default();
            for (sum, more) in sums.iter_mut().zip([free, locked, used, expired, void]) {
                *sum += more;
            }
        }
    }
    let made: Vec<(i64, i64)> =
        sqlx::query_as("select job_id, sum(coupons)::bigint from job_range where job_id = any($1) group by job_id")
            .bind(&ids)
            .fetch_all(conn)
            .await?;
    let made: BTreeMap<i64, i64> = made.into_iter().collect();
    let broken = books.jobs.iter().filter_map(|(job, (_, told))| {
        let [free, locked, used, expired, void] = states.get(job).copied().unwrap_or_default();
        let (issued, sum) = (made.get(job).copied().unwrap_or(0), free + locked + used + expired + void);
        (issued != sum || issued != *told).then(|| {
            format!(
                "job {job}: issued {issued}, told {told}, free {free} + locked {locked} + used {used} + expired {expired} + \
                 void {void} = {sum}"
            )
        })
    });
    let mut finding = Finding::new("jobs", "issued = free + locked + used + expired + void, for every job");
    finding.saw(ids.len());
    finding.breaks(broken);
    Ok(finding)
}

/// For people.
pub fn render(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { name, says, looked_at, broken, examples } in findings {
        let state = if *broken == 0 { "ok    ".to_owned() } else { "BROKEN".to_owned() };
        text.push_str(&format!("{state} {name:<14} {says} ({looked_at} looked at"));
        text.push_str(&if *broken == 0 { ")\n".to_owned() } else { format!(", {broken} broken)\n") });
        for example in examples {
            text.push_str(&format!("         {example}\n"));
        }
    }
    text
}
