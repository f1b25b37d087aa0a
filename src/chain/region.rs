//! Regions: a tree over the stores, at most [`DEPTH_MAX`] deep.
//!
//! Whether a change keeps it a tree is decided here, over all regions, while the table's lock is held (`region_store`).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::RegistryState;
use crate::http::input;
use crate::problem::Code;

crate::text_type! {
    /// What a region is called by systems. It never changes.
    RegionId: word 1..=32, "EAST";
    /// What people call a region.
    RegionName: text 1..=120, "East China";
}

/// Levels of regions.
pub const DEPTH_MAX: usize = 8;

/// How far up it is looked for a cycle; what is longer is too deep whether it ends or not.
const LOOK_MAX: usize = 2 * DEPTH_MAX;

/// A region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Region {
    pub region_id: RegionId,
    pub name: RegionName,
    /// The region that it is part of; null is the chain itself.
    #[schema(required)]
    pub parent_id: Option<RegionId>,
    /// A retired one takes no more stores; those that it has stay.
    pub state: RegistryState,
    /// Counts changes, from 1.
    pub version: i32,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// A region to be.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRegion {
    pub region_id: RegionId,
    pub name: RegionName,
    /// Absent or null is the chain itself.
    #[serde(default)]
    pub parent_id: Option<RegionId>,
}

/// What to change of a region; what is absent stays.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegionPatch {
    #[serde(default, deserialize_with = "input::present")]
    #[schema(nullable = false)]
    pub name: Option<RegionName>,
    /// Null is the chain itself. All regions below come along.
    #[serde(default, deserialize_with = "input::nullable")]
    #[schema(value_type = Option<RegionId>)]
    pub parent_id: Option<Option<RegionId>>,
    #[serde(default, deserialize_with = "input::present")]
    #[schema(nullable = false)]
    pub state: Option<RegistryState>,
}

/// Region → the one above it.
#[derive(Debug, Clone, Default)]
pub struct Tree(HashMap<RegionId, Option<RegionId>>);

impl Tree {
    pub fn new(edges: impl IntoIterator<Item = (RegionId, Option<RegionId>)>) -> Self {
        Self(edges.into_iter().collect())
    }

    pub fn put(&mut self, region_id: RegionId, parent_id: Option<RegionId>) {
        self.0.insert(region_id, parent_id);
    }

    /// What the given changes break: each changed region that cannot be where it would be, with the reason. Changes that
    /// are not named are sound with the tree as it is; those that are must be taken back together, and asked again.
    pub fn broken(&self, changed: &BTreeSet<RegionId>) -> BTreeMap<RegionId, Code> {
        let mut broken = BTreeMap::new();
        for start in self.0.keys() {
            if let Err((code, blamed)) = self.climb(start, changed) {
                broken.entry(blamed).or_insert(code);
            }
        }
        broken
    }

    /// From a region to its root. Of what is in the way, the changed region that is to blame.
    fn climb(&self, start: &RegionId, changed: &BTreeSet<RegionId>) -> Result<(), (Code, RegionId)> {
        let blame = |path: &[&RegionId]| path.iter().find(|id| changed.contains(**id)).map(|id| (**id).clone());
        let mut path: Vec<&RegionId> = vec![start];
        loop {
            let at = path[path.len() - 1];
            let Some(parent) = &self.0[at] else { break };
            if !self.0.contains_key(parent) {
                // Only a change can name a parent that is not there.
                return Err((Code::RegionNotFound, at.clone()));
            }
            if let Some(first) = path.iter().position(|id| *id == parent) {
                // What leads into the cycle is not to blame for it.
                return Err((Code::RegionCycle, blame(&path[first..]).unwrap_or_else(|| at.clone())));
            }
            if path.len() == LOOK_MAX {
                break;
            }
            path.push(parent);
        }
        if path.len() <= DEPTH_MAX {
            return Ok(());
        }
        Err((Code::RegionTooDeep, blame(&path).unwrap_or_else(|| start.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> RegionId {
        RegionId::parse(text).unwrap()
    }

    fn tree(edges: &[(&str, &str)]) -> Tree {
        Tree::new(edges.iter().map(|(region, parent)| (id(region), (!parent.is_empty()).then(|| id(parent)))))
    }

    fn broken(tree: &Tree, changed: &[&str]) -> Vec<(String, Code)> {
        let changed = changed.iter().map(|text| id(text)).collect();
        tree.broken(&changed).into_iter().map(|(region, code)| (region.to_string(), code)).collect()
    }

    #[test]
    fn a_change_that_makes_a_cycle_is_to_blame_and_what_leads_into_it_is_not() {
        let cycle = tree(&[("a", "c"), ("b", "a"), ("c", "b"), ("d", "c"), ("e", "d")]);
        assert_eq!(broken(&cycle, &["a"]), [("a".into(), Code::RegionCycle)]);
        assert_eq!(broken(&cycle, &["a", "e"]), [("a".into(), Code::RegionCycle)]);
        let itself = tree(&[("a", "a")]);
        assert_eq!(broken(&itself, &["a"]), [("a".into(), Code::RegionCycle)]);
        assert_eq!(broken(&tree(&[("a", "x")]), &["a"]), [("a".into(), Code::RegionNotFound)]);
    }

    #[test]
    fn a_move_counts_all_that_it_takes_below() {
        let names: Vec<String> = (0..=DEPTH_MAX).map(|n| format!("r{n}")).collect();
        let mut deep = Tree::default();
        for (n, name) in names.iter().enumerate().take(DEPTH_MAX) {
            deep.put(id(name), (n > 0).then(|| id(&names[n - 1])));
        }
        assert_eq!(broken(&deep, &["r0"]), []);
        // One more at the bottom, and one more at the top.
        let mut below = deep.clone();
        below.put(id("r8"), Some(id("r7")));
        assert_eq!(broken(&below, &["r8"]), [("r8".into(), Code::RegionTooDeep)]);
        deep.put(id("top"), None);
        deep.put(id("r0"), Some(id("top")));
        assert_eq!(broken(&deep, &["r0"]), [("r0".into(), Code::RegionTooDeep)]);
    }
}
