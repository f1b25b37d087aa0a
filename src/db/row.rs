//! Rows read by the places of their columns.

/// Declares a struct that is `FromRow`, its fields in the order of the statement's columns. By their names, as the derived
/// one goes, finding the values of a row of twenty columns takes as long as decoding them.
///
/// A debug build checks that the names are the same.
macro_rules! row_by_place {
    (
        $(#[$meta:meta])*
        $vis:vis struct $row:ident { $($(#[$field_meta:meta])* $field_vis:vis $field:ident: $type:ty),+ $(,)? }
    ) => {
        $(#[$meta])*
        $vis struct $row { $($(#[$field_meta])* $field_vis $field: $type),+ }

        impl sqlx::FromRow<'_, sqlx::postgres::PgRow> for $row {
            fn from_row(row: &sqlx::postgres::PgRow) -> Result<Self, sqlx::Error> {
                use sqlx::{Column, Row};
                debug_assert!(
                    row.columns().iter().map(Column::name).eq([$(stringify!($field)),+]),
                    "the columns of a {} are others, or lie otherwise",
                    stringify!($row),
                );
                let mut places = 0..;
                // In the order in which they are written here.
                Ok(Self { $($field: row.try_get(places.next().expect("places do not end"))?),+ })
            }
        }
    };
}

pub(crate) use row_by_place;
