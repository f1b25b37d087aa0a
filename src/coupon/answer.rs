//! Coupon codes in answers: the stored text holds ids, the reply shows codes.
//!
//! The id of a coupon is no secret and its code is, and an answer lies in `request` for weeks. So a decision writes
//! `"code":"id:<code_id>"`, and [`shown`] puts the code in its place, for the first answer as for each repetition: both
//! are made from the same text, by keys that stay valid, and so have the same bytes.

use serde::Serializer;

use super::code::CodeKeys;
use crate::id::CodeId;

/// No value of a caller can hold this: inside a JSON string a quote has a backslash before it.
const MARK: &str = "\"code\":\"id:";

/// Serialises a code as it is stored.
pub(super) fn by_id<S: Serializer>(code_id: &CodeId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("id:{code_id}"))
}

/// A stored answer with its codes; `None` when it has none.
pub fn shown(codes: &CodeKeys, stored: &str) -> Option<String> {
    let mut parts = stored.split(MARK);
    let mut text = String::with_capacity(stored.len());
    text.push_str(parts.next()?);
    let mut found = false;
    for part in parts {
        match part.split_once('"').and_then(|(id, rest)| Some((id.parse::<CodeId>().ok()?, rest))) {
            Some((code_id, rest)) => {
                text.push_str("\"code\":\"");
                text.push_str(&codes.format(code_id));
                text.push('"');
                text.push_str(rest);
                found = true;
            }
            None => text.extend([MARK, part]),
        }
    }
    found.then_some(text)
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;
    use crate::id::Day;

    #[derive(Serialize)]
    struct Sold {
        #[serde(serialize_with = "by_id")]
        code: CodeId,
        order_ref: String,
    }

    fn keys() -> CodeKeys {
        CodeKeys::new(&[3; 32], [(Day::EPOCH, [4; 32])])
    }

    #[test]
    fn ids_are_stored_and_codes_are_shown() {
        let keys = keys();
        let code = keys.mint(Day::from_date("2026-11-22".parse().unwrap()), 7).unwrap();
        let sold = Sold { code: code.code_id, order_ref: "93".into() };
        let stored = serde_json::to_string(&vec![&sold, &sold]).unwrap();
        assert!(!stored.contains(&code.to_string()) && stored.contains(&code.code_id.to_string()), "{stored}");
        let one = format!("{{\"code\":\"{code}\",\"order_ref\":\"93\"}}");
        assert_eq!(shown(&keys, &stored), Some(format!("[{one},{one}]")));
    }

    #[test]
    fn text_of_a_caller_is_never_taken_for_a_code() {
        let keys = keys();
        let code = keys.mint(Day::from_date("2026-11-22".parse().unwrap()), 7).unwrap();
        let order_ref = format!("\"code\":\"id:{}\"", code.code_id);
        let stored = serde_json::to_string(&Sold { code: code.code_id, order_ref: order_ref.clone() }).unwrap();
        let text = shown(&keys, &stored).unwrap();
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&read["code"], &read["order_ref"]), (&code.to_string().into(), &order_ref.into()));
        for plain in ["{}", "{\"code\":\"coupon_void\"}", "{\"code\":\"id:x\"}", "{\"code\":\"id:"] {
            assert_eq!(shown(&keys, plain), None, "{plain}");
        }
    }
}
