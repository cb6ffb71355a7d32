-- The shadow tables: of the same names as the application's, in a schema of their own, without
-- constraints or triggers, with the same generated columns and the same policies. A write is
-- tried there as the acting user, against the row as it stood at its place in history (H6),
-- undisturbed by what the live table holds now. The tables themselves are made by the
-- installation; every upload looks whether their policies still are those of the live ones.

CREATE SCHEMA IF NOT EXISTS synchrotron_shadow;

CREATE OR REPLACE VIEW synchrotron.app_tables AS
    SELECT live.oid AS live, shadow.oid AS shadow, live.relname AS name
    FROM pg_catalog.pg_class AS shadow
    JOIN pg_catalog.pg_class AS live ON live.relname = shadow.relname
    WHERE shadow.relnamespace = 'synchrotron_shadow'::regnamespace AND shadow.relkind = 'r'
      AND live.relnamespace = 'public'::regnamespace AND live.relkind = 'r';

CREATE OR REPLACE FUNCTION synchrotron.digest_of_policies() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' BEGIN ATOMIC
    SELECT md5(string_agg(
        concat_ws(' ', t.name, c.relrowsecurity, p.polname, p.polcmd, p.polpermissive,
            p.polroles::text, p.polqual::text, p.polwithcheck::text),
        chr(10) ORDER BY t.name, p.polname
    ))
    FROM synchrotron.app_tables AS t
    JOIN pg_catalog.pg_class AS c ON c.oid = t.live
    LEFT JOIN pg_catalog.pg_policy AS p ON p.polrelid = t.live;
END;

-- Give the shadow tables the policies that the live tables have now.
CREATE OR REPLACE FUNCTION synchrotron.copy_policies() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    it record;
    digest text := synchrotron.digest_of_policies();
BEGIN
    FOR it IN SELECT t.name FROM synchrotron.app_tables AS t
        JOIN pg_catalog.pg_class AS c ON c.oid = t.live WHERE NOT c.relrowsecurity
    LOOP
        RAISE EXCEPTION 'table %: row level security is switched off; '
            'ALTER TABLE % ENABLE ROW LEVEL SECURITY', it.name, it.name;
    END LOOP;
    FOR it IN SELECT p.polname, t.name FROM pg_catalog.pg_policy AS p
        JOIN synchrotron.app_tables AS t ON t.shadow = p.polrelid
    LOOP
        EXECUTE format('DROP POLICY %I ON synchrotron_shadow.%I', it.polname, it.name);
    END LOOP;
    FOR it IN
        SELECT p.*, t.name,
            pg_catalog.pg_get_expr(p.polqual, p.polrelid) AS using_expression,
            pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) AS check_expression
        FROM pg_catalog.pg_policy AS p JOIN synchrotron.app_tables AS t ON t.live = p.polrelid
    LOOP
        EXECUTE format(
            'CREATE POLICY %I ON synchrotron_shadow.%I AS %s FOR %s TO PUBLIC',
            it.polname, it.name,
            CASE WHEN it.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
            CASE it.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT'
                WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END)
            || coalesce(' USING (' || it.using_expression || ')', '')
            || coalesce(' WITH CHECK (' || it.check_expression || ')', '');
    END LOOP;
    -- Who is the first to write in an audience sees there what they write, before it is theirs.
    FOR it IN SELECT t.name FROM synchrotron.app_tables AS t LOOP
        EXECUTE format(
            'CREATE POLICY synchrotron_beginners ON synchrotron_shadow.%I FOR SELECT '
            'USING (synchrotron.may_begin(audience_key))', it.name);
    END LOOP;
    -- Every server reads anew what rights depend on.
    UPDATE synchrotron.application SET policies_digest = digest, version = version + 1;
END $$;

-- The tables that rights depend on: those that `audiences` reads, and those that policies read
-- besides the row that they judge. Rights are those before an action, so a change of these ends
-- a set. What is read through views, functions and operators counts as well. PostgreSQL knows
-- what a function reads where its body stands in BEGIN ATOMIC; one whose body is a text may read
-- any table, and so it is taken to read all.
CREATE OR REPLACE FUNCTION synchrotron.rights_tables()
RETURNS TABLE (name text, for_policies boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' BEGIN ATOMIC
    WITH RECURSIVE reached (kind, id, for_policies) AS (
        SELECT 'pg_catalog.pg_rewrite'::regclass::oid, r.oid, false
        FROM pg_catalog.pg_rewrite AS r WHERE r.ev_class = 'synchrotron.members'::regclass
        UNION ALL
        SELECT 'pg_catalog.pg_policy'::regclass::oid, p.oid, true
        FROM pg_catalog.pg_policy AS p JOIN synchrotron.app_tables AS t ON t.live = p.polrelid
        UNION
        SELECT next.kind, next.id, r.for_policies FROM reached AS r CROSS JOIN LATERAL (
            SELECT d.refclassid AS kind, d.refobjid AS id FROM pg_catalog.pg_depend AS d
            WHERE d.classid = r.kind AND d.objid = r.id
              AND r.kind <> 'pg_catalog.pg_class'::regclass
              AND d.refclassid IN (
                'pg_catalog.pg_class'::regclass, 'pg_catalog.pg_proc'::regclass,
                'pg_catalog.pg_operator'::regclass)
              -- Of its own table a policy reads the row in question, unless that is read anew.
              AND NOT EXISTS (
                SELECT FROM pg_catalog.pg_policy AS p
                WHERE r.kind = 'pg_catalog.pg_policy'::regclass AND p.oid = r.id
                  AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = p.polrelid
                  AND position(
                    format(':relid %s ', p.polrelid::oid)
                    IN concat(p.polqual::text, p.polwithcheck::text)
                  ) = 0)
            UNION ALL
            SELECT 'pg_catalog.pg_rewrite'::regclass, w.oid FROM pg_catalog.pg_rewrite AS w
            WHERE r.kind = 'pg_catalog.pg_class'::regclass AND w.ev_class = r.id
        ) AS next
        -- The functions of this schema ask for memberships, which are looked at above.
        WHERE NOT EXISTS (
            SELECT FROM pg_catalog.pg_proc AS f
            WHERE next.kind = 'pg_catalog.pg_proc'::regclass AND f.oid = next.id
              AND f.pronamespace IN ('pg_catalog'::regnamespace, 'synchrotron'::regnamespace)
        )
    )
    SELECT DISTINCT t.name::text, r.for_policies
    FROM reached AS r JOIN synchrotron.app_tables AS t
        ON r.kind = 'pg_catalog.pg_class'::regclass AND r.id = t.live
        OR r.kind = 'pg_catalog.pg_proc'::regclass AND EXISTS (
            SELECT FROM pg_catalog.pg_proc AS f
            JOIN pg_catalog.pg_language AS l ON l.oid = f.prolang
            WHERE f.oid = r.id AND f.prosqlbody IS NULL AND l.lanname NOT IN ('internal', 'c')
        );
END;
