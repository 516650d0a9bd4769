-- +goose Up

-- In every table: a time is UTC with microseconds, NULL is none; an ID is 16
-- bytes; text that is compared is VARBINARY, which compares byte by byte, the
-- space at the end too; a 64-bit counter or mask is kept as the bits of a signed
-- integer; an empty blob is NULL. No column refers to a table by FOREIGN KEY:
-- Apply and Purge write what belongs together in one transaction, and a key is
-- written by a comparison that locks it.
--
-- DDL commits by itself here, so every statement can be run again.

-- One row a key, revoked ones (tombstones) included. It is replaced as a whole
-- by a compare-and-swap on version.
CREATE TABLE IF NOT EXISTS apikey_keys (
    id            BINARY(16)      NOT NULL PRIMARY KEY,
    account       VARBINARY(255)  NOT NULL,
    name          TEXT            NOT NULL,
    mode          SMALLINT        NOT NULL, -- 1 live, 2 test
    kind          SMALLINT        NOT NULL, -- 1 secret, 2 publishable
    version       BIGINT          NOT NULL, -- 1, 2, 3 and so on
    head          BINARY(32)      NOT NULL, -- hash of the newest event
    needs         BIGINT          NOT NULL, -- 64 bits: features that a verifier must know
    mac           VARBINARY(255),             -- begins with the slot of its pepper
    abilities     JSON            NOT NULL, -- JSON array of text
    networks      JSON            NOT NULL, -- JSON array of CIDR prefixes
    origins       JSON            NOT NULL, -- JSON array of text
    metadata      JSON            NOT NULL, -- JSON object of text
    disabled      BOOLEAN         NOT NULL,
    revoke_reason VARBINARY(255)  NOT NULL,
    rotate_months INTEGER         NOT NULL,
    recovery      SMALLINT        NOT NULL, -- 1: credentials keep a sealed copy
    created_at    DATETIME(6)     NOT NULL,
    expires_at    DATETIME(6),
    revoked_at    DATETIME(6),
    rotate_due    DATETIME(6),
    feed          DATETIME(6)     NOT NULL, -- the server's time of its last change
    event         BINARY(16)      NOT NULL, -- ID of the event of that change

    INDEX apikey_keys_feed (feed, id),
    INDEX apikey_keys_account (account, created_at, id),
    INDEX apikey_keys_created (created_at, id),
    INDEX apikey_keys_revoked (revoked_at, id)
) ENGINE = InnoDB CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- One row a credential of a key, live or among the last that ended. The token
-- carries its ID. The columns from last_used on belong to Upkeep, which swaps
-- them without a new version of the key.
CREATE TABLE IF NOT EXISTS apikey_credentials (
    id            BINARY(16)      NOT NULL PRIMARY KEY,
    key_id        BINARY(16)      NOT NULL,
    position      INTEGER         NOT NULL, -- 0 is the newest of its key
    not_before    DATETIME(6),
    not_after     DATETIME(6),
    ended         BOOLEAN         NOT NULL,
    hint          VARBINARY(16)   NOT NULL,
    public        TEXT            NOT NULL, -- a publishable token
    pepper        SMALLINT        NOT NULL, -- slot, 0 for none
    last_used     DATETIME(6),
    hash          VARBINARY(4096) NOT NULL,
    check_value   VARBINARY(255),
    sealed        BLOB,                       -- encrypted under the key named beside it
    sealed_kek    VARBINARY(255)  NOT NULL,

    INDEX apikey_credentials_key (key_id, position)
) ENGINE = InnoDB CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- The activity log. Rows are only ever added. What counts is body, which is
-- what was hashed; the other columns are there to be found by.
CREATE TABLE IF NOT EXISTS apikey_events (
    id            BINARY(16)      NOT NULL PRIMARY KEY,
    time          DATETIME(6)     NOT NULL,
    account       VARBINARY(255)  NOT NULL,
    mode          SMALLINT        NOT NULL,
    key_id        BINARY(16),                 -- NULL: about no key
    credential    BINARY(16),                 -- NULL: about no credential
    seq           BIGINT          NOT NULL, -- place in the key's chain, 0 outside it
    actor         VARBINARY(255)  NOT NULL,
    action        VARBINARY(255)  NOT NULL,
    body          MEDIUMBLOB,
    hash          BINARY(32)      NOT NULL,
    feed          DATETIME(6),                -- the server's time of the change, NULL without a key

    INDEX apikey_events_time (time, id),
    INDEX apikey_events_account (account, time, id),
    INDEX apikey_events_key (key_id, time, id),
    INDEX apikey_events_chain (key_id, seq, id)
) ENGINE = InnoDB CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- Small versioned values: challenges, budgets, marks, idempotency keys. Their
-- expiry is judged by the program. Purge removes them a day later.
CREATE TABLE IF NOT EXISTS apikey_items (
    kind          VARBINARY(32)   NOT NULL,
    id            VARBINARY(255)  NOT NULL,
    version       BIGINT          NOT NULL,
    expires_at    DATETIME(6),
    sealed_kek    VARBINARY(255)  NOT NULL, -- the key that sealed data, or ''
    data          MEDIUMBLOB,
    PRIMARY KEY (kind, id),

    INDEX apikey_items_expiry (expires_at)
) ENGINE = InnoDB CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;
