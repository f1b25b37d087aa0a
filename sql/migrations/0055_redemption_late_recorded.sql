-- Serves the upkeep, which forgets what is as old as the conflicts that are put away.
create index redemption_late_recorded on redemption_late (recorded_at);
