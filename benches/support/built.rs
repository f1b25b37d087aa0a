//! A dataset that was built before (`loadtest build`), in whose place the flat tables have rows by formula.

use std::{path::Path, sync::Arc};

use chrono::{DateTime, Utc};
use loadtest::dataset::{BuildRate, Coupon, Dataset, Manifest};
use tessera::{
    clock::Clock,
    coupon::{code::CodeKeys, rule::Discount},
    id::{CodeId, MemberId, RuleId},
    member::key::{Identifier, Kind},
    secret::SecretFile,
};

use super::stage::Stage;

/// What tills of the benches ask a coupon for.
pub const AMOUNT: i64 = 8_000;

pub struct Built {
    pub dataset: Dataset,
    pub secrets: SecretFile,
    pub rate: Option<BuildRate>,
    codes: Arc<CodeKeys>,
    at: DateTime<Utc>,
}

impl Built {
    /// From a `dataset.json`.
    pub fn load(manifest: &Path) -> Self {
        let manifest = Manifest::load(manifest).unwrap_or_else(|error| panic!("{error:#}"));
        let place = manifest.secrets_file.expect("dataset.json names the secrets that its rows were made with");
        let secrets = SecretFile::load(&place).unwrap_or_else(|error| panic!("{}: {error}", place.display()));
        let dataset = Dataset::new(&manifest.shape);
        let rate = manifest.rate;
        Self { codes: Stage::ready(&secrets).codes(), dataset, secrets, rate, at: Clock::system().now() }
    }

    /// The `i`th, from 1. An anonymous one is told with its rule's first member.
    pub fn coupon(&self, i: i64) -> (CodeId, MemberId, RuleId) {
        let coupon = self.dataset.coupon(i as u64 - 1);
        let member_id = self.dataset.member_id(coupon.holder.unwrap_or_default());
        (self.dataset.code_id(&self.codes, &coupon), member_id, self.dataset.rules[coupon.rule].rule_id)
    }

    pub fn phone(&self, m: i64) -> Identifier {
        Identifier::from_stored(Kind::Phone, self.dataset.member(m as u64 - 1).phone())
    }

    /// Whether a till may redeem the coupon of a ticket now, and at what it asks.
    pub fn usable(&self, ticket: i64) -> Option<CodeId> {
        let coupon: Coupon = self.dataset.usable(ticket as u64, self.at)?;
        let version = &self.dataset.rules[coupon.rule].version;
        let is_plain = matches!(version.discount, Discount::AmountOff { .. }) && version.threshold <= AMOUNT;
        is_plain.then(|| self.dataset.code_id(&self.codes, &coupon))
    }
}
