//! Chain-wide settings that the database keeps: table `setting`.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

pub async fn find_setting(conn: &mut PgConnection, name: &str) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_file_scalar!("sql/queries/setting/find.sql", name).fetch_optional(conn).await
}

/// Written once; what stands is kept.
pub async fn insert_setting(
    conn: &mut PgConnection,
    name: &str,
    value: &str,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query_file!("sql/queries/setting/insert.sql", name, value, now).execute(conn).await?;
    Ok(())
}

/// Written over what stands.
pub async fn update_setting(
    conn: &mut PgConnection,
    name: &str,
    value: &str,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query_file!("sql/queries/setting/update.sql", name, value, now).execute(conn).await?;
    Ok(())
}
