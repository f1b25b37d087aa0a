//! Regions from a CSV: read, then put in one transaction. A region may stand before the one above it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{
    ChainError, RegistryState, check_reserved,
    csv::{Cells, Column, RowFailure, Table},
    import::{Ended, ImportReport, report_of, without_repeated},
    region::{Region, RegionId, RegionName},
    region_store::{get_tree, insert_regions, tree_of, update_regions},
};
use crate::{
    db::{pool::Office, tx},
    problem::Refusal,
};

const COLUMNS: [Column; 4] = [
    Column { name: "region_id", required: true },
    Column { name: "name", required: true },
    Column { name: "parent_id", required: false },
    Column { name: "state", required: false },
];

#[derive(Debug, Clone)]
struct RegionLine {
    line: u64,
    region_id: RegionId,
    name: RegionName,
    /// None: the file has no such column.
    parent_id: Option<Option<RegionId>>,
    state: Option<RegistryState>,
}

impl RegionLine {
    /// The region as the file wants it.
    fn on(&self, before: Option<&Region>, now: DateTime<Utc>) -> Region {
        let parent_id = match &self.parent_id {
            Some(given) => given.clone(),
            None => before.and_then(|before| before.parent_id.clone()),
        };
        Region {
            region_id: self.region_id.clone(),
            name: self.name.clone(),
            parent_id,
            state: self.state.or(before.map(|before| before.state)).unwrap_or(RegistryState::Active),
            version: before.map_or(1, |before| before.version),
            created_at: before.map_or(now, |before| before.created_at),
            updated_at: before.map_or(now, |before| before.updated_at),
        }
    }
}

/// A file that was read.
#[derive(Debug, Clone)]
pub struct RegionRows {
    count: usize,
    rows: Vec<RegionLine>,
    failures: Vec<RowFailure>,
}

/// Reads a file of regions.
///
/// # Errors
/// As `chain::csv::Table::read`.
pub fn read(bytes: &[u8]) -> Result<RegionRows, Refusal> {
    let mut table = Table::read(bytes, &COLUMNS)?;
    let mut failures = std::mem::take(&mut table.failures);
    let mut rows = Vec::with_capacity(table.rows.len());
    let has_parent = table.columns.contains(&"parent_id");
    for row in &table.rows {
        let mut cells = Cells::new(&table, row);
        let region_id = cells.need("region_id", |text| {
            check_reserved("region_id", text).map_err(|_| "is the name of an endpoint".to_owned())?;
            RegionId::parse(text).map_err(|bad| bad.to_string())
        });
        let name = cells.need("name", str::parse::<RegionName>);
        let parent_id = cells.read("parent_id", str::parse::<RegionId>);
        let state = cells.word("state", "active, retired", RegistryState::from_name);
        let bad = !cells.failures.is_empty();
        failures.append(&mut cells.failures);
        if let (Some(region_id), Some(name), false) = (region_id, name, bad) {
            rows.push(RegionLine {
                line: row.line,
                region_id,
                name,
                parent_id: has_parent.then_some(parent_id),
                state,
            });
        }
    }
    let rows = without_repeated(rows, "region_id", |row| (row.line, row.region_id.to_string()), &mut failures);
    Ok(RegionRows { count: table.count, rows, failures })
}

/// Puts the rows in.
///
/// # Errors
/// [`ChainError`] of the database: then nothing was put in.
pub async fn put(
    office: &Office,
    rows: RegionRows,
    now: DateTime<Utc>,
    dry_run: bool,
) -> Result<ImportReport, ChainError> {
    let outcome = tx::run(office, "import_regions", async move |conn: &mut PgConnection| {
        let known = get_tree(conn).await?;
        let RegionRows { count, rows, mut failures } = rows;
        let wanted = sound(&known, &rows, now, &mut failures);
        let (changed, made): (Vec<Region>, Vec<Region>) =
            wanted.into_iter().partition(|region| known.contains_key(&region.region_id));
        let changed: Vec<Region> = changed.into_iter().filter(|region| known[&region.region_id] != *region).collect();
        insert_regions(conn, now, &made).await?;
        update_regions(conn, now, &changed).await?;
        let report = ImportReport::new(dry_run, count, made.len(), changed.len(), failures);
        if dry_run { Err(Ended::Preview(report)) } else { Ok(report) }
    })
    .await;
    report_of(outcome)
}

/// The regions that the file makes of what there is, without those that would break the tree. What is left out may have
/// carried others, so it is asked until nothing is.
fn sound(
    known: &HashMap<RegionId, Region>,
    rows: &[RegionLine],
    now: DateTime<Utc>,
    failures: &mut Vec<RowFailure>,
) -> Vec<Region> {
    let lines: BTreeMap<&RegionId, u64> = rows.iter().map(|row| (&row.region_id, row.line)).collect();
    let mut wanted: BTreeMap<RegionId, Region> =
        rows.iter().map(|row| (row.region_id.clone(), row.on(known.get(&row.region_id), now))).collect();
    loop {
        let mut tree = tree_of(known);
        for region in wanted.values() {
            tree.put(region.region_id.clone(), region.parent_id.clone());
        }
        let broken = tree.broken(&wanted.keys().cloned().collect::<BTreeSet<_>>());
        let mut left_out = false;
        for (region_id, code) in broken {
            if wanted.remove(&region_id).is_some() {
                left_out = true;
                let detail = code.title().to_owned();
                failures.push(RowFailure { line: lines[&region_id], column: Some("parent_id"), code, detail });
            }
        }
        if !left_out {
            return wanted.into_values().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Code;

    #[test]
    fn parents_may_come_later_and_what_breaks_the_tree_is_left_out_with_what_it_carried() {
        let text = "region_id,name,parent_id\n\
                    SH,Shanghai,EAST\n\
                    EAST,East,\n\
                    A,A,B\n\
                    B,B,A\n\
                    C,C,B\n\
                    D,D,NOWHERE\n\
                    E,E,D\n";
        let RegionRows { rows, mut failures, .. } = read(text.as_bytes()).unwrap();
        let made = sound(&HashMap::new(), &rows, DateTime::UNIX_EPOCH, &mut failures);
        let made: Vec<&str> = made.iter().map(|region| region.region_id.as_str()).collect();
        assert_eq!(made, ["EAST", "SH"]);
        failures.sort_by_key(|failure| failure.line);
        let failed: Vec<(u64, Code)> = failures.iter().map(|failure| (failure.line, failure.code)).collect();
        assert_eq!(failed.len(), 5, "{failures:?}");
        assert!(failed.iter().all(|(_, code)| matches!(code, Code::RegionCycle | Code::RegionNotFound)));
        assert_eq!(failed[3], (7, Code::RegionNotFound));
    }
}
