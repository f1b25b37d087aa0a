//! Where a member lives or was last, as coarse as it was told.

pub mod http;
pub mod store;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;

use self::store::LocationRow;
use super::{
    edit::{Edit, Edited, Editing},
    family,
    log::What,
    place::{Coordinates, Place, PlaceName},
    state::Action,
};
use crate::{
    coupon::decide::millis,
    db::lane::WriteError,
    problem::{Code, Refusal},
};

/// Where a member is, as answers show it.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Location {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nation: Option<PlaceName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub province: Option<PlaceName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub city: Option<PlaceName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub district: Option<PlaceName>,
    /// To two decimals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coordinates: Option<Coordinates>,
    #[serde(serialize_with = "millis")]
    pub updated_at: DateTime<Utc>,
}

impl Location {
    fn new(place: Place, updated_at: DateTime<Utc>) -> Self {
        let Place { nation, province, city, district, coordinates } = place;
        Self { nation, province, city, district, coordinates: coordinates.map(Coordinates::coarse), updated_at }
    }
}

/// Says where a member is, in place of what was said before.
#[derive(Debug)]
pub struct PutLocation(pub Place);

impl Edit for PutLocation {
    type Done = Location;

    const WHAT: What = What::Location;
    const ACTION: Action = Action::Change;

    fn actions(&self) -> Vec<Action> {
        vec![Action::Change, Action::Identify]
    }

    async fn apply(&self, on: &mut Editing<'_, '_>) -> Result<Result<Edited<Location>, Refusal>, WriteError> {
        let member_id = on.member_id();
        let was = family::rows::<LocationRow>(on.tx, member_id).await?.pop();
        if let Some(row) = &was
            && row.place(on.secrets).map_err(WriteError::Inconsistent)? == self.0
        {
            return Ok(Ok(Edited::nothing(Location::new(self.0.clone(), row.updated_at))));
        }
        store::put_location(on.tx, on.secrets, on.now, member_id, &self.0).await?;
        let location = Location::new(self.0.clone(), on.now);
        Ok(Ok(Edited::detail(location, json!({ "did": "put" }))))
    }

    async fn read(&self, on: &mut Editing<'_, '_>) -> Result<Location, WriteError> {
        let member_id = on.member_id();
        match family::rows::<LocationRow>(on.tx, member_id).await?.pop() {
            Some(row) => row.show(on.secrets).map_err(WriteError::Inconsistent),
            None => Ok(Location::new(self.0.clone(), on.now)),
        }
    }
}

/// Forgets where a member is.
#[derive(Debug)]
pub struct DeleteLocation;

impl Edit for DeleteLocation {
    type Done = ();

    const WHAT: What = What::Location;
    const ACTION: Action = Action::Change;

    async fn apply(&self, on: &mut Editing<'_, '_>) -> Result<Result<Edited<()>, Refusal>, WriteError> {
        let member_id = on.member_id();
        if family::delete_rows(on.tx, store::TABLE, member_id).await? == 0 {
            return Ok(Err(Code::LocationNotFound.into()));
        }
        Ok(Ok(Edited::detail((), json!({ "did": "deleted" }))))
    }

    async fn read(&self, _: &mut Editing<'_, '_>) -> Result<(), WriteError> {
        Ok(())
    }
}
