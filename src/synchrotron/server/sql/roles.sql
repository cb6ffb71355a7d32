-- The two roles. They belong to the whole cluster, so that this may find them there already.
--
-- synchrotron_owner    owns the sync schema and the application's tables. It folds, numbers and
--                      prunes, and nobody logs in as it: the functions below run as it.
-- synchrotron_server   what the server may do: read and insert under row level security, call those
--                      functions, and try a write in the shadow tables, where the policies judge
--                      it. It owns nothing and bypasses nothing (H8).
--
-- No lock reaches over the databases of a cluster. Where another installation makes a role at
-- the same moment, this waits for it, and then the role is there.
DO $roles$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['synchrotron_owner', 'synchrotron_server'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = name) THEN
            BEGIN
                EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;
            END;
        END IF;
    END LOOP;
END
$roles$;
