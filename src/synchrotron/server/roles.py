"""The roles of an installation, and what its login needs to make and to use them.

No superuser is needed, since managed PostgreSQL gives nobody one: a login that may make roles
(CREATEROLE) and owns the database can do all of it. Where the roles are there already, as in
the second database of a cluster, being a member of synchrotron_owner is enough. Each right is
looked for before it is used, so that what is missing can be named with the statement that
gives it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from psycopg import Connection, errors

from synchrotron.errors import InstallationError
from synchrotron.server.scripts import script
from synchrotron.server.tables import quoted

OWNER = "synchrotron_owner"
SERVER = "synchrotron_server"


class Login(NamedTuple):
    """Who installs, and where."""

    role: str
    database: str
    makes_roles: bool


def take_roles(connection: Connection[Any]) -> Login:
    """Make the roles where they are missing, and go on as their owner until the commit.

    Raises `InstallationError`.
    """
    # Two installations into one database come one after another.
    connection.execute("SELECT pg_advisory_xact_lock(hashtext('synchrotron installation'))")
    login = Login(
        *_row(
            connection,
            "SELECT current_user, current_database(), rolsuper OR rolcreaterole"
            " FROM pg_catalog.pg_roles WHERE rolname = current_user",
        )
    )
    _make_roles(connection, login)
    # A maker of roles is a member since PostgreSQL 16, but not one that may act as the role.
    acts = "SET" if connection.info.server_version >= 160000 else "MEMBER"
    _ensure(
        connection,
        f"pg_has_role('{OWNER}', '{acts}')",
        f"GRANT {OWNER} TO {quoted(login.role)}",
        f"act as {OWNER}",
        f"GRANT {OWNER} TO {quoted(login.role)}",
    )
    create = f"GRANT CREATE ON DATABASE {quoted(login.database)} TO"
    _ensure(
        connection,
        f"has_database_privilege('{OWNER}', current_database(), 'CREATE')",
        f"{create} {OWNER}",
        f"let {OWNER} make schemas in this database, as the database's owner may",
        f"{create} {quoted(login.role)} WITH GRANT OPTION",
    )
    create = "GRANT USAGE, CREATE ON SCHEMA public TO"
    _ensure(
        connection,
        f"has_schema_privilege('{OWNER}', 'public', 'CREATE')"
        f" AND has_schema_privilege('{OWNER}', 'public', 'USAGE')",
        f"{create} {OWNER}",
        f"let {OWNER} make tables in the schema public, as the database's owner may",
        f"{create} {quoted(login.role)} WITH GRANT OPTION",
    )
    act_as_owner(connection)
    return login


def act_as_owner(connection: Connection[Any]) -> None:
    connection.execute(f"SET LOCAL ROLE {OWNER}".encode())


def act_as_login(connection: Connection[Any], login: Login) -> None:
    connection.execute(f"SET LOCAL ROLE {quoted(login.role)}".encode())


def _make_roles(connection: Connection[Any], login: Login) -> None:
    there = connection.execute(
        "SELECT rolname FROM pg_catalog.pg_roles WHERE rolname = ANY (%s)", ([OWNER, SERVER],)
    )
    missing = {OWNER, SERVER} - {name for (name,) in there}
    if missing and not login.makes_roles:
        raise InstallationError(
            f"the role {login.role} may not make roles, and {' and '.join(sorted(missing))} "
            f"must be made. An administrator gives it that right by "
            f"ALTER ROLE {quoted(login.role)} CREATEROLE"
        )
    connection.execute(script("roles").encode())


def _ensure(
    connection: Connection[Any], condition: str, grant: str, right: str, remedy: str
) -> None:
    """Grant what is missing. Raises `InstallationError`, which names the right and the remedy.

    The remedy names no role that an installation which is rolled back has made.
    """
    if _holds(connection, condition):
        return
    try:
        with connection.transaction():
            connection.execute(grant.encode())
    except (errors.InsufficientPrivilege, errors.UniqueViolation, errors.InternalError):
        # Said below, as where PostgreSQL only warns that nothing was granted; or another
        # installation in this cluster was granted the same at the same moment.
        pass
    if not _holds(connection, condition):
        [user] = _row(connection, "SELECT current_user")
        raise InstallationError(
            f"the role {user} may not {right}. An administrator gives that right by {remedy}"
        )


def _holds(connection: Connection[Any], condition: str) -> bool:
    [holds] = _row(connection, f"SELECT {condition}")
    return bool(holds)


def _row(connection: Connection[Any], statement: str) -> Any:
    row = connection.execute(statement.encode()).fetchone()
    assert row is not None
    return row
