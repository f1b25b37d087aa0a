//! Stores from a CSV: read, then put in one transaction.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::PgConnection;

use super::{
    ChainError, City, RegionId, RegisterPolicy, RegistryState, StoreId, StoreName, StorePhone, StoreState,
    StreetAddress, TimeZone, check_reserved,
    csv::{Cells, Column, RowFailure, Table},
    import::{Ended, ImportReport, report_of, without_repeated},
    region_store::list_standings,
};
use crate::{
    db::{pool::Office, tx},
    id::Day,
    problem::{Code, Refusal},
};

const COLUMNS: [Column; 10] = [
    Column { name: "store_id", required: true },
    Column { name: "name", required: true },
    Column { name: "time_zone", required: false },
    Column { name: "state", required: false },
    Column { name: "region_id", required: false },
    Column { name: "city", required: false },
    Column { name: "address", required: false },
    Column { name: "phone", required: false },
    Column { name: "opened_on", required: false },
    Column { name: "registers", required: false },
];

/// One row that can be read.
#[derive(Debug, Clone)]
struct StoreLine {
    line: u64,
    store_id: StoreId,
    name: StoreName,
    time_zone: Option<TimeZone>,
    state: Option<StoreState>,
    region_id: Option<RegionId>,
    city: Option<City>,
    address: Option<StreetAddress>,
    phone: Option<StorePhone>,
    opened_on: Option<Day>,
    registers: Option<RegisterPolicy>,
}

/// A file that was read: its good rows sorted by store, and what is wrong with the others.
#[derive(Debug, Clone)]
pub struct StoreRows {
    count: usize,
    columns: Vec<String>,
    rows: Vec<StoreLine>,
    failures: Vec<RowFailure>,
}

/// Reads a file of stores.
///
/// # Errors
/// As `chain::csv::Table::read`.
pub fn read(bytes: &[u8]) -> Result<StoreRows, Refusal> {
    let mut table = Table::read(bytes, &COLUMNS)?;
    let mut failures = std::mem::take(&mut table.failures);
    let mut rows = Vec::with_capacity(table.rows.len());
    for row in &table.rows {
        let mut cells = Cells::new(&table, row);
        let store_id = cells.need("store_id", |text| {
            check_reserved("store_id", text).map_err(|_| "is the name of an endpoint".to_owned())?;
            StoreId::parse(text).map_err(|bad| bad.to_string())
        });
        let name = cells.need("name", str::parse::<StoreName>);
        let time_zone = cells.read("time_zone", TimeZone::parse);
        let state = cells.word("state", "open, closed, suspended", StoreState::from_name);
        let region_id = cells.read("region_id", str::parse::<RegionId>);
        let city = cells.read("city", str::parse::<City>);
        let address = cells.read("address", str::parse::<StreetAddress>);
        let phone = cells.read("phone", str::parse::<StorePhone>);
        let opened_on = cells
            .read("opened_on", |text| text.parse::<Day>().map_err(|_| "must be a day, such as 2026-11-22".to_owned()));
        let registers = cells.word("registers", "open, registered", RegisterPolicy::from_name);
        let bad = !cells.failures.is_empty();
        failures.append(&mut cells.failures);
        if let (Some(store_id), Some(name), false) = (store_id, name, bad) {
            let line = row.line;
            rows.push(StoreLine {
                line,
                store_id,
                name,
                time_zone,
                state,
                region_id,
                city,
                address,
                phone,
                opened_on,
                registers,
            });
        }
    }
    let mut rows = without_repeated(rows, "store_id", |row| (row.line, row.store_id.to_string()), &mut failures);
    rows.sort_by(|a, b| a.store_id.cmp(&b.store_id));
    let columns = table.columns.iter().map(|column| (*column).to_owned()).collect();
    Ok(StoreRows { count: table.count, columns, rows, failures })
}

/// Puts the rows in. `today` is the business day on which stores close that the file closes.
///
/// # Errors
/// [`ChainError`] of the database: then nothing was put in.
pub async fn put(
    office: &Office,
    rows: StoreRows,
    now: DateTime<Utc>,
    today: Day,
    dry_run: bool,
) -> Result<ImportReport, ChainError> {
    let outcome = tx::run(office, "import_stores", async move |conn: &mut PgConnection| {
        let StoreRows { count, columns, rows, mut failures } = rows;
        let rows = check_regions(conn, rows, &mut failures).await?;
        let arrays = Arrays::of(&rows);
        let created = arrays.insert_missing(conn, now, today).await?;
        // Those that another import has just made are seen from here on.
        sqlx::query_file!("sql/queries/store/lock.sql", &arrays.store_id).fetch_all(&mut *conn).await?;
        let updated = arrays.update(conn, now, today, &columns).await?;
        let report = ImportReport::new(dry_run, count, created, updated, failures);
        if dry_run { Err(Ended::Preview(report)) } else { Ok(report) }
    })
    .await;
    report_of(outcome)
}

/// Leaves out the rows whose region takes no stores; one that is retired keeps those that it has.
async fn check_regions(
    conn: &mut PgConnection,
    rows: Vec<StoreLine>,
    failures: &mut Vec<RowFailure>,
) -> Result<Vec<StoreLine>, ChainError> {
    let named: BTreeSet<String> = rows.iter().filter_map(|row| Some(row.region_id.as_ref()?.to_string())).collect();
    if named.is_empty() {
        return Ok(rows);
    }
    let regions = list_standings(conn, named.into_iter().collect()).await?;
    let ids: Vec<String> = rows.iter().map(|row| row.store_id.to_string()).collect();
    let placed = sqlx::query_file!("sql/queries/store/placed.sql", &ids).fetch_all(&mut *conn).await?;
    let placed: HashMap<String, String> = placed.into_iter().map(|row| (row.store_id, row.region_id)).collect();
    let mut kept = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(region_id) = row.region_id.as_ref().map(RegionId::as_str) else {
            kept.push(row);
            continue;
        };
        let stays = placed.get(row.store_id.as_str()).is_some_and(|there| there == region_id);
        let code = match regions.get(region_id) {
            None => Code::RegionNotFound,
            Some(RegistryState::Retired) if !stays => Code::RegionRetired,
            Some(_) => {
                kept.push(row);
                continue;
            }
        };
        let detail = code.title().to_owned();
        failures.push(RowFailure { line: row.line, column: Some("region_id"), code, detail });
    }
    Ok(kept)
}

/// The rows as the statements take them.
#[derive(Default)]
struct Arrays {
    store_id: Vec<String>,
    name: Vec<String>,
    time_zone: Vec<Option<String>>,
    state: Vec<Option<i16>>,
    region_id: Vec<Option<String>>,
    city: Vec<Option<String>>,
    address: Vec<Option<String>>,
    phone: Vec<Option<String>>,
    opened_on: Vec<Option<NaiveDate>>,
    registers: Vec<Option<i16>>,
}

impl Arrays {
    fn of(rows: &[StoreLine]) -> Self {
        let mut arrays = Self::default();
        for row in rows {
            arrays.store_id.push(row.store_id.to_string());
            arrays.name.push(row.name.to_string());
            arrays.time_zone.push(row.time_zone.map(|zone| zone.zone().name().to_owned()));
            arrays.state.push(row.state.map(StoreState::code));
            arrays.region_id.push(row.region_id.as_ref().map(RegionId::to_string));
            arrays.city.push(row.city.as_ref().map(City::to_string));
            arrays.address.push(row.address.as_ref().map(StreetAddress::to_string));
            arrays.phone.push(row.phone.as_ref().map(StorePhone::to_string));
            arrays.opened_on.push(row.opened_on.map(Day::to_date));
            arrays.registers.push(row.registers.map(RegisterPolicy::code));
        }
        arrays
    }

    async fn insert_missing(
        &self,
        conn: &mut PgConnection,
        now: DateTime<Utc>,
        today: Day,
    ) -> Result<usize, sqlx::Error> {
        let inserted = sqlx::query_file!(
            "sql/queries/store/insert_missing.sql",
            now,
            today.to_date(),
            &self.store_id,
            &self.name,
            &self.time_zone as &[Option<String>],
            &self.state as &[Option<i16>],
            &self.region_id as &[Option<String>],
            &self.city as &[Option<String>],
            &self.address as &[Option<String>],
            &self.phone as &[Option<String>],
            &self.opened_on as &[Option<NaiveDate>],
            &self.registers as &[Option<i16>],
        );
        Ok(inserted.fetch_all(conn).await?.len())
    }

    async fn update(
        &self,
        conn: &mut PgConnection,
        now: DateTime<Utc>,
        today: Day,
        columns: &[String],
    ) -> Result<usize, sqlx::Error> {
        let updated = sqlx::query_file!(
            "sql/queries/store/update_many.sql",
            now,
            today.to_date(),
            &self.store_id,
            &self.name,
            &self.time_zone as &[Option<String>],
            &self.state as &[Option<i16>],
            &self.region_id as &[Option<String>],
            &self.city as &[Option<String>],
            &self.address as &[Option<String>],
            &self.phone as &[Option<String>],
            &self.opened_on as &[Option<NaiveDate>],
            &self.registers as &[Option<i16>],
            columns,
        );
        Ok(usize::try_from(updated.execute(conn).await?.rows_affected()).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_cell_is_named_and_good_rows_are_sorted() {
        let text = "store_id,name,time_zone,state,opened_on,registers\n\
                    S2,Nanjing Road,Asia/Shanghai,closed,2026-11-22,registered\n\
                    S1,Bund,,,,\n\
                    a b,,Mars/Olympus,shut,22.11.2026,all\n\
                    S2,Again,,,,\n\
                    import,Endpoint,,,,\n";
        let read = read(text.as_bytes()).unwrap();
        let ids: Vec<&str> = read.rows.iter().map(|row| row.store_id.as_str()).collect();
        assert_eq!((ids, read.count), (vec!["S1", "S2"], 5));
        let failed: Vec<(u64, &str)> = read.failures.iter().map(|one| (one.line, one.column.unwrap())).collect();
        assert_eq!(
            failed,
            [
                (4, "store_id"),
                (4, "name"),
                (4, "time_zone"),
                (4, "state"),
                (4, "opened_on"),
                (4, "registers"),
                (6, "store_id"),
                (5, "store_id"),
            ]
        );
        let report = ImportReport::new(false, read.count, 2, 0, read.failures);
        assert_eq!((report.failed, report.unchanged, report.failures[7].line), (3, 0, 6));
    }
}
