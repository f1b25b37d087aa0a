//! Writes the rows of a slice: claims, decisions, copies.
//!
//! Lock order: `member_key`, `member`, `member_auth`, `register_log`; rows by (leaf, key). What is decided is what taking the rows one after
//! the other would decide; claims of others, which `member_key` referees, count as they stand when ours meet them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{BuildHasherDefault, Hasher},
};

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use sqlx::{Executor, FromRow, PgConnection};
use uuid::Uuid;

use super::{
    OnTaken, Options, Slice,
    ready::{Ready, Told, members},
    row::{Claimed, Draft},
};
use crate::{
    id::{MemberId, StoreNo},
    job::{Failure, JobError, store::Progress},
    member::{
        Gender, State,
        key::Kind,
        store::{KeyRow, key_leaf, member_leaf, seal},
    },
    partition::{Leaf, query},
    secret::Secrets,
};

/// Rounds of claims before a slice is given up for the moment: each one met claims of others.
const ROUNDS_MAX: usize = 16;
const UNIQUE_VIOLATION: &str = "23505";

/// What of a draft is encrypted, for the member id that it gets.
pub struct Sealed {
    pub(super) member_id: MemberId,
    pub(super) phone: Option<Vec<u8>>,
    pub(super) email: Option<Vec<u8>>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) birthday: Option<Vec<u8>>,
    /// Identifiers without a column of their own, under the current key.
    pub(super) others: Vec<(KeyRow, Vec<u8>)>,
}

impl Sealed {
    pub fn new(secrets: &Secrets, member_id: MemberId, draft: &Draft) -> Self {
        let seal = |column, plain: Option<&str>| plain.map(|plain| seal(secrets, column, member_id, plain));
        let of = |kind| draft.identifiers.iter().find(move |one| one.identifier.kind() == kind);
        let text = |one: Option<&'_ Claimed>| one.map(|one| one.identifier.normalised().to_owned());
        let birthday = draft.birthday.map(|day| day.to_string());
        let has_column = |kind| matches!(kind, Kind::Phone | Kind::Email);
        let mut others: Vec<(KeyRow, Vec<u8>)> = draft
            .identifiers
            .iter()
            .filter(|one| !has_column(one.identifier.kind()))
            .filter_map(|one| {
                let plain = one.identifier.normalised();
                let sealed = secrets.encrypt("member_auth", "identifier", member_id.get(), plain);
                Some((*one.keys.first()?, sealed))
            })
            .collect();
        others.sort_by_key(|(row, _)| row.key);
        Self {
            member_id,
            phone: seal("phone", text(of(Kind::Phone)).as_deref()),
            email: seal("email", text(of(Kind::Email)).as_deref()),
            name: seal("name", draft.name.as_deref()),
            birthday: seal("birthday", birthday.as_deref()),
            others,
        }
    }
}

/// What becomes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    New,
    /// All its identifiers belong to this member.
    Known(MemberId),
    /// The identifier at this place belongs to this member, and another does not.
    Taken(usize, MemberId),
}

/// Writes what can be written of the rows and says what became of each.
pub(super) async fn write(
    conn: &mut PgConnection,
    secrets: &Secrets,
    options: &Options,
    slice: &Slice,
    told: &Told<'_>,
    now: DateTime<Utc>,
) -> Result<Progress, JobError> {
    let (drafts, ready) = (&slice.drafts, &slice.ready);
    if claim_at_once(conn, ready).await? {
        let (progress, _) = sort_out(conn, secrets, options, drafts, &ready.verdicts).await?;
        ready.members.send(conn).await?;
        return Ok(progress);
    }
    let verdicts = Box::pin(claim(conn, drafts, now)).await?;
    let (progress, fresh) = Box::pin(sort_out(conn, secrets, options, drafts, &verdicts)).await?;
    members(options, fresh, told, now).send(conn).await?;
    Ok(progress)
}

/// The rows that are new members.
type Fresh<'a> = Vec<(&'a Draft, &'a Sealed)>;

/// What became of each row by its verdict, and which are to be written.
async fn sort_out<'a>(
    conn: &mut PgConnection,
    secrets: &Secrets,
    options: &Options,
    drafts: &'a [(Draft, Sealed)],
    verdicts: &[Verdict],
) -> Result<(Progress, Fresh<'a>), JobError> {
    let mut progress = Progress::default();
    let made: HashMap<MemberId, &Draft> = drafts
        .iter()
        .zip(verdicts)
        .filter(|(_, verdict)| **verdict == Verdict::New)
        .map(|((draft, sealed), _)| (sealed.member_id, draft))
        .collect();
    let known = match options.on_taken {
        OnTaken::Skip => HashMap::new(),
        OnTaken::Fail => {
            let known = verdicts.iter().filter_map(|verdict| match verdict {
                Verdict::Known(member_id) if !made.contains_key(member_id) => Some(*member_id),
                _ => None,
            });
            find_members(conn, secrets, known.collect()).await?
        }
    };
    let mut fresh = Vec::with_capacity(drafts.len());
    for ((draft, sealed), verdict) in drafts.iter().zip(verdicts) {
        match *verdict {
            Verdict::New => fresh.push((draft, sealed)),
            Verdict::Known(_) if options.on_taken == OnTaken::Skip => progress.skipped += 1,
            Verdict::Known(member_id) => {
                let has = match made.get(&member_id) {
                    Some(earlier) => Some(Facts::of(earlier)),
                    None => known.get(&member_id).cloned(),
                };
                if has.is_some_and(|has| has.has_all_of(&Facts::of(draft))) {
                    progress.skipped += 1;
                } else {
                    progress.failures.push(taken(options, draft, 0, member_id, "differs from the row"));
                }
            }
            Verdict::Taken(at, member_id) => {
                progress.failures.push(taken(options, draft, at, member_id, "is another than the row's"));
            }
        }
    }
    progress.ok = fresh.len() as i64;
    Ok((progress, fresh))
}

fn taken(options: &Options, draft: &Draft, at: usize, member_id: MemberId, how: &str) -> Failure {
    Failure {
        ordinal: draft.ordinal,
        line: draft.line,
        column: Some(options.columns[draft.identifiers[at].column].clone()),
        code: "member_key_taken".to_owned(),
        detail: format!("it belongs to member {member_id}, which {how}"),
    }
}

/// Claims what the slice wants as if nothing of it were another's: true if so. If anything is, all is taken back, down to
/// the locks, and has to be looked at row by row.
///
/// By `COPY`, which refuses the whole at the first key that is taken and does with half the work of an insert that passes
/// such keys over. It meets claims under way, and waits for them, in the same order as that does.
async fn claim_at_once(conn: &mut PgConnection, ready: &Ready) -> Result<bool, JobError> {
    conn.execute("savepoint claims").await?;
    match ready.claims.send(conn).await {
        Ok(()) => {
            conn.execute("release savepoint claims").await?;
            Ok(true)
        }
        Err(JobError::Database(error)) if error.sqlstate().as_deref() == Some(UNIQUE_VIOLATION) => {
            conn.execute("rollback to savepoint claims").await?;
            metrics::counter!("tessera_import_slices_taken_back_total").increment(1);
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Claims the identifiers of the rows that are new members, and says what becomes of each row.
///
/// A round claims everything in the order of locking. One that meets claims of others is taken back whole, so that the
/// next one begins with no lock held and the order holds throughout.
async fn claim(
    conn: &mut PgConnection,
    drafts: &[(Draft, Sealed)],
    now: DateTime<Utc>,
) -> Result<Vec<Verdict>, JobError> {
    // Who has a key, as far as we have met others.
    let mut others: HashMap<Uuid, MemberId> = HashMap::new();
    for _ in 0..ROUNDS_MAX {
        let (verdicts, wanted) = decide(drafts, &others);
        if wanted.is_empty() {
            return Ok(verdicts);
        }
        conn.execute("savepoint claims").await?;
        let wanted: Vec<(KeyRow, usize)> = wanted.into_values().map(|(at, row)| (row, at)).collect();
        let won = insert(conn, drafts, &wanted, now).await?;
        let lost: Vec<Uuid> = wanted.iter().map(|(row, _)| row.key).filter(|key| !won.contains(key)).collect();
        if lost.is_empty() {
            conn.execute("release savepoint claims").await?;
            return Ok(verdicts);
        }
        conn.execute("rollback to savepoint claims").await?;
        metrics::counter!("tessera_import_claim_rounds_total").increment(1);
        // One that was freed since is claimed again in the next round.
        others.extend(find(conn, lost).await?);
    }
    Err(JobError::Database(crate::db::pool::Error::Busy))
}

/// Blind keys are as good as random and nobody chooses them, so they are their own hashes.
#[derive(Default, Clone, Copy)]
pub(super) struct OwnHash(u64);

impl Hasher for OwnHash {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut eight = [0; 8];
            eight[..part.len()].copy_from_slice(part);
            self.0 ^= u64::from_ne_bytes(eight);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type ByItself = BuildHasherDefault<OwnHash>;

/// The keys that new members need, each with its row's place.
pub(super) type Wanted = HashMap<Uuid, (usize, KeyRow), ByItself>;

/// Takes the rows one after the other, each seeing what those before it took.
pub(super) fn decide(drafts: &[(Draft, Sealed)], others: &HashMap<Uuid, MemberId>) -> (Vec<Verdict>, Wanted) {
    let mut wanted = Wanted::with_capacity_and_hasher(drafts.len() * 3, ByItself::default());
    let mut verdicts = Vec::with_capacity(drafts.len());
    for (at, (draft, sealed)) in drafts.iter().enumerate() {
        let owner = |claimed: &Claimed| {
            claimed.keys.iter().find_map(|row| {
                let earlier = wanted.get(&row.key).map(|(at, _)| drafts[*at].1.member_id);
                earlier.or_else(|| others.get(&row.key).copied())
            })
        };
        let owners: Vec<Option<MemberId>> = draft.identifiers.iter().map(owner).collect();
        let taken = owners.iter().enumerate().find_map(|(place, owner)| owner.map(|owner| (place, owner)));
        let verdict = match taken {
            None => {
                let rows = draft.identifiers.iter().flat_map(|claimed| &claimed.keys);
                wanted.extend(rows.map(|row| (row.key, (at, *row))));
                Verdict::New
            }
            Some((_, owner)) if owners.iter().all(|other| *other == Some(owner)) => Verdict::Known(owner),
            Some((place, owner)) => Verdict::Taken(place, owner),
        };
        debug_assert!(verdict != Verdict::Known(sealed.member_id), "a row does not meet itself");
        verdicts.push(verdict);
    }
    (verdicts, wanted)
}

/// Rows by leaf, in the order of locking.
pub(super) fn by_leaf<T>(
    rows: impl IntoIterator<Item = T>,
    place: impl Fn(&T) -> (Leaf, Uuid),
) -> BTreeMap<Leaf, Vec<T>> {
    let mut leaves: BTreeMap<Leaf, Vec<(Uuid, T)>> = BTreeMap::new();
    for row in rows {
        let (leaf, key) = place(&row);
        leaves.entry(leaf).or_default().push((key, row));
    }
    let sorted = |(leaf, mut rows): (Leaf, Vec<(Uuid, T)>)| {
        rows.sort_by_key(|(key, _)| *key);
        (leaf, rows.into_iter().map(|(_, row)| row).collect())
    };
    leaves.into_iter().map(sorted).collect()
}

async fn insert(
    conn: &mut PgConnection,
    drafts: &[(Draft, Sealed)],
    missing: &[(KeyRow, usize)],
    now: DateTime<Utc>,
) -> Result<HashSet<Uuid>, JobError> {
    let mut won = HashSet::with_capacity(missing.len());
    for (leaf, rows) in by_leaf(missing, |(row, _)| (key_leaf(row.key), row.key)) {
        let inserted: Vec<(Uuid,)> = sqlx::query_as(query("member_key/claim").on(&[leaf]))
            .bind(rows.iter().map(|(row, _)| row.key).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, at)| drafts[*at].1.member_id).collect::<Vec<_>>())
            .bind(vec![now; rows.len()])
            .bind(rows.iter().map(|(row, _)| row.version).collect::<Vec<_>>())
            .bind(rows.iter().map(|(row, _)| row.kind as i16).collect::<Vec<_>>())
            .fetch_all(&mut *conn)
            .await?;
        won.extend(inserted.into_iter().map(|(key,)| key));
    }
    Ok(won)
}

async fn find(conn: &mut PgConnection, keys: Vec<Uuid>) -> Result<Vec<(Uuid, MemberId)>, JobError> {
    let mut found = Vec::with_capacity(keys.len());
    for (leaf, keys) in by_leaf(keys, |key| (key_leaf(*key), *key)) {
        let rows: Vec<(Uuid, MemberId)> =
            sqlx::query_as(query("member_key/find").on(&[leaf])).bind(keys).fetch_all(&mut *conn).await?;
        found.extend(rows);
    }
    Ok(found)
}

/// What a member is, as far as a file can say it.
#[derive(Debug, Clone, PartialEq)]
struct Facts {
    name: Option<String>,
    nickname: Option<String>,
    gender: Option<Gender>,
    birthday: Option<String>,
    home_store_no: Option<StoreNo>,
    level: Option<i16>,
    state: Option<State>,
    created_at: Option<DateTime<Utc>>,
    attributes: Map<String, Value>,
}

impl Facts {
    fn of(draft: &Draft) -> Self {
        Self {
            name: draft.name.clone(),
            nickname: draft.nickname.clone(),
            gender: draft.gender,
            birthday: draft.birthday.map(|day| day.to_string()),
            home_store_no: draft.home_store_no,
            level: draft.level,
            state: draft.state,
            created_at: draft.created_at,
            attributes: draft.attributes.clone(),
        }
    }

    /// Whether nothing of `row` is news. What a row does not say is none.
    fn has_all_of(&self, row: &Facts) -> bool {
        fn same<T: PartialEq>(has: &Option<T>, row: &Option<T>) -> bool {
            row.is_none() || has == row
        }
        same(&self.name, &row.name)
            && same(&self.nickname, &row.nickname)
            && same(&self.gender, &row.gender)
            && same(&self.birthday, &row.birthday)
            && same(&self.home_store_no, &row.home_store_no)
            // What a new member begins with, where a row of the same slice did not say it.
            && (same(&self.level, &row.level) || (self.level.is_none() && row.level == Some(0)))
            && (same(&self.state, &row.state) || (self.state.is_none() && row.state == Some(State::Normal)))
            && same(&self.created_at, &row.created_at)
            && row.attributes.iter().all(|(name, value)| self.attributes.get(name) == Some(value))
    }
}

#[derive(FromRow)]
struct MemberRow {
    member_id: MemberId,
    created_at: DateTime<Utc>,
    home_store_no: Option<StoreNo>,
    state: i16,
    gender: i16,
    level: i16,
    name: Option<Vec<u8>>,
    birthday: Option<Vec<u8>>,
    nickname: Option<String>,
    attributes: Option<String>,
}

impl MemberRow {
    fn open(self, secrets: &Secrets) -> Result<(MemberId, Facts), JobError> {
        let bad = |column| JobError::Inconsistent { table: "member", column, key: self.member_id.to_string() };
        let open = |column: &'static str, sealed: &Option<Vec<u8>>| {
            let opened =
                sealed.as_deref().map(|sealed| secrets.decrypt("member", column, self.member_id.get(), sealed));
            opened.transpose().map_err(|_| bad(column))
        };
        let attributes = self.attributes.as_deref().map(serde_json::from_str).transpose();
        let facts = Facts {
            name: open("name", &self.name)?,
            birthday: open("birthday", &self.birthday)?,
            attributes: attributes.map_err(|_| bad("attributes"))?.unwrap_or_default(),
            gender: Some(Gender::from_number(self.gender).ok_or_else(|| bad("gender"))?),
            state: Some(State::from_number(self.state).ok_or_else(|| bad("state"))?),
            level: Some(self.level),
            created_at: Some(self.created_at),
            home_store_no: self.home_store_no,
            nickname: self.nickname.clone(),
        };
        Ok((self.member_id, facts))
    }
}

async fn find_members(
    conn: &mut PgConnection,
    secrets: &Secrets,
    member_ids: HashSet<MemberId>,
) -> Result<HashMap<MemberId, Facts>, JobError> {
    let mut leaves: BTreeMap<Leaf, Vec<MemberId>> = BTreeMap::new();
    for member_id in member_ids {
        leaves.entry(member_leaf(member_id)).or_default().push(member_id);
    }
    let mut found = HashMap::new();
    for (leaf, ids) in leaves {
        let rows: Vec<MemberRow> =
            sqlx::query_as(query("member_import/find").on(&[leaf])).bind(ids).fetch_all(&mut *conn).await?;
        for row in rows {
            let (member_id, facts) = row.open(secrets)?;
            found.insert(member_id, facts);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::key::{Identifier, normalise};

    /// Rows by their phones and cards: the nth is to be member n.
    fn drafts(rows: &[&[&str]]) -> Vec<(Draft, Sealed)> {
        let claimed = |text: &&str| {
            let kind = if text.starts_with('1') { Kind::Phone } else { Kind::Card };
            let identifier: Identifier = normalise(kind, text).unwrap().unwrap();
            let key = key_of(text);
            Claimed { column: 0, identifier, keys: vec![KeyRow { key, version: 1, kind }] }
        };
        let row = |(at, identifiers): (usize, &&[&str])| {
            let draft = Draft {
                ordinal: at as i64,
                line: at as i64,
                identifiers: identifiers.iter().map(claimed).collect(),
                name: None,
                nickname: None,
                gender: None,
                birthday: None,
                home_store_no: None,
                level: None,
                state: None,
                created_at: None,
                attributes: Map::new(),
            };
            let member_id = MemberId::new(at as i64).unwrap();
            (draft, Sealed { member_id, phone: None, email: None, name: None, birthday: None, others: Vec::new() })
        };
        rows.iter().enumerate().map(row).collect()
    }

    fn key_of(text: &str) -> Uuid {
        Uuid::from_u128(xxhash_rust::xxh3::xxh3_128(text.as_bytes()))
    }

    #[test]
    fn rows_are_decided_as_if_they_came_one_after_the_other() {
        let member = |id| MemberId::new(id).unwrap();
        let (a, b) = ("13800000001", "13800000002");
        let drafts = drafts(&[&[a, "C1"], &[a], &[a, "C1"], &["C2", a], &[b, "C9"], &["C2"], &["C2", "C3"], &["C9"]]);
        let others = HashMap::from([(key_of("C9"), member(99))]);
        let (verdicts, wanted) = decide(&drafts, &others);
        assert_eq!(
            verdicts,
            [
                Verdict::New,
                Verdict::Known(member(0)),
                Verdict::Known(member(0)),
                Verdict::Taken(1, member(0)),
                Verdict::Taken(1, member(99)),
                // What a refused row named is free.
                Verdict::New,
                Verdict::Taken(0, member(5)),
                Verdict::Known(member(99)),
            ]
        );
        let mut owners: Vec<usize> = wanted.values().map(|(at, _)| *at).collect();
        owners.sort_unstable();
        assert_eq!(owners, [0, 0, 5]);
    }

    #[test]
    fn a_row_that_says_less_says_nothing_new() {
        let empty = Facts::of(&drafts(&[&["13800000001"]])[0].0);
        let lin = Facts { name: Some("Lin".into()), level: Some(3), ..empty.clone() };
        assert!(lin.has_all_of(&empty) && lin.has_all_of(&lin));
        assert!(!empty.has_all_of(&lin));
        assert!(!lin.has_all_of(&Facts { name: Some("Mei".into()), ..empty.clone() }));
        assert!(empty.has_all_of(&Facts { level: Some(0), state: Some(State::Normal), ..empty.clone() }));
        let attributes = Map::from_iter([("kids".to_owned(), Value::from("0"))]);
        assert!(!lin.has_all_of(&Facts { attributes, ..empty }));
    }
}
