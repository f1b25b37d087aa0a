//! Members: who they are, by their number.

use chrono::{DateTime, NaiveDate, Utc};
use tessera::{
    id::{EPOCH_MS, MemberId, RuleId},
    member::{Gender, Source, State, key::Kind},
};

use super::{Dataset, chance::below, stream, time::instant};

/// Series of Chinese mobile numbers that are wholly in use: 13x, 15x but for 154, 18x.
const SERIES: [u64; 29] = [
    130, 131, 132, 133, 134, 135, 136, 137, 138, 139, 150, 151, 152, 153, 155, 156, 157, 158, 159, 180, 181, 182, 183,
    184, 185, 186, 187, 188, 189,
];
const IN_SERIES: u64 = 100_000_000;
/// All numbers of those series.
pub(super) const PHONES: u64 = SERIES.len() as u64 * IN_SERIES;
const FAMILY_NAMES: [&str; 20] = [
    "王", "李", "张", "刘", "陈", "杨", "黄", "赵", "吴", "周", "徐", "孙", "马", "朱", "胡", "郭", "何", "林", "高",
    "罗",
];
const GIVEN_NAMES: [&str; 24] = [
    "伟", "芳", "娜", "敏", "静", "丽", "强", "磊", "军", "洋", "勇", "艳", "杰", "娟", "涛", "明", "超", "秀英", "霞",
    "平", "刚", "桂英", "建华", "文",
];
const NICKNAMES: [&str; 8] = ["happy", "panda", "晴天", "summer", "小鱼", "lucky", "tea", "云"];

/// An identifier of another system, `<system>:<id>`.
pub type External = String;

/// One of the dataset's members.
#[derive(Debug, Clone)]
pub struct Member<'a> {
    of: &'a Dataset,
    pub n: u64,
    pub member_id: MemberId,
    pub created_at: DateTime<Utc>,
    pub state: State,
    chance: u64,
}

/// What tills and people call a store, by its number from 1.
pub fn store_id(store_no: u32) -> String {
    format!("S{store_no:05}")
}

/// An id as the minter makes them: of that instant, by a node, in a sequence.
pub(super) fn minted(micros: i64, n: u64) -> i64 {
    const NODE_AND_SEQUENCE: u32 = 22;
    let ms = micros / 1_000 - EPOCH_MS;
    ms << NODE_AND_SEQUENCE | (n & ((1 << NODE_AND_SEQUENCE) - 1)) as i64
}

pub(super) fn rule_id(micros: i64, n: u64) -> RuleId {
    RuleId::new(minted(micros, n)).expect("not negative")
}

impl Dataset {
    /// Member `n` of `0..shape.members`.
    pub fn member(&self, n: u64) -> Member<'_> {
        let created = self.registered(n);
        let chance = self.draw(stream::MEMBER, n);
        let state = state_of(chance);
        Member { of: self, n, member_id: self.id_at(created, n), created_at: instant(created), state, chance }
    }

    /// Their states alone.
    #[inline]
    pub fn state_of(&self, n: u64) -> State {
        state_of(self.draw(stream::MEMBER, n))
    }

    /// Their ids alone.
    #[inline]
    pub fn member_id(&self, n: u64) -> MemberId {
        self.id_at(self.registered(n), n)
    }

    #[inline]
    fn id_at(&self, created: i64, n: u64) -> MemberId {
        MemberId::new(minted(created, n)).expect("not negative")
    }

    /// The members that may have registered between two instants: those in the range that did, and few others.
    pub fn registered_between(&self, from: DateTime<Utc>, until: DateTime<Utc>) -> std::ops::Range<u64> {
        let members = self.shape.members;
        let step = ((self.until - self.before.1) / (members as i64 + 1)).max(1);
        let at = |instant: DateTime<Utc>| (instant.timestamp_micros() - self.before.1) / step;
        (at(from) - 1).clamp(0, members as i64) as u64..(at(until) + 2).clamp(0, members as i64) as u64
    }

    /// In the order of their numbers; holders before the first coupon, the others since.
    #[inline]
    pub(super) fn registered(&self, n: u64) -> i64 {
        let (from, until) = if self.held_by(n) > 0 { self.before } else { (self.before.1, self.until) };
        let step = (until - from) / (self.shape.members as i64 + 1);
        let jitter = below(self.draw(stream::REGISTERED, n), step.max(1) as u64) as i64;
        from + step * n as i64 + jitter
    }
}

fn state_of(chance: u64) -> State {
    match chance % 200 {
        0 => State::Frozen,
        1 => State::Cancelled,
        _ => State::Normal,
    }
}

impl Member<'_> {
    fn bits(&self, from: u32, end: u64) -> u64 {
        (self.chance >> from) % end
    }

    /// E.164. Everybody has one.
    pub fn phone(&self) -> String {
        let at = self.of.phones.of(self.n);
        format!("+86{}{:08}", SERIES[(at / IN_SERIES) as usize], at % IN_SERIES)
    }

    pub fn email(&self) -> Option<String> {
        (self.bits(8, 10) < 5).then(|| format!("m{}@example.cn", self.n))
    }

    pub fn card(&self) -> Option<String> {
        (self.bits(12, 10) < 4).then(|| format!("C{:012}", self.n))
    }

    pub fn external(&self) -> Option<External> {
        (self.bits(16, 10) < 2).then(|| format!("web:{}", self.n + 1))
    }

    /// All of them, each in its normal form.
    pub fn identifiers(&self) -> Vec<(Kind, String)> {
        let all = [
            (Kind::Phone, Some(self.phone())),
            (Kind::Email, self.email()),
            (Kind::Card, self.card()),
            (Kind::External, self.external()),
        ];
        all.into_iter().filter_map(|(kind, text)| Some((kind, text?))).collect()
    }

    pub fn name(&self) -> Option<String> {
        let drawn = self.of.draw(stream::NAME, self.n);
        let family = FAMILY_NAMES[(drawn & 0xFFFF) as usize % FAMILY_NAMES.len()];
        let given = GIVEN_NAMES[(drawn >> 16 & 0xFFFF) as usize % GIVEN_NAMES.len()];
        let second = if drawn >> 32 & 1 == 1 { GIVEN_NAMES[(drawn >> 33 & 0xFF) as usize % 17] } else { "" };
        (self.bits(20, 10) < 9).then(|| format!("{family}{given}{second}"))
    }

    pub fn birthday(&self) -> Option<NaiveDate> {
        let first = NaiveDate::from_ymd_opt(1945, 1, 1).expect("a day of the calendar");
        (self.bits(24, 10) < 7).then(|| first + chrono::Days::new(self.bits(26, 22_000)))
    }

    pub fn nickname(&self) -> Option<String> {
        (self.bits(44, 10) < 3).then(|| format!("{}{}", NICKNAMES[self.bits(48, 8) as usize], self.n % 1_000))
    }

    pub fn gender(&self) -> Gender {
        [Gender::Unknown, Gender::Male, Gender::Female, Gender::Female, Gender::Male][self.bits(30, 5) as usize]
    }

    pub fn source(&self) -> Source {
        [Source::Store, Source::Store, Source::App, Source::Web][self.bits(34, 4) as usize]
    }

    /// By number, from 1.
    pub fn home_store(&self) -> Option<u32> {
        let picked = self.of.store_of.pick(self.of.draw(stream::HOME, self.n)) as u32 + 1;
        (self.bits(38, 10) < 8).then_some(picked)
    }

    pub fn level(&self) -> i16 {
        self.bits(52, 5) as i16
    }

    /// JSON.
    pub fn attributes(&self) -> Option<String> {
        (self.bits(55, 5) == 0).then(|| format!(r#"{{"channel": "{}", "kids": {}}}"#, self.n % 40, self.n % 4))
    }

    /// Whether it registered while logs are kept.
    pub fn is_logged(&self) -> bool {
        self.created_at.timestamp_micros() >= self.of.before.1
    }
}
