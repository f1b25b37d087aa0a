//! Damages around every pair of tables, both ways. `<legacy10>` in a report is the key of the legacy code.

use uuid::Uuid;

use super::{DAY, code, key_of, phone, used};
use crate::{member::key, secret::Secrets};

/// A damage, the report it must give, and how it is undone where repair can't.
pub(super) struct Planting {
    pub name: &'static str,
    pub sql: String,
    pub report: Vec<String>,
    pub undo: Option<String>,
}

fn plant(name: &'static str, sql: String, report: &[String]) -> Planting {
    let mut report = report.to_vec();
    report.sort();
    Planting { name, sql, report, undo: None }
}

impl Planting {
    fn left(self, undo: String) -> Self {
        Self { undo: Some(undo), ..self }
    }
}

/// Coupons of note: 1 and 2 are untouched (rules 101, 102, holders 1001, 1002), 5 is used (105, 1005), 7 is untouched
/// (100, 1007), 10 is used and has a legacy code, 11 was used and reversed (104, 1011).
pub(super) fn coupon_plantings() -> Vec<Planting> {
    let (c1, c2, c7, c10, c20) = (code(1), code(2), code(7), code(10), code(20));
    let stranger = DAY << 41 | 999_999;
    let legacy = "md5('legacy10')::uuid";
    vec![
        plant(
            "receive, missing",
            format!("delete from coupon_receive where code_id = {c1}"),
            &[format!("missing coupon_receive (1001,{c1})"), "altered member_rule (1001,101): taken".to_owned()],
        ),
        plant(
            "receive, altered",
            format!("update coupon_receive set valid_until = valid_until + interval '1 day' where code_id = {c2}"),
            &[format!("altered coupon_receive (1002,{c2}): valid_until")],
        ),
        plant(
            "receive, of another version",
            format!("update coupon_receive set rule_version = rule_version + 1 where code_id = {c2}"),
            &[format!("altered coupon_receive (1002,{c2}): rule_version")],
        ),
        plant(
            "receive, extra, of no coupon",
            format!("insert into coupon_receive values (1001, {stranger}, 101, now(), 3)"),
            &[format!("extra coupon_receive (1001,{stranger})")],
        ),
        plant(
            "receive, extra, of another holder's coupon",
            format!("insert into coupon_receive values (1003, {c1}, 101, now(), 3)"),
            &[format!("extra coupon_receive (1003,{c1})")],
        ),
        plant(
            "index, missing",
            format!("delete from coupon_index where code_id = {c1}"),
            &[format!("missing coupon_index (101,{c1})"), "altered coupon_stock (101,0,0): issued, voided".to_owned()],
        ),
        plant(
            "index, altered",
            format!("update coupon_index set referrer = 'E9', member_id = null where code_id = {c2}"),
            &[format!("altered coupon_index (102,{c2}): member_id, referrer")],
        ),
        plant(
            "index, extra, of no coupon",
            format!("insert into coupon_index values (101, {stranger}, now(), null, 3, null)"),
            &[format!("extra coupon_index (101,{stranger})")],
        ),
        plant(
            "index, extra, of another rule's coupon",
            format!("insert into coupon_index values (104, {c1}, now(), null, 3, null)"),
            &[format!("extra coupon_index (104,{c1})")],
        ),
        plant(
            "history, missing",
            format!("delete from coupon_history_index where legacy_key = {legacy}"),
            &["missing coupon_history_index (<legacy10>)".to_owned()],
        ),
        plant(
            "history, altered",
            format!("update coupon_history_index set code_id = {c20} where legacy_key = {legacy}"),
            &["altered coupon_history_index (<legacy10>): code_id".to_owned()],
        ),
        plant(
            "history, extra",
            format!("insert into coupon_history_index (code_id, legacy_key) values ({c10}, '{}')", Uuid::nil()),
            &[format!("extra coupon_history_index ({})", Uuid::nil())],
        ),
        plant(
            "coupon, missing",
            format!("delete from coupon where code_id = {c7}"),
            &[format!("extra coupon_receive (1007,{c7})"), format!("extra coupon_index (100,{c7})")],
        ),
    ]
}

pub(super) fn count_plantings() -> Vec<Planting> {
    vec![
        plant(
            "stock, altered",
            "update coupon_stock set issued = issued + 5 where rule_id = 103".to_owned(),
            &["altered coupon_stock (103,0,0): issued, voided".to_owned()],
        ),
        plant(
            "stock, missing",
            "delete from coupon_stock where rule_id = 104".to_owned(),
            &["missing coupon_stock (104,0,0)".to_owned()],
        ),
        plant(
            "stock, extra",
            "insert into coupon_stock (rule_id, issued) values (999, 3)".to_owned(),
            &["altered coupon_stock (999,0,0): issued, voided".to_owned()],
        ),
        plant(
            "taken, altered",
            "update member_rule set taken = taken + 1 where (member_id, rule_id) = (1001, 101)".to_owned(),
            &["altered member_rule (1001,101): taken".to_owned()],
        ),
        plant(
            "taken, missing",
            "delete from member_rule where (member_id, rule_id) = (1002, 102)".to_owned(),
            &["missing member_rule (1002,102)".to_owned()],
        ),
        plant(
            "taken, extra",
            "insert into member_rule (member_id, rule_id, taken) values (5, 999, 2)".to_owned(),
            &["altered member_rule (5,999): taken".to_owned()],
        ),
    ]
}

/// Of rule 106, which limits everything. Its uses are of 2026-11-22 in store 1.
pub(super) fn part_plantings() -> Vec<Planting> {
    let of = |set: &str, period: i64, store: i32| {
        format!("update coupon_stock set {set} where (rule_id, period, store_no) = (106, {period}, {store})")
    };
    let wrong =
        |period: i64, store: i32, columns: &str| format!("altered coupon_stock (106,{period},{store}): {columns}");
    let yesterday = DAY - 1;
    vec![
        plant("part, of a day", of("issued = issued + 1", yesterday, 0), &[wrong(yesterday, 0, "issued, voided")]),
        plant("part, of a store", of("voided = voided + 1", 0, 2), &[wrong(0, 2, "issued, voided")]),
        plant(
            "part, of a day, missing",
            format!("delete from coupon_stock where (rule_id, period) = (106, {yesterday})"),
            &[format!("missing coupon_stock (106,{yesterday},0)")],
        ),
        plant(
            "part, of a day that nothing was issued on",
            format!("insert into coupon_stock (rule_id, period, issued) values (106, {}, 2)", DAY + 1),
            &[wrong(DAY + 1, 0, "issued, voided")],
        ),
        plant("money, of a day", of("spent = spent - 1", DAY, 0), &[wrong(DAY, 0, "spent")]),
        plant(
            "money, of a store and in all",
            "update coupon_stock set spent = spent - 1 where rule_id = 106 and period = 0 and spent > 0".to_owned(),
            &[wrong(0, 0, "spent"), wrong(0, 1, "spent")],
        ),
        plant(
            "money, of a rule without a budget",
            format!("insert into coupon_stock (rule_id, period, spent) values (101, {DAY}, 7)"),
            &[format!("altered coupon_stock (101,{DAY},0): spent")],
        ),
    ]
}

pub(super) fn ledger_plantings() -> Vec<Planting> {
    let (c1, c5, c11) = (code(1), code(5), code(11));
    let stranger = DAY << 41 | 999_999;
    let (r5, r10, r11, more) = (used(5), used(10), used(11), used(500_001));
    let row = |id: i64, code: i64, kind: i16, reverses: &str| {
        format!(
            "insert into redemption (redemption_id, code_id, rule_id, recorded_at, amount, discount, rule_version,
                 store_no, kind, order_ref, reverses)
             values ({id}, {code}, 101, now(), 1, 1, 1, 1, {kind}, 'x', {reverses})"
        )
    };
    let without = format!("delete from redemption where redemption_id = {more}");
    let reversal = used(11) + 100_000;
    let conflict = used(600_001);
    let of_till = format!("update redemption set register = '1', sequence = 1 where redemption_id = {r5}");
    let recorded = |code: i64, amount: i64| {
        format!(
            "insert into redemption_conflict (conflict_id, recorded_at, redeemed_at, amount, code_id, business_date,
                 store_no, sequence, register, order_ref, reason)
             values ({conflict}, now(), now(), {amount}, {code}, '2026-11-22', 1, 1, '1', 'o', 'coupon_void')"
        )
    };
    let forgotten = format!("delete from redemption_conflict where conflict_id = {conflict}");
    vec![
        // Of another coupon or amount under the same number it is as it should be.
        plant(
            "conflict, of what the ledger has",
            format!(
                "{of_till}; {}; {forgotten}; {}; {forgotten}; {}",
                recorded(c1, 8000),
                recorded(c5, 1),
                recorded(c5, 8000)
            ),
            &[format!("extra redemption_conflict ({conflict})")],
        )
        .left(forgotten.clone()),
        plant(
            "coupon, uses altered",
            format!("update coupon set uses = 3 where code_id = {c5}"),
            &[format!("altered coupon ({c5}): uses")],
        ),
        plant(
            "coupon, state altered",
            format!("update coupon set state = 1 where code_id = {c5}"),
            &[
                format!("altered coupon ({c5}): state"),
                format!("altered coupon_receive (1005,{c5}): state"),
                format!("altered coupon_index (105,{c5}): state"),
            ],
        ),
        plant(
            "coupon, last use of another",
            format!("update coupon set redemption_id = {r10} where code_id = {c5}"),
            &[format!("altered coupon ({c5}): redemption_id")],
        ),
        plant(
            "coupon, last use altered",
            format!("update coupon set redeemed_store_no = 9 where code_id = {c5}"),
            &[format!("altered coupon ({c5}): redeemed_store_no")],
        ),
        plant("ledger, extra use", row(used(500_002), c1, 1, "null"), &[format!("altered coupon ({c1}): uses, state")]),
        plant(
            "ledger, missing use",
            format!("delete from redemption where redemption_id = {r5}"),
            &[format!("missing redemption ({r5})")],
        ),
        plant(
            "ledger, use of no coupon",
            row(more, stranger, 1, "null"),
            &[format!("extra redemption ({more}): code_id")],
        )
        .left(without.clone()),
        plant(
            "ledger, use of a code after all months of coupons",
            row(more, (DAY + 3_000) << 41 | 5, 1, "null"),
            &[format!("extra redemption ({more}): code_id")],
        )
        .left(without.clone()),
        plant(
            "ledger, use of a code before the first coupon of a month",
            row(more, (DAY - 21) << 41, 1, "null"),
            &[format!("extra redemption ({more}): code_id")],
        )
        .left(without.clone()),
        plant(
            "ledger, use not marked as reversed",
            format!("update redemption set reversed_whole = false, reversed = 0 where redemption_id = {r11}"),
            &[format!("altered redemption ({r11}): reversed, reversed_whole")],
        ),
        plant(
            "ledger, missing reversal",
            format!(
                "create table kept as select * from redemption where redemption_id = {reversal};
                     delete from redemption where redemption_id = {reversal}"
            ),
            &[format!("altered redemption ({r11}): reversed, returned, reversed_whole")],
        )
        .left("insert into redemption select * from kept; drop table kept".to_owned()),
        plant(
            "ledger, reversal of nothing",
            row(more, c11, 2, "12345"),
            &[format!("altered redemption ({more}): reverses")],
        )
        .left(without),
    ]
}

pub(super) fn member_plantings(secrets: &Secrets) -> Vec<Planting> {
    let key = |member| key_of(secrets, key::Kind::Phone, &phone(member));
    let (k1, k2, card) = (key(1001), key(1002), key_of(secrets, key::Kind::Card, "CARD1005"));
    let other = Uuid::from_u128(0xffff);
    let twice = secrets.encrypt("member", "phone", 1008, &phone(1009));
    let twice: String = twice.iter().map(|byte| format!("{byte:02x}")).collect();
    let keep =
        |member: i64| format!("create table kept as select member_id, phone from member where member_id = {member}");
    let back = "update member m set phone = k.phone from kept k where m.member_id = k.member_id; drop table kept";
    vec![
        plant(
            "key, missing",
            format!("delete from member_key where key in ('{k1}', '{card}')"),
            &[format!("missing member_key ({k1})"), format!("missing member_key ({card})")],
        ),
        plant(
            "key, altered",
            format!("update member_key set kind = 2, bound_at = now() where key = '{k1}'"),
            &[format!("altered member_key ({k1}): bound_at, kind")],
        ),
        plant(
            "key, of another member",
            format!("update member_key set member_id = 1003 where key = '{k2}'"),
            &[format!("altered member_key ({k2}): member_id")],
        ),
        plant(
            "key, extra, of a member that has no such identifier",
            format!("insert into member_key values (1001, now(), '{}', 1, 1)", Uuid::nil()),
            &[format!("extra member_key ({})", Uuid::nil())],
        ),
        plant(
            "key, extra, of no member",
            format!("insert into member_key values (77, now(), '{other}', 1, 1)"),
            &[format!("extra member_key ({other})")],
        ),
        plant(
            "key, of a dead version",
            format!("insert into member_key values (1001, now(), '{other}', 0, 1)"),
            &[format!("extra member_key ({other}): key_version")],
        ),
        plant(
            "key, of a version to come",
            format!("insert into member_key values (1001, now(), '{other}', 99, 1)"),
            &[format!("extra member_key ({other}): key_version")],
        )
        .left(format!("delete from member_key where key = '{other}'")),
        plant(
            "member, unreadable",
            format!("{}; update member set phone = '\\x00' where member_id = 1006", keep(1006)),
            &["unreadable member (1006): phone".to_owned()],
        )
        .left(back.to_owned()),
        plant(
            "member, identifier of another",
            format!("{}; update member set phone = '\\x{twice}' where member_id = 1008", keep(1008)),
            &[format!("altered member_key ({}): member_id", key(1009)), format!("extra member_key ({})", key(1008))],
        )
        .left(format!(
            "{back}; insert into member_key select 1008, phone_bound_at, '{}', 1, 1 from member where member_id = 1008",
            key(1008)
        )),
        plant(
            "auth, key altered",
            format!("update member_auth set key_version = 9 where key = '{card}'"),
            &[format!("altered member_auth (1005,{card}): key_version")],
        )
        .left(format!("update member_auth set key_version = 1 where key = '{card}'")),
        plant(
            "member, without its phone",
            "update member set phone = null where member_id = 1003".to_owned(),
            &[format!("extra member_key ({})", key(1003))],
        ),
    ]
}
