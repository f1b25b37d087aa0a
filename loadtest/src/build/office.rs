//! The rows that are not in leaves: regions, stores, registers, rules, the shape of old codes, and API keys.

use std::collections::BTreeMap;

use anyhow::Context as _;
use rand::{SeedableRng as _, rngs::StdRng};
use sqlx::PgConnection;
use tessera::{
    chain::{
        StoreId,
        key::{KeyName, NewToken, Role, insert_key},
    },
    coupon::{rule::RuleState, rule_store::insert_rule},
};

use crate::dataset::{Dataset, Keys, LEGACY_ALPHABET, LEGACY_LENGTH, LEGACY_SHAPE, store_id};

const REGIONS: u32 = 5;
const DISTRICTS: u32 = 6;
pub(super) const REGISTERS: i32 = 2;
/// Stores whose tills get a key of their own.
const STORES_WITH_KEYS: u32 = 200;
const CITIES: [&str; 6] = ["上海", "北京", "广州", "成都", "武汉", "西安"];

/// Regions with what they are below, those above first.
pub(super) fn regions() -> Vec<(String, Option<String>)> {
    let mut regions: Vec<(String, Option<String>)> = Vec::new();
    for region in 1..=REGIONS {
        regions.push((format!("R{region}"), None));
        regions.extend((1..=DISTRICTS).map(|district| (format!("R{region}-{district}"), Some(format!("R{region}")))));
    }
    regions.sort_by_key(|(_, parent)| parent.is_some());
    regions
}

/// Writes all but the keys, in the caller's transaction.
///
/// # Errors
/// The database's.
pub async fn insert(conn: &mut PgConnection, dataset: &Dataset) -> anyhow::Result<()> {
    let at = dataset.months[0].first_day.to_date().and_time(chrono::NaiveTime::MIN).and_utc() - chrono::Days::new(30);
    let (ids, parents): (Vec<String>, Vec<Option<String>>) = regions().into_iter().unzip();
    sqlx::query(
        "insert into region (created_at, updated_at, region_id, parent_id, name)
         select $1, $1, t.id, t.parent, 'Region ' || t.id from unnest($2::text[], $3::text[]) as t (id, parent)",
    )
    .bind(at)
    .bind(ids)
    .bind(parents)
    .execute(&mut *conn)
    .await?;
    let numbers = 1..=dataset.shape.stores;
    let district = |no: u32| format!("R{}-{}", no % REGIONS + 1, no / REGIONS % DISTRICTS + 1);
    let city = |no: u32| CITIES[no as usize % CITIES.len()];
    sqlx::query(
        "insert into store (created_at, updated_at, store_no, store_id, name, region_id, city, address, phone, opened_on)
             overriding system value
         select $1, $1, t.no, t.id, 'Store ' || t.id, t.region, t.city, t.no || ' Nanjing Road',
             '021' || lpad(t.no::text, 8, '5'), $1::date
         from unnest($2::integer[], $3::text[], $4::text[], $5::text[]) as t (no, id, region, city)",
    )
    .bind(at)
    .bind(numbers.clone().map(|no| no as i32).collect::<Vec<_>>())
    .bind(numbers.clone().map(store_id).collect::<Vec<_>>())
    .bind(numbers.clone().map(district).collect::<Vec<_>>())
    .bind(numbers.map(city).collect::<Vec<_>>())
    .execute(&mut *conn)
    .await?;
    sqlx::query("select setval(pg_get_serial_sequence('store', 'store_no'), (select max(store_no) from store))")
        .execute(&mut *conn)
        .await?;
    sqlx::query(
        "insert into register (created_at, updated_at, store_no, register)
         select $1, $1, s.store_no, r::text from store s, generate_series(1, $2) r",
    )
    .bind(at)
    .bind(REGISTERS)
    .execute(&mut *conn)
    .await?;
    for rule in &dataset.rules {
        insert_rule(conn, rule.created_at, RuleState::Active, &rule.version).await?;
    }
    sqlx::query(
        "insert into legacy_code_shape (created_at, length_min, length_max, name, alphabet) values ($1, $2, $2, $3, $4)",
    )
    .bind(at)
    .bind(LEGACY_LENGTH)
    .bind(LEGACY_SHAPE)
    .bind(LEGACY_ALPHABET)
    .execute(conn)
    .await?;
    Ok(())
}

/// Makes the API keys, new ones in place of those of an earlier run: a key is shown only when it is made.
///
/// # Errors
/// The database's.
pub async fn make_keys(conn: &mut PgConnection, dataset: &Dataset) -> anyhow::Result<Keys> {
    sqlx::query("delete from api_key where name like 'loadtest-%'").execute(&mut *conn).await?;
    // Of the operating system: whoever knows a seed is not to know the keys.
    let mut rng = StdRng::from_os_rng();
    let mut make = async |name: &str, role: Role, store: Option<&str>| {
        let name = KeyName::parse(format!("loadtest-{name}")).map_err(|bad| anyhow::anyhow!("{bad}"))?;
        let store = store.map(StoreId::parse).transpose().map_err(|bad| anyhow::anyhow!("{bad}"))?;
        let token = NewToken::mint(&mut rng);
        insert_key(&mut *conn, &name, role, store.as_ref(), &token, dataset.shape.at)
            .await
            .with_context(|| format!("the key {} cannot be made", name.as_str()))?;
        Ok::<_, anyhow::Error>(token.reveal())
    };
    let admin = make("admin", Role::Admin, None).await?;
    let marketing = make("marketing", Role::Marketing, None).await?;
    let ops = make("ops", Role::Ops, None).await?;
    let mut pos = BTreeMap::new();
    for no in 1..=dataset.shape.stores.min(STORES_WITH_KEYS) {
        let store = store_id(no);
        let token = make(&format!("pos-{store}"), Role::Pos, Some(&store)).await?;
        pos.insert(store, token);
    }
    Ok(Keys { admin, marketing, ops, pos })
}
