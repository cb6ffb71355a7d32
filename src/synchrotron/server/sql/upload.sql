-- An upload: what is needed to judge it, and how it is stored, in the order of the calls.

-- Uploads that write in one audience come one after another: of two at once, the later would
-- be behind anyway (H3). Only audiences that the user may write in are held, and always in the
-- same order, so that nobody can stop others and two do not wait for each other.
CREATE OR REPLACE FUNCTION synchrotron.hold_audiences(wanted text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    wanted := ARRAY(SELECT a COLLATE "C" FROM synchrotron.may_write(wanted) AS a ORDER BY 1);
    INSERT INTO synchrotron.audiences (audience)
    SELECT a FROM unnest(wanted) WITH ORDINALITY AS w (a, i) ORDER BY i
    ON CONFLICT DO NOTHING;
    PERFORM FROM synchrotron.audiences WHERE audience = ANY (wanted)
    ORDER BY audience FOR NO KEY UPDATE;
END $$;

-- Everything that is stored of some row keys, in whatever audience (S9).
CREATE OR REPLACE FUNCTION synchrotron.load_targets(tables text[], keys text[])
RETURNS TABLE (table_name text, key text, audience text, base text, present text, newest text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' BEGIN ATOMIC
    SELECT t.table_name, t.key, t.audience, t.base, t.present, t.newest
    FROM unnest(tables, keys) AS wanted (table_name, key)
    JOIN synchrotron.targets AS t USING (table_name, key);
END;

CREATE OR REPLACE FUNCTION synchrotron.load_patches(tables text[], keys text[], places text[])
RETURNS TABLE (
    table_name text, key text, audience text, order_key text, op text, columns text
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' BEGIN ATOMIC
    SELECT p.table_name, p.key, p.audience, p.order_key, p.op, p.columns
    FROM unnest(tables, keys, places) AS wanted (table_name, key, audience)
    JOIN synchrotron.patches AS p USING (table_name, key, audience)
    ORDER BY p.order_key;
END;

-- Stored actions, for retries and corrections. Who may know of them is judged by the caller.
CREATE OR REPLACE FUNCTION synchrotron.load_actions(ids text[])
RETURNS TABLE (id text, order_key text, seq bigint, user_id text, audiences text[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' BEGIN ATOMIC
    SELECT a.id, a.order_key, a.seq, a.user_id, a.audiences
    FROM synchrotron.actions AS a WHERE a.id = ANY (ids);
END;

CREATE OR REPLACE FUNCTION synchrotron.patches_of_actions(order_keys text[])
RETURNS TABLE (
    table_name text, key text, audience text, order_key text, op text, columns text
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' BEGIN ATOMIC
    SELECT p.table_name, p.key, p.audience, p.order_key, p.op, p.columns
    FROM synchrotron.patches AS p WHERE p.order_key = ANY (order_keys);
END;

CREATE OR REPLACE FUNCTION synchrotron.taken_order_keys(wanted text[]) RETURNS SETOF text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' BEGIN ATOMIC
    SELECT a.order_key FROM synchrotron.actions AS a WHERE a.order_key = ANY (wanted);
END;

-- ---- the gate (H3) -----------------------------------------------------------------------

-- Whether events by other clients, which the user can see, lie beyond the cursor.
CREATE OR REPLACE FUNCTION synchrotron.is_behind(
    who text, mine text[], client text, asked_from bigint
) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' BEGIN ATOMIC
    WITH fresh AS (
        SELECT order_key FROM synchrotron.scopes
        WHERE audience = ANY (mine) AND seq > asked_from
        UNION
        SELECT order_key FROM synchrotron.actions WHERE user_id = who AND seq > asked_from
    )
    SELECT EXISTS (
        SELECT FROM fresh JOIN synchrotron.actions AS a USING (order_key)
        WHERE a.seq > asked_from AND a.client_id <> client
    ) OR EXISTS (
        SELECT FROM fresh JOIN synchrotron.patches AS p USING (order_key)
        WHERE p.audience = ANY (mine) AND p.seq > asked_from AND p.client_id <> client
    );
END;

CREATE OR REPLACE FUNCTION synchrotron.leases_of_others(client text, at_ms bigint)
RETURNS TABLE (user_id text, audiences text[], until_ms bigint, seen text[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' BEGIN ATOMIC
    SELECT l.user_id, l.audiences, l.until_ms, synchrotron.audiences_of(l.user_id)
    FROM synchrotron.leases AS l WHERE l.client_id <> client AND l.until_ms > at_ms
    ORDER BY l.client_id;
END;

-- Count an upload that was behind. After `bounces_max` in a row its client gets a lease, one at
-- a time on any audience or user; the counter's lock makes that one.
CREATE OR REPLACE FUNCTION synchrotron.bounce(
    client text, who text, mine text[], at_ms bigint, bounces_max integer, lease_ms bigint
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    PERFORM FROM synchrotron.counter FOR UPDATE;
    IF EXISTS (
        SELECT FROM synchrotron.leases WHERE client_id = client AND until_ms > at_ms
    ) THEN
        RETURN;  -- a lease ends after its time; being behind does not prolong it
    END IF;
    UPDATE synchrotron.clients SET bounces = bounces + 1 WHERE client_id = client;
    IF (SELECT bounces < bounces_max FROM synchrotron.clients WHERE client_id = client)
        OR EXISTS (
            SELECT FROM synchrotron.leases
            WHERE until_ms > at_ms AND (user_id = who OR audiences && mine)
        )
    THEN
        RETURN;
    END IF;
    INSERT INTO synchrotron.leases VALUES (client, who, mine, at_ms + lease_ms, at_ms + lease_ms)
    ON CONFLICT (client_id) DO UPDATE
        SET user_id = excluded.user_id, audiences = excluded.audiences,
            until_ms = excluded.until_ms, ends_ms = excluded.ends_ms;
    UPDATE synchrotron.clients SET bounces = 0 WHERE client_id = client;
END $$;

-- An upload was decided: its client's lease ends.
CREATE OR REPLACE FUNCTION synchrotron.decided(client text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = '' BEGIN ATOMIC
    UPDATE synchrotron.clients SET bounces = 0 WHERE client_id = client AND bounces <> 0;
    DELETE FROM synchrotron.leases WHERE client_id = client;
END;

-- ---- numbering (H2) ----------------------------------------------------------------------

-- Take the counter, and hold it until the transaction ends. What is read after this is what
-- everyone committed before: nobody else can number anything until then.
CREATE OR REPLACE FUNCTION synchrotron.take_counter()
RETURNS TABLE (seq bigint, rights_seq bigint, floor text, at_ms bigint)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = '' BEGIN ATOMIC
    SELECT k.seq, k.rights_seq, k.floor, synchrotron.clock_ms()
    FROM synchrotron.counter AS k FOR UPDATE;
END;

-- Whether anything was committed in these audiences since, for what was read before the counter
-- was taken.
CREATE OR REPLACE FUNCTION synchrotron.changed_since(wanted text[], seen bigint) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' BEGIN ATOMIC
    SELECT EXISTS (
        SELECT FROM synchrotron.scopes WHERE audience = ANY (wanted) AND seq > seen
    );
END;

-- Store what an upload brings, numbered already. The caller holds the counter.
CREATE OR REPLACE FUNCTION synchrotron.store(
    who text, client text, its_seq bigint, its_token text, changes_rights boolean,
    new_actions json, new_patches json, new_scopes json, new_rows json,
    new_creators json, new_names json, notice text
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    INSERT INTO synchrotron.actions (
        order_key, id, seed, name, version, args, now, client_id, user_id, audiences, seq
    )
    SELECT order_key, id, seed, name, version, args, now, client, who,
        CASE WHEN audiences IS NOT NULL
            THEN ARRAY(SELECT json_array_elements_text(audiences)) END,
        seq
    FROM json_to_recordset(new_actions) AS a (
        order_key text, id text, seed text, name text, version integer, args text,
        now timestamptz, audiences json, seq bigint
    );
    INSERT INTO synchrotron.patches
    SELECT table_name, key, audience, order_key, op, columns, seq, seq, client, who
    FROM json_to_recordset(new_patches) AS p (
        table_name text, key text, audience text, order_key text, op text, columns text,
        seq bigint
    )
    ON CONFLICT (table_name, key, audience, order_key) DO UPDATE
        SET op = excluded.op, columns = excluded.columns, seq = excluded.seq,
            basis = excluded.basis, client_id = excluded.client_id, user_id = excluded.user_id;
    INSERT INTO synchrotron.scopes
    SELECT audience, order_key, seq
    FROM json_to_recordset(new_scopes) AS s (audience text, order_key text, seq bigint);
    INSERT INTO synchrotron.targets (table_name, key, audience, present, newest, seq)
    SELECT table_name, key, audience, present, newest, its_seq
    FROM json_to_recordset(new_rows) AS r (
        table_name text, key text, audience text, present text, newest text
    )
    ON CONFLICT (table_name, key, audience) DO UPDATE
        SET present = excluded.present, newest = excluded.newest, seq = excluded.seq;
    INSERT INTO synchrotron.audiences AS known (audience, creator)
    SELECT audience, creator
    FROM json_to_recordset(new_creators) AS c (audience text, creator text)
    ON CONFLICT (audience) DO UPDATE SET creator = excluded.creator WHERE known.creator IS NULL;
    INSERT INTO synchrotron.renamed
    SELECT id, seed FROM json_to_recordset(new_names) AS n (id text, seed text)
    ON CONFLICT DO NOTHING;
    UPDATE synchrotron.clients
    SET accepted = accepted + coalesce((
        SELECT range_agg(int8range(n, n + 1)) FROM (
            SELECT split_part(id, '-', 2)::bigint AS n
            FROM json_to_recordset(new_actions) AS a (id text)
        ) AS accepted
    ), '{}')
    WHERE client_id = client;
    INSERT INTO synchrotron.commits VALUES (its_seq, its_token);
    UPDATE synchrotron.counter
    SET seq = its_seq, rights_seq = CASE WHEN changes_rights THEN its_seq ELSE rights_seq END;
    PERFORM pg_notify('synchrotron', notice);
END $$;
