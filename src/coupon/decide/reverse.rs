//! Taking a use back: whole, by lines, or by an amount of returned goods.

use std::sync::Arc;

use chrono::{DateTime, Days, Utc};
use serde::Serialize;

use super::{
    Place,
    limit::{Part, give_money},
    millis, note,
    redeem::Line,
    rule_of,
};
use crate::{
    coupon::{
        State, StateName,
        answer::by_id,
        instant,
        world::{LedgerKind, Redemption, World},
    },
    event::Kind as EventKind,
    id::{CodeId, EventId, RedemptionId},
    problem::{Code, Refusal},
};

/// A till takes a use back.
#[derive(Debug, Clone)]
pub struct Reverse {
    pub code_id: CodeId,
    /// The use to undo.
    pub redemption_id: RedemptionId,
    /// Of the new ledger row.
    pub reversal_id: RedemptionId,
    pub event_id: EventId,
    pub place: Place,
    pub order_ref: Option<String>,
    pub returned: Returned,
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Returned {
    /// All that has not come back yet.
    Whole,
    /// Lines of the sale, as the use named them.
    Lines(Vec<String>),
    /// So much of the amount, of a use that named no lines; smallest unit.
    Amount(i64),
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = Reversed)]
pub struct Reversed {
    /// The ledger row of the undo.
    pub redemption_id: RedemptionId,
    /// The use that was undone.
    pub reverses: RedemptionId,
    #[serde(serialize_with = "by_id")]
    #[schema(value_type = String)]
    pub code: CodeId,
    pub state: StateName,
    /// Taken back, smallest unit.
    pub discount: i64,
    /// Of the amount of the use, what has come back so far, smallest unit.
    pub returned: i64,
    /// Everything has come back, and the use is on the coupon again.
    pub whole: bool,
    /// The lines that come back now, of a use that named lines.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<Line>,
    pub currency: String,
    pub uses: i16,
    pub uses_max: i16,
    /// The coupon's time ran out meanwhile: the use is back, and cannot be spent.
    pub expired: bool,
    #[serde(serialize_with = "millis")]
    pub reversed_at: DateTime<Utc>,
    #[schema(value_type = String)]
    pub store_id: Arc<str>,
}

/// Takes a use back.
///
/// # Errors
/// `coupon_not_found`, `coupon_void`, `redemption_not_found`, `redemption_already_reversed`, `reverse_too_late`,
/// `reverse_cycles_exceeded`, `redemption_line_unknown`, `redemption_line_reversed`, `reverse_amount_exceeded`,
/// `coupon_not_redeemed`.
pub fn reverse(world: &mut World, op: &Reverse) -> Result<Reversed, Refusal> {
    let coupon = world.coupons.get(&op.code_id).cloned().ok_or_else(|| world.missing(op.code_id))?;
    if coupon.state == State::Void {
        return Err(Code::CouponVoid.into());
    }
    let used = world
        .redemptions
        .get(&op.redemption_id)
        .filter(|row| row.code_id == op.code_id && row.kind == LedgerKind::Redeem)
        .cloned()
        .ok_or(Code::RedemptionNotFound)?;
    if used.reversed_whole {
        return Err(Code::RedemptionAlreadyReversed.into());
    }
    let rule = rule_of(world, &coupon);
    let used_at = used.occurred_at.unwrap_or(used.recorded_at);
    if let Some(until) = rule.undo.days.and_then(|days| used_at.checked_add_days(Days::new(days.max(0) as u64)))
        && world.now > until
    {
        return Err(Refusal::new(Code::ReverseTooLate).with("reversible_until", instant(until)));
    }
    if coupon.cycles >= rule.undo.cycles_max {
        return Err(Refusal::new(Code::ReverseCyclesExceeded).with("cycles", coupon.cycles));
    }
    world.check_month("redemption", "business_date", op.reversal_id.day())?;
    let (undone, lines) = take_back(&used, &op.returned)?;
    let discount = undone.reversed - used.reversed;
    let after = if undone.reversed_whole { coupon.clone().reverse(op.redemption_id)? } else { coupon.clone() };
    give_money(
        world,
        used.rule_id,
        &Part::counted(used.counted, used.redemption_id.day(), Some(used.store_no)),
        discount,
    );
    let done = Reversed {
        redemption_id: op.reversal_id,
        reverses: op.redemption_id,
        code: op.code_id,
        state: after.state_name(world.now),
        discount,
        returned: undone.returned,
        whole: undone.reversed_whole,
        lines: lines.clone(),
        currency: rule.currency.clone(),
        uses: after.uses,
        uses_max: rule.uses,
        expired: after.valid_until <= world.now,
        reversed_at: world.now,
        store_id: Arc::clone(&op.place.store_id),
    };
    let row = Redemption {
        redemption_id: op.reversal_id,
        kind: LedgerKind::Reverse,
        recorded_at: world.now,
        occurred_at: None,
        amount: undone.returned - used.returned,
        discount,
        reverses: Some(op.redemption_id),
        reversed: 0,
        returned: 0,
        reversed_whole: undone.reversed_whole,
        lines,
        store_no: op.place.store_no,
        register: op.place.register.clone(),
        sequence: op.place.sequence,
        order_ref: op.order_ref.clone().unwrap_or_else(|| used.order_ref.clone()),
        ..used
    };
    note(world, op.event_id, EventKind::CouponReversed, op.code_id, &row, &op.place.store_id);
    world.changed.redemptions.insert(undone.redemption_id);
    let whole = undone.reversed_whole;
    world.redemptions.insert(undone.redemption_id, undone);
    world.changed.new_redemptions.push(row);
    if whole {
        world.put_coupon(after);
    }
    Ok(done)
}

/// The use with what comes back noted on it, and the lines that come back.
///
/// # Errors
/// `redemption_line_unknown`, `redemption_line_reversed`, `reverse_amount_exceeded`.
fn take_back(used: &Redemption, returned: &Returned) -> Result<(Redemption, Vec<Line>), Refusal> {
    let mut after = used.clone();
    let mut back = Vec::new();
    match returned {
        Returned::Whole => {
            for line in after.lines.iter_mut().filter(|line| !line.returned) {
                back.push(line.clone());
                line.returned = true;
            }
            (after.returned, after.reversed) = (used.amount, used.discount);
        }
        Returned::Lines(names) => {
            for name in names {
                let unknown = || Refusal::new(Code::RedemptionLineUnknown).with("line", name.as_str());
                let line = after.lines.iter_mut().find(|line| line.line == *name).ok_or_else(unknown)?;
                if line.returned {
                    return Err(Refusal::new(Code::RedemptionLineReversed).with("line", name.as_str()));
                }
                back.push(line.clone());
                line.returned = true;
                after.returned += line.amount;
                after.reversed += line.discount;
            }
        }
        Returned::Amount(amount) => {
            let left = used.amount - used.returned;
            let refusal = || Refusal::new(Code::ReverseAmountExceeded).with("left", left);
            if !used.lines.is_empty() {
                return Err(refusal().detail("the use named its lines: those that come back are to be named"));
            }
            if *amount > left {
                return Err(refusal());
            }
            after.returned += amount;
            let share = i128::from(used.discount) * i128::from(after.returned) / i128::from(used.amount.max(1));
            after.reversed = i64::try_from(share).expect("a share is no larger than the discount");
        }
    }
    let all_lines = after.lines.iter().all(|line| line.returned);
    after.reversed_whole = after.returned == used.amount && all_lines;
    if after.reversed_whole {
        after.reversed = used.discount;
    }
    Ok((after, back))
}
