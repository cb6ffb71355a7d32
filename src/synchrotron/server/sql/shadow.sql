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

-- Of the policies, of what else could be put in a new row's way after the installation, and of
-- what could make memberships be read in another way.
CREATE OR REPLACE FUNCTION synchrotron.digest_of_policies() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' BEGIN ATOMIC
    SELECT md5(string_agg(line, chr(10) ORDER BY line COLLATE "C"))
    FROM (
        SELECT concat_ws(' ', t.name, c.relrowsecurity, c.relhasrules, k.checks, g.triggers,
            p.polname, p.polcmd, p.polpermissive, p.polroles::text,
            coalesce(p.polqual::text, '-'), coalesce(p.polwithcheck::text, '-')) AS line
        FROM synchrotron.app_tables AS t
        JOIN pg_catalog.pg_class AS c ON c.oid = t.live
        CROSS JOIN LATERAL (
            SELECT string_agg(oid::text, ',' ORDER BY oid) AS checks FROM pg_catalog.pg_constraint
            WHERE conrelid = t.live AND contype = 'c'
        ) AS k
        CROSS JOIN LATERAL (
            SELECT count(*) AS triggers FROM pg_catalog.pg_trigger
            WHERE tgrelid = t.live AND NOT tgisinternal
        ) AS g
        LEFT JOIN pg_catalog.pg_policy AS p ON p.polrelid = t.live
        UNION
        SELECT concat_ws(' ', 'members', c.oid, c.relrowsecurity, c.relhassubclass)
        FROM pg_catalog.pg_rewrite AS r
        JOIN pg_catalog.pg_depend AS d
            ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid
            AND d.refclassid = 'pg_catalog.pg_class'::regclass
        JOIN pg_catalog.pg_class AS c ON c.oid = d.refobjid
        WHERE r.ev_class = 'synchrotron.members'::regclass
    ) AS lines;
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
-- a set. What is read through views, functions, operators, domains and the policies of a table of
-- one's own counts as well. PostgreSQL knows what a function reads where its body stands in BEGIN
-- ATOMIC; one whose body is a text may read any table, and so it is taken to read all.
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
                'pg_catalog.pg_operator'::regclass, 'pg_catalog.pg_type'::regclass)
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
            UNION ALL  -- a domain's checks
            SELECT 'pg_catalog.pg_constraint'::regclass, k.oid FROM pg_catalog.pg_constraint AS k
            WHERE r.kind = 'pg_catalog.pg_type'::regclass AND k.contypid = r.id
            UNION ALL  -- the policies of a table of one's own
            SELECT 'pg_catalog.pg_policy'::regclass, p.oid FROM pg_catalog.pg_policy AS p
            WHERE r.kind = 'pg_catalog.pg_class'::regclass AND p.polrelid = r.id
              AND NOT EXISTS (SELECT FROM synchrotron.app_tables AS t WHERE t.live = r.id)
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

-- Whether an object uses a function, an operator or a type that is not PostgreSQL's own.
CREATE OR REPLACE FUNCTION synchrotron.uses_others(kind regclass, object oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = '' BEGIN ATOMIC
    SELECT EXISTS (
        SELECT FROM pg_catalog.pg_depend AS d
        WHERE d.classid = kind AND d.objid = object
          AND d.refclassid IN (
            'pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_operator'::regclass,
            'pg_catalog.pg_type'::regclass)
          AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_proc AS f
            WHERE d.refclassid = 'pg_catalog.pg_proc'::regclass AND f.oid = d.refobjid
              AND f.pronamespace = 'synchrotron'::regnamespace)
    );
END;

-- Whether an expression calls a function that is neither PostgreSQL's own nor one of this schema's
-- for policies, or one of PostgreSQL's own by which rows can be read, such as ts_stat and
-- query_to_xml: it keeps no record of those. Nor of a type that SQL/JSON returns, or that an input
-- function is given, which may be a domain with a function of anyone's.
CREATE OR REPLACE FUNCTION synchrotron.calls_others(expression text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = '' BEGIN ATOMIC
    SELECT EXISTS (
        SELECT FROM regexp_matches(
            expression, ':(funcid|opno|aggfnoid|winfnoid) (\d+)', 'g'
        ) AS called (what)
        LEFT JOIN pg_catalog.pg_operator AS o ON o.oid = called.what[2]::oid
        LEFT JOIN pg_catalog.pg_proc AS f ON f.oid
            = CASE called.what[1] WHEN 'opno' THEN o.oprcode::oid ELSE called.what[2]::oid END
        WHERE (
            f.pronamespace = 'synchrotron'::regnamespace
            AND f.proname IN ('user_id', 'my_audiences', 'audiences_of', 'may_begin', 'may_write')
            OR f.pronamespace = 'pg_catalog'::regnamespace AND f.provolatile <> 'v'
            AND f.proname NOT LIKE '%xml%' AND f.proname NOT LIKE 'pg_input%'
            AND 'pg_catalog.cstring'::regtype <> ALL (f.proargtypes::oid[])
        ) IS NOT TRUE
    ) OR EXISTS (
        SELECT FROM regexp_matches(expression, ':typid (\d+)', 'g') AS given (what)
        WHERE given.what[1]::oid >= 16384
    );
END;

-- Whether an expression may look at anything but its row.
CREATE OR REPLACE FUNCTION synchrotron.looks_around(expression text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = ''
RETURN position(':relid ' IN expression) > 0 OR synchrotron.calls_others(expression);

-- Whether a view's rule reads anything but tables that are nothing more than their rows.
CREATE OR REPLACE FUNCTION synchrotron.reads_more_than_tables(rule oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = '' BEGIN ATOMIC
    SELECT EXISTS (
        SELECT FROM pg_catalog.pg_rewrite AS r
        JOIN pg_catalog.pg_depend AS d
            ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid
            AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid <> r.ev_class
        JOIN pg_catalog.pg_class AS c ON c.oid = d.refobjid
        LEFT JOIN synchrotron.app_tables AS t ON t.live = c.oid
        WHERE r.oid = rule AND (
            c.relkind <> 'r' OR c.relhassubclass OR c.relrowsecurity AND t.live IS NULL)
    );
END;

-- The tables in which a new row can be judged where it is inserted, beside others of its upload:
-- nothing that judges it looks at anything but the row itself and who is a member of what. This
-- says no in doubt, as of every function that is neither PostgreSQL's own nor of this schema: it may
-- be replaced at any time. A policy for some roles alone counts for everyone in the shadow, and would
-- not here; a trigger would run as the user.
CREATE OR REPLACE FUNCTION synchrotron.self_contained_tables() RETURNS SETOF text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' BEGIN ATOMIC
    SELECT t.name::text
    FROM synchrotron.app_tables AS t JOIN pg_catalog.pg_class AS c ON c.oid = t.live
    WHERE NOT c.relhasrules
      AND NOT synchrotron.uses_others('pg_catalog.pg_class', t.live)
      AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = t.live AND NOT tgisinternal)
      AND NOT EXISTS (  -- of the policies that an INSERT … RETURNING asks
        SELECT FROM pg_catalog.pg_policy AS p
        WHERE p.polrelid = t.live AND p.polcmd IN ('a', 'r', '*') AND (
            p.polroles <> '{0}'
            OR synchrotron.uses_others('pg_catalog.pg_policy', p.oid)
            OR synchrotron.looks_around(concat(p.polqual::text, p.polwithcheck::text))))
      AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_constraint AS k WHERE k.conrelid = t.live AND (
            synchrotron.uses_others('pg_catalog.pg_constraint', k.oid)
            OR synchrotron.looks_around(k.conbin::text)))
      AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_attrdef AS d
        JOIN pg_catalog.pg_attribute AS a ON (a.attrelid, a.attnum) = (d.adrelid, d.adnum)
        WHERE d.adrelid = t.live AND a.attgenerated <> ''
          AND synchrotron.uses_others('pg_catalog.pg_attrdef', d.oid))
      AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_index AS i WHERE i.indrelid = t.live
          AND synchrotron.uses_others('pg_catalog.pg_class', i.indexrelid))
      AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_rewrite AS r
        WHERE r.ev_class = 'synchrotron.members'::regclass AND (
            synchrotron.uses_others('pg_catalog.pg_rewrite', r.oid)
            OR synchrotron.calls_others(r.ev_action::text)
            OR synchrotron.reads_more_than_tables(r.oid)));
END;
