//! What a job would do, before it does it: whom it reaches, what fails, what it may cost.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use serde::Serialize;
use sqlx::PgConnection;

use super::{IssueJob, Options, Row};
use crate::{
    coupon::{
        bulk,
        rule::{Rule, RuleState},
    },
    db::lane::Tx,
    id::{Day, MemberId},
    job::{Checkpoint, Failure, JobError, file::FileReader},
    member::{self, state::Action},
    problem::Code,
};

/// Rows of a file that are looked at; of a longer one the rest is estimated.
const ROWS_MAX: usize = 20_000;
/// Of those, looked up at once.
const ROWS_AT_ONCE: usize = 1_000;
/// Failures that a preview shows.
const FAILURES_MAX: usize = 20;

/// What a job would do as things stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// Rows that were looked at.
    rows: i64,
    /// All rows; where not all were looked at, by their length, and what follows is in proportion.
    rows_estimate: i64,
    is_estimate: bool,
    rows_failed: i64,
    /// Members that get coupons.
    members: i64,
    pub coupons: i64,
    /// Coupons times the most that one takes off, smallest unit; none where a rule sets no bound.
    money_at_risk: Option<i64>,
    currency: String,
    /// None where the rule sets no bound.
    stock_left: Option<i64>,
    budget_left: Option<i64>,
    /// `rule_not_active`, `stock_exhausted`: the job does not start by itself. `budget_exhausted`, `money_unbounded`.
    pub warnings: Vec<&'static str>,
    /// The first of the rows that fail.
    failures: Vec<Failure>,
}

impl Preview {
    /// Somebody should look at it before it starts.
    pub fn holds_back(&self) -> bool {
        self.warnings.iter().any(|warning| matches!(*warning, "rule_not_active" | "stock_exhausted"))
    }
}

/// What the rows of a file come to.
#[derive(Default)]
struct Sums {
    rows: i64,
    coupons: i64,
    members: HashSet<MemberId>,
    rows_failed: i64,
    failures: Vec<Failure>,
}

impl Sums {
    fn fail(&mut self, failure: Failure) {
        self.rows_failed += 1;
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(failure);
        }
    }
}

impl IssueJob {
    /// A look at a file, or at a count.
    ///
    /// # Errors
    /// [`JobError`]
    pub async fn preview(
        &self,
        options: &Options,
        rule: &Arc<Rule>,
        file: &mut FileReader,
        bytes: i64,
    ) -> Result<Preview, JobError> {
        let mut sums = Sums::default();
        let (mut from, mut is_last) = (Checkpoint::default(), true);
        if let Some(count) = options.count {
            (sums.rows, sums.coupons, from.rows) = (count, count, count);
        } else {
            loop {
                let raw = file.read(from, ROWS_AT_ONCE, b',', true).await?;
                (from, is_last) = (raw.end, raw.is_last);
                let (rows, failures) = self.read(&options.columns, &raw)?;
                sums.rows += raw.len() as i64;
                failures.into_iter().for_each(|failure| sums.fail(failure));
                let mut conn = self.desk.office.get().await?;
                self.look_up(&mut conn, rows, &mut sums).await?;
                if is_last || from.rows >= ROWS_MAX as i64 {
                    break;
                }
            }
        }
        let estimate = if is_last { sums.rows } else { bytes.saturating_mul(sums.rows) / from.bytes.max(1) };
        let mut conn = self.desk.office.get().await?;
        self.weigh(&mut conn, options, rule, sums, (estimate, !is_last)).await
    }

    /// Who the rows are about, and whether they may be given coupons.
    async fn look_up(&self, conn: &mut PgConnection, rows: Vec<Row>, sums: &mut Sums) -> Result<(), JobError> {
        let owners = bulk::owners(conn, rows.iter().filter_map(|row| row.holder.as_ref())).await?;
        let found: Vec<(Row, Option<MemberId>)> = rows
            .into_iter()
            .map(|row| {
                let member_id = row.holder.as_ref().and_then(|holder| holder.of(&owners));
                (row, member_id)
            })
            .collect();
        let members: BTreeSet<MemberId> = found.iter().filter_map(|(_, member_id)| *member_id).collect();
        let mut tx = Tx::of_job(conn);
        let standings = member::store::standings(&mut tx, members.into_iter().collect()).await?;
        for (row, member_id) in found {
            let standing = member_id.and_then(|member_id| Some((member_id, standings.get(&member_id)?)));
            let (ordinal, line) = (row.ordinal, row.line);
            match standing.map(|(member_id, standing)| (member_id, standing.may(Action::BeIssued))) {
                None => sums.fail(bulk::refused(ordinal, line, &Code::MemberNotFound.into())),
                Some((_, Err(refusal))) => sums.fail(bulk::refused(ordinal, line, &refusal)),
                Some((member_id, Ok(()))) => {
                    sums.members.insert(member_id);
                    sums.coupons += row.count;
                }
            }
        }
        Ok(())
    }

    /// Holds what the rows come to against what the rule has left.
    async fn weigh(
        &self,
        conn: &mut PgConnection,
        options: &Options,
        rule: &Arc<Rule>,
        sums: Sums,
        (rows_estimate, is_estimate): (i64, bool),
    ) -> Result<Preview, JobError> {
        let version = &rule.current;
        let of_all = |part: i64| {
            let all = i128::from(part) * i128::from(rows_estimate) / i128::from(sums.rows.max(1));
            i64::try_from(all).unwrap_or(i64::MAX)
        };
        let coupons = of_all(sums.coupons);
        let most = version.discount.most().map(|most| most.saturating_mul(i64::from(version.uses)));
        let money_at_risk = most.map(|most| most.saturating_mul(coupons));
        let stocks = bulk::find_stocks(conn, version.rule_id).await?;
        let stock = |period: i32| stocks.get(&(version.rule_id, period, 0)).copied();
        let taken = |period: i32| stock(period).map_or(0, |stock| stock.issued - stock.voided);
        let today: Day = options.issued_on.unwrap_or_else(|| self.desk.zone.day_of(self.desk.clock.now()));
        let in_all = version.stock.total.map(|most| most - taken(0));
        let on_day = version.stock.per_day.map(|most| most - taken(today.number()));
        let stock_left = [in_all, on_day].into_iter().flatten().min().map(|left| left.max(0));
        let budget_left = version.budget.total.map(|most| (most - stock(0).map_or(0, |stock| stock.spent)).max(0));
        let mut warnings = Vec::new();
        if rule.state != RuleState::Active {
            warnings.push("rule_not_active");
        }
        if stock_left.is_some_and(|left| coupons > left) {
            warnings.push("stock_exhausted");
        }
        if budget_left.is_some_and(|left| money_at_risk.is_none_or(|money| money > left)) {
            warnings.push("budget_exhausted");
        }
        if money_at_risk.is_none() && budget_left.is_none() {
            warnings.push("money_unbounded");
        }
        Ok(Preview {
            rows: sums.rows,
            rows_estimate,
            is_estimate,
            rows_failed: of_all(sums.rows_failed),
            members: of_all(sums.members.len() as i64),
            coupons,
            money_at_risk,
            currency: version.currency.clone(),
            stock_left,
            budget_left,
            warnings,
            failures: sums.failures,
        })
    }
}
