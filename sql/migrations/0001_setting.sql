-- Chain-wide settings made once or rarely: business zone, database identity, legacy code shapes.
create table setting (
    name text not null,
    value text not null,
    updated_at timestamptz not null,
    constraint setting_pk primary key (name)
);
