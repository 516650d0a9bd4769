-- For an administrator, once, in the database of the tables and after they are
-- made. Grant a role to the user that a process connects as, and make it the
-- default one:
--
--     GRANT apikey_verifier TO 'api'@'%';
--     SET DEFAULT ROLE apikey_verifier FOR 'api'@'%';

-- Every process that verifies. It reads, and writes when a credential was last
-- used and the hash of one whose parameters are out of date. It cannot make a
-- key, nor give one an ability, nor bring one back.
CREATE ROLE apikey_verifier;
GRANT SELECT ON apikey_migrations TO apikey_verifier;
GRANT SELECT ON apikey_keys TO apikey_verifier;
GRANT SELECT ON apikey_credentials TO apikey_verifier;
GRANT SELECT ON apikey_events TO apikey_verifier;
GRANT SELECT ON apikey_items TO apikey_verifier;
GRANT UPDATE (last_used, hash, check_value) ON apikey_credentials TO apikey_verifier;

-- The key page, and scripts. It adds to the activity log, and can neither change
-- nor remove what is in it.
CREATE ROLE apikey_manager;
GRANT SELECT ON apikey_migrations TO apikey_manager;
GRANT SELECT, INSERT, UPDATE, DELETE ON apikey_keys TO apikey_manager;
GRANT SELECT, INSERT, UPDATE, DELETE ON apikey_credentials TO apikey_manager;
GRANT SELECT, INSERT, UPDATE, DELETE ON apikey_items TO apikey_manager;
GRANT SELECT, INSERT ON apikey_events TO apikey_manager;

-- Whoever reads the log and verifies its chains. It writes nothing.
CREATE ROLE apikey_auditor;
GRANT SELECT ON apikey_migrations TO apikey_auditor;
GRANT SELECT ON apikey_keys TO apikey_auditor;
GRANT SELECT ON apikey_credentials TO apikey_auditor;
GRANT SELECT ON apikey_events TO apikey_auditor;
GRANT SELECT ON apikey_items TO apikey_auditor;
