//! The SQL of regions. Whoever changes the tree locks the table first, so that two moves cannot make a cycle together.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{
    ChainError, RegistryState, check_reserved,
    region::{NewRegion, Region, RegionId, RegionName, RegionPatch, Tree},
};
use crate::{
    db::{pool::Office, tx},
    problem::{Code, Refusal},
};

struct RegionRow {
    region_id: String,
    parent_id: Option<String>,
    name: String,
    state: i16,
    version: i32,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<RegionRow> for Region {
    type Error = ChainError;

    fn try_from(row: RegionRow) -> Result<Self, ChainError> {
        let bad = |column| ChainError::Inconsistent { table: "region", column, key: row.region_id.clone() };
        Ok(Region {
            name: RegionName::parse(row.name.as_str()).map_err(|_| bad("name"))?,
            parent_id: row.parent_id.clone().map(RegionId::parse).transpose().map_err(|_| bad("parent_id"))?,
            state: RegistryState::from_code(row.state).ok_or_else(|| bad("state"))?,
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
            region_id: RegionId::parse(row.region_id.as_str()).map_err(|_| bad("region_id"))?,
        })
    }
}

pub async fn find_region(conn: &mut PgConnection, region_id: &RegionId) -> Result<Option<Region>, ChainError> {
    let row = sqlx::query_file_as!(RegionRow, "sql/queries/region/find.sql", region_id.as_str());
    row.fetch_optional(conn).await?.map(Region::try_from).transpose()
}

/// # Errors
/// `region_not_found`.
pub async fn get_region(conn: &mut PgConnection, region_id: &RegionId) -> Result<Region, ChainError> {
    find_region(conn, region_id).await?.ok_or_else(|| Code::RegionNotFound.into())
}

/// Up to `rows_max` regions in the order of their ids, from after `after`.
pub async fn list_regions(
    conn: &mut PgConnection,
    state: Option<RegistryState>,
    parent_id: Option<&RegionId>,
    after: Option<&str>,
    rows_max: i64,
) -> Result<Vec<Region>, ChainError> {
    let (state, parent) = (state.map(RegistryState::code), parent_id.map(RegionId::as_str));
    let rows = sqlx::query_file_as!(RegionRow, "sql/queries/region/list.sql", after, state, parent, rows_max);
    rows.fetch_all(conn).await?.into_iter().map(Region::try_from).collect()
}

/// The states of those of these regions that exist.
pub async fn list_standings(
    conn: &mut PgConnection,
    region_ids: Vec<String>,
) -> Result<HashMap<String, RegistryState>, ChainError> {
    let rows = sqlx::query_file!("sql/queries/region/standing.sql", &region_ids).fetch_all(conn).await?;
    rows.into_iter()
        .map(|row| {
            let state = RegistryState::from_code(row.state);
            let bad = || ChainError::Inconsistent { table: "region", column: "state", key: row.region_id.clone() };
            Ok((row.region_id.clone(), state.ok_or_else(bad)?))
        })
        .collect()
}

/// A region and those that it lies in.
pub(super) async fn list_ancestors(conn: &mut PgConnection, region_id: &RegionId) -> Result<Vec<String>, ChainError> {
    let rows = sqlx::query_file_scalar!("sql/queries/region/ancestors.sql", region_id.as_str()).fetch_all(conn).await?;
    Ok(rows)
}

/// All regions, which nobody else changes before this transaction ends.
pub(super) async fn get_tree(conn: &mut PgConnection) -> Result<HashMap<RegionId, Region>, ChainError> {
    sqlx::query_file!("sql/queries/region/lock.sql").execute(&mut *conn).await?;
    let rows = sqlx::query_file_as!(RegionRow, "sql/queries/region/tree.sql").fetch_all(conn).await?;
    rows.into_iter().map(|row| Region::try_from(row).map(|region| (region.region_id.clone(), region))).collect()
}

/// Makes a region, active.
///
/// # Errors
/// `region_exists`, `region_not_found` of its parent, `region_too_deep`.
pub async fn create_region(office: &Office, new: NewRegion, now: DateTime<Utc>) -> Result<Region, ChainError> {
    check_reserved("region_id", new.region_id.as_str())?;
    tx::run(office, "create_region", async move |conn: &mut PgConnection| {
        let known = get_tree(conn).await?;
        if known.contains_key(&new.region_id) {
            return Err(ChainError::from(Code::RegionExists));
        }
        let NewRegion { region_id, name, parent_id } = new;
        let region = Region {
            region_id,
            name,
            parent_id,
            state: RegistryState::Active,
            version: 1,
            created_at: now,
            updated_at: now,
        };
        check(&known, &region)?;
        insert_regions(conn, now, std::slice::from_ref(&region)).await?;
        get_region(conn, &region.region_id).await
    })
    .await
}

/// Changes a region if it has one of the versions (`None`: any).
///
/// # Errors
/// `region_not_found` of it or of its new parent (with the `field`), `precondition_failed`, `region_cycle`,
/// `region_too_deep`.
pub async fn update_region(
    office: &Office,
    region_id: RegionId,
    versions: Option<Vec<i64>>,
    patch: RegionPatch,
    now: DateTime<Utc>,
) -> Result<Region, ChainError> {
    tx::run(office, "update_region", async move |conn: &mut PgConnection| {
        let known = get_tree(conn).await?;
        let before = known.get(&region_id).ok_or(Code::RegionNotFound)?;
        if versions.is_some_and(|versions| !versions.contains(&before.version.into())) {
            return Err(ChainError::from(Code::PreconditionFailed));
        }
        let after = Region {
            name: patch.name.unwrap_or_else(|| before.name.clone()),
            parent_id: patch.parent_id.unwrap_or_else(|| before.parent_id.clone()),
            state: patch.state.unwrap_or(before.state),
            ..before.clone()
        };
        check(&known, &after)?;
        update_regions(conn, now, std::slice::from_ref(&after)).await?;
        get_region(conn, &region_id).await
    })
    .await
}

/// Whether one region may be where it says, among all others.
fn check(known: &HashMap<RegionId, Region>, region: &Region) -> Result<(), Refusal> {
    let mut tree = tree_of(known);
    tree.put(region.region_id.clone(), region.parent_id.clone());
    match tree.broken(&BTreeSet::from([region.region_id.clone()])).into_values().next() {
        Some(code) => Err(Refusal::new(code).with("field", "parent_id")),
        None => Ok(()),
    }
}

pub(super) fn tree_of(known: &HashMap<RegionId, Region>) -> Tree {
    Tree::new(known.values().map(|region| (region.region_id.clone(), region.parent_id.clone())))
}

/// Columns of regions, as statements take them: id, parent, name, state.
type Arrays = (Vec<String>, Vec<Option<String>>, Vec<String>, Vec<i16>);

fn arrays(regions: &[Region]) -> Arrays {
    let parent = |region: &Region| region.parent_id.as_ref().map(RegionId::to_string);
    (
        regions.iter().map(|region| region.region_id.to_string()).collect(),
        regions.iter().map(parent).collect(),
        regions.iter().map(|region| region.name.to_string()).collect(),
        regions.iter().map(|region| region.state.code()).collect(),
    )
}

/// The table is locked. Parents may be among them: their references are checked when the statement ends.
pub(super) async fn insert_regions(
    conn: &mut PgConnection,
    now: DateTime<Utc>,
    regions: &[Region],
) -> Result<(), sqlx::Error> {
    let (ids, parents, names, states) = arrays(regions);
    sqlx::query_file!("sql/queries/region/insert.sql", now, &ids, &parents as &[Option<String>], &names, &states)
        .execute(conn)
        .await?;
    Ok(())
}

/// The table is locked.
pub(super) async fn update_regions(
    conn: &mut PgConnection,
    now: DateTime<Utc>,
    regions: &[Region],
) -> Result<(), sqlx::Error> {
    let (ids, parents, names, states) = arrays(regions);
    sqlx::query_file!("sql/queries/region/update.sql", now, &ids, &parents as &[Option<String>], &names, &states)
        .execute(conn)
        .await?;
    Ok(())
}
