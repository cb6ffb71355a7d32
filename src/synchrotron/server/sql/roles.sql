-- The two roles. They belong to the whole cluster, so that this may find them there already.
--
-- synchrotron_owner    owns the sync schema and the application's tables. It folds, numbers and
--                      prunes, and nobody logs in as it: the functions below run as it.
-- synchrotron_server   what the server may do: read under row level security, call those
--                      functions, and try a write in the shadow tables, where the policies judge
--                      it. It owns nothing and bypasses nothing (H8).
DO $roles$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'synchrotron_owner') THEN
        CREATE ROLE synchrotron_owner NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'synchrotron_server') THEN
        CREATE ROLE synchrotron_server NOLOGIN;
    END IF;
END
$roles$;
