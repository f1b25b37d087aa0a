//! The index of identifiers under a new key: rows of the new version made from the base, rows of the old one deleted.
//!
//! The base of the index, `member` and `member_auth`, is decrypted; what is missing is inserted in `member_key` first,
//! then the members are locked and read again, and what they no longer have is taken back: the order in which
//! registrations and moves lock, too, so that nobody deadlocks with us.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::{RotateError, Run, WALK_ROWS, locked_members, progress};
use crate::{
    event::Kind as EventKind,
    member::key::{self, Identifier},
    partition::{Leaf, plan, query},
    secret::Secrets,
};

/// Rows of `member_key` and of `member_auth` by version.
pub type Versions = (BTreeMap<i16, u64>, BTreeMap<i16, u64>);

fn fill_step(version: i16) -> String {
    format!("fill {version}")
}

fn auth_step(version: i16) -> String {
    format!("auth {version}")
}

fn delete_step(version: i16) -> String {
    format!("delete {version}")
}

/// The versions whose names of keys are to be taken out of events, each in the place of a leaf.
const BLANK_STEP: &str = "blank events";

fn leaves_of(table: &str) -> (Vec<Leaf>, Vec<String>) {
    let leaves: Vec<Leaf> = plan(table).hash_leaves().collect();
    let names = leaves.iter().map(ToString::to_string).collect();
    (leaves, names)
}

/// What a row of `member_key` should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Claim {
    key: Uuid,
    member_id: i64,
    bound_at: DateTime<Utc>,
    kind: i16,
}

#[derive(FromRow)]
struct BaseRow {
    member_id: i64,
    phone_bound_at: Option<DateTime<Utc>>,
    email_bound_at: Option<DateTime<Utc>>,
    phone: Option<Vec<u8>>,
    email: Option<Vec<u8>>,
}

#[derive(FromRow)]
struct AuthRow {
    member_id: i64,
    key: Uuid,
    bound_at: DateTime<Utc>,
    key_version: i16,
    kind: i16,
    identifier: Vec<u8>,
}

impl AuthRow {
    fn blind(&self, secrets: &Secrets, version: i16) -> Option<Uuid> {
        blind(secrets, "member_auth", "identifier", self.member_id, self.kind, &self.identifier, version)
    }
}

/// The key of a stored identifier in one version. None, and said, where it can't be read.
fn blind(
    secrets: &Secrets,
    table: &'static str,
    column: &'static str,
    member_id: i64,
    kind: i16,
    sealed: &[u8],
    version: i16,
) -> Option<Uuid> {
    let plain = secrets.decrypt(table, column, member_id, sealed).ok();
    let kind = key::Kind::try_from(kind).ok();
    let Some((kind, plain)) = kind.zip(plain) else {
        tracing::error!(table, column, member_id, "an identifier cannot be read: its old key has to stay");
        return None;
    };
    let identifier = Identifier::from_stored(kind, plain);
    let known = secrets.blind_known(identifier.kind().number(), identifier.normalised());
    known.into_iter().find(|(known, _)| *known == version).map(|(_, key)| key)
}

/// What a step did to the identifiers that it met.
#[derive(Debug, Clone, Copy, Default)]
struct Did {
    written: u64,
    unreadable: u64,
}

impl Did {
    fn add(&mut self, other: Self) {
        self.written += other.written;
        self.unreadable += other.unreadable;
    }

    /// The rows written, if every identifier could be read.
    fn whole(self) -> Result<u64, RotateError> {
        match self.unreadable {
            0 => Ok(self.written),
            n => Err(RotateError::Refused(format!(
                "{n} identifiers cannot be read, and without their old key they could not be found: the log and \
                 `tessera verify` name them; mend them, then ask again"
            ))),
        }
    }
}

/// The claims of some members, and how many of their identifiers can't be read.
#[derive(Default)]
struct Claims {
    claims: Vec<Claim>,
    unreadable: u64,
}

impl Claims {
    fn put(&mut self, key: Option<Uuid>, (member_id, bound_at, kind): (i64, DateTime<Utc>, i16)) {
        match key {
            Some(key) => self.claims.push(Claim { key, member_id, bound_at, kind }),
            None => self.unreadable += 1,
        }
    }
}

/// Makes the rows of a version that members lack. Gives how many. A leaf with an identifier that can't be read is never
/// done: it is walked again from before that identifier.
pub(super) async fn fill(run: &mut Run<'_>, version: i16) -> Result<u64, RotateError> {
    let (leaves, names) = leaves_of("member");
    let step = fill_step(version);
    let walks = progress::resume(&mut run.conn, &step, &names).await?;
    let mut total = Did::default();
    for (leaf, mut at) in leaves.into_iter().zip(walks) {
        let mut of_leaf = Did::default();
        while !at.done {
            let limit = i64::from(run.pace.chunk_rows);
            let ids: Vec<i64> = sqlx::query_scalar(query("rotate/base_walk").on(&[leaf]))
                .bind(at.after_id.unwrap_or(i64::MIN))
                .bind(limit)
                .fetch_all(&mut run.conn)
                .await?;
            let did = fill_ids(run, &ids, version).await?;
            of_leaf.add(did);
            at.after_id = ids.last().copied().or(at.after_id);
            at.seen += ids.len() as i64;
            at.written += did.written as i64;
            at.done = (ids.len() as i64) < limit;
            if of_leaf.unreadable == 0 {
                progress::save(&mut run.conn, run.clock.now(), &step, &at).await?;
            }
            run.tell_progress(&format!("{}: {} members seen, {} keys made", at.leaf, at.seen, at.written));
            run.throttle(did.written).await;
        }
        total.add(of_leaf);
    }
    total.whole()
}

/// Whether every member was seen by [`fill`].
pub(super) async fn is_filled(conn: &mut PgConnection, version: i16) -> Result<bool, sqlx::Error> {
    progress::is_done(conn, &fill_step(version), &leaves_of("member").1).await
}

/// Forgets how far the walks for a version have come.
pub(super) async fn forget(conn: &mut PgConnection, version: i16) -> Result<(), sqlx::Error> {
    for step in [fill_step(version), auth_step(version), delete_step(version)] {
        progress::forget(conn, &step).await?;
    }
    Ok(())
}

async fn fill_ids(run: &mut Run<'_>, ids: &[i64], version: i16) -> Result<Did, RotateError> {
    let Claims { claims, unreadable } = claims_of(&mut run.conn, &run.secrets, ids, version).await?;
    let there = holders(&mut run.conn, claims.iter().map(|claim| claim.key)).await?;
    let missing: Vec<Claim> =
        claims.into_iter().filter(|claim| there.get(&claim.key) != Some(&claim.member_id)).collect();
    if missing.is_empty() {
        return Ok(Did { written: 0, unreadable });
    }
    let missing = &missing;
    let filled = run.patiently("keys_fill", async move |conn: &mut PgConnection, secrets: &Secrets| {
        let won = insert(conn, missing, version).await?;
        let ids: BTreeSet<i64> = missing.iter().map(|claim| claim.member_id).collect();
        let ids: Vec<i64> = ids.into_iter().collect();
        locked_members(conn, &ids).await?;
        let still: HashSet<Claim> = claims_of(conn, secrets, &ids, version).await?.claims.into_iter().collect();
        let (kept, gone): (Vec<&Claim>, Vec<&Claim>) =
            missing.iter().filter(|claim| won.contains(&claim.key)).partition(|claim| still.contains(claim));
        take_back(conn, &gone).await?;
        // Nobody can move what belongs to a locked member: whoever has such a key now had it all the time.
        let lost: Vec<&Claim> = missing.iter().filter(|one| still.contains(one) && !won.contains(&one.key)).collect();
        let there = holders(conn, lost.iter().map(|claim| claim.key)).await?;
        match lost.iter().find(|claim| there.get(&claim.key) != Some(&claim.member_id)) {
            Some(claim) => Err(RotateError::Inconsistent(format!(
                "an identifier of member {} is in member_key as another member's: run `tessera verify`",
                claim.member_id
            ))),
            None => Ok(kept.len() as u64),
        }
    });
    Ok(Did { written: filled.await?, unreadable })
}

/// What the base says of these members, in one version. Ids of one leaf.
async fn claims_of(
    conn: &mut PgConnection,
    secrets: &Secrets,
    ids: &[i64],
    version: i16,
) -> Result<Claims, RotateError> {
    let mut found = Claims::default();
    let Some(first) = ids.first() else { return Ok(found) };
    let sql = query("verify/member_find").on(&[plan("member").leaf_i64(*first)]);
    for row in sqlx::query_as::<_, BaseRow>(sql).bind(ids).fetch_all(&mut *conn).await? {
        for (kind, column, sealed, bound_at) in [
            (key::Kind::Phone, "phone", &row.phone, row.phone_bound_at),
            (key::Kind::Email, "email", &row.email, row.email_bound_at),
        ] {
            let (Some(sealed), Some(bound_at)) = (sealed, bound_at) else { continue };
            let (member_id, kind) = (row.member_id, i16::from(kind.number()));
            let key = blind(secrets, "member", column, member_id, kind, sealed, version);
            found.put(key, (member_id, bound_at, kind));
        }
    }
    for row in auths_of(conn, ids).await? {
        found.put(row.blind(secrets, version), (row.member_id, row.bound_at, row.kind));
    }
    found.claims.sort_by_key(|claim| (plan("member_key").leaf_uuid(claim.key), claim.key));
    Ok(found)
}

async fn auths_of(conn: &mut PgConnection, ids: &[i64]) -> Result<Vec<AuthRow>, sqlx::Error> {
    let leaf = plan("member_auth").leaf_i64(ids[0]);
    sqlx::query_as(query("verify/member_auth_find").on(&[leaf])).bind(ids).fetch_all(conn).await
}

fn by_leaf<T>(rows: impl IntoIterator<Item = T>, key: impl Fn(&T) -> Uuid) -> BTreeMap<Leaf, Vec<T>> {
    let mut groups: BTreeMap<Leaf, Vec<T>> = BTreeMap::new();
    for row in rows {
        groups.entry(plan("member_key").leaf_uuid(key(&row))).or_default().push(row);
    }
    groups
}

async fn holders(
    conn: &mut PgConnection,
    keys: impl IntoIterator<Item = Uuid>,
) -> Result<HashMap<Uuid, i64>, sqlx::Error> {
    let mut found = HashMap::new();
    for (leaf, keys) in by_leaf(keys, |key| *key) {
        let rows: Vec<(Uuid, i64)> =
            sqlx::query_as(query("member_key/find").on(&[leaf])).bind(&keys).fetch_all(&mut *conn).await?;
        found.extend(rows);
    }
    Ok(found)
}

/// Inserts in the order in which everybody locks. Gives the keys that were free.
async fn insert(conn: &mut PgConnection, claims: &[Claim], version: i16) -> Result<HashSet<Uuid>, sqlx::Error> {
    let mut won = HashSet::new();
    for (leaf, mut claims) in by_leaf(claims, |claim| claim.key) {
        claims.sort_by_key(|claim| claim.key);
        let keys: Vec<Uuid> = sqlx::query_scalar(query("member_key/claim").on(&[leaf]))
            .bind(claims.iter().map(|claim| claim.key).collect::<Vec<_>>())
            .bind(claims.iter().map(|claim| claim.member_id).collect::<Vec<_>>())
            .bind(claims.iter().map(|claim| claim.bound_at).collect::<Vec<_>>())
            .bind(vec![version; claims.len()])
            .bind(claims.iter().map(|claim| claim.kind).collect::<Vec<_>>())
            .fetch_all(&mut *conn)
            .await?;
        won.extend(keys);
    }
    Ok(won)
}

/// Deletes what this transaction has inserted.
async fn take_back(conn: &mut PgConnection, claims: &[&Claim]) -> Result<(), sqlx::Error> {
    for (leaf, claims) in by_leaf(claims.iter().copied(), |claim| claim.key) {
        sqlx::query(query("member_key/delete").on(&[leaf]))
            .bind(claims.iter().map(|claim| claim.key).collect::<Vec<_>>())
            .bind(claims.iter().map(|claim| claim.member_id).collect::<Vec<_>>())
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

/// Gives every login the key of the current version as its own. Gives how many were changed. A leaf with a
/// login that can't be read is never done.
pub(super) async fn rekey_auths(run: &mut Run<'_>) -> Result<u64, RotateError> {
    let version = run.secrets.holding().blind_current;
    let (leaves, names) = leaves_of("member_auth");
    let step = auth_step(version);
    let walks = progress::resume(&mut run.conn, &step, &names).await?;
    let mut total = Did::default();
    for (leaf, mut at) in leaves.into_iter().zip(walks) {
        let mut of_leaf = Did::default();
        while !at.done {
            let rows: Vec<(i64, i16)> = sqlx::query_as(query("rotate/member_auth_version_walk").on(&[leaf]))
                .bind(at.after_id.unwrap_or(i64::MIN))
                .bind(WALK_ROWS)
                .fetch_all(&mut run.conn)
                .await?;
            let mut stale: Vec<i64> = rows.iter().filter(|(_, own)| *own != version).map(|(id, _)| *id).collect();
            stale.dedup();
            for ids in stale.chunks(run.pace.chunk_rows as usize) {
                let did = run
                    .patiently("keys_auth", async move |conn: &mut PgConnection, secrets: &Secrets| {
                        rekey(conn, secrets, leaf, ids, version).await
                    })
                    .await?;
                at.written += did.written as i64;
                of_leaf.add(did);
                run.throttle(did.written).await;
            }
            at.after_id = rows.last().map(|(id, _)| *id).or(at.after_id);
            at.seen += rows.len() as i64;
            at.done = (rows.len() as i64) < WALK_ROWS;
            if of_leaf.unreadable == 0 {
                progress::save(&mut run.conn, run.clock.now(), &step, &at).await?;
            }
        }
        total.add(of_leaf);
    }
    total.whole()
}

async fn rekey(
    conn: &mut PgConnection,
    secrets: &Secrets,
    leaf: Leaf,
    ids: &[i64],
    version: i16,
) -> Result<Did, RotateError> {
    locked_members(conn, ids).await?;
    let mut rows = auths_of(conn, ids).await?;
    rows.retain(|row| row.key_version != version);
    let renewed: Vec<(i64, Uuid, Uuid)> =
        rows.iter().filter_map(|row| Some((row.member_id, row.key, row.blind(secrets, version)?))).collect();
    let unreadable = (rows.len() - renewed.len()) as u64;
    let written = sqlx::query(query("rotate/member_auth_key_update").on(&[leaf]))
        .bind(renewed.iter().map(|one| one.0).collect::<Vec<_>>())
        .bind(renewed.iter().map(|one| one.1).collect::<Vec<_>>())
        .bind(renewed.iter().map(|one| one.2).collect::<Vec<_>>())
        .bind(vec![version; renewed.len()])
        .execute(conn)
        .await?
        .rows_affected();
    if written != renewed.len() as u64 {
        return Err(RotateError::Inconsistent(format!("member_auth: {written} of {} rows written", renewed.len())));
    }
    Ok(Did { written, unreadable })
}

/// Deletes the rows of a version that nobody writes any more. Gives how many.
pub(super) async fn delete(run: &mut Run<'_>, version: i16) -> Result<u64, RotateError> {
    let (leaves, names) = leaves_of("member_key");
    let step = delete_step(version);
    let walks = progress::resume(&mut run.conn, &step, &names).await?;
    let mut total = 0;
    for (leaf, mut at) in leaves.into_iter().zip(walks) {
        while !at.done {
            let rows = walk_keys(&mut run.conn, leaf, at.after_key).await?;
            let old: Vec<Uuid> = rows.iter().filter(|(_, of)| *of == version).map(|(key, _)| *key).collect();
            for keys in old.chunks(run.pace.chunk_rows as usize) {
                let deleted = run
                    .patiently("keys_delete", async move |conn: &mut PgConnection, _: &Secrets| {
                        let sql = query("rotate/member_key_delete").on(&[leaf]);
                        Ok(sqlx::query(sql).bind(keys).bind(version).execute(conn).await?.rows_affected())
                    })
                    .await?;
                at.written += deleted as i64;
                total += deleted;
                run.throttle(deleted).await;
            }
            at.after_key = rows.last().map(|(key, _)| *key).or(at.after_key);
            at.seen += rows.len() as i64;
            at.done = (rows.len() as i64) < WALK_ROWS;
            progress::save(&mut run.conn, run.clock.now(), &step, &at).await?;
            run.tell_progress(&format!("{}: {} keys seen, {} deleted", at.leaf, at.seen, at.written));
        }
    }
    Ok(total)
}

async fn walk_keys(conn: &mut PgConnection, leaf: Leaf, after: Option<Uuid>) -> Result<Vec<(Uuid, i16)>, sqlx::Error> {
    sqlx::query_as(query("rotate/member_key_walk").on(&[leaf])).bind(after).bind(WALK_ROWS).fetch_all(conn).await
}

/// Notes that events are to be blanked, before the version goes from the file: whoever is killed in between finds it.
pub(super) async fn plan_to_blank(run: &mut Run<'_>, version: i16) -> Result<(), sqlx::Error> {
    let noted = progress::Walk { leaf: version.to_string(), ..progress::Walk::default() };
    progress::save(&mut run.conn, run.clock.now(), BLANK_STEP, &noted).await
}

pub(super) async fn to_be_blanked(conn: &mut PgConnection) -> Result<Vec<i16>, sqlx::Error> {
    let noted = progress::list(conn, BLANK_STEP).await?;
    Ok(noted.keys().filter_map(|version| version.parse().ok()).collect())
}

pub(super) async fn is_to_be_blanked(conn: &mut PgConnection, version: i16) -> Result<bool, sqlx::Error> {
    Ok(to_be_blanked(conn).await?.contains(&version))
}

/// Forgets the note. Blanking takes the names of all versions.
pub(super) async fn has_blanked(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    progress::forget(conn, BLANK_STEP).await
}

/// Takes the names of keys out of the events that tell of them: a name is half of a key of the old version. Who reads
/// such an event late forgets all keys. Gives how many were changed.
pub(super) async fn blank_events(run: &mut Run<'_>) -> Result<u64, RotateError> {
    const EVENTS_OF_A_WALK: i64 = 20_000;
    let kind = EventKind::MemberKeyMoved.number();
    let (mut after, mut total) = (i64::MIN, 0);
    loop {
        let (last, named): (Option<i64>, Option<Vec<i64>>) = sqlx::query_as(query("rotate/event_walk").parent())
            .bind(after)
            .bind(kind)
            .bind(EVENTS_OF_A_WALK)
            .fetch_one(&mut run.conn)
            .await?;
        let Some(last) = last else { return Ok(total) };
        after = last;
        for ids in named.unwrap_or_default().chunks(run.pace.chunk_rows as usize) {
            let changed = run
                .patiently("keys_events", async move |conn: &mut PgConnection, _: &Secrets| {
                    let sql = query("rotate/event_update").parent();
                    Ok(sqlx::query(sql).bind(ids).bind(kind).execute(conn).await?.rows_affected())
                })
                .await?;
            total += changed;
            run.throttle(changed).await;
        }
    }
}

/// Counts rows by version, by walking everything.
pub(super) async fn count(run: &mut Run<'_>) -> Result<Versions, RotateError> {
    let (mut keys, mut auths) = Versions::default();
    for leaf in leaves_of("member_key").0 {
        let mut after = None;
        loop {
            let rows = walk_keys(&mut run.conn, leaf, after).await?;
            rows.iter().for_each(|(_, version)| *keys.entry(*version).or_default() += 1);
            match rows.last() {
                Some((last, _)) if rows.len() as i64 >= WALK_ROWS => after = Some(*last),
                _ => break,
            }
        }
    }
    for leaf in leaves_of("member_auth").0 {
        let mut after = i64::MIN;
        loop {
            let rows: Vec<(i64, i16)> = sqlx::query_as(query("rotate/member_auth_version_walk").on(&[leaf]))
                .bind(after)
                .bind(WALK_ROWS)
                .fetch_all(&mut run.conn)
                .await?;
            rows.iter().for_each(|(_, version)| *auths.entry(*version).or_default() += 1);
            match rows.last() {
                Some((last, _)) if rows.len() as i64 >= WALK_ROWS => after = *last,
                _ => break,
            }
        }
    }
    Ok((keys, auths))
}
