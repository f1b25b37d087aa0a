-- Serves the totals of a store's day: the id carries the business day. Built leaf by leaf by the upkeep.
create index redemption_store on only redemption (store_no, redemption_id);
