//! Why this process should not get requests now: a set of named reasons, empty when it is ready.
//!
//! Whoever finds a reason (the clock's watcher, the database, a shutdown) sets it under its own name and clears it when
//! it is gone. A load balancer reads the set at `/readyz`. Nothing here refuses a request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The reasons; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, String>>>);

impl Readiness {
    /// Sets a reason, in a sentence for operators; replaces an earlier one of that name.
    pub fn set(&self, name: &'static str, reason: impl Into<String>) {
        let reason = reason.into();
        let before = self.reasons_mut().insert(name, reason.clone());
        if before.is_none() {
            tracing::warn!(name, reason, "not ready");
        }
    }

    pub fn clear(&self, name: &'static str) {
        if self.reasons_mut().remove(name).is_some() {
            tracing::info!(name, "a reason for not being ready is gone");
        }
    }

    pub fn is_ready(&self) -> bool {
        self.reasons_mut().is_empty()
    }

    pub fn reasons(&self) -> BTreeMap<&'static str, String> {
        self.reasons_mut().clone()
    }

    fn reasons_mut(&self) -> MutexGuard<'_, BTreeMap<&'static str, String>> {
        // Each change is one call on the map, so a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_that_no_reason_is_left() {
        let readiness = Readiness::default();
        let other = readiness.clone();
        readiness.set("clock", "700 ms apart");
        other.set("database", "does not answer");
        readiness.clear("clock");
        assert!(!readiness.is_ready());
        assert_eq!(readiness.reasons().into_keys().collect::<Vec<_>>(), ["database"]);
        readiness.clear("database");
        assert!(other.is_ready());
    }
}
