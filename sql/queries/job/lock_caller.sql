-- job::store::lock_caller
-- touches: none
-- Holds the caller's row until the transaction ends; what is counted after it has waited is all that was made before.
insert into job_caller (created_by, asked_at)
values ($1, $2)
on conflict (created_by) do update set asked_at = excluded.asked_at
