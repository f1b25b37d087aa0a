-- secret::rotate::progress::save
-- touches: none
insert into key_walk (updated_at, after_id, after_key, seen, written, done, step, leaf)
values ($1, $2, $3, $4, $5, $6, $7, $8)
on conflict (step, leaf) do update
set updated_at = excluded.updated_at,
    after_id = excluded.after_id,
    after_key = excluded.after_key,
    seen = excluded.seen,
    written = excluded.written,
    done = excluded.done
