-- Drop the functions of another version, but for those on which policies or views depend: they are
-- replaced. Only where that cannot be done for all: CREATE OR REPLACE refuses a function that gives
-- something else than it did.
DO $forget$
DECLARE
    it regprocedure;
    more boolean := true;
BEGIN
    WHILE more LOOP
        more := false;
        FOR it IN
            SELECT oid FROM pg_catalog.pg_proc WHERE pronamespace = 'synchrotron'::regnamespace
        LOOP
            BEGIN
                EXECUTE pg_catalog.format('DROP FUNCTION %s', it);
                more := true;  -- and with it perhaps what another one depended on
            EXCEPTION WHEN dependent_objects_still_exist THEN
                NULL;
            END;
        END LOOP;
    END LOOP;
END
$forget$;
