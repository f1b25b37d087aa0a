//! The code on a coupon: 16 symbols of Crockford's base 32, shown in fours.
//!
//! 80 bits: issue day since 2000-01-01 (15), serial (41), check (24). Day and serial are the coupon's id. The serial
//! is a keyed permutation of a counter, so it shows neither volume nor order and never repeats. The check is an HMAC
//! of the id under the issue day's key: a made-up or mistyped code is refused without a query, but for one in 2^24.
//!
//! The id alone is not a secret and the code is: code text belongs in answers to whoever may use the coupon, not in
//! logs. Codes of older systems are not this module's.

use std::fmt;

use aes_gcm_siv::KeyInit as _;
use aes_gcm_siv::aes::Aes256;
use aes_gcm_siv::aes::cipher::{Block, BlockCipherEncrypt};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::id::{CodeId, DAY_BITS, Day, IdError, NUMBER_BITS, NUMBER_END};

/// Symbols of a code.
pub const CODE_SYMBOLS: usize = 16;
/// Longest text that is looked at; more separators than that is no code.
pub const CODE_TEXT_BYTES_MAX: usize = 64;
const CHECK_BITS: u32 = 24;
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const _: () = assert!((DAY_BITS + NUMBER_BITS + CHECK_BITS) as usize == 5 * CODE_SYMBOLS);

/// Why a text is not a code of this chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadCode {
    #[error("a coupon code has {CODE_SYMBOLS} letters and digits")]
    Length,
    #[error("a coupon code has only digits and letters, and no U")]
    Symbol,
    #[error("the coupon code fails its check: it is mistyped or made up")]
    Check,
}

/// A code that was minted here or passed its check.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CouponCode {
    pub code_id: CodeId,
    check: u32,
}

impl CouponCode {
    fn bits(self) -> u128 {
        (self.code_id.get() as u128) << CHECK_BITS | u128::from(self.check)
    }
}

impl fmt::Display for CouponCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.bits();
        let mut text = [b'-'; CODE_SYMBOLS + 3];
        for symbol in 0..CODE_SYMBOLS {
            let five = bits >> (5 * (CODE_SYMBOLS - 1 - symbol)) & 31;
            text[symbol + symbol / 4] = ALPHABET[five as usize];
        }
        f.write_str(std::str::from_utf8(&text).expect("the alphabet is ASCII"))
    }
}

impl fmt::Debug for CouponCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the code: with it, whoever reads a log could use the coupon.
        write!(f, "CouponCode({:?})", self.code_id)
    }
}

/// The keys of codes: makes, prints and reads them. Pure; a microsecond or two to make, a quarter of one to read.
#[derive(Clone)]
pub struct CodeKeys {
    permutation: Permutation,
    /// Ascending by first day, beginning with 2000-01-01.
    checks: Vec<(Day, Hmac<Sha256>)>,
}

impl CodeKeys {
    /// `checks` are the check keys with the first issue day of each, ascending, the first being 2000-01-01.
    pub fn new(feistel: &[u8; 32], checks: impl IntoIterator<Item = (Day, [u8; 32])>) -> Self {
        let checks: Vec<_> = checks
            .into_iter()
            .map(|(day, key)| (day, Hmac::new_from_slice(&key).expect("HMAC takes keys of any length")))
            .collect();
        assert!(
            checks.first().is_some_and(|(day, _)| *day == Day::EPOCH) && checks.is_sorted_by(|a, b| a.0 < b.0),
            "SecretFile refuses check keys that don't ascend from 2000-01-01"
        );
        Self { permutation: Permutation::new(feistel, NUMBER_BITS), checks }
    }

    /// The code of the `counter`th coupon ever, issued on `day`. The same counter on another day is another code.
    ///
    /// # Errors
    /// [`IdError`] when day or counter don't fit.
    pub fn mint(&self, day: Day, counter: i64) -> Result<CouponCode, IdError> {
        Ok(self.code(self.code_id(day, counter)?))
    }

    /// The id of that coupon alone, for a tenth of the work: what no code is printed of.
    ///
    /// # Errors
    /// As [`Self::mint`].
    pub fn code_id(&self, day: Day, counter: i64) -> Result<CodeId, IdError> {
        if !(0..NUMBER_END).contains(&counter) {
            return Err(IdError::Number { kind: "CodeId", number: counter });
        }
        let serial = self.permutation.permute(counter as u64) as i64;
        CodeId::from_parts(day, serial)
    }

    /// The ids of many coupons of a day, counted up from `first`: less work than one by one.
    ///
    /// # Errors
    /// As [`Self::mint`].
    pub fn code_ids(&self, day: Day, first: i64, count: usize) -> Result<Vec<CodeId>, IdError> {
        self.serials(first, count)?.into_iter().map(|serial| CodeId::from_parts(day, serial)).collect()
    }

    /// What ids of those counters have beside their day.
    ///
    /// # Errors
    /// [`IdError`] when one does not fit.
    pub fn serials(&self, first: i64, count: usize) -> Result<Vec<i64>, IdError> {
        let end = i64::try_from(count).ok().and_then(|count| first.checked_add(count)).unwrap_or(i64::MAX);
        if first < 0 || end > NUMBER_END {
            return Err(IdError::Number { kind: "CodeId", number: if first < 0 { first } else { end - 1 } });
        }
        let mut numbers: Vec<u64> = (first..end).map(|counter| counter as u64).collect();
        self.permutation.permute_all(&mut numbers);
        Ok(numbers.into_iter().map(|serial| serial as i64).collect())
    }

    /// The code of an id that is known to exist.
    pub fn code(&self, code_id: CodeId) -> CouponCode {
        CouponCode { code_id, check: self.check(code_id) }
    }

    /// The code of an id, as it is printed.
    pub fn format(&self, code_id: CodeId) -> String {
        self.code(code_id).to_string()
    }

    /// Reads a code in whatever way it was typed: case, hyphens and spaces don't matter, I and L are 1, O is 0.
    ///
    /// # Errors
    /// [`BadCode`], in the order of its variants.
    pub fn parse(&self, text: &str) -> Result<CodeId, BadCode> {
        let bits = read_symbols(text)?;
        let check = bits as u32 & ((1 << CHECK_BITS) - 1);
        let code_id = CodeId::new((bits >> CHECK_BITS) as i64).expect("80 bits less 24 are day and serial");
        if bool::from(check.ct_eq(&self.check(code_id))) { Ok(code_id) } else { Err(BadCode::Check) }
    }

    /// The counter that an id was minted from.
    pub fn counter_of(&self, code_id: CodeId) -> i64 {
        self.permutation.invert(code_id.number() as u64) as i64
    }

    fn check(&self, code_id: CodeId) -> u32 {
        let at = self.checks.partition_point(|(from, _)| *from <= code_id.day());
        let mut keyed = self.checks[at - 1].1.clone(); // the first begins with the first day an id can carry
        keyed.update(&code_id.get().to_be_bytes());
        let full = keyed.finalize().into_bytes();
        u32::from_be_bytes([0, full[0], full[1], full[2]])
    }
}

impl fmt::Debug for CodeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from: Vec<Day> = self.checks.iter().map(|(day, _)| *day).collect();
        f.debug_struct("CodeKeys").field("checks_from", &from).finish_non_exhaustive()
    }
}

fn read_symbols(text: &str) -> Result<u128, BadCode> {
    if text.len() > CODE_TEXT_BYTES_MAX {
        return Err(BadCode::Length);
    }
    let symbols = text.chars().filter(|c| !matches!(c, '-' | ' '));
    if symbols.clone().count() != CODE_SYMBOLS {
        return Err(BadCode::Length);
    }
    symbols.map(value_of).try_fold(0, |bits, five| Ok(bits << 5 | u128::from(five?)))
}

fn value_of(symbol: char) -> Result<u8, BadCode> {
    let value = match symbol.to_ascii_uppercase() {
        c @ '0'..='9' => c as u8 - b'0',
        'O' => 0,
        'I' | 'L' => 1,
        c @ 'A'..='H' => c as u8 - b'A' + 10,
        c @ 'J'..='K' => c as u8 - b'J' + 18,
        c @ 'M'..='N' => c as u8 - b'M' + 20,
        c @ 'P'..='T' => c as u8 - b'P' + 22,
        c @ 'V'..='Z' => c as u8 - b'V' + 27,
        _ => return Err(BadCode::Symbol),
    };
    Ok(value)
}

/// Numbers that are permuted side by side.
const AT_ONCE: usize = 256;

/// A keyed permutation of the numbers below 2^bits, `bits` odd: a balanced Feistel network one bit wider, walked until
/// it comes back below. The round function is AES-256 of round and half.
#[derive(Clone)]
struct Permutation {
    cipher: Aes256,
    bits: u32,
}

impl Permutation {
    /// As in NIST's FF1.
    const ROUNDS: u8 = 10;

    fn new(key: &[u8; 32], bits: u32) -> Self {
        assert!(bits % 2 == 1 && bits < 63);
        Self { cipher: Aes256::new(&(*key).into()), bits }
    }

    fn permute(&self, number: u64) -> u64 {
        self.walk(number, Self::forward)
    }

    /// As [`Self::permute`] of each. AES has blocks side by side in its pipeline; one by one each waits for the last. A
    /// number that has arrived gives its place to the next.
    fn permute_all(&self, numbers: &mut [u64]) {
        let mut walking = Vec::with_capacity(AT_ONCE);
        let mut waiting = 0..numbers.len();
        loop {
            walking.extend(waiting.by_ref().take(AT_ONCE - walking.len()));
            if walking.is_empty() {
                return;
            }
            self.forward_all(numbers, &walking);
            walking.retain(|at| numbers[*at] >= 1 << self.bits);
        }
    }

    /// [`Self::forward`] of those that are named.
    fn forward_all(&self, numbers: &mut [u64], named: &[usize]) {
        let mut halves = [(0, 0); AT_ONCE];
        let mut blocks = [Block::<Aes256>::default(); AT_ONCE];
        for (half, at) in halves.iter_mut().zip(named) {
            *half = self.split(numbers[*at]);
        }
        for round in 0..Self::ROUNDS {
            for (block, (_, right)) in blocks.iter_mut().zip(&halves[..named.len()]) {
                *block = Self::block(round, *right);
            }
            self.cipher.encrypt_blocks(&mut blocks[..named.len()]);
            for ((left, right), block) in halves.iter_mut().zip(&blocks[..named.len()]) {
                (*left, *right) = (*right, *left ^ self.half_of(block));
            }
        }
        for ((left, right), at) in halves.iter().zip(named) {
            numbers[*at] = left << self.half_bits() | right;
        }
    }

    fn invert(&self, number: u64) -> u64 {
        self.walk(number, Self::backward)
    }

    /// Ends, since the cycle of the wider permutation that `number` is on comes back to `number` itself; two steps on
    /// average.
    fn walk(&self, number: u64, step: impl Fn(&Self, u64) -> u64) -> u64 {
        debug_assert!(number < 1 << self.bits);
        let mut at = step(self, number);
        while at >= 1 << self.bits {
            at = step(self, at);
        }
        at
    }

    fn forward(&self, number: u64) -> u64 {
        let (mut left, mut right) = self.split(number);
        for round in 0..Self::ROUNDS {
            (left, right) = (right, left ^ self.round(round, right));
        }
        left << self.half_bits() | right
    }

    fn backward(&self, number: u64) -> u64 {
        let (mut left, mut right) = self.split(number);
        for round in (0..Self::ROUNDS).rev() {
            (left, right) = (right ^ self.round(round, left), left);
        }
        left << self.half_bits() | right
    }

    fn half_bits(&self) -> u32 {
        self.bits.div_ceil(2)
    }

    fn split(&self, number: u64) -> (u64, u64) {
        (number >> self.half_bits(), number & ((1 << self.half_bits()) - 1))
    }

    fn round(&self, round: u8, half: u64) -> u64 {
        let mut block = Self::block(round, half);
        self.cipher.encrypt_block(&mut block);
        self.half_of(&block)
    }

    fn block(round: u8, half: u64) -> Block<Aes256> {
        let mut block = [0; 16];
        block[0] = round;
        block[8..].copy_from_slice(&half.to_be_bytes());
        block.into()
    }

    fn half_of(&self, block: &Block<Aes256>) -> u64 {
        let mut first = [0; 8];
        first.copy_from_slice(&block[..8]);
        u64::from_be_bytes(first) & ((1 << self.half_bits()) - 1)
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    const SEED: u64 = 20_261_122;

    fn keys() -> CodeKeys {
        CodeKeys::new(&[7; 32], [(Day::EPOCH, [1; 32])])
    }

    fn day(text: &str) -> Day {
        text.parse().unwrap()
    }

    fn random_code(keys: &CodeKeys, rng: &mut StdRng) -> CouponCode {
        let day = Day::from_number(rng.random_range(0..1 << DAY_BITS)).unwrap();
        keys.mint(day, rng.random_range(0..NUMBER_END)).unwrap()
    }

    #[test]
    fn codes_under_known_keys_never_change() {
        // Computed apart from this code, with openssl's AES and Python's hmac.
        let keys = keys();
        for (day_text, counter, code_id, text) in [
            ("2000-01-01", 0, 1698026473916, "000R-PPJ3-S6Y6-TX8Q"),
            ("2026-11-22", 1, 21600012689116599, "9JYH-HPVT-HPVS-567Y"),
            ("2026-11-22", 2, 21599172161815533, "9JY5-AA15-RFPG-708Q"),
            ("2089-09-17", NUMBER_END - 1, 72055900617868621, "ZZZ7-BE2C-GN6G-BJ4R"),
        ] {
            let code = keys.mint(day(day_text), counter).unwrap();
            assert_eq!((code.code_id.get(), code.to_string().as_str()), (code_id, text), "{day_text} {counter}");
        }
    }

    #[test]
    fn a_code_reads_back_as_its_id_and_its_counter() {
        let (keys, mut rng) = (keys(), StdRng::seed_from_u64(SEED));
        for _ in 0..20_000 {
            let day = Day::from_number(rng.random_range(0..1 << DAY_BITS)).unwrap();
            let counter = rng.random_range(0..NUMBER_END);
            let code = keys.mint(day, counter).unwrap();
            let text = code.to_string();
            assert_eq!(text.len(), 19);
            assert_eq!(keys.parse(&text), Ok(code.code_id), "{text}, seed {SEED}");
            assert_eq!(keys.format(code.code_id), text);
            assert_eq!((code.code_id.day(), keys.counter_of(code.code_id)), (day, counter), "seed {SEED}");
        }
    }

    #[test]
    fn case_hyphens_spaces_and_look_alikes_do_not_matter() {
        let (keys, mut rng) = (keys(), StdRng::seed_from_u64(SEED));
        for _ in 0..2_000 {
            let code = random_code(&keys, &mut rng);
            let text = code.to_string();
            let lower = text.to_lowercase();
            for typed in [
                lower.replace('-', ""),
                text.replace('-', " "),
                format!("  {} ", text.replace('0', "O").replace('1', "I")),
                lower.replace('0', "o").replace('1', "l"),
                text.replace('1', "i").replace('-', " - "),
            ] {
                assert_eq!(keys.parse(&typed), Ok(code.code_id), "{typed:?}, seed {SEED}");
            }
        }
    }

    #[test]
    fn what_is_no_code_is_refused_by_length_then_symbol_then_check() {
        let keys = keys();
        let text = keys.mint(day("2026-11-22"), 1).unwrap().to_string();
        let with_u = format!("U{}", &text[1..]);
        for (typed, why) in [
            ("", BadCode::Length),
            ("----", BadCode::Length),
            (&text[1..], BadCode::Length),
            (&format!("{text}0"), BadCode::Length),
            (&format!("{text}{}", " ".repeat(64)), BadCode::Length),
            (with_u.as_str(), BadCode::Symbol),
            (&with_u.to_lowercase(), BadCode::Symbol),
            (&format!("{}*", &text[..18]), BadCode::Symbol),
            (&format!("{}é", &text[..18]), BadCode::Symbol),
            ("7K3M_7K3M_7K3M_7K3M", BadCode::Length),
            ("7K3M-7K3M-7K3M-7K3M", BadCode::Check),
            ("０000000000000000", BadCode::Symbol),
        ] {
            assert_eq!(keys.parse(typed), Err(why), "{typed:?}");
        }
    }

    #[test]
    fn a_substitution_or_transposition_is_caught() {
        let (keys, mut rng) = (keys(), StdRng::seed_from_u64(SEED));
        let (mut tried, mut missed) = (0, 0);
        while tried < 100_000 {
            let code = random_code(&keys, &mut rng);
            let mut symbols: Vec<u8> = code.to_string().bytes().filter(|b| *b != b'-').collect();
            let at = rng.random_range(0..CODE_SYMBOLS);
            if tried % 2 == 0 {
                let other = ALPHABET[rng.random_range(0..32)];
                if other == symbols[at] {
                    continue;
                }
                symbols[at] = other;
            } else {
                let next = (at + 1) % CODE_SYMBOLS;
                if symbols[at] == symbols[next] || next == 0 {
                    continue;
                }
                symbols.swap(at, next);
            }
            tried += 1;
            missed += usize::from(keys.parse(std::str::from_utf8(&symbols).unwrap()).is_ok());
        }
        // One in 2^24 is expected to pass, so none of 100,000; the seed is fixed, so this does not flicker.
        assert_eq!(missed, 0, "of {tried}, seed {SEED}");
    }

    #[test]
    fn a_new_check_key_leaves_the_codes_of_older_days_as_they_are() {
        let old = keys();
        let new = CodeKeys::new(&[7; 32], [(Day::EPOCH, [1; 32]), (day("2026-11-23"), [2; 32])]);
        for counter in 0..1_000 {
            let before = old.mint(day("2026-11-22"), counter).unwrap();
            assert_eq!(new.mint(day("2026-11-22"), counter).unwrap(), before);
            assert_eq!(new.parse(&before.to_string()), Ok(before.code_id));
            let after = new.mint(day("2026-11-23"), counter).unwrap();
            assert_eq!(new.parse(&after.to_string()), Ok(after.code_id));
            assert_eq!(old.parse(&after.to_string()), Err(BadCode::Check));
        }
    }

    #[test]
    fn what_does_not_fit_is_not_minted() {
        let keys = keys();
        assert!(matches!(keys.mint(day("2026-11-22"), NUMBER_END), Err(IdError::Number { .. })));
        assert!(matches!(keys.mint(day("2026-11-22"), -1), Err(IdError::Number { .. })));
        assert!(matches!(keys.mint(day("1999-12-31"), 1), Err(IdError::Day { .. })));
        assert!(matches!(keys.mint(day("2089-09-18"), 1), Err(IdError::Day { .. })));
    }

    #[test]
    fn a_small_permutation_hits_every_number_once_and_inverts() {
        for bits in [1, 3, 5, 9, 13, 17] {
            let permutation = Permutation::new(&[3; 32], bits);
            let mut hit = vec![false; 1 << bits];
            let mut all: Vec<u64> = (0..1 << bits).collect();
            permutation.permute_all(&mut all);
            for number in 0..1 << bits {
                let image = permutation.permute(number);
                assert_eq!(all[number as usize], image, "side by side as one by one");
                assert!(!std::mem::replace(&mut hit[image as usize], true), "{image} twice at {bits} bits");
                assert_eq!(permutation.invert(image), number);
            }
            assert!(hit.into_iter().all(|hit| hit));
        }
    }

    #[test]
    fn a_million_counters_give_a_million_serials_spread_over_the_range() {
        let permutation = Permutation::new(&[3; 32], NUMBER_BITS);
        let mut serials: Vec<u64> = (0..1_000_000).map(|counter| permutation.permute(counter)).collect();
        for counter in (0..1_000_000).step_by(97) {
            assert_eq!(permutation.invert(serials[counter as usize]), counter);
        }
        let ascents = serials.is_sorted_by(|a, b| a < b);
        assert!(!ascents);
        serials.sort_unstable();
        serials.dedup();
        assert_eq!(serials.len(), 1_000_000);
        assert!(*serials.last().unwrap() < 1 << NUMBER_BITS);
        // 16 equal parts of the range hold 62,500 each, give or take six standard deviations.
        for part in 0..16 {
            let (low, high) = (part << (NUMBER_BITS - 4), (part + 1) << (NUMBER_BITS - 4));
            let held = serials.partition_point(|s| *s < high) - serials.partition_point(|s| *s < low);
            assert!((61_000..64_000).contains(&held), "{held} in part {part}");
        }
    }

    #[test]
    fn ids_are_the_same_made_together_or_one_by_one() {
        let (keys, day) = (keys(), day("2026-11-22"));
        for (first, count) in [(0, 0), (0, 1), (5, 63), (6, 64), (1_000_000, 1_000), (NUMBER_END - 65, 65)] {
            let together = keys.code_ids(day, first, count).unwrap();
            let one_by_one: Vec<_> = (first..).take(count).map(|n| keys.code_id(day, n).unwrap()).collect();
            assert_eq!(together, one_by_one, "{first} {count}");
        }
        for (first, count) in [(-1, 2), (NUMBER_END, 1), (NUMBER_END - 1, 2), (0, usize::MAX)] {
            keys.code_ids(day, first, count).unwrap_err();
        }
    }

    #[test]
    fn debug_shows_neither_code_nor_key() {
        let keys = keys();
        let code = keys.mint(day("2026-11-22"), 1).unwrap();
        assert!(!format!("{code:?}").contains(&code.to_string()));
        assert_eq!(format!("{keys:?}"), "CodeKeys { checks_from: [Day(2000-01-01)], .. }");
    }
}
