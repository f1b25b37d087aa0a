//! Devices over HTTP. A device's own id stands in bodies alone, never in a URL.

use actix_web::web::Data;
use serde::Serialize;
use utoipa::ToSchema;

use super::{DeleteDevice, Device, NewDevice, PutDevice};
use crate::{
    app::App,
    db::lane::LaneError,
    http::{Answer, At, Caller, Json, Reply, Routes},
    id::{DeviceNo, MemberId},
    member::http::{must_exist, run_edit},
};

pub fn routes() -> Routes {
    crate::routes! {
        list_devices: MemberNotFound;
        put_device: MemberNotFound, MemberErased, MemberCancelled, MemberKindForbidden;
        delete_device: MemberNotFound, MemberErased, MemberCancelled, DeviceNotFound;
    }
}

/// All devices of a member.
#[derive(Serialize, ToSchema)]
struct Devices {
    items: Vec<Device>,
}

/// List a member's devices
#[utoipa::path(get, path = "/v1/members/{member_id}/devices", tag = "members", params(("member_id" = MemberId, Path)),
    responses((status = 200, description = "All of them, the one seen last first", body = Devices)))]
async fn list_devices(app: Data<App>, At(member_id): At<MemberId>) -> Reply<Devices> {
    let family = &app.members.family;
    let (rows, mut cost) = family.devices.find(member_id).await?;
    if rows.is_none() {
        must_exist(&app, member_id, &mut cost).await?;
    }
    let rows = rows.iter().flat_map(|rows| rows.iter());
    let items = rows.map(|row| Ok(row.open(&family.secrets)?.into())).collect::<Result<_, String>>();
    let items = items.map_err(|what| LaneError::Inconsistent(what.into()))?;
    Ok(Answer::ok(Devices { items }).metered(cost.into()))
}

/// Write down a device
///
/// Found among the member's by its own id, and written in place of what was known of it. The same again changes nothing
/// but when it was seen, to the hour. There is no `If-Match`: what a device
/// said last wins. Of more than 50 the one seen the longest ago goes. Checked in this order: path,
/// body, whether the member exists, is not erased, not cancelled and not virtual.
#[utoipa::path(put, path = "/v1/members/{member_id}/devices", tag = "members", params(("member_id" = MemberId, Path)),
    responses((status = 200, description = "A device that was known, as it is now", body = Device),
        (status = 201, description = "A new device", body = Device)))]
async fn put_device(
    app: Data<App>,
    caller: Caller,
    At(member_id): At<MemberId>,
    Json(new): Json<NewDevice>,
) -> Reply<Device> {
    let ((device, is_new), cost) = run_edit(&app, &caller, member_id, PutDevice(new)).await?;
    Ok(if is_new { Answer::made(device) } else { Answer::ok(device) }.metered(cost.into()))
}

/// Forget a device
///
/// Checked in this order: path, whether the member exists, is not erased and not cancelled, whether there is such a
/// device.
#[utoipa::path(delete, path = "/v1/members/{member_id}/devices/{device_no}", tag = "members",
    params(("member_id" = MemberId, Path), ("device_no" = DeviceNo, Path)),
    responses((status = 204, description = "It is forgotten")))]
async fn delete_device(
    app: Data<App>,
    caller: Caller,
    At((member_id, device_no)): At<(MemberId, DeviceNo)>,
) -> Reply<()> {
    let ((), cost) = run_edit(&app, &caller, member_id, DeleteDevice(device_no)).await?;
    Ok(Answer::no_content().metered(cost.into()))
}
