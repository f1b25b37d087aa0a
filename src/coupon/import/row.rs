//! One row of a file of coupons: read and checked as far as that needs no locks.
//!
//! | code | what is wrong |
//! |---|---|
//! | `row_too_long`, `row_malformed`, `encoding_invalid` | as in any file |
//! | `code_missing` | there is no old code |
//! | `coupon_code_collides` | the old code passes the check of ours, so that nobody could tell which is meant |
//! | `legacy_shape_unknown` | it has no registered shape |
//! | `legacy_code_repeated` | the file has it in an earlier row |
//! | `legacy_code_taken` | it stands for another coupon already |
//! | `rule_not_found`, `store_not_found` | there is none |
//! | `identifier_invalid` | what says who holds it is not of its kind |
//! | `date_invalid` | a day or a time is none, is to come, or does not fit the others |
//! | `value_invalid` | another field, or the state with the uses |
//! | `issue_day_unavailable` | there is no room for a coupon, or a use, of that day |
//! | `month_retired` | nor will there be any: the month was retired, or is being so |
//! | `member_not_found`, `member_cancelled`, `member_kind_forbidden` | the holder may not hold it |
//! | `stock_exhausted`, `member_limit_reached` | as for a coupon that is issued |

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use uuid::Uuid;

use crate::{
    clock::Zone,
    coupon::{
        bulk::{self, Bad, Holder, HolderColumn},
        code::CodeKeys,
        decide::Why,
        first_business_day,
        http::OrderRef,
        legacy::Shapes,
        rule::Rule,
    },
    id::{Day, RuleId, StoreNo},
    job::file::Raw,
    member::key::Region,
    partition::{Closed, Leaf, plan},
    problem::{Code, Refusal},
    secret::Secrets,
};

/// What a column is taken for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Column {
    Code,
    RuleId,
    IssuedOn,
    Holder(HolderColumn),
    State,
    Uses,
    ValidFrom,
    ValidUntil,
    RedeemedAt,
    Store,
    OrderRef,
    Amount,
    Discount,
}

/// The columns of a file.
///
/// # Errors
/// `file_invalid`: one that is not known or comes twice; no `code`, `rule_id` or `issued_on`; several that say who.
pub fn columns(names: &[String]) -> Result<Vec<Option<Column>>, Refusal> {
    let found = bulk::columns(names, |name| {
        Some(match name {
            "code" => Column::Code,
            "rule_id" => Column::RuleId,
            "issued_on" => Column::IssuedOn,
            "state" => Column::State,
            "uses" => Column::Uses,
            "valid_from" => Column::ValidFrom,
            "valid_until" => Column::ValidUntil,
            "redeemed_at" => Column::RedeemedAt,
            "store_id" => Column::Store,
            "order_ref" => Column::OrderRef,
            "amount" => Column::Amount,
            "discount" => Column::Discount,
            other => Column::Holder(HolderColumn::parse(other)?),
        })
    })?;
    let missing = [("code", Column::Code), ("rule_id", Column::RuleId), ("issued_on", Column::IssuedOn)]
        .into_iter()
        .filter(|(_, column)| !found.iter().flatten().any(|known| known == column));
    let missing: Vec<&str> = missing.map(|(name, _)| name).collect();
    if !missing.is_empty() {
        return Err(Refusal::new(Code::FileInvalid).detail("there are columns missing").with("columns", missing));
    }
    let holders = found.iter().flatten().filter(|column| matches!(column, Column::Holder(_))).count();
    if holders > 1 {
        return Err(Refusal::new(Code::FileInvalid).detail("one column may say who, not several"));
    }
    Ok(found)
}

/// What rows are read with.
pub struct Reading<'a> {
    pub names: &'a [String],
    pub columns: &'a [Option<Column>],
    pub region: Region,
    pub zone: Zone,
    pub now: DateTime<Utc>,
    pub codes: &'a CodeKeys,
    pub secrets: &'a Secrets,
    pub shapes: &'a Shapes,
    pub stores: &'a HashMap<String, StoreNo>,
}

/// A row as it stands, each field by itself.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    pub ordinal: i64,
    pub line: i64,
    legacy_key: Option<Uuid>,
    pub rule_id: Option<RuleId>,
    issued_on: Option<NaiveDate>,
    holder: Option<Holder>,
    state: Option<String>,
    uses: Option<i16>,
    valid_from: Option<DateTime<Utc>>,
    valid_until: Option<DateTime<Utc>>,
    redeemed_at: Option<DateTime<Utc>>,
    store_no: Option<StoreNo>,
    order_ref: Option<String>,
    amount: i64,
    discount: i64,
}

/// A coupon to be.
#[derive(Debug, Clone)]
pub struct Draft {
    pub ordinal: i64,
    pub line: i64,
    pub legacy_key: Uuid,
    pub rule: Arc<Rule>,
    pub day: Day,
    pub holder: Option<Holder>,
    pub why: Why,
    pub uses: i16,
    pub valid_from: DateTime<Utc>,
    pub valid_until: DateTime<Utc>,
    /// Of the last use; those before it are of the same.
    pub last: Option<LastUse>,
}

impl Draft {
    /// Where its coupon lies, and its uses.
    pub fn leaves(&self) -> impl Iterator<Item = Leaf> + use<> {
        let of_use = self.last.as_ref().map(|last| plan("redemption").leaf_i64(last.day.first_id()));
        [plan("coupon").leaf_i64(self.day.first_id())].into_iter().chain(of_use)
    }

    /// Whether its leaves take rows.
    ///
    /// # Errors
    /// `issue_day_unavailable`, `month_retired`
    pub fn check_leaves(&self, closed: &BTreeMap<Leaf, Closed>) -> Result<(), Bad> {
        match self.leaves().find_map(|leaf| closed.get(&leaf)) {
            None => Ok(()),
            Some(Closed::Absent) => Err((None, "issue_day_unavailable", "there is no partition for that month".into())),
            Some(Closed::Retired) => Err((None, "month_retired", "that month was retired, or is being so".into())),
        }
    }
}

/// A use as the file tells of it.
#[derive(Debug, Clone)]
pub struct LastUse {
    pub at: DateTime<Utc>,
    pub day: Day,
    pub store_no: StoreNo,
    pub order_ref: String,
    pub amount: i64,
    pub discount: i64,
}

type Wrong = (&'static str, Cow<'static, str>);

fn wrong(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Wrong {
    (code, detail.into())
}

impl Reading<'_> {
    /// # Errors
    /// What is wrong with a field.
    pub fn fields(&self, raw: Raw<'_>) -> Result<Fields, Bad> {
        let values = bulk::values(raw, self.columns.len())?;
        let mut fields = Fields { ordinal: raw.ordinal, line: raw.line, ..Fields::default() };
        for (at, (value, column)) in values.into_iter().zip(self.columns).enumerate() {
            let (Some(value), Some(column)) = (value, column) else { continue };
            self.take(&mut fields, column, &value).map_err(|(code, detail)| (Some(at), code, detail))?;
        }
        for (is_missing, code, detail) in [
            (fields.legacy_key.is_none(), "code_missing", "there is no old code"),
            (fields.rule_id.is_none(), "rule_not_found", "the row names no rule"),
            (fields.issued_on.is_none(), "date_invalid", "the row does not say when it was issued"),
        ] {
            if is_missing {
                return Err((None, code, detail.into()));
            }
        }
        Ok(fields)
    }

    fn take(&self, fields: &mut Fields, column: &Column, value: &str) -> Result<(), Wrong> {
        match column {
            Column::Code => {
                if self.codes.parse(value).is_ok() {
                    return Err(wrong("coupon_code_collides", "it passes the check of our own codes"));
                }
                let key = self.shapes.keys(self.secrets, value).into_iter().next();
                fields.legacy_key =
                    Some(key.ok_or(wrong("legacy_shape_unknown", "it has no shape that is registered"))?);
            }
            Column::RuleId => {
                let rule_id = value.parse().map_err(|_| wrong("rule_not_found", "it is no id of a rule"))?;
                fields.rule_id = Some(rule_id);
            }
            Column::IssuedOn => {
                let at = self.instant(value)?.0;
                fields.issued_on = Some(self.zone.day_of(at).to_date());
                if at > self.now {
                    return Err(wrong("date_invalid", "it is in the future"));
                }
            }
            Column::Holder(column) => {
                let holder = column.read(self.region, self.secrets, value);
                fields.holder = Some(holder.map_err(|why| wrong("identifier_invalid", why))?);
            }
            Column::State => fields.state = Some(value.to_ascii_lowercase()),
            Column::Uses => {
                let uses = value.parse().ok().filter(|uses| *uses >= 0);
                fields.uses = Some(uses.ok_or(wrong("value_invalid", "must be a number"))?);
            }
            Column::ValidFrom => fields.valid_from = Some(self.instant(value)?.0),
            // Of a day its end.
            Column::ValidUntil => fields.valid_until = Some(self.instant(value)?.1),
            Column::RedeemedAt => {
                let at = self.instant(value)?.0;
                if at > self.now {
                    return Err(wrong("date_invalid", "it is in the future"));
                }
                fields.redeemed_at = Some(at);
            }
            Column::Store => {
                let store_no = self.stores.get(value).copied();
                fields.store_no = Some(store_no.ok_or(wrong("store_not_found", "there is no such store"))?);
            }
            Column::OrderRef => {
                let order_ref = OrderRef::parse(value).map_err(|bad| wrong("value_invalid", bad.to_string()))?;
                fields.order_ref = Some(order_ref.into_string());
            }
            Column::Amount => fields.amount = money(value)?,
            Column::Discount => fields.discount = money(value)?,
        }
        Ok(())
    }

    /// A day, a time in the chain's zone, or an instant with its offset; with the end of what it names.
    fn instant(&self, value: &str) -> Result<(DateTime<Utc>, DateTime<Utc>), Wrong> {
        let bad = || wrong("date_invalid", "must be a day like 2026-11-22, or a time");
        let in_range = |at: DateTime<Utc>| {
            let day = self.zone.day_of(at);
            let last = Day::from_date(NaiveDate::from_ymd_opt(2099, 12, 31).expect("a day of the calendar"));
            if day < Day::EPOCH || day > last { Err(bad()) } else { Ok(at) }
        };
        if let Ok(at) = DateTime::parse_from_rfc3339(value) {
            let at = in_range(at.to_utc())?;
            return Ok((at, at));
        }
        if let Ok(date) = value.parse::<NaiveDate>() {
            let day = Day::from_date(date);
            let from = in_range(self.zone.start_of(day))?;
            return Ok((from, self.zone.start_of(day.plus(1))));
        }
        let formats = ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M"];
        let local =
            formats.iter().find_map(|format| NaiveDateTime::parse_from_str(value, format).ok()).ok_or_else(bad)?;
        let start = self.zone.start_of(Day::from_date(local.date()));
        let at = in_range(start + local.time().signed_duration_since(NaiveTime::MIN))?;
        Ok((at, at))
    }

    /// The coupon that a row is, by its rule.
    ///
    /// # Errors
    /// What does not fit.
    pub fn draft(&self, fields: Fields, rules: &HashMap<RuleId, Arc<Rule>>) -> Result<Draft, Bad> {
        let (ordinal, line) = (fields.ordinal, fields.line);
        let refuse = |column: Column, (code, detail): Wrong| {
            (self.columns.iter().position(|known| known.as_ref() == Some(&column)), code, detail)
        };
        let (Some(legacy_key), Some(rule_id), Some(issued_on)) = (fields.legacy_key, fields.rule_id, fields.issued_on)
        else {
            return Err((None, "row_malformed", "the row lacks what it needs".into()));
        };
        let rule = rules.get(&rule_id).cloned();
        let rule = rule.ok_or_else(|| refuse(Column::RuleId, wrong("rule_not_found", "there is no such rule")))?;
        let day = Day::from_date(issued_on);
        let start = self.zone.start_of(day);
        let window = rule.current.window(start, self.zone).ok();
        let until = fields.valid_until.or(window.map(|window| window.1));
        let valid_until =
            until.ok_or_else(|| refuse(Column::ValidUntil, wrong("date_invalid", "the rule had ended by then")))?;
        let valid_from = fields.valid_from.or(window.map(|window| window.0)).unwrap_or(start);
        if valid_until <= valid_from {
            return Err(refuse(Column::ValidUntil, wrong("date_invalid", "it is not after the begin")));
        }
        let (why, uses) =
            state(&fields, rule.current.uses, valid_until <= self.now).map_err(|bad| refuse(Column::State, bad))?;
        let last = if uses > 0 {
            let at = fields.redeemed_at;
            let at = at.ok_or_else(|| refuse(Column::RedeemedAt, wrong("date_invalid", "a use has a time")))?;
            let used_on = self.zone.day_of(at);
            if used_on < first_business_day(day) {
                return Err(refuse(Column::RedeemedAt, wrong("date_invalid", "it is before the issue")));
            }
            let store_no = fields.store_no;
            let store_no =
                store_no.ok_or_else(|| refuse(Column::Store, wrong("store_not_found", "a use has a store")))?;
            if fields.discount > fields.amount {
                return Err(refuse(Column::Discount, wrong("value_invalid", "it is more than the amount")));
            }
            let order_ref = fields.order_ref.unwrap_or_else(|| "imported".to_owned());
            let (amount, discount) = (fields.amount, fields.discount);
            Some(LastUse { at, day: used_on, store_no, order_ref, amount, discount })
        } else {
            None
        };
        let holder = fields.holder;
        Ok(Draft { ordinal, line, legacy_key, rule, day, holder, why, uses, valid_from, valid_until, last })
    }
}

fn money(value: &str) -> Result<i64, Wrong> {
    let money = value.parse().ok().filter(|money| (0..=1_000_000_000_000).contains(money));
    money.ok_or(wrong("value_invalid", "must be an amount in the smallest unit"))
}

/// What a row says of its state, held against the uses that its rule allows.
fn state(fields: &Fields, uses_max: i16, is_over: bool) -> Result<(Why, i16), Wrong> {
    let uses = fields.uses;
    let stated = fields.state.as_deref();
    let is_used = uses.unwrap_or(0) > 0 || fields.redeemed_at.is_some();
    match stated.unwrap_or(if is_used { "redeemed" } else { "issued" }) {
        "redeemed" => match uses.unwrap_or(uses_max) {
            uses if uses == uses_max || (stated.is_none() && (1..uses_max).contains(&uses)) => Ok((Why::Bring, uses)),
            _ => Err(wrong("value_invalid", format!("a coupon of this rule is redeemed with {uses_max} uses"))),
        },
        name @ ("issued" | "expired") => {
            let uses = uses.unwrap_or(0);
            if uses >= uses_max {
                return Err(wrong("value_invalid", format!("a coupon of this rule is redeemed with {uses_max} uses")));
            }
            if name == "expired" && !is_over {
                return Err(wrong("value_invalid", "it is valid still"));
            }
            Ok((Why::Bring, uses))
        }
        "void" if uses.unwrap_or(0) == 0 => Ok((Why::BringVoid, 0)),
        "void" => Err(wrong("value_invalid", "a coupon with uses is not void")),
        _ => Err(wrong("value_invalid", "must be issued, redeemed, void or expired")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_fits_the_uses_or_is_refused() {
        let of = |state: Option<&str>, uses: Option<i16>, redeemed: bool| Fields {
            state: state.map(str::to_owned),
            uses,
            redeemed_at: redeemed.then_some(DateTime::UNIX_EPOCH),
            ..Fields::default()
        };
        for (stated, uses, redeemed, uses_max, is_over, expected) in [
            (None, None, false, 1, false, Some((Why::Bring, 0))),
            (None, None, true, 2, false, Some((Why::Bring, 2))),
            (None, Some(1), true, 2, false, Some((Why::Bring, 1))),
            (Some("redeemed"), None, true, 1, false, Some((Why::Bring, 1))),
            (Some("redeemed"), Some(1), true, 2, false, None),
            (Some("redeemed"), Some(2), true, 2, false, Some((Why::Bring, 2))),
            (Some("issued"), Some(1), true, 2, false, Some((Why::Bring, 1))),
            (Some("issued"), Some(2), true, 2, false, None),
            (Some("expired"), None, false, 1, true, Some((Why::Bring, 0))),
            (Some("expired"), None, false, 1, false, None),
            (Some("void"), None, false, 1, false, Some((Why::BringVoid, 0))),
            (Some("void"), Some(1), true, 1, false, None),
            (Some("lost"), None, false, 1, false, None),
        ] {
            let read = state(&of(stated, uses, redeemed), uses_max, is_over).ok();
            assert_eq!(read, expected, "{stated:?} {uses:?} of {uses_max}");
        }
    }

    #[test]
    fn columns_are_known_and_those_that_are_needed_are_there() {
        let read = |header: &str| {
            let names: Vec<String> = header.split(',').map(str::to_owned).collect();
            columns(&names).map(|columns| columns.len()).map_err(|refusal| refusal.detail.unwrap_or_default())
        };
        assert_eq!(read("code,rule_id,issued_on,external:crm,-,state"), Ok(6));
        for bad in ["code,rule_id", "code,rule_id,issued_on,shoe", "code,code,rule_id,issued_on"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read("code,rule_id,issued_on,phone,member_id").is_err());
    }
}
