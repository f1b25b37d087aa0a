//! Unmasked answers over HTTP.

use actix_web::web::Data;
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use super::{Revealed, openers};
use crate::{
    app::App,
    http::{Answer, ApiError, At, Caller, Json, Reply, Routes, app::Shell, input::invalid},
    id::MemberId,
    member::http::actor,
    text_type,
};

text_type! {
    /// Why somebody must see it: a ticket, a call. No personal data: it stands in the audit for years.
    Reason: text 4..=200, "ticket 4711: the customer asks which number we have";
}

pub fn routes() -> Routes {
    crate::routes! {
        reveal_member: MemberNotFound, OutcomeUnknown;
    }
}

/// The name of something that can be revealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Field(&'static str);

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let opener = openers().into_iter().find(|opener| opener.field == text);
        opener.map(|opener| Self(opener.field)).ok_or_else(|| invalid("is nothing that can be revealed"))
    }
}

impl utoipa::PartialSchema for Field {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .enum_values(Some(openers().into_iter().map(|opener| opener.field)))
            .into()
    }
}

impl ToSchema for Field {}

/// What to reveal, and why.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RevealBody {
    /// Each once.
    #[schema(inline, min_items = 1, max_items = 16)]
    fields: Vec<Field>,
    reason: Reason,
}

/// See what is masked
///
/// Written down with the caller's name, the fields and the reason before the answer leaves; without that there is none.
/// The answer must not be kept. Each API key may ask so many times a minute. Checked in this order: path, body, the
/// caller's rate, whether the member exists.
#[utoipa::path(post, path = "/v1/members/{member_id}/reveal", tag = "members", params(("member_id" = MemberId, Path)),
    responses((status = 200, description = "What was asked for", body = Revealed, headers(("Cache-Control" = String)))))]
async fn reveal_member(
    app: Data<App>,
    shell: Data<Shell>,
    caller: Caller,
    At(member_id): At<MemberId>,
    Json(body): Json<RevealBody>,
) -> Reply<Revealed> {
    let fields: Vec<&'static str> = body.fields.iter().map(|field| field.0).collect();
    let most = openers().len();
    if !(1..=most).contains(&fields.len()) {
        return Err(ApiError::invalid_field("fields", format!("must be 1 to {most} names")));
    }
    for (position, field) in fields.iter().enumerate() {
        if fields[..position].contains(field) {
            return Err(ApiError::invalid_field(&format!("fields[{position}]"), "was given before"));
        }
    }
    if crate::member::names_somebody(body.reason.as_str()) {
        return Err(ApiError::invalid_field("reason", "must name a ticket or a call, not a phone number or an e-mail"));
    }
    shell.limits.reveal(&caller)?;
    let (revealed, cost) = app.members.reveal(actor(&caller), member_id, fields, body.reason.into_string()).await?;
    let revealed = revealed.map_err(|refusal| ApiError::from(refusal).metered(cost.into()))?;
    Ok(Answer::ok(revealed).no_store().metered(cost.into()))
}

#[cfg(test)]
mod tests {
    use crate::member::names_somebody;

    #[test]
    fn a_reason_names_a_ticket_and_nobody() {
        for (reason, names) in [
            ("ticket 4711: the customer asks", false),
            ("INC00471123, by phone", false),
            ("2026-11-22 call", false),
            ("called 138 0000 0001", true),
            ("+86-138-0000-0001", true),
            ("lin@example.cn asks", true),
            ("１３８００００００１１", true),
        ] {
            assert_eq!(names_somebody(reason), names, "{reason}");
        }
    }
}
