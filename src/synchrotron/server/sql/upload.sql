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

-- Where an upload begins to be judged, and what it is judged by. Uploads judge beside each other;
-- one whose judgement was overtaken again and again judges alone: the others wait.
CREATE OR REPLACE FUNCTION synchrotron.enter_upload(
    alone boolean, who text, client text, asked_from bigint, known text[],
    wanted text[], declared text[], order_keys text[], at_ms bigint, row_keys json
)
RETURNS TABLE (
    seen bigint, audiences text[], joined_floor text, behind boolean, writable text[],
    taken text[], leases json, installed bigint, policies_fit boolean, targets text
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    its_table text;
BEGIN
    IF alone THEN
        PERFORM pg_advisory_xact_lock(hashtext('synchrotron upload'));
    ELSE
        PERFORM pg_advisory_xact_lock_shared(hashtext('synchrotron upload'));
    END IF;
    PERFORM synchrotron.hold_audiences(wanted);
    -- As writing does later: what judges their rows stays as it is from here on.
    FOR its_table IN
        SELECT t.live::regclass::text FROM synchrotron.app_tables AS t
        WHERE t.name::text IN (SELECT json_object_keys(row_keys)) ORDER BY t.live
    LOOP
        EXECUTE format('LOCK TABLE %s IN ROW EXCLUSIVE MODE', its_table);
    END LOOP;
    -- All that an upload is judged by is read after this.
    SELECT k.seq INTO seen FROM synchrotron.counter AS k;
    SELECT s.audiences, s.joined_floor INTO audiences, joined_floor
        FROM synchrotron.standing_of(who, known) AS s;
    behind := synchrotron.is_behind(who, audiences, client, asked_from);
    writable := ARRAY(SELECT synchrotron.may_write(wanted || declared));
    -- Where nobody has a key between its first and its last, nobody has one of them.
    IF EXISTS (SELECT FROM synchrotron.actions AS a WHERE a.order_key COLLATE "C"
        BETWEEN order_keys[1] AND order_keys[cardinality(order_keys)])
    THEN
        taken := ARRAY(
            SELECT a.order_key FROM synchrotron.actions AS a WHERE a.order_key = ANY (order_keys)
        );
    END IF;
    leases := synchrotron.leases_of_others(client, at_ms);
    SELECT p.version, p.policies_digest = synchrotron.digest_of_policies()
        INTO installed, policies_fit FROM synchrotron.application AS p;
    targets := (
        SELECT json_agg(json_build_array(
            t.table_name, t.key, t.audience, t.base, t.present, t.newest
        )) FROM synchrotron.load_targets(row_keys) AS t
    );
    RETURN NEXT;
END $$;

-- Check what was deferred, and defer again.
CREATE OR REPLACE FUNCTION synchrotron.check_constraints() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    SET CONSTRAINTS ALL IMMEDIATE;
    SET CONSTRAINTS ALL DEFERRED;
END $$;

-- Everything that is stored of some row keys, in whatever audience (S9). `wanted` has a list of
-- keys for each table.
CREATE OR REPLACE FUNCTION synchrotron.load_targets(wanted json)
RETURNS TABLE (table_name text, key text, audience text, base text, present text, newest text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    RETURN QUERY
        SELECT t.table_name, t.key, t.audience, t.base, t.present, t.newest
        FROM json_each(wanted) AS w (table_name, keys)
        CROSS JOIN json_array_elements_text(w.keys) AS k (key)
        CROSS JOIN LATERAL (
            SELECT * FROM synchrotron.targets AS t
            WHERE t.table_name = w.table_name AND t.key = k.key
            OFFSET 0  -- one after the other, by the index: not the other way round
        ) AS t;
END $$;

CREATE OR REPLACE FUNCTION synchrotron.load_patches(tables text[], keys text[], places text[])
RETURNS TABLE (
    table_name text, key text, audience text, order_key text, op text, columns text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    RETURN QUERY
        SELECT p.table_name, p.key, p.audience, p.order_key, p.op, p.columns
        FROM unnest(tables, keys, places) AS w (table_name, key, audience)
        CROSS JOIN LATERAL (
            SELECT * FROM synchrotron.patches AS p
            WHERE (p.table_name, p.key, p.audience) = (w.table_name, w.key, w.audience)
            OFFSET 0
        ) AS p
        ORDER BY p.order_key;
END $$;

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

-- ---- the gate (H3) -----------------------------------------------------------------------

-- Whether events by other clients, which the user can see, lie beyond the cursor.
CREATE OR REPLACE FUNCTION synchrotron.is_behind(
    who text, mine text[], client text, asked_from bigint
) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM (
            SELECT s.order_key FROM synchrotron.scopes AS s
            WHERE s.audience = ANY (mine) AND s.seq > asked_from
            UNION ALL
            SELECT a.order_key FROM synchrotron.actions AS a
            WHERE a.user_id = who AND a.seq > asked_from
        ) AS fresh
        -- Not EXISTS of one or of the other: for that all patches might be read, into a hash.
        CROSS JOIN LATERAL (
            SELECT 1 FROM synchrotron.actions AS a
            WHERE a.order_key = fresh.order_key AND a.seq > asked_from AND a.client_id <> client
            UNION ALL
            SELECT 1 FROM synchrotron.patches AS p
            WHERE p.order_key = fresh.order_key AND p.audience = ANY (mine)
              AND p.seq > asked_from AND p.client_id <> client
        ) AS by_others
    );
END $$;

CREATE OR REPLACE FUNCTION synchrotron.leases_of_others(client text, at_ms bigint) RETURNS json
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    RETURN (
        SELECT json_agg(json_build_array(
            l.user_id, l.audiences, l.until_ms, synchrotron.audiences_of(l.user_id)
        ) ORDER BY l.client_id)
        FROM synchrotron.leases AS l WHERE l.client_id <> client AND l.until_ms > at_ms
    );
END $$;

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

-- Number and store what was judged, and tell what the answer needs (H2, H3).
--
-- The counter is taken, and held until the transaction ends: nobody else can number anything
-- until then, and what is read after it is what everyone committed before. Where what was judged
-- is stale by now, or the replica behind, nothing is stored.
--
-- What most uploads bring comes column by column: PostgreSQL reads an array in a third of the time
-- of JSON. `a_` are actions, `s_` the audiences in which one is of interest, `p_` their patches;
-- `p_is_new` says that a row was not there before, and is now what the patch says. What there is
-- none of is NULL. Actions, patches and corrections are numbered by `n`, from 1 in the order of
-- history.
CREATE OR REPLACE FUNCTION synchrotron.store(
    who text, client text, asked_from bigint, known text[], seen bigint, mine text[],
    known_floor text, at_ms bigint, touched text[], changes_rights boolean,
    count integer, its_token text, numbers int8multirange,
    a_order_key text[], a_id text[], a_seed text[], a_name text[], a_version integer[],
    a_args text[], a_now timestamptz[], a_audiences text[], a_n bigint[],
    s_audience text[], s_order_key text[], s_n bigint[],
    p_table_name text[], p_key text[], p_audience text[], p_order_key text[], p_op text[],
    p_columns text[], p_n bigint[], p_is_new boolean[],
    corrections json, new_rows json, new_creators json, new_names json, notice text
)
RETURNS TABLE (
    before bigint, is_stale boolean, behind boolean, token text,
    audiences text[], joined_floor text, has_news boolean, leases json
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    k record;
    its_seq bigint;
BEGIN
    SELECT * INTO k FROM synchrotron.counter FOR UPDATE;
    before := k.seq;
    its_seq := before + count;
    token := its_token;
    behind := synchrotron.is_behind(who, mine, client, asked_from);
    is_stale := k.floor IS DISTINCT FROM known_floor
        OR (k.rights_seq > seen AND NOT behind)
        OR EXISTS (
            SELECT FROM synchrotron.scopes AS s WHERE s.audience = ANY (touched) AND s.seq > seen
        );
    IF is_stale OR behind THEN
        RETURN NEXT;
        RETURN;
    END IF;
    IF count = 0 THEN
        token := synchrotron.token_of(before);
    ELSE
        -- Not FROM unnest(…), which would keep all rows before it gives the first.
        INSERT INTO synchrotron.actions (
            order_key, id, seed, name, version, args, now, audiences, client_id, user_id, seq
        )
        SELECT a.order_key, a.id, a.seed, a.name, a.version, a.args, a.now,
            nullif(a.audiences, '')::text[], client, who, before + a.n
        FROM (
            SELECT unnest(a_order_key) AS order_key, unnest(a_id) AS id, unnest(a_seed) AS seed,
                unnest(a_name) AS name, unnest(a_version) AS version, unnest(a_args) AS args,
                unnest(a_now) AS now, unnest(a_audiences) AS audiences, unnest(a_n) AS n
        ) AS a;
        INSERT INTO synchrotron.scopes (audience, order_key, seq)
        SELECT s.audience, s.order_key, before + s.n
        FROM (
            SELECT unnest(s_audience) AS audience, unnest(s_order_key) AS order_key,
                unnest(s_n) AS n
        ) AS s;
        INSERT INTO synchrotron.patches
        SELECT p.table_name, p.key, p.audience, p.order_key, p.op, p.columns,
            before + p.n, before + p.n, client, who
        FROM (
            SELECT unnest(p_table_name) AS table_name, unnest(p_key) AS key,
                unnest(p_audience) AS audience, unnest(p_order_key) AS order_key,
                unnest(p_op) AS op, unnest(p_columns) AS columns, unnest(p_n) AS n
        ) AS p;
        INSERT INTO synchrotron.targets (table_name, key, audience, present, newest, seq)
        SELECT p.table_name, p.key, p.audience, p.columns, p.order_key, its_seq
        FROM (
            SELECT unnest(p_table_name) AS table_name, unnest(p_key) AS key,
                unnest(p_audience) AS audience, unnest(p_order_key) AS order_key,
                unnest(p_columns) AS columns, unnest(p_is_new) AS is_new
        ) AS p
        WHERE p.is_new;
        IF corrections IS NOT NULL THEN
            WITH brought AS MATERIALIZED (
                SELECT * FROM json_to_recordset(corrections) AS p (
                    table_name text, key text, audience text, order_key text, op text,
                    columns text, n bigint
                )
            ), scoped AS (
                INSERT INTO synchrotron.scopes (audience, order_key, seq)
                SELECT b.audience, b.order_key, before + b.n FROM brought AS b
            )
            INSERT INTO synchrotron.patches
            SELECT b.table_name, b.key, b.audience, b.order_key, b.op, b.columns,
                before + b.n, before + b.n, client, who
            FROM brought AS b
            ON CONFLICT (table_name, key, audience, order_key) DO UPDATE
                SET op = excluded.op, columns = excluded.columns, seq = excluded.seq,
                    basis = excluded.basis, client_id = excluded.client_id,
                    user_id = excluded.user_id;
        END IF;
        IF new_rows IS NOT NULL THEN
            INSERT INTO synchrotron.targets (table_name, key, audience, present, newest, seq)
            SELECT r.table_name, r.key, r.audience, r.present, r.newest, its_seq
            FROM json_to_recordset(new_rows) AS r (
                table_name text, key text, audience text, present text, newest text
            )
            ON CONFLICT (table_name, key, audience) DO UPDATE
                SET present = excluded.present, newest = excluded.newest, seq = excluded.seq;
        END IF;
        INSERT INTO synchrotron.audiences AS a (audience, creator)
        SELECT c.audience, c.creator
        FROM json_to_recordset(new_creators) AS c (audience text, creator text)
        ON CONFLICT (audience) DO UPDATE SET creator = excluded.creator WHERE a.creator IS NULL;
        IF new_names IS NOT NULL THEN
            INSERT INTO synchrotron.renamed
            SELECT n.id, n.seed FROM json_to_recordset(new_names) AS n (id text, seed text)
            ON CONFLICT DO NOTHING;
            -- A client that nobody has used is theirs from here on: a server that was put back has
            -- forgotten whose it was, and other files of its user tell of it as well (O6).
            INSERT INTO synchrotron.clients (client_id, user_id, number, token)
            SELECT DISTINCT split_part(n.id, '-', 1), who, -1, ''
            FROM json_to_recordset(new_names) AS n (id text) ORDER BY 1
            ON CONFLICT DO NOTHING;
        END IF;
        UPDATE synchrotron.clients AS c SET accepted = c.accepted + numbers
        WHERE c.client_id = client AND numbers <> '{}';
        INSERT INTO synchrotron.commits VALUES (its_seq, its_token);
        UPDATE synchrotron.counter
        SET seq = its_seq, rights_seq = CASE WHEN changes_rights THEN its_seq ELSE rights_seq END;
        PERFORM pg_notify('synchrotron', notice || its_seq || '}');
    END IF;
    PERFORM synchrotron.decided(client);
    -- What the user sees now may be more than before: an audience that was founded (H7a).
    SELECT s.audiences, s.joined_floor INTO audiences, joined_floor
        FROM synchrotron.standing_of(who, known) AS s;
    has_news := synchrotron.has_news(who, audiences, asked_from, before);
    leases := synchrotron.leases_of_others(client, at_ms);
    RETURN NEXT;
END $$;

-- These find a few rows among many by an index, whatever the statistics say: those of a table
-- that has just grown say nothing, and a plan that reads all of it would be kept. And they are
-- planned once for a connection, not for each request. What only these call is planned as they are.
DO $plans$
DECLARE
    name regprocedure;
BEGIN
    FOR name IN
        SELECT oid FROM pg_catalog.pg_proc
        WHERE pronamespace = 'synchrotron'::regnamespace AND proname IN (
            'begin_exchange', 'look_up', 'standing_of', 'glance', 'answer_at_a_glance',
            'enter_upload', 'load_targets', 'load_patches', 'load_actions',
            'patches_of_actions', 'store', 'page_candidates', 'page_events', 'page_targets',
            'page_history'
        )
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET plan_cache_mode = force_generic_plan', name);
        EXECUTE format('ALTER FUNCTION %s SET enable_seqscan = off', name);
        EXECUTE format('ALTER FUNCTION %s SET enable_hashjoin = off', name);
        EXECUTE format('ALTER FUNCTION %s SET enable_mergejoin = off', name);
    END LOOP;
    -- The application's own query is planned as PostgreSQL sees fit.
    ALTER FUNCTION synchrotron.audiences_of(text) SET plan_cache_mode = auto;
    ALTER FUNCTION synchrotron.audiences_of(text) SET enable_seqscan = on;
    ALTER FUNCTION synchrotron.audiences_of(text) SET enable_hashjoin = on;
    ALTER FUNCTION synchrotron.audiences_of(text) SET enable_mergejoin = on;
END
$plans$;
