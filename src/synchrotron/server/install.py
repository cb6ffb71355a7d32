"""Installing an application into a PostgreSQL database.

Repeatable: what is there already stays, what has to change is made anew, and the catalogue
is read afterwards. All of it is one transaction: an installation that is refused changes
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import psycopg
from psycopg import Connection, conninfo, sql

from synchrotron.app import ddl
from synchrotron.app.schema import Schema, read_schema
from synchrotron.errors import InstallationError
from synchrotron.server.adoption import Adopted, Adoption, existing
from synchrotron.server.roles import OWNER, take_roles
from synchrotron.server.scripts import fingerprint, script
from synchrotron.server.tables import ServerTable, listed, quoted, server_statement

POSTGRESQL_MIN = 150000
_MINE = "synchrotron: from App(policies=…)"
_WRITES = {"INSERT": "WITH CHECK", "UPDATE": "USING", "DELETE": "USING"}
_MEMBERS = (
    "audience_key = ANY ((SELECT synchrotron.my_audiences())::text[])"
    " OR synchrotron.may_begin(audience_key)"
)


class Application(Protocol):
    """What the installation needs of an `App`."""

    @property
    def name(self) -> str: ...
    @property
    def sources(self) -> Sequence[str]: ...
    @property
    def audiences(self) -> str | None: ...
    @property
    def policies(self) -> str | None: ...


class Installed(NamedTuple):
    """What an installation did."""

    tables: list[str]
    migrations: int
    """How many were new."""
    adopted: Adopted


def install(app: Application, database: str, *, adopt: bool = False) -> Installed:
    """Put the application's tables, roles and policies into a database.

    `database` is the URL of a superuser, or of the database's owner with CREATEROLE. `adopt`
    takes over tables that are there already; their rows become the floor, as if they had
    always been there. Raises `InstallationError`, which says what to do.
    """
    try:
        conninfo.conninfo_to_dict(database)
    except psycopg.ProgrammingError as error:
        raise InstallationError(
            f"{database!r} is no address of a PostgreSQL database ({str(error).strip()}): it is "
            "spelt postgresql://user:password@host:port/database"
        ) from error
    try:
        with psycopg.connect(database) as connection, connection.transaction():
            return _Installation(connection, app, adopt=adopt).run()
    except psycopg.OperationalError as error:
        raise InstallationError(f"the database cannot be reached: {error}") from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise InstallationError(
            f"{error}. The installation makes roles, schemas and tables: give it the URL of a "
            "superuser, or of the database's owner with CREATEROLE"
        ) from error
    except psycopg.Error as error:
        raise InstallationError(f"PostgreSQL refuses: {error}\n{_remedy(str(error))}") from error


_IN_BOTH = {
    "iif": "CASE WHEN … THEN … ELSE … END",
    "ifnull": "coalesce(…)",
    "glob": "LIKE",
    "instr": "LIKE",
    "strftime": "a column that the action fills in",
    "unixepoch": "a column that the action fills in",
}
"""What both databases take in place of what SQLite alone does."""


def _remedy(complaint: str) -> str:
    complaint = complaint.lower()
    found = [word for word in _IN_BOTH if re.search(rf"\b{word}\b", complaint)]
    instead = [f"in place of {word}, {_IN_BOTH[word]}" for word in found]
    both = "Nothing was changed. Write what SQLite and PostgreSQL both take"
    return ": ".join([both, *instead])


class _Installation:
    def __init__(self, connection: Connection[Any], app: Application, *, adopt: bool) -> None:
        self._connection = connection
        self._app = app
        self._adopts = adopt
        self._schema: Schema = read_schema("\n;\n".join(app.sources))
        self._tables = [ServerTable(table) for table in self._schema.tables.values()]

    def run(self) -> Installed:
        self._check_server()
        self._login = take_roles(self._connection)
        self._file("schema")
        seen = self._known_migrations()
        adoption = self._make_tables(seen)
        self._make_members()
        try:
            with self._connection.transaction():
                self._make_functions()
        except psycopg.errors.InvalidFunctionDefinition:
            self._file("forget")
            self._make_functions()
        self._make_policies()
        self._check()
        self._execute("SELECT synchrotron.copy_policies()")
        self._grant()
        adopted = adoption.take_rows() if adoption else Adopted({}, [])
        new = len(self._app.sources) - 1 if seen is None else len(self._app.sources) - 1 - seen
        return Installed(list(self._schema.tables), new, adopted)

    # ---- pieces -----------------------------------------------------------------------

    def _make_functions(self) -> None:
        """The functions, and the shadow tables that some of them write."""
        for name in ("rights", "exchange", "download", "upload", "retention"):
            self._file(name)
        self._make_shadows()
        self._file("shadow")
        for table in self._tables:
            for function in table.functions(self._schema):
                self._execute(function)

    def _check_server(self) -> None:
        if self._connection.info.server_version < POSTGRESQL_MIN:
            raise InstallationError("PostgreSQL 15 or later is needed: upgrade the server")
        [(database, encoding)] = self._execute(
            "SELECT current_database(), pg_catalog.current_setting('server_encoding')"
        )
        if encoding != "UTF8":
            raise InstallationError(
                f"the database {database} has the encoding {encoding}, which cannot hold every "
                "text: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
            )

    def _execute(self, statement: str, *parameters: Any) -> list[Any]:
        done = self._connection.execute(statement.encode(), parameters or None)
        return done.fetchall() if done.description else []

    def _file(self, name: str) -> None:
        self._connection.execute(script(name).encode())

    def _known_migrations(self) -> int | None:
        """How many migrations were run already; None at the first installation."""
        known = self._execute("SELECT name, sources FROM synchrotron.application")
        app = self._app
        self._execute(
            "INSERT INTO synchrotron.application AS a"
            " (name, sources, audiences, policies, version, fingerprint)"
            " VALUES (%s, %s, %s, %s, 1, %s) ON CONFLICT (single) DO UPDATE SET"
            " sources = excluded.sources, audiences = excluded.audiences,"
            " policies = excluded.policies, version = a.version + 1,"
            " fingerprint = excluded.fingerprint",
            app.name, list(app.sources), app.audiences, app.policies, fingerprint(self._schema),
        )  # fmt: skip
        if not known:
            return None
        [(name, sources)] = known
        if name != app.name:
            raise InstallationError(
                f"this database belongs to the application {name!r}: install {app.name!r} into "
                "a database of its own"
            )
        if sources != list(app.sources)[: len(sources)]:
            raise InstallationError(
                "the schema, or a migration, is another than the one that was installed: put it "
                "back as it was, and write what changed as one more migration"
            )
        return len(sources) - 1

    def _make_tables(self, seen: int | None) -> Adoption | None:
        """Run the schema's statements that are new; for tables that exist, their adoption."""
        sources = list(self._app.sources)[0 if seen is None else seen + 1 :]
        statements = [s for source in sources for s in ddl.split(source)]
        adoption = self._adopt(ddl.read(statement) for statement in statements)
        for statement in statements:
            self._run_statement(statement, adoption)
        if adoption:
            adoption.refer()
        self._index_foreign_keys()
        return adoption

    def _adopt(self, parts: Iterable[ddl.SchemaStatement]) -> Adoption | None:
        created = [part.name for part in parts if isinstance(part, ddl.CreateTable)]
        names = list(existing(self._connection, created))
        if not names:
            return None
        if not self._adopts:
            raise InstallationError(
                f"table {names[0]} exists already in this database, and not by an installation: "
                "install with --adopt to take it over with its rows, or rename or drop it"
            )
        statements = [s.text for source in self._app.sources for s in ddl.split(source)]
        adoption = Adoption(self._connection, self._schema, statements, self._login, names)
        adoption.conform()
        return adoption

    def _run_statement(self, statement: ddl.Statement, adoption: Adoption | None) -> None:
        part = ddl.read(statement)
        if adoption and adoption.has(part):
            return
        self._execute("SET LOCAL search_path = public")
        self._execute(server_statement(statement.text, self._schema))
        self._execute("SET LOCAL search_path = ''")
        if isinstance(part, ddl.CreateTable):
            self._execute(f"ALTER TABLE public.{quoted(part.name)} ENABLE ROW LEVEL SECURITY")

    def _index_foreign_keys(self) -> None:
        for table in self._schema.tables.values():
            for i, foreign_key in enumerate(table.foreign_keys):
                # A parent that goes is looked up among its children.
                self._execute(
                    f"CREATE INDEX IF NOT EXISTS {quoted(f'synchrotron_{table.name}_{i}'[:63])} "
                    f"ON public.{quoted(table.name)} ({listed(foreign_key.columns)})"
                )

    def _make_members(self) -> None:
        query = (self._app.audiences or "").strip().rstrip(";")
        if not query:
            query = "SELECT NULL::text AS user_id, NULL::text AS audience_key WHERE false"
        self._execute("SET LOCAL search_path = public")
        self._execute(
            "CREATE OR REPLACE VIEW synchrotron.members AS "
            'SELECT user_id::text AS user_id, audience_key::text COLLATE "C" AS audience '
            f"FROM ({query}\n) AS given WHERE user_id IS NOT NULL AND audience_key IS NOT NULL"
        )
        self._execute("SET LOCAL search_path = ''")

    def _make_shadows(self) -> None:
        self._execute("CREATE SCHEMA IF NOT EXISTS synchrotron_shadow")
        for table in self._tables:
            for statement in table.shadow_statements():
                self._execute(statement)

    # ---- policies ---------------------------------------------------------------------

    def _make_policies(self) -> None:
        self._drop_policies()
        before = self._policies()
        self._execute("SET LOCAL search_path = public")
        if self._app.policies and self._app.policies.strip():
            try:
                self._connection.execute(self._app.policies.encode())
            except psycopg.errors.InsufficientPrivilege:
                raise
            except psycopg.Error as error:
                raise InstallationError(
                    f"policies: PostgreSQL refuses: {error}\nNothing was changed."
                ) from error
        self._execute("SET LOCAL search_path = ''")
        for table, name in self._policies() - before:
            self._execute(
                sql.SQL("COMMENT ON POLICY {} ON public.{} IS {}")
                .format(sql.Identifier(name), sql.Identifier(table), sql.Literal(_MINE))
                .as_string(self._connection)
            )
        self._check_policies()
        for server_table in self._tables:
            self._make_default_policies(server_table)

    def _policies(self) -> set[tuple[str, str]]:
        rows = self._execute(
            "SELECT tablename, policyname FROM pg_catalog.pg_policies"
            " WHERE schemaname = 'public' AND tablename = ANY (%s)",
            list(self._schema.tables),
        )
        return set(rows)

    def _drop_policies(self) -> None:
        """Those that an earlier installation made; an operator's own stay."""
        made = self._execute(
            "SELECT c.relname, p.polname FROM pg_catalog.pg_policy AS p"
            " JOIN pg_catalog.pg_class AS c ON c.oid = p.polrelid"
            " WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY (%s)"
            " AND (starts_with(p.polname, 'synchrotron_')"
            "   OR pg_catalog.obj_description(p.oid, 'pg_policy') = %s)",
            list(self._schema.tables), _MINE,
        )  # fmt: skip
        for table, name in made:
            self._execute(f"DROP POLICY {quoted(name)} ON public.{quoted(table)}")

    def _check_policies(self) -> None:
        rows = self._execute(
            "SELECT tablename, policyname, cmd, roles::text[] FROM pg_catalog.pg_policies"
            " WHERE schemaname = 'public' AND tablename = ANY (%s)",
            list(self._schema.tables),
        )
        for table, name, command, roles in rows:
            where = f"policy {name} on {table}"
            if command not in _WRITES:
                raise InstallationError(
                    f"{where}: FOR {command}. Who may read a row is said by its audience alone; "
                    "use another audience, and FOR INSERT, UPDATE or DELETE here"
                )
            if roles != ["public"]:
                raise InstallationError(
                    f"{where}: TO {', '.join(roles)}. All users act under one role here: leave "
                    "TO out, and compare with synchrotron.user_id()"
                )

    def _make_default_policies(self, table: ServerTable) -> None:
        """Members may read and write, and whatever else the application says is stricter."""
        on = f"ON {table.live}"
        self._execute(
            f"CREATE POLICY synchrotron_readers {on} FOR SELECT USING "
            "(audience_key = ANY ((SELECT synchrotron.my_audiences())::text[]))"
        )
        given = self._execute(
            "SELECT DISTINCT cmd FROM pg_catalog.pg_policies WHERE schemaname = 'public'"
            " AND tablename = %s AND permissive = 'PERMISSIVE'",
            table.name,
        )
        for command, clause in _WRITES.items():
            name = command.lower()
            self._execute(
                f"CREATE POLICY synchrotron_members_{name} {on} AS RESTRICTIVE FOR {command} "
                f"{clause} ({_MEMBERS})"
            )
            if (command,) not in given:
                self._execute(
                    f"CREATE POLICY synchrotron_writers_{name} {on} FOR {command} {clause} (true)"
                )

    # ---- the catalogue ----------------------------------------------------------------

    def _check(self) -> None:
        for name, table in self._schema.tables.items():
            [(owner, secured, forced)] = self._execute(
                "SELECT pg_catalog.pg_get_userbyid(relowner), relrowsecurity, relforcerowsecurity"
                " FROM pg_catalog.pg_class WHERE oid = %s::regclass",
                f"public.{quoted(name)}",
            )
            if not secured:
                raise InstallationError(
                    f"table {name} has no row level security: "
                    f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY"
                )
            if owner != OWNER:
                raise InstallationError(
                    f"table {name} belongs to {owner}: ALTER TABLE {name} OWNER TO {OWNER}, "
                    "which folds its rows"
                )
            if forced:
                raise InstallationError(
                    f"table {name}: row level security is forced on {OWNER}, which folds its "
                    f"rows: ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY"
                )
            self._check_references(name)
            triggers = self._execute(
                "SELECT tgname FROM pg_catalog.pg_trigger"
                " WHERE tgrelid = %s::regclass AND NOT tgisinternal",
                f"public.{quoted(name)}",
            ) + self._execute(
                "SELECT rulename FROM pg_catalog.pg_rules"
                " WHERE schemaname = 'public' AND tablename = %s",
                name,
            )
            if triggers:
                raise InstallationError(
                    f"table {name} has the trigger or rule {triggers[0][0]}: what an action "
                    "writes must be all that happens to a synced table. DROP it, and let the "
                    "action do its work"
                )
            self._check_types(name, [column.name for column in table.all_columns])

    def _check_references(self, name: str) -> None:
        """A row is written as delete and insert: what refers to it must not follow at once."""
        for table, constraint in self._execute(
            "SELECT c.relname, conname FROM pg_catalog.pg_constraint"
            " JOIN pg_catalog.pg_class AS c ON c.oid = conrelid"
            " WHERE contype = 'f' AND confrelid = %s::regclass"
            " AND NOT (condeferrable AND condeferred AND confdeltype = 'a' AND confupdtype = 'a')"
            " ORDER BY 1, 2",
            f"public.{quoted(name)}",
        ):
            raise InstallationError(
                f"table {table}: its foreign key {constraint} refers to {name}, whose rows are "
                "deleted and inserted again when they change. Make it DEFERRABLE INITIALLY "
                "DEFERRED, without ON DELETE or ON UPDATE, or drop it"
            )

    def _check_types(self, name: str, columns: Sequence[str]) -> None:
        rows = self._execute(
            "SELECT attname, pg_catalog.format_type(atttypid, atttypmod)"
            " FROM pg_catalog.pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
            " AND NOT attisdropped",
            f"public.{quoted(name)}",
        )
        found = dict(rows)
        for column in columns:
            declared = self._schema.tables[name].column(column).type.declared
            [(wanted,)] = self._execute(
                "SELECT pg_catalog.format_type(%s::regtype, NULL)", declared.partition("(")[0]
            )
            given = str(found.pop(column, "missing"))
            if given.partition("(")[0] != wanted.partition("(")[0]:
                raise InstallationError(
                    f"table {name}, column {column}: it is {given} in this database, and "
                    f"{declared} in the schema. ALTER it back"
                )
        if found:
            raise InstallationError(
                f"table {name}: the database has the column {min(found)}, and the schema has not. "
                "Write a migration for it, or drop it"
            )

    def _grant(self) -> None:
        """What the server may do, and nothing more (H8)."""
        server = "synchrotron_server"
        for schema in ("synchrotron", "synchrotron_shadow", "public"):
            self._execute(f"GRANT USAGE ON SCHEMA {schema} TO {server}")
        self._execute("REVOKE ALL ON ALL FUNCTIONS IN SCHEMA synchrotron FROM PUBLIC")
        self._execute(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA synchrotron TO {server}")
        self._execute("REVOKE EXECUTE ON FUNCTION synchrotron.audiences_of(text) FROM PUBLIC")
        for name in (
            "actions",
            "patches",
            "targets",
            "scopes",
            "application",
            "counter",
            "app_tables",
        ):
            self._execute(f"GRANT SELECT ON synchrotron.{name} TO {server}")
        for table in self._tables:
            self._execute(f"GRANT SELECT, INSERT ON {table.live} TO {server}")
            self._execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table.shadow} TO {server}")
