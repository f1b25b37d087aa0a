-- Request numbers and their first answers. `key` is the 128-bit hash of scope, operation and number.
create table request (
    created_at timestamptz not null,
    digest bigint not null, -- xxh3 of the request's meaning: same number with another body is refused
    key uuid not null,
    day date not null,
    status smallint, -- HTTP status of the answer; null only inside the claiming transaction
    answer text,
    constraint request_pk primary key (day, key)
) partition by range (day);
