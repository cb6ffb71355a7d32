-- Who may read and write in which audience (H7, H7a). `synchrotron.members` is the application's
-- query, made by the installation.

CREATE OR REPLACE FUNCTION synchrotron.user_id() RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = ''
RETURN nullif(current_setting('synchrotron.user_id', true), '');

CREATE OR REPLACE VIEW synchrotron.user_audiences AS
    SELECT user_id, audience AS audience_key FROM synchrotron.members
    UNION
    SELECT creator, audience FROM synchrotron.audiences
    WHERE NOT peopled AND creator IS NOT NULL
      AND (SELECT audiences IS NOT NULL FROM synchrotron.application)
    UNION
    SELECT synchrotron.user_id(), 'user:' || synchrotron.user_id()
    WHERE synchrotron.user_id() IS NOT NULL
      AND (SELECT audiences IS NULL FROM synchrotron.application);

CREATE OR REPLACE FUNCTION synchrotron.audiences_of(who text) RETURNS text[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    IF (SELECT audiences IS NULL FROM synchrotron.application) THEN
        RETURN ARRAY['user:' || who];
    END IF;
    RETURN ARRAY(
        SELECT audience COLLATE "C" FROM synchrotron.members WHERE user_id = who
        UNION
        SELECT audience FROM synchrotron.audiences WHERE NOT peopled AND creator = who
        ORDER BY 1
    );
END $$;

-- What the acting user may read, for the policies.
CREATE OR REPLACE FUNCTION synchrotron.my_audiences() RETURNS text[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
RETURN synchrotron.audiences_of(synchrotron.user_id());

-- Whether the acting user may write in an audience that is not theirs to read yet: one that
-- never had a member, and in which nobody else wrote first.
CREATE OR REPLACE FUNCTION synchrotron.may_begin(wanted text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
RETURN synchrotron.user_id() IS NOT NULL
    AND (SELECT audiences IS NOT NULL FROM synchrotron.application)
    AND NOT EXISTS (
        SELECT FROM synchrotron.audiences
        WHERE audience = wanted AND (peopled OR creator <> synchrotron.user_id())
    );

CREATE OR REPLACE FUNCTION synchrotron.may_write(wanted text[]) RETURNS SETOF text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' BEGIN ATOMIC
    SELECT audience FROM unnest(wanted) AS audience
    WHERE audience = ANY ((SELECT synchrotron.my_audiences())::text[])
       OR synchrotron.may_begin(audience);
END;

-- Remember for ever which audiences have a member. After every write to a table that the
-- application's query reads.
CREATE OR REPLACE FUNCTION synchrotron.note_members() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = '' BEGIN ATOMIC
    INSERT INTO synchrotron.audiences AS known (audience, peopled)
    SELECT DISTINCT audience, true FROM synchrotron.members AS m
    WHERE NOT EXISTS (
        SELECT FROM synchrotron.audiences AS a WHERE a.audience = m.audience AND a.peopled
    )
    ORDER BY 1
    ON CONFLICT (audience) DO UPDATE SET peopled = true;
END;

-- Reading is by audience; the server's role writes none of these.
DO $policies$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['actions', 'patches', 'targets', 'scopes'] LOOP
        EXECUTE format('ALTER TABLE synchrotron.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('DROP POLICY IF EXISTS readers ON synchrotron.%I', name);
    END LOOP;
    CREATE POLICY readers ON synchrotron.patches FOR SELECT
        USING (audience = ANY ((SELECT synchrotron.my_audiences())::text[]));
    CREATE POLICY readers ON synchrotron.targets FOR SELECT
        USING (audience = ANY ((SELECT synchrotron.my_audiences())::text[]));
    -- Not the column itself, so that this is no way to find rows: an action's scopes are found by
    -- its key, and a planner that knows a small table may take the audience for as good a way.
    CREATE POLICY readers ON synchrotron.scopes FOR SELECT
        USING (audience || '' = ANY ((SELECT synchrotron.my_audiences())::text[]));
    -- Their own, declared for them, or with a patch in view: `scopes` is read under its policy.
    CREATE POLICY readers ON synchrotron.actions FOR SELECT
        USING (
            user_id = (SELECT synchrotron.user_id())
            OR EXISTS (
                SELECT FROM synchrotron.scopes WHERE scopes.order_key = actions.order_key
                OFFSET 0  -- else all that the reader sees may be read, into a hash
            )
        );
END
$policies$;
