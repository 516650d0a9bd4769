-- +goose Up

-- In every table: a time has microseconds, NULL is none; an ID is 16 bytes; text
-- is compared byte by byte (COLLATE "C"); a 64-bit counter or mask is kept as the
-- bits of a signed integer; an empty blob is NULL. No column refers to a table by
-- FOREIGN KEY: Apply and Purge write what belongs together in one transaction,
-- and a key is written by a comparison that locks it.

-- One row a key, revoked ones (tombstones) included. It is replaced as a whole
-- by a compare-and-swap on version.
CREATE TABLE apikey_keys (
    id            bytea            NOT NULL PRIMARY KEY CHECK (octet_length(id) = 16),
    account       text COLLATE "C" NOT NULL,
    name          text COLLATE "C" NOT NULL,
    mode          smallint         NOT NULL, -- 1 live, 2 test
    kind          smallint         NOT NULL, -- 1 secret, 2 publishable
    version       bigint           NOT NULL, -- 1, 2, 3 and so on
    head          bytea            NOT NULL CHECK (octet_length(head) = 32), -- hash of the newest event
    needs         bigint           NOT NULL, -- 64 bits: features that a verifier must know
    mac           bytea,                  -- begins with the slot of its pepper
    abilities     jsonb            NOT NULL, -- JSON array of text
    networks      jsonb            NOT NULL, -- JSON array of CIDR prefixes
    origins       jsonb            NOT NULL, -- JSON array of text
    metadata      jsonb            NOT NULL, -- JSON object of text
    disabled      boolean          NOT NULL,
    revoke_reason text COLLATE "C" NOT NULL,
    rotate_months integer          NOT NULL,
    recovery      smallint         NOT NULL, -- 1: credentials keep a sealed copy
    created_at    timestamptz(6)   NOT NULL,
    expires_at    timestamptz(6),
    revoked_at    timestamptz(6),
    rotate_due    timestamptz(6),
    feed          xid8             NOT NULL, -- the transaction of its last change
    event         bytea            NOT NULL  -- ID of the event of that change
);

CREATE INDEX apikey_keys_feed ON apikey_keys (feed, id);
CREATE INDEX apikey_keys_account ON apikey_keys (account, created_at, id);
CREATE INDEX apikey_keys_created ON apikey_keys (created_at, id);
CREATE INDEX apikey_keys_revoked ON apikey_keys (revoked_at, id) WHERE revoked_at IS NOT NULL;

-- One row a credential of a key, live or among the last that ended. The token
-- carries its ID. The columns from last_used on belong to Upkeep, which swaps
-- them without a new version of the key.
CREATE TABLE apikey_credentials (
    id            bytea            NOT NULL PRIMARY KEY CHECK (octet_length(id) = 16),
    key_id        bytea            NOT NULL,
    position      integer          NOT NULL, -- 0 is the newest of its key
    not_before    timestamptz(6),
    not_after     timestamptz(6),
    ended         boolean          NOT NULL,
    hint          text COLLATE "C" NOT NULL,
    public        text COLLATE "C" NOT NULL, -- a publishable token
    pepper        smallint         NOT NULL, -- slot, 0 for none
    last_used     timestamptz(6),
    hash          text COLLATE "C" NOT NULL,
    check_value   bytea,
    sealed        bytea,                  -- encrypted under the key named beside it
    sealed_kek    text COLLATE "C" NOT NULL
);

CREATE INDEX apikey_credentials_key ON apikey_credentials (key_id, position);

-- The activity log. Rows are only ever added. What counts is body, which is
-- what was hashed; the other columns are there to be found by.
CREATE TABLE apikey_events (
    id            bytea            NOT NULL PRIMARY KEY CHECK (octet_length(id) = 16),
    time          timestamptz(6)   NOT NULL,
    account       text COLLATE "C" NOT NULL,
    mode          smallint         NOT NULL,
    key_id        bytea,                  -- NULL: about no key
    credential    bytea,                  -- NULL: about no credential
    seq           bigint           NOT NULL, -- place in the key's chain, 0 outside it
    actor         text COLLATE "C" NOT NULL,
    action        text COLLATE "C" NOT NULL,
    body          bytea,
    hash          bytea            NOT NULL CHECK (octet_length(hash) = 32),
    feed          xid8                       -- the transaction of the change, NULL without a key
);

CREATE INDEX apikey_events_time ON apikey_events (time, id);
CREATE INDEX apikey_events_account ON apikey_events (account, time, id);
CREATE INDEX apikey_events_key ON apikey_events (key_id, time, id);
CREATE INDEX apikey_events_chain ON apikey_events (key_id, seq, id) WHERE seq <> 0;

-- Small versioned values: challenges, budgets, marks, idempotency keys. Their
-- expiry is judged by the program. Purge removes them a day later.
CREATE TABLE apikey_items (
    kind          text COLLATE "C" NOT NULL,
    id            text COLLATE "C" NOT NULL,
    version       bigint           NOT NULL,
    expires_at    timestamptz(6),
    sealed_kek    text COLLATE "C" NOT NULL, -- the key that sealed data, or ''
    data          bytea,
    PRIMARY KEY (kind, id)
);

CREATE INDEX apikey_items_expiry ON apikey_items (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX apikey_items_sealed ON apikey_items (kind, id) WHERE sealed_kek <> '';
