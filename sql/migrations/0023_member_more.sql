-- Pictures, and when a person was erased.
alter table member add column avatar jsonb; -- {"original": url, "sizes": {"64": url, …}}
alter table member add column erased_at timestamptz; -- keys and personal data are gone; the row stays for the ledger
