-- What a reader is told. These run as the server's role, under row level security by the acting
-- user: what they may not see is not there. They are functions so that their plans, which take
-- longer to make than to carry out, are made once for a connection.

-- The next commits in the reader's audiences, or of their own actions, in order: whether the seq
-- still is that of the action or of a patch that they see (it may have been corrected again
-- since), and about how many bytes the event has.
CREATE OR REPLACE FUNCTION synchrotron.page_candidates(
    who text, mine text[], asked_from bigint, count_max bigint
)
RETURNS TABLE (seq bigint, order_key text, is_present boolean, size bigint)
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
BEGIN
    RETURN QUERY
        WITH next AS (
            SELECT s.seq, s.order_key FROM unnest(mine) AS m (audience)
            CROSS JOIN LATERAL (
                SELECT s.seq, s.order_key FROM synchrotron.scopes AS s
                WHERE s.audience = m.audience AND s.seq > asked_from
                ORDER BY s.seq LIMIT count_max
            ) AS s
            UNION
            (SELECT a.seq, a.order_key FROM synchrotron.actions AS a
            WHERE a.user_id = who AND a.seq > asked_from ORDER BY a.seq LIMIT count_max)
            ORDER BY seq LIMIT count_max
        )
        SELECT n.seq, n.order_key,
            coalesce(a.seq = n.seq, false) OR coalesce(p.has_seq, false),
            coalesce(a.size, 0) + coalesce(p.size, 0)
        FROM next AS n
        LEFT JOIN LATERAL (
            SELECT a.seq, octet_length(a.args) AS size
            FROM synchrotron.actions AS a WHERE a.order_key = n.order_key
        ) AS a ON true
        LEFT JOIN LATERAL (
            SELECT bool_or(p.seq = n.seq) AS has_seq,
                sum(octet_length(p.columns) + octet_length(p.key)) AS size
            FROM synchrotron.patches AS p
            WHERE p.order_key = n.order_key AND p.audience = ANY (mine)
        ) AS p ON true
        ORDER BY n.seq;
END $$;

-- The actions that something happened to between two seqs, and those of audiences that the reader
-- joined: in order, each with its present patches up to `newest`, as the JSON of an `Event`.
-- `is_whole`: it is of a joined audience, and all of it is new to the reader.
CREATE OR REPLACE FUNCTION synchrotron.page_events(
    who text, mine text[], joined text[], asked_from bigint, upto bigint, newest bigint
)
RETURNS TABLE (event text, is_whole boolean)
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
BEGIN
    RETURN QUERY
        WITH wanted AS (
            SELECT s.order_key FROM synchrotron.scopes AS s
            WHERE s.audience = ANY (mine) AND s.seq > asked_from AND s.seq <= upto
            UNION
            SELECT a.order_key FROM synchrotron.actions AS a
            WHERE a.user_id = who AND a.seq > asked_from AND a.seq <= upto
            UNION
            SELECT s.order_key FROM synchrotron.scopes AS s
            WHERE s.audience = ANY (joined) AND s.seq <= upto
        )
        SELECT
            json_build_object(
                'record', json_build_object(
                    'id', a.id, 'seed', a.seed, 'name', a.name, 'version', a.version,
                    'args', a.args::json,
                    'now', to_char(a.now AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                    'order_key', a.order_key, 'client_id', a.client_id, 'user', a.user_id,
                    'audiences', a.audiences
                ),
                'seq', a.seq,
                'patches', coalesce((
                    SELECT json_agg(json_build_object(
                        'table', p.table_name, 'key', p.key::json, 'audience', p.audience,
                        'op', p.op,
                        'values', CASE WHEN p.op <> 'delete' THEN p.columns::json END,
                        'seq', p.seq, 'basis', p.basis
                    ))
                    FROM synchrotron.patches AS p
                    WHERE p.order_key = a.order_key AND p.audience = ANY (mine)
                      AND p.seq <= newest
                ), '[]')
            )::text,
            joined <> '{}' AND EXISTS (
                SELECT FROM synchrotron.scopes AS s
                WHERE s.order_key = a.order_key AND s.audience || '' = ANY (joined)
                OFFSET 0
            )
        FROM wanted AS w
        CROSS JOIN LATERAL (
            SELECT * FROM synchrotron.actions AS a WHERE a.order_key = w.order_key OFFSET 0
        ) AS a
        ORDER BY a.order_key;
END $$;

-- The rows of joined audiences, and those that late actions touch: for the replica's floor.
CREATE OR REPLACE FUNCTION synchrotron.page_targets(
    joined text[], tables text[], keys text[], places text[]
)
RETURNS TABLE (
    table_name text, key text, audience text, base text, present text, newest text
)
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
BEGIN
    RETURN QUERY
        SELECT t.table_name, t.key, t.audience, t.base, t.present, t.newest
        FROM synchrotron.targets AS t WHERE t.audience = ANY (joined)
        UNION
        SELECT t.table_name, t.key, t.audience, t.base, t.present, t.newest
        FROM unnest(tables, keys, places) AS w (table_name, key, audience)
        CROSS JOIN LATERAL (
            SELECT * FROM synchrotron.targets AS t
            WHERE (t.table_name, t.key, t.audience) = (w.table_name, w.key, w.audience)
            OFFSET 0
        ) AS t;
END $$;

-- The patches of some rows up to an order key, in order.
CREATE OR REPLACE FUNCTION synchrotron.page_history(
    tables text[], keys text[], places text[], upto text
)
RETURNS TABLE (table_name text, key text, audience text, op text, columns text)
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
BEGIN
    RETURN QUERY
        SELECT p.table_name, p.key, p.audience, p.op, p.columns
        FROM unnest(tables, keys, places) AS w (table_name, key, audience)
        CROSS JOIN LATERAL (
            SELECT * FROM synchrotron.patches AS p
            WHERE (p.table_name, p.key, p.audience) = (w.table_name, w.key, w.audience)
              AND p.order_key <= upto
            OFFSET 0
        ) AS p
        ORDER BY p.order_key;
END $$;
