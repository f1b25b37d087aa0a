-- db::setting::find_setting
-- touches: none
select s.value
from setting s
where s.name = $1
