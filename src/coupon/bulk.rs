//! What jobs over coupons share: files with a holder in a row, and the transaction of a slice.
//!
//! # The locks of a slice
//!
//! The job's row; the members, shared; old codes; `member_rule`; `coupon_stock`; each by (leaf, key), as everywhere. Rows
//! that are new are nobody else's and are written in between. The stock rows of a rule are what every claim of it waits for,
//! so they are locked last, when everything else of the slice is written, for as long as an update and the commit take. Where
//! a look beforehand says that there is too little for all, the slice is decided row by row with the stock locked from the
//! beginning; should it turn out only afterwards, what was written is taken back to a savepoint first.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use sqlx::{Executor, PgConnection};
use uuid::Uuid;

use super::{
    Coupon, copy,
    decide::{Wish, admit, take_stock_of},
    import::CouponImport,
    issue_job::{IssueJob, undo::IssueUndo},
    store,
    validate::read::FindStock,
    world::{Changed, Stock, StockKey, World},
};
use crate::{
    db::{
        lane::{Read, Tx, WriteError},
        pool::Office,
    },
    id::{MemberId, RuleId, lease_block},
    job::{
        Failure, JobError,
        file::{ROW_BYTES_MAX, Raw},
        line,
    },
    member::{
        self,
        import::row::known,
        key::{Identifier, Kind, Region, normalise_external, normalise_in},
        store::keys_of,
    },
    partition::{Leaf, plan, query},
    problem::{Code, Refusal},
    secret::Secrets,
};

/// Counter of `id_block` that codes are made of.
const SERIALS: &str = "coupon_serial";
/// Columns of a file.
const COLUMNS_MAX: usize = 64;

/// The kinds of jobs over coupons.
#[derive(Clone)]
pub struct CouponWorks {
    pub issue: IssueJob,
    pub undo: IssueUndo,
    pub import: CouponImport,
}

/// Who is to hold a coupon, as a row says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    Is(MemberId),
    /// Who has an identifier, by its key under each live version.
    Has(Vec<Uuid>),
}

/// A column that says who.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HolderColumn {
    MemberId,
    Identifier(Kind),
    /// `system:id`
    External,
    /// An id of this system.
    OfSystem(String),
}

impl HolderColumn {
    /// `member_id`, `phone`, `email`, `username`, `card`, `external`, `external:<system>`.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "member_id" => Self::MemberId,
            "phone" => Self::Identifier(Kind::Phone),
            "email" => Self::Identifier(Kind::Email),
            "username" => Self::Identifier(Kind::Username),
            "card" => Self::Identifier(Kind::Card),
            "external" => Self::External,
            _ => Self::OfSystem(name.strip_prefix("external:").filter(|system| !system.is_empty())?.to_owned()),
        })
    }

    /// # Errors
    /// What is wrong with the value; it is not repeated.
    pub fn read(&self, region: Region, secrets: &Secrets, value: &str) -> Result<Holder, String> {
        let none = || "is no identifier".to_owned();
        let keys = |identifier: Option<Identifier>| {
            let keys = keys_of(secrets, &identifier.ok_or_else(none)?).map(|row| row.key).collect();
            Ok(Holder::Has(keys))
        };
        match self {
            Self::MemberId => value.parse().map(Holder::Is).map_err(|_| "is no member id".to_owned()),
            Self::Identifier(kind) => keys(normalise_in(region, *kind, value).map_err(|bad| bad.why.to_string())?),
            Self::External => keys(normalise_external(value).map_err(|bad| bad.why.to_string())?),
            Self::OfSystem(system) => {
                keys(normalise_external(&format!("{system}:{value}")).map_err(|bad| bad.why.to_string())?)
            }
        }
    }
}

impl Holder {
    /// The member, if there is one.
    pub fn of(&self, owners: &HashMap<Uuid, MemberId>) -> Option<MemberId> {
        match self {
            Self::Is(member_id) => Some(*member_id),
            Self::Has(keys) => keys.iter().find_map(|key| owners.get(key).copied()),
        }
    }
}

/// Who has the identifiers of these rows.
pub async fn owners(
    conn: &mut PgConnection,
    holders: impl Iterator<Item = &Holder>,
) -> Result<HashMap<Uuid, MemberId>, JobError> {
    let mut leaves: BTreeMap<Leaf, BTreeSet<Uuid>> = BTreeMap::new();
    for holder in holders {
        if let Holder::Has(keys) = holder {
            for key in keys {
                leaves.entry(plan("member_key").leaf_uuid(*key)).or_default().insert(*key);
            }
        }
    }
    let mut found = HashMap::new();
    for (leaf, keys) in leaves {
        let keys: Vec<Uuid> = keys.into_iter().collect();
        let rows: Vec<(Uuid, MemberId)> =
            sqlx::query_as(query("member_key/find").on(&[leaf])).bind(keys).fetch_all(&mut *conn).await?;
        found.extend(rows);
    }
    Ok(found)
}

/// Numbers for so many codes, one after the other. Gives the first.
pub async fn lease_serials(office: &Office, count: usize) -> Result<i64, JobError> {
    if count == 0 {
        return Ok(0);
    }
    let mut conn = office.get().await?;
    Ok(lease_block(&mut conn, SERIALS, count as i64).await?.start)
}

/// What has been taken of a rule in all, and on single days, as it stands now.
pub async fn find_stocks(conn: &mut PgConnection, rule_id: RuleId) -> Result<HashMap<StockKey, Stock>, JobError> {
    let sql = query("coupon_stock/find_of_rules").on(&[plan("coupon_stock").leaf_i64(rule_id.get())]);
    let rows: Vec<(RuleId, i64, i64, i64, i32, i32)> =
        sqlx::query_as(sql).bind([rule_id.get()]).fetch_all(conn).await?;
    let stock = |issued, voided, spent| Stock { issued, voided, spent };
    Ok(rows.into_iter().map(|(rule, i, v, s, period, store)| ((rule, period, store), stock(i, v, s))).collect())
}

/// The names in the first line of a file.
///
/// # Errors
/// `file_invalid`.
pub fn header(head: &[u8]) -> Result<Vec<String>, Refusal> {
    let invalid = |detail: &str| Refusal::new(Code::FileInvalid).detail(detail);
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let end = head.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(head.len());
    let fields = line::fields(&head[..end], b',').map_err(|_| invalid("the first line is not well-formed CSV"))?;
    let names = fields.iter().map(|field| std::str::from_utf8(field).map(|name| name.trim().to_ascii_lowercase()));
    let names: Vec<String> =
        names.collect::<Result<_, _>>().map_err(|_| invalid("the first line is not text in UTF-8"))?;
    if names.iter().all(String::is_empty) {
        return Err(invalid("the file is empty"));
    }
    if names.len() > COLUMNS_MAX {
        return Err(invalid(&format!("there are more than {COLUMNS_MAX} columns")));
    }
    Ok(names)
}

/// The columns of a file by their names; `-` is passed over.
///
/// # Errors
/// `file_invalid` with `columns`: those that are not known, or come twice.
pub fn columns<C: PartialEq>(names: &[String], parse: impl Fn(&str) -> Option<C>) -> Result<Vec<Option<C>>, Refusal> {
    let mut found: Vec<Option<C>> = Vec::with_capacity(names.len());
    for name in names {
        let column = if name == "-" { None } else { Some(parse(name)) };
        let bad = match &column {
            Some(None) => "there are columns that are not known: say `-` for what is to be passed over",
            Some(Some(column)) if found.iter().flatten().any(|known| known == column) => {
                "there are columns that come twice"
            }
            _ => "",
        };
        if !bad.is_empty() {
            // Of a file without a header this is a row.
            let shown = if name.bytes().filter(u8::is_ascii_digit).count() > 4 || name.contains('@') {
                "(not a name)".to_owned()
            } else {
                name.chars().filter(|c| !c.is_control()).take(32).collect()
            };
            return Err(Refusal::new(Code::FileInvalid).detail(bad).with("columns", vec![shown]));
        }
        found.push(column.flatten());
    }
    Ok(found)
}

/// What is wrong with a row: the column, the code, and a sentence.
pub type Bad = (Option<usize>, &'static str, Cow<'static, str>);

/// A failure of a row, as the job keeps it.
pub fn failure(ordinal: i64, line: i64, names: &[String], (column, code, detail): Bad) -> Failure {
    let column = column.and_then(|at| names.get(at).cloned());
    Failure { ordinal, line, column, code: code.to_owned(), detail: detail.into_owned() }
}

/// A failure of a row that was refused what it asked for.
pub fn refused(ordinal: i64, line: i64, refusal: &Refusal) -> Failure {
    let title = refusal.code.title();
    let detail = refusal.detail.as_ref().map_or_else(|| title.to_owned(), |detail| format!("{title}: {detail}"));
    Failure { ordinal, line, column: None, code: refusal.code.name().to_owned(), detail }
}

/// The values of a row, without those that older systems write for none.
///
/// # Errors
/// `row_too_long`, `row_malformed`, `encoding_invalid`.
pub fn values(raw: Raw<'_>, columns: usize) -> Result<Vec<Option<String>>, Bad> {
    let text = raw
        .text
        .ok_or_else(|| (None, "row_too_long", Cow::Owned(format!("a row is at most {ROW_BYTES_MAX} bytes long"))))?;
    let malformed = |detail: String| (None, "row_malformed", Cow::Owned(detail));
    let fields = line::fields(text, b',').map_err(|error| malformed(error.to_string()))?;
    if fields.len() != columns {
        return Err(malformed(format!("{} fields instead of {columns}", fields.len())));
    }
    let value = |(at, field): (usize, &Cow<'_, [u8]>)| {
        let text = std::str::from_utf8(field)
            .map_err(|_| (Some(at), "encoding_invalid", Cow::Borrowed("it is not text in UTF-8")))?;
        Ok(known(text).map(str::to_owned))
    };
    fields.iter().enumerate().map(value).collect()
}

/// Reads and locks what wishes are about besides stock: their members, shared, and the members' counts.
pub async fn load(tx: &mut Tx<'_>, world: &mut World, wishes: &[Wish]) -> Result<(), WriteError> {
    let members: BTreeSet<MemberId> = wishes.iter().filter_map(|wish| wish.member_id).collect();
    world.members = member::store::standings(tx, members.into_iter().collect()).await?;
    for wish in wishes {
        world.heads.insert(wish.rule.current.rule_id, std::sync::Arc::clone(&wish.rule));
    }
    Ok(())
}

/// Whether there is too little of some stock for all wishes, as it stands now and unlocked.
async fn is_short(tx: &mut Tx<'_>, world: &mut World, wishes: &[Wish]) -> Result<bool, JobError> {
    let limited = || wishes.iter().filter(|wish| !wish.rule.current.stock.is_unlimited());
    look_at_stock(tx.conn().await?, world, &limited().collect::<Vec<_>>()).await?;
    let is_short = limited().any(|wish| take_stock_of(world, wish).is_err());
    world.stocks.clear();
    world.changed = Changed::default();
    Ok(is_short)
}

/// Reads the stock of wishes without a lock: for a look, nothing is given out by it.
pub(super) async fn look_at_stock(
    conn: &mut PgConnection,
    world: &mut World,
    wishes: &[&Wish],
) -> Result<(), JobError> {
    let keys: BTreeSet<StockKey> = wishes.iter().flat_map(|wish| wish.stocks()).collect();
    world.stocks = keys.iter().map(|key| (*key, Stock::default())).collect();
    let mut by_leaf: BTreeMap<Leaf, Vec<StockKey>> = BTreeMap::new();
    for key in keys {
        by_leaf.entry(FindStock.leaf(&key)).or_default().push(key);
    }
    for (leaf, keys) in by_leaf {
        world.stocks.extend(FindStock.fetch(&mut *conn, leaf, &keys).await?);
    }
    Ok(())
}

/// Writes the coupons of wishes that are admitted, and says of each wish what became of it. `coupons_of` adds the coupons
/// of a wish, by its place and the bits of what they are taken from, to those before it.
///
/// # Errors
/// [`JobError::Write`]
pub async fn place(
    tx: &mut Tx<'_>,
    world: &mut World,
    wishes: &[Wish],
    coupons_of: impl Fn(usize, i16, &mut Vec<Coupon>),
) -> Result<(Vec<Result<(), Refusal>>, Vec<Coupon>), JobError> {
    let counts: BTreeSet<(MemberId, RuleId)> = wishes
        .iter()
        .filter_map(|wish| Some((wish.member_id?, wish.rule.current.rule_id)))
        .filter(|(member_id, _)| world.members.contains_key(member_id))
        .collect();
    if !counts.is_empty() {
        world.member_rules = Box::pin(store::lock_member_rules(tx, counts.into_iter().collect())).await?;
    }
    tx.conn().await?.execute("savepoint place").await?;
    let before = world.member_rules.clone();
    let stocks = |of: &mut dyn Iterator<Item = &Wish>| -> Vec<StockKey> {
        of.flat_map(Wish::stocks).collect::<BTreeSet<_>>().into_iter().collect()
    };
    let is_short = Box::pin(is_short(tx, world, wishes)).await?;
    for has_stock in [is_short, true] {
        if has_stock {
            if !is_short {
                tx.conn().await?.execute("rollback to savepoint place").await?;
                metrics::counter!("tessera_job_slices_short_of_stock_total").increment(1);
            }
            world.member_rules = before.clone();
            world.changed = Changed::default();
            world.stocks = Box::pin(store::lock_stocks(tx, stocks(&mut wishes.iter()))).await?;
        }
        let mut coupons = Vec::with_capacity(wishes.iter().map(|wish| wish.count as usize).sum());
        let mut verdicts = Vec::with_capacity(wishes.len());
        for (at, wish) in wishes.iter().enumerate() {
            let verdict = admit(world, wish, has_stock).map(|counted| coupons_of(at, counted, &mut coupons));
            verdicts.push(verdict);
        }
        if !coupons.is_empty() {
            Box::pin(copy::copy_coupons(tx, coupons.iter().collect())).await?;
            let counts = world.changed.member_rules.iter().map(|key| (*key, world.member_rules[key])).collect();
            Box::pin(store::update_member_rules(tx, counts)).await?;
        }
        if !has_stock {
            let granted = || wishes.iter().zip(&verdicts).filter(|(_, verdict)| verdict.is_ok()).map(|(wish, _)| wish);
            world.stocks = Box::pin(store::lock_stocks(tx, stocks(&mut granted()))).await?;
            if granted().try_for_each(|wish| take_stock_of(world, wish)).is_err() {
                continue;
            }
        }
        store::update_stocks(tx, world.changed.stocks.iter().map(|key| (*key, world.stocks[key])).collect()).await?;
        return Ok((verdicts, coupons));
    }
    unreachable!("with the stock locked every wish has been decided")
}
