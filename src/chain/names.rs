//! Names of stores by number, for answers that tell where something happened. A name never changes.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, RwLock},
};

use sqlx::PgConnection;

use crate::{
    db::lane::{Tx, WriteError},
    id::StoreNo,
};

/// The map grows to the number of stores of the chain, some ten thousand.
#[derive(Clone, Default)]
pub struct StoreNames(Arc<RwLock<HashMap<StoreNo, Arc<str>>>>);

impl StoreNames {
    pub fn get(&self, store_no: StoreNo) -> Option<Arc<str>> {
        self.0.read().expect("no code panics while it holds the names").get(&store_no).cloned()
    }

    pub fn put(&self, store_no: StoreNo, name: Arc<str>) {
        self.0.write().expect("no code panics while it holds the names").insert(store_no, name);
    }

    /// The names of these stores; those not in memory are read on the batch's connection.
    pub async fn of(
        &self,
        tx: &mut Tx<'_>,
        wanted: BTreeSet<StoreNo>,
    ) -> Result<HashMap<StoreNo, Arc<str>>, WriteError> {
        let (names, asked) = self.read(tx.conn().await?, wanted).await?;
        if asked {
            tx.plain();
        }
        Ok(names)
    }

    /// The names of these stores, and whether the database was asked for some.
    pub async fn read(
        &self,
        conn: &mut PgConnection,
        wanted: BTreeSet<StoreNo>,
    ) -> Result<(HashMap<StoreNo, Arc<str>>, bool), sqlx::Error> {
        let mut names = HashMap::with_capacity(wanted.len());
        let mut missing = Vec::new();
        for store_no in wanted {
            match self.get(store_no) {
                Some(name) => drop(names.insert(store_no, name)),
                None => missing.push(store_no.get()),
            }
        }
        let asked = !missing.is_empty();
        if asked {
            let rows = sqlx::query_file!("sql/queries/store/names.sql", &missing);
            for row in rows.fetch_all(conn).await? {
                let name: Arc<str> = row.store_id.into();
                self.put(row.store_no, Arc::clone(&name));
                names.insert(row.store_no, name);
            }
        }
        Ok((names, asked))
    }
}
