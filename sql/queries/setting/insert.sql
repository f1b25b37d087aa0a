-- db::setting::insert_setting
-- touches: none
insert into setting (name, value, updated_at)
values ($1, $2, $3)
on conflict (name) do nothing
