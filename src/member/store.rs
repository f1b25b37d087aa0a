//! The SQL of members, their identifiers and the index of those.
//!
//! Lock order: request numbers, claims of `member_key`, `member`, the tables of its family by name, the logs, `event`; rows by
//! (leaf, key). A row of `member_key` that stands is changed or deleted only by who has locked the member that it names,
//! so it needs no place in that order: nobody waits for a member while holding one, and who claims a key that is being
//! deleted waits for somebody who waits for nobody. A member and its keys are written in one transaction. While two versions of the blind key live, an identifier has a row of each in
//! `member_key`, so that either is a referee; in `member` and `member_auth`, the base of that index, it stands once.
//!
//! Phone, e-mail, name, birthday and the identifiers of `member_auth` are encrypted, each with its table, its column and
//! the member's id as associated data.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    Gender, Kind, Member, NewMember, Source, Standing, State,
    key::{self, Identifier},
    mask_birthday, mask_name,
};
use crate::{
    chain::names::StoreNames,
    db::{
        lane::{Read, Target, Tx, WriteError, column, expect_rows},
        row::row_by_place,
    },
    id::{MemberId, StoreNo},
    partition::{Leaf, Query, plan, query},
    secret::Secrets,
};

pub(super) const TABLE: &str = "member";

pub(super) fn member_leaf(member_id: MemberId) -> Leaf {
    plan(TABLE).leaf_i64(member_id.get())
}

pub(super) fn key_leaf(key: Uuid) -> Leaf {
    plan("member_key").leaf_uuid(key)
}

row_by_place! {
    /// A row of `member`, encrypted as it stands there, as `member/find` and `member/lock` bring it.
    #[derive(Debug, Clone)]
    pub(super) struct MemberRow {
        pub(super) member_id: MemberId,
        pub(super) created_at: DateTime<Utc>,
        pub(super) updated_at: DateTime<Utc>,
        pub(super) phone_bound_at: Option<DateTime<Utc>>,
        pub(super) email_bound_at: Option<DateTime<Utc>>,
        pub(super) phone_verified_at: Option<DateTime<Utc>>,
        pub(super) email_verified_at: Option<DateTime<Utc>>,
        pub(super) erased_at: Option<DateTime<Utc>>,
        pub(super) version: i32,
        pub(super) home_store_no: Option<StoreNo>,
        pub(super) state: i16,
        pub(super) kind: i16,
        pub(super) gender: i16,
        pub(super) source: i16,
        pub(super) level: i16,
        pub(super) muted: bool,
        pub(super) phone: Option<Vec<u8>>,
        pub(super) email: Option<Vec<u8>>,
        pub(super) name: Option<Vec<u8>>,
        pub(super) birthday: Option<Vec<u8>>,
        pub(super) nickname: Option<String>,
        pub(super) signature: Option<String>,
        /// JSON.
        pub(super) attributes: Option<String>,
        /// JSON.
        pub(super) avatar: Option<String>,
    }
}

impl MemberRow {
    /// The member as answers show it. `store_id` is the name of the home store.
    ///
    /// # Errors
    /// A sentence that names table, column and key of what cannot be.
    pub(super) fn show(&self, secrets: &Secrets, store_id: Option<Arc<str>>) -> Result<Member, String> {
        let impossible = |column: &str| format!("{TABLE}.{column} of {} is impossible", self.member_id);
        let open = |column: &'static str, sealed: &Option<Vec<u8>>| {
            let sealed = sealed.as_deref();
            sealed.map(|sealed| secrets.decrypt(TABLE, column, self.member_id.get(), sealed)).transpose()
        };
        let open = |column, sealed| open(column, sealed).map_err(|error| error.to_string());
        let identifier = |kind, text| Identifier::from_stored(kind, text).mask();
        let birthday = open("birthday", &self.birthday)?
            .map(|text| text.parse::<NaiveDate>().map_err(|_| impossible("birthday")))
            .transpose()?;
        if store_id.is_none() && self.home_store_no.is_some() {
            return Err(impossible("home_store_no"));
        }
        Ok(Member {
            member_id: self.member_id,
            state: State::from_number(self.state).ok_or_else(|| impossible("state"))?,
            kind: Kind::from_number(self.kind).ok_or_else(|| impossible("kind"))?,
            phone: open("phone", &self.phone)?.map(|text| identifier(key::Kind::Phone, text)),
            email: open("email", &self.email)?.map(|text| identifier(key::Kind::Email, text)),
            name: open("name", &self.name)?.map(|name| mask_name(&name)),
            nickname: self.nickname.clone(),
            signature: self.signature.clone(),
            gender: Gender::from_number(self.gender).ok_or_else(|| impossible("gender"))?,
            birthday: birthday.map(mask_birthday),
            source: Source::from_number(self.source).ok_or_else(|| impossible("source"))?,
            store_id,
            level: self.level,
            muted: self.muted,
            avatar: self.avatar.as_deref().map(serde_json::from_str).transpose().map_err(|_| impossible("avatar"))?,
            attributes: self
                .attributes
                .as_deref()
                .map(serde_json::from_str)
                .transpose()
                .map_err(|_| impossible("attributes"))?,
            version: self.version,
            created_at: self.created_at,
            updated_at: self.updated_at,
            erased_at: self.erased_at,
        })
    }
}

/// Encrypts a column of `member`.
pub(super) fn seal(secrets: &Secrets, column: &'static str, member_id: MemberId, plain: &str) -> Vec<u8> {
    secrets.encrypt(TABLE, column, member_id.get(), plain)
}

/// The text of a column that holds JSON.
pub(super) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("maps with string keys always serialise")
}

/// Finds members by id, with the names of their home stores.
pub(super) struct FindMember {
    pub(super) stores: StoreNames,
}

impl Read for FindMember {
    type Key = MemberId;
    type Row = (MemberRow, Option<Arc<str>>);

    fn leaf(&self, member_id: &MemberId) -> Leaf {
        member_leaf(*member_id)
    }

    async fn fetch(
        &self,
        conn: &mut PgConnection,
        leaf: Leaf,
        member_ids: &[MemberId],
    ) -> Result<HashMap<MemberId, Self::Row>, sqlx::Error> {
        let rows: Vec<MemberRow> =
            sqlx::query_as(query("member/find").on(&[leaf])).bind(member_ids).fetch_all(&mut *conn).await?;
        let stores: BTreeSet<StoreNo> = rows.iter().filter_map(|row| row.home_store_no).collect();
        let names = if stores.is_empty() { HashMap::new() } else { self.stores.read(conn, stores).await?.0 };
        let named = |row: MemberRow| {
            let store = row.home_store_no.and_then(|store_no| names.get(&store_no).cloned());
            (row.member_id, (row, store))
        };
        Ok(rows.into_iter().map(named).collect())
    }
}

/// Finds members by the blind index of an identifier.
pub(super) struct FindKey;

impl Read for FindKey {
    type Key = Uuid;
    type Row = MemberId;

    fn leaf(&self, key: &Uuid) -> Leaf {
        key_leaf(*key)
    }

    async fn fetch(
        &self,
        conn: &mut PgConnection,
        leaf: Leaf,
        keys: &[Uuid],
    ) -> Result<HashMap<Uuid, MemberId>, sqlx::Error> {
        let rows: Vec<(Uuid, MemberId)> =
            sqlx::query_as(query("member_key/find").on(&[leaf])).bind(keys).fetch_all(conn).await?;
        Ok(rows.into_iter().collect())
    }
}

/// What decides over the coupons of these members, who stay as they are until the transaction ends; waits for those whom
/// somebody else changes. Those that do not exist are left out.
pub async fn standings(tx: &mut Tx<'_>, member_ids: Vec<MemberId>) -> Result<HashMap<MemberId, Standing>, WriteError> {
    fetch_standings(tx, query("member/standing"), member_ids).await
}

/// As [`standings`], but waits for nobody, unless the batch is patient: gives the members whom somebody else changes
/// apart.
pub async fn free_standings(
    tx: &mut Tx<'_>,
    member_ids: BTreeSet<MemberId>,
) -> Result<(HashMap<MemberId, Standing>, HashSet<MemberId>), WriteError> {
    let ids: Vec<MemberId> = member_ids.iter().copied().collect();
    if tx.is_patient() {
        return Ok((standings(tx, ids).await?, HashSet::new()));
    }
    let free = fetch_standings(tx, query("member/standing_free"), ids).await?;
    let others: Vec<MemberId> = member_ids.into_iter().filter(|id| !free.contains_key(id)).collect();
    if others.is_empty() {
        return Ok((free, HashSet::new()));
    }
    let blocked = fetch_standings(tx, query("member/find_standing"), others).await?;
    Ok((free, blocked.into_keys().collect()))
}

async fn fetch_standings(
    tx: &mut Tx<'_>,
    query: &'static Query,
    member_ids: Vec<MemberId>,
) -> Result<HashMap<MemberId, Standing>, WriteError> {
    let mut statements = Vec::new();
    for (target, ids) in tx.targets(member_ids, |id| (member_leaf(*id), *id)) {
        statements.push(tx.statement(query, target).bind(column(&ids, |id| id.get())));
    }
    let rows: Vec<(MemberId, i16, i16, bool)> = tx.fetch(statements).await?;
    let standing = |(member_id, state, kind, muted)| {
        Ok((member_id, Standing::from_numbers(member_id, state, kind, muted).map_err(WriteError::Inconsistent)?))
    };
    rows.into_iter().map(standing).collect()
}

/// A row of `member_key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyRow {
    pub(crate) key: Uuid,
    pub(super) version: i16,
    pub(super) kind: key::Kind,
}

/// The rows of an identifier, one for each live version of the blind key, the current one first.
pub(crate) fn keys_of<'a>(secrets: &Secrets, identifier: &'a Identifier) -> impl Iterator<Item = KeyRow> + use<'a> {
    let kind = identifier.kind();
    let keys = secrets.blind(kind.number(), identifier.normalised());
    keys.into_iter().map(move |(version, key)| KeyRow { key, version, kind })
}

/// The keys under which an identifier may have rows, written by whatever node: [`keys_of`] and those of an idle version
/// of the blind key. Whoever takes an identifier away deletes them all, and does not count on finding all of them.
pub(super) fn keys_known_of(secrets: &Secrets, identifier: &Identifier) -> Vec<Uuid> {
    let keys = secrets.blind_known(identifier.kind().number(), identifier.normalised());
    keys.into_iter().map(|(_, key)| key).collect()
}

/// Claims identifiers for a member. Gives the keys that were free; one under way elsewhere is waited for.
pub(super) async fn claim_keys(
    tx: &mut Tx<'_>,
    now: DateTime<Utc>,
    member_id: MemberId,
    keys: Vec<KeyRow>,
) -> Result<HashSet<Uuid>, WriteError> {
    let mut won = HashSet::with_capacity(keys.len());
    for (target, rows) in tx.targets(keys, |row| (key_leaf(row.key), row.key)) {
        let sql = tx.sql(query("member_key/claim"), target);
        let inserted: Vec<(Uuid,)> = sqlx::query_as(sql)
            .bind(column(&rows, |row| row.key))
            .bind(vec![member_id; rows.len()])
            .bind(vec![now; rows.len()])
            .bind(column(&rows, |row| row.version))
            .bind(column(&rows, |row| row.kind as i16))
            .fetch_all(tx.conn().await?)
            .await?;
        won.extend(inserted.into_iter().map(|(key,)| key));
    }
    Ok(won)
}

/// Gives back keys that a member has.
pub(super) async fn delete_keys(tx: &mut Tx<'_>, member_id: MemberId, keys: Vec<Uuid>) -> Result<(), WriteError> {
    for (target, keys) in tx.targets(keys, |key| (key_leaf(*key), *key)) {
        let sql = tx.sql(query("member_key/delete"), target);
        let deleted = sqlx::query(sql).bind(&keys).bind(vec![member_id; keys.len()]).execute(tx.conn().await?).await?;
        expect_rows("member_key", keys.len(), deleted.rows_affected())?;
    }
    Ok(())
}

/// Who has these keys. Those that nobody has are left out.
pub(super) async fn find_keys(tx: &mut Tx<'_>, keys: Vec<Uuid>) -> Result<HashMap<Uuid, MemberId>, WriteError> {
    let mut found = HashMap::with_capacity(keys.len());
    for (target, keys) in tx.targets(keys, |key| (key_leaf(*key), *key)) {
        let sql = tx.sql(query("member_key/find"), target);
        let rows: Vec<(Uuid, MemberId)> = sqlx::query_as(sql).bind(&keys).fetch_all(tx.conn().await?).await?;
        found.extend(rows);
    }
    Ok(found)
}

/// Writes a new member, whose keys are claimed. The identifiers without a column of their own go to `member_auth`.
pub(super) async fn insert_member(
    tx: &mut Tx<'_>,
    secrets: &Secrets,
    now: DateTime<Utc>,
    member_id: MemberId,
    new: &NewMember,
) -> Result<MemberRow, WriteError> {
    let sealed = |column, plain: Option<&str>| plain.map(|plain| seal(secrets, column, member_id, plain));
    let identifier = |kind| new.identifiers.of(kind).map(Identifier::normalised);
    let birthday = new.birthday.map(|day| day.to_string());
    let row = MemberRow {
        member_id,
        created_at: now,
        updated_at: now,
        phone_bound_at: identifier(key::Kind::Phone).map(|_| now),
        email_bound_at: identifier(key::Kind::Email).map(|_| now),
        phone_verified_at: None,
        email_verified_at: None,
        erased_at: None,
        version: 1,
        home_store_no: new.home_store.as_ref().map(|store| store.store_no),
        state: State::Normal.number(),
        kind: Kind::Ordinary.number(),
        gender: new.gender.number(),
        source: new.source.number(),
        level: 0,
        muted: false,
        phone: sealed("phone", identifier(key::Kind::Phone)),
        email: sealed("email", identifier(key::Kind::Email)),
        name: sealed("name", new.name.as_deref()),
        birthday: sealed("birthday", birthday.as_deref()),
        nickname: new.nickname.clone(),
        signature: new.about.signature.clone(),
        attributes: new.about.attributes.as_ref().map(json),
        avatar: new.about.avatar.as_ref().map(json),
    };
    let target = Target::Leaf(member_leaf(member_id));
    let sql = tx.sql(query("member/insert"), target);
    let inserted = sqlx::query(sql)
        .bind([member_id])
        .bind([now])
        .bind([row.phone_bound_at])
        .bind([row.email_bound_at])
        .bind([row.home_store_no.map(StoreNo::get)])
        .bind([row.gender])
        .bind([row.source])
        .bind([row.phone.as_deref()])
        .bind([row.email.as_deref()])
        .bind([row.name.as_deref()])
        .bind([row.birthday.as_deref()])
        .bind([row.nickname.as_deref()])
        .bind([row.signature.as_deref()])
        .bind([row.attributes.as_deref()])
        .bind([row.avatar.as_deref()])
        .execute(tx.conn().await?)
        .await?;
    expect_rows(TABLE, 1, inserted.rows_affected())?;
    insert_auths(tx, secrets, now, member_id, new).await?;
    Ok(row)
}

async fn insert_auths(
    tx: &mut Tx<'_>,
    secrets: &Secrets,
    now: DateTime<Utc>,
    member_id: MemberId,
    new: &NewMember,
) -> Result<(), WriteError> {
    let has_column = |kind| matches!(kind, key::Kind::Phone | key::Kind::Email);
    let others = new.identifiers.iter().filter(|identifier| !has_column(identifier.kind()));
    // Under the current version only: this is the base of the index, not the index.
    let mut rows: Vec<(KeyRow, Vec<u8>)> = others
        .filter_map(|identifier| {
            let sealed = secrets.encrypt("member_auth", "identifier", member_id.get(), identifier.normalised());
            Some((keys_of(secrets, identifier).next()?, sealed))
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    rows.sort_by_key(|(row, _)| row.key);
    let target = Target::Leaf(plan("member_auth").leaf_i64(member_id.get()));
    let sql = tx.sql(query("member_auth/insert"), target);
    let inserted = sqlx::query(sql)
        .bind(vec![member_id; rows.len()])
        .bind(vec![now; rows.len()])
        .bind(column(&rows, |(row, _)| row.key))
        .bind(column(&rows, |(row, _)| row.version))
        .bind(column(&rows, |(row, _)| row.kind as i16))
        .bind(vec![new.source.number(); rows.len()])
        .bind(column(&rows, |(_, sealed)| sealed.clone()))
        .bind(vec![None::<DateTime<Utc>>; rows.len()])
        .execute(tx.conn().await?)
        .await?;
    expect_rows("member_auth", rows.len(), inserted.rows_affected())
}

/// Reads a member.
pub(super) async fn find_member(tx: &mut Tx<'_>, member_id: MemberId) -> Result<Option<MemberRow>, WriteError> {
    let sql = tx.sql(query("member/find"), Target::Leaf(member_leaf(member_id)));
    Ok(sqlx::query_as(sql).bind([member_id]).fetch_optional(tx.conn().await?).await?)
}

/// Locks a member and reads it.
pub(super) async fn lock_member(tx: &mut Tx<'_>, member_id: MemberId) -> Result<Option<MemberRow>, WriteError> {
    let sql = tx.sql(query("member/lock"), Target::Leaf(member_leaf(member_id)));
    Ok(sqlx::query_as(sql).bind([member_id]).fetch_optional(tx.conn().await?).await?)
}

/// Locks a few members one by one, in the order in which everybody does, and reads them. Those that do not exist are
/// left out.
pub(super) async fn lock_members(
    tx: &mut Tx<'_>,
    mut member_ids: Vec<MemberId>,
) -> Result<HashMap<MemberId, MemberRow>, WriteError> {
    member_ids.sort_by_cached_key(|id| (member_leaf(*id), *id));
    let mut found = HashMap::with_capacity(member_ids.len());
    for member_id in member_ids {
        if let Some(row) = lock_member(tx, member_id).await? {
            found.insert(member_id, row);
        }
    }
    Ok(found)
}

/// Writes a member back, whose row is locked and still has the version in `row`; gives it the next one.
pub(super) async fn update_member(tx: &mut Tx<'_>, row: &mut MemberRow) -> Result<(), WriteError> {
    let sql = tx.sql(query("member/update"), Target::Leaf(member_leaf(row.member_id)));
    let updated = sqlx::query(sql)
        .bind([row.member_id])
        .bind([row.version])
        .bind([row.updated_at])
        .bind([row.phone_bound_at])
        .bind([row.email_bound_at])
        .bind([row.erased_at])
        .bind([row.home_store_no.map(StoreNo::get)])
        .bind([row.state])
        .bind([row.kind])
        .bind([row.gender])
        .bind([row.level])
        .bind([row.muted])
        .bind([row.phone.as_deref()])
        .bind([row.email.as_deref()])
        .bind([row.name.as_deref()])
        .bind([row.birthday.as_deref()])
        .bind([row.nickname.as_deref()])
        .bind([row.signature.as_deref()])
        .bind([row.attributes.as_deref()])
        .bind([row.avatar.as_deref()])
        .bind([row.phone_verified_at])
        .bind([row.email_verified_at])
        .execute(tx.conn().await?)
        .await?;
    row.version += 1;
    expect_rows(TABLE, 1, updated.rows_affected())
}

/// How many rows of the family tell who a member is.
pub(super) async fn count_identifying(tx: &mut Tx<'_>, member_id: MemberId) -> Result<i64, WriteError> {
    let leaves = ["member_address", "member_device", "member_location", "member_profile_mall"]
        .map(|table| plan(table).leaf_i64(member_id.get()));
    let sql = tx.sql_on(query("member/identifying"), &leaves);
    Ok(sqlx::query_scalar(sql).bind(member_id).fetch_one(tx.conn().await?).await?)
}

/// The name of a member's home store.
pub(super) async fn store_name(
    tx: &mut Tx<'_>,
    stores: &StoreNames,
    store_no: Option<StoreNo>,
) -> Result<Option<Arc<str>>, WriteError> {
    Ok(match store_no {
        Some(store_no) => stores.of(tx, BTreeSet::from([store_no])).await?.remove(&store_no),
        None => None,
    })
}
