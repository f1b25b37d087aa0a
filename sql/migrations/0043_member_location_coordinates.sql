-- As with addresses: where somebody is, to the metre, is encrypted. What stood here in clear is forgotten.
alter table member_location
    drop column latitude,
    drop column longitude,
    add column coordinates bytea; -- encrypted latitude,longitude
