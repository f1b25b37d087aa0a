-- secret::rotate::progress::list
-- touches: none
select
    w.leaf,
    w.after_id,
    w.after_key,
    w.seen,
    w.written,
    w.done
from key_walk w
where w.step = $1
