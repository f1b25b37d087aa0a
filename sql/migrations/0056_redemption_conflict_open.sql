-- Serves the list of conflicts that wait for a decision, of all stores: they are few among those of a month. Built leaf by
-- leaf by the upkeep.
create index redemption_conflict_open on only redemption_conflict (conflict_id) where how is null;
