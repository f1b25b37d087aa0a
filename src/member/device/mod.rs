//! The devices of a member. A device's own id and its push token are personal data: they come in bodies, stand encrypted
//! and are shown masked; outside, a device is named by a number of ours.

pub mod http;
pub mod store;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;

use self::store::{DeviceRow, OpenDevice};
use super::{
    edit::{Edit, Edited, Editing},
    family::{self, mask_text},
    log::What,
    state::Action,
};
use crate::{
    coupon::decide::millis,
    db::lane::WriteError,
    http::input::present,
    id::DeviceNo,
    problem::{Code, Refusal},
    text_type,
};

/// Devices of one member at most: the one that was seen the longest ago goes.
pub const DEVICES_MAX: usize = 50;
/// Seen again within this time is not written down.
pub const SEEN_EVERY: TimeDelta = TimeDelta::hours(1);
const SHOWN_CHARS: usize = 4;

text_type! {
    /// A device's own id.
    DeviceId: text 1..=128, "8a6f1d0e-2b7c-4c43-9f57-6f1f0f2a9c11";
    /// Where messages to the device are sent.
    PushToken: text 1..=512, "fcm:dK3vYkq0RkS7";
    /// What a device says of itself.
    DeviceText: text 1..=64, "iOS 19.1";
}

/// A device as it comes in.
#[derive(Clone, PartialEq, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDevice {
    pub device_id: DeviceId,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub push_token: Option<PushToken>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub vendor: Option<DeviceText>,
    /// Which of the chain's programs runs there.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub client: Option<DeviceText>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub os: Option<DeviceText>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub app_version: Option<DeviceText>,
    /// Where the program was got.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub market: Option<DeviceText>,
}

impl std::fmt::Debug for NewDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewDevice").finish_non_exhaustive()
    }
}

/// A device as answers show it.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Device {
    pub device_no: DeviceNo,
    /// Masked.
    #[schema(example = "8a6f***")]
    pub device_id: String,
    /// Masked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "fcm:***")]
    pub push_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub market: Option<String>,
    #[serde(serialize_with = "millis")]
    pub created_at: DateTime<Utc>,
    /// To the hour.
    #[serde(serialize_with = "millis")]
    pub seen_at: DateTime<Utc>,
}

impl From<OpenDevice> for Device {
    fn from(open: OpenDevice) -> Self {
        let text = |text: Option<DeviceText>| text.map(DeviceText::into_string);
        let new = open.new;
        Self {
            device_no: open.device_no,
            device_id: mask_text(new.device_id.as_str(), SHOWN_CHARS),
            push_token: new.push_token.map(|token| mask_text(token.as_str(), SHOWN_CHARS)),
            vendor: text(new.vendor),
            client: text(new.client),
            os: text(new.os),
            app_version: text(new.app_version),
            market: text(new.market),
            created_at: open.created_at,
            seen_at: open.seen_at,
        }
    }
}

/// Writes down a device that was seen: a new one, or one that the member has, found by its own id.
#[derive(Debug)]
pub struct PutDevice(pub NewDevice);

impl PutDevice {
    fn find(&self, on: &Editing<'_, '_>, rows: &[DeviceRow]) -> Result<Option<OpenDevice>, WriteError> {
        for row in rows {
            let open = row.open(on.secrets).map_err(WriteError::Inconsistent)?;
            if open.new.device_id == self.0.device_id {
                return Ok(Some(open));
            }
        }
        Ok(None)
    }
}

impl Edit for PutDevice {
    /// And whether it is new.
    type Done = (Device, bool);

    const WHAT: What = What::Device;
    const ACTION: Action = Action::Change;

    fn actions(&self) -> Vec<Action> {
        vec![Action::Change, Action::Identify]
    }

    async fn apply(&self, on: &mut Editing<'_, '_>) -> Result<Result<Edited<Self::Done>, Refusal>, WriteError> {
        let member_id = on.member_id();
        let rows: Vec<DeviceRow> = family::rows(on.tx, member_id).await?;
        if let Some(mut open) = self.find(on, &rows)? {
            let changed = open.new != self.0;
            if changed || on.now - open.seen_at >= SEEN_EVERY {
                (open.new, open.seen_at) = (self.0.clone(), on.now);
                store::put_device(on.tx, on.secrets, &open).await?;
            }
            let body = json!({ "did": "changed", "device_no": open.device_no });
            let done = (Device::from(open), false);
            return Ok(Ok(if changed { Edited::detail(done, body) } else { Edited::nothing(done) }));
        }
        let mut gone = None;
        if rows.len() >= DEVICES_MAX {
            let oldest = rows.iter().min_by_key(|row| (row.seen_at, row.device_no));
            let oldest = oldest.expect("a member has as many as is allowed, which is not none").device_no;
            store::delete_device(on.tx, member_id, oldest).await?;
            gone = Some(oldest);
        }
        let device_no = DeviceNo::new(on.minted).map_err(|error| WriteError::Inconsistent(error.to_string()))?;
        let open = OpenDevice { member_id, device_no, created_at: on.now, seen_at: on.now, new: self.0.clone() };
        store::put_device(on.tx, on.secrets, &open).await?;
        let body = json!({ "did": "added", "device_no": device_no, "gone": gone });
        Ok(Ok(Edited::detail((open.into(), true), body)))
    }

    async fn read(&self, on: &mut Editing<'_, '_>) -> Result<Self::Done, WriteError> {
        let member_id = on.member_id();
        let rows: Vec<DeviceRow> = family::rows(on.tx, member_id).await?;
        let open = self.find(on, &rows)?.ok_or(WriteError::Again("a device that was written is gone"))?;
        Ok((open.into(), false))
    }
}

/// Forgets a device.
#[derive(Debug)]
pub struct DeleteDevice(pub DeviceNo);

impl Edit for DeleteDevice {
    type Done = ();

    const WHAT: What = What::Device;
    const ACTION: Action = Action::Change;

    async fn apply(&self, on: &mut Editing<'_, '_>) -> Result<Result<Edited<()>, Refusal>, WriteError> {
        let member_id = on.member_id();
        if !store::delete_device(on.tx, member_id, self.0).await? {
            return Ok(Err(Code::DeviceNotFound.into()));
        }
        Ok(Ok(Edited::detail((), json!({ "did": "deleted", "device_no": self.0 }))))
    }

    async fn read(&self, _: &mut Editing<'_, '_>) -> Result<(), WriteError> {
        Ok(())
    }
}
