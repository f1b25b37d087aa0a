-- The same of one store.
create index redemption_conflict_open_store on only redemption_conflict (store_no, conflict_id) where how is null;
