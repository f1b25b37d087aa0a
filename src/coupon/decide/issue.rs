//! Issuing coupons.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;

use super::{check_standing, head_of, hold::take_of_member, limit::take_stock, millis};
use crate::{
    coupon::{
        Coupon, State, StateName,
        answer::by_id,
        rule::{RuleState, RuleVersion},
        world::World,
    },
    event::{Kind as EventKind, NewEvent},
    id::{CodeId, Day, EventId, MemberId, StoreNo},
    member::state::Action,
    problem::{Code, Refusal},
};

/// Coupons of a rule are issued, all or none.
#[derive(Debug, Clone)]
pub struct Issue {
    /// The version that the codes were minted for; they are issued with the current one.
    pub rule: Arc<RuleVersion>,
    /// Minted beforehand, for this day.
    pub code_ids: Vec<CodeId>,
    pub day: Day,
    pub event_id: EventId,
    pub member_id: Option<MemberId>,
    /// Whose stock they are taken from, when stores have their own.
    pub store_no: Option<StoreNo>,
    pub referrer: Option<String>,
    /// The member takes it without being given it.
    pub claimed: bool,
    /// An instant of the past that they are issued at; now if absent.
    pub issued_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = Issued)]
pub struct Issued {
    pub coupons: Vec<IssuedCoupon>,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct IssuedCoupon {
    #[serde(serialize_with = "by_id")]
    #[schema(value_type = String)]
    pub code: CodeId,
    pub state: StateName,
    #[serde(serialize_with = "millis")]
    pub valid_from: DateTime<Utc>,
    /// Exclusive.
    #[serde(serialize_with = "millis")]
    pub valid_until: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member_id: Option<MemberId>,
}

/// Issues coupons, all or none.
///
/// # Errors
/// `member_not_found`, `member_frozen`, `member_cancelled`, `rule_not_active`, `rule_not_claimable`,
/// `month_retired`, `stock_exhausted`, `member_limit_reached`.
pub fn issue(world: &mut World, op: &Issue) -> Result<Issued, Refusal> {
    if let Some(member_id) = op.member_id {
        let action = if op.claimed { Action::Claim } else { Action::BeIssued };
        check_standing(world.members.get(&member_id), member_id, action)?;
    }
    let head = head_of(world, op.rule.rule_id);
    let rule = Arc::clone(&head.current);
    if head.state != RuleState::Active {
        return Err(Refusal::new(Code::RuleNotActive).with("rule_state", head.state.name()));
    }
    if op.claimed && !rule.claimable {
        return Err(Code::RuleNotClaimable.into());
    }
    let issued_at = op.issued_at.unwrap_or(world.now);
    let (valid_from, valid_until) = rule.window(issued_at, world.zone)?;
    world.check_month("coupon", "issued_on", op.day)?;
    let count = op.code_ids.len() as i64;
    let counted = world.attempt(&[], &[rule.rule_id], |world| {
        let counted = take_stock(world, &rule, op.day, op.store_no, count)?;
        if let Some(member_id) = op.member_id {
            take_of_member(world, rule.rule_id, member_id, count)?;
        }
        Ok(counted)
    })?;
    let mut coupons = Vec::with_capacity(op.code_ids.len());
    for code_id in &op.code_ids {
        let coupon = Coupon {
            code_id: *code_id,
            rule_id: rule.rule_id,
            rule_version: rule.version,
            holder: op.member_id,
            issued_at,
            valid_from,
            valid_until,
            state: State::Issued { lock: None },
            uses: 0,
            cycles: 0,
            counted,
            last_use: None,
            issue_store_no: op.store_no,
            referrer: op.referrer.clone(),
            legacy_key: None,
            void_reason: None,
        };
        coupons.push(IssuedCoupon {
            code: *code_id,
            state: coupon.state_name(world.now),
            valid_from,
            valid_until,
            member_id: op.member_id,
        });
        world.changed.new_coupons.push(coupon);
    }
    world.changed.events.push(NewEvent {
        event_id: op.event_id,
        kind: EventKind::CouponsIssued,
        subject: rule.rule_id.get(),
        body: json!({
            "rule_id": rule.rule_id,
            "rule_version": rule.version,
            "member_id": op.member_id,
            "count": count,
            "codes": op.code_ids.iter().take(1).collect::<Vec<_>>(),
        }),
    });
    Ok(Issued { coupons })
}
