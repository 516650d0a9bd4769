-- +goose Up

-- In every table: a time is microseconds since 1970 in UTC, NULL for none; an
-- ID is 16 bytes; text is compared byte by byte (BINARY, SQLite's default); a
-- 64-bit counter or mask is kept as the bits of a signed integer; an empty blob
-- is NULL. No column refers to a table by FOREIGN KEY: Apply and Purge write
-- what belongs together in one transaction, and SQLite enforces foreign keys
-- only on connections that ask for it.

-- One row a key, revoked ones (tombstones) included. It is replaced as a whole
-- by a compare-and-swap on version.
CREATE TABLE apikey_keys (
    id            BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    account       TEXT    NOT NULL,
    name          TEXT    NOT NULL,
    mode          INTEGER NOT NULL, -- 1 live, 2 test
    kind          INTEGER NOT NULL, -- 1 secret, 2 publishable
    version       INTEGER NOT NULL, -- 1, 2, 3 and so on
    head          BLOB    NOT NULL CHECK (length(head) = 32), -- hash of the newest event
    needs         INTEGER NOT NULL, -- 64 bits: features that a verifier must know
    mac           BLOB,             -- begins with the slot of its pepper
    abilities     TEXT    NOT NULL, -- JSON array of text
    networks      TEXT    NOT NULL, -- JSON array of CIDR prefixes
    origins       TEXT    NOT NULL, -- JSON array of text
    metadata      TEXT    NOT NULL, -- JSON object of text
    disabled      INTEGER NOT NULL CHECK (disabled IN (0, 1)),
    revoke_reason TEXT    NOT NULL,
    rotate_months INTEGER NOT NULL,
    recovery      INTEGER NOT NULL, -- 1: credentials keep a sealed copy
    created_at    INTEGER NOT NULL,
    expires_at    INTEGER,
    revoked_at    INTEGER,
    rotate_due    INTEGER,
    feed          INTEGER NOT NULL, -- place of its last change in the feed
    event         BLOB    NOT NULL  -- ID of the event of that change
) STRICT;

CREATE UNIQUE INDEX apikey_keys_feed ON apikey_keys (feed);
CREATE INDEX apikey_keys_account ON apikey_keys (account, created_at, id);
CREATE INDEX apikey_keys_created ON apikey_keys (created_at, id);
CREATE INDEX apikey_keys_revoked ON apikey_keys (revoked_at, id) WHERE revoked_at IS NOT NULL;

-- One row a credential of a key, live or among the last that ended. The token
-- carries its ID. The columns from last_used on belong to Upkeep, which swaps
-- them without a new version of the key.
CREATE TABLE apikey_credentials (
    id          BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    key_id      BLOB    NOT NULL,
    position    INTEGER NOT NULL, -- 0 is the newest of its key
    not_before  INTEGER,
    not_after   INTEGER,
    ended       INTEGER NOT NULL CHECK (ended IN (0, 1)),
    hint        TEXT    NOT NULL,
    public      TEXT    NOT NULL, -- a publishable token
    pepper      INTEGER NOT NULL, -- slot, 0 for none
    last_used   INTEGER,
    hash        TEXT    NOT NULL,
    check_value BLOB,
    sealed      BLOB,             -- encrypted under the key named beside it
    sealed_kek  TEXT    NOT NULL
) STRICT;

CREATE INDEX apikey_credentials_key ON apikey_credentials (key_id, position);

-- The activity log. Rows are only ever added. What counts is body, which is
-- what was hashed; the other columns are there to be found by.
CREATE TABLE apikey_events (
    id         BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    time       INTEGER NOT NULL,
    account    TEXT    NOT NULL,
    mode       INTEGER NOT NULL,
    key_id     BLOB,             -- NULL: about no key
    credential BLOB,             -- NULL: about no credential
    seq        INTEGER NOT NULL, -- place in the key's chain, 0 outside it
    actor      TEXT    NOT NULL,
    action     TEXT    NOT NULL,
    body       BLOB,
    hash       BLOB    NOT NULL CHECK (length(hash) = 32),
    feed       INTEGER NOT NULL  -- place in the feed of the change, 0 without a key
) STRICT;

CREATE INDEX apikey_events_time ON apikey_events (time, id);
CREATE INDEX apikey_events_account ON apikey_events (account, time, id);
CREATE INDEX apikey_events_key ON apikey_events (key_id, time, id);
CREATE INDEX apikey_events_chain ON apikey_events (key_id, seq, id) WHERE seq <> 0;

-- Small versioned values: challenges, budgets, marks, idempotency keys. Their
-- expiry is judged by the program. Purge removes them a day later.
CREATE TABLE apikey_items (
    kind       TEXT    NOT NULL,
    id         TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    expires_at INTEGER,
    sealed_kek TEXT    NOT NULL, -- the key that sealed data, or ''
    data       BLOB,
    PRIMARY KEY (kind, id)
) STRICT;

CREATE INDEX apikey_items_expiry ON apikey_items (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX apikey_items_sealed ON apikey_items (kind, id) WHERE sealed_kek <> '';

-- One row: the last place that the change feed has given out, and the event of
-- that change. Every write of a key takes the next one inside its transaction.
-- SQLite has one writer at a time, so places become visible in their order and
-- a reader that has seen one has missed none before it.
CREATE TABLE apikey_feed (
    one   INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    place INTEGER NOT NULL,
    event BLOB
) STRICT;

INSERT INTO apikey_feed (one, place, event) VALUES (1, 0, NULL);
