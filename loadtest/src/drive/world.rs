//! What tills draw from: stores, members, coupons.

use super::keys::Key;

/// A store with the key of its tills.
#[derive(Debug, Clone)]
pub struct Shop {
    pub store_id: String,
    pub key: Key,
}

#[derive(Debug, Clone)]
pub struct Person {
    pub member_id: String,
    pub phone: String,
}

#[derive(Debug, Clone)]
pub struct Coupon {
    pub code: Box<str>,
    /// Its holder, by place in [`World::people`].
    pub holder: u32,
}

/// Everything that was made for a run.
#[derive(Debug, Clone, Default)]
pub struct World {
    pub shops: Vec<Shop>,
    pub people: Vec<Person>,
    pub coupons: Vec<Coupon>,
    pub rules: Vec<String>,
    /// Another run's coupons: those before it are spent.
    pub coupons_from: usize,
}

impl World {
    /// Coupons that no sale has had yet.
    pub fn coupons_left(&self) -> usize {
        self.coupons.len() - self.coupons_from.min(self.coupons.len())
    }
}
