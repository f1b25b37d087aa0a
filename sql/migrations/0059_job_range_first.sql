-- Serves the question whether a number is one of a job's.
create index job_range_first on job_range (job_id, first_no);
