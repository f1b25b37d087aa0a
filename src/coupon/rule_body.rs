//! Rules as bodies say and show them.

mod currency;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use chrono::{DateTime, Datelike, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::currency::Currency;
use super::{
    decide::millis,
    rule::{CYCLES_MAX, Discount, Limit, Places, Rule, RuleState, RuleVersion, Undo, Validity},
};
use crate::{
    chain::{RegionId, StoreId},
    http::input::{Int, kept, nullable, present},
    id::{RuleId, StoreNo},
    problem::{Code, Refusal},
    text_type,
};

text_type! {
    /// What people call a rule. Whoever holds a coupon of it may read that.
    RuleName: text 1..=100, "10 off 50";
}

/// Stores or regions in one list of a rule; more are better said by a region.
pub const PLACES_MAX: usize = 2_000;

/// Money, or a number of coupons.
pub type Quantity = Int<0, 1_000_000_000_000>;

/// When the coupons of a rule may be used: from issue to the end of the n-th business day after it, or a fixed window.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ValidityBody {
    Relative(RelativeValidity),
    Fixed(FixedValidity),
}

#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RelativeValidity {
    #[serde(deserialize_with = "kept")]
    days_after_issue: Int<0, 3650>,
}

#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FixedValidity {
    /// From issue if absent.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    from: Option<DateTime<Utc>>,
    /// Exclusive.
    until: DateTime<Utc>,
}

/// As the database keeps an instant: in microseconds, and a leap second as the one after it.
pub fn whole(at: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(at.timestamp_micros()).unwrap_or(at)
}

impl ValidityBody {
    /// # Errors
    /// `invalid_field`
    fn read(&self) -> Result<Validity, Refusal> {
        let (from, until) = match self {
            Self::Relative(relative) => return Ok(Validity::DaysAfterIssue(relative.days_after_issue.get() as i32)),
            Self::Fixed(FixedValidity { from, until }) => (from.map(whole), whole(*until)),
        };
        if from.is_some_and(|from| from >= until) {
            return Err(Refusal::invalid_field("validity.until", "must be after from"));
        }
        for (field, at) in [("validity.from", from), ("validity.until", Some(until))] {
            if at.is_some_and(|at| !(2000..2090).contains(&at.year())) {
                return Err(Refusal::invalid_field(field, "must lie between the years 2000 and 2089"));
            }
        }
        Ok(Validity::Fixed { from, until })
    }
}

impl From<Validity> for ValidityBody {
    fn from(validity: Validity) -> Self {
        match validity {
            Validity::Fixed { from, until } => Self::Fixed(FixedValidity { from, until }),
            Validity::DaysAfterIssue(days) => Self::Relative(RelativeValidity {
                days_after_issue: Int::new(days.into()).expect("it was checked when the rule was made"),
            }),
        }
    }
}

/// Stores, by what tills call them. What is out is out, whatever is in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StoreLists {
    /// Only these, and those of `regions.in`; all if both are absent.
    #[serde(default, rename = "in", deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_items = 2000, min_items = 1)]
    pub only: Option<Vec<StoreId>>,
    #[serde(default, rename = "out", deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_items = 2000, min_items = 1)]
    pub never: Option<Vec<StoreId>>,
}

/// Regions, each with all stores in it and below it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegionLists {
    #[serde(default, rename = "in", deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_items = 2000, min_items = 1)]
    pub only: Option<Vec<RegionId>>,
    #[serde(default, rename = "out", deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_items = 2000, min_items = 1)]
    pub never: Option<Vec<RegionId>>,
}

/// How far a use may be taken back.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UndoBody {
    /// Days after the use; for ever if absent.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    days: Option<Int<0, 3650>>,
    /// Reversals of one coupon; 10 if absent.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    cycles: Option<Int<0, 1000>>,
}

impl UndoBody {
    fn read(&self) -> Undo {
        Undo {
            days: self.days.map(|days| days.get() as i32),
            cycles_max: self.cycles.map_or(CYCLES_MAX, |cycles| cycles.get() as i16),
        }
    }
}

/// A new rule.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRule {
    name: RuleName,
    discount: Discount,
    currency: Currency,
    /// Least payable amount, smallest unit; none if absent.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    threshold: Option<Quantity>,
    validity: ValidityBody,
    /// Coupons in all; unlimited if absent.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    stock: Option<Quantity>,
    /// Coupons issued in one business day.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    stock_per_day: Option<Quantity>,
    /// Coupons issued at one store; those issued without a store count for none.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    stock_per_store: Option<Quantity>,
    /// Money that uses may take off in all, smallest unit; a use that would exceed it is refused.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    budget: Option<Quantity>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    budget_per_day: Option<Quantity>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    budget_per_store: Option<Quantity>,
    /// Coupons one member may take; unlimited if absent.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    per_member: Option<Int<1, 1_000_000>>,
    /// Uses of each coupon; 1 if absent.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    uses: Option<Int<1, 1000>>,
    /// Where coupons may be used.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    stores: Option<StoreLists>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    regions: Option<RegionLists>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    reverse: Option<UndoBody>,
    /// Whether members may take coupons themselves; false if absent.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    claimable: Option<bool>,
    /// `draft` (the default) or `active`.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    state: Option<FirstState>,
}

/// What a rule may begin as.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FirstState {
    Draft,
    Active,
}

impl NewRule {
    pub fn state(&self) -> RuleState {
        match self.state {
            Some(FirstState::Active) => RuleState::Active,
            Some(FirstState::Draft) | None => RuleState::Draft,
        }
    }

    /// The stores that it names, for [`Self::read`].
    pub fn stores(&self) -> BTreeSet<&StoreId> {
        named(self.stores.as_ref())
    }

    /// The regions that it names, for [`Self::read`].
    pub fn regions(&self) -> BTreeSet<&str> {
        named_regions(self.regions.as_ref())
    }

    /// The first version.
    ///
    /// # Errors
    /// `invalid_field`, `store_not_found`, `region_not_found`.
    pub fn read(self, rule_id: RuleId, known: &Known) -> Result<RuleVersion, Refusal> {
        let limit = |total: Option<Quantity>, per_day: Option<Quantity>, per_store: Option<Quantity>| Limit {
            total: total.map(Int::get),
            per_day: per_day.map(Int::get),
            per_store: per_store.map(Int::get),
        };
        let version = RuleVersion {
            rule_id,
            version: 1,
            name: self.name.into_string(),
            discount: self.discount,
            currency: self.currency.into_string(),
            threshold: self.threshold.map_or(0, Int::get),
            validity: self.validity.read()?,
            stock: limit(self.stock, self.stock_per_day, self.stock_per_store),
            budget: limit(self.budget, self.budget_per_day, self.budget_per_store),
            per_member: self.per_member.map(|limit| limit.get() as i32),
            uses: self.uses.map_or(1, |uses| uses.get() as i16),
            places: places(self.stores.as_ref(), self.regions.as_ref(), known)?,
            undo: self.reverse.as_ref().map_or_else(Undo::default, UndoBody::read),
            claimable: self.claimable.unwrap_or(false),
        };
        check(&version)?;
        Ok(version)
    }
}

/// The stores and regions that there are, of those that a body names.
#[derive(Debug, Default)]
pub struct Known {
    pub stores: HashMap<String, StoreNo>,
    pub regions: BTreeSet<String>,
}

/// Whether what a version says goes together, whatever it was made of.
///
/// # Errors
/// `invalid_field`
fn check(version: &RuleVersion) -> Result<(), Refusal> {
    for (limit, name) in [(&version.stock, "stock"), (&version.budget, "budget")] {
        for (part, field) in [(limit.per_day, "per_day"), (limit.per_store, "per_store")] {
            if part.zip(limit.total).is_some_and(|(part, total)| part > total) {
                return Err(Refusal::invalid_field(&format!("{name}_{field}"), format!("is more than {name}")));
            }
        }
    }
    let Places { stores_in, regions_in, stores_out, regions_out } = &version.places;
    let nowhere = "leaves no store";
    match (stores_in, regions_in) {
        (Some(only), None) if only.iter().all(|store_no| stores_out.contains(store_no)) => {
            Err(Refusal::invalid_field("stores.out", nowhere))
        }
        (None, Some(only)) if only.iter().all(|region| regions_out.contains(region)) => {
            Err(Refusal::invalid_field("regions.out", nowhere))
        }
        _ => Ok(()),
    }
}

fn named(lists: Option<&StoreLists>) -> BTreeSet<&StoreId> {
    let Some(lists) = lists else { return BTreeSet::new() };
    lists.only.iter().flatten().chain(lists.never.iter().flatten()).collect()
}

fn named_regions(lists: Option<&RegionLists>) -> BTreeSet<&str> {
    let Some(lists) = lists else { return BTreeSet::new() };
    lists.only.iter().flatten().chain(lists.never.iter().flatten()).map(RegionId::as_str).collect()
}

/// # Errors
/// `store_not_found`, `region_not_found`; `invalid_field` for a list that is too long.
fn places(stores: Option<&StoreLists>, regions: Option<&RegionLists>, known: &Known) -> Result<Places, Refusal> {
    let numbered = |list: &Vec<StoreId>, field: &str| {
        check_length(list.len(), field)?;
        let number = |id: &StoreId| {
            known
                .stores
                .get(id.as_str())
                .copied()
                .ok_or_else(|| Refusal::new(Code::StoreNotFound).with("store_id", id.as_str()).with("field", field))
        };
        list.iter().map(number).collect::<Result<BTreeSet<_>, _>>().map(|set| set.into_iter().collect::<Vec<_>>())
    };
    let texts = |list: &Vec<RegionId>, field: &str| {
        check_length(list.len(), field)?;
        let set: BTreeSet<&str> = list.iter().map(RegionId::as_str).collect();
        if let Some(unknown) = set.iter().find(|id| !known.regions.contains(**id)) {
            return Err(Refusal::new(Code::RegionNotFound).with("region_id", *unknown).with("field", field));
        }
        Ok::<Vec<Arc<str>>, Refusal>(set.into_iter().map(Arc::from).collect())
    };
    let (stores_in, stores_out) = stores.map_or((None, None), |lists| (lists.only.as_ref(), lists.never.as_ref()));
    let (regions_in, regions_out) = regions.map_or((None, None), |lists| (lists.only.as_ref(), lists.never.as_ref()));
    Ok(Places {
        stores_in: stores_in.map(|list| numbered(list, "stores.in")).transpose()?,
        stores_out: stores_out.map(|list| numbered(list, "stores.out")).transpose()?.unwrap_or_default(),
        regions_in: regions_in.map(|list| texts(list, "regions.in")).transpose()?,
        regions_out: regions_out.map(|list| texts(list, "regions.out")).transpose()?.unwrap_or_default(),
    })
}

fn check_length(length: usize, field: &str) -> Result<(), Refusal> {
    if length == 0 || length > PLACES_MAX {
        return Err(Refusal::invalid_field(field, format!("must name 1 to {PLACES_MAX}")));
    }
    Ok(())
}

/// What to change of a rule; what is absent stays, and null takes a limit away. Coupons that are issued keep what they
/// were issued with; limits of stock and budget are the rule's and hold from now on.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RulePatch {
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    name: Option<RuleName>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    discount: Option<Discount>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    threshold: Option<Quantity>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    validity: Option<ValidityBody>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<Quantity>)]
    stock: Option<Option<Quantity>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<Quantity>)]
    stock_per_day: Option<Option<Quantity>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<Quantity>)]
    stock_per_store: Option<Option<Quantity>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<Quantity>)]
    budget: Option<Option<Quantity>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<Quantity>)]
    budget_per_day: Option<Option<Quantity>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<Quantity>)]
    budget_per_store: Option<Option<Quantity>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<Int<1, 1_000_000>>)]
    per_member: Option<Option<Int<1, 1_000_000>>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    uses: Option<Int<1, 1000>>,
    /// The lists as a whole; null is everywhere.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<StoreLists>)]
    stores: Option<Option<StoreLists>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<RegionLists>)]
    regions: Option<Option<RegionLists>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    reverse: Option<UndoBody>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    claimable: Option<bool>,
}

impl RulePatch {
    /// The stores that it names, for [`Self::apply`].
    pub fn stores(&self) -> BTreeSet<&StoreId> {
        named(self.stores.as_ref().and_then(Option::as_ref))
    }

    /// The regions that it names, for [`Self::apply`].
    pub fn regions(&self) -> BTreeSet<&str> {
        named_regions(self.regions.as_ref().and_then(Option::as_ref))
    }

    /// The version that follows `before`, with the same number if nothing changes.
    ///
    /// # Errors
    /// `invalid_field`, `store_not_found`, `region_not_found`.
    pub fn apply(&self, before: &RuleVersion, known: &Known) -> Result<RuleVersion, Refusal> {
        let mut after = before.clone();
        if let Some(name) = &self.name {
            after.name = name.as_str().to_owned();
        }
        if let Some(discount) = &self.discount {
            after.discount = discount.clone();
        }
        if let Some(threshold) = self.threshold {
            after.threshold = threshold.get();
        }
        if let Some(validity) = &self.validity {
            after.validity = validity.read()?;
        }
        for (limit, patch) in [
            (&mut after.stock.total, self.stock),
            (&mut after.stock.per_day, self.stock_per_day),
            (&mut after.stock.per_store, self.stock_per_store),
            (&mut after.budget.total, self.budget),
            (&mut after.budget.per_day, self.budget_per_day),
            (&mut after.budget.per_store, self.budget_per_store),
        ] {
            if let Some(quantity) = patch {
                *limit = quantity.map(Int::get);
            }
        }
        if let Some(limit) = self.per_member {
            after.per_member = limit.map(|limit| limit.get() as i32);
        }
        if let Some(uses) = self.uses {
            after.uses = uses.get() as i16;
        }
        if let Some(lists) = &self.stores {
            let Places { stores_in, stores_out, .. } = places(lists.as_ref(), None, known)?;
            (after.places.stores_in, after.places.stores_out) = (stores_in, stores_out);
        }
        if let Some(lists) = &self.regions {
            let Places { regions_in, regions_out, .. } = places(None, lists.as_ref(), known)?;
            (after.places.regions_in, after.places.regions_out) = (regions_in, regions_out);
        }
        if let Some(undo) = &self.reverse {
            after.undo = undo.read();
        }
        if let Some(claimable) = self.claimable {
            after.claimable = claimable;
        }
        if after != *before {
            check(&after)?;
            after.version += 1;
        }
        Ok(after)
    }
}

/// A rule.
#[derive(Debug, Serialize, ToSchema)]
pub struct RuleView {
    rule_id: RuleId,
    /// Counts what the rule has said; a coupon keeps the version it was issued with.
    version: i32,
    state: RuleState,
    name: String,
    discount: Discount,
    currency: String,
    threshold: i64,
    validity: ValidityBody,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    stock: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    stock_per_day: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    stock_per_store: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    budget: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    budget_per_day: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    budget_per_store: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    per_member: Option<i32>,
    uses: i16,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    stores: Option<StoreLists>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    regions: Option<RegionLists>,
    reverse: UndoBody,
    claimable: bool,
    #[serde(serialize_with = "millis")]
    created_at: DateTime<Utc>,
    #[serde(serialize_with = "millis")]
    updated_at: DateTime<Utc>,
}

impl RuleView {
    /// The stores that a rule names, for [`Self::new`].
    pub fn stores(rule: &Rule) -> BTreeSet<StoreNo> {
        let places = &rule.current.places;
        places.stores_in.iter().flatten().chain(&places.stores_out).copied().collect()
    }

    /// `names` holds the stores that the rule names.
    pub fn new(rule: &Rule, names: &HashMap<StoreNo, Arc<str>>) -> Self {
        let version: &RuleVersion = &rule.current;
        let stores = |list: &[StoreNo]| {
            let known = list.iter().filter_map(|no| names.get(no));
            known.filter_map(|name| StoreId::parse(name.to_string()).ok()).collect::<Vec<_>>()
        };
        let regions =
            |list: &[Arc<str>]| list.iter().filter_map(|id| RegionId::parse(id.to_string()).ok()).collect::<Vec<_>>();
        let places = &version.places;
        let store_lists = StoreLists {
            only: places.stores_in.as_deref().map(stores),
            never: (!places.stores_out.is_empty()).then(|| stores(&places.stores_out)),
        };
        let region_lists = RegionLists {
            only: places.regions_in.as_deref().map(regions),
            never: (!places.regions_out.is_empty()).then(|| regions(&places.regions_out)),
        };
        Self {
            rule_id: version.rule_id,
            version: version.version,
            state: rule.state,
            name: version.name.clone(),
            discount: version.discount.clone(),
            currency: version.currency.clone(),
            threshold: version.threshold,
            validity: version.validity.into(),
            stock: version.stock.total,
            stock_per_day: version.stock.per_day,
            stock_per_store: version.stock.per_store,
            budget: version.budget.total,
            budget_per_day: version.budget.per_day,
            budget_per_store: version.budget.per_store,
            per_member: version.per_member,
            uses: version.uses,
            stores: (store_lists != StoreLists::default()).then_some(store_lists),
            regions: (region_lists != RegionLists::default()).then_some(region_lists),
            reverse: UndoBody {
                days: version.undo.days.and_then(|days| Int::new(days.into())),
                cycles: Int::new(version.undo.cycles_max.into()),
            },
            claimable: version.claimable,
            created_at: rule.created_at,
            updated_at: rule.updated_at,
        }
    }
}

#[cfg(test)]
mod tests;
