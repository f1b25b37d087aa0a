-- Other systems whose ids identify members, as `<system>:<id>`.
create table external_system (
    created_at timestamptz not null,
    updated_at timestamptz not null,
    version integer not null default 1,
    state smallint not null default 1, -- 1 active, 2 retired: known ids are found, new ones are refused
    id_shape smallint not null, -- 1 number, 2 uuid, 3 string; never changes, since ids were keyed by it
    system text not null,
    name text not null,
    constraint external_system_pk primary key (system),
    constraint external_system_state_known check (state in (1, 2)),
    constraint external_system_id_shape_known check (id_shape in (1, 2, 3))
);
insert into external_system (created_at, updated_at, id_shape, system, name)
values
    (now(), now(), 1, 'web', 'Web shop'),
    (now(), now(), 2, 'app', 'App'),
    (now(), now(), 3, 'crm', 'CRM'),
    (now(), now(), 3, 'sport', 'Sport');
