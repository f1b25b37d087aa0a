//! Members and the index of their identifiers.
//!
//! What is expected is computed: each identifier of `member` and `member_auth` is decrypted, brought to its normal form
//! and blinded with every known key version, one row of `member_key` each. Rows of the current version must be there,
//! and of an older one as long as it is written; those of a newer one, which a rotation is making, and of an idle one,
//! which it is deleting, may be missing, but must be right. A row of a version that is not known is extra, and says so
//! by naming `key_version`; it is left if its version is newer than all: then the secret file is out of date.
//!
//! What can't be decrypted says nothing about index rows. So a member with such a value is reported as unreadable, and no
//! index row of it is taken away: with the wrong secret file everything is unreadable, and nothing is deleted.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{
    pair::{Chunk, Direction, Found, Sight, Subject},
    report::{Difference, Kind, Repair},
    row::{Cell, Fold, Key, Row, Side, Type, Value, altered},
    sample::Stretch,
};
use crate::{
    member::key::{self, Identifier},
    partition::{Leaf, plan, query},
    secret::Secrets,
};

static MEMBER: Side = Side {
    table: "member",
    key: &[Type::I64],
    columns: &["member_id", "phone_bound_at", "email_bound_at", "phone", "email"],
    walk: "verify/member_walk",
    pages: "verify/member_pages",
    find: "verify/member_find",
    find_by: 1,
};

static KEY: Side = Side {
    table: "member_key",
    key: &[Type::Uuid],
    columns: &["key", "member_id", "bound_at", "key_version", "kind"],
    walk: "verify/member_key_walk",
    pages: "verify/member_key_pages",
    find: "verify/member_key_find",
    find_by: 1,
};

/// What the base rows of some members say.
#[derive(Default)]
struct Expected {
    /// By key: the row, and the members that claim it. More than one means that one identifier stands twice.
    rows: BTreeMap<Key, (Row, BTreeSet<i64>)>,
    /// Keys that need not have a row.
    optional: HashSet<Key>,
    members: HashSet<i64>,
    unreadable: BTreeMap<i64, Difference>,
    /// Rows of `member_auth` whose own key is not that of their identifier.
    auth: Vec<(i64, Difference)>,
}

impl Expected {
    async fn load(conn: &mut PgConnection, sight: &Sight, members: &[Row]) -> Result<Self, sqlx::Error> {
        let mut expected = Self::default();
        let mut by_leaf: BTreeMap<Leaf, Vec<i64>> = BTreeMap::new();
        for row in members {
            let id = row.key[0].as_i64();
            expected.members.insert(id);
            by_leaf.entry(plan("member_auth").leaf_i64(id)).or_default().push(id);
            for (kind, bound, value, column) in [(key::Kind::Phone, 0, 2, "phone"), (key::Kind::Email, 1, 3, "email")] {
                let Some(sealed) = &row.cells[value] else { continue };
                let plain = sight.secrets.decrypt("member", column, id, sealed).ok();
                match identify(&sight.secrets, kind, plain) {
                    Some(keys) => expected.put(&sight.secrets, id, kind, &row.cells[bound], keys),
                    None => expected.refuse("member", id, vec![Value::I64(id)], column),
                }
            }
        }
        for (leaf, ids) in by_leaf {
            let sql = query("verify/member_auth_find").on(&[leaf]);
            for row in sqlx::query(sql).bind(&ids).fetch_all(&mut *conn).await? {
                let id: i64 = row.try_get("member_id")?;
                let own: Uuid = row.try_get("key")?;
                let version: i16 = row.try_get("key_version")?;
                let sealed: Vec<u8> = row.try_get("identifier")?;
                let kind = key::Kind::try_from(row.try_get::<i16, _>("kind")?).ok();
                let place = vec![Value::I64(id), Value::Uuid(own)];
                let plain = sight.secrets.decrypt("member_auth", "identifier", id, &sealed).ok();
                let Some((kind, keys)) = kind.and_then(|kind| Some((kind, identify(&sight.secrets, kind, plain)?)))
                else {
                    expected.refuse("member_auth", id, place, "identifier");
                    continue;
                };
                if !keys.contains(&(version, own)) {
                    let columns = if keys.iter().any(|(_, key)| *key == own) { "key_version" } else { "key" };
                    let difference = Difference::new(Kind::Altered, "member_auth", place, vec![columns]);
                    expected.auth.push((id, difference));
                }
                expected.put(&sight.secrets, id, kind, &super::row::cell(&row, 2)?, keys);
            }
        }
        Ok(expected)
    }

    fn put(&mut self, secrets: &Secrets, member: i64, kind: key::Kind, bound_at: &Cell, keys: Vec<(i16, Uuid)>) {
        let holding = secrets.holding();
        for (version, key) in keys {
            if version > holding.blind_current || !holding.blind_written.contains(&version) {
                self.optional.insert(vec![Value::Uuid(key)]);
            }
            let bytes = |bytes: &[u8]| Some(bytes.into());
            let row = Row {
                key: vec![Value::Uuid(key)],
                cells: vec![
                    bytes(&member.to_be_bytes()),
                    bound_at.clone(),
                    bytes(&version.to_be_bytes()),
                    bytes(&i16::from(kind.number()).to_be_bytes()),
                ],
            };
            self.rows.entry(row.key.clone()).or_insert_with(|| (row, BTreeSet::new())).1.insert(member);
        }
    }

    fn refuse(&mut self, table: &'static str, member: i64, key: Key, column: &'static str) {
        self.unreadable.insert(member, Difference::new(Kind::Unreadable, table, key, vec![column]));
    }
}

/// The keys of a decrypted identifier; none when it could not be read.
fn identify(secrets: &Secrets, kind: key::Kind, plain: Option<String>) -> Option<Vec<(i16, Uuid)>> {
    let identifier = Identifier::from_stored(kind, plain?);
    Some(secrets.blind_known(kind.number(), identifier.normalised()))
}

fn member_of(row: &Row) -> i64 {
    row.cells[0].as_deref().and_then(|bytes| Value::of_bytes(Type::I64, bytes)).map_or(0, Value::as_i64)
}

pub(super) async fn chunk(
    conn: &mut PgConnection,
    sight: &Sight,
    direction: Direction,
    leaf: Leaf,
    stretch: &Stretch,
) -> Result<Chunk, sqlx::Error> {
    let walked = if direction == Direction::Forward { &MEMBER } else { &KEY };
    let rows = walked.read(conn, leaf, stretch).await?;
    let mut chunk = stretch.chunk(rows.len(), rows.last().map(|row| row.key.clone()));
    let members = match direction {
        Direction::Forward => rows.clone(),
        Direction::Back => {
            let ids: BTreeSet<i64> = rows.iter().map(member_of).collect();
            MEMBER.find(conn, &sight.leaves, ids.into_iter().map(|id| vec![Value::I64(id)])).await?
        }
    };
    let mut expected = Expected::load(conn, sight, &members).await?;
    let actual = match direction {
        Direction::Forward => KEY.find(conn, &sight.leaves, expected.rows.keys().cloned()).await?,
        Direction::Back => {
            let keys: HashSet<&Key> = rows.iter().map(|row| &row.key).collect();
            expected.rows.retain(|key, _| keys.contains(key));
            rows
        }
    };
    if direction == Direction::Forward {
        let told = expected.unreadable.keys().chain(expected.auth.iter().map(|(id, _)| id));
        chunk.suspects.extend(told.map(|id| Subject { base: *id, index: None }));
    }
    let there: HashSet<&Key> = actual.iter().map(|row| &row.key).collect();
    expected.rows.retain(|key, _| there.contains(key) || !expected.optional.contains(key));
    let claimed_twice = expected.rows.values().any(|(_, members)| members.len() > 1);
    if claimed_twice || Fold::of(expected.rows.values().map(|(row, _)| row)) != Fold::of(&actual) {
        let found: HashMap<&Key, &Row> = actual.iter().map(|row| (&row.key, row)).collect();
        for (key, (row, members)) in &expected.rows {
            if members.len() > 1 || found.get(key).is_none_or(|found| *found != row) {
                let of_key = |id: &i64| Subject { base: *id, index: Some(key.clone()) };
                chunk.suspects.extend(members.iter().map(of_key));
            }
        }
        let unexpected = actual.iter().filter(|row| !expected.rows.contains_key(&row.key));
        chunk.suspects.extend(unexpected.map(|row| Subject { base: member_of(row), index: Some(row.key.clone()) }));
    }
    chunk.differed = !chunk.suspects.is_empty();
    Ok(chunk)
}

pub(super) async fn examine(
    conn: &mut PgConnection,
    sight: &Sight,
    subjects: &[Subject],
) -> Result<Vec<Found>, sqlx::Error> {
    let keys: Vec<Key> = subjects.iter().filter_map(|subject| subject.index.clone()).collect();
    let holders: BTreeSet<i64> =
        KEY.find(conn, &sight.leaves, keys.iter().cloned()).await?.iter().map(member_of).collect();
    let ids: BTreeSet<i64> = subjects.iter().map(|subject| subject.base).chain(holders).collect();
    let members = MEMBER.find(conn, &sight.leaves, ids.into_iter().map(|id| vec![Value::I64(id)])).await?;
    let expected = Expected::load(conn, sight, &members).await?;
    let asked: BTreeSet<Key> = keys.into_iter().chain(expected.rows.keys().cloned()).collect();
    let actual: HashMap<Key, Row> =
        KEY.find(conn, &sight.leaves, asked).await?.into_iter().map(|row| (row.key.clone(), row)).collect();
    let mut found = Vec::new();
    for subject in subjects {
        let mut note = |difference| found.push(Found { subject: subject.clone(), difference });
        if let Some(difference) = expected.unreadable.get(&subject.base) {
            note(difference.clone());
        }
        for (_, difference) in expected.auth.iter().filter(|(id, _)| *id == subject.base) {
            note(difference.clone());
        }
        let Some(key) = &subject.index else { continue };
        match (expected.rows.get(key), actual.get(key)) {
            (Some(_), None) if expected.optional.contains(key) => {}
            (Some(_), None) => note(Difference::new(Kind::Missing, KEY.table, key.clone(), Vec::new())),
            (Some((row, members)), Some(actual)) => {
                // Of two members that claim a key, each holder is right for itself and wrong for the other.
                let mut columns = altered(&KEY, row, actual);
                if members.len() > 1 && members.contains(&member_of(actual)) {
                    columns = vec!["member_id"];
                }
                if !columns.is_empty() {
                    note(Difference::new(Kind::Altered, KEY.table, key.clone(), columns));
                }
            }
            (None, Some(actual)) if !expected.unreadable.contains_key(&member_of(actual)) => {
                let columns = if is_live(&sight.secrets, actual) { Vec::new() } else { vec!["key_version"] };
                note(Difference::new(Kind::Extra, KEY.table, key.clone(), columns));
            }
            (None, _) => {}
        }
    }
    Ok(found)
}

fn is_live(secrets: &Secrets, row: &Row) -> bool {
    version_of(row).is_some_and(|version| secrets.holding().blind.contains(&version))
}

fn is_of_the_future(secrets: &Secrets, row: &Row) -> bool {
    let newest = secrets.holding().blind.last().copied();
    version_of(row) > newest
}

fn version_of(row: &Row) -> Option<i16> {
    Some(i16::from_be_bytes(row.cells[2].as_deref()?.try_into().ok()?))
}

/// Locks the members concerned, then the key, looks again and writes. Nobody waits for a member while holding a key that
/// stands: whoever changes one has locked its member before.
pub(super) async fn mend(conn: &mut PgConnection, sight: &Sight, subject: &Subject) -> Result<Repair, sqlx::Error> {
    let Some(key) = &subject.index else {
        return Ok(Repair::Left("the base row itself is wrong, and nothing says what is right"));
    };
    let Value::Uuid(uuid) = key[0] else { return Ok(Repair::Left("it is no key")) };
    let key_leaf = KEY.leaf(key);
    let seen = KEY.find(conn, &sight.leaves, [key.clone()]).await?;
    let members: BTreeSet<(Leaf, i64)> = seen
        .iter()
        .map(member_of)
        .chain([subject.base])
        .map(|member| (plan("member").leaf_i64(member), member))
        .collect();
    for (leaf, member) in &members {
        sqlx::query(query("verify/member_lock").on(&[*leaf])).bind(vec![*member]).fetch_all(&mut *conn).await?;
    }
    let held: Vec<(Uuid, i64)> =
        sqlx::query_as(query("verify/member_key_lock").on(&[key_leaf])).bind(vec![uuid]).fetch_all(&mut *conn).await?;
    if held.iter().any(|(_, holder)| !members.iter().any(|(_, member)| member == holder)) {
        return Ok(Repair::Left("it was moved meanwhile: the next run looks again"));
    }
    let ids = members.iter().map(|(_, member)| vec![Value::I64(*member)]);
    let rows = MEMBER.find(conn, &sight.leaves, ids).await?;
    let expected = Expected::load(conn, sight, &rows).await?;
    let actual = KEY.find(conn, &sight.leaves, [key.clone()]).await?;
    match (expected.rows.get(key), actual.first()) {
        (Some((_, members)), _) if members.len() > 1 => Ok(Repair::Left("two members have this identifier")),
        (Some(_), Some(actual)) if expected.unreadable.contains_key(&member_of(actual)) => {
            Ok(Repair::Left("its holder can't be read"))
        }
        (Some((row, _)), _) => {
            let mut from: Vec<i64> = held.iter().map(|(_, member)| *member).collect();
            from.push(member_of(row));
            insert(conn, key_leaf, uuid, row, from).await
        }
        (None, Some(actual)) if expected.unreadable.contains_key(&member_of(actual)) => {
            Ok(Repair::Left("its member can't be read"))
        }
        (None, Some(actual)) if is_of_the_future(&sight.secrets, actual) => {
            Ok(Repair::Left("its version is newer than the secret file that was given"))
        }
        (None, Some(actual)) => {
            sqlx::query(query("verify/member_key_delete").on(&[key_leaf]))
                .bind(vec![uuid])
                .bind(vec![member_of(actual)])
                .execute(conn)
                .await?;
            Ok(Repair::Mended)
        }
        (None, None) => Ok(Repair::Mended),
    }
}

/// Writes the row as expected. It overwrites a claim of `from` only, members that are locked and do not have the
/// identifier: one that came after the look is left to the next run.
async fn insert(
    conn: &mut PgConnection,
    leaf: Leaf,
    key: Uuid,
    row: &Row,
    from: Vec<i64>,
) -> Result<Repair, sqlx::Error> {
    let small = |at: usize| row.cells[at].as_deref().map_or(0, |bytes| i16::from_be_bytes([bytes[0], bytes[1]]));
    // PostgreSQL sends microseconds since 2000-01-01.
    let bound_at = row.cells[1].as_deref().and_then(|bytes| {
        let micros = i64::from_be_bytes(bytes.try_into().ok()?);
        DateTime::<Utc>::from_timestamp_micros(micros.checked_add(946_684_800_000_000)?)
    });
    let Some(bound_at) = bound_at else { return Ok(Repair::Left("the member does not say since when")) };
    let written = sqlx::query(query("verify/member_key_mend").on(&[leaf]))
        .bind(vec![key])
        .bind(vec![member_of(row)])
        .bind(vec![bound_at])
        .bind(vec![small(2)])
        .bind(vec![small(3)])
        .bind(from)
        .execute(conn)
        .await?;
    match written.rows_affected() {
        0 => Ok(Repair::Left("another member has taken it meanwhile")),
        _ => Ok(Repair::Mended),
    }
}
