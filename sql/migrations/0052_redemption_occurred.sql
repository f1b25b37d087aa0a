-- When a till says that it was, of a use that was sent afterwards; null for one that was decided at once.
alter table redemption add column occurred_at timestamptz;
comment on column redemption.reversed_whole is
    'of a use: it was taken back whole; of an undo: with it the use was';
-- Undos of before were of the whole.
update redemption set reversed_whole = true where reverses is not null and not reversed_whole;
