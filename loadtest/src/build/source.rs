//! Where the rows of a leaf come from: walks over members or coupons by number that give the rows of some leaves of a table.
//!
//! A walk costs little for what it passes over: the leaf is known from an id or a rule, and only for the leaves that are
//! asked for is a row made, encrypted and encoded. Rows come in the order in which the API would have written them, that
//! of time, so that what lies together in a built table lies together in a grown one.

use std::ops::Range;

use tessera::{
    db::copy::CopyRows,
    id::Day,
    partition::{Leaf, plan},
};
use tokio::sync::mpsc;

use super::rows::{self, Maker};
use crate::dataset::{Dataset, Fate, Rule, USE_DAYS_MAX};

/// Bytes of one leaf that are sent together; the server reads a message at a time.
const SEND_BYTES: usize = 128 << 10;

/// Days of which the API's numbers and events are there, as upkeep keeps them.
const REQUEST_DAYS: i32 = 36;
const EVENT_DAYS: i32 = 7;

/// Walks, by what they give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Members,
    Auths,
    Keys,
    Registrations,
    Coupons,
    Received,
    Index,
    History,
    Taken,
    Uses,
    /// Request numbers of uses with their answers, while they are kept.
    Requests,
    Events,
}

/// All walks: the long ones first, and at the end those of a leaf each, so that the cores end together.
pub const SOURCES: [Source; 12] = [
    Source::Index,
    Source::Received,
    Source::Uses,
    Source::Members,
    Source::Taken,
    Source::Keys,
    Source::History,
    Source::Auths,
    Source::Requests,
    Source::Events,
    Source::Coupons,
    Source::Registrations,
];

/// Whoever takes the rows is gone.
#[derive(Debug)]
pub struct Gone;

/// Rows on their way to leaves.
pub struct Out {
    leaves: Vec<Leaf>,
    rows: Vec<CopyRows>,
    to: mpsc::Sender<(usize, Vec<u8>, u64)>,
    told: Vec<u64>,
}

impl Out {
    pub fn new(columns: &'static [&'static str], leaves: &[Leaf], to: mpsc::Sender<(usize, Vec<u8>, u64)>) -> Self {
        let rows = leaves.iter().map(|_| CopyRows::new(columns)).collect();
        Self { leaves: leaves.to_vec(), rows, to, told: vec![0; leaves.len()] }
    }

    /// Where rows of this leaf go, if they are asked for.
    fn place(&self, leaf: Leaf) -> Option<usize> {
        self.leaves.iter().position(|wanted| wanted.no == leaf.no)
    }

    fn put(&mut self, at: usize, write: impl FnOnce(&mut CopyRows)) -> Result<(), Gone> {
        write(&mut self.rows[at]);
        if self.rows[at].bytes() >= SEND_BYTES { self.send(at) } else { Ok(()) }
    }

    fn send(&mut self, at: usize) -> Result<(), Gone> {
        let news = self.rows[at].len() - self.told[at];
        self.told[at] += news;
        let bytes = self.rows[at].drain();
        self.to.blocking_send((at, bytes, news)).map_err(|_| Gone)
    }

    /// Sends what is left: of an empty leaf the header.
    fn finish(mut self) -> Result<(), Gone> {
        (0..self.leaves.len()).try_for_each(|at| self.send(at))
    }
}

impl Source {
    pub const fn table(self) -> &'static str {
        match self {
            Self::Members => "member",
            Self::Auths => "member_auth",
            Self::Keys => "member_key",
            Self::Registrations => "register_log",
            Self::Coupons => "coupon",
            Self::Received => "coupon_receive",
            Self::Index => "coupon_index",
            Self::History => "coupon_history_index",
            Self::Taken => "member_rule",
            Self::Uses => "redemption",
            Self::Requests => "request",
            Self::Events => "event",
        }
    }

    pub const fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Members => rows::MEMBER,
            Self::Auths => rows::MEMBER_AUTH,
            Self::Keys => rows::MEMBER_KEY,
            Self::Registrations => rows::REGISTER_LOG,
            Self::Coupons => rows::COUPON,
            Self::Received => rows::COUPON_RECEIVE,
            Self::Index => rows::COUPON_INDEX,
            Self::History => rows::COUPON_HISTORY_INDEX,
            Self::Taken => rows::MEMBER_RULE,
            Self::Uses => rows::REDEMPTION,
            Self::Requests => rows::REQUEST,
            Self::Events => rows::EVENT,
        }
    }

    /// Leaves that one walk of so many at a time fills together. Where every walk asks each member or coupon for its leaf,
    /// which costs about as much as to make its row, a table has one walk, or one for two cores; one leaf where its rows are
    /// known from its month.
    pub const fn leaves_together(self, leaves: usize, at_once: usize) -> usize {
        match self {
            Self::Registrations | Self::Coupons => 1,
            _ if at_once < 4 => leaves,
            _ => leaves.div_ceil(at_once / 2),
        }
    }

    /// The leaves that the rows of a dataset are in.
    pub fn leaves(self, dataset: &Dataset) -> Vec<Leaf> {
        let plan = plan(self.table());
        match self {
            Self::Registrations | Self::Coupons | Self::Uses => {
                dataset.months.iter().map(|month| plan.leaf_date(month.first_day.to_date())).collect()
            }
            Self::Requests => last_days(dataset, REQUEST_DAYS).map(|day| plan.leaf_date(day.to_date())).collect(),
            Self::Events => last_days(dataset, EVENT_DAYS).map(|day| plan.leaf_date(day.to_date())).collect(),
            _ => plan.hash_leaves().collect(),
        }
    }

    /// How many rows there are, about.
    pub fn rows(self, dataset: &Dataset) -> u64 {
        let (members, coupons, held) = (dataset.shape.members, dataset.shape.coupons, dataset.held());
        match self {
            Self::Members => members,
            Self::Auths => members * 6 / 10,
            Self::Keys => members * 21 / 10,
            Self::Registrations => members / 3,
            Self::Coupons | Self::Index => coupons,
            Self::Received => held,
            Self::History => coupons / 10,
            Self::Taken => held * 75 / 100,
            Self::Uses => coupons * 18 / 100,
            Self::Requests => coupons * 8 / 1_000,
            Self::Events => coupons * 2 / 1_000,
        }
    }

    /// Walks, and gives the rows of the leaves that `out` takes.
    ///
    /// # Errors
    /// [`Gone`]
    pub fn walk(self, maker: &Maker<'_>, mut out: Out) -> Result<(), Gone> {
        match self {
            Self::Members | Self::Auths | Self::Taken | Self::Keys | Self::Registrations => {
                self.walk_members(maker, &mut out)?;
            }
            Self::Coupons | Self::Received | Self::Index | Self::History => self.walk_coupons(maker, &mut out)?,
            Self::Uses | Self::Requests | Self::Events => self.walk_uses(maker, &mut out)?,
        }
        out.finish()
    }

    fn walk_members(self, maker: &Maker<'_>, out: &mut Out) -> Result<(), Gone> {
        let (dataset, plan) = (maker.dataset(), plan(self.table()));
        let all = match self {
            Self::Registrations => registrations(dataset, out.leaves[0]),
            _ => 0..dataset.shape.members,
        };
        for n in all {
            if self == Self::Keys {
                let mut full = Ok(());
                maker.keys(&dataset.member(n), |key, write| {
                    if let Some(at) = out.place(plan.leaf_uuid(key)) {
                        full = std::mem::replace(&mut full, Ok(())).and_then(|()| out.put(at, write));
                    }
                });
                full?;
                continue;
            }
            let key = match self {
                Self::Registrations => {
                    let member = dataset.member(n);
                    if !member.is_logged() {
                        continue;
                    }
                    maker.log_id(&member)
                }
                _ => dataset.member_id(n).get(),
            };
            let Some(at) = out.place(plan.leaf_i64(key)) else { continue };
            out.put(at, |rows| match self {
                Self::Members => maker.member(&dataset.member(n), rows),
                Self::Auths => maker.auths(&dataset.member(n), rows),
                Self::Taken => maker.taken(n, rows),
                _ => maker.log(&dataset.member(n), rows),
            })?;
        }
        Ok(())
    }

    fn walk_coupons(self, maker: &Maker<'_>, out: &mut Out) -> Result<(), Gone> {
        let (dataset, plan) = (maker.dataset(), plan(self.table()));
        let all = match self {
            Self::Coupons => {
                let leaf = out.leaves[0];
                let month = dataset.months.iter().find(|month| plan.leaf_date(month.first_day.to_date()) == leaf);
                month.map_or(0..0, |month| month.coupons.clone())
            }
            _ => 0..dataset.shape.coupons,
        };
        let of_rule = |rule: &Rule| out.place(plan.leaf_i64(rule.rule_id.get()));
        let by_rule: Vec<Option<usize>> =
            if self == Self::Index { dataset.rules.iter().map(of_rule).collect() } else { Vec::new() };
        for n in all {
            match self {
                Self::Received => {
                    let Some(holder) = dataset.holder_of(n) else { continue };
                    let holder = dataset.member_id(holder).get();
                    let Some(at) = out.place(plan.leaf_i64(holder)) else { continue };
                    out.put(at, |rows| maker.receive(&dataset.coupon(n), holder, rows))?;
                }
                Self::Index => {
                    let Some(at) = by_rule[dataset.rule(n)] else { continue };
                    out.put(at, |rows| maker.index(&dataset.coupon(n), rows))?;
                }
                Self::History => {
                    if !dataset.is_legacy(n) {
                        continue;
                    }
                    let key = maker.legacy_key(n);
                    let Some(at) = out.place(plan.leaf_uuid(key)) else { continue };
                    out.put(at, |rows| maker.history(&dataset.coupon(n), key, rows))?;
                }
                _ => out.put(0, |rows| maker.coupon(&dataset.coupon(n), rows))?,
            }
        }
        Ok(())
    }

    fn walk_uses(self, maker: &Maker<'_>, out: &mut Out) -> Result<(), Gone> {
        let (dataset, plan) = (maker.dataset(), plan(self.table()));
        for n in issued_for_uses(dataset, &out.leaves) {
            let coupon = dataset.coupon(n);
            let (Fate::Redeemed(used) | Fate::Reversed(used, _)) = &coupon.fate else { continue };
            let leaf = match self {
                Self::Requests => plan.leaf_date(used.day.to_date()),
                Self::Events => plan.leaf_date(used.at.date_naive()),
                _ => plan.leaf_i64(used.redemption_id.get()),
            };
            let Some(at) = out.place(leaf) else { continue };
            out.put(at, |rows| match self {
                Self::Requests => maker.request(&coupon, used, rows),
                Self::Events => maker.event(&coupon, used, rows),
                _ => maker.uses(&coupon, rows),
            })?;
        }
        Ok(())
    }
}

/// The members that may have a row in that month of the log. Days of the log are UTC's.
fn registrations(dataset: &Dataset, leaf: Leaf) -> Range<u64> {
    let at = |day: Option<chrono::NaiveDate>| day.unwrap_or_default();
    let midnight = |day: chrono::NaiveDate| day.and_time(chrono::NaiveTime::MIN).and_utc();
    dataset.registered_between(midnight(at(leaf.first_day())), midnight(at(leaf.end_day())))
}

/// The coupons that may have been used on the days of these leaves, which are in order.
fn issued_for_uses(dataset: &Dataset, leaves: &[Leaf]) -> Range<u64> {
    let (first, end) =
        (leaves.first().and_then(|leaf| leaf.first_day()), leaves.last().and_then(|leaf| leaf.end_day()));
    let (Some(first), Some(end)) = (first, end) else { return 0..0 };
    let earliest = Day::from_date(first).plus(-(USE_DAYS_MAX as i32) - 1);
    // A UTC day may be a day later in the chain's zone.
    dataset.first_issued(earliest)..dataset.first_issued(Day::from_date(end).plus(1))
}

/// The last so many days up to today.
fn last_days(dataset: &Dataset, days: i32) -> impl Iterator<Item = Day> {
    let today = dataset.shape.today();
    (1 - days..=0).map(move |ago| today.plus(ago))
}
