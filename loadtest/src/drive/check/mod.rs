//! Do the books agree with the answers? Looks in SQL after a run, for the rules of the run and everything that its journal
//! tells of. It reads only; a role that may read the tables will do, and a run may still be checked days later.
//!
//! What it cannot see: rows of rules that the run had nothing to do with (`tessera verify` compares those), and what was
//! changed by others between the run and the look at it, which shows as broken where the run's own rules were touched.

mod answers;
mod books;

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::Context;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};

pub use books::{Books, code_id};

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
    fn new(name: &str, says: &str, looked_at: usize, broken: Vec<String>) -> Self {
        let (name, says, looked_at) = (name.to_owned(), says.to_owned(), looked_at as u64);
        let count = broken.len() as u64;
        Self { name, says, looked_at, broken: count, examples: broken.into_iter().take(EXAMPLES_MAX).collect() }
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
    let mut books = Books::default();
    for journal in &run.journals {
        books.read(journal)?;
    }
    books.runs = run.run.split('+').map(str::to_owned).collect();
    // All of it as of one instant: a request that nobody waited for may still end while we look.
    sqlx::raw_sql("begin isolation level repeatable read, read only").execute(&mut *conn).await?;
    let findings = examine(conn, &books, tessera::clock::Clock::system().now()).await?;
    sqlx::raw_sql("rollback").execute(conn).await?;
    Ok(findings)
}

/// Looks at every invariant.
///
/// # Errors
/// Those of the database.
pub async fn examine(conn: &mut PgConnection, books: &Books, now: DateTime<Utc>) -> anyhow::Result<Vec<Finding>> {
    let rules = books.rules();
    let mut findings = vec![jobs(conn, books, now).await?];
    for invariant in OF_RULES {
        findings.push(broken_of(conn, invariant, &rules).await?);
    }
    let mut codes = books.codes()?;
    codes.extend(issued(conn, &rules).await?);
    let codes: Vec<i64> = codes.into_iter().collect();
    let mut used: BTreeSet<i64> = rules.iter().copied().collect();
    for batch in codes.chunks(BATCH) {
        let sql = "select distinct c.rule_id from coupon c where c.code_id = any($1)";
        used.extend(sqlx::query_scalar::<_, i64>(sql).bind(batch).fetch_all(&mut *conn).await?);
    }
    let used: Vec<i64> = used.into_iter().collect();
    for invariant in OF_USED_RULES {
        findings.push(broken_of(conn, invariant, &used).await?);
    }
    for invariant in OF_COUPONS {
        findings.push(broken_of(conn, invariant, &codes).await?);
    }
    findings.extend(answers::examine(conn, books, &rules).await?);
    Ok(findings)
}

async fn broken_of(conn: &mut PgConnection, (name, says, sql): Invariant, ids: &[i64]) -> anyhow::Result<Finding> {
    let mut broken: Vec<String> = Vec::new();
    for batch in ids.chunks(BATCH) {
        let found = sqlx::query_scalar(sql).bind(batch).fetch_all(&mut *conn).await;
        let found =
            found.with_context(|| format!("looking at {name}; may the role of the database URL read all tables?"))?;
        broken.extend::<Vec<String>>(found);
    }
    Ok(Finding::new(name, says, ids.len(), broken))
}

/// Codes of all coupons of these rules, as their index has them.
async fn issued(conn: &mut PgConnection, rules: &[i64]) -> anyhow::Result<Vec<i64>> {
    Ok(sqlx::query_scalar(include_str!("../../../sql/issued.sql")).bind(rules).fetch_all(conn).await?)
}

/// issued = free + locked + used + expired + void, for each job.
async fn jobs(conn: &mut PgConnection, books: &Books, now: DateTime<Utc>) -> anyhow::Result<Finding> {
    let ids: Vec<i64> = books.jobs.keys().copied().collect();
    let mut states: std::collections::HashMap<i64, [i64; 5]> = std::collections::HashMap::new();
    for batch in books.job_coupons.chunks(BATCH) {
        let (jobs, codes): (Vec<i64>, Vec<i64>) = batch.iter().copied().unzip();
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
    let made: std::collections::HashMap<i64, i64> = made.into_iter().collect();
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
    let says = "issued = free + locked + used + expired + void, for every job";
    Ok(Finding::new("jobs", says, ids.len(), broken.collect()))
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
