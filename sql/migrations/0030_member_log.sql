-- Who did what to members, by month; the ids are UTC day << 41 | number, as of events. Bodies hold names of fields, ids
-- and values that are no personal data.

-- How members came to be.
create table register_log (
    log_id bigint not null,
    member_id bigint not null,
    created_at timestamptz not null,
    store_no integer,
    source smallint not null,
    actor text not null, -- the caller's name
    constraint register_log_pk primary key (log_id)
) partition by range (log_id);

-- Serves a member's own window.
create index register_log_member on register_log (member_id, log_id);

-- What was changed of members.
create table change_log (
    log_id bigint not null,
    member_id bigint not null,
    created_at timestamptz not null,
    store_no integer,
    what smallint not null, -- member::log::What
    actor text not null, -- the caller's name
    body text not null, -- JSON
    constraint change_log_pk primary key (log_id)
) partition by range (log_id);

-- Serves a member's own window.
create index change_log_member on change_log (member_id, log_id);

-- Who saw or did what only few may: unmasked answers, erasures, exports.
create table audit_log (
    log_id bigint not null,
    subject bigint, -- a member
    created_at timestamptz not null,
    what smallint not null, -- member::log::Audited
    actor text not null, -- the caller's name
    body text not null, -- JSON
    constraint audit_log_pk primary key (log_id)
) partition by range (log_id);

-- Serves the audit of one member.
create index audit_log_subject on audit_log (subject, log_id);
