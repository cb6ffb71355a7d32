-- Retention: old actions are folded into the rows at the server's floor (F3). No row changes
-- (F5). One batch is one transaction, in which nobody else numbers anything.

-- Take the counter; give the floor up to which this batch goes, NULL where nothing is old enough.
CREATE OR REPLACE FUNCTION synchrotron.begin_prune(
    keep bigint, older_than text, batch_max integer
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    wanted text COLLATE "C";
BEGIN
    PERFORM FROM synchrotron.counter FOR UPDATE;
    wanted := greatest(
        (SELECT order_key FROM synchrotron.actions
            WHERE keep IS NOT NULL ORDER BY order_key DESC OFFSET keep LIMIT 1) COLLATE "C",
        (SELECT max(order_key) FROM synchrotron.actions
            WHERE older_than IS NOT NULL AND order_key < older_than) COLLATE "C"
    );
    RETURN (
        SELECT max(order_key) FROM (
            SELECT order_key FROM synchrotron.actions WHERE order_key <= wanted
            ORDER BY order_key LIMIT batch_max
        ) AS batch
    );
END $$;

-- The rows that have patches on both sides of the floor: their base is folded by the caller.
CREATE OR REPLACE FUNCTION synchrotron.rows_across(new_floor text)
RETURNS TABLE (table_name text, key text, audience text, base text, op text, columns text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' BEGIN ATOMIC
    SELECT p.table_name, p.key, p.audience, t.base, p.op, p.columns
    FROM synchrotron.actions AS a
    JOIN synchrotron.patches AS p USING (order_key)
    JOIN synchrotron.targets AS t USING (table_name, key, audience)
    WHERE a.order_key <= new_floor AND t.newest > new_floor
    ORDER BY p.table_name, p.key, p.audience, p.order_key;
END;

CREATE OR REPLACE FUNCTION synchrotron.prune(new_floor text, bases json) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    pruned_count bigint;
BEGIN
    UPDATE synchrotron.counter SET floor = new_floor, pruned = greatest(
        pruned,
        (SELECT max(seq) FROM synchrotron.actions WHERE order_key <= new_floor),
        (SELECT max(p.seq) FROM synchrotron.actions AS a
            JOIN synchrotron.patches AS p USING (order_key) WHERE a.order_key <= new_floor)
    );
    INSERT INTO synchrotron.floors AS f
    SELECT s.audience, max(a.order_key) FROM synchrotron.actions AS a
    JOIN synchrotron.scopes AS s USING (order_key)
    WHERE a.order_key <= new_floor GROUP BY s.audience
    ON CONFLICT (audience) DO UPDATE SET order_key = excluded.order_key;
    UPDATE synchrotron.targets AS t SET base = b.base
    FROM json_to_recordset(bases) AS b (table_name text, key text, audience text, base text)
    WHERE (t.table_name, t.key, t.audience) = (b.table_name, b.key, b.audience);
    WITH touched AS (
        DELETE FROM synchrotron.patches AS p USING synchrotron.actions AS a
        WHERE p.order_key = a.order_key AND a.order_key <= new_floor
        RETURNING p.table_name, p.key, p.audience
    ), settled AS (
        SELECT DISTINCT * FROM touched
    ), kept AS (
        UPDATE synchrotron.targets AS t SET base = t.present FROM settled AS s
        WHERE (t.table_name, t.key, t.audience) = (s.table_name, s.key, s.audience)
          AND t.newest <= new_floor AND t.present IS NOT NULL
    )
    DELETE FROM synchrotron.targets AS t USING settled AS s
    WHERE (t.table_name, t.key, t.audience) = (s.table_name, s.key, s.audience)
      AND t.newest <= new_floor AND t.present IS NULL;
    DELETE FROM synchrotron.scopes AS s USING synchrotron.actions AS a
    WHERE s.order_key = a.order_key AND a.order_key <= new_floor;
    DELETE FROM synchrotron.actions WHERE order_key <= new_floor;
    GET DIAGNOSTICS pruned_count = ROW_COUNT;
    DELETE FROM synchrotron.commits WHERE seq < (SELECT pruned FROM synchrotron.counter);
    RETURN pruned_count;
END $$;
