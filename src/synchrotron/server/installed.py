"""The application that is installed in a database, as the server reads it from there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from psycopg import errors

from synchrotron.app.schema import Schema, read_schema
from synchrotron.errors import InstallationError
from synchrotron.server.database import Connection, fetch
from synchrotron.server.form import Form
from synchrotron.server.scripts import fingerprint
from synchrotron.server.tables import Defaults, ServerTable


class Installed:
    """What was installed, in one version."""

    def __init__(
        self,
        version: int,
        sources: Sequence[str],
        audiences: str | None,
        rights: Sequence[tuple[str, bool]],
        self_contained: Iterable[str],
    ) -> None:
        self.version = version
        self.migrations = len(sources) - 1
        self.schema: Schema = read_schema("\n;\n".join(sources))
        self.form = Form(self.schema)
        self.defaults = Defaults(self.schema)
        self.tables = {name: ServerTable(table) for name, table in self.schema.tables.items()}
        self.created_audiences = audiences is not None
        """Whether a user can be the first in an audience by writing in it (H7a)."""
        self.audience_tables = frozenset(name for name, for_policies in rights if not for_policies)
        self.policy_tables = frozenset(name for name, for_policies in rights if for_policies)
        self.self_contained = frozenset(self_contained)
        """The tables in which a new row is judged by itself, whatever else is written."""

    @property
    def rights_tables(self) -> frozenset[str]:
        """The tables that rights depend on: a change of these ends a set."""
        return self.audience_tables | self.policy_tables


async def read_installed(connection: Connection) -> Installed:
    """Raises `InstallationError`."""
    try:
        found = await fetch(
            connection,
            "SELECT version, sources, audiences, fingerprint FROM synchrotron.application",
        )
        rights = await fetch(
            connection, "SELECT name, for_policies FROM synchrotron.rights_tables()"
        )
        alone = await fetch(connection, "SELECT * FROM synchrotron.self_contained_tables()")
    except errors.Error as error:
        raise InstallationError(
            f"{error}. Install an application first: synchrotron install module:app --database URL"
        ) from error
    if not found:
        raise InstallationError(
            "no application is installed here: synchrotron install module:app --database URL"
        )
    await _check_role(connection)
    [(version, sources, audiences, made)] = found
    installed = Installed(version, sources, audiences, rights, [name for (name,) in alone])
    if made != fingerprint(installed.schema):
        raise InstallationError(
            "another version of Synchrotron installed this database: run synchrotron install "
            "module:app --database URL with the version that serves it"
        )
    return installed


async def _check_role(connection: Connection) -> None:
    """The server's role can do nothing more than it must (H8). Raises `InstallationError`."""
    [(is_super, bypasses, owns)] = await fetch(
        connection,
        "SELECT rolsuper, rolbypassrls, pg_catalog.pg_has_role(oid, 'synchrotron_owner', 'MEMBER')"
        " FROM pg_catalog.pg_roles WHERE rolname = current_user",
    )
    if is_super or bypasses or owns:
        raise InstallationError(
            "the role synchrotron_server is a superuser, bypasses row level security or is a "
            "member of synchrotron_owner: take that from it, or policies would not hold"
        )
    writable = await fetch(
        connection,
        "SELECT name FROM synchrotron.app_tables WHERE pg_catalog.has_table_privilege("
        "live, 'UPDATE, DELETE, TRUNCATE')",
    )
    readonly = await fetch(
        connection,
        "SELECT name FROM synchrotron.app_tables"
        " WHERE NOT pg_catalog.has_table_privilege(live, 'INSERT')",
    )
    if readonly:
        raise InstallationError(
            f"the role synchrotron_server may not insert into {readonly[0][0]}: "
            f"GRANT INSERT ON {readonly[0][0]} TO synchrotron_server"
        )
    if writable:
        raise InstallationError(
            f"the role synchrotron_server may write {writable[0][0]} directly: REVOKE UPDATE, "
            f"DELETE, TRUNCATE ON {writable[0][0]} FROM synchrotron_server and PUBLIC"
        )
