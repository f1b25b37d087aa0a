//! The rows of a dataset, each with the columns that the API and its jobs write.

use std::cell::RefCell;

use chrono::{DateTime, Utc};
use tessera::{
    coupon::{StateName, code::CodeKeys, decide::Redeemed},
    db::copy::CopyRows,
    event,
    id::{CodeId, Day, NUMBER_BITS},
    member::{State, key::Kind},
    request::{self, store::Answer},
    secret::{NONCE_BYTES, Secrets},
};
use uuid::Uuid;

use crate::dataset::{Coupon, Dataset, Fate, Member, UseOf, chance::draw, store_id, stream};

pub const MEMBER: &[&str] = &[
    "member_id",
    "created_at",
    "updated_at",
    "phone_bound_at",
    "email_bound_at",
    "version",
    "home_store_no",
    "state",
    "gender",
    "source",
    "level",
    "phone",
    "email",
    "name",
    "birthday",
    "nickname",
    "attributes",
];
pub const MEMBER_AUTH: &[&str] = &["member_id", "bound_at", "key", "key_version", "kind", "source", "identifier"];
pub const MEMBER_KEY: &[&str] = &["member_id", "bound_at", "key", "key_version", "kind"];
pub const REGISTER_LOG: &[&str] = &["log_id", "member_id", "created_at", "store_no", "source", "actor"];
pub const COUPON: &[&str] = &[
    "code_id",
    "rule_id",
    "issued_at",
    "valid_from",
    "valid_until",
    "member_id",
    "redemption_id",
    "redeemed_at",
    "legacy_key",
    "rule_version",
    "issue_store_no",
    "redeemed_store_no",
    "state",
    "uses",
    "cycles",
    "counted",
    "order_ref",
    "referrer",
    "void_reason",
];
pub const COUPON_RECEIVE: &[&str] = &["member_id", "code_id", "rule_id", "valid_until", "state", "rule_version"];
pub const COUPON_INDEX: &[&str] = &["rule_id", "code_id", "valid_until", "member_id", "state", "referrer"];
pub const COUPON_HISTORY_INDEX: &[&str] = &["code_id", "legacy_key"];
pub const MEMBER_RULE: &[&str] = &["member_id", "rule_id", "last_taken_at", "taken"];
pub const COUPON_STOCK: &[&str] = &["rule_id", "issued", "voided", "spent", "period", "store_no"];
pub const REDEMPTION: &[&str] = &[
    "redemption_id",
    "code_id",
    "rule_id",
    "recorded_at",
    "amount",
    "discount",
    "member_id",
    "reverses",
    "reversed",
    "returned",
    "rule_version",
    "store_no",
    "sequence",
    "kind",
    "reversed_whole",
    "register",
    "order_ref",
    "counted",
];

pub const REQUEST: &[&str] = &["created_at", "digest", "key", "day", "status", "answer"];
pub const EVENT: &[&str] = &["event_id", "created_at", "subject", "kind", "body"];

const REDEEM: i16 = 1;
const REVERSE: i16 = 2;
/// Why a coupon was taken back.
const VOID_REASON: &str = "withdrawn";

/// What rows are made from, by one thread.
pub struct Maker<'a> {
    dataset: &'a Dataset,
    secrets: &'a Secrets,
    codes: &'a CodeKeys,
    /// Made together, since a walk asks for one after another: the first coupon's number, and serials from there.
    serials: RefCell<(u64, Vec<i64>)>,
}

/// Coupons whose serials are made together: the more, the less each costs.
const TOGETHER: u64 = 4_096;

impl<'a> Maker<'a> {
    pub fn new(dataset: &'a Dataset, secrets: &'a Secrets, codes: &'a CodeKeys) -> Self {
        Self { dataset, secrets, codes, serials: RefCell::default() }
    }

    pub fn dataset(&self) -> &'a Dataset {
        self.dataset
    }

    /// The key of a coupon's older code.
    pub fn legacy_key(&self, n: u64) -> Uuid {
        self.secrets.legacy(&self.dataset.legacy_code(n))
    }

    fn code_id(&self, coupon: &Coupon) -> CodeId {
        let mut known = self.serials.borrow_mut();
        let first = coupon.n / TOGETHER * TOGETHER;
        if known.1.is_empty() || known.0 != first {
            let count = TOGETHER.min(self.dataset.shape.coupons - first) as usize;
            let from = self.dataset.shape.first_serial + first as i64;
            *known = (first, self.codes.serials(from, count).expect("numbers are leased within their range"));
        }
        CodeId::from_parts(coupon.day, known.1[(coupon.n - first) as usize]).expect("a day of this century")
    }

    /// Encrypted as the API does, with a nonce from the seed: the same dataset is the same bytes.
    fn seal(&self, place: (&'static str, &'static str), n: u64, id: i64, plain: &str) -> Vec<u8> {
        let (table, column) = place;
        let stream = stream::NONCE | (column.len() as u64) << 8 | u64::from(column.as_bytes()[0]) << 16;
        let words = [0, 1].map(|word| draw(self.dataset.shape.seed, stream, 2 * n + word).to_le_bytes());
        let mut nonce = [0; NONCE_BYTES];
        nonce.copy_from_slice(&words.as_flattened()[..NONCE_BYTES]);
        self.secrets.encrypt_with(nonce, (table, column, id), plain.as_bytes())
    }

    pub fn member(&self, member: &Member<'_>, rows: &mut CopyRows) {
        let (id, at) = (member.member_id.get(), member.created_at);
        let seal =
            |column, plain: Option<String>| plain.map(|plain| self.seal(("member", column), member.n, id, &plain));
        let (phone, email) = (seal("phone", Some(member.phone())), seal("email", member.email()));
        let name = seal("name", member.name());
        let birthday = seal("birthday", member.birthday().map(|day| day.to_string()));
        // Whoever left or was frozen was changed once.
        let version = if member.state == State::Normal { 1 } else { 2 };
        rows.row()
            .i64(id)
            .instant(at)
            .instant(at)
            .instant(at)
            .opt(email.as_ref(), |row, _| row.instant(at))
            .i32(version)
            .opt(member.home_store(), |row, store| row.i32(store as i32))
            .i16(member.state.number())
            .i16(member.gender().number())
            .i16(member.source().number())
            .i16(member.level())
            .opt(phone.as_deref(), |row, sealed| row.bytes(sealed))
            .opt(email.as_deref(), |row, sealed| row.bytes(sealed))
            .opt(name.as_deref(), |row, sealed| row.bytes(sealed))
            .opt(birthday.as_deref(), |row, sealed| row.bytes(sealed))
            .opt(member.nickname().as_deref(), |row, text| row.text(text))
            .opt(member.attributes().as_deref(), |row, json| row.jsonb(json));
    }

    /// The identifiers without a column of their own, under the current key.
    pub fn auths(&self, member: &Member<'_>, rows: &mut CopyRows) {
        let id = member.member_id.get();
        for (kind, text) in [(Kind::Card, member.card()), (Kind::External, member.external())] {
            let Some(text) = text else { continue };
            let (version, key) = self.secrets.blind_current(kind.number(), &text);
            // Two rows of one member: their nonces must differ.
            let n = 2 * member.n + u64::from(kind == Kind::External);
            rows.row()
                .i64(id)
                .instant(member.created_at)
                .uuid(key)
                .i16(version)
                .i16(kind as i16)
                .i16(member.source().number())
                .bytes(&self.seal(("member_auth", "identifier"), n, id, &text));
        }
    }

    /// The keys of all identifiers, one for each version of the blind key that is written.
    pub fn keys(&self, member: &Member<'_>, mut put: impl FnMut(Uuid, &dyn Fn(&mut CopyRows))) {
        for (kind, text) in member.identifiers() {
            for (version, key) in self.secrets.blind(kind.number(), &text) {
                put(key, &|rows: &mut CopyRows| {
                    rows.row()
                        .i64(member.member_id.get())
                        .instant(member.created_at)
                        .uuid(key)
                        .i16(version)
                        .i16(kind as i16);
                });
            }
        }
    }

    /// The number of a member's row in the log of registrations.
    pub fn log_id(&self, member: &Member<'_>) -> i64 {
        let day = Day::from_date(member.created_at.date_naive());
        i64::from(day.number()) << NUMBER_BITS | (self.dataset.shape.first_log + member.n as i64)
    }

    pub fn log(&self, member: &Member<'_>, rows: &mut CopyRows) {
        rows.row()
            .i64(self.log_id(member))
            .i64(member.member_id.get())
            .instant(member.created_at)
            .opt(member.home_store(), |row, store| row.i32(store as i32))
            .i16(member.source().number())
            .text("loadtest-pos");
    }

    fn rule_id(&self, coupon: &Coupon) -> i64 {
        self.dataset.rules[coupon.rule].rule_id.get()
    }

    fn holder(&self, coupon: &Coupon) -> Option<i64> {
        coupon.holder.map(|member| self.dataset.member_id(member).get())
    }

    pub fn coupon(&self, coupon: &Coupon, rows: &mut CopyRows) {
        let used = match &coupon.fate {
            Fate::Redeemed(used) => Some(used),
            _ => None,
        };
        let legacy = coupon.is_legacy.then(|| self.legacy_key(coupon.n));
        rows.row()
            .i64(self.code_id(coupon).get())
            .i64(self.rule_id(coupon))
            .instant(coupon.issued_at)
            .instant(coupon.issued_at)
            .instant(coupon.valid_until)
            .opt(self.holder(coupon), |row, id| row.i64(id))
            .opt(used, |row, used| row.i64(used.redemption_id.get()))
            .opt(used, |row, used| row.instant(used.at))
            .opt(legacy, |row, key| row.uuid(key))
            .i32(1)
            .opt(coupon.issue_store, |row, store| row.i32(store as i32))
            .opt(used, |row, used| row.i32(used.store as i32))
            .i16(coupon.state())
            .i16(i16::from(used.is_some()))
            .i16(i16::from(matches!(coupon.fate, Fate::Reversed(..))))
            .i16(coupon.counted)
            .opt(used, |row, used| row.text(&used.order_ref()))
            .opt(referrer(coupon).as_deref(), |row, referrer| row.text(referrer))
            .opt((coupon.fate == Fate::Void).then_some(VOID_REASON), |row, reason| row.text(reason));
    }

    pub fn receive(&self, coupon: &Coupon, holder: i64, rows: &mut CopyRows) {
        rows.row()
            .i64(holder)
            .i64(self.code_id(coupon).get())
            .i64(self.rule_id(coupon))
            .instant(coupon.valid_until)
            .i16(coupon.state())
            .i32(1);
    }

    pub fn index(&self, coupon: &Coupon, rows: &mut CopyRows) {
        rows.row()
            .i64(self.rule_id(coupon))
            .i64(self.code_id(coupon).get())
            .instant(coupon.valid_until)
            .opt(self.holder(coupon), |row, id| row.i64(id))
            .i16(coupon.state())
            .opt(referrer(coupon).as_deref(), |row, referrer| row.text(referrer));
    }

    pub fn history(&self, coupon: &Coupon, key: Uuid, rows: &mut CopyRows) {
        rows.row().i64(self.code_id(coupon).get()).uuid(key);
    }

    /// What a member has of each rule.
    pub fn taken(&self, member: u64, rows: &mut CopyRows) {
        let mut taken: Vec<(i64, DateTime<Utc>, i32)> = Vec::new();
        for n in self.dataset.coupons_of(member) {
            let coupon = self.dataset.coupon(n);
            let (rule, living) = (self.rule_id(&coupon), i32::from(coupon.fate != Fate::Void));
            match taken.iter_mut().find(|(known, ..)| *known == rule) {
                Some((_, last, count)) => {
                    *last = coupon.issued_at.max(*last);
                    *count += living;
                }
                None => taken.push((rule, coupon.issued_at, living)),
            }
        }
        taken.sort_unstable();
        let member_id = self.dataset.member_id(member).get();
        for (rule, last, count) in taken {
            rows.row().i64(member_id).i64(rule).instant(last).i32(count);
        }
    }

    /// A use, and its undo if there is one.
    pub fn uses(&self, coupon: &Coupon, rows: &mut CopyRows) {
        match &coupon.fate {
            Fate::Redeemed(used) => self.ledger(coupon, used, REDEEM, used.at, rows),
            Fate::Reversed(used, at) => {
                self.ledger(coupon, used, REDEEM, used.at, rows);
                self.ledger(coupon, used, REVERSE, *at, rows);
            }
            Fate::Issued | Fate::Void => {}
        }
    }

    fn ledger(&self, coupon: &Coupon, used: &UseOf, kind: i16, at: DateTime<Utc>, rows: &mut CopyRows) {
        let undo = kind == REVERSE;
        let back = !undo && matches!(coupon.fate, Fate::Reversed(..));
        let id = if undo { self.dataset.undo_id(coupon, used) } else { used.redemption_id };
        let returned = |amount: i64| if back { amount } else { 0 };
        rows.row()
            .i64(id.get())
            .i64(self.code_id(coupon).get())
            .i64(self.rule_id(coupon))
            .instant(at)
            .i64(used.amount)
            .i64(used.discount)
            .opt(self.holder(coupon), |row, id| row.i64(id))
            .opt(undo.then_some(used.redemption_id), |row, id| row.i64(id.get()))
            .i64(returned(used.discount))
            .i64(returned(used.amount))
            .i32(1)
            .i32(used.store as i32)
            .opt((!undo).then_some(used.sequence), |row, sequence| row.i32(sequence))
            .i16(kind)
            .bool(undo || back)
            .text(&used.register.to_string())
            .text(&used.order_ref())
            .i16(used.counted);
    }

    /// The request number of a use with its answer, as it is kept for repetitions. Tills name theirs by store, register,
    /// day and sequence; these are UUIDs, so that no till of a load test repeats one by chance.
    pub fn request(&self, coupon: &Coupon, used: &UseOf, rows: &mut CopyRows) {
        let millis = used.at.timestamp_millis() as u128;
        let uuid = Uuid::from_u128(millis << 80 | 7 << 76 | 2 << 62 | u128::from(coupon.n));
        let shape = &self.dataset.shape;
        let window = request::Window::new(shape.at, shape.zone());
        let (scope, source) = (format!("store:{}", store_id(used.store)), request::Source::Key(uuid.to_string()));
        // Days are those that numbers are accepted for; one that is not has no row.
        let Ok(number) = request::RequestNumber::new(&scope, request::Operation::Redeem, &source, &window) else {
            return;
        };
        let code = self.code_id(coupon);
        let rule = &self.dataset.rules[coupon.rule].version;
        let answer = Answer::decided(
            200,
            Ok(Redeemed {
                redemption_id: used.redemption_id,
                code,
                state: StateName::Redeemed,
                discount: used.discount,
                payable: used.amount - used.discount,
                currency: rule.currency.clone(),
                gift_sku: rule.discount.gift_sku().map(str::to_owned),
                lines: Vec::new(),
                uses: 1,
                uses_max: 1,
                redeemed_at: used.at,
                store_id: store_id(used.store).into(),
                order_ref: used.order_ref(),
            }),
        );
        rows.row()
            .instant(used.at)
            .i64(request::digest(&(code, used.amount)))
            .uuid(number.key)
            .i32(used.day.number())
            .i16(answer.status.cast_signed())
            .text(&answer.body);
    }

    /// What the outbox says of a use.
    pub fn event(&self, coupon: &Coupon, used: &UseOf, rows: &mut CopyRows) {
        let shape = &self.dataset.shape;
        let number = shape.first_log + shape.members as i64 + coupon.n as i64;
        let body = serde_json::json!({
            "redemption_id": used.redemption_id,
            "reverses": null,
            "rule_id": self.dataset.rules[coupon.rule].rule_id,
            "member_id": coupon.holder.map(|member| self.dataset.member_id(member)),
            "store_id": store_id(used.store),
            "order_ref": used.order_ref(),
            "discount": used.discount,
            "occurred_at": null,
        });
        rows.row()
            .i64(Day::from_date(used.at.date_naive()).first_id() | number)
            .instant(used.at)
            .i64(self.code_id(coupon).get())
            .i16(event::Kind::CouponRedeemed.number())
            .text(&body.to_string());
    }
}

fn referrer(coupon: &Coupon) -> Option<String> {
    coupon.referrer.map(|referrer| format!("E{referrer:04}"))
}
