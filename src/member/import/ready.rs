//! Rows of a slice made ready beside the slice before: read, checked, encrypted, decided as if no identifier of theirs
//! were another's, and encoded. Where that is so, which it is of nearly every slice of a file that is new, writing it is
//! nothing but sending what stands here.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::{
    Options,
    row::Draft,
    write::{Sealed, Verdict, Wanted, by_leaf, decide},
};
use crate::{
    db::copy::CopyRows,
    id::Day,
    job::JobError,
    member::{
        Gender, State,
        store::{key_leaf, member_leaf},
    },
    partition::{Leaf, plan},
};

const MEMBER_KEY: &[&str] = &["key", "member_id", "bound_at", "key_version", "kind"];
const MEMBER: &[&str] = &[
    "member_id",
    "created_at",
    "updated_at",
    "phone_bound_at",
    "email_bound_at",
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
const REGISTER_LOG: &[&str] = &["log_id", "member_id", "created_at", "store_no", "source", "actor"];
const MEMBER_AUTH: &[&str] = &["member_id", "bound_at", "key", "key_version", "kind", "source", "identifier"];

/// What `register_log` is told, and what it needs.
pub struct Told<'a> {
    /// The caller who sent the file.
    pub actor: &'a str,
    /// Numbers of events, at least as many as there are rows.
    pub numbers: &'a [i64],
}

/// A slice as it is written when none of its identifiers is another's.
pub struct Ready {
    pub(super) verdicts: Vec<Verdict>,
    /// The identifiers of its new members.
    pub(super) claims: Copies,
    /// Those members, with what is told of them.
    pub(super) members: Copies,
}

impl Ready {
    pub fn new(options: &Options, drafts: &[(Draft, Sealed)], told: &Told<'_>, now: DateTime<Utc>) -> Self {
        let (verdicts, wanted) = decide(drafts, &Default::default());
        let fresh = drafts.iter().zip(&verdicts).filter(|(_, verdict)| **verdict == Verdict::New);
        let fresh = fresh.map(|((draft, sealed), _)| (draft, sealed)).collect();
        Self { claims: claims(drafts, wanted, now), members: members(options, fresh, told, now), verdicts }
    }
}

/// Rows for leaves, in the order of locking.
#[derive(Default)]
pub(super) struct Copies(Vec<(&'static str, Leaf, CopyRows)>);

impl Copies {
    fn put(&mut self, table: &'static str, leaves: BTreeMap<Leaf, CopyRows>) {
        self.0.extend(leaves.into_iter().map(|(leaf, rows)| (table, leaf, rows)));
    }

    /// Sends all of them, and sees that all were taken.
    pub(super) async fn send(&self, conn: &mut sqlx::PgConnection) -> Result<(), JobError> {
        for (table, leaf, rows) in &self.0 {
            let (expected, copied) = (rows.len(), rows.send(conn, *leaf).await?);
            if copied != expected {
                let key = format!("{copied} instead of {expected}");
                return Err(JobError::Inconsistent { table, column: "(rows)", key });
            }
        }
        Ok(())
    }
}

fn claims(drafts: &[(Draft, Sealed)], wanted: Wanted, now: DateTime<Utc>) -> Copies {
    let mut leaves = BTreeMap::new();
    let wanted = wanted.into_values().map(|(at, row)| (row, drafts[at].1.member_id));
    for (leaf, rows) in by_leaf(wanted, |(row, _)| (key_leaf(row.key), row.key)) {
        let mut encoded = CopyRows::new(MEMBER_KEY);
        for (row, member_id) in rows {
            let fields = &mut encoded.row();
            fields.uuid(row.key).i64(member_id.get()).instant(now).i16(row.version).i16(row.kind as i16);
        }
        leaves.insert(leaf, encoded);
    }
    let mut copies = Copies::default();
    copies.put("member_key", leaves);
    copies
}

/// New members, whose identifiers are claimed: they, their other identifiers, their rows in the log.
pub(super) fn members(
    options: &Options,
    mut fresh: Vec<(&Draft, &Sealed)>,
    told: &Told<'_>,
    now: DateTime<Utc>,
) -> Copies {
    fresh.sort_by_key(|(_, sealed)| sealed.member_id);
    let (mut members, mut auths, mut log) = (BTreeMap::new(), BTreeMap::new(), CopyRows::new(REGISTER_LOG));
    let day = Day::from_date(now.date_naive());
    assert!(told.numbers.len() >= fresh.len(), "a number was asked for each row");
    for ((draft, sealed), number) in fresh.into_iter().zip(told.numbers) {
        log.row()
            .i64(day.first_id() | *number)
            .i64(sealed.member_id.get())
            .instant(now)
            .opt(draft.home_store_no, |row, store_no| row.i32(store_no.get()))
            .i16(options.source.number())
            .text(told.actor);
        let rows = members.entry(member_leaf(sealed.member_id)).or_insert_with(|| CopyRows::new(MEMBER));
        put_member(rows, options, draft, sealed, now);
        if !sealed.others.is_empty() {
            let leaf = plan("member_auth").leaf_i64(sealed.member_id.get());
            let rows = auths.entry(leaf).or_insert_with(|| CopyRows::new(MEMBER_AUTH));
            put_auths(rows, options, sealed, now);
        }
    }
    let mut copies = Copies::default();
    copies.put("member", members);
    copies.put("member_auth", auths);
    if !log.is_empty() {
        copies.put("register_log", BTreeMap::from([(plan("register_log").leaf_i64(day.first_id()), log)]));
    }
    copies
}

fn put_member(rows: &mut CopyRows, options: &Options, draft: &Draft, sealed: &Sealed, now: DateTime<Utc>) {
    let bound = |sealed: &Option<Vec<u8>>| sealed.as_ref().map(|_| now);
    let attributes = (!draft.attributes.is_empty())
        .then(|| serde_json::to_string(&draft.attributes).expect("a map with string keys always serialises"));
    rows.row()
        .i64(sealed.member_id.get())
        .instant(draft.created_at.unwrap_or(now))
        .instant(now)
        .opt(bound(&sealed.phone), |row, at| row.instant(at))
        .opt(bound(&sealed.email), |row, at| row.instant(at))
        .opt(draft.home_store_no, |row, store_no| row.i32(store_no.get()))
        .i16(draft.state.unwrap_or(State::Normal).number())
        .i16(draft.gender.unwrap_or(Gender::Unknown).number())
        .i16(options.source.number())
        .i16(draft.level.unwrap_or(0))
        .opt(sealed.phone.as_deref(), |row, phone| row.bytes(phone))
        .opt(sealed.email.as_deref(), |row, email| row.bytes(email))
        .opt(sealed.name.as_deref(), |row, name| row.bytes(name))
        .opt(sealed.birthday.as_deref(), |row, birthday| row.bytes(birthday))
        .opt(draft.nickname.as_deref(), |row, nickname| row.text(nickname))
        .opt(attributes.as_deref(), |row, attributes| row.jsonb(attributes));
}

fn put_auths(rows: &mut CopyRows, options: &Options, sealed: &Sealed, now: DateTime<Utc>) {
    for (key, identifier) in &sealed.others {
        rows.row()
            .i64(sealed.member_id.get())
            .instant(now)
            .uuid(key.key)
            .i16(key.version)
            .i16(key.kind as i16)
            .i16(options.source.number())
            .bytes(identifier);
    }
}
