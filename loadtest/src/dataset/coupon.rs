//! Rules and coupons: what each is and what became of it, by its number.

use chrono::{DateTime, Utc};
use tessera::{
    coupon::{
        code::CodeKeys,
        rule::{Discount, GiftSku, Limit, Places, RuleVersion, Undo, Validity},
    },
    id::{CodeId, Day, RedemptionId, RuleId},
    member::State,
};

use super::{
    Dataset, Shape,
    chance::{below, draw},
    people::{rule_id, store_id},
    stream,
    time::{DAY, Days, HOUR, SECOND, instant},
};

/// The shape of old codes: so many digits.
pub const LEGACY_SHAPE: &str = "loadtest-13";
pub const LEGACY_ALPHABET: &str = "0123456789";
pub const LEGACY_LENGTH: i16 = 13;
pub(super) const LEGACY_CODES: u64 = 10_000_000_000_000;
/// Two coupons of a hundred were taken back, one of a hundred uses was.
const VOID_PERCENT: u64 = 2;
const REVERSED_PERCENT: u64 = 1;
/// What is not used within so many days is not used at all.
pub const USE_DAYS_MAX: i64 = 45;
/// No rule says more than that many coupons or that much money.
const AMPLE: i64 = 1_000_000_000_000;

/// A rule of the dataset: its one version, and what is needed of it for each coupon.
#[derive(Debug, Clone)]
pub struct Rule {
    pub rule_id: RuleId,
    pub version: RuleVersion,
    pub created_at: DateTime<Utc>,
    /// Of a hundred coupons that may be used, those that are.
    used_percent: u64,
    /// Days a coupon is good for, or the instant at which all end.
    days: Option<i32>,
    until: i64,
}

/// One of the dataset's coupons.
#[derive(Debug, Clone, PartialEq)]
pub struct Coupon {
    pub n: u64,
    /// Of `Dataset::rules`.
    pub rule: usize,
    /// A member by number; none holds an anonymous one.
    pub holder: Option<u64>,
    pub day: Day,
    pub issued_at: DateTime<Utc>,
    /// Exclusive.
    pub valid_until: DateTime<Utc>,
    pub fate: Fate,
    /// It has a code of an older system besides its own: [`Dataset::legacy_code`].
    pub is_legacy: bool,
    /// Where it was handed out, by number.
    pub issue_store: Option<u32>,
    pub referrer: Option<u32>,
    /// The bits of the stocks that it was taken from.
    pub counted: i16,
}

/// What became of a coupon up to [`Shape::at`].
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// Not used; whether it still may be is a matter of the time.
    Issued,
    Void,
    Redeemed(UseOf),
    /// Used, and taken back whole at that instant: it may be used again.
    Reversed(UseOf, DateTime<Utc>),
}

/// A use in the ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct UseOf {
    pub redemption_id: RedemptionId,
    pub at: DateTime<Utc>,
    pub day: Day,
    pub store: u32,
    pub register: u32,
    pub sequence: i32,
    /// Payable before the discount, smallest unit.
    pub amount: i64,
    pub discount: i64,
    /// The bits of the budgets that it was taken from.
    pub counted: i16,
}

impl UseOf {
    pub fn order_ref(&self) -> String {
        format!("{}-{}-{:04}", store_id(self.store), self.day.to_date().format("%Y%m%d"), self.sequence)
    }
}

impl Coupon {
    /// Whether a till may redeem it at that time, if its holder may.
    pub fn is_usable(&self, at: DateTime<Utc>) -> bool {
        matches!(self.fate, Fate::Issued | Fate::Reversed(..)) && self.valid_until > at
    }

    /// The number that the row carries.
    pub fn state(&self) -> i16 {
        match self.fate {
            Fate::Issued | Fate::Reversed(..) => 1,
            Fate::Redeemed(_) => 2,
            Fate::Void => 3,
        }
    }
}

/// The rules of a dataset, the one with most coupons first.
pub(super) fn rules(shape: &Shape, days: &Days, first: Day) -> Vec<Rule> {
    let created = days.start_of(first.number()) - 2 * HOUR;
    let fixed = days.start_of(shape.today().number() + 400);
    let one = |n: u32| {
        let chance = draw(shape.seed, stream::RULES, n.into());
        let validity = [7, 14, 30, 30, 60, 90][(chance % 6) as usize];
        let is_fixed = n % 10 == 4;
        let amount = [300, 500, 1_000, 2_000, 5_000][(chance >> 8) as usize % 5];
        let discount = match n % 8 {
            3 => Discount::PercentOff { basis_points: 1_000, cap: Some(amount * 2) },
            5 => Discount::FixedPrice { amount: 990 },
            6 => Discount::Gift { sku: GiftSku::parse("6901234567892").expect("a word"), amount: 990 },
            _ => Discount::AmountOff { amount },
        };
        let limit = |total, per_day, per_store| Limit {
            total: Some(AMPLE).filter(|_| total),
            per_day: Some(AMPLE).filter(|_| per_day),
            per_store: Some(AMPLE).filter(|_| per_store),
        };
        let rule_id = rule_id(created + i64::from(n) * SECOND / 1_000, n.into());
        let version = RuleVersion {
            rule_id,
            version: 1,
            name: format!("rule {n}"),
            discount,
            currency: "CNY".to_owned(),
            threshold: [0, amount * 3, amount * 5][(chance >> 16) as usize % 3],
            validity: match is_fixed {
                true => Validity::Fixed { from: None, until: instant(fixed) },
                false => Validity::DaysAfterIssue(validity),
            },
            stock: limit(n.is_multiple_of(3), n % 12 == 7, n % 16 == 9),
            budget: limit(n % 14 == 8, false, false),
            per_member: None,
            uses: 1,
            places: Places::default(),
            undo: Undo::default(),
            claimable: n % 5 == 2,
        };
        let days = (!is_fixed).then_some(validity);
        let used_percent = 10 + chance % 20;
        Rule { rule_id, version, created_at: instant(created), used_percent, days, until: fixed }
    };
    (0..shape.rules).map(one).collect()
}

impl Dataset {
    /// Coupon `n` of `0..shape.coupons`.
    pub fn coupon(&self, n: u64) -> Coupon {
        let month = &self.months[self.months.partition_point(|month| month.coupons.end <= n)];
        let (day, into_day) = month.issued(n);
        let issued = self.days.start_of(day.number()) + into_day;
        let rule_no = self.rule(n);
        let rule = &self.rules[rule_no];
        let until = rule.days.map_or(rule.until, |days| self.days.start_of(day.number() + days + 1));
        let holder = self.holder_of(n);
        let chance = self.draw(stream::ISSUE, n);
        let issue_store = (chance % 10 < 3).then(|| self.store_of.pick(chance.rotate_left(20)) as u32 + 1);
        Coupon {
            n,
            rule: rule_no,
            holder,
            day,
            issued_at: instant(issued),
            valid_until: instant(until),
            fate: self.fate(n, rule, issued, until),
            is_legacy: self.is_legacy(n),
            issue_store,
            referrer: ((chance >> 8).is_multiple_of(10)).then(|| below(chance.rotate_left(40), 5_000) as u32),
            counted: stocks(rule, issue_store),
        }
    }

    /// The day of the issue, which never goes back from one number to the next.
    pub fn issue_day(&self, n: u64) -> Day {
        self.months[self.months.partition_point(|month| month.coupons.end <= n)].issued(n).0
    }

    /// The first coupon that was issued on that day or later.
    pub fn first_issued(&self, day: Day) -> u64 {
        let (mut from, mut until) = (0, self.shape.coupons);
        while from < until {
            let middle = from + (until - from) / 2;
            if self.issue_day(middle) < day { from = middle + 1 } else { until = middle }
        }
        from
    }

    /// The rule of a coupon, of `Dataset::rules`.
    #[inline]
    pub fn rule(&self, n: u64) -> usize {
        self.rule_of.pick(self.draw(stream::RULE, n))
    }

    /// Whether it has a code of an older system.
    #[inline]
    pub fn is_legacy(&self, n: u64) -> bool {
        self.draw(stream::LEGACY, n).is_multiple_of(10)
    }

    fn fate(&self, n: u64, rule: &Rule, issued: i64, until: i64) -> Fate {
        let chance = self.draw(stream::FATE, n);
        if chance % 100 < VOID_PERCENT {
            return Fate::Void;
        }
        if (chance >> 8) % 100 >= rule.used_percent {
            return Fate::Issued;
        }
        // Most come soon, a few at the very end.
        let soon = (self.draw(stream::DELAY, n) >> 11) as f64 / (1_u64 << 53) as f64;
        let at = issued + ((until - issued).min(USE_DAYS_MAX * DAY) as f64 * soon * soon) as i64;
        if at + HOUR >= self.until {
            return Fate::Issued;
        }
        let used = self.use_of(n, rule, at);
        let reversed = at + HOUR;
        if (chance >> 24) % 100 < REVERSED_PERCENT && self.days.day_of(reversed) == used.day.number() {
            return Fate::Reversed(used, instant(reversed));
        }
        Fate::Redeemed(used)
    }

    fn use_of(&self, n: u64, rule: &Rule, at: i64) -> UseOf {
        let sale = self.draw(stream::SALE, n);
        let day = Day::from_number(self.days.day_of(at)).expect("a day of this century");
        let amount = rule.version.threshold + 1_000 + below(sale, 20_000) as i64;
        let number = self.shape.first_redemption + 2 * n as i64;
        UseOf {
            redemption_id: RedemptionId::from_parts(day, number).expect("numbers are leased within their range"),
            at: instant(at),
            day,
            store: self.store_of.pick(self.draw(stream::STORE, n)) as u32 + 1,
            register: 1 + (sale >> 32) as u32 % 6,
            sequence: 1 + (sale >> 40) as i32 % 9_999,
            amount,
            discount: rule.version.discount.on(amount),
            counted: if rule.version.budget.total.is_some() { 1 } else { 0 },
        }
    }

    /// The undo of a use, in the ledger.
    pub fn undo_id(&self, coupon: &Coupon, used: &UseOf) -> RedemptionId {
        let number = self.shape.first_redemption + 2 * coupon.n as i64 + 1;
        RedemptionId::from_parts(used.day, number).expect("numbers are leased within their range")
    }

    /// The id that a coupon has in all tables.
    pub fn code_id(&self, codes: &CodeKeys, coupon: &Coupon) -> CodeId {
        let counter = self.shape.first_serial + coupon.n as i64;
        codes.code_id(coupon.day, counter).expect("numbers are leased within their range")
    }

    /// The code as it is printed: its own, with the check.
    pub fn text(&self, codes: &CodeKeys, coupon: &Coupon) -> String {
        codes.format(self.code_id(codes, coupon))
    }

    /// The code of an older system that coupon `n` has if it [is one](Self::is_legacy).
    pub fn legacy_code(&self, n: u64) -> String {
        format!("{:013}", self.legacy.of(n))
    }

    /// The coupon of a ticket, if a till may redeem it. Tickets are numbers from 0 to `shape.coupons` and further, which
    /// begins again; no two of one round give the same coupon. Most tickets of a large dataset give none: it is quick to
    /// try the next.
    pub fn usable(&self, ticket: u64, at: DateTime<Utc>) -> Option<Coupon> {
        let n = self.tickets.of(ticket % self.shape.coupons);
        let may = |coupon: &Coupon| coupon.holder.is_none_or(|member| self.state_of(member) == State::Normal);
        Some(self.coupon(n)).filter(|coupon| coupon.is_usable(at) && may(coupon))
    }
}

fn stocks(rule: &Rule, store: Option<u32>) -> i16 {
    let limit = &rule.version.stock;
    1 | if limit.per_day.is_some() { 2 } else { 0 } | if limit.per_store.is_some() && store.is_some() { 4 } else { 0 }
}
