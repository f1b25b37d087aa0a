-- When somebody last proved to have an identifier. Columns are null until then.
alter table member add column phone_verified_at timestamptz;
alter table member add column email_verified_at timestamptz;
alter table member_auth add column verified_at timestamptz;
