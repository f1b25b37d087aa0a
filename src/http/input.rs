pub fn int<'de, D: serde::Deserializer<'de>>(d: D) -> Result<i64, D::Error> {
    serde::Deserialize::deserialize(d)
}
