-- What came back of a use so far, and which budgets it was taken from (bits as coupon.counted).
alter table redemption add column returned bigint not null default 0; -- of amount
alter table redemption add column counted smallint not null default 0;
alter table redemption add column lines text; -- JSON: lines of the sale with their shares, null when none were sent
alter table redemption add constraint redemption_returned_range check (returned >= 0 and returned <= amount);
-- Until now, what came back came back whole.
update redemption set returned = amount where reversed_whole;
