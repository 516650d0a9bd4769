-- +goose Up

-- The log of an account can be long: what one person did, and what was done of
-- one kind, are found without reading through the rest.
--
-- DDL commits by itself here, so the statement can be run again. MySQL reads the
-- IF NOT EXISTS as a comment: it has none for an index.
ALTER TABLE apikey_events
    ADD INDEX /*M! IF NOT EXISTS */ apikey_events_actor (account, actor, time, id),
    ADD INDEX /*M! IF NOT EXISTS */ apikey_events_action (account, action, time, id);
