-- job::store::purge
-- touches: none
-- Its sender, should it wake up, finds that the job does not take pieces any more.
update job
set
    state = 9,
    error = 'upload_broken',
    finished_at = $2,
    updated_at = $2,
    version = version + 1
where state = 1 and updated_at < $1
