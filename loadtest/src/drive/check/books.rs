//! The journals of a run, ready to be held against the database.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::Context;

use crate::drive::{
    journal::{self, Done, Entry, Sent},
    op::Op,
};

/// What the answers of a run have told.
#[derive(Debug, Clone, Default)]
pub struct Books {
    /// Job → its rule, and how many coupons it told of.
    pub jobs: BTreeMap<i64, (i64, i64)>,
    /// Job and code.
    pub job_coupons: Vec<(i64, i64)>,
    pub sent: Vec<Sent>,
    /// Names of the runs, with which their orders begin.
    pub runs: Vec<String>,
}

impl Books {
    /// # Errors
    /// When the file is no journal.
    pub fn read(&mut self, path: &Path) -> anyhow::Result<()> {
        for entry in journal::read(path)? {
            match entry {
                Entry::Job { job_id, rule_id, coupons } => {
                    self.jobs.insert(job_id, (rule_id, coupons));
                }
                Entry::JobCoupon { job_id, code } => self.job_coupons.push((job_id, code_id(&code)?)),
                Entry::Write(sent) => self.sent.push(sent),
            }
        }
        Ok(())
    }

    /// The rules that the run issued of.
    pub fn rules(&self) -> Vec<i64> {
        let issued = self.sent.iter().filter(|sent| matches!(sent.op, Op::Claim | Op::Issue));
        let issued = issued.filter_map(|sent| sent.subject.parse().ok());
        let rules: BTreeSet<i64> = self.jobs.values().map(|(rule, _)| *rule).chain(issued).collect();
        rules.into_iter().collect()
    }

    /// Every coupon that an answer named; answers that name none where they should are found by the checker.
    ///
    /// # Errors
    /// When the journal has something else where the code of a request is.
    pub fn codes(&self) -> anyhow::Result<BTreeSet<i64>> {
        let mut codes: BTreeSet<i64> = self.job_coupons.iter().map(|(_, code)| *code).collect();
        for sent in &self.sent {
            match (sent.op, &sent.done) {
                (Op::Claim | Op::Issue, Some(done)) => codes.extend(codes_of(done)),
                (Op::Claim | Op::Issue | Op::Register, _) => {}
                _ => {
                    codes.insert(code_id(&sent.subject)?);
                }
            }
        }
        Ok(codes)
    }
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
