//! The mall: who buys, sells and delivers there.
//!
//! Merchants and couriers must have a real name and an id card; what they have not is listed as `missing`, so that the
//! profile can be completed later. Credit score, state and role are set by the roles ops and admin alone.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{
    Arguments, Row,
    error::BoxDynError,
    postgres::{PgArguments, PgRow},
};

use super::{IdCard, Line, Registered, impossible};
use crate::{
    http::input::{Int, nullable, present},
    member::{family::Vault, http::RealName, log::What, mask_name, numbered},
};

const CREDIT_SCORE: i32 = 100;

numbered! {
    /// What a member does in the mall.
    UserType { Consumer 1, Merchant 2, Courier 3 }
    MallState { Active 1, Suspended 2 }
    MallRole { Consumer 1, Clerk 2, Manager 3 }
}

pub struct Mall;

inventory::submit! { Registered::line::<Mall>() }

/// What to say of a member in the mall.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MallGiven {
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    user_type: Option<UserType>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<RealName>)]
    real_name: Option<Option<RealName>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<IdCard>)]
    id_card: Option<Option<IdCard>>,
    /// For the roles ops and admin.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    state: Option<MallState>,
    /// For the roles ops and admin.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    mall_role: Option<MallRole>,
    /// For the roles ops and admin.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    credit_score: Option<Int<0, 1000>>,
}

#[derive(Clone, PartialEq, Serialize)]
pub struct MallFields {
    user_type: UserType,
    state: MallState,
    mall_role: MallRole,
    credit_score: i32,
    real_name: Option<String>,
    id_card: Option<String>,
}

impl Default for MallFields {
    fn default() -> Self {
        Self {
            user_type: UserType::Consumer,
            state: MallState::Active,
            mall_role: MallRole::Consumer,
            credit_score: CREDIT_SCORE,
            real_name: None,
            id_card: None,
        }
    }
}

impl MallFields {
    /// What a merchant or a courier must have and this one has not.
    fn missing(&self) -> Vec<&'static str> {
        if self.user_type == UserType::Consumer {
            return Vec::new();
        }
        let wanted = [("real_name", self.real_name.is_none()), ("id_card", self.id_card.is_none())];
        wanted.into_iter().filter_map(|(name, missing)| missing.then_some(name)).collect()
    }
}

/// A member in the mall.
#[derive(Serialize, utoipa::ToSchema)]
pub struct MallShown {
    user_type: UserType,
    state: MallState,
    mall_role: MallRole,
    credit_score: i32,
    /// The first character and one star.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "L*")]
    real_name: Option<String>,
    /// The first and the last character.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "1****X")]
    id_card: Option<String>,
    /// Of what a merchant or courier must have, what is not there yet.
    #[schema(value_type = Vec<String>)]
    missing: Vec<&'static str>,
}

impl Line for Mall {
    const NAME: &'static str = "mall";
    const TABLE: &'static str = "member_profile_mall";
    const SEALED: &'static [&'static str] = &["real_name", "id_card"];
    const WHAT: What = What::ProfileMall;

    type Given = MallGiven;
    type Fields = MallFields;
    type Shown = MallShown;

    fn governs(given: &MallGiven) -> bool {
        given.state.is_some() || given.mall_role.is_some() || given.credit_score.is_some()
    }

    fn publishes(_: &MallFields, _: &MallFields) -> bool {
        false
    }

    fn identifies(fields: &MallFields) -> bool {
        fields.real_name.is_some() || fields.id_card.is_some()
    }

    const REVEALED: Option<&'static str> = Some("mall");

    fn reveal(fields: &MallFields) -> Value {
        json!({ "real_name": fields.real_name, "id_card": fields.id_card })
    }

    fn apply(given: &MallGiven, was: &MallFields, whole: bool) -> MallFields {
        let own = |was: &Option<String>| was.clone().filter(|_| !whole);
        let user_type = if whole { UserType::Consumer } else { was.user_type };
        MallFields {
            user_type: given.user_type.unwrap_or(user_type),
            state: given.state.unwrap_or(was.state),
            mall_role: given.mall_role.unwrap_or(was.mall_role),
            credit_score: given.credit_score.map_or(was.credit_score, |score| score.get() as i32),
            real_name: match &given.real_name {
                Some(name) => name.as_ref().map(|name| name.as_str().to_owned()),
                None => own(&was.real_name),
            },
            id_card: match &given.id_card {
                Some(card) => card.as_ref().map(|card| card.as_str().to_owned()),
                None => own(&was.id_card),
            },
        }
    }

    fn show(fields: &MallFields) -> MallShown {
        let card = |number: &str| IdCard::parse(number).map_or_else(|_| "****".to_owned(), |card| card.mask());
        MallShown {
            user_type: fields.user_type,
            state: fields.state,
            mall_role: fields.mall_role,
            credit_score: fields.credit_score,
            real_name: fields.real_name.as_deref().map(mask_name),
            id_card: fields.id_card.as_deref().map(card),
            missing: fields.missing(),
        }
    }

    fn read(row: &PgRow, vault: &Vault<'_>) -> Result<MallFields, sqlx::Error> {
        let known = |column: &'static str| impossible(vault.impossible(column));
        let open = |column: &'static str| {
            let sealed: Option<Vec<u8>> = row.try_get(column)?;
            vault.open_some(column, sealed.as_deref()).map_err(impossible)
        };
        Ok(MallFields {
            user_type: UserType::from_number(row.try_get("user_type")?).ok_or_else(|| known("user_type"))?,
            state: MallState::from_number(row.try_get("state")?).ok_or_else(|| known("state"))?,
            mall_role: MallRole::from_number(row.try_get("mall_role")?).ok_or_else(|| known("mall_role"))?,
            credit_score: row.try_get("credit_score")?,
            real_name: open("real_name")?,
            id_card: open("id_card")?,
        })
    }

    fn write(fields: &MallFields, vault: &Vault<'_>, to: &mut PgArguments) -> Result<(), BoxDynError> {
        to.add([fields.credit_score])?;
        to.add([fields.user_type.number()])?;
        to.add([fields.state.number()])?;
        to.add([fields.mall_role.number()])?;
        to.add([fields.real_name.as_deref().map(|name| vault.seal("real_name", name))])?;
        to.add([fields.id_card.as_deref().map(|number| vault.seal("id_card", number))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(text: &str) -> MallGiven {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn merchants_and_couriers_are_told_what_they_lack() {
        let card = r#""id_card":"11010519491231002X""#;
        for (text, missing) in [
            (r#"{}"#.to_owned(), &[][..]),
            (r#"{"user_type":"merchant"}"#.to_owned(), &["real_name", "id_card"]),
            (format!(r#"{{"user_type":"courier",{card}}}"#), &["real_name"]),
            (format!(r#"{{"user_type":"courier","real_name":"Lin",{card}}}"#), &[]),
        ] {
            let fields = Mall::apply(&given(&text), &MallFields::default(), true);
            assert_eq!(fields.missing(), missing, "{text}");
        }
    }

    #[test]
    fn replacing_a_profile_clears_what_is_the_members_own_and_keeps_what_governs() {
        let full = given(r#"{"user_type":"merchant","real_name":"Lin","credit_score":7,"mall_role":"clerk"}"#);
        assert!(Mall::governs(&full) && !Mall::governs(&given(r#"{"real_name":null}"#)));
        let was = Mall::apply(&full, &MallFields::default(), true);
        let merged = Mall::apply(&given("{}"), &was, false);
        assert!(merged == was);
        let replaced = Mall::apply(&given("{}"), &was, true);
        assert!((replaced.credit_score, replaced.mall_role) == (7, MallRole::Clerk));
        assert!((replaced.user_type, replaced.real_name) == (UserType::Consumer, None));
    }
}
