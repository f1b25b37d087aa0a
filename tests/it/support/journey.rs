//! A real grocery chain's year, as files: households, campaigns, their coupons, and what was redeemed when. Here it is
//! read, put in order as tills would send it, and salted with what must not count; and what a ledger says of it is
//! compared with the files. Who the members are and which codes their coupons have, the test knows.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
};

use chrono::{Days, NaiveDate};
use serde_json::{Value, json};
use tessera::{clock::Zone, id::Day};

/// Where all coupons may be used, and where none may.
pub const STORE: &str = "S0001";
pub const WRONG_STORE: &str = "S0002";
/// What a code of nobody is sent as, when it is not one that was minted and never issued.
pub const NO_CODE: &str = "7K3M-0000-0000-000U";
const AMOUNT: i64 = 10_000;

pub type Household = u32;
pub type Campaign = u32;

/// A coupon in a household's hands: there is one of each kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Held {
    pub campaign: Campaign,
    pub upc: String,
    pub household: Household,
}

/// The files.
pub struct Journey {
    pub households: BTreeSet<Household>,
    /// First and last day of each.
    pub campaigns: BTreeMap<Campaign, (NaiveDate, NaiveDate)>,
    /// Who takes part in each.
    pub members: BTreeMap<Campaign, BTreeSet<Household>>,
    /// Campaigns with their coupons.
    pub coupons: BTreeSet<(Campaign, String)>,
    /// In the order of their dates.
    pub redemptions: Vec<(NaiveDate, Held)>,
}

fn path(name: &str) -> PathBuf {
    let shared = std::env::var_os("TESSERA_SHARED").map(PathBuf::from);
    let shared = shared.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"));
    shared.join("data/journey").join(name)
}

/// A file as it is, for imports.
pub fn text(name: &str) -> String {
    let path = path(name);
    std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("the data of the journey, {}: {error}", path.display()))
}

/// Some columns of a file.
fn rows<const N: usize>(name: &str, columns: [&str; N]) -> Vec<[String; N]> {
    let text = text(name);
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    let places = columns.map(|column| names.iter().position(|name| *name == column).expect("a column is missing"));
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            places.map(|place| fields[place].to_owned())
        })
        .collect()
}

fn number(text: &str) -> u32 {
    text.parse().unwrap()
}

impl Journey {
    /// # Panics
    /// When the data is missing: a test that needs it fails without it.
    pub fn load() -> Self {
        let mut members: BTreeMap<Campaign, BTreeSet<Household>> = BTreeMap::new();
        for [campaign, household] in rows("campaign_members.csv", ["campaign_id", "household_id"]) {
            members.entry(number(&campaign)).or_default().insert(number(&household));
        }
        let redeemed = rows("redemptions.csv", ["redemption_date", "campaign_id", "coupon_upc", "household_id"]);
        let mut redemptions: Vec<(NaiveDate, Held)> = redeemed
            .into_iter()
            .map(|[date, campaign, upc, household]| {
                (date.parse().unwrap(), Held { campaign: number(&campaign), upc, household: number(&household) })
            })
            .collect();
        // By date alone: the order within a day is the file's.
        redemptions.sort_by_key(|(date, _)| *date);
        let campaigns = rows("campaigns.csv", ["campaign_id", "start_date", "end_date"]).into_iter();
        let households = rows("members.csv", ["household_id"]).into_iter();
        let coupons = rows("coupons.csv", ["campaign_id", "coupon_upc"]).into_iter();
        Self {
            households: households.map(|[household]| number(&household)).collect(),
            campaigns: campaigns
                .map(|[id, from, to]| (number(&id), (from.parse().unwrap(), to.parse().unwrap())))
                .collect(),
            members,
            coupons: coupons.map(|[campaign, upc]| (number(&campaign), upc)).collect(),
            redemptions,
        }
    }

    /// Every coupon in every hand.
    pub fn held(&self) -> impl Iterator<Item = Held> {
        self.coupons.iter().flat_map(|(campaign, upc)| {
            self.members[campaign].iter().map(|household| Held {
                campaign: *campaign,
                upc: upc.clone(),
                household: *household,
            })
        })
    }

    /// What the ledger must hold in the end: uses by campaign and day.
    pub fn by_campaign_and_day(&self) -> BTreeMap<(Campaign, NaiveDate), i64> {
        let mut counts = BTreeMap::new();
        for (date, held) in &self.redemptions {
            *counts.entry((held.campaign, *date)).or_default() += 1;
        }
        counts
    }

    /// The redemptions in date order, each salt among them `each` times. The same every time.
    pub fn salted(&self, each: usize) -> Vec<Sale> {
        let mut uses: HashMap<&Held, usize> = HashMap::new();
        let mut sales: Vec<Sale> = Vec::new();
        for (date, held) in &self.redemptions {
            *uses.entry(held).or_default() += 1;
            sales.push(Sale::of(*date, held, None));
        }
        for salt in Salt::ALL {
            sales.extend(self.salt(salt, &uses, each));
        }
        // What is added comes after what is real of the same day.
        sales.sort_by_key(|sale| (sale.date, sale.salt));
        let mut sequences: HashMap<(&str, NaiveDate), u32> = HashMap::new();
        for sale in &mut sales {
            let next = sequences.entry((sale.store, sale.date)).or_default();
            *next += u32::from(sale.salt != Some(Salt::RepeatedNumber));
            sale.sequence = (*next).max(1);
        }
        sales
    }

    fn salt(&self, salt: Salt, uses: &HashMap<&Held, usize>, each: usize) -> Vec<Sale> {
        let near = |date: NaiveDate, days: u64| {
            if salt == Salt::BeforeIssue { date - Days::new(days) } else { date + Days::new(days) }
        };
        let real = || self.redemptions.iter().filter(|(_, held)| uses[held] == 1);
        // Of different parts of the year; the second half of it for one thing, so that no salt meets another.
        let spread = |all: Vec<Sale>| {
            let step = (all.len() / each.max(1)).max(1);
            all.into_iter().step_by(step).take(each).collect()
        };
        let sales: Vec<Sale> = match salt {
            Salt::BeforeIssue => {
                real().map(|(_, held)| Sale::of(near(self.campaigns[&held.campaign].0, 3), held, Some(salt))).collect()
            }
            Salt::AfterEnd => real()
                // One that still has a use, of a campaign that ends within the year.
                .filter(|(_, held)| self.campaigns[&held.campaign].1 < NaiveDate::from_ymd_opt(2017, 12, 1).unwrap())
                .map(|(_, held)| Sale::of(near(self.campaigns[&held.campaign].1, 2), held, Some(salt)))
                .collect(),
            Salt::ThirdUse => {
                let twice = self.redemptions.iter().rev().filter(|(_, held)| uses[held] == 2);
                let mut seen = BTreeSet::new();
                let last = twice.filter(|(_, held)| seen.insert(held.clone()));
                last.map(|(date, held)| Sale::of(*date, held, Some(salt))).collect()
            }
            Salt::NonHolder => real()
                .map(|(date, held)| {
                    let stranger = self.households.iter().find(|other| **other != held.household).unwrap();
                    Sale { shown_by: *stranger, ..Sale::of(*date, held, Some(salt)) }
                })
                .collect(),
            Salt::WrongStore => {
                real().map(|(date, held)| Sale { store: WRONG_STORE, ..Sale::of(*date, held, Some(salt)) }).collect()
            }
            Salt::RepeatedNumber => {
                real().map(|(date, held)| Sale { amount: AMOUNT + 1, ..Sale::of(*date, held, Some(salt)) }).collect()
            }
            Salt::UnknownCode | Salt::MalformedCode => {
                real().map(|(date, held)| Sale { coupon: None, ..Sale::of(*date, held, Some(salt)) }).collect()
            }
        };
        spread(sales)
    }
}

/// What must not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Salt {
    /// Three days before the campaign.
    BeforeIssue,
    /// Two days after its last.
    AfterEnd,
    ThirdUse,
    NonHolder,
    WrongStore,
    UnknownCode,
    MalformedCode,
    /// The number of the sale before it, with another amount.
    RepeatedNumber,
}

impl Salt {
    pub const ALL: [Salt; 8] = [
        Salt::BeforeIssue,
        Salt::AfterEnd,
        Salt::ThirdUse,
        Salt::NonHolder,
        Salt::WrongStore,
        Salt::UnknownCode,
        Salt::MalformedCode,
        Salt::RepeatedNumber,
    ];

    pub fn reason(self) -> &'static str {
        match self {
            Salt::BeforeIssue => "coupon_not_yet_valid",
            Salt::AfterEnd => "coupon_expired",
            Salt::ThirdUse => "coupon_already_redeemed",
            Salt::NonHolder => "coupon_holder_mismatch",
            Salt::WrongStore => "coupon_not_for_store",
            Salt::UnknownCode => "coupon_not_found",
            Salt::MalformedCode => "coupon_code_invalid",
            Salt::RepeatedNumber => "request_number_reused",
        }
    }
}

/// One redemption as a till did it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sale {
    pub date: NaiveDate,
    pub store: &'static str,
    /// Counts the sales of a store and day.
    pub sequence: u32,
    /// `None` for a code that no coupon has.
    pub coupon: Option<Held>,
    pub shown_by: Household,
    pub amount: i64,
    pub salt: Option<Salt>,
}

impl Sale {
    fn of(date: NaiveDate, held: &Held, salt: Option<Salt>) -> Self {
        let (coupon, shown_by) = (Some(held.clone()), held.household);
        Self { date, store: STORE, sequence: 0, coupon, shown_by, amount: AMOUNT, salt }
    }

    /// "" of what must be accepted, else the reason of its conflict.
    pub fn expected(&self) -> &'static str {
        self.salt.map_or("", Salt::reason)
    }

    /// As an item of an upload, at noon of its day. `unknown` is a code that was minted and never issued.
    pub fn item(
        &self,
        code_of: impl Fn(&Held) -> String,
        member_of: impl Fn(Household) -> String,
        unknown: &str,
    ) -> Value {
        let code = match (&self.coupon, self.salt) {
            (Some(held), _) => code_of(held),
            (None, Some(Salt::MalformedCode)) => NO_CODE.to_owned(),
            (None, _) => unknown.to_owned(),
        };
        let noon = Zone::DEFAULT.start_of(Day::from_date(self.date)) + chrono::TimeDelta::hours(12);
        json!({"business_date": self.date, "sequence": self.sequence, "redeemed_at": noon, "code": code,
            "amount": self.amount, "order_ref": format!("{}-{}-{}", self.store, self.date, self.sequence),
            "member_id": member_of(self.shown_by)})
    }
}

/// The uploads of a stream, in its order: each of one store, of up to `most` sales.
pub fn uploads(sales: &[Sale], most: usize) -> impl Iterator<Item = &[Sale]> {
    sales.chunk_by(|one, next| one.store == next.store).flat_map(move |sales| sales.chunks(most))
}

/// How many conflicts of each reason a stream makes.
pub fn by_reason(sales: &[Sale]) -> BTreeMap<&'static str, i64> {
    let mut counts = BTreeMap::new();
    for sale in sales.iter().filter(|sale| sale.salt.is_some()) {
        *counts.entry(sale.expected()).or_default() += 1;
    }
    counts
}

/// Where two counts differ: what is asked for, how many there should be and how many there are.
pub fn differences<K: Ord + Clone>(expected: &BTreeMap<K, i64>, found: &BTreeMap<K, i64>) -> Vec<(K, i64, i64)> {
    let count = |of: &BTreeMap<K, i64>, key: &K| of.get(key).copied().unwrap_or_default();
    let keys: BTreeSet<&K> = expected.keys().chain(found.keys()).collect();
    let both = keys.into_iter().map(|key| (key.clone(), count(expected, key), count(found, key)));
    both.filter(|(_, expected, found)| expected != found).collect()
}

#[test]
fn the_year_is_whole_and_every_salt_is_in_the_stream() {
    let journey = Journey::load();
    assert_eq!((journey.households.len(), journey.campaigns.len(), journey.coupons.len()), (1373, 17, 629));
    assert_eq!((journey.held().count(), journey.redemptions.len()), (475_951, 1257));
    assert_eq!(journey.by_campaign_and_day().values().sum::<i64>(), 1257);
    let sales = journey.salted(5);
    assert_eq!(sales, journey.salted(5), "it is the same every time");
    assert!(sales.is_sorted_by_key(|sale| sale.date));
    let counts = by_reason(&sales);
    assert_eq!(counts.len(), Salt::ALL.len());
    assert!(counts.values().all(|count| *count == 5), "{counts:?}");
    // Without the salt it is the files.
    let mut real = BTreeMap::new();
    for sale in sales.iter().filter(|sale| sale.salt.is_none()) {
        *real.entry((sale.coupon.as_ref().unwrap().campaign, sale.date)).or_default() += 1;
    }
    assert_eq!(differences(&journey.by_campaign_and_day(), &real), []);
    // A number stands for one sale but where that is the salt, and then for an earlier one with other content.
    let mut numbers: HashMap<_, &Sale> = HashMap::new();
    for sale in &sales {
        let number = (sale.store, sale.date, sale.sequence);
        match (sale.salt, numbers.get(&number)) {
            (Some(Salt::RepeatedNumber), Some(first)) => assert_ne!(first.amount, sale.amount),
            (_, None) => drop(numbers.insert(number, sale)),
            (salt, Some(_)) => panic!("{salt:?} has a number that is taken: {number:?}"),
        }
    }
    assert_eq!(uploads(&sales, 500).map(<[Sale]>::len).sum::<usize>(), sales.len());
    assert!(uploads(&sales, 500).all(|upload| upload.iter().all(|sale| sale.store == upload[0].store)));
}

#[test]
fn counts_that_differ_are_named_from_both_sides() {
    let expected = BTreeMap::from([("a", 1), ("b", 2)]);
    let found = BTreeMap::from([("b", 3), ("c", 1)]);
    assert_eq!(differences(&expected, &found), [("a", 1, 0), ("b", 2, 3), ("c", 0, 1)]);
}
