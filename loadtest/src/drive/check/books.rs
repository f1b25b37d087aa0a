//! The journals of a run, ready to be held against the database.
//!
//! They may be longer than memory. So they are read from the disk again for each look, either from end to end, a batch of
//! requests at a time, or by [`Part`]: of everything that an id names, the ids of one remainder.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::PathBuf,
};

use anyhow::Context;
use chrono::{DateTime, Utc};

use crate::drive::{
    journal::{Done, Entry, Reader, Sent},
    op::Op,
};

/// Things that a part holds, some 100 bytes each.
const AT_ONCE: usize = 250_000;

/// What the answers of a run have told.
#[derive(Debug, Clone)]
pub struct Books {
    journals: Vec<PathBuf>,
    /// Names of the runs, with which their orders begin.
    pub runs: Vec<String>,
    /// When the first of them began.
    pub began: DateTime<Utc>,
    /// Job → its rule, and how many coupons it told of.
    pub jobs: BTreeMap<i64, (i64, i64)>,
    /// The rules that the run issued of.
    pub rules: Vec<i64>,
    /// Things that a part may hold.
    pub at_once: usize,
    /// Things that there are.
    things: usize,
}

impl Books {
    /// Reads the journals once.
    ///
    /// # Errors
    /// When one is no journal.
    pub fn open(journals: &[PathBuf], runs: Vec<String>, began: DateTime<Utc>) -> anyhow::Result<Self> {
        let (jobs, rules) = (BTreeMap::new(), Vec::new());
        let mut books = Self { journals: journals.to_vec(), runs, began, jobs, rules, at_once: AT_ONCE, things: 0 };
        let mut rules = BTreeSet::new();
        for entry in books.entries() {
            match entry? {
                Entry::Job { job_id, rule_id, coupons } => {
                    books.jobs.insert(job_id, (rule_id, coupons));
                    rules.insert(rule_id);
                }
                Entry::JobCoupon { .. } => books.things += 1,
                Entry::Write(sent) => {
                    books.things += 1;
                    if matches!(sent.op, Op::Claim | Op::Issue) {
                        rules.extend(sent.subject.parse::<i64>());
                    }
                }
            }
        }
        books.rules = rules.into_iter().collect();
        Ok(books)
    }

    fn entries(&self) -> impl Iterator<Item = anyhow::Result<Entry>> + use<> {
        self.journals.clone().into_iter().flat_map(|journal| match Reader::open(&journal) {
            Ok(reader) => Box::new(reader) as Box<dyn Iterator<Item = _> + Send>,
            Err(error) => Box::new(std::iter::once(Err(error))),
        })
    }

    /// Job and code of the coupons of jobs, so many at a time.
    pub fn job_coupons(&self, batch: usize) -> impl Iterator<Item = anyhow::Result<Vec<(i64, i64)>>> + use<> {
        batches(self.entries(), batch, |entry| match entry {
            Entry::JobCoupon { job_id, code } => Ok(Some((job_id, code_id(&code)?))),
            _ => Ok(None),
        })
    }

    /// What was sent, so many at a time.
    pub fn sent(&self, batch: usize) -> impl Iterator<Item = anyhow::Result<Vec<Sent>>> + use<> {
        batches(self.entries(), batch, |entry| match entry {
            Entry::Write(sent) => Ok(Some(sent)),
            _ => Ok(None),
        })
    }

    /// How many parts there are.
    pub fn parts(&self) -> usize {
        self.things.div_ceil(self.at_once).max(1)
    }

    /// What has to do with ids of this remainder.
    ///
    /// # Errors
    /// When the journal has something else where the code of a request is.
    pub fn part(&self, no: usize) -> anyhow::Result<Part> {
        let mut part = Part { no: no as i64, of: self.parts() as i64, ..Part::default() };
        for entry in self.entries() {
            match entry? {
                Entry::Job { .. } => {}
                Entry::JobCoupon { code, .. } => part.is_issued(code_id(&code)?),
                Entry::Write(sent) => part.take(sent)?,
            }
        }
        for told in [&mut part.redemptions, &mut part.issued, &mut part.members] {
            told.sort_unstable();
        }
        Ok(part)
    }
}

/// Answers and answers lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub told: u32,
    pub lost: u32,
}

impl Count {
    pub fn most(self) -> u32 {
        self.told + self.lost
    }
}

/// What an order did with a coupon.
#[derive(Debug, Clone, Copy, Default)]
pub struct Acts {
    pub locks: Count,
    pub releases: Count,
    pub redeems: Count,
    pub reverses: Count,
}

/// A part of the books: codes come together with everything that was done to them.
#[derive(Debug, Default)]
pub struct Part {
    no: i64,
    of: i64,
    /// Coupons that a request named; those that were issued stand in `issued`.
    pub named: BTreeSet<i64>,
    /// Coupons that were told as issued, in order, as often as they were.
    pub issued: Vec<i64>,
    /// Redemptions and reversals that were told, in order, as often as they were.
    pub redemptions: Vec<i64>,
    /// Members that were told as registered, likewise.
    pub members: Vec<i64>,
    /// What was done, by coupon and order.
    pub acts: HashMap<(i64, Box<str>), Acts>,
}

impl Part {
    fn is_ours(&self, id: i64) -> bool {
        id.rem_euclid(self.of) == self.no
    }

    /// Remainder and divisor of the ids, for SQL.
    pub fn remainder(&self) -> (i64, i64) {
        (self.no, self.of)
    }

    fn is_issued(&mut self, code: i64) {
        if self.is_ours(code) {
            self.issued.push(code);
        }
    }

    fn take(&mut self, sent: Sent) -> anyhow::Result<()> {
        match (sent.op, &sent.done) {
            (Op::Claim | Op::Issue, done) => done.iter().flat_map(codes_of).for_each(|code| self.is_issued(code)),
            (Op::Register, done) => {
                let member = done.as_ref().and_then(|done| done.result.parse().ok());
                self.members.extend(member.filter(|member| self.is_ours(*member)));
            }
            _ => {
                let code = code_id(&sent.subject)?;
                if self.is_ours(code) {
                    self.act(code, sent);
                }
            }
        }
        Ok(())
    }

    fn act(&mut self, code: i64, sent: Sent) {
        self.named.insert(code);
        let acts = self.acts.entry((code, sent.about.into_boxed_str())).or_default();
        let count = match sent.op {
            Op::Lock => &mut acts.locks,
            Op::Release => &mut acts.releases,
            Op::Redeem => &mut acts.redeems,
            _ => &mut acts.reverses,
        };
        match &sent.done {
            Some(done) => {
                count.told += 1;
                if matches!(sent.op, Op::Redeem | Op::Reverse) {
                    self.redemptions.extend(done.result.parse::<i64>());
                }
            }
            None => count.lost += 1,
        }
    }

    /// Every coupon that an answer named, with more that are of this part.
    pub fn codes(&self, more: &[i64]) -> Vec<i64> {
        let mut codes: Vec<i64> = self.named.iter().chain(&self.issued).chain(more).copied().collect();
        codes.sort_unstable();
        codes.dedup();
        codes
    }

    /// Results that two answers told, as sentences.
    pub fn told_twice(&self) -> impl Iterator<Item = String> {
        let of = |what: &'static str, ids: &[i64]| {
            let twice: HashSet<i64> = ids.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
            twice.into_iter().map(move |id| format!("{what} {id}: two answers told of it as theirs"))
        };
        of("redemption or reversal", &self.redemptions)
            .chain(of("coupon", &self.issued))
            .chain(of("member", &self.members))
    }
}

/// What a closure picks, so many at a time; the last batch has what is left.
fn batches<T>(
    mut entries: impl Iterator<Item = anyhow::Result<Entry>>,
    size: usize,
    pick: impl Fn(Entry) -> anyhow::Result<Option<T>>,
) -> impl Iterator<Item = anyhow::Result<Vec<T>>> {
    std::iter::from_fn(move || {
        let mut batch = Vec::new();
        while batch.len() < size {
            match entries.next().map(|entry| entry.and_then(&pick)) {
                Some(Ok(Some(thing))) => batch.push(thing),
                Some(Ok(None)) => {}
                Some(Err(error)) => return Some(Err(error)),
                None => break,
            }
        }
        (!batch.is_empty()).then_some(Ok(batch))
    })
}

/// The coupons that an answer to a claim or an issue named.
pub fn codes_of(done: &Done) -> Vec<i64> {
    done.result.split(',').filter_map(|code| code_id(code).ok()).collect()
}

/// The id in a coupon's code: the first 56 of its 80 bits.
///
/// # Errors
/// When it is not a code of 16 symbols.
pub fn code_id(code: &str) -> anyhow::Result<i64> {
    const ALPHABET: &str = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let mut bits: u128 = 0;
    let mut symbols = 0;
    for symbol in code.chars().filter(|symbol| *symbol != '-') {
        let five = ALPHABET.find(symbol).with_context(|| format!("{code:?} is not a coupon code"))?;
        bits = bits << 5 | five as u128;
        symbols += 1;
    }
    anyhow::ensure!(symbols == 16, "{code:?} is not a coupon code");
    Ok((bits >> 24) as i64)
}

#[cfg(test)]
mod tests {
    use tessera::{
        id::{CodeId, Day},
        secret::{SecretFile, Secrets},
    };

    #[test]
    fn the_id_of_a_code_is_the_one_that_tessera_reads() {
        use rand::{SeedableRng, rngs::StdRng};
        let mut rng = StdRng::seed_from_u64(5);
        let secrets = Secrets::new(&SecretFile::generate(&mut rng), StdRng::seed_from_u64(6));
        for n in 0..100 {
            let id = CodeId::from_parts(Day::from_number(9_000 + n).unwrap(), i64::from(n) * 1_234_567_890).unwrap();
            assert_eq!(super::code_id(&secrets.codes().format(id)).unwrap(), id.get());
        }
        assert!(super::code_id("7K3M").is_err() && super::code_id("UUUU-UUUU-UUUU-UUUU").is_err());
    }
}
