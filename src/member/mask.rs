//! What a caller sees of a member, by its role: one table.
//!
//! | field | pos | marketing | ops | admin | revealed |
//! |---|---|---|---|---|---|
//! | `phone`, `email` | masked | hidden | masked | masked | to ops and admin |
//! | `name` | first character | hidden | first character | first character | to ops and admin |
//! | `birthday` | year | year | year | year | to ops and admin |
//! | `nickname`, `signature`, `avatar`, `gender`, `level`, `attributes`, `store_id` | whole | whole | whole | whole | |
//! | `real_name`, `id_card` of a profile | masked | hidden | masked | masked | to ops and admin |
//! | addresses, devices, location | masked | no access | masked | masked | to ops and admin |
//! | `mask` of an identifier that is taken | yes | hidden | yes | yes | |
//! | identifiers besides phone and e-mail | hidden | hidden | hidden | hidden | to ops and admin |
//!
//! Personal data is never shown whole but by [`super::reveal`], which writes down who saw what. What is masked is masked
//! when a row is opened, so that nothing in memory holds more; what is hidden from a role is left out of the rendered
//! JSON. Roles that see the same share a view, of which there are two: a member in memory is kept with one JSON of each.

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    chain::key::Role,
    problem::{Code, Refusal},
    request::store::Answer,
};

/// How a field is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    Whole,
    Masked,
    /// Left out.
    Hidden,
}

/// A row of the table: a field of [`super::Member`] or of a profile, how the service desk sees it, how marketing does.
type Row = (&'static str, Show, Show);

/// The fields that say something of the person.
pub const MASKS: &[Row] = &[
    ("phone", Show::Masked, Show::Hidden),
    ("email", Show::Masked, Show::Hidden),
    ("name", Show::Masked, Show::Hidden),
    ("birthday", Show::Masked, Show::Masked),
    ("nickname", Show::Whole, Show::Whole),
    ("signature", Show::Whole, Show::Whole),
    ("avatar", Show::Whole, Show::Whole),
    ("gender", Show::Whole, Show::Whole),
    ("level", Show::Whole, Show::Whole),
    ("attributes", Show::Whole, Show::Whole),
    ("store_id", Show::Whole, Show::Whole),
    ("real_name", Show::Masked, Show::Hidden),
    ("id_card", Show::Masked, Show::Hidden),
];

/// What roles see that see the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Tills and support: enough to know who stands before them.
    Service,
    /// Groups of members, not persons.
    Marketing,
}

impl View {
    pub const fn of(role: Role) -> Self {
        match role {
            Role::Pos | Role::Ops | Role::Admin => Self::Service,
            Role::Marketing => Self::Marketing,
        }
    }

    /// How a field is shown; one that the table does not name is no personal data.
    pub fn shows(self, field: &str) -> Show {
        let row = MASKS.iter().find(|(name, ..)| *name == field);
        row.map_or(Show::Whole, |(_, service, marketing)| match self {
            Self::Service => *service,
            Self::Marketing => *marketing,
        })
    }

    /// The JSON of a member, whose fields are masked already, without what is hidden.
    ///
    /// # Panics
    /// Never: plain structs with string keys always serialise.
    pub fn render(self, member: &impl Serialize) -> Bytes {
        let whole = serde_json::to_vec(member).expect("a plain struct with string keys always serialises");
        self.hide(whole)
    }

    /// An answer of a registration, be it given now or stored: a member, or a refusal that must not describe an
    /// identifier which the view hides.
    ///
    /// # Errors
    /// Those of a stored refusal that is none.
    pub fn hide_answer(self, answer: &mut Answer) -> Result<(), serde_json::Error> {
        if answer.status < 400 {
            let json = self.hide(Bytes::copy_from_slice(answer.body.as_bytes()));
            answer.body = String::from_utf8_lossy(&json).into();
        } else if self == Self::Marketing {
            let mut refusal: Refusal = serde_json::from_str(&answer.body)?;
            if refusal.code == Code::MemberKeyTaken && refusal.extra.remove("mask").is_some() {
                // The sentence says the mask as well.
                refusal.detail = None;
                answer.body = serde_json::to_string(&refusal)?.into();
            }
        }
        Ok(())
    }

    /// Takes what is hidden out of a rendered member or profile.
    pub fn hide(self, json: impl Into<Bytes>) -> Bytes {
        let json = json.into();
        if MASKS.iter().all(|(field, ..)| self.shows(field) != Show::Hidden) {
            return json;
        }
        let mut fields: Map<String, Value> =
            serde_json::from_slice(&json).expect("a member is rendered as a JSON object");
        fields.retain(|field, _| self.shows(field) != Show::Hidden);
        serde_json::to_vec(&fields).expect("it was JSON before").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_sees_every_field_as_the_table_at_the_top_says() {
        use Show::{Hidden, Masked, Whole};
        let table = [
            ("phone", [Masked, Hidden, Masked, Masked]),
            ("email", [Masked, Hidden, Masked, Masked]),
            ("name", [Masked, Hidden, Masked, Masked]),
            ("birthday", [Masked, Masked, Masked, Masked]),
            ("nickname", [Whole; 4]),
            ("signature", [Whole; 4]),
            ("avatar", [Whole; 4]),
            ("gender", [Whole; 4]),
            ("level", [Whole; 4]),
            ("attributes", [Whole; 4]),
            ("store_id", [Whole; 4]),
            ("real_name", [Masked, Hidden, Masked, Masked]),
            ("id_card", [Masked, Hidden, Masked, Masked]),
        ];
        assert_eq!(MASKS.len(), table.len(), "a new field needs its row here");
        for (field, shown) in table {
            for (role, show) in Role::ALL.iter().zip(shown) {
                assert_eq!(View::of(*role).shows(field), show, "{field} to {role}");
            }
        }
    }

    #[test]
    fn nothing_personal_is_shown_whole_and_the_rest_stays_as_it_is() {
        let member = serde_json::json!({"member_id": "1", "phone": "+86138****0001", "email": "l***@example.cn",
            "name": "L*", "birthday": "1990-**-**", "gender": "female", "level": 2, "version": 3});
        let seen = |view: View| serde_json::from_slice::<Value>(&view.render(&member)).unwrap();
        assert_eq!(seen(View::Service), member);
        let marketing = serde_json::json!({"member_id": "1", "birthday": "1990-**-**", "gender": "female", "level": 2,
            "version": 3});
        assert_eq!(seen(View::Marketing), marketing);
        for personal in ["phone", "email", "name", "birthday", "real_name", "id_card"] {
            for view in [View::Service, View::Marketing] {
                assert_ne!(view.shows(personal), Show::Whole, "{personal}");
            }
        }
    }
}
