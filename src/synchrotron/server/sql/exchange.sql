-- One exchange: whose file is asking, and what became of the ids that it names (O6, H9).

-- Begin: set the acting user for this transaction, lock the client's row before anything else,
-- and tell what an exchange is judged by. A client that is new gets a row with number -1; it is
-- kept only if the transaction is.
CREATE OR REPLACE FUNCTION synchrotron.begin_exchange(
    who text, client text, asked_from bigint, seen bigint
)
RETURNS TABLE (
    now_ms bigint, owner text, number bigint, token text,
    seq bigint, rights_seq bigint, pruned bigint, floor text, newest text,
    cursor_token text, seen_token text, installed bigint, policies_fit boolean, transaction_id bigint
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    PERFORM set_config('synchrotron.user_id', who, true);
    PERFORM set_config('request.jwt.claim.sub', who, true);
    INSERT INTO synchrotron.clients (client_id, user_id, number, token)
    VALUES (client, who, -1, '') ON CONFLICT DO NOTHING;
    -- By itself: what comes after must see what was committed while this waited.
    PERFORM FROM synchrotron.clients AS c WHERE c.client_id = client FOR UPDATE;
    RETURN QUERY
        SELECT synchrotron.clock_ms(), c.user_id, c.number, c.token,
            k.seq, k.rights_seq, k.pruned, k.floor,
            coalesce((SELECT max(a.order_key) FROM synchrotron.actions AS a), k.floor),
            synchrotron.token_of(asked_from), synchrotron.token_of(seen),
            (SELECT version FROM synchrotron.application),
            (SELECT policies_digest = synchrotron.digest_of_policies() FROM synchrotron.application),
            pg_current_xact_id()::text::bigint
        FROM synchrotron.clients AS c, synchrotron.counter AS k
        WHERE c.client_id = client;
END $$;

CREATE OR REPLACE FUNCTION synchrotron.clock_ms() RETURNS bigint
LANGUAGE sql VOLATILE SET search_path = ''
RETURN floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint;

-- The token of the commit that a seq belongs to; NULL for one of another history (H11).
CREATE OR REPLACE FUNCTION synchrotron.token_of(wanted bigint) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
RETURN CASE WHEN wanted = 0 THEN '' ELSE (
    SELECT token FROM synchrotron.commits WHERE seq >= wanted ORDER BY seq LIMIT 1
) END;

CREATE OR REPLACE FUNCTION synchrotron.keep_request(client text, its_number bigint, its_token text)
RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = '' BEGIN ATOMIC
    UPDATE synchrotron.clients SET number = its_number, token = its_token
    WHERE client_id = client;
    DELETE FROM synchrotron.parts WHERE client_id = client;
END;

-- What is stored under ids, or was, where there is anything to say of them: for the fates of
-- runs (O6). Of another client's ids always its owner.
CREATE OR REPLACE FUNCTION synchrotron.look_up(client text, ids text[])
RETURNS TABLE (id text, owner text, seed text, renamed text[], accepted boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' BEGIN ATOMIC
    SELECT * FROM (
        SELECT asked.id, c.user_id, a.seed,
            ARRAY(SELECT r.seed FROM synchrotron.renamed AS r WHERE r.id = asked.id) AS renamed,
            coalesce(split_part(asked.id, '-', 2)::bigint <@ c.accepted, false) AS accepted
        FROM unnest(ids) AS asked (id)
        LEFT JOIN synchrotron.clients AS c ON c.client_id = split_part(asked.id, '-', 1)
        LEFT JOIN synchrotron.actions AS a ON a.id = asked.id
    ) AS found
    WHERE found.seed IS NOT NULL OR found.accepted OR found.renamed <> '{}'
       OR split_part(found.id, '-', 1) <> client;
END;

-- Where a reader stands: what they see, and the newest pruned action of what they joined (F6).
CREATE OR REPLACE FUNCTION synchrotron.standing_of(who text, known text[])
RETURNS TABLE (audiences text[], joined_floor text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' BEGIN ATOMIC
    SELECT mine.audiences, (
        SELECT max(f.order_key) FROM synchrotron.floors AS f
        WHERE f.audience = ANY (mine.audiences) AND NOT f.audience = ANY (known)
    )
    FROM (SELECT synchrotron.audiences_of(who) AS audiences) AS mine;
END;

-- An upload in parts (H1): staged, idempotent, and of no effect before it is complete. Gives the
-- frames and numbers of the parts that are there. A client that is new is not known by this.
CREATE OR REPLACE FUNCTION synchrotron.stage_part(
    client text, its_token text, its_part integer, its_frame bytea, its_body bytea, at_ms bigint
) RETURNS TABLE (part integer, frame bytea)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    DELETE FROM synchrotron.parts AS p WHERE p.client_id = client AND p.token <> its_token;
    INSERT INTO synchrotron.parts VALUES (client, its_token, its_part, its_frame, its_body)
    ON CONFLICT DO NOTHING;
    -- A lease ends two seconds after the last part that came of its upload (H3). One that has
    -- ended stays so: another's may have begun.
    UPDATE synchrotron.leases SET until_ms = least(ends_ms, at_ms + 2000)
    WHERE client_id = client AND until_ms > at_ms;
    DELETE FROM synchrotron.clients WHERE client_id = client AND number = -1;
    RETURN QUERY SELECT p.part, p.frame FROM synchrotron.parts AS p WHERE p.client_id = client;
END $$;

CREATE OR REPLACE FUNCTION synchrotron.parts_of(client text) RETURNS SETOF bytea
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' BEGIN ATOMIC
    SELECT body FROM synchrotron.parts WHERE client_id = client ORDER BY part;
END;

CREATE OR REPLACE FUNCTION synchrotron.newest() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
RETURN (SELECT max(order_key) FROM synchrotron.actions);

-- Uploads judge beside each other. One whose judgement was overtaken again and again judges
-- alone: the others wait.
CREATE OR REPLACE FUNCTION synchrotron.enter(alone boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    IF alone THEN
        PERFORM pg_advisory_xact_lock(hashtext('synchrotron upload'));
    ELSE
        PERFORM pg_advisory_xact_lock_shared(hashtext('synchrotron upload'));
    END IF;
END $$;
