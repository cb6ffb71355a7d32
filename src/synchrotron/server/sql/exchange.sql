-- One exchange: whose file is asking, and what became of the ids that it names (O6, H9).

-- Begin: set the acting user for this transaction, lock the client's row before anything else,
-- and tell what an exchange is judged by. A client that is new gets a row with number -1; it is
-- kept only if the transaction is. With a number and a token of its own, the request is kept as
-- the file's newest at once, which saves a round trip: what is told is how it was before, and of
-- a request that turns out to be none of the file the whole transaction is undone.
-- `own` and `others` are the ids that it names, as `look_up` takes them.
CREATE OR REPLACE FUNCTION synchrotron.begin_exchange(
    who text, client text, asked_from bigint, seen bigint, its_number bigint, its_token text,
    own int8multirange, others text[]
)
RETURNS TABLE (
    now_ms bigint, owner text, number bigint, token text, pruned bigint, floor text,
    cursor_token text, seen_token text, installed bigint, transaction_id bigint, known json
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    PERFORM set_config('synchrotron.user_id', who, true);
    PERFORM set_config('request.jwt.claim.sub', who, true);
    -- By itself: what comes after must see what was committed while this waited.
    PERFORM FROM synchrotron.clients AS c WHERE c.client_id = client FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO synchrotron.clients (client_id, user_id, number, token)
        VALUES (client, who, -1, '') ON CONFLICT DO NOTHING;
        PERFORM FROM synchrotron.clients AS c WHERE c.client_id = client FOR UPDATE;
    END IF;
    RETURN QUERY
        SELECT synchrotron.clock_ms(), c.user_id, c.number, c.token, k.pruned, k.floor,
            synchrotron.token_of(asked_from), synchrotron.token_of(begin_exchange.seen),
            (SELECT version FROM synchrotron.application), pg_current_xact_id()::text::bigint,
            (SELECT json_agg(json_build_array(l.id, l.owner, l.seed, l.renamed, l.accepted))
                FROM synchrotron.look_up(client, own, others) AS l)
        FROM synchrotron.clients AS c, synchrotron.counter AS k
        WHERE c.client_id = client;
    IF its_number IS NOT NULL THEN
        UPDATE synchrotron.clients AS c SET number = its_number, token = its_token
        WHERE c.client_id = client;
        DELETE FROM synchrotron.parts AS p WHERE p.client_id = client;
    END IF;
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

-- What is stored under ids, or was, where there is anything to say of them: for the fates of
-- runs (O6). Of another client's ids always its owner. `own` are the numbers of this client's
-- ids: where none was accepted and none had another id before, which is so of every ordinary
-- upload, they need not be looked for one by one.
CREATE OR REPLACE FUNCTION synchrotron.look_up(client text, own int8multirange, others text[])
RETURNS TABLE (id text, owner text, seed text, renamed text[], accepted boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    IF EXISTS (SELECT FROM synchrotron.clients AS c
            WHERE c.client_id = client AND c.accepted && own)
        OR EXISTS (SELECT FROM synchrotron.renamed AS r
            WHERE r.id COLLATE "C" BETWEEN client || '-' AND client || '-~')
    THEN
        others := others || ARRAY(
            SELECT client || '-' || n FROM unnest(own) AS r (ns), generate_series(lower(ns), upper(ns) - 1) AS n
        );
    END IF;
    RETURN QUERY SELECT * FROM (
        SELECT asked.id, c.user_id, a.seed,
            ARRAY(SELECT r.seed FROM synchrotron.renamed AS r WHERE r.id = asked.id) AS renamed,
            coalesce(split_part(asked.id, '-', 2)::bigint <@ c.accepted, false) AS accepted
        FROM unnest(others) AS asked (id)
        LEFT JOIN synchrotron.clients AS c ON c.client_id = split_part(asked.id, '-', 1)
        LEFT JOIN synchrotron.actions AS a ON a.id = asked.id
    ) AS found
    WHERE found.seed IS NOT NULL OR found.accepted OR found.renamed <> '{}'
       OR split_part(found.id, '-', 1) <> client;
END $$;

-- Where a reader stands: what they see, and the newest pruned action of what they joined (F6).
CREATE OR REPLACE FUNCTION synchrotron.standing_of(who text, known text[])
RETURNS TABLE (audiences text[], joined_floor text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    audiences := synchrotron.audiences_of(who);
    SELECT max(f.order_key) INTO joined_floor FROM synchrotron.floors AS f
        WHERE f.audience = ANY (audiences) AND NOT f.audience = ANY (known);
    RETURN NEXT;
END $$;

-- What a question is answered by where nothing happened: the horizon and its token, what the
-- reader sees, and whether anything in it is beyond their cursor. One statement, one snapshot.
CREATE OR REPLACE FUNCTION synchrotron.glance(who text, asked_from bigint, known text[])
RETURNS TABLE (
    seq bigint, token text, pruned bigint, floor text, audiences text[], joined_floor text,
    has_news boolean
)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    SELECT s.audiences, s.joined_floor INTO audiences, joined_floor
        FROM synchrotron.standing_of(who, known) AS s;
    SELECT k.seq, k.pruned, k.floor INTO seq, pruned, floor FROM synchrotron.counter AS k;
    token := synchrotron.token_of(seq);
    has_news := synchrotron.has_news(who, audiences, asked_from, seq);
    RETURN NEXT;
END $$;

-- A question to which nothing is new, answered and kept at once: most requests are that. Gives no
-- row, and leaves nothing, where there is anything to say or to judge: then the request is
-- judged in a transaction, and `tokens` are its own and the earlier ones of its file (O6).
CREATE OR REPLACE FUNCTION synchrotron.answer_at_a_glance(
    who text, client text, its_number bigint, its_token text, tokens text[], version bigint,
    asked_from bigint, cursor_token text, seen bigint, seen_token text, known text[]
)
RETURNS TABLE (now_ms bigint, seq bigint, token text, floor text, audiences text[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    g record;
BEGIN
    PERFORM set_config('synchrotron.user_id', who, true);
    PERFORM set_config('request.jwt.claim.sub', who, true);
    PERFORM FROM synchrotron.clients AS c
    WHERE c.client_id = client AND c.user_id = who AND c.number < its_number
      AND c.token = ANY (tokens) AND c.token <> its_token
    FOR UPDATE;
    IF NOT FOUND OR version <> (SELECT a.version FROM synchrotron.application AS a)
        OR synchrotron.token_of(asked_from) IS DISTINCT FROM cursor_token
        OR synchrotron.token_of(seen) IS DISTINCT FROM seen_token
    THEN
        RETURN;
    END IF;
    SELECT * INTO g FROM synchrotron.glance(who, asked_from, known);
    IF g.has_news OR asked_from < g.pruned OR NOT g.audiences <@ known THEN
        RETURN;
    END IF;
    UPDATE synchrotron.clients AS c SET number = its_number, token = its_token
    WHERE c.client_id = client;
    DELETE FROM synchrotron.parts AS p WHERE p.client_id = client;
    RETURN QUERY SELECT synchrotron.clock_ms(), g.seq, g.token, g.floor, g.audiences;
END $$;

-- Whether anything happened in some audiences, or was done by their reader, between two seqs.
CREATE OR REPLACE FUNCTION synchrotron.has_news(
    who text, mine text[], asked_from bigint, upto bigint
) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM synchrotron.scopes AS s
        WHERE s.audience = ANY (mine) AND s.seq > asked_from AND s.seq <= upto
    ) OR EXISTS (
        SELECT FROM synchrotron.actions AS a
        WHERE a.user_id = who AND a.seq > asked_from AND a.seq <= upto
    );
END $$;

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
