-- What a replica keeps beside the application's tables.

-- Where the replica stands. One row.
CREATE TABLE synchrotron_replica (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    app TEXT NOT NULL,
    client_id TEXT NOT NULL,
    user TEXT NOT NULL,                 -- '' until the first token
    n INTEGER NOT NULL,                 -- no action id at or below it is made again (O5)
    clock TEXT NOT NULL,                -- an order key that new ones sort after (O1, O2)
    clock_offset_ms INTEGER NOT NULL,   -- added to the machine's clock, where that is wrong (O4)
    cursor INTEGER NOT NULL,
    cursor_token TEXT NOT NULL,
    seen INTEGER NOT NULL,              -- the newest commit that an answer told of (H11)
    seen_token TEXT NOT NULL,
    floor TEXT,                         -- NULL: history from its beginning
    floor_seq INTEGER NOT NULL,         -- newest seq that came at or below the floor
    server_floor TEXT,
    audiences TEXT NOT NULL,            -- JSON array, as the server last gave them
    pending_from INTEGER NOT NULL,      -- no pending action has a lower position
    exchange INTEGER NOT NULL,          -- the number of the last request (O6)
    tokens TEXT NOT NULL,               -- JSON array: of the requests since the last answer
    bootstrapped INTEGER NOT NULL,      -- 0 until the first snapshot
    migrations INTEGER NOT NULL,        -- how many were run (S11)
    left_out INTEGER NOT NULL,          -- 1: something came that this schema has no place for
    tables TEXT NOT NULL,               -- fingerprint of the synced schema
    local TEXT NOT NULL                 -- fingerprint of the local one
);

-- The log: every action above the floor, but for the parked ones. Own actions have
-- positive positions, counted up; an own action's position is also its n where this
-- client id ran it. Others' are negative. Pending actions are found by their positions,
-- at the end of the table, and are in no index: a run writes one page of the log.
CREATE TABLE synchrotron_action (
    position INTEGER PRIMARY KEY,
    order_key TEXT NOT NULL,
    record BLOB NOT NULL,               -- MessagePack
    seq INTEGER,                        -- NULL: pending
    newest INTEGER,                     -- the newest seq of the action and its patches
    unsent INTEGER NOT NULL DEFAULT 0,  -- 1: it has corrections to send
    sent_in INTEGER,                    -- the exchange that first took it along, undecided
    error TEXT,                         -- why its last replay raised
    footprint TEXT,                     -- what its last run rests on; NULL: run it again
    changes BLOB,                       -- MessagePack: what a run changed, as it was captured
    effects BLOB                        -- MessagePack: effects; those of a run are made later
);

CREATE UNIQUE INDEX synchrotron_action_order ON synchrotron_action (order_key)
    WHERE seq IS NOT NULL;

-- Standing asks for the newest seq before a place in the order: walking this index
-- down passes only actions that are to be replayed anyway (S2).
CREATE INDEX synchrotron_action_newest ON synchrotron_action (newest) WHERE newest IS NOT NULL;
CREATE INDEX synchrotron_action_unsent ON synchrotron_action (order_key) WHERE unsent;

-- Own actions that left the log, by pruning or parking: an outcome outlives its entry.
CREATE TABLE synchrotron_outcome (
    id TEXT PRIMARY KEY,
    record TEXT NOT NULL,               -- JSON
    state TEXT NOT NULL,
    reason TEXT,
    detail TEXT,
    seq INTEGER
) WITHOUT ROWID;

-- Own ids that a restored or copied file gave up (O6): the old one leads to the new.
CREATE TABLE synchrotron_renamed (
    old_id TEXT PRIMARY KEY,
    new_id TEXT NOT NULL UNIQUE
) WITHOUT ROWID;

-- Foreign programs are stopped by the guard triggers; they belong to the file, while
-- our own connections run with triggers off.
