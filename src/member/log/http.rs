//! The logs over HTTP.

use std::{collections::BTreeSet, sync::Arc};

use actix_web::web::Data;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{
    Audited, What,
    read::{self, Filter, Listed, Log, LogRow, Window},
};
use crate::{
    app::App,
    chain::{StoreId, key::KeyName, names::StoreNames},
    coupon::decide::millis,
    db::pool,
    http::{
        Answer, ApiError, At, Cursor, Page, PageLimit, Query, Reply, Routes,
        app::{MeteredConn, Shell},
        page::limit_of,
    },
    id::{Day, EventId, MemberId, StoreNo},
    member::{Source, http::metered},
    meter::Meter,
    problem::{Code, Refusal},
};

pub fn routes() -> Routes {
    crate::routes! {
        list_member_changes: MemberNotFound;
        list_changes: StoreNotFound;
        list_registrations: StoreNotFound;
        list_audits;
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct OwnList {
    #[param(inline)]
    cursor: Option<Cursor>,
    /// Rows a page; 50 if absent.
    #[param(inline)]
    limit: Option<PageLimit>,
}

/// A change of a member, as the member may be shown it.
#[derive(Debug, Serialize, ToSchema)]
struct MemberChange {
    log_id: EventId,
    what: What,
    #[serde(serialize_with = "millis")]
    changed_at: DateTime<Utc>,
    /// The store whose till changed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false, example = "S0001")]
    store_id: Option<Arc<str>>,
    /// Names of fields, ids and values that are no personal data.
    #[schema(value_type = Object)]
    details: Value,
}

/// List the changes of a member
///
/// Those of the last three months, newest first, as the member may be shown them: without who made them. By UTC day, and
/// within a day in the order of their numbers.
#[utoipa::path(get, path = "/v1/members/{member_id}/changes", tag = "members",
    params(("member_id" = MemberId, Path), OwnList),
    responses((status = 200, description = "A page of changes", body = Page<MemberChange>)))]
async fn list_member_changes(
    app: Data<App>,
    shell: Data<Shell>,
    At(member_id): At<MemberId>,
    Query(list): Query<OwnList>,
) -> Reply<Page<MemberChange>> {
    let (filter, limit) = (("member_changes", member_id), limit_of(list.limit));
    let mut window = Window::own(shell.clock.now());
    if let Some(cursor) = &list.cursor {
        window = window.before(after(cursor, &filter)?);
    }
    let (found, cost) = app.members.find(member_id).await?;
    if found.is_none() {
        return Err(ApiError::from(Code::MemberNotFound).metered(cost.into()));
    }
    let mut conn = shell.conn().await?;
    let Listed { rows, next } =
        read::list_of_member(&mut conn, member_id, window, limit as usize).await.map_err(pool::Error::from)?;
    let names = names(&app, &mut conn, rows.iter().filter_map(|row| row.store_no)).await?;
    let items = rows.into_iter().map(|row| {
        Ok(MemberChange {
            log_id: event_id(row.log_id)?,
            what: What::from_number(row.what).ok_or_else(|| impossible("change_log", row.log_id))?,
            changed_at: row.created_at,
            store_id: row.store_no.and_then(|store_no| names.get(store_no)),
            details: details(Some(row.body), "change_log", row.log_id)?,
        })
    });
    let items = items.collect::<Result<Vec<_>, ApiError>>()?;
    let page = Page { items, next_cursor: next.map(|row| Cursor::new(&filter, &row.to_string())) };
    let mut meter = metered(cost);
    meter.cached = false;
    meter += conn.meter();
    meter.leaves += window.leaves();
    Ok(Answer::ok(page).metered(meter))
}

/// The days, in UTC, that an operator's list is about: of one month.
#[derive(Debug, Serialize)]
struct Days {
    from: Day,
    until: Day,
}

impl Days {
    /// # Errors
    /// `malformed_query`
    fn read(now: DateTime<Utc>, from: Option<Day>, until: Option<Day>) -> Result<Self, Refusal> {
        let refused = |parameter: &str, detail: &str| {
            Err(Refusal::new(Code::MalformedQuery).detail(detail).with("parameter", parameter))
        };
        let today = Day::from_date(now.date_naive());
        let until = match (from, until) {
            (_, Some(until)) => until,
            (Some(from), None) => today.min(from.first_of_next_month().plus(-1)).max(from),
            (None, None) => today,
        };
        let from = from.unwrap_or_else(|| until.first_of_month());
        if from > until {
            return refused("until", "until must not be before from");
        }
        if from.first_of_month() != until.first_of_month() {
            return refused("from", "from and until must be days of one month: a page reads one partition");
        }
        if from < Day::EPOCH || until.number() >= 1 << crate::id::DAY_BITS {
            return refused("from", "no log holds such days");
        }
        Ok(Self { from, until })
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ChangeList {
    /// The first day, UTC; the first of the month if absent.
    #[param(inline)]
    from: Option<Day>,
    /// The last day, UTC, of the same month; today, or the end of the month of `from`, if absent.
    #[param(inline)]
    until: Option<Day>,
    /// Only changes by the API key of this name.
    #[param(inline)]
    actor: Option<KeyName>,
    /// Only changes of this kind.
    #[param(inline)]
    what: Option<What>,
    /// Only changes by tills of this store.
    #[param(inline)]
    store: Option<StoreId>,
    #[param(inline)]
    cursor: Option<Cursor>,
    /// Rows a page; 50 if absent.
    #[param(inline)]
    limit: Option<PageLimit>,
}

/// A change of a member.
#[derive(Debug, Serialize, ToSchema)]
struct ChangeEntry {
    log_id: EventId,
    member_id: MemberId,
    what: What,
    #[serde(serialize_with = "millis")]
    changed_at: DateTime<Utc>,
    /// The name of the API key that made it.
    actor: String,
    /// The store whose till made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false, example = "S0001")]
    store_id: Option<Arc<str>>,
    /// Names of fields, ids and values that are no personal data.
    #[schema(value_type = Object)]
    details: Value,
}

/// List changes of members
///
/// Of days of one month, newest first: by UTC day, and within a day in the order of their numbers. A page looks at 10,000
/// rows at most, so under a filter it may be short or empty while `next_cursor` says that the list goes on. Checked in
/// this order: parameters, store.
#[utoipa::path(get, path = "/v1/logs/changes", tag = "logs", params(ChangeList),
    responses((status = 200, description = "A page of changes", body = Page<ChangeEntry>)))]
async fn list_changes(app: Data<App>, shell: Data<Shell>, Query(list): Query<ChangeList>) -> Reply<Page<ChangeEntry>> {
    let days = Days::read(shell.clock.now(), list.from, list.until)?;
    let what = list.what.map(What::number);
    let asked = Asked { log: "changes", days, actor: list.actor, what, store: list.store, member_id: None };
    let look = look(&app, &shell, Log::Changes, asked, list.cursor, list.limit).await?;
    look.page(|row, store_id| {
        Ok(ChangeEntry {
            log_id: event_id(row.log_id)?,
            member_id: row.member_id.ok_or_else(|| impossible("change_log", row.log_id))?,
            what: What::from_number(row.what).ok_or_else(|| impossible("change_log", row.log_id))?,
            changed_at: row.created_at,
            actor: row.actor,
            store_id,
            details: details(row.body, "change_log", row.log_id)?,
        })
    })
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct RegistrationList {
    /// The first day, UTC; the first of the month if absent.
    #[param(inline)]
    from: Option<Day>,
    /// The last day, UTC, of the same month; today, or the end of the month of `from`, if absent.
    #[param(inline)]
    until: Option<Day>,
    /// Only registrations by the API key of this name.
    #[param(inline)]
    actor: Option<KeyName>,
    /// Only registrations from there.
    #[param(inline)]
    source: Option<Source>,
    /// Only registrations by tills of this store.
    #[param(inline)]
    store: Option<StoreId>,
    #[param(inline)]
    cursor: Option<Cursor>,
    /// Rows a page; 50 if absent.
    #[param(inline)]
    limit: Option<PageLimit>,
}

/// How a member came to be.
#[derive(Debug, Serialize, ToSchema)]
struct RegistrationEntry {
    log_id: EventId,
    member_id: MemberId,
    source: Source,
    #[serde(serialize_with = "millis")]
    registered_at: DateTime<Utc>,
    /// The name of the API key that registered the member.
    actor: String,
    /// The store whose till did.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false, example = "S0001")]
    store_id: Option<Arc<str>>,
}

/// List registrations
///
/// As changes are listed.
#[utoipa::path(get, path = "/v1/logs/registrations", tag = "logs", params(RegistrationList),
    responses((status = 200, description = "A page of registrations", body = Page<RegistrationEntry>)))]
async fn list_registrations(
    app: Data<App>,
    shell: Data<Shell>,
    Query(list): Query<RegistrationList>,
) -> Reply<Page<RegistrationEntry>> {
    let days = Days::read(shell.clock.now(), list.from, list.until)?;
    let what = list.source.map(Source::number);
    let asked = Asked { log: "registrations", days, actor: list.actor, what, store: list.store, member_id: None };
    let look = look(&app, &shell, Log::Registrations, asked, list.cursor, list.limit).await?;
    look.page(|row, store_id| {
        Ok(RegistrationEntry {
            log_id: event_id(row.log_id)?,
            member_id: row.member_id.ok_or_else(|| impossible("register_log", row.log_id))?,
            source: Source::from_number(row.what).ok_or_else(|| impossible("register_log", row.log_id))?,
            registered_at: row.created_at,
            actor: row.actor,
            store_id,
        })
    })
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AuditList {
    /// The first day, UTC; the first of the month if absent.
    #[param(inline)]
    from: Option<Day>,
    /// The last day, UTC, of the same month; today, or the end of the month of `from`, if absent.
    #[param(inline)]
    until: Option<Day>,
    /// Only what the API key of this name did.
    #[param(inline)]
    actor: Option<KeyName>,
    /// Only rows of this kind.
    #[param(inline)]
    what: Option<Audited>,
    /// Only what was done to this member.
    #[param(inline)]
    member_id: Option<MemberId>,
    #[param(inline)]
    cursor: Option<Cursor>,
    /// Rows a page; 50 if absent.
    #[param(inline)]
    limit: Option<PageLimit>,
}

/// What only few may do, and somebody did.
#[derive(Debug, Serialize, ToSchema)]
struct AuditEntry {
    log_id: EventId,
    /// To whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    member_id: Option<MemberId>,
    what: Audited,
    #[serde(serialize_with = "millis")]
    done_at: DateTime<Utc>,
    /// The name of the API key.
    actor: String,
    #[schema(value_type = Object)]
    details: Value,
}

/// List what was audited
///
/// As changes are listed.
#[utoipa::path(get, path = "/v1/logs/audits", tag = "logs", params(AuditList),
    responses((status = 200, description = "A page of the audit", body = Page<AuditEntry>)))]
async fn list_audits(app: Data<App>, shell: Data<Shell>, Query(list): Query<AuditList>) -> Reply<Page<AuditEntry>> {
    let days = Days::read(shell.clock.now(), list.from, list.until)?;
    let what = list.what.map(Audited::number);
    let asked = Asked { log: "audits", days, actor: list.actor, what, store: None, member_id: list.member_id };
    let look = look(&app, &shell, Log::Audits, asked, list.cursor, list.limit).await?;
    look.page(|row, _| {
        Ok(AuditEntry {
            log_id: event_id(row.log_id)?,
            member_id: row.member_id,
            what: Audited::from_number(row.what).ok_or_else(|| impossible("audit_log", row.log_id))?,
            done_at: row.created_at,
            actor: row.actor,
            details: details(row.body, "audit_log", row.log_id)?,
        })
    })
}

/// What an operator asks for: the filter that binds a cursor.
#[derive(Debug, Serialize)]
struct Asked {
    log: &'static str,
    days: Days,
    actor: Option<KeyName>,
    what: Option<i16>,
    store: Option<StoreId>,
    member_id: Option<MemberId>,
}

/// What a page was made of.
struct Look {
    asked: Asked,
    listed: Listed<LogRow>,
    names: StoreNames,
    meter: Meter,
}

async fn look(
    app: &App,
    shell: &Shell,
    log: Log,
    asked: Asked,
    cursor: Option<Cursor>,
    limit: Option<PageLimit>,
) -> Result<Look, ApiError> {
    let mut window = Window::of_days(asked.days.from, asked.days.until);
    if let Some(cursor) = &cursor {
        window = window.before(after(cursor, &asked)?);
    }
    let store_no = match &asked.store {
        Some(store_id) => Some(app.stores.get(store_id).await?.store_no),
        None => None,
    };
    let actor = asked.actor.as_ref().map(|actor| actor.as_str().to_owned());
    let filter = Filter { actor, what: asked.what, store_no, member_id: asked.member_id };
    let mut conn = shell.conn().await?;
    let listed =
        read::list(&mut conn, log, window, &filter, limit_of(limit) as usize).await.map_err(pool::Error::from)?;
    let names = names(app, &mut conn, listed.rows.iter().filter_map(|row| row.store_no)).await?;
    let meter = Meter { leaves: window.leaves(), ..conn.meter() };
    Ok(Look { asked, listed, names, meter })
}

impl Look {
    fn page<T>(self, entry: impl Fn(LogRow, Option<Arc<str>>) -> Result<T, ApiError>) -> Reply<Page<T>> {
        let Self { asked, listed, names, meter } = self;
        let next_cursor = listed.next.map(|row| Cursor::new(&asked, &row.to_string()));
        let items = listed.rows.into_iter().map(|row| {
            let store_id = row.store_no.and_then(|store_no| names.get(store_no));
            entry(row, store_id)
        });
        let items = items.collect::<Result<Vec<_>, _>>()?;
        Ok(Answer::ok(Page { items, next_cursor }).metered(meter))
    }
}

/// The number of the row before which a cursor goes on.
///
/// # Errors
/// `malformed_query`
fn after(cursor: &Cursor, filter: &impl Serialize) -> Result<i64, Refusal> {
    // The tag of a cursor binds its filter, not its key.
    let key = cursor.key(filter)?.parse().ok().filter(|row: &i64| *row > 0);
    key.ok_or_else(|| Refusal::new(Code::MalformedQuery).with("parameter", "cursor"))
}

/// The names of the stores of a page, asked for only where memory does not hold them.
async fn names(
    app: &App,
    conn: &mut MeteredConn,
    stores: impl Iterator<Item = StoreNo>,
) -> Result<StoreNames, ApiError> {
    let names = app.stores.names.clone();
    let unknown: BTreeSet<StoreNo> = stores.filter(|store_no| names.get(*store_no).is_none()).collect();
    if !unknown.is_empty() {
        names.read(conn, unknown).await.map_err(pool::Error::from)?;
    }
    Ok(names)
}

fn event_id(log_id: i64) -> Result<EventId, ApiError> {
    EventId::new(log_id).map_err(ApiError::internal)
}

fn details(body: Option<String>, table: &'static str, log_id: i64) -> Result<Value, ApiError> {
    let body = body.and_then(|body| serde_json::from_str(&body).ok());
    body.ok_or_else(|| impossible(table, log_id))
}

fn impossible(table: &'static str, log_id: i64) -> ApiError {
    ApiError::internal(crate::chain::ChainError::Inconsistent {
        table,
        column: "what or body",
        key: log_id.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_days_of_a_list_are_of_one_month() {
        let now = "2026-11-22T10:00:00Z".parse().unwrap();
        let day = |text: &str| (!text.is_empty()).then(|| Day::from_date(text.parse().unwrap()));
        for (from, until, expected) in [
            ("", "", Some(("2026-11-01", "2026-11-22"))),
            ("2026-11-05", "", Some(("2026-11-05", "2026-11-22"))),
            ("2026-11-25", "", Some(("2026-11-25", "2026-11-25"))),
            ("2026-02-10", "", Some(("2026-02-10", "2026-02-28"))),
            ("", "2026-10-31", Some(("2026-10-01", "2026-10-31"))),
            ("2026-10-01", "2026-10-31", Some(("2026-10-01", "2026-10-31"))),
            ("2026-10-31", "2026-11-01", None),
            ("2026-11-02", "2026-11-01", None),
            ("1999-12-31", "1999-12-31", None),
        ] {
            let read = Days::read(now, day(from), day(until)).ok();
            let read = read.map(|days| (days.from.to_string(), days.until.to_string()));
            assert_eq!(read, expected.map(|(from, until)| (from.to_owned(), until.to_owned())), "{from} {until}");
        }
    }
}
