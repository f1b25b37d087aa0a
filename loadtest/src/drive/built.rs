//! A world out of a dataset that `loadtest build` made: members all over it, and coupons that may be used, by arithmetic.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tessera::{
    clock::Clock,
    member::State,
    secret::{SecretFile, Secrets},
};

use super::{
    keys::{Key, Keys},
    workload::Workload,
    world::{Coupon, Person, Shop, World},
};
use crate::dataset::{Dataset, Manifest};

/// A dataset to draw from, in place of what a run makes for itself.
#[derive(Debug, Clone, clap::Args)]
pub struct BuiltArgs {
    /// The dataset.json of `loadtest build`: members and coupons come from there, and the keys if none are named.
    #[arg(long, value_name = "FILE")]
    pub dataset: Option<PathBuf>,
    /// Secrets that the dataset was built with, of which codes are made; if they are not where dataset.json says.
    #[arg(long, value_name = "FILE", requires = "dataset")]
    pub secrets: Option<PathBuf>,
    /// First ticket: a coupon is good for one run, and each run says where the next begins.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub ticket: u64,
    /// Members to draw from.
    #[arg(long, default_value_t = 100_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub people: u32,
}

/// What a coupon of the dataset may be refused with: its rules have stores, budgets and limits.
const EXPECTED: [&str; 4] =
    ["coupon_not_for_store", "budget_exhausted", "coupon_already_redeemed", "coupon_holder_mismatch"];
/// Above the thresholds of the dataset's rules, smallest unit.
const AMOUNT: i64 = 26_000;

/// A dataset with what it takes to make codes.
pub struct Built {
    dataset: Dataset,
    secrets: Secrets,
    manifest: Manifest,
    args: BuiltArgs,
}

impl Built {
    /// # Errors
    /// When the dataset or its secrets cannot be read.
    pub fn load(args: &BuiltArgs) -> anyhow::Result<Option<Self>> {
        let Some(path) = &args.dataset else { return Ok(None) };
        let manifest = Manifest::load(path)?;
        let secrets = args.secrets.as_deref().or(manifest.secrets_file.as_deref());
        let secrets =
            secrets.context("codes need the secrets that the dataset was built with: name them with --secrets")?;
        let secrets = read_secrets(secrets)?;
        Ok(Some(Self { dataset: Dataset::new(&manifest.shape), secrets, manifest, args: args.clone() }))
    }

    /// The keys that were made with it.
    ///
    /// # Errors
    /// When one is no key.
    pub fn keys(&self) -> anyhow::Result<Keys> {
        let keys = &self.manifest.keys;
        let pos = keys.pos.iter().map(|(store, token)| Ok((store.clone(), Key::new(token)?)));
        Ok(Keys { admin: Key::new(&keys.admin)?, pos: pos.collect::<anyhow::Result<_>>()? })
    }

    /// What a workload must know of it.
    pub fn adapt(&self, workload: &mut Workload) {
        workload.rule.threshold = workload.rule.threshold.max(AMOUNT);
        workload.expect.extend(EXPECTED.map(str::to_owned));
    }

    /// Members, and as many coupons as are wanted; also the first ticket that is left. Of several generators each takes
    /// every so manieth ticket, since a coupon is good for one of them.
    ///
    /// # Errors
    /// When it has no such coupons left.
    pub fn world(
        &self,
        keys: &Keys,
        wanted: usize,
        seed: u64,
        (part, parts): (usize, usize),
    ) -> anyhow::Result<(World, u64)> {
        let shops = keys.pos.iter().map(|(store_id, key)| Shop { store_id: store_id.clone(), key: key.clone() });
        let mut world = World { shops: shops.collect(), ..World::default() };
        if world.shops.is_empty() {
            bail!("the load on a dataset needs a pos key: dataset.json has them, or name a file with --keys");
        }
        let mut rng = StdRng::seed_from_u64(seed);
        let members = self.dataset.shape.members;
        while world.people.len() < (self.args.people as usize).min(members as usize) {
            let n = rng.random_range(0..members);
            if self.dataset.state_of(n) == State::Normal {
                world.people.push(self.person(n));
            }
        }
        let (codes, now) = (self.secrets.codes(), Clock::system().now());
        let mut holders: HashMap<u64, u32> = HashMap::new();
        let mut ticket = self.args.ticket + part as u64;
        while world.coupons.len() < wanted {
            if ticket - self.args.ticket > self.dataset.shape.coupons {
                bail!("the dataset has {} usable coupons, and {wanted} are wanted", world.coupons.len());
            }
            let coupon = self.dataset.usable(ticket, now);
            ticket += parts as u64;
            // Sales begin with a member.
            let Some((coupon, holder)) = coupon.and_then(|coupon| coupon.holder.map(|holder| (coupon, holder))) else {
                continue;
            };
            let place = *holders.entry(holder).or_insert_with(|| {
                world.people.push(self.person(holder));
                world.people.len() as u32 - 1
            });
            world.coupons.push(Coupon { code: self.dataset.text(&codes, &coupon).into(), holder: place });
        }
        Ok((world, ticket))
    }

    fn person(&self, n: u64) -> Person {
        let member = self.dataset.member(n);
        Person { member_id: member.member_id.to_string(), phone: member.phone() }
    }
}

fn read_secrets(path: &Path) -> anyhow::Result<Secrets> {
    let file = SecretFile::load(path).with_context(|| format!("the secrets {} cannot be read", path.display()))?;
    Ok(Secrets::new(&file, StdRng::from_os_rng()))
}
