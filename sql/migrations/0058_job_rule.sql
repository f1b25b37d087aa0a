-- Serves the list of a rule's jobs.
create index job_rule on job ((options ->> 'rule_id'), job_id) where options ->> 'rule_id' is not null;
