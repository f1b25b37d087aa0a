//! What is sent: a workload as its file says it. Files are in `loadtest/workloads`; those are also built in, by name.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

/// The workloads that are built in.
pub const BUILT_IN: [(&str, &str); 9] = [
    ("pos-day", include_str!("../../workloads/pos-day.toml")),
    ("claim-rush", include_str!("../../workloads/claim-rush.toml")),
    ("marketing", include_str!("../../workloads/marketing.toml")),
    ("lookup-only", include_str!("../../workloads/lookup-only.toml")),
    ("mixed-hot-keys", include_str!("../../workloads/mixed-hot-keys.toml")),
    ("soak", include_str!("../../workloads/soak.toml")),
    ("month-end", include_str!("../../workloads/month-end.toml")),
    ("coherence", include_str!("../../workloads/coherence.toml")),
    ("smoke", include_str!("../../workloads/smoke.toml")),
];

/// A workload.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    pub name: String,
    /// One sentence for the report.
    pub about: String,
    /// Requests a second, the mean over the run.
    pub rate: f64,
    /// How long requests are due, in seconds.
    pub seconds: f64,
    #[serde(default)]
    pub arrivals: Arrivals,
    /// Connections, each of one till that does one thing at a time.
    pub tills: usize,
    /// Shares of the rate over the run, stretched to its length; even when empty.
    #[serde(default)]
    pub curve: Vec<f64>,
    /// Least and most milliseconds between the steps of a sale.
    #[serde(default = "Workload::think_ms")]
    pub think_ms: [u32; 2],
    /// Refusals that are part of this workload. Any other code is an error.
    #[serde(default)]
    pub expect: Vec<String>,
    /// The run fails when more than this share of its requests are errors.
    #[serde(default = "Workload::errors_max")]
    pub errors_max: f64,
    pub prepare: Prepare,
    #[serde(default)]
    pub rule: Rule,
    /// What arrives, by weight.
    pub mix: Mix,
    #[serde(default)]
    pub sale: Sale,
    /// Members are drawn evenly at 0, more unevenly the larger it is (Zipf's exponent).
    #[serde(default)]
    pub skew: f64,
    #[serde(default)]
    pub coupons: CouponChoice,
    /// The tills' business day moves through these days, counted from today, while the run lasts.
    #[serde(default)]
    pub business_days: Option<BusinessDays>,
    #[serde(default)]
    pub jobs: Jobs,
    #[serde(default)]
    pub coherence: Option<Coherence>,
}

/// How requests are spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Arrivals {
    /// As people come: each by itself.
    #[default]
    Poisson,
    /// At even distances.
    Paced,
}

/// What is made before the run, through the API.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepare {
    /// Stores `L0001`, …; with keys of role `pos` those keys' stores instead.
    pub stores: usize,
    pub members: usize,
    /// Rules that the coupons are spread over.
    pub rules: usize,
    /// Coupons in all; as many as the run will need if absent.
    #[serde(default)]
    pub coupons: Option<usize>,
}

/// What the rules of the run say.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// Off each sale, smallest unit of the currency.
    pub amount: i64,
    /// Least payable amount, smallest unit.
    pub threshold: i64,
    pub uses: u16,
    pub stock: Option<i64>,
    pub per_member: Option<i64>,
    pub budget: Option<i64>,
    pub budget_per_store: Option<i64>,
    pub stock_per_store: Option<i64>,
    pub claimable: bool,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            amount: 1_000,
            threshold: 5_000,
            uses: 1,
            stock: None,
            per_member: None,
            budget: None,
            budget_per_store: None,
            stock_per_store: None,
            claimable: false,
        }
    }
}

/// Weights of what arrives.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mix {
    /// A customer at a till: look-up, wallet, lock, redeem, perhaps a return.
    pub sale: f64,
    /// A look-up by phone alone.
    pub lookup: f64,
    /// A member by id.
    pub member: f64,
    pub wallet: f64,
    /// A coupon by its code.
    pub coupon: f64,
    pub validate: f64,
    /// A member takes a coupon.
    pub claim: f64,
    /// One coupon for one member.
    pub issue: f64,
    /// A new member.
    pub register: f64,
}

impl Mix {
    /// Kinds of arrivals with their weights.
    pub fn weights(&self) -> [(Arrival, f64); 9] {
        [
            (Arrival::Sale, self.sale),
            (Arrival::Lookup, self.lookup),
            (Arrival::Member, self.member),
            (Arrival::Wallet, self.wallet),
            (Arrival::Coupon, self.coupon),
            (Arrival::Validate, self.validate),
            (Arrival::Claim, self.claim),
            (Arrival::Issue, self.issue),
            (Arrival::Register, self.register),
        ]
    }
}

/// A kind of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    Sale,
    Lookup,
    Member,
    Wallet,
    Coupon,
    Validate,
    Claim,
    Issue,
    Register,
}

/// The shares of a sale's steps.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sale {
    /// Sales that look into the wallet.
    pub wallet: f64,
    /// Sales that lock before they redeem.
    pub lock: f64,
    /// Of those that lock, sales that are given up: the lock is released, nothing redeemed.
    pub give_up: f64,
    /// Sales whose goods come back.
    pub reverse: f64,
}

impl Default for Sale {
    fn default() -> Self {
        Self { wallet: 1.0, lock: 1.0, give_up: 0.0, reverse: 0.0 }
    }
}

impl Sale {
    /// Requests of a sale on average.
    pub fn requests(&self) -> f64 {
        let redeemed = 1.0 - self.lock * self.give_up;
        // One look-up, one redeem or release.
        2.0 + self.wallet + self.lock + redeemed * self.reverse
    }
}

/// Which coupon a sale brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CouponChoice {
    /// Another one each time, until there are none left.
    #[default]
    EachOnce,
    /// Drawn by `skew` from all, so that tills meet over one coupon.
    Shared,
}

/// Days from today, zero or negative; both included.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BusinessDays {
    /// From the last day of last month but one into this month: leaves of months roll over while requests come in.
    OverMonthEnd,
}

/// Bulk issue beside the tills.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Jobs {
    /// Seconds between two jobs; none when 0.
    pub every_seconds: f64,
    /// Coupons of a job.
    pub coupons: i64,
}

/// Changes on one node, questions to another.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coherence {
    /// Changes a second, each followed until the other node shows it.
    pub changes_per_second: f64,
    /// Milliseconds between two questions after the same change.
    pub ask_every_ms: u32,
}

impl Workload {
    fn think_ms() -> [u32; 2] {
        [5, 20]
    }

    fn errors_max() -> f64 {
        0.001
    }

    /// Reads a workload: a built-in one by name, else a file.
    ///
    /// # Errors
    /// Says what is wrong with the file.
    pub fn load(name: &str) -> anyhow::Result<Self> {
        let text = match BUILT_IN.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => (*text).to_owned(),
            None => std::fs::read_to_string(Path::new(name)).with_context(|| {
                let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
                format!("{name:?} is neither a workload ({}) nor a file that can be read", names.join(", "))
            })?,
        };
        let workload: Self = toml::from_str(&text).with_context(|| format!("the workload {name} cannot be read"))?;
        workload.check().with_context(|| format!("the workload {name} cannot be run"))?;
        Ok(workload)
    }

    /// # Errors
    /// The first thing that makes it meaningless.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(self.rate > 0.0 && self.rate <= 1e6, "rate is requests a second, above 0 and at most 1000000");
        ensure!(self.seconds > 0.0 && self.seconds <= 30.0 * 86_400.0, "seconds is above 0 and at most 30 days");
        ensure!((1..=100_000).contains(&self.tills), "tills is 1 to 100000");
        ensure!(self.curve.iter().all(|share| *share >= 0.0), "no share of curve is below 0");
        ensure!(self.curve.is_empty() || self.curve.iter().sum::<f64>() > 0.0, "some share of curve is above 0");
        ensure!(self.think_ms[0] <= self.think_ms[1], "think_ms is the least, then the most");
        ensure!((0.0..=4.0).contains(&self.skew), "skew is 0 to 4");
        ensure!(self.mix.weights().iter().all(|(_, weight)| *weight >= 0.0), "no weight of mix is below 0");
        if self.mix.weights().iter().map(|(_, weight)| weight).sum::<f64>() <= 0.0 {
            bail!("mix names nothing that arrives");
        }
        let Sale { wallet, lock, give_up, reverse } = self.sale;
        ensure!(
            [wallet, lock, give_up, reverse].iter().all(|share| (0.0..=1.0).contains(share)),
            "shares of sale are 0 to 1"
        );
        ensure!(
            self.prepare.stores >= 1 && self.prepare.members >= 1 && self.prepare.rules >= 1,
            "prepare needs at least one store, member and rule"
        );
        Ok(())
    }

    /// Requests that one arrival makes, on average.
    pub fn requests_per_arrival(&self) -> f64 {
        let weights = self.mix.weights();
        let all: f64 = weights.iter().map(|(_, weight)| weight).sum();
        let requests = |kind| if kind == Arrival::Sale { self.sale.requests() } else { 1.0 };
        weights.iter().map(|(kind, weight)| weight / all * requests(*kind)).sum()
    }

    /// Tills that are busy with nothing but thinking when most arrives, on average.
    pub fn tills_thinking(&self) -> f64 {
        let weights = self.mix.weights();
        let all: f64 = weights.iter().map(|(_, weight)| weight).sum();
        let mean = self.curve.iter().sum::<f64>() / self.curve.len().max(1) as f64;
        let peak = self.curve.iter().fold(1.0, |most: f64, share| most.max(share / mean));
        let sales = self.rate / self.requests_per_arrival() * self.mix.sale / all * peak;
        let think = (f64::from(self.think_ms[0]) + f64::from(self.think_ms[1])) / 2.0 / 1e3;
        sales * (self.sale.requests() - 1.0) * think
    }

    /// Tills that are never all busy unless the server makes them wait.
    pub fn tills_wanted(&self) -> usize {
        // Thinking, five standard deviations more, and as much again for the answers.
        let thinking = self.tills_thinking();
        ((thinking + 5.0 * thinking.sqrt()) * 2.0).ceil() as usize
    }

    /// # Errors
    /// When arrivals would wait for tills that think, however fast the server is: that measures the tills.
    pub fn ensure_tills(&self) -> anyhow::Result<()> {
        let thinking = self.tills_thinking();
        ensure!(
            thinking <= 0.8 * self.tills as f64,
            "{} tills are too few for {} requests/s: {thinking:.0} of them think at once. Ask for --tills {}",
            self.tills,
            self.rate,
            self.tills_wanted()
        );
        Ok(())
    }

    /// Arrivals that will come, on average.
    pub fn arrivals_expected(&self) -> f64 {
        self.rate * self.seconds / self.requests_per_arrival()
    }

    /// Coupons that the run will want.
    pub fn coupons_wanted(&self) -> usize {
        if let Some(coupons) = self.prepare.coupons {
            return coupons;
        }
        let weights = self.mix.weights();
        let all: f64 = weights.iter().map(|(_, weight)| weight).sum();
        let sales = self.arrivals_expected() * self.mix.sale / all;
        let reads = if self.mix.coupon + self.mix.validate > 0.0 { 1_000 } else { 0 };
        // By five standard deviations no run is without a coupon.
        ((sales + 5.0 * sales.sqrt()).ceil() as usize).max(reads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_workload_can_be_run() {
        for (name, _) in BUILT_IN {
            let workload = Workload::load(name).unwrap_or_else(|error| panic!("{name}: {error:#}"));
            assert_eq!(workload.name, name);
            assert!(workload.requests_per_arrival() >= 1.0);
            workload.ensure_tills().unwrap();
            assert!(workload.tills >= workload.tills_wanted(), "{name}: {}", workload.tills_wanted());
        }
    }

    #[test]
    fn tills_that_think_all_the_time_are_too_few() {
        let mut workload = Workload::load("pos-day").unwrap();
        workload.ensure_tills().unwrap();
        workload.rate *= 20.0;
        let error = workload.ensure_tills().unwrap_err().to_string();
        assert!(error.contains("64 tills are too few"), "{error}");
        workload.tills = workload.tills_wanted();
        workload.ensure_tills().unwrap();
    }

    #[test]
    fn every_file_of_the_directory_is_built_in() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/workloads");
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            assert!(BUILT_IN.iter().any(|(name, _)| *name == stem), "{stem}");
        }
    }

    #[test]
    fn an_unknown_field_is_named() {
        let text = BUILT_IN[0].1.replace("tills", "tillz");
        let error = toml::from_str::<Workload>(&text).unwrap_err().to_string();
        assert!(error.contains("tillz"), "{error}");
    }
}
