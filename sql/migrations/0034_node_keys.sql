-- Which keys a node has loaded, by number: a key is used once all nodes have it. All null until a node has said so, and
-- again when its number goes to another.
alter table id_node
    add column check_from date, -- first day of the newest check key
    add column pii_current smallint,
    add column pii smallint[],
    add column blind_current smallint,
    add column blind_written smallint[],
    add column blind smallint[];
