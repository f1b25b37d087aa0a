//! Coupons of older systems from a CSV file, as a job.
//!
//! A row is a coupon: its old code, its rule here, the day of its issue, and what became of it ([`row`] lists what can be
//! wrong). It gets an id of ours of its issue day, so that it lies where a coupon of that day lies, and a row in
//! `coupon_history_index` that leads from the keyed hash of its old code to it. Uses get their rows of the ledger, with the
//! amounts that the file says and no part of a budget: what another system gave off is none of this one's.
//!
//! Imported coupons count towards stock and limits as those that are issued, but for void ones, which count towards nothing.
//!
//! # An old code that is known already
//!
//! `coupon_history_index` is the referee. A row whose code an earlier row of the same file has is `legacy_code_repeated`,
//! wherever in the file that was: the numbers that a job's codes are made of are kept with it. A code that came by another
//! file is skipped if rule, issue day and holder are those of the row, so that a file that is sent twice doubles nothing, else
//! `legacy_code_taken`.

pub mod http;
pub mod row;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use self::row::{Draft, Reading};
use super::{
    Coupon, State, Use,
    bulk::{self, Bad},
    decide::{Why, Wish},
    desk::Desk,
    issue_job::of_desk,
    legacy::Shapes,
    rule::Rule,
    store,
    world::{LedgerKind, Redemption, World},
};
use crate::{
    db::lane::Tx,
    event::{self, Kind as EventKind},
    id::{CodeId, EventId, MemberId, RedemptionId, RuleId, StoreNo},
    job::{
        Checkpoint, Failure, Job, JobError,
        file::{FileReader, RawRows},
        range,
        runner::Work,
        store::Progress,
    },
    member::{import::Stores, key::Region},
    partition::{self, Closed, Leaf},
    problem::{Code, Refusal},
    secret::Holding,
};

/// How a file is read, as the job keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    pub columns: Vec<String>,
}

/// Imports coupons. Cheap to clone.
#[derive(Clone)]
pub struct CouponImport {
    pub desk: Desk,
    /// Where phone numbers without a country code belong.
    pub region: Region,
    pub stores: Stores,
}

/// Rows made ready.
pub struct Slice {
    drafts: Vec<Made>,
    failures: Vec<Failure>,
    first_no: i64,
    event_id: EventId,
    end: (Checkpoint, bool),
    holding: Holding,
}

/// A draft with the ids that it gets.
struct Made {
    draft: Draft,
    code_id: CodeId,
    uses: Vec<RedemptionId>,
}

/// What rows came to: coupons to be, and rows that are none.
type Read = (Vec<Draft>, Vec<Failure>);

/// What there is to hold rows against.
struct Known {
    shapes: Arc<Shapes>,
    stores: Arc<HashMap<String, StoreNo>>,
    now: DateTime<Utc>,
}

impl CouponImport {
    async fn known(&self) -> Result<Known, JobError> {
        Ok(Known {
            shapes: self.desk.shapes.get().await?,
            stores: self.stores.read(&self.desk.office).await?,
            now: self.desk.clock.now(),
        })
    }

    /// Reads and checks rows.
    async fn read(&self, options: &Options, raw: RawRows) -> Result<Read, JobError> {
        let known = Arc::new(self.known().await?);
        let columns: Arc<Vec<_>> = Arc::new(row::columns(&options.columns)?);
        let names: Arc<[String]> = options.columns.clone().into();
        let fields = {
            let (import, known, columns, names) =
                (self.clone(), Arc::clone(&known), Arc::clone(&columns), names.clone());
            tokio::task::spawn_blocking(move || {
                let codes = import.desk.secrets.codes();
                let reading = import.reading(&known, &codes, &columns, &names);
                let (mut fields, mut failures) = (Vec::with_capacity(raw.len()), Vec::new());
                for one in raw.iter() {
                    match reading.fields(one) {
                        Ok(read) => fields.push(read),
                        Err(bad) => failures.push(bulk::failure(one.ordinal, one.line, &names, bad)),
                    }
                }
                (fields, failures)
            })
        };
        let (fields, mut failures) = fields.await.map_err(JobError::Panicked)?;
        let mut rules: HashMap<RuleId, Arc<Rule>> = HashMap::new();
        for rule_id in fields.iter().filter_map(|fields| fields.rule_id).collect::<BTreeSet<_>>() {
            if let Some(rule) = self.desk.rule(rule_id).await.map_err(of_desk)? {
                rules.insert(rule_id, rule);
            }
        }
        let codes = self.desk.secrets.codes();
        let reading = self.reading(&known, &codes, &columns, &names);
        let mut drafts = Vec::with_capacity(fields.len());
        for read in fields {
            let (ordinal, line) = (read.ordinal, read.line);
            match reading.draft(read, &rules) {
                Ok(draft) => drafts.push(draft),
                Err(bad) => failures.push(bulk::failure(ordinal, line, &names, bad)),
            }
        }
        let closed = self.closed(&drafts).await?;
        let mut seen = HashSet::with_capacity(drafts.len());
        let mut good = Vec::with_capacity(drafts.len());
        for draft in drafts {
            let repeated: Bad = (None, "legacy_code_repeated", "an earlier row of the file has the same code".into());
            let checked = draft.check_leaves(&closed);
            let checked = checked.and_then(|()| if seen.insert(draft.legacy_key) { Ok(()) } else { Err(repeated) });
            match checked {
                Ok(()) => good.push(draft),
                Err(bad) => failures.push(bulk::failure(draft.ordinal, draft.line, &names, bad)),
            }
        }
        Ok((good, failures))
    }

    fn reading<'a>(
        &'a self,
        known: &'a Known,
        codes: &'a super::code::CodeKeys,
        columns: &'a [Option<row::Column>],
        names: &'a [String],
    ) -> Reading<'a> {
        Reading {
            names,
            columns,
            region: self.region,
            zone: self.desk.zone,
            now: known.now,
            codes,
            secrets: &self.desk.secrets,
            shapes: &known.shapes,
            stores: &known.stores,
        }
    }

    /// Which of the leaves that drafts belong to take no rows.
    async fn closed(&self, drafts: &[Draft]) -> Result<BTreeMap<Leaf, Closed>, JobError> {
        let leaves: BTreeSet<Leaf> = drafts.iter().flat_map(Draft::leaves).collect();
        if leaves.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut conn = self.desk.office.get().await?;
        Ok(partition::closed(&mut conn, &leaves).await?)
    }
}

impl Work for CouponImport {
    type Slice = Slice;

    async fn prepare(
        &self,
        job: &Job,
        file: &mut FileReader,
        from: Checkpoint,
        rows_max: usize,
    ) -> Result<Slice, JobError> {
        let bad = |_| JobError::Inconsistent { table: "job", column: "options", key: job.job_id.to_string() };
        let options: Options = serde_json::from_value(job.options.clone()).map_err(bad)?;
        let holding = self.desk.secrets.holding();
        let raw = file.read(from, rows_max, b',', true).await?;
        let end = (raw.end, raw.is_last);
        let (drafts, failures) = Box::pin(self.read(&options, raw)).await?;
        let first_no = bulk::lease_serials(&self.desk.office, drafts.len()).await?;
        let uses = drafts.iter().map(|draft| usize::from(draft.uses.unsigned_abs())).sum();
        let mut numbers = self.desk.redemptions.next(uses).await?.into_iter();
        let codes = self.desk.secrets.codes();
        let mut made = Vec::with_capacity(drafts.len());
        for (no, draft) in (first_no..).zip(drafts) {
            let code_id = codes.code_id(draft.day, no)?;
            let mut uses = Vec::new();
            if let Some(last) = &draft.last {
                for number in numbers.by_ref().take(usize::from(draft.uses.unsigned_abs())) {
                    uses.push(RedemptionId::from_parts(last.day, number)?);
                }
            }
            made.push(Made { draft, code_id, uses });
        }
        let event_id = self.desk.event_id().await.map_err(of_desk)?;
        Ok(Slice { drafts: made, failures, first_no, event_id, end, holding })
    }

    fn end(slice: &Slice) -> (Checkpoint, bool) {
        slice.end
    }

    async fn write(
        &self,
        conn: &mut PgConnection,
        job: &Job,
        slice: &Slice,
        now: DateTime<Utc>,
    ) -> Result<Progress, JobError> {
        if self.desk.secrets.holding() != slice.holding {
            return Err(JobError::KeysChanged);
        }
        let mut progress = Progress { failures: slice.failures.clone(), ..Progress::default() };
        let holders = slice.drafts.iter().filter_map(|made| made.draft.holder.as_ref());
        let owners = Box::pin(bulk::owners(conn, holders)).await?;
        let mut known: Vec<(&Made, Option<MemberId>)> = Vec::with_capacity(slice.drafts.len());
        for made in &slice.drafts {
            let member_id = made.draft.holder.as_ref().and_then(|holder| holder.of(&owners));
            if made.draft.holder.is_some() && member_id.is_none() {
                let refusal = Refusal::new(Code::MemberNotFound).detail("nobody has this identifier");
                progress.failures.push(bulk::refused(made.draft.ordinal, made.draft.line, &refusal));
                continue;
            }
            known.push((made, member_id));
        }
        let wish = |(made, member_id): &(&Made, Option<MemberId>)| Wish {
            rule: Arc::clone(&made.draft.rule),
            day: made.draft.day,
            member_id: *member_id,
            count: 1,
            why: made.draft.why,
        };
        let mut world = World::new(now, self.desk.zone);
        let mut tx = Tx::of_job(conn);
        Box::pin(bulk::load(&mut tx, &mut world, &known.iter().map(wish).collect::<Vec<_>>())).await?;
        let claims = known.iter().map(|(made, _)| (made.draft.legacy_key, made.code_id)).collect();
        let won = Box::pin(store::claim_legacy(&mut tx, claims)).await?;
        let (fresh, taken): (Vec<_>, Vec<_>) =
            known.into_iter().partition(|(made, _)| won.contains(&made.draft.legacy_key));
        if !taken.is_empty() {
            Box::pin(self.name_taken(&mut tx, job, &taken, &mut progress)).await?;
        }
        if !fresh.is_empty() {
            let wishes: Vec<Wish> = fresh.iter().map(wish).collect();
            let coupons_of = |at: usize, counted: i16, coupons: &mut Vec<Coupon>| {
                coupons.push(coupon(fresh[at].0, fresh[at].1, counted, self.desk.zone.start_of(wishes[at].day)));
            };
            let (verdicts, _) = Box::pin(bulk::place(&mut tx, &mut world, &wishes, coupons_of)).await?;
            let (mut uses, mut refused) = (Vec::new(), Vec::new());
            for ((made, member_id), verdict) in fresh.iter().zip(verdicts) {
                match verdict {
                    Ok(()) => {
                        progress.ok += 1;
                        uses.extend(ledger(made, *member_id));
                    }
                    Err(refusal) => {
                        progress.failures.push(bulk::refused(made.draft.ordinal, made.draft.line, &refusal));
                        refused.push((made.draft.legacy_key, made.code_id));
                    }
                }
            }
            if !refused.is_empty() {
                Box::pin(store::release_legacy(&mut tx, refused)).await?;
            }
            if !uses.is_empty() {
                Box::pin(store::insert_redemptions(&mut tx, &uses)).await?;
            }
            range::insert(tx.conn().await?, job.job_id, slice.first_no, slice.drafts.len(), None).await?;
        }
        progress.failures.sort_by_key(|failure| failure.ordinal);
        Ok(progress)
    }

    async fn finish(
        &self,
        conn: &mut PgConnection,
        job: &Job,
        slice: &Slice,
        rows_ok: i64,
        now: DateTime<Utc>,
    ) -> Result<(), JobError> {
        let body = json!({ "job_id": job.job_id, "coupons": rows_ok });
        let (kind, subject) = (EventKind::CouponsImported, job.job_id.get());
        event::store::insert_done(conn, now, slice.event_id, kind, subject, &body).await?;
        Ok(())
    }
}

impl CouponImport {
    /// What becomes of rows whose old codes are known.
    async fn name_taken(
        &self,
        tx: &mut Tx<'_>,
        job: &Job,
        taken: &[(&Made, Option<MemberId>)],
        progress: &mut Progress,
    ) -> Result<(), JobError> {
        let keys: Vec<Uuid> = taken.iter().map(|(made, _)| made.draft.legacy_key).collect();
        let standing = store::find_legacy(tx, keys).await?;
        let coupons = store::find_coupons(tx, standing.values().copied().collect()).await?;
        let codes = self.desk.secrets.codes();
        let numbers: Vec<i64> = standing.values().map(|code_id| codes.counter_of(*code_id)).collect();
        let own: HashSet<i64> = range::holding(tx.conn().await?, job.job_id, &numbers).await?.into_iter().collect();
        for (made, member_id) in taken {
            let Made { draft, .. } = made;
            let code_id = standing.get(&draft.legacy_key);
            let coupon = code_id.and_then(|code_id| coupons.get(code_id));
            let is_own = code_id.is_some_and(|code_id| own.contains(&codes.counter_of(*code_id)));
            let is_same = coupon.is_some_and(|coupon| {
                coupon.rule_id == draft.rule.current.rule_id
                    && coupon.code_id.day() == draft.day
                    && (member_id.is_none() || coupon.holder == *member_id)
                    // Used here since it came in, it stays; used there since, somebody must look.
                    && draft.uses <= coupon.uses + coupon.cycles
                    && (draft.why != Why::BringVoid || coupon.state == State::Void)
            });
            let (code, detail) = match (is_own, is_same) {
                (true, _) => ("legacy_code_repeated", "an earlier row of the file has the same code"),
                (false, true) => {
                    progress.skipped += 1;
                    continue;
                }
                (false, false) => {
                    ("legacy_code_taken", "it stands for another coupon already, or for this one as it was before")
                }
            };
            let (code, detail) = (code.to_owned(), detail.to_owned());
            let (ordinal, line) = (draft.ordinal, draft.line);
            progress.failures.push(Failure { ordinal, line, column: Some("code".to_owned()), code, detail });
        }
        Ok(())
    }
}

fn coupon(made: &Made, holder: Option<MemberId>, counted: i16, issued_at: DateTime<Utc>) -> Coupon {
    let Made { draft, code_id, uses } = made;
    let version = &draft.rule.current;
    let last_use = draft.last.as_ref().zip(uses.last()).map(|(last, redemption_id)| Use {
        redemption_id: *redemption_id,
        at: last.at,
        store_no: last.store_no,
        order_ref: last.order_ref.clone(),
    });
    Coupon {
        code_id: *code_id,
        rule_id: version.rule_id,
        rule_version: version.version,
        holder,
        issued_at,
        valid_from: draft.valid_from,
        valid_until: draft.valid_until,
        state: match draft.why {
            Why::BringVoid => State::Void,
            _ if draft.uses >= version.uses => State::Redeemed,
            _ => State::Issued { lock: None },
        },
        uses: draft.uses,
        cycles: 0,
        counted,
        last_use,
        issue_store_no: None,
        referrer: None,
        legacy_key: Some(draft.legacy_key),
        void_reason: None,
    }
}

/// The rows of the ledger of a coupon's uses.
fn ledger(made: &Made, member_id: Option<MemberId>) -> impl Iterator<Item = Redemption> {
    let last = made.draft.last.as_ref();
    made.uses.iter().filter_map(move |redemption_id| {
        let last = last?;
        Some(Redemption {
            redemption_id: *redemption_id,
            kind: LedgerKind::Redeem,
            code_id: made.code_id,
            rule_id: made.draft.rule.current.rule_id,
            rule_version: made.draft.rule.current.version,
            member_id,
            recorded_at: last.at,
            occurred_at: None,
            amount: last.amount,
            discount: last.discount,
            reverses: None,
            reversed: 0,
            returned: 0,
            counted: 0,
            lines: Vec::new(),
            reversed_whole: false,
            store_no: last.store_no,
            register: None,
            sequence: None,
            order_ref: last.order_ref.clone(),
        })
    })
}
