"""An application: its schema, its audiences and its actions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

import apsw

from synchrotron.app.action import Action, Templates
from synchrotron.app.context import Context
from synchrotron.app.ddl import NEW_ID
from synchrotron.app.extension import sqlalchemy_extension
from synchrotron.app.local import Local, read_local
from synchrotron.app.migrations import joined, read_sources
from synchrotron.app.schema import Schema, read_schema
from synchrotron.app.undo import RESERVED, UNDO, is_foreign, undo_action
from synchrotron.core.records import ActionRecord
from synchrotron.errors import ActionDefinitionError, SchemaError

if TYPE_CHECKING:
    from sqlalchemy import MetaData

P = ParamSpec("P")
R = TypeVar("R")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")


class Register(Protocol):
    """Turns a function into a registered action."""

    def __call__(self, function: Callable[Concatenate[Context, P], R], /) -> Action[P, R]: ...


class Definition:
    """What an author writes, checked when it is written.

    `schema` is SQL that SQLite and PostgreSQL both take, or a SQLAlchemy `MetaData`, which
    holds also what `migrations` add. `audiences` is a query giving
    `user_id, audience_key`; without it every user has exactly the audience
    `user:<user>`. `policies` are PostgreSQL policies for the server. `migrations` are
    additive SQL, run in order, each once: what is written already stays as it is. `local`
    are tables, FTS5 indexes and triggers that only this replica has. Raises `SchemaError`.
    """

    def __init__(
        self,
        name: str,
        *,
        schema: str | MetaData,
        audiences: str | None = None,
        policies: str | None = None,
        migrations: Sequence[str] = (),
        local: str = "",
    ) -> None:
        if not _NAME.fullmatch(name):
            raise SchemaError(
                f"{name!r} cannot name an application: use lower-case letters, digits, - and _"
            )
        self.name = name
        if isinstance(migrations, str):
            raise SchemaError("migrations are a list of scripts: write [script] for a single one")
        self.migrations = tuple(migrations)
        if not isinstance(schema, str):
            schema = str(sqlalchemy_extension().adopt(schema, self.migrations))
        self.sources = (schema, *self.migrations)
        self.schema: Schema = read_sources(schema, self.migrations)
        self.audiences = audiences
        self.audience_tables = (
            _audience_tables(self.schema, audiences) if audiences else frozenset()
        )
        self.policies = policies
        self.local: Local = read_local(local, self.schema)
        self.actions: dict[tuple[str, int], Action[Any, Any]] = {}
        self.undo = undo_action(self.schema)
        self.built_in: dict[tuple[str, int], Action[Any, Any]] = {
            (self.undo.name, self.undo.version): self.undo
        }

    def action_of(self, record: ActionRecord) -> Action[Any, Any] | None:
        """The code that ran a record; None where this version lacks it (S10, S11)."""
        found = (record.name, record.version)
        if record.name == UNDO and is_foreign(self.schema, record.args):
            return None
        return self.actions.get(found) or self.built_in.get(found)

    def schema_after(self, migrations: int) -> Schema:
        """The schema as it was after the first so many migrations."""
        return read_schema(joined(self.sources[0], self.migrations[:migrations]))

    def migration_statements(self, seen: int) -> tuple[str, ...]:
        """What SQLite runs for the migrations after the first `seen`."""
        before = self.schema_after(seen)
        # A row from before an ADD COLUMN does not hold the column, and the preupdate hook
        # makes up its default in another type than SELECT: so each such row is written anew.
        rewrites = tuple(
            f"UPDATE {name} SET {column.name} = {column.name}"
            for name, table in before.tables.items()
            for column in self.schema.tables[name].columns[len(table.columns) :][:1]
        )
        return self.schema.statements[len(before.statements) :] + rewrites

    @overload
    def action(self, function: Callable[Concatenate[Context, P], R], /) -> Action[P, R]: ...

    @overload
    def action(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        version: int = 1,
        audience: Templates | None = None,
    ) -> Register: ...

    def action(
        self,
        function: Any = None,
        /,
        *,
        name: str | None = None,
        version: int = 1,
        audience: Templates | None = None,
    ) -> Any:
        """Register a function as an action; usable with and without arguments.

        `audience` is a template over the action's arguments (`"project:{project_id}"`), a
        list of templates, or a function of the arguments. Raises `ActionDefinitionError`.
        """

        def register(function: Callable[..., Any]) -> Action[Any, Any]:
            action = Action[Any, Any](function, name=name, version=version, audience=audience)
            if action.name.startswith(RESERVED):
                raise ActionDefinitionError(
                    f"{action.title}: names in {RESERVED} are reserved; take another one"
                )
            if (action.name, action.version) in self.actions:
                raise ActionDefinitionError(
                    f"{action.title} is defined twice: give the new one a version of its own"
                )
            self.actions[action.name, action.version] = action
            return action

        return register if function is None else register(function)


def _audience_tables(schema: Schema, query: str) -> frozenset[str]:
    """Check the audiences query; give the tables that it reads."""
    trial = apsw.Connection(":memory:")
    trial.create_scalar_function(NEW_ID, lambda *_: "")
    for statement in schema.statements:
        trial.execute(statement)
    read: set[str] = set()

    def watch(op: int, table: str | None, *_: str | None) -> int:
        if op == apsw.SQLITE_READ and table in schema.tables:
            read.add(table)
        return apsw.SQLITE_OK

    try:
        trial.execute(f"CREATE TEMP VIEW audiences AS {query.strip().rstrip(';')}")
        names = [row[1] for row in trial.execute("PRAGMA temp.table_info(audiences)")]
        trial.authorizer = watch
        trial.execute("SELECT * FROM temp.audiences")
    except apsw.Error as error:
        raise SchemaError(f"audiences: SQLite refuses the query: {error}") from error
    finally:
        trial.authorizer = None
        trial.close()
    if sorted(names) != ["audience_key", "user_id"]:
        raise SchemaError(
            f"audiences: the query must give the columns user_id and audience_key, not {names}"
        )
    return frozenset(read)
