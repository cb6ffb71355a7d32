-- What the server stores. The truth is in `actions` and `patches`, and in the rows at the
-- server's floor (`targets.base`); `targets.present` is the fold of both (H5), `scopes` says
-- what is of interest to whom.
--
-- Order keys and keys sort bytewise (COLLATE "C"), as everywhere (O1). Values are canonical
-- JSON text (A5): jsonb would write 1e2 as 100.
--
-- All but `clients`, `audiences` and `parts` is written only by whoever holds the counter's
-- lock: that lock makes seq order the order of commits (H2).

CREATE SCHEMA IF NOT EXISTS synchrotron;

CREATE TABLE IF NOT EXISTS synchrotron.application (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    name text NOT NULL,
    sources text[] NOT NULL,        -- the schema, then each migration
    audiences text,
    policies text,
    version bigint NOT NULL,        -- counts installations: a server that runs reads anew
    fingerprint text NOT NULL DEFAULT '',   -- of what was installed: a server works with its own
    policies_digest text NOT NULL DEFAULT ''
);
ALTER TABLE synchrotron.application ADD COLUMN IF NOT EXISTS fingerprint text NOT NULL DEFAULT '';

CREATE TABLE IF NOT EXISTS synchrotron.counter (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    seq bigint NOT NULL DEFAULT 0,
    rights_seq bigint NOT NULL DEFAULT 0,   -- the last commit that wrote a table that rights depend on
    pruned bigint NOT NULL DEFAULT 0,       -- the newest seq among what was folded into the base
    floor text COLLATE "C"                  -- the newest order key that was
);
INSERT INTO synchrotron.counter DEFAULT VALUES ON CONFLICT DO NOTHING;

CREATE TABLE IF NOT EXISTS synchrotron.clients (
    client_id text COLLATE "C" PRIMARY KEY,
    user_id text NOT NULL,
    number bigint NOT NULL,                 -- of its newest request, and that one's token (O6)
    token text NOT NULL,
    bounces integer NOT NULL DEFAULT 0,
    accepted int8multirange NOT NULL DEFAULT '{}'   -- which n were accepted, for ever (O5)
);

-- Unlogged: parts that a crash took along are asked for again, and a megabyte is written once.
CREATE UNLOGGED TABLE IF NOT EXISTS synchrotron.parts (
    client_id text COLLATE "C" NOT NULL,
    token text NOT NULL,                    -- of the exchange
    part integer NOT NULL,
    frame bytea NOT NULL,                   -- what all parts of an upload have in common
    body bytea NOT NULL,
    PRIMARY KEY (client_id, token, part)
);
ALTER TABLE synchrotron.parts ALTER body SET STORAGE EXTERNAL;  -- compressed already

CREATE TABLE IF NOT EXISTS synchrotron.leases (
    client_id text COLLATE "C" PRIMARY KEY,
    user_id text NOT NULL,
    audiences text[] NOT NULL,
    until_ms bigint NOT NULL,               -- as it stands now: a part of its upload moves this
    ends_ms bigint NOT NULL                 -- at the latest
);

CREATE TABLE IF NOT EXISTS synchrotron.audiences (
    audience text COLLATE "C" PRIMARY KEY,
    creator text,                           -- whose action first wrote in it (H7a)
    peopled boolean NOT NULL DEFAULT false  -- whether it ever had a member
);
CREATE INDEX IF NOT EXISTS audiences_memberless
    ON synchrotron.audiences (creator) WHERE NOT peopled;

CREATE TABLE IF NOT EXISTS synchrotron.actions (
    order_key text COLLATE "C" PRIMARY KEY,
    id text COLLATE "C" NOT NULL UNIQUE,
    seed text NOT NULL,
    name text NOT NULL,
    version integer NOT NULL,
    args text NOT NULL,
    now timestamptz NOT NULL,
    client_id text NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    audiences text[],
    seq bigint NOT NULL,
    received_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
CREATE INDEX IF NOT EXISTS actions_by_user ON synchrotron.actions (user_id, seq);

-- The seeds of runs that are stored under another id than this one, which they had in another
-- copy of their file; kept for ever (O6).
CREATE TABLE IF NOT EXISTS synchrotron.renamed (
    id text COLLATE "C" NOT NULL,
    seed text NOT NULL,
    PRIMARY KEY (id, seed)
);

CREATE TABLE IF NOT EXISTS synchrotron.targets (
    table_name text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    audience text COLLATE "C" NOT NULL,
    base text,                              -- the row at the server's floor
    present text,                           -- the row now; NULL where there is none
    newest text COLLATE "C",                -- the last action in order that patches it
    seq bigint NOT NULL,                    -- of its last change
    PRIMARY KEY (table_name, key, audience)
);
CREATE INDEX IF NOT EXISTS targets_by_audience
    ON synchrotron.targets (audience, table_name, key);

CREATE TABLE IF NOT EXISTS synchrotron.patches (
    table_name text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    audience text COLLATE "C" NOT NULL,
    order_key text COLLATE "C" NOT NULL,
    op text,                                -- NULL where a correction removed it
    columns text,
    seq bigint NOT NULL,
    basis bigint NOT NULL,
    client_id text NOT NULL,                -- who stored it as it is: the author, or a corrector (H4a)
    user_id text NOT NULL,
    PRIMARY KEY (table_name, key, audience, order_key)
);
CREATE INDEX IF NOT EXISTS patches_by_action ON synchrotron.patches (order_key);

-- What happened in which audience: a row for each action that declares it or has a patch in it,
-- and one more for each correction there. So what is new to a reader is found by seq.
CREATE TABLE IF NOT EXISTS synchrotron.scopes (
    audience text COLLATE "C" NOT NULL,
    order_key text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (order_key, audience, seq)
);
CREATE INDEX IF NOT EXISTS scopes_by_seq ON synchrotron.scopes (audience, seq);

-- The newest action of each audience that was pruned.
CREATE TABLE IF NOT EXISTS synchrotron.floors (
    audience text COLLATE "C" PRIMARY KEY,
    order_key text COLLATE "C" NOT NULL
);

-- The last seq of each commit, and its token (H11).
CREATE TABLE IF NOT EXISTS synchrotron.commits (
    seq bigint PRIMARY KEY,
    token text NOT NULL
);
