-- +goose Up

-- The log of an account can be long: what one person did, and what was done of
-- one kind, are found without reading through the rest.
CREATE INDEX apikey_events_actor ON apikey_events (account, actor, time, id);
CREATE INDEX apikey_events_action ON apikey_events (account, action, time, id);
